//! Certificate revocation lists as Intel issues them.

use x509_cert::crl::TbsCertList;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};

use super::cert::{Certificate, is_ecdsa_sha256, signed_parts};

/// Longest list that is read, in bytes.
const MAX_CRL: usize = 4 * 1024 * 1024;
const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");
const AUTHORITY_KEY_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.35");

/// Why bytes are not a revocation list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CrlError {
    /// Too long to be read.
    #[error("revocation list has {found} bytes, more than {MAX_CRL}: refuse it")]
    Length {
        /// Length of the input.
        found: usize,
    },
    /// Not one DER-encoded list, or bytes follow it.
    #[error("not a DER-encoded revocation list ({0}): fetch it again")]
    Der(String),
    /// Not signed with ECDSA and SHA-256.
    #[error("revocation list is not signed with ECDSA and SHA-256 as Intel signs: refuse it")]
    Algorithm,
    /// No time at which the next one comes.
    #[error("revocation list does not say when the next one comes: refuse it")]
    NextUpdate,
    /// An extension whose meaning could be that the list is not a full one.
    #[error("revocation list has the unknown critical extension {0}: refuse it")]
    Critical(String),
}

/// A revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    tbs: Vec<u8>,
    signature: Vec<u8>,
    issuer: Vec<u8>,
    this_update: u64,
    next_update: u64,
    revoked: Vec<Vec<u8>>,
}

impl Crl {
    /// Reads one DER-encoded list; nothing may follow it.
    ///
    /// # Errors
    /// Any [`CrlError`].
    pub fn parse(der: &[u8]) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL {
            return Err(CrlError::Length { found: der.len() });
        }
        let malformed = |error: x509_cert::der::Error| CrlError::Der(error.to_string());
        let (tbs, algorithm, signature) = signed_parts(der).map_err(malformed)?;
        let parsed = TbsCertList::from_der(tbs).map_err(malformed)?;
        if parsed.signature != algorithm || !is_ecdsa_sha256(&algorithm) {
            return Err(CrlError::Algorithm);
        }
        let known = |oid| oid == CRL_NUMBER || oid == AUTHORITY_KEY_ID;
        for extension in parsed.crl_extensions.iter().flatten() {
            if extension.critical && !known(extension.extn_id) {
                return Err(CrlError::Critical(extension.extn_id.to_string()));
            }
        }
        let mut revoked = Vec::new();
        for entry in parsed.revoked_certificates.iter().flatten() {
            // A critical extension of an entry (a certificate issuer, say) could make it another authority's.
            if let Some(extension) = entry.crl_entry_extensions.iter().flatten().find(|extension| extension.critical) {
                return Err(CrlError::Critical(extension.extn_id.to_string()));
            }
            revoked.push(entry.serial_number.as_bytes().to_vec());
        }
        revoked.sort_unstable();
        Ok(Self {
            tbs: tbs.to_vec(),
            signature: signature.to_vec(),
            issuer: parsed.issuer.to_der().map_err(malformed)?,
            this_update: parsed.this_update.to_unix_duration().as_secs(),
            next_update: parsed.next_update.ok_or(CrlError::NextUpdate)?.to_unix_duration().as_secs(),
            revoked,
        })
    }

    /// When it was issued, in seconds since 1970.
    pub fn this_update(&self) -> u64 {
        self.this_update
    }

    /// When the next one comes at the latest, in seconds since 1970.
    pub fn next_update(&self) -> u64 {
        self.next_update
    }

    /// How many certificates it names.
    pub fn len(&self) -> usize {
        self.revoked.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }

    /// Whether that authority issued and signed the list.
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        self.issuer == authority.subject() && authority.signs_lists() && authority.signed(&self.tbs, &self.signature)
    }

    /// Whether the list is of the authority that issued the certificate, and names it.
    pub fn revokes(&self, certificate: &Certificate) -> bool {
        self.issuer == certificate.issuer()
            && self.revoked.binary_search_by(|serial| serial.as_slice().cmp(certificate.serial())).is_ok()
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::parse(data);
    }
}
