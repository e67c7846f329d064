//! Signed statements of how far a log goes: who changes what is before one has to change the signature too.
//!
//! Signed is: `belljar audit checkpoint 1`, a NUL, the tenant's name behind its length (1 byte), the number of the last
//! entry (8 bytes), its hash (32 bytes), the time in milliseconds since 1970 (8 bytes). ECDSA with P-256 and SHA-256, the
//! signature as in X9.62 (DER).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use zeroize::Zeroizing;

use super::entry::Hash;
use crate::record::{Tenant, Time};

/// Version of stored checkpoints.
const VERSION: u8 = 1;
/// Longest signature: two numbers of 33 bytes in DER.
const MAX_SIGNATURE: usize = 72;
/// Length of an uncompressed point of P-256.
const POINT: usize = 65;

/// Why a key is not one for checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditKeyError {
    /// Not a private key of P-256 in PKCS #8.
    #[error(
        "not a private key of P-256 in PKCS #8: make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -outform DER`"
    )]
    Private,
    /// Not a public key of P-256.
    #[error("not a public key of P-256: an uncompressed point has 65 bytes and starts with 04")]
    Public,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed: start again")]
    Library,
}

/// Names a key: the first 16 bytes of SHA-256 over its point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditKeyId(pub [u8; 16]);

impl fmt::Debug for AuditKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AuditKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A key that signs checkpoints. aws-lc clears it when it is dropped.
pub struct AuditKey(EcdsaKeyPair);

impl fmt::Debug for AuditKey {
    /// By its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuditKey").field(&self.public().id()).finish()
    }
}

impl AuditKey {
    /// A new one, and what to keep of it: PKCS #8 in DER.
    pub fn generate() -> Result<(Self, Zeroizing<Vec<u8>>), AuditKeyError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let pkcs8 = Zeroizing::new(pkcs8.map_err(|_| AuditKeyError::Library)?.as_ref().to_vec());
        Ok((Self::from_pkcs8(&pkcs8)?, pkcs8))
    }

    /// From PKCS #8 in DER.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, AuditKeyError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8);
        key.map(Self).map_err(|_| AuditKeyError::Private)
    }

    /// What verifies its signatures.
    pub fn public(&self) -> AuditPublicKey {
        AuditPublicKey(self.0.public_key().as_ref().try_into().unwrap_or([0; POINT]))
    }

    /// Signs how far a log goes.
    pub(crate) fn sign(
        &self,
        tenant: &Tenant,
        sequence: u64,
        hash: Hash,
        time: Time,
    ) -> Result<Checkpoint, AuditKeyError> {
        let signed = signed(tenant, sequence, &hash, time);
        let signature = self.0.sign(&SystemRandom::new(), &signed).map_err(|_| AuditKeyError::Library)?;
        let signature = signature.as_ref().to_vec();
        Ok(Checkpoint { tenant: tenant.clone(), sequence, hash, time, key: self.public().id(), signature })
    }
}

/// A key that verifies checkpoints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuditPublicKey([u8; POINT]);

impl fmt::Debug for AuditPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuditPublicKey").field(&hex::encode(self.0)).finish()
    }
}

impl AuditPublicKey {
    /// From an uncompressed point of P-256 (SEC 1, 2.3.3).
    pub fn from_bytes(point: &[u8]) -> Result<Self, AuditKeyError> {
        let point: [u8; POINT] = point.try_into().map_err(|_| AuditKeyError::Public)?;
        let on_curve = aws_lc_rs::signature::ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).is_ok();
        if on_curve { Ok(Self(point)) } else { Err(AuditKeyError::Public) }
    }

    /// The uncompressed point.
    pub fn as_bytes(&self) -> &[u8; POINT] {
        &self.0
    }

    /// Its name.
    pub fn id(&self) -> AuditKeyId {
        let hash = digest(&SHA256, &self.0);
        AuditKeyId(hash.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

/// A signed statement of how far a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose log.
    pub tenant: Tenant,
    /// The number of the last entry.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
    /// When it was signed.
    pub time: Time,
    /// By which key.
    pub key: AuditKeyId,
    /// The signature.
    pub signature: Vec<u8>,
}

impl Checkpoint {
    /// Whether the key made the signature.
    pub fn is_signed_by(&self, key: &AuditPublicKey) -> bool {
        let signed = signed(&self.tenant, self.sequence, &self.hash, self.time);
        let key_that = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.0);
        key.id() == self.key && key_that.verify(&signed, &self.signature).is_ok()
    }

    /// What is stored beside tenant and number.
    pub(crate) fn body(&self) -> Vec<u8> {
        let time = self.time.millis().to_be_bytes();
        [&[VERSION][..], &time, &self.hash, &self.key.0, &self.signature].concat()
    }

    /// From what is stored, all of which has to be a checkpoint.
    pub(crate) fn parse(tenant: &Tenant, sequence: u64, body: &[u8]) -> Option<Self> {
        let (version, rest) = body.split_first()?;
        let (time, rest) = rest.split_first_chunk()?;
        let (hash, rest) = rest.split_first_chunk()?;
        let (key, signature) = rest.split_first_chunk()?;
        let time = u64::from_be_bytes(*time);
        let fits = *version == VERSION && time <= Time::MAX.millis() && signature.len() <= MAX_SIGNATURE;
        fits.then(|| Self {
            tenant: tenant.clone(),
            sequence,
            hash: *hash,
            time: Time::from_millis(time),
            key: AuditKeyId(*key),
            signature: signature.to_vec(),
        })
    }
}

fn signed(tenant: &Tenant, sequence: u64, hash: &Hash, time: Time) -> Vec<u8> {
    let name = tenant.as_str().as_bytes();
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let (sequence, time) = (sequence.to_be_bytes(), time.millis().to_be_bytes());
    [&b"belljar audit checkpoint 1\0"[..], &[length], name, &sequence, hash, &time].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_signed() {
        let (key, pkcs8) = AuditKey::generate().unwrap();
        let public = AuditKey::from_pkcs8(&pkcs8).unwrap().public();
        assert_eq!(AuditPublicKey::from_bytes(public.as_bytes()), Ok(public));
        let tenant = Tenant::new("acme").unwrap();
        let good = key.sign(&tenant, 5, [7; 32], Time::from_secs(3)).unwrap();
        assert!(good.is_signed_by(&public));
        assert_eq!(Checkpoint::parse(&tenant, 5, &good.body()), Some(good.clone()));
        for bad in [
            Checkpoint { tenant: Tenant::new("acme2").unwrap(), ..good.clone() },
            Checkpoint { sequence: 6, ..good.clone() },
            Checkpoint { hash: [8; 32], ..good.clone() },
            Checkpoint { time: Time::from_secs(4), ..good.clone() },
            Checkpoint { key: AuditKeyId([0; 16]), ..good.clone() },
            Checkpoint { signature: good.signature[1..].to_vec(), ..good.clone() },
            Checkpoint { signature: Vec::new(), ..good.clone() },
        ] {
            assert!(!bad.is_signed_by(&public), "{bad:?}");
        }
        let other = AuditKey::generate().unwrap().0.public();
        assert!(!good.is_signed_by(&other));
        assert!(!Checkpoint { key: other.id(), ..good.clone() }.is_signed_by(&other));
        for n in 0..57 {
            assert_eq!(Checkpoint::parse(&tenant, 5, &good.body()[..n]), None);
        }
        let long = Checkpoint { signature: vec![0; MAX_SIGNATURE + 1], ..good };
        assert_eq!(Checkpoint::parse(&tenant, 5, &long.body()), None);
    }

    #[test]
    fn keys_are_of_p256() {
        assert_eq!(AuditKey::from_pkcs8(b"nonsense").unwrap_err(), AuditKeyError::Private);
        let point = *AuditKey::generate().unwrap().0.public().as_bytes();
        assert_eq!(AuditPublicKey::from_bytes(&point[1..]), Err(AuditKeyError::Public));
        let mut off = point;
        off[64] ^= 1;
        assert_eq!(AuditPublicKey::from_bytes(&off), Err(AuditKeyError::Public));
        let mut compressed = point;
        compressed[0] = 2;
        assert_eq!(AuditPublicKey::from_bytes(&compressed), Err(AuditKeyError::Public));
    }
}
