//! Credential protection: how a verifier learns that an attestation key lives in the TPM of an endorsement key.
//!
//! The verifier trusts the endorsement key by its certificate, and encrypts a secret for it and for the *name* of the
//! attestation key ([`make`]). Only a TPM that holds both gives the secret back (TPM2_ActivateCredential).

use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents};

use super::key::PublicKey;

/// Longest secret, in bytes: the digest of the endorsement key's name hash.
const MAX_SECRET: usize = 32;
/// Length of the default template's modulus, in bytes.
const MODULUS: usize = 256;
/// Magic number 0xBADCC0DE and version 1 of tpm2-tools' credential files.
const FILE_HEAD: [u8; 8] = [0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1];

/// Why no credential can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// Only endorsement keys of the default template are known here: others have another name hash or cipher.
    #[error("endorsement key is not RSA with 2048 bits: use the TPM's endorsement key of the template L-1")]
    Key,
    /// Too long a secret, or none.
    #[error("secret has {0} bytes, 1 to {MAX_SECRET} can be protected")]
    Secret(usize),
    /// The cryptographic library refused.
    #[error("the secret could not be encrypted for the endorsement key")]
    Encrypt,
}

/// A secret for one attestation key in the TPM of one endorsement key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// TPM2B_ID_OBJECT: integrity and encrypted secret.
    pub blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET: the seed, encrypted for the endorsement key.
    pub encrypted_seed: Vec<u8>,
}

impl Credential {
    /// The file that `tpm2_activatecredential` reads: a magic number, a version, both structures.
    pub fn to_file(&self) -> Vec<u8> {
        [&FILE_HEAD[..], &self.blob, &self.encrypted_seed].concat()
    }
}

/// Makes a credential (TPM 2.0 part 3, TPM2_MakeCredential) for an RSA endorsement key of the default template: name
/// hash SHA-256, AES-128 in CFB mode. `seed` has to be fresh and random, and `name` is the attestation key's.
///
/// # Errors
/// Any [`CredentialError`].
pub fn make(ek: &PublicKey, name: &[u8], secret: &[u8], seed: &[u8; 32]) -> Result<Credential, CredentialError> {
    let PublicKey::Rsa { modulus, exponent } = ek else { return Err(CredentialError::Key) };
    if modulus.len() != MODULUS {
        return Err(CredentialError::Key);
    }
    if secret.is_empty() || secret.len() > MAX_SECRET {
        return Err(CredentialError::Secret(secret.len()));
    }
    let encrypted_seed = encrypt_seed(modulus, exponent, seed).ok_or(CredentialError::Encrypt)?;
    let mut identity = encrypt_identity(&kdf_a(seed, "STORAGE", name, 128), secret).ok_or(CredentialError::Encrypt)?;
    let mac_key = hmac::Key::new(hmac::HMAC_SHA256, &kdf_a(seed, "INTEGRITY", &[], 256));
    let mac = hmac::sign(&mac_key, &[&identity[..], name].concat());
    let mut object = sized(mac.as_ref());
    object.append(&mut identity);
    Ok(Credential { blob: sized(&object), encrypted_seed: sized(&encrypted_seed) })
}

/// The seed, by RSAES-OAEP with the label `IDENTITY` and its closing zero (part 1, annex B.4).
fn encrypt_seed(modulus: &[u8], exponent: &[u8], seed: &[u8]) -> Option<Vec<u8>> {
    let key: PublicEncryptingKey = PublicKeyComponents { n: modulus, e: exponent }.try_into().ok()?;
    let key = OaepPublicEncryptingKey::new(key).ok()?;
    let mut encrypted = vec![0; key.ciphertext_size()];
    let length = key.encrypt(&OAEP_SHA256_MGF1SHA256, seed, &mut encrypted, Some(b"IDENTITY\0")).ok()?.len();
    encrypted.truncate(length);
    Some(encrypted)
}

/// The secret with its length, by AES-128 in CFB mode with an initial value of zeros (part 1, "Symmetric Encryption").
fn encrypt_identity(key: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    let mut identity = sized(secret);
    let key = EncryptingKey::cfb128(UnboundCipherKey::new(&AES_128, key).ok()?).ok()?;
    key.less_safe_encrypt(&mut identity, EncryptionContext::Iv128(FixedLength::from([0; 16]))).ok()?;
    Some(identity)
}

/// KDFa (part 1, annex "KDFa()"): one block of SP800-108 in counter mode with HMAC-SHA-256 is enough for 256 bits.
fn kdf_a(seed: &[u8], label: &str, context: &[u8], bits: u16) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
    let mut input = hmac::Context::with_key(&key);
    input.update(&1_u32.to_be_bytes());
    input.update(label.as_bytes());
    input.update(&[0]);
    input.update(context);
    input.update(&u32::from(bits).to_be_bytes());
    input.sign().as_ref().iter().copied().take(usize::from(bits / 8)).collect()
}

/// A TPM2B. Everything here is far shorter than its length can say.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}
