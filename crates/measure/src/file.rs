//! Hashes files without holding them in memory.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

/// Bytes that are read at once: small enough for the second-level cache, large enough that system calls do not count.
const BUFFER: usize = 256 * 1024;

/// A file that could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Opening or reading failed.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Longer than what may stand there.
    #[error("{} has more than {limit} bytes: give the right file", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
}

/// SHA-256 of a file.
///
/// # Errors
/// [`FileError::Read`].
pub fn digest_file(path: &Path) -> Result<[u8; 32], FileError> {
    let read = |source| FileError::Read { path: path.to_owned(), source };
    File::open(path).and_then(digest_reader).map_err(read)
}

/// SHA-256 of everything that a reader gives.
///
/// # Errors
/// Those of the reader.
pub fn digest_reader(mut reader: impl Read) -> std::io::Result<[u8; 32]> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BUFFER];
    loop {
        let filled = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(filled) => filled,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        context.update(buffer.get(..filled).unwrap_or_default());
    }
    Ok(sha256(&context.finish()))
}

/// A whole file of bounded length.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let read = |source| FileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(read)?.take(limit + 1).read_to_end(&mut bytes).map_err(read)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(FileError::TooLong { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// The bytes of a SHA-256 digest.
pub(crate) fn sha256(digest: &aws_lc_rs::digest::Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_hashed_across_buffers() {
        let bytes: Vec<u8> = (0..=255).cycle().take(2 * BUFFER + 17).collect();
        let whole = sha256(&aws_lc_rs::digest::digest(&SHA256, &bytes));
        assert_eq!(digest_reader(bytes.as_slice()).unwrap(), whole);
        assert_ne!(digest_reader(&bytes[1..]).unwrap(), whole);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = digest_file(Path::new("/nonexistent/vmlinux")).unwrap_err();
        assert!(matches!(&error, FileError::Read { path, .. } if path == Path::new("/nonexistent/vmlinux")));
    }
}
