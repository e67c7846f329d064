//! The keys of bundles: Ed25519, or ECDSA on P-256 with SHA-256; private keys in PKCS#8, public keys as
//! SubjectPublicKeyInfo, both in PEM (RFC 7468, RFC 8410, RFC 5480).

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    ParsedPublicKey, VerificationAlgorithm,
};
use x509_cert::der::pem;
use zeroize::Zeroizing;

/// Longest key file that is read, in bytes.
pub const MAX_KEY: usize = 4096;
const PRIVATE: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not one block of PEM with the label that belongs there.
    #[error("not one {0} in PEM: give the file that `belljar collateral bundle --new-key` made, or one of openssl")]
    Pem(&'static str),
    /// A key of another kind than ours.
    #[error("neither an Ed25519 nor a P-256 key: make one with `belljar collateral bundle --new-key`")]
    Kind,
    /// The library cannot make one.
    #[error("cannot make a key on this machine")]
    Make,
}

/// A private key that signs bundles.
pub struct BundleKey(Signer);

enum Signer {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl std::fmt::Debug for BundleKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BundleKey").field("algorithm", &self.algorithm()).finish_non_exhaustive()
    }
}

impl BundleKey {
    /// Makes an Ed25519 key; also as PEM, to be kept where only its owner can read it.
    ///
    /// # Errors
    /// [`KeyError::Make`].
    pub fn generate() -> Result<(Self, Zeroizing<String>), KeyError> {
        let key = Ed25519KeyPair::generate().map_err(|_| KeyError::Make)?;
        // Version 1 of PKCS#8, which openssl reads, too.
        let document = key.to_pkcs8v1().map_err(|_| KeyError::Make)?;
        let text = pem::encode_string(PRIVATE, pem::LineEnding::LF, document.as_ref()).map_err(|_| KeyError::Make)?;
        Ok((Self(Signer::Ed25519(key)), Zeroizing::new(text)))
    }

    /// Reads a private key in PEM.
    ///
    /// # Errors
    /// [`KeyError::Pem`] or [`KeyError::Kind`].
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let der = Zeroizing::new(block(text, PRIVATE)?);
        if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
            return Ok(Self(Signer::Ed25519(key)));
        }
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).map_err(|_| KeyError::Kind)?;
        Ok(Self(Signer::P256(key)))
    }

    /// The public half.
    ///
    /// # Errors
    /// [`KeyError::Make`].
    pub fn public(&self) -> Result<PublicKey, KeyError> {
        let der = match &self.0 {
            Signer::Ed25519(key) => key.public_key().as_der(),
            Signer::P256(key) => key.public_key().as_der(),
        };
        PublicKey::from_der(der.map_err(|_| KeyError::Make)?.as_ref())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.0 {
            Signer::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
            Signer::P256(key) => {
                let signature = key.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Make)?;
                Ok(signature.as_ref().to_vec())
            }
        }
    }

    fn algorithm(&self) -> &'static str {
        match self.0 {
            Signer::Ed25519(_) => "ed25519",
            Signer::P256(_) => "ecdsa-p256-sha256",
        }
    }
}

/// A public key by which bundles are opened.
#[derive(Clone, Debug)]
pub struct PublicKey {
    algorithm: &'static str,
    key: ParsedPublicKey,
    spki: Vec<u8>,
}

impl PublicKey {
    /// Reads a public key in PEM.
    ///
    /// # Errors
    /// [`KeyError::Pem`] or [`KeyError::Kind`].
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        Self::from_der(&block(text, PUBLIC)?)
    }

    fn from_der(spki: &[u8]) -> Result<Self, KeyError> {
        let of = |name, algorithm: &'static dyn VerificationAlgorithm| {
            let key = ParsedPublicKey::new(algorithm, spki).ok()?;
            // Bare points and other encodings of the same key are not what a file says to hold.
            let canonical = key.as_der().ok()?;
            (canonical.as_ref() == spki).then(|| Self { algorithm: name, key, spki: spki.to_vec() })
        };
        of("ed25519", &ED25519).or_else(|| of("ecdsa-p256-sha256", &ECDSA_P256_SHA256_FIXED)).ok_or(KeyError::Kind)
    }

    /// As PEM.
    pub fn to_pem(&self) -> String {
        pem::encode_string(PUBLIC, pem::LineEnding::LF, &self.spki).unwrap_or_default()
    }

    /// SHA-256 of the SubjectPublicKeyInfo, lowercase hex.
    pub fn id(&self) -> String {
        hex::encode(digest(&SHA256, &self.spki))
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }
}

fn block(text: &[u8], label: &'static str) -> Result<Vec<u8>, KeyError> {
    if text.len() > MAX_KEY {
        return Err(KeyError::Pem(label));
    }
    match pem::decode_vec(text.trim_ascii()) {
        Ok((found, der)) if found == label => Ok(der),
        _ => Err(KeyError::Pem(label)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_read_again() {
        let (key, text) = BundleKey::generate().unwrap();
        let again = BundleKey::from_pem(text.as_bytes()).unwrap();
        assert_eq!(again.public().unwrap().id(), key.public().unwrap().id());
        let public = PublicKey::from_pem(key.public().unwrap().to_pem().as_bytes()).unwrap();
        assert_eq!((public.id(), public.algorithm()), (key.public().unwrap().id(), "ed25519"));
        let signature = key.sign(b"message").unwrap();
        assert!(public.verifies(b"message", &signature));
        assert!(!public.verifies(b"massage", &signature));
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn keys_on_p256_sign_too_and_others_are_refused() {
        let pem_of = |key: &EcdsaKeyPair| {
            pem::encode_string(PRIVATE, pem::LineEnding::LF, key.to_pkcs8v1().unwrap().as_ref()).unwrap()
        };
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = BundleKey::from_pem(pem_of(&p256).as_bytes()).unwrap();
        let public = key.public().unwrap();
        assert_eq!(public.algorithm(), "ecdsa-p256-sha256");
        assert!(public.verifies(b"message", &key.sign(b"message").unwrap()));

        let p384 = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        assert_eq!(BundleKey::from_pem(pem_of(&p384).as_bytes()).unwrap_err(), KeyError::Kind);
        assert_eq!(BundleKey::from_pem(public.to_pem().as_bytes()).unwrap_err(), KeyError::Pem(PRIVATE));
        assert_eq!(PublicKey::from_pem(pem_of(&p256).as_bytes()).unwrap_err(), KeyError::Pem(PUBLIC));
        let bare = pem::encode_string(PUBLIC, pem::LineEnding::LF, p256.public_key().as_ref()).unwrap();
        assert_eq!(PublicKey::from_pem(bare.as_bytes()).unwrap_err(), KeyError::Kind);
        let twice = [public.to_pem(), public.to_pem()].concat();
        assert_eq!(PublicKey::from_pem(twice.as_bytes()).unwrap_err(), KeyError::Pem(PUBLIC));
    }
}
