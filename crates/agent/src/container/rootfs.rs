//! The container's root file system, put together in a mount namespace that only the calling thread is in.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, fchown, fstat, makedev, mkdirat, mknodat, openat, symlinkat,
};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, pivot_root, umask};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use belljar_contract::ResolvedUser;

use super::error::{ContainerError, During, Stage};
use super::inside::{Inside, is_there};
use super::plan::{Kind, Plan, PlannedMount, malformed};
use super::{Additions, Bind, SecretFile, generated};

/// Where the thread works. In its own mount namespace it covers the agent's `/dev`, which no container gets to see.
pub(super) const BASE: &str = "/dev";
pub(super) const NOTHING: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// What is left to do in the child, and what only its root file system knows.
pub(super) struct Ready {
    pub user: ResolvedUser,
    /// Master and peer of the container's terminal.
    pub terminal: Option<(OwnedFd, OwnedFd)>,
    /// The file [`super::TERMINATION_LOG`].
    pub message: OwnedFd,
}

/// Gives the calling thread namespaces of its own, builds the root in them and makes it the thread's root. The thread must end soon
/// after; secrets are wiped from memory before this returns.
pub(super) fn build(
    plan: &Plan,
    layers: &[PathBuf],
    scratch_bytes: u64,
    Additions { secrets, generated, mut binds, sysctls }: Additions,
) -> Result<Ready, ContainerError> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: none of these flags unshares the file descriptor table, which is what makes `unshare` unsafe.
    unsafe { unshare_unsafe(flags) }.during(Stage::Namespace, "mount, ipc, uts")?;
    let _ = umask(Mode::empty());
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).during(Stage::Namespace, "mount")?;
    rustix::system::sethostname(plan.hostname.as_bytes()).during(Stage::Namespace, "uts")?;

    crate::sysctl::apply(&sysctls)?;

    let root = overlay(layers, scratch_bytes)?;
    let inside = Inside::new(root, Path::new(BASE).join("rootfs"));
    // Before anything is mounted over the verified layers: nobody but the image says who a name is.
    let user = plan.user.resolve(&inside.read(Path::new("/etc/passwd"))?, &inside.read(Path::new("/etc/group"))?)?;
    for mount in &plan.mounts {
        match mount.kind {
            Kind::Bind => attach_bind(&inside, mount, &mut binds)?,
            _ => attach_planned(&inside, mount)?,
        }
    }
    if let Some(bind) = binds.first() {
        return Err(malformed("mounts", "a bind mount for each volume", &bind.destination.display()));
    }
    let message = devices(&inside)?;
    inside.own_place_or_existing(&plan.cwd)?;
    generated::place(&inside, &generated)?;
    place_secrets(&inside, secrets, &user)?;
    let terminal = if plan.terminal { Some(terminal(&inside, &user)?) } else { None };
    if plan.read_only_root {
        set_attributes(inside.root(), MountAttrFlags::MOUNT_ATTR_RDONLY).during(Stage::ReadOnly, "/")?;
    }
    enter(inside.root())?;
    Ok(Ready { user, terminal, message })
}

impl Inside {
    /// The working directory: any existing directory will do, a missing one is made as root, as Docker does.
    fn own_place_or_existing(&self, path: &Path) -> Result<(), ContainerError> {
        match path.starts_with("/proc") || path.starts_with("/sys") || path.starts_with("/dev") {
            true => Ok(()),
            false => self.own_place(path).map(drop),
        }
    }
}

/// The layers below, a bounded memory file system on top.
fn overlay(layers: &[PathBuf], scratch_bytes: u64) -> Result<OwnedFd, ContainerError> {
    let base = make("tmpfs", &[("size", "65536"), ("mode", "0700")], NOTHING)?;
    attach(&base, CWD, BASE)?;
    for directory in ["scratch", "rootfs"] {
        mkdirat(&base, directory, Mode::from_raw_mode(0o700)).during(Stage::Overlay, directory)?;
    }
    // One inode for each page that fits, and some for directories: empty files cost memory, too.
    let (size, inodes) = (scratch_bytes.to_string(), (scratch_bytes / 4096).saturating_add(1024).to_string());
    let scratch = make("tmpfs", &[("size", &size), ("nr_inodes", &inodes), ("mode", "0700")], MountAttrFlags::empty())?;
    for directory in ["upper", "work"] {
        mkdirat(&scratch, directory, Mode::from_raw_mode(0o755)).during(Stage::Overlay, directory)?;
    }
    attach(&scratch, &base, "scratch")?;

    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).during(Stage::Overlay, "/")?;
    let set =
        |key: &str, value: &Path| fsconfig_set_string(&context, key, value).during(Stage::Overlay, value.display());
    for layer in topmost(layers) {
        set("lowerdir+", layer)?;
    }
    let scratch = Path::new(BASE).join("scratch");
    set("upperdir", &scratch.join("upper"))?;
    set("workdir", &scratch.join("work"))?;
    fsconfig_create(&context).during(Stage::Overlay, "/")?;
    // Device nodes that an image brings (or a container makes) outside `/dev` open nothing: there are no device rules.
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
        .during(Stage::Overlay, "/")?;
    attach(&root, &base, "rootfs")?;
    Ok(root)
}

/// The layers from the highest down, each once: overlayfs refuses a directory that stands twice (`ELOOP`), as equal layers do,
/// and a layer adds nothing to what it also says above (empty layers are common).
fn topmost(layers: &[PathBuf]) -> Vec<&PathBuf> {
    let mut seen = HashSet::new();
    layers.iter().rev().filter(|layer| seen.insert(*layer)).collect()
}

fn attach_planned(inside: &Inside, mount: &PlannedMount) -> Result<(), ContainerError> {
    let destination = &mount.destination;
    let fixed = ["/proc", "/sys", "/dev"].iter().any(|place| destination.starts_with(place));
    let target = if fixed { inside.kernel_place(destination)? } else { inside.own_place(destination)? };
    if mount.kind.in_child() {
        return Ok(());
    }
    let data: Vec<(&str, &str)> =
        mount.data.iter().map(|(key, value)| (key.as_str(), value.as_deref().unwrap_or_default())).collect();
    let made = make(mount.kind.name(), &data, mount.flags)?;
    move_mount(
        &made,
        "",
        &target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .during(Stage::Mount, format!("{} at {}", mount.kind.name(), destination.display()))
}

/// A file or directory of the agent's, at its place.
fn attach_bind(inside: &Inside, mount: &PlannedMount, binds: &mut Vec<Bind>) -> Result<(), ContainerError> {
    let destination = &mount.destination;
    let Some(at) = binds.iter().position(|bind| bind.destination == *destination) else {
        return Err(malformed("mounts", "a volume for each bind mount", &destination.display()));
    };
    let Bind { tree, .. } = binds.swap_remove(at);
    let directory = FileType::from_raw_mode(fstat(&tree).during(Stage::Mount, destination.display())?.st_mode);
    let target = match directory {
        FileType::Directory => inside.own_place(destination)?,
        _ => inside.file(destination)?,
    };
    set_attributes(&tree, mount.flags).during(Stage::Mount, destination.display())?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", &target, "", empty).during(Stage::Mount, destination.display())
}

/// The nodes and links that the OCI runtime specification ("Default Devices", "/dev symbolic links") promises to each program. Gives
/// the file for the termination message, which everybody in the container may write, as kubelet makes it.
fn devices(inside: &Inside) -> Result<OwnedFd, ContainerError> {
    let dev = inside.kernel_place(Path::new("/dev"))?;
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        mknodat(&dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, minor))
            .during(Stage::Device, name)?;
    }
    mknodat(&dev, "tty", FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(5, 0))
        .during(Stage::Device, "tty")?;
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ];
    for (target, name) in links {
        if !is_there(&dev, name) {
            symlinkat(target, &dev, name).during(Stage::Device, name)?;
        }
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    openat(&dev, "termination-log", flags, Mode::from_raw_mode(0o666)).during(Stage::Device, "termination-log")
}

/// Writes each secret to one memory file system and mounts its files, one by one, where they belong.
fn place_secrets(inside: &Inside, secrets: Vec<SecretFile>, user: &ResolvedUser) -> Result<(), ContainerError> {
    if secrets.is_empty() {
        return Ok(());
    }
    let pages: usize = secrets.iter().map(|secret| secret.content.len().div_ceil(4096)).sum();
    let size = pages.saturating_add(secrets.len()).saturating_mul(4096).to_string();
    let inodes = secrets.len().saturating_add(2).to_string();
    let options = [("size", size.as_str()), ("nr_inodes", &inodes), ("mode", "0700"), ("noswap", "")];
    let store = make("tmpfs", &options, NOTHING)?;
    // A clone of a mount can only be made from one that is attached, so it stands below the root's base until that is left.
    mkdirat(CWD, format!("{BASE}/secrets"), Mode::from_raw_mode(0o700)).during(Stage::Secret, "its file system")?;
    attach(&store, CWD, &format!("{BASE}/secrets"))?;
    for (index, secret) in secrets.into_iter().enumerate() {
        let subject = secret.path.display().to_string();
        let name = index.to_string();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file: File =
            openat(&store, &name, flags, Mode::from_raw_mode(0o600)).during(Stage::Secret, &subject)?.into();
        file.write_all(&secret.content).during(Stage::Secret, &subject)?;
        let owner = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        fchown(&file, Some(owner.0), Some(owner.1)).during(Stage::Secret, &subject)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(secret.mode & 0o777)).during(Stage::Secret, &subject)?;
        drop(file);
        let target = inside.file(&secret.path)?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(&store, &name, clone).during(Stage::Secret, &subject)?;
        set_attributes(&mount, NOTHING | MountAttrFlags::MOUNT_ATTR_RDONLY).during(Stage::Secret, &subject)?;
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount, "", &target, "", empty).during(Stage::Secret, &subject)?;
        // `secret` ends here, and its bytes are wiped.
    }
    Ok(())
}

/// A terminal of the container's own devpts, also at `/dev/console`.
fn terminal(inside: &Inside, user: &ResolvedUser) -> Result<(OwnedFd, OwnedFd), ContainerError> {
    let pts = inside.kernel_place(Path::new("/dev/pts"))?;
    let (master, peer) = super::terminal::open(&pts, user.uid)?;
    let dev = inside.kernel_place(Path::new("/dev"))?;
    mknodat(&dev, "console", FileType::RegularFile, Mode::from_raw_mode(0o600), 0)
        .during(Stage::Terminal, "/dev/console")?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    // The first terminal of a new devpts is number 0.
    let mount = open_tree(&pts, "0", clone).during(Stage::Terminal, "/dev/console")?;
    move_mount(&mount, "", &dev, "console", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .during(Stage::Terminal, "/dev/console")?;
    Ok((master, peer))
}

/// Makes the new root the thread's root; everything else leaves the mount namespace.
fn enter(root: &OwnedFd) -> Result<(), ContainerError> {
    rustix::process::fchdir(root).during(Stage::PivotRoot, "the container's")?;
    // The old root comes to lie on the new one, and is detached with all that is mounted in it.
    pivot_root(".", ".").during(Stage::PivotRoot, "the container's")?;
    unmount(".", UnmountFlags::DETACH).during(Stage::PivotRoot, "the container's")?;
    chdir("/").during(Stage::PivotRoot, "the container's")
}

/// A new file system instance, attached nowhere.
pub(super) fn make(kind: &str, options: &[(&str, &str)], flags: MountAttrFlags) -> Result<OwnedFd, ContainerError> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).during(Stage::Mount, kind)?;
    fsconfig_set_string(&context, "source", kind).during(Stage::Mount, kind)?;
    for (key, value) in options {
        let result = match *value {
            "" => fsconfig_set_flag(&context, *key),
            value => fsconfig_set_string(&context, *key, value),
        };
        result.during(Stage::Mount, format!("{kind} with {key}={value}"))?;
    }
    fsconfig_create(&context).during(Stage::Mount, kind)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).during(Stage::Mount, kind)
}

pub(super) fn attach(mount: &OwnedFd, directory: impl AsFd, at: &str) -> Result<(), ContainerError> {
    move_mount(mount, "", directory, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during(Stage::Mount, at)
}

/// Adds attributes to one mount (mount_setattr(2)).
pub(super) fn set_attributes(mount: &OwnedFd, flags: MountAttrFlags) -> std::io::Result<()> {
    let attributes = libc::mount_attr { attr_set: u64::from(flags.bits()), attr_clr: 0, propagation: 0, userns_fd: 0 };
    let empty: &CStr = c"";
    // SAFETY: the path is a C string, and `attributes` is a `struct mount_attr` of the size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            empty.as_ptr(),
            AtFlags::EMPTY_PATH.bits(),
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_layers_the_highest_stays() {
        let layers = ["a", "b", "a", "c", "b"].map(PathBuf::from);
        assert_eq!(topmost(&layers), ["b", "c", "a"].map(PathBuf::from).iter().collect::<Vec<_>>());
        assert_eq!(topmost(&layers[..2]), ["b", "a"].map(PathBuf::from).iter().collect::<Vec<_>>());
    }
}
