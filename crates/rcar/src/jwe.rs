//! Encrypted replies: JWE in flattened JSON form (RFC 7516 §7.2.2), ECDH-ES+A256KW with P-256 (RFC 7518 §4.6) and
//! A256GCM (RFC 7518 §5.3).
//!
//! The header is written compact, as `alg`, `enc`, `epk`, in that order: the protocol's upstream client builds the
//! additional data anew from the parsed header, and needs the same bytes.

use crate::key::{self, Jwk, KeyError, PublicKey, TeeKey};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest,
    key_wrap::{AES_256, AesKek, KeyWrap},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Longest plaintext in either direction, in bytes.
pub const MAX_PLAINTEXT: usize = 1024 * 1024;
const MAX_PROTECTED: usize = 1024;
const ENCRYPTION: &str = "A256GCM";

/// A flattened JWE; each member is base64url without padding. There is no `aad`: the additional data is the text of
/// `protected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwe {
    /// The header.
    pub protected: String,
    /// The content key, wrapped: 40 bytes.
    pub encrypted_key: String,
    /// 12 bytes.
    pub iv: String,
    /// As long as the plaintext.
    pub ciphertext: String,
    /// 16 bytes.
    pub tag: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    enc: String,
    epk: Epk,
}

/// The ephemeral key; members in the order that the upstream server writes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Epk {
    crv: String,
    kty: String,
    x: String,
    y: String,
}

/// Why a reply cannot be made or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JweError {
    /// Not a flattened JWE, or a member that is unknown.
    #[error("not a flattened jwe: {0}")]
    Form(String),
    /// The protected header is not JSON with exactly `alg`, `enc` and `epk`.
    #[error("protected header is not understood: {0}")]
    Header(String),
    /// Another algorithm than ours.
    #[error("{member} is {found:?}; expected {expected}")]
    Algorithm {
        /// `alg` or `enc`.
        member: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A member that is no base64url or has the wrong length.
    #[error("{0} is not base64url of the right length")]
    Member(&'static str),
    /// More than [`MAX_PLAINTEXT`].
    #[error("content of {0} bytes is longer than {MAX_PLAINTEXT}")]
    TooLong(usize),
    /// The ephemeral or the TEE key is refused.
    #[error("key refused: {0}")]
    Key(#[from] KeyError),
    /// The content key does not unwrap: it was encrypted for another TEE key.
    #[error("the content key does not open with this tee key; it was encrypted for another key or altered")]
    Unwrap,
    /// The content does not authenticate.
    #[error("the content does not authenticate; it was altered")]
    Open,
    /// The library failed.
    #[error("the cryptographic library failed to {0}")]
    Library(&'static str),
}

impl Jwe {
    /// Reads a reply's body.
    pub fn parse(body: &[u8]) -> Result<Self, JweError> {
        serde_json::from_slice(body).map_err(|e| JweError::Form(crate::sanitize(&e.to_string(), 120)))
    }

    /// Encrypts `plaintext` to the key `to`, whose `alg` must be [`key::ALGORITHM`].
    pub fn encrypt(to: &Jwk, plaintext: &[u8]) -> Result<Self, JweError> {
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(JweError::TooLong(plaintext.len()));
        }
        let recipient = PublicKey::from_jwk(to, key::ALGORITHM)?;
        let ephemeral = TeeKey::generate()?;
        let Jwk { kty, crv, x, y, .. } = ephemeral.jwk();
        let header = Header { alg: key::ALGORITHM.into(), enc: ENCRYPTION.into(), epk: Epk { crv, kty, x, y } };
        let header = serde_json::to_vec(&header).map_err(|_| JweError::Library("write the header"))?;
        let protected = B64.encode(header);

        let mut content_key = Zeroizing::new([0_u8; 32]);
        let mut iv = [0_u8; 12];
        rand::fill(content_key.as_mut()).map_err(|_| JweError::Library("make a content key"))?;
        rand::fill(&mut iv).map_err(|_| JweError::Library("make a nonce"))?;

        let mut wrapped = [0_u8; 40];
        key_encryption_key(&ephemeral, &recipient)?
            .wrap(content_key.as_ref(), &mut wrapped)
            .map_err(|_| JweError::Library("wrap the content key"))?;

        // Encrypted in place: the only other copy of the plaintext is overwritten by its ciphertext.
        let mut content = Zeroizing::new(plaintext.to_vec());
        let tag = aes_gcm(&content_key)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(iv),
                Aad::from(protected.as_bytes()),
                content.as_mut_slice(),
            )
            .map_err(|_| JweError::Library("encrypt"))?;
        Ok(Self {
            protected,
            encrypted_key: B64.encode(wrapped),
            iv: B64.encode(iv),
            ciphertext: B64.encode(content.as_slice()),
            tag: B64.encode(tag.as_ref()),
        })
    }

    /// Opens a reply that was encrypted to `key`.
    pub fn decrypt(&self, key: &TeeKey) -> Result<Zeroizing<Vec<u8>>, JweError> {
        if self.protected.len() > MAX_PROTECTED {
            return Err(JweError::Member("protected"));
        }
        if self.ciphertext.len() / 4 * 3 > MAX_PLAINTEXT {
            return Err(JweError::TooLong(self.ciphertext.len() / 4 * 3));
        }
        let header = B64.decode(&self.protected).map_err(|_| JweError::Member("protected"))?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|e| JweError::Header(crate::sanitize(&e.to_string(), 120)))?;
        require("alg", key::ALGORITHM, header.alg)?;
        require("enc", ENCRYPTION, header.enc)?;
        let Epk { crv, kty, x, y } = header.epk;
        let ephemeral = PublicKey::from_jwk(&Jwk { kty, crv, alg: None, x, y }, key::ALGORITHM)?;

        let wrapped: [u8; 40] = bytes("encrypted_key", &self.encrypted_key)?;
        let iv: [u8; 12] = bytes("iv", &self.iv)?;
        let tag: [u8; 16] = bytes("tag", &self.tag)?;
        let mut content = Zeroizing::new(B64.decode(&self.ciphertext).map_err(|_| JweError::Member("ciphertext"))?);

        let mut content_key = Zeroizing::new([0_u8; 32]);
        key_encryption_key(key, &ephemeral)?.unwrap(&wrapped, content_key.as_mut()).map_err(|_| JweError::Unwrap)?;
        aes_gcm(&content_key)?
            .open_in_place_separate_tag(
                Nonce::assume_unique_for_key(iv),
                Aad::from(self.protected.as_bytes()),
                &tag,
                content.as_mut_slice(),
            )
            .map_err(|_| JweError::Open)?;
        Ok(content)
    }
}

fn require(member: &'static str, expected: &'static str, found: String) -> Result<(), JweError> {
    if found == expected {
        return Ok(());
    }
    Err(JweError::Algorithm { member, expected, found: crate::sanitize(&found, 32) })
}

fn bytes<const N: usize>(member: &'static str, text: &str) -> Result<[u8; N], JweError> {
    if text.len() > 2 * N {
        return Err(JweError::Member(member));
    }
    B64.decode(text).ok().and_then(|b| b.try_into().ok()).ok_or(JweError::Member(member))
}

fn aes_gcm(key: &[u8; 32]) -> Result<LessSafeKey, JweError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| JweError::Library("set up aes-gcm"))
}

/// Concat KDF of RFC 7518 §4.6.2, one block of SHA-256: `00000001 ‖ Z ‖ AlgorithmID ‖ PartyUInfo ‖ PartyVInfo ‖
/// SuppPubInfo`, with empty party information and a key of 256 bits.
fn key_encryption_key(own: &TeeKey, peer: &PublicKey) -> Result<AesKek, JweError> {
    let shared = own.agree(peer)?;
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&1_u32.to_be_bytes());
    hash.update(shared.as_ref());
    hash.update(&[0, 0, 0, 14]);
    hash.update(key::ALGORITHM.as_bytes());
    hash.update(&[0; 8]);
    hash.update(&256_u32.to_be_bytes());
    let mut key = Zeroizing::new([0_u8; 32]);
    key.copy_from_slice(hash.finish().as_ref());
    AesKek::new(&AES_256, key.as_ref()).map_err(|_| JweError::Library("set up key wrap"))
}

/// Entry for fuzzing: reads `data` as a reply, and opens it with a fixed key.
pub fn fuzz(data: &[u8]) {
    if let (Ok(jwe), Ok(key)) = (Jwe::parse(data), TeeKey::from_scalar(&[7; 32])) {
        let _ = jwe.decrypt(&key);
    }
}
