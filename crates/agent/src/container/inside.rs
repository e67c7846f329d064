//! Paths inside the container's root file system, before the container runs.
//!
//! Every look-up is one `openat2` from the root's descriptor with `RESOLVE_IN_ROOT`, so that no symbolic link and no `..` of
//! the image leads out of it, and `RESOLVE_NO_MAGICLINKS`. Nothing of the container runs yet, so nothing changes between look-ups.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlink, unlinkat};
use rustix::io::Errno;

use super::error::{ContainerError, During, Stage};

/// Largest file of the image that the runtime itself reads.
const MAX_READ: u64 = 1 << 20;
/// Places that the kernel fills.
const KERNEL_PLACES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The root of the container.
pub(super) struct Inside {
    root: OwnedFd,
    /// Where it stands in the mount namespace of the calling thread.
    at: PathBuf,
}

impl Inside {
    pub fn new(root: OwnedFd, at: PathBuf) -> Self {
        Self { root, at }
    }

    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The directory at `path`, made where it is missing. A symbolic link on the way is refused.
    pub fn kernel_place(&self, path: &Path) -> Result<OwnedFd, ContainerError> {
        self.directory(path, ResolveFlags::NO_SYMLINKS)
    }

    /// The directory at `path`, made where it is missing. Symbolic links are followed inside the root, but not to `/proc`, `/sys`
    /// or `/dev`.
    pub fn own_place(&self, path: &Path) -> Result<OwnedFd, ContainerError> {
        let found = self.directory(path, ResolveFlags::empty())?;
        self.not_in_kernel_places(path, &found)?;
        Ok(found)
    }

    /// The regular file at `path`, made empty where it is missing, as a mount point for a file.
    pub fn file(&self, path: &Path) -> Result<OwnedFd, ContainerError> {
        let refused = |found| ContainerError::MountPoint { path: text(path), needed: "file", found };
        let found = match self.open(path, OFlags::PATH, ResolveFlags::empty()) {
            Ok(found) => found,
            Err(Errno::NOENT) => {
                let parent = self.own_place(path.parent().unwrap_or(Path::new("/")))?;
                let name = path.file_name().ok_or_else(|| refused("a directory"))?;
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(&parent, name, flags, Mode::from_raw_mode(0o400)) {
                    Ok(_) => {
                        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                        openat(&parent, name, flags, Mode::empty()).during(Stage::Secret, path.display())?
                    }
                    Err(Errno::EXIST) => return Err(refused("a symbolic link that leads nowhere")),
                    Err(error) => return Err(error).during(Stage::Secret, path.display()),
                }
            }
            Err(Errno::LOOP) => return Err(refused("a symbolic link that leads nowhere")),
            Err(error) => return Err(error).during(Stage::Secret, path.display()),
        };
        match FileType::from_raw_mode(fstat(&found).during(Stage::Secret, path.display())?.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(refused("a directory")),
            _ => return Err(refused("a device, socket or pipe")),
        }
        self.not_in_kernel_places(path, &found)?;
        Ok(found)
    }

    /// As [`Inside::file`], for a file that programs look for under this very name: where a symbolic link leads nowhere (to what another
    /// program would make at the start of a whole system), the file takes its place.
    pub fn well_known_file(&self, path: &Path) -> Result<OwnedFd, ContainerError> {
        let link = self.open(path, OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::empty());
        let nowhere = |found: &OwnedFd| {
            fstat(found).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
                && matches!(
                    self.open(path, OFlags::PATH, ResolveFlags::empty()),
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                )
        };
        if link.is_ok_and(|found| nowhere(&found)) {
            let parent = self.own_place(path.parent().unwrap_or(Path::new("/")))?;
            let name = path.file_name().unwrap_or_default();
            unlinkat(&parent, name, AtFlags::empty()).during(Stage::Mount, path.display())?;
        }
        self.file(path)
    }

    /// Text of a regular file of the image; empty when there is none.
    pub fn read(&self, path: &Path) -> Result<String, ContainerError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.open(path, flags, ResolveFlags::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
            Err(error) => return Err(error).during(Stage::Read, path.display()),
        };
        let meta = fstat(&file).during(Stage::Read, path.display())?;
        let size = u64::try_from(meta.st_size).unwrap_or(u64::MAX);
        if FileType::from_raw_mode(meta.st_mode) != FileType::RegularFile || size > MAX_READ {
            return Err(Errno::FBIG).during(Stage::Read, path.display());
        }
        let mut bytes = Vec::new();
        File::from(file).take(MAX_READ).read_to_end(&mut bytes).during(Stage::Read, path.display())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn directory(&self, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, ContainerError> {
        let refused = |at: &Path, found| ContainerError::MountPoint { path: text(at), needed: "directory", found };
        let mut so_far = PathBuf::from("/");
        let mut current = self.open(&so_far, OFlags::PATH | OFlags::DIRECTORY, resolve).during(Stage::Mount, "/")?;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            so_far.push(name);
            let open = || self.open(&so_far, OFlags::PATH | OFlags::DIRECTORY, resolve);
            current = match open() {
                Ok(found) => found,
                Err(Errno::NOENT) => match mkdirat(&current, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => open().during(Stage::Mount, so_far.display())?,
                    Err(Errno::EXIST) => return Err(refused(&so_far, "a symbolic link that leads nowhere")),
                    Err(error) => return Err(error).during(Stage::Mount, so_far.display()),
                },
                Err(Errno::LOOP) => return Err(refused(&so_far, "a symbolic link")),
                Err(Errno::NOTDIR) => return Err(refused(&so_far, "something else")),
                Err(error) => return Err(error).during(Stage::Mount, so_far.display()),
            };
        }
        Ok(current)
    }

    fn open(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Refuses what a symbolic link has led to a place where the kernel's file systems hide it or give it a meaning.
    fn not_in_kernel_places(&self, path: &Path, found: &OwnedFd) -> Result<(), ContainerError> {
        let link = format!("/proc/thread-self/fd/{}", found.as_fd().as_raw_fd());
        let real = readlink(&link, Vec::new()).during(Stage::Mount, path.display())?;
        let real = PathBuf::from(String::from_utf8_lossy(real.as_bytes()).into_owned());
        let real = Path::new("/").join(real.strip_prefix(&self.at).unwrap_or(&real));
        if KERNEL_PLACES.iter().any(|place| real.starts_with(place)) {
            let found = "a symbolic link to /proc, /sys or /dev";
            return Err(ContainerError::MountPoint { path: text(path), needed: "place of its own", found });
        }
        Ok(())
    }
}

/// Whether `name` in `directory` is there, without following it.
pub(super) fn is_there(directory: &OwnedFd, name: &str) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
