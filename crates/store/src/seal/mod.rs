//! How values are sealed: under a data key of their tenant, which is wrapped by a key-encryption key.
//!
//! Every value is sealed, whatever its kind: with that a policy or a reference value that somebody changes in the
//! database is refused just as a secret. AES-256-GCM-SIV (RFC 8452) with a random nonce of 96 bits; the additional data
//! are tenant, kind, key and end of the record, the data key's id and the version of the format, so that a value that was
//! moved to another row, or given another end, does not open. What this cannot show is that a whole row was deleted, or
//! put back to an older value of the same row.

mod file;
mod keyring;
mod provider;

pub use file::{FileKey, FileKeyError};
pub(crate) use keyring::{DataKeyRow, Keyring};
pub use keyring::{KeyUse, Keys};
pub use provider::{DataKey, KeyError, KeyId, KeyIdError, KeyProvider, MAX_KEY_ID, MAX_WRAPPED};

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::record::{Id, Time};

/// Version of the format of sealed values.
const VERSION: u8 = 1;
/// Version, id of the data key, nonce.
const HEADER: usize = 1 + 8 + NONCE_LEN;
/// By how much a sealed value is longer than its value.
pub const OVERHEAD: usize = HEADER + MAX_TAG_LEN;

/// Why a sealed value does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealedError {
    /// Shorter than any.
    #[error("a sealed value of {0} bytes is cut")]
    Short(usize),
    /// Another format.
    #[error("sealed values of format {0} are not known, expected {VERSION}")]
    Version(u8),
    /// Its data key is not one of its tenant's.
    #[error("its tenant has no data key {0:016x}")]
    NoKey(u64),
    /// It was changed, or sealed as another record.
    #[error("it does not open under its name with data key {0:016x}")]
    Changed(u64),
}

/// A data key that is ready for use. aws-lc clears it when it is dropped.
pub(crate) struct OpenKey {
    pub(crate) id: u64,
    key: LessSafeKey,
}

impl fmt::Debug for OpenKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The parts of a sealed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed<'a> {
    /// Id of its data key.
    pub(crate) data_key: u64,
    nonce: [u8; NONCE_LEN],
    ciphertext: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// Takes it apart.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, SealedError> {
        let short = SealedError::Short(bytes.len());
        let (version, rest) = bytes.split_first().ok_or(short)?;
        if *version != VERSION {
            return Err(SealedError::Version(*version));
        }
        let (data_key, rest) = rest.split_first_chunk().ok_or(short)?;
        let (nonce, ciphertext) = rest.split_first_chunk().ok_or(short)?;
        if ciphertext.len() < MAX_TAG_LEN {
            return Err(short);
        }
        Ok(Self { data_key: u64::from_be_bytes(*data_key), nonce: *nonce, ciphertext })
    }
}

/// Additional data: each part of variable length behind its length.
fn additional(id: &Id, expires: Option<Time>, data_key: u64) -> Vec<u8> {
    let mut aad = b"belljar record".to_vec();
    aad.push(VERSION);
    aad.extend(data_key.to_be_bytes());
    for part in [id.tenant().as_str(), id.key()] {
        aad.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        aad.extend(part.as_bytes());
    }
    aad.push(id.kind().code());
    match expires {
        Some(time) => {
            aad.push(1);
            aad.extend(time.millis().to_be_bytes());
        }
        None => aad.push(0),
    }
    aad
}

impl OpenKey {
    pub(crate) fn new(id: u64, key: &DataKey) -> Result<Self, KeyError> {
        let key = UnboundKey::new(&AES_256_GCM_SIV, key.as_bytes()).map_err(|_| KeyError::Library("key"))?;
        Ok(Self { id, key: LessSafeKey::new(key) })
    }

    /// Seals a value.
    pub(crate) fn seal(&self, id: &Id, expires: Option<Time>, value: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| KeyError::Library("random number"))?;
        let mut sealed = Vec::with_capacity(value.len().saturating_add(OVERHEAD));
        sealed.push(VERSION);
        sealed.extend(self.id.to_be_bytes());
        sealed.extend(nonce);
        sealed.extend(value);
        let aad = Aad::from(additional(id, expires, self.id));
        let text = sealed.get_mut(HEADER..).ok_or(KeyError::Library("length"))?;
        let tag = self.key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, text);
        let tag = tag.map_err(|_| KeyError::Library("sealing"))?;
        sealed.extend(tag.as_ref());
        Ok(sealed)
    }

    /// Opens a value.
    pub(crate) fn open(
        &self,
        id: &Id,
        expires: Option<Time>,
        sealed: &Sealed<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, SealedError> {
        let changed = SealedError::Changed(sealed.data_key);
        if sealed.data_key != self.id {
            return Err(changed);
        }
        let mut value = Zeroizing::new(sealed.ciphertext.to_vec());
        let aad = Aad::from(additional(id, expires, self.id));
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let length = self.key.open_in_place(nonce, aad, &mut value).map_err(|_| changed)?.len();
        value.truncate(length);
        Ok(value)
    }
}

/// For the fuzzer: a sealed value of any bytes is taken apart or refused, and never opens.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let parsed = Sealed::parse(data);
    let (Ok(tenant), Ok(key)) = (crate::Tenant::new("fuzz"), OpenKey::new(1, &DataKey::from_bytes([7; 32]))) else {
        return;
    };
    if let (Ok(sealed), Ok(id)) = (parsed, Id::new(&tenant, crate::Kind::Key, "fuzz")) {
        assert!(sealed.ciphertext.len().saturating_add(HEADER) == data.len());
        assert!(key.open(&id, None, &sealed).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Kind, Tenant};

    fn id(tenant: &str, kind: Kind, key: &str) -> Id {
        Id::new(&Tenant::new(tenant).unwrap(), kind, key).unwrap()
    }

    #[test]
    fn a_value_opens_only_as_the_record_that_it_was_sealed_as() {
        let key = OpenKey::new(5, &DataKey::from_bytes([1; 32])).unwrap();
        let name = id("acme", Kind::Resource, "a/b/c");
        let end = Some(Time::from_secs(10));
        let bytes = key.seal(&name, end, b"secret").unwrap();
        assert_eq!(bytes.len(), 6 + OVERHEAD);
        assert_ne!(key.seal(&name, end, b"secret").unwrap(), bytes);
        let sealed = Sealed::parse(&bytes).unwrap();
        assert_eq!(key.open(&name, end, &sealed).unwrap().as_slice(), b"secret");

        let changed = Err(SealedError::Changed(5));
        assert_eq!(key.open(&id("acme2", Kind::Resource, "a/b/c"), end, &sealed), changed);
        assert_eq!(key.open(&id("acme", Kind::Policy, "a/b/c"), end, &sealed), changed);
        assert_eq!(key.open(&id("acme", Kind::Resource, "a/b/d"), end, &sealed), changed);
        assert_eq!(key.open(&name, None, &sealed), changed);
        assert_eq!(key.open(&name, Some(Time::from_secs(11)), &sealed), changed);
        // The same secret under another key id, and another secret under the same.
        let other = OpenKey::new(6, &DataKey::from_bytes([1; 32])).unwrap();
        assert_eq!(other.open(&name, end, &sealed), changed);
        assert_eq!(other.open(&name, end, &Sealed { data_key: 6, ..sealed }), Err(SealedError::Changed(6)));
        let other = OpenKey::new(5, &DataKey::from_bytes([2; 32])).unwrap();
        assert_eq!(other.open(&name, end, &sealed), changed);

        for n in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[n] ^= 1 << bit;
                let error = match Sealed::parse(&flipped) {
                    Ok(sealed) => key.open(&name, end, &sealed).unwrap_err(),
                    Err(error) => error,
                };
                let expected = match n {
                    0 => SealedError::Version(flipped[0]),
                    1..9 => SealedError::Changed(u64::from_be_bytes(flipped[1..9].try_into().unwrap())),
                    _ => SealedError::Changed(5),
                };
                assert_eq!(error, expected, "bit {bit} of byte {n}");
            }
            let cut = &bytes[..n];
            match Sealed::parse(cut) {
                Ok(sealed) => assert_eq!(key.open(&name, end, &sealed), changed),
                Err(error) => assert_eq!(error, SealedError::Short(n)),
            }
        }
    }

    #[test]
    fn an_empty_value_has_a_seal() {
        let key = OpenKey::new(5, &DataKey::from_bytes([1; 32])).unwrap();
        let name = id("acme", Kind::Setting, "x");
        let bytes = key.seal(&name, None, b"").unwrap();
        assert_eq!(key.open(&name, None, &Sealed::parse(&bytes).unwrap()).unwrap().as_slice(), b"");
        assert_eq!(Sealed::parse(&bytes[..OVERHEAD - 1]), Err(SealedError::Short(OVERHEAD - 1)));
    }
}
