//! Advisory file locks (flock) with an end to waiting. The kernel lets go of them when a process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Between two looks at a lock that another holds.
const LOOK: Duration = Duration::from_millis(10);

/// Takes the lock of a file, which is made when it is not there; the lock is held until the file is dropped. `None`
/// when another held it for the whole time.
///
/// Lock files are never removed: two processes would otherwise lock two files of one name.
pub(crate) async fn exclusive(file: &Path, patience: Duration) -> io::Result<Option<File>> {
    let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(file)?;
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
