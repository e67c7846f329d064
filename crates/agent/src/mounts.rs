//! The file systems of the guest, and the way off the initramfs.

use std::{fs, io, path::Path};

use rustix::{
    fs::Mode,
    io::Errno,
    mount::{MountFlags, mount, mount_move},
    process::{chdir, chroot},
};

/// Where the new root is put together before the switch.
const NEW_ROOT: &str = "/root.new";

/// A mount that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {what} at {at}: {source}")]
pub struct MountError {
    /// Type of the file system.
    pub what: &'static str,
    /// Mount point.
    pub at: String,
    /// The kernel's answer.
    pub source: io::Error,
}

/// Mounts the kernel's file systems under a small tmpfs at [`NEW_ROOT`]. Until [`switch_root`] the initramfs stays `/`.
pub fn prepare() -> Result<(), MountError> {
    let private = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    attach("tmpfs", NEW_ROOT, MountFlags::NOSUID | MountFlags::NODEV, "size=1m,mode=0755")?;
    attach("devtmpfs", &under("dev"), MountFlags::NOSUID | MountFlags::NOEXEC, "mode=0755")?;
    attach("proc", &under("proc"), private, "")?;
    attach("sysfs", &under("sys"), private, "")?;
    attach("tmpfs", &under("run"), MountFlags::NOSUID | MountFlags::NODEV, "mode=0755")?;
    attach("cgroup2", &under("sys/fs/cgroup"), private, "")
}

/// Makes the tmpfs of [`prepare`] the root, after removing what lies on the initramfs except the agent itself: from a
/// mounted root, `pivot_root` works for containers, which it does not from the initramfs.
pub fn switch_root() -> Result<(), MountError> {
    let failed = |source: Errno| MountError { what: "root", at: "/".into(), source: source.into() };
    // The memory of module files comes back; a leftover does no harm.
    let _ = fs::remove_dir_all("/lib");
    chdir(NEW_ROOT).map_err(failed)?;
    mount_move(".", "/").map_err(failed)?;
    chroot(".").map_err(failed)?;
    chdir("/").map_err(failed)
}

/// Mounts configfs, which TSM reports need, at `/sys/kernel/config`.
pub fn configfs() -> Result<(), MountError> {
    attach("configfs", "/sys/kernel/config", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")
}

/// Path of a mount point before the switch.
pub fn under(path: &str) -> String {
    format!("{NEW_ROOT}/{path}")
}

fn attach(what: &'static str, at: &str, flags: MountFlags, data: &str) -> Result<(), MountError> {
    let failed = |source: Errno| MountError { what, at: at.to_owned(), source: source.into() };
    if !Path::new(at).is_dir() {
        rustix::fs::mkdir(at, Mode::from_raw_mode(0o755)).map_err(failed)?;
    }
    let data = std::ffi::CString::new(data).unwrap_or_default();
    mount(what, at, what, flags, Some(data.as_c_str())).map_err(failed)
}
