//! Files of the agent's making in a container: `/etc/hosts` and the like. They lie on one small memory file system and appear one by one,
//! read-only, over what the image has.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::GeneratedFile;
use super::error::{ContainerError, During, Stage};
use super::inside::Inside;
use super::rootfs::{BASE, NOTHING, attach, make, set_attributes};

/// Places the files. The calling thread's root is not the container's yet.
pub(super) fn place(inside: &Inside, files: &[GeneratedFile]) -> Result<(), ContainerError> {
    if files.is_empty() {
        return Ok(());
    }
    let pages: usize = files.iter().map(|file| file.content.len().div_ceil(4096)).sum();
    let size = pages.saturating_add(files.len()).saturating_mul(4096).to_string();
    let inodes = files.len().saturating_add(2).to_string();
    let store = make("tmpfs", &[("size", size.as_str()), ("nr_inodes", &inodes), ("mode", "0755")], NOTHING)?;
    // A clone of a mount can only be made from one that is attached, so it stands below the root's base until that is left.
    let at = format!("{BASE}/generated");
    mkdirat(CWD, &at, Mode::from_raw_mode(0o700)).during(Stage::Mount, &at)?;
    attach(&store, CWD, &at)?;
    for (index, file) in files.iter().enumerate() {
        one(inside, &store, &index.to_string(), &file.path, &file.content)?;
    }
    Ok(())
}

fn one(
    inside: &Inside,
    store: &std::os::fd::OwnedFd,
    name: &str,
    path: &Path,
    content: &[u8],
) -> Result<(), ContainerError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file: File =
        openat(store, name, flags, Mode::from_raw_mode(0o644)).during(Stage::Mount, path.display())?.into();
    file.write_all(content).during(Stage::Mount, path.display())?;
    drop(file);
    let target = inside.well_known_file(path)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(store, name, clone).during(Stage::Mount, path.display())?;
    set_attributes(&mount, NOTHING | MountAttrFlags::MOUNT_ATTR_RDONLY).during(Stage::Mount, path.display())?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, "", &target, "", empty).during(Stage::Mount, path.display())
}
