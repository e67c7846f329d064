//! Key-encryption keys: they wrap data keys, and stay where they are.

use std::fmt;

use zeroize::Zeroizing;

/// Longest id of a key-encryption key, in bytes.
pub const MAX_KEY_ID: usize = 256;
/// Longest wrapped data key, in bytes.
pub const MAX_WRAPPED: usize = 4096;

/// Not the id of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key has 1 to {MAX_KEY_ID} printable ASCII characters, found {0}")]
pub struct KeyIdError(usize);

/// Names a key-encryption key in the store: `file:` and a fingerprint, `transit:` and its path, `pkcs11:` and its token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Box<str>);

impl KeyId {
    /// A key of this name.
    pub fn new(name: &str) -> Result<Self, KeyIdError> {
        if name.is_empty() || name.len() > MAX_KEY_ID || !name.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            return Err(KeyIdError(name.len()));
        }
        Ok(Self(name.into()))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Its service or token cannot be reached.
    #[error("key {id} is away ({why}): check its service or token, then try again")]
    Away {
        /// The key-encryption key.
        id: KeyId,
        /// What failed.
        why: String,
    },
    /// Its service or token refuses.
    #[error("key {id} was refused ({why}): check its name, its policy and the credential")]
    Refused {
        /// The key-encryption key.
        id: KeyId,
        /// What was said.
        why: String,
    },
    /// A wrapped data key does not open.
    #[error(
        "data key {data_key:016x} does not open with key {id}: it was changed, or the key is another one of that name"
    )]
    Wrapped {
        /// The key-encryption key.
        id: KeyId,
        /// The data key.
        data_key: u64,
    },
    /// No key of this name is configured.
    #[error("data key {data_key:016x} is wrapped by key {id}, which is not configured: configure it as a previous key")]
    NotConfigured {
        /// The key-encryption key.
        id: KeyId,
        /// The data key.
        data_key: u64,
    },
    /// The cryptographic library failed.
    #[error("the cryptographic library failed ({0}): start again")]
    Library(&'static str),
}

/// A data key in the clear: 32 bytes, cleared when it is dropped.
pub struct DataKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for DataKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey")
    }
}

impl DataKey {
    /// A new one.
    pub fn generate() -> Result<Self, KeyError> {
        let mut key = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(key.as_mut_slice()).map_err(|_| KeyError::Library("random number"))?;
        Ok(Self(key))
    }

    /// Of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// From a buffer, when it has 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        (bytes.len() == key.len()).then(|| {
            key.copy_from_slice(bytes);
            Self(key)
        })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Holds a key-encryption key, or knows who does.
#[async_trait::async_trait]
pub trait KeyProvider: Send + Sync + fmt::Debug {
    /// The key's name. Two keys have two names, and a key keeps its name.
    fn id(&self) -> &KeyId;

    /// Wraps a data key. What comes out is authenticated together with `context`, and at most [`MAX_WRAPPED`] bytes.
    async fn wrap(&self, key: &DataKey, context: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// Unwraps a data key that was wrapped with the same context; `None` when it does not open.
    async fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<Option<DataKey>, KeyError>;
}
