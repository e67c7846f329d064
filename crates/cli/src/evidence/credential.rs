//! A credential for an attestation key of a TPM, and what its maker keeps until the answer comes.

use aws_lc_rs::digest::{SHA256, digest};
use belljar_evidence::tpm::certificate::{self, CertificateError, Purpose};
use belljar_evidence::tpm::credential::{self, CredentialError};
use belljar_evidence::tpm::{KeyError, PublicKey};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Why no credential was made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The key is no attestation key of a TPM.
    #[error("attestation key: {0}")]
    AttestationKey(#[from] KeyError),
    /// Nobody vouches for the endorsement key.
    #[error("endorsement key: {0}")]
    EndorsementKey(#[from] CertificateError),
    /// The endorsement key is of another kind.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// No random numbers.
    #[error("no random numbers: the operating system gives none")]
    Random,
}

/// What is remembered of a credential. The secret itself is not among it: 256 random bits have a digest that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// Fingerprint of the attestation key, as `--trusted-ak` takes it.
    #[serde(with = "hex::serde")]
    pub ak: [u8; 32],
    /// Fingerprint of the endorsement key.
    #[serde(with = "hex::serde")]
    pub ek: [u8; 32],
    /// SHA-256 of the secret.
    #[serde(with = "hex::serde")]
    pub secret_sha256: [u8; 32],
}

impl Challenge {
    /// Makes a credential for an attestation key (TPM2B_PUBLIC) and the endorsement key that the chain certifies (DER, the
    /// leaf first, up to one of the anchors) at a time in seconds since 1970. Gives the file of tpm2-tools, too.
    pub fn make(ak: &[u8], ek_chain: &[Vec<u8>], anchors: &[Vec<u8>], at: u64) -> Result<(Self, Vec<u8>), MakeError> {
        let (ak, name) = PublicKey::attestation_key(ak)?;
        let ek = certificate::verify(ek_chain, anchors, Purpose::EndorsementKey, at)?;
        let (mut secret, mut seed) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        for bytes in [&mut secret, &mut seed] {
            aws_lc_rs::rand::fill(&mut bytes[..]).map_err(|_| MakeError::Random)?;
        }
        let credential = credential::make(&ek, &name, &secret[..], &seed)?;
        let challenge = Self { ak: ak.fingerprint(), ek: ek.fingerprint(), secret_sha256: sha256(&secret[..]) };
        Ok((challenge, credential.to_file()))
    }

    /// Whether this is the secret: then the attestation key is in the TPM of the endorsement key.
    pub fn is_answered_by(&self, answer: &[u8]) -> bool {
        sha256(answer).ct_eq(&self.secret_sha256).into()
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(digest(&SHA256, bytes).as_ref());
    array
}
