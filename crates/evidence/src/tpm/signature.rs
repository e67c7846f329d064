//! Signatures of a TPM.

use super::Hash;
use super::attest::sized;
use crate::bytes::Bytes;

/// Longest signature that is read, in bytes.
const MAX_SIGNATURE: usize = 1100;
const RSASSA: u16 = 0x0014;
const RSAPSS: u16 = 0x0016;
const ECDSA: u16 = 0x0018;

/// Why bytes are not a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Longer than any signature.
    #[error("tpm signature has {0} bytes, more than {MAX_SIGNATURE}")]
    Length(usize),
    /// It ends early, or bytes follow it.
    #[error("tpm signature is not a whole TPMT_SIGNATURE: it was cut, or something follows it")]
    Cut,
    /// A scheme that this program does not verify.
    #[error("tpm signature has the scheme {0:#06x}, known are RSASSA, RSAPSS and ECDSA: refuse it")]
    Scheme(u16),
    /// A hash that this program does not take.
    #[error("tpm signature has the hash {0:#06x}, known are SHA-256, SHA-384 and SHA-512: refuse it")]
    Hash(u16),
}

/// How the message was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa,
    /// RSASSA-PSS; the salt is as long as the digest.
    RsaPss,
    /// ECDSA; the bytes are r and s in 32, 48 or 66 bytes each.
    Ecdsa,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// How the message was signed.
    pub scheme: Scheme,
    /// The hash.
    pub hash: Hash,
    /// An RSA number most significant byte first, or r and s one after the other as the TPM gave them.
    pub numbers: Vec<Vec<u8>>,
}

impl Signature {
    /// Reads a TPMT_SIGNATURE.
    ///
    /// # Errors
    /// Any [`SignatureError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        if bytes.len() > MAX_SIGNATURE {
            return Err(SignatureError::Length(bytes.len()));
        }
        let mut from = Bytes::new(bytes);
        let scheme = match from.u16_be().ok_or(SignatureError::Cut)? {
            RSASSA => Scheme::RsaSsa,
            RSAPSS => Scheme::RsaPss,
            ECDSA => Scheme::Ecdsa,
            other => return Err(SignatureError::Scheme(other)),
        };
        let number = from.u16_be().ok_or(SignatureError::Cut)?;
        let hash = Hash::of(number).filter(|hash| *hash != Hash::Sha1).ok_or(SignatureError::Hash(number))?;
        let count = if scheme == Scheme::Ecdsa { 2 } else { 1 };
        let mut numbers = Vec::new();
        for _ in 0..count {
            numbers.push(sized(&mut from).ok_or(SignatureError::Cut)?);
        }
        if from.len() > 0 {
            return Err(SignatureError::Cut);
        }
        Ok(Self { scheme, hash, numbers })
    }

    /// A bare RSA number, RSASSA-PKCS1-v1_5 with SHA-256, as Azure's evidence holds it.
    pub fn raw_rsa(number: &[u8]) -> Self {
        Self { scheme: Scheme::RsaSsa, hash: Hash::Sha256, numbers: vec![number.to_vec()] }
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::parse(data);
    }
}
