//! Terminals of a container's own devpts.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Uid, fchown, openat};
use rustix::termios::{Winsize, tcsetwinsize};

use super::error::{ContainerError, During, Stage};

/// Opens a new terminal in the devpts whose root is `pts`; it belongs to `uid`. Gives its master and its peer.
pub(super) fn open(pts: &OwnedFd, uid: u32) -> Result<(OwnedFd, OwnedFd), ContainerError> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = openat(pts, "ptmx", flags, Mode::empty()).during(Stage::Terminal, "/dev/pts/ptmx")?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which lives for the call.
    let unlocked = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, std::ptr::from_ref(&unlock)) };
    if unlocked != 0 {
        return Err(io::Error::last_os_error()).during(Stage::Terminal, "/dev/pts/ptmx");
    }
    // SAFETY: TIOCGPTPEER takes open flags and gives a new descriptor, which nobody else owns.
    let peer = unsafe {
        let fd = libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error()).during(Stage::Terminal, "its peer");
        }
        OwnedFd::from_raw_fd(fd)
    };
    fchown(&peer, Some(Uid::from_raw(uid)), None).during(Stage::Terminal, "its owner")?;
    Ok((master, peer))
}

/// Sets the size of a terminal; its foreground processes get SIGWINCH.
///
/// # Errors
/// `ENOTTY` when `terminal` is none.
pub fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}
