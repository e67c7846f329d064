//! Certificate revocation lists (RFC 5280 section 5): what lists of every vendor have in common.

use x509_cert::certificate::Rfc5280;
use x509_cert::der::asn1::{BitStringRef, ContextSpecific, ObjectIdentifier};
use x509_cert::der::{Decode, Error, ErrorKind, Reader, SliceReader, Tag, TagNumber};
use x509_cert::ext::Extensions;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::time::Time;

use crate::x509::X509;

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

/// A revocation list of any vendor's, whose signature is still to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// What is signed.
    pub(crate) tbs: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    /// Name of the issuer, DER.
    pub(crate) issuer: Vec<u8>,
    this_update: u64,
    next_update: u64,
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
        let list = Fields::read(tbs).map_err(malformed)?;
        if list.algorithm != algorithm || !is_right(&algorithm) {
            return Err(CrlError::Algorithm);
        }
        let known = |oid| oid == CRL_NUMBER || oid == AUTHORITY_KEY_ID;
        for extension in list.extensions.iter().flatten() {
            if extension.critical && !known(extension.extn_id) {
                return Err(CrlError::Critical(extension.extn_id.to_string()));
            }
        }
        // A critical extension of an entry (a certificate issuer, say) could make it another authority's.
        if let Some(oid) = list.critical_entry {
            return Err(CrlError::Critical(oid.to_string()));
        }
        let mut revoked = list.revoked;
        revoked.sort_unstable();
        Ok(Self {
            tbs: tbs.to_vec(),
            signature: signature.to_vec(),
            issuer: list.issuer.to_vec(),
            this_update: list.this_update.to_unix_duration().as_secs(),
            next_update: list.next_update.ok_or(CrlError::NextUpdate)?.to_unix_duration().as_secs(),
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

    /// Whether the list is of the authority that issued the certificate, and names it.
    pub fn revokes(&self, certificate: &X509) -> bool {
        let serial = certificate.serial();
        self.issuer == certificate.issuer && self.revoked.binary_search_by(|found| found.as_slice().cmp(serial)).is_ok()
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

/// What TBSCertList (RFC 5280 §5.1) holds, read without a structure for each of its entries: lists can be long.
struct Fields<'a> {
    algorithm: AlgorithmIdentifierOwned,
    issuer: &'a [u8],
    this_update: Time,
    next_update: Option<Time>,
    revoked: Vec<Vec<u8>>,
    critical_entry: Option<ObjectIdentifier>,
    extensions: Option<Extensions>,
}

impl<'a> Fields<'a> {
    fn read(tbs: &'a [u8]) -> Result<Self, Error> {
        let mut reader = SliceReader::new(tbs)?;
        let fields = reader.sequence(|list| {
            // Entries and extensions are there in version 2 alone, which is written as 1.
            if u8::decode(list)? != 1 {
                return Err(ErrorKind::Failed.into());
            }
            let algorithm = AlgorithmIdentifierOwned::decode(list)?;
            let issuer = list.tlv_bytes()?;
            Name::from_der(issuer)?;
            let this_update = Time::decode(list)?;
            let is_time = |tag: Tag| matches!(tag, Tag::UtcTime | Tag::GeneralizedTime);
            let next_update = if next(list).is_some_and(is_time) { Some(Time::decode(list)?) } else { None };
            let (mut revoked, mut critical_entry) = (Vec::new(), None);
            if next(list) == Some(Tag::Sequence) {
                list.sequence(|entries| {
                    while !entries.is_finished() {
                        let (serial, critical) = entries.sequence(entry)?;
                        revoked.push(serial);
                        critical_entry = critical_entry.or(critical);
                    }
                    Ok(())
                })?;
            }
            let extensions = if list.is_finished() {
                None
            } else {
                ContextSpecific::decode_explicit(list, TagNumber::N0)?.map(|tagged| tagged.value)
            };
            Ok(Self { algorithm, issuer, this_update, next_update, revoked, critical_entry, extensions })
        })?;
        reader.finish(fields)
    }
}

fn next<'a>(reader: &impl Reader<'a>) -> Option<Tag> {
    if reader.is_finished() { None } else { reader.peek_header().ok().map(|header| header.tag) }
}

/// A revoked certificate: its serial number, and a critical extension where it has one.
fn entry<'a, R: Reader<'a>>(reader: &mut R) -> Result<(Vec<u8>, Option<ObjectIdentifier>), Error> {
    let serial = SerialNumber::<Rfc5280>::decode(reader)?.as_bytes().to_vec();
    Time::decode(reader)?;
    let extensions = if reader.is_finished() { None } else { Some(Extensions::decode(reader)?) };
    let critical = extensions.iter().flatten().find(|extension| extension.critical).map(|extension| extension.extn_id);
    Ok((serial, critical))
}
