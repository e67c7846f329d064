//! Keys on P-256 from a seed.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
};

/// A key on P-256.
#[derive(Clone, Debug)]
pub struct EcKey {
    scalar: [u8; 32],
    point: Vec<u8>,
}

impl EcKey {
    /// The key of that name under that seed.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut scalar = [0; 32];
        scalar.copy_from_slice(digest(&SHA256, format!("belljar test key {seed} {name}").as_bytes()).as_ref());
        let private = PrivateKey::from_private_key(&ECDH_P256, &scalar).unwrap();
        Self { scalar, point: private.compute_public_key().unwrap().as_ref().to_vec() }
    }

    /// Uncompressed point, 65 bytes.
    pub fn point(&self) -> &[u8] {
        &self.point
    }

    /// A signature with SHA-256 in DER.
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        self.sign(&ECDSA_P256_SHA256_ASN1_SIGNING, message)
    }

    /// A signature with SHA-256: r and s, 32 bytes each.
    pub fn sign_fixed(&self, message: &[u8]) -> [u8; 64] {
        self.sign(&ECDSA_P256_SHA256_FIXED_SIGNING, message).try_into().unwrap()
    }

    fn sign(&self, algorithm: &'static EcdsaSigningAlgorithm, message: &[u8]) -> Vec<u8> {
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &self.scalar, &self.point).unwrap();
        pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }
}
