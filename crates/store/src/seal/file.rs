//! A key-encryption key in a file.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::{DataKey, KeyError, KeyId, KeyProvider};

/// Longest file: 64 hexadecimal digits and the end of a line.
const MAX_FILE: u64 = 66;

/// Why a file is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileKeyError {
    /// It cannot be read or written.
    #[error("cannot use key file {path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What failed.
        why: String,
    },
    /// Others may read it.
    #[error("key file {path} has mode {mode:03o}, others may read or write it: chmod 600, and consider the key known")]
    Mode {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// Not 32 bytes.
    #[error("key file {0} holds neither 32 bytes nor 64 hexadecimal digits: make one with `openssl rand -hex 32`")]
    Form(String),
    /// 32 times the same byte, as a file that was never filled.
    #[error("key file {0} holds one byte 32 times, which is no key: make one with `openssl rand -hex 32`")]
    Weak(String),
    /// The cryptographic library failed.
    #[error("the cryptographic library failed: start again")]
    Library,
}

/// A key of 32 bytes that was read from a file. aws-lc clears it when it is dropped.
pub struct FileKey {
    id: KeyId,
    key: LessSafeKey,
}

impl std::fmt::Debug for FileKey {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FileKey {
    /// Reads a key: 32 bytes, or 64 hexadecimal digits and at most an end of line. Only its owner may read the file.
    pub fn read(path: &Path) -> Result<Self, FileKeyError> {
        let name = path.display().to_string();
        let failed = |error: std::io::Error| FileKeyError::File { path: name.clone(), why: error.to_string() };
        let file = OpenOptions::new().read(true).open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FileKeyError::Mode { path: name, mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(128));
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() == 32 {
            key.copy_from_slice(&bytes);
        } else {
            let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            hex::decode_to_slice(text, key.as_mut_slice()).map_err(|_| FileKeyError::Form(name.clone()))?;
        }
        if key.windows(2).all(|pair| pair.first() == pair.last()) {
            return Err(FileKeyError::Weak(name));
        }
        Self::new(&key)
    }

    /// Reads a key, or makes the file with a new one where there is none.
    pub fn read_or_create(path: &Path) -> Result<Self, FileKeyError> {
        let name = path.display().to_string();
        let failed = |error: std::io::Error| FileKeyError::File { path: name.clone(), why: error.to_string() };
        if path.try_exists().map_err(failed)? {
            return Self::read(path);
        }
        let mut key = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(key.as_mut_slice()).map_err(|_| FileKeyError::Library)?;
        let mut text = Zeroizing::new(hex::encode(key.as_slice()));
        text.push('\n');
        // Written beside it and linked, so that the name never stands for half a key, and of two processes one wins.
        let draft = path.with_extension(format!("new.{}", std::process::id()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            let linked = std::fs::hard_link(&draft, path);
            std::fs::remove_file(&draft)?;
            match linked {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
                _ => {
                    std::fs::File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
                        .sync_all()
                }
            }
        };
        write().map_err(failed)?;
        Self::read(path)
    }

    /// Of these bytes.
    pub fn new(key: &[u8; 32]) -> Result<Self, FileKeyError> {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"belljar name of a key-encryption key\0");
        context.update(key);
        let print: String = hex::encode(context.finish()).chars().take(32).collect();
        let id = KeyId::new(&format!("file:{print}")).map_err(|_| FileKeyError::Library)?;
        let key = UnboundKey::new(&AES_256_GCM_SIV, key).map_err(|_| FileKeyError::Library)?;
        Ok(Self { id, key: LessSafeKey::new(key) })
    }
}

#[async_trait::async_trait]
impl KeyProvider for FileKey {
    fn id(&self) -> &KeyId {
        &self.id
    }

    async fn wrap(&self, key: &DataKey, context: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| KeyError::Library("random number"))?;
        let mut text = Zeroizing::new(*key.as_bytes());
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce_of, Aad::from(context), text.as_mut_slice());
        let tag = tag.map_err(|_| KeyError::Library("wrapping"))?;
        Ok([nonce.as_slice(), text.as_slice(), tag.as_ref()].concat())
    }

    async fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<Option<DataKey>, KeyError> {
        let Some((nonce, text)) = wrapped.split_first_chunk::<NONCE_LEN>() else { return Ok(None) };
        let mut text = Zeroizing::new(text.to_vec());
        let opened = self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context), &mut text);
        Ok(opened.ok().and_then(|key| DataKey::from_slice(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        let _ = std::fs::remove_file(path);
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn a_key_file_has_a_form_and_a_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let name = path.display().to_string();
        let key: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).unwrap());
        write(&path, &key, 0o600);
        let raw = FileKey::read(&path).unwrap();
        for text in [hex::encode(key), hex::encode_upper(key) + "\n", hex::encode(key) + "\r\n"] {
            write(&path, text.as_bytes(), 0o400);
            assert_eq!(FileKey::read(&path).unwrap().id(), raw.id());
        }
        for (bytes, mode, error) in [
            (key.to_vec(), 0o640, FileKeyError::Mode { path: name.clone(), mode: 0o640 }),
            (key.to_vec(), 0o604, FileKeyError::Mode { path: name.clone(), mode: 0o604 }),
            (key[1..].to_vec(), 0o600, FileKeyError::Form(name.clone())),
            ([&key[..], b"\n"].concat(), 0o600, FileKeyError::Form(name.clone())),
            (Vec::new(), 0o600, FileKeyError::Form(name.clone())),
            ((hex::encode(key) + "\n\n").into_bytes(), 0o600, FileKeyError::Form(name.clone())),
            ((hex::encode(key) + "00").into_bytes(), 0o600, FileKeyError::Form(name.clone())),
            (vec![0; 32], 0o600, FileKeyError::Weak(name.clone())),
        ] {
            write(&path, &bytes, mode);
            assert_eq!(FileKey::read(&path).unwrap_err(), error);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(FileKey::read(&path), Err(FileKeyError::File { .. })));
    }

    #[tokio::test]
    async fn a_key_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let first = FileKey::read_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(FileKey::read_or_create(&path).unwrap().id(), first.id());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let other = FileKey::read_or_create(&folder.path().join("other")).unwrap();
        assert_ne!(other.id(), first.id());
    }

    #[tokio::test]
    async fn a_data_key_unwraps_with_its_key_and_context() {
        let key = FileKey::new(&[1; 32]).unwrap();
        let data = DataKey::generate().unwrap();
        let wrapped = key.wrap(&data, b"context").await.unwrap();
        assert_eq!(key.unwrap(&wrapped, b"context").await.unwrap().unwrap().as_bytes(), data.as_bytes());
        assert!(key.unwrap(&wrapped, b"another").await.unwrap().is_none());
        assert!(FileKey::new(&[2; 32]).unwrap().unwrap(&wrapped, b"context").await.unwrap().is_none());
        for n in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[n] ^= 1;
            assert!(key.unwrap(&changed, b"context").await.unwrap().is_none());
            assert!(key.unwrap(&wrapped[..n], b"context").await.unwrap().is_none());
        }
    }
}
