//! Certificate revocation lists (RFC 5280 section 5): what lists of every vendor have in common.

use x509_cert::crl::TbsCertList;
use x509_cert::der::asn1::{BitStringRef, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::spki::AlgorithmIdentifierOwned;

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
    /// Not signed as its vendor signs: Intel with ECDSA and SHA-256, AMD with RSASSA-PSS and SHA-384.
    #[error("revocation list is not signed as its vendor signs: refuse it")]
    Algorithm,
    /// No time at which the next one comes.
    #[error("revocation list does not say when the next one comes: refuse it")]
    NextUpdate,
    /// An extension whose meaning could be that the list is not a full one.
    #[error("revocation list has the unknown critical extension {0}: refuse it")]
    Critical(String),
}

/// A revocation list whose signature is still to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List {
    /// What is signed.
    pub(crate) tbs: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    /// Name of the issuer, DER.
    pub(crate) issuer: Vec<u8>,
    /// When it was issued, in seconds since 1970.
    pub(crate) this_update: u64,
    /// When the next one comes at the latest, in seconds since 1970.
    pub(crate) next_update: u64,
    /// Serial numbers, sorted.
    revoked: Vec<Vec<u8>>,
}

impl List {
    /// Reads one DER-encoded list; nothing may follow it.
    pub(crate) fn parse(
        der: &[u8],
        is_right: impl FnOnce(&AlgorithmIdentifierOwned) -> bool,
    ) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL {
            return Err(CrlError::Length { found: der.len() });
        }
        let malformed = |error: x509_cert::der::Error| CrlError::Der(error.to_string());
        let (tbs, algorithm, signature) = signed_parts(der).map_err(malformed)?;
        let parsed = TbsCertList::from_der(tbs).map_err(malformed)?;
        if parsed.signature != algorithm || !is_right(&algorithm) {
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

    /// How many certificates it names.
    pub(crate) fn len(&self) -> usize {
        self.revoked.len()
    }

    /// Whether it is of that issuer (DER), and names the serial number.
    pub(crate) fn names(&self, issuer: &[u8], serial: &[u8]) -> bool {
        self.issuer == issuer && self.revoked.binary_search_by(|found| found.as_slice().cmp(serial)).is_ok()
    }
}

/// Cuts a signed structure (certificate or revocation list) into what is signed, with what, and the signature. The
/// signature covers the bytes as they came, so they are cut out and never encoded again.
pub(crate) fn signed_parts(der: &[u8]) -> Result<(&[u8], AlgorithmIdentifierOwned, &[u8]), x509_cert::der::Error> {
    let mut reader = SliceReader::new(der)?;
    let parts = reader.sequence(|sequence| {
        let tbs = sequence.tlv_bytes()?;
        let algorithm = AlgorithmIdentifierOwned::decode(sequence)?;
        let signature = BitStringRef::decode(sequence)?;
        Ok((tbs, algorithm, signature.as_bytes().unwrap_or_default()))
    })?;
    reader.finish(parts)
}
