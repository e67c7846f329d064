//! Advisory file locks (flock) with an end to waiting. The kernel lets go of them when a process ends, however it ends.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Between two looks at a lock that another holds.
const LOOK: Duration = Duration::from_millis(10);

/// Takes the lock of a file, which is made when it is not there; the lock is held until the file is dropped. `None`
/// when another held it for the whole time.
///
/// What the name leads to must be a file of its own: through a symbolic link, whoever may write into the folder would have
/// us make and write files elsewhere.
///
/// Lock files are never removed: two processes would otherwise lock two files of one name.
pub(crate) async fn exclusive(file: &Path, patience: Duration) -> io::Result<Option<File>> {
    let opened = open(file)?;
    let end = tokio::time::Instant::now().checked_add(patience);
    loop {
        match opened.try_lock() {
            Ok(()) => return Ok(Some(opened)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if end.is_none_or(|end| tokio::time::Instant::now() >= end) {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)).map_err(|error| match error {
        Errno::LOOP => io::Error::other("it is a symbolic link, remove it"),
        other => other.into(),
    })?;
    regular(File::from(opened))
}

/// The file, when it is one: reading from a pipe would last until somebody writes into it.
pub(crate) fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file, remove it")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_lock_is_a_file_and_no_way_to_another() {
        let folder = tempfile::tempdir().unwrap();
        let (lock, other) = (folder.path().join("a.lock"), folder.path().join("other"));
        let held = exclusive(&lock, SOON).await.unwrap();
        assert!(held.is_some() && exclusive(&lock, SOON).await.unwrap().is_none());
        drop(held);
        assert!(exclusive(&lock, SOON).await.unwrap().is_some());
        // Whoever may write into the folder cannot have us make, lock or write a file elsewhere.
        let link = folder.path().join("b.lock");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        assert!(exclusive(&link, SOON).await.is_err());
        assert!(!other.exists());
        std::fs::write(&other, "mine").unwrap();
        assert!(exclusive(&link, SOON).await.is_err());
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "mine");
        let pipe = folder.path().join("c.lock");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(exclusive(&pipe, SOON).await.is_err());
    }
}
