//! Files encrypted at rest with AES-256-GCM.
//!
//! # File format, version 1
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | `BJAE` |
//! | u8 | version, 1 |
//! | u8 | content: 1 model, 2 transactions |
//! | 2 | reserved, 0 |
//! | 12 | nonce, random for every file |
//! | n | ciphertext |
//! | 16 | tag |
//!
//! The first eight bytes are additional authenticated data, so that one file cannot stand in for the other.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

const MAGIC: [u8; 4] = *b"BJAE";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 8;
const TAG_LEN: usize = 16;

/// What a sealed file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    /// A [`crate::Model`].
    Model = 1,
    /// Transactions as [`crate::csv`].
    Transactions = 2,
}

impl Content {
    fn header(self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = MAGIC;
        [a, b, c, d, VERSION, self as u8, 0, 0]
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::Transactions => "transactions",
        })
    }
}

/// Why a key could not be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no file.
    #[error("no key at {0}; give the pod the secret that holds it")]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("the key at {path} cannot be read: {source}")]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file has another length.
    #[error("the key at {path} has {found} bytes, expected exactly {KEY_LEN} (more are not counted)")]
    Length {
        /// Path of the file.
        path: PathBuf,
        /// Bytes found, at most 33.
        found: usize,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// Why a sealed file could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It does not start with the magic bytes.
    #[error("not an encrypted file; make one with fraud-train")]
    Magic,
    /// Its version is another.
    #[error("encryption format version {0} is unknown, expected {VERSION}")]
    Version(u8),
    /// It holds something else.
    #[error("the file does not hold the {expected} (content number {found}); are the paths swapped?")]
    Content {
        /// What was asked for.
        expected: Content,
        /// Number in the file.
        found: u8,
    },
    /// Reserved bytes are not zero.
    #[error("reserved bytes of the file's header are not zero")]
    Reserved,
    /// It is too short to hold a nonce and a tag.
    #[error("the file ends too early: {0} bytes")]
    Truncated(usize),
    /// Wrong key, or a changed file: the two cannot be told apart.
    #[error("authentication of the {0} failed: this is not the key it was encrypted with, or the file was changed")]
    Authentication(Content),
}

/// A file could not be sealed: no random bytes, or more than 64 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealing failed: no random bytes, or too long a file")]
pub struct SealError;

/// An AES-256 key, wiped when it is dropped.
pub struct Key(Zeroizing<[u8; KEY_LEN]>);

impl Key {
    /// A fresh random key.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rand::fill(bytes.as_mut()).map_err(|_| KeyError::Random)?;
        Ok(Self(bytes))
    }

    /// Reads a file of exactly 32 raw bytes.
    ///
    /// # Errors
    /// [`KeyError::Missing`], [`KeyError::Unreadable`], [`KeyError::Length`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
            _ => KeyError::Unreadable { path: path.to_owned(), source },
        };
        let mut file = std::fs::File::open(path).map_err(unreadable)?;
        // One byte more than a key, on the stack: nothing is left behind in a buffer that grew.
        let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
        let mut found = 0;
        while let Some(rest) = bytes.get_mut(found..).filter(|rest| !rest.is_empty()) {
            match file.read(rest) {
                Ok(0) => break,
                Ok(n) => found += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unreadable(e)),
            }
        }
        match bytes.first_chunk::<KEY_LEN>() {
            Some(key) if found == KEY_LEN => Ok(Self(Zeroizing::new(*key))),
            _ => Err(KeyError::Length { path: path.to_owned(), found }),
        }
    }

    /// The raw bytes, for writing the key file.
    #[must_use]
    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Encrypts `plain` under a fresh nonce.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&self, content: Content, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError)?;
        let header = content.header();
        let mut body = Vec::with_capacity(plain.len() + TAG_LEN);
        body.extend_from_slice(plain);
        self.cipher()
            .and_then(|c| c.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut body))
            .map_err(|_| SealError)?;
        Ok([&header[..], &nonce, &body].concat())
    }

    /// Decrypts a whole file.
    ///
    /// # Errors
    /// [`OpenError`]; a wrong key and a changed file both give [`OpenError::Authentication`].
    pub fn open(&self, content: Content, mut file: Vec<u8>) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let len = file.len();
        if !file.starts_with(&MAGIC) {
            return Err(OpenError::Magic);
        }
        let (header, rest) = file.split_first_chunk_mut::<HEADER_LEN>().ok_or(OpenError::Truncated(len))?;
        match *header {
            [.., version, _, _, _] if version != VERSION => return Err(OpenError::Version(version)),
            [.., found, _, _] if found != content as u8 => return Err(OpenError::Content { expected: content, found }),
            [.., 0, 0] => {}
            _ => return Err(OpenError::Reserved),
        }
        let (nonce, body) = rest.split_first_chunk_mut::<NONCE_LEN>().ok_or(OpenError::Truncated(len))?;
        if body.len() < TAG_LEN {
            return Err(OpenError::Truncated(len));
        }
        let plain_len = self
            .cipher()
            .and_then(|c| c.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(*header), body))
            .map_err(|_| OpenError::Authentication(content))?
            .len();
        file.drain(..HEADER_LEN + NONCE_LEN);
        file.truncate(plain_len);
        Ok(Zeroizing::new(file))
    }

    fn cipher(&self) -> Result<LessSafeKey, aws_lc_rs::error::Unspecified> {
        UnboundKey::new(&AES_256_GCM, self.0.as_ref()).map(LessSafeKey::new)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> Key {
        Key(Zeroizing::new([byte; KEY_LEN]))
    }

    #[test]
    fn only_the_right_key_opens() {
        let sealed = key(1).seal(Content::Model, b"weights").unwrap();
        assert_eq!(key(1).open(Content::Model, sealed.clone()).unwrap().as_slice(), b"weights");
        assert_eq!(key(2).open(Content::Model, sealed), Err(OpenError::Authentication(Content::Model)));
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let good = key(1).seal(Content::Model, b"weights").unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            let error = key(1).open(Content::Model, bytes).unwrap_err();
            let expected = match at {
                0..4 => OpenError::Magic,
                4 => OpenError::Version(0),
                5 => OpenError::Content { expected: Content::Model, found: 0 },
                6 | 7 => OpenError::Reserved,
                _ => OpenError::Authentication(Content::Model),
            };
            assert_eq!(error, expected, "byte {at}");
        }
        assert!(key(1).open(Content::Model, good).is_ok());
    }

    #[test]
    fn a_file_cannot_stand_in_for_another() {
        let mut sealed = key(1).seal(Content::Transactions, b"rows").unwrap();
        assert_eq!(
            key(1).open(Content::Model, sealed.clone()),
            Err(OpenError::Content { expected: Content::Model, found: 2 })
        );
        sealed[5] = 1;
        assert_eq!(key(1).open(Content::Model, sealed), Err(OpenError::Authentication(Content::Model)));
    }

    #[test]
    fn every_shorter_file_is_refused() {
        let good = key(1).seal(Content::Model, b"weights").unwrap();
        for end in 0..good.len() {
            let error = key(1).open(Content::Model, good[..end].to_vec()).unwrap_err();
            match end {
                0..4 => assert_eq!(error, OpenError::Magic),
                4..36 => assert_eq!(error, OpenError::Truncated(end)),
                _ => assert_eq!(error, OpenError::Authentication(Content::Model)),
            }
        }
    }

    #[test]
    fn nonces_differ_and_debug_is_silent() {
        let (a, b) = (key(1).seal(Content::Model, b"x").unwrap(), key(1).seal(Content::Model, b"x").unwrap());
        assert_ne!(a[8..20], b[8..20]);
        assert_eq!(format!("{:?}", key(0x41)), "Key(..)");
    }

    #[test]
    fn key_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(matches!(Key::read(&path), Err(KeyError::Missing(p)) if p == path));
        for (len, found) in [(0, 0), (31, 31), (33, 33), (5000, 33)] {
            std::fs::write(&path, vec![7; len]).unwrap();
            assert!(matches!(Key::read(&path), Err(KeyError::Length { found: f, .. }) if f == found), "{len}");
        }
        std::fs::write(&path, [7; 32]).unwrap();
        assert_eq!(Key::read(&path).unwrap().bytes(), &[7; 32]);
        assert!(matches!(Key::read(dir.path()), Err(KeyError::Unreadable { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(key(1).open(Content::Model, data.clone()).is_err());
            let with_header = [&Content::Model.header()[..], &data].concat();
            prop_assert!(key(1).open(Content::Model, with_header).is_err());
        }

        #[test]
        fn opens_what_it_seals(data in proptest::collection::vec(any::<u8>(), 0..1000)) {
            let sealed = key(9).seal(Content::Transactions, &data).unwrap();
            let opened = key(9).open(Content::Transactions, sealed).unwrap();
            prop_assert_eq!(opened.as_slice(), &data[..]);
        }
    }
}
