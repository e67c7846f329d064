//! X.509 certificates as Intel issues them: P-256 throughout, signed with ECDSA and SHA-256.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::KeyUsage;
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::anchors::Anchors;
use crate::anchors::{Profile, Root};
use crate::pem::{self, PemError};
use crate::x509::{Fault, X509};

/// Longest chain that is read, in bytes; real ones have 3700.
const MAX_CHAIN: usize = 32 * 1024;
/// Longest chain, in certificates.
const MAX_CERTIFICATES: usize = 8;

const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

/// Why bytes are not a certificate of Intel's profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// Not one DER-encoded X.509 certificate, or bytes follow it.
    #[error("not a DER-encoded certificate ({0}): fetch it again from its issuer")]
    Der(String),
    /// Not signed with ECDSA and SHA-256, or the two statements of the algorithm differ.
    #[error("certificate is not signed with ECDSA and SHA-256 as Intel signs: refuse it")]
    Algorithm,
    /// A public key that is not an uncompressed point of P-256. Whether it lies on the curve shows when it is used.
    #[error("certificate holds a key that is not a point on P-256: refuse it")]
    Key,
    /// A critical extension that we do not know.
    #[error("certificate has the unknown critical extension {0}: refuse it")]
    Critical(String),
    /// An extension that is there twice.
    #[error("certificate has the extension {0} twice: refuse it")]
    Twice(String),
}

impl From<Fault> for CertError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Der(why) => Self::Der(why),
            Fault::Algorithm(_) => Self::Algorithm,
            Fault::Twice(oid) => Self::Twice(oid),
        }
    }
}

/// Why bytes are not a chain of certificates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Too long to be one.
    #[error("certificate chain has {found} bytes, more than {MAX_CHAIN}: give one chain")]
    Length {
        /// Length of the input.
        found: usize,
    },
    /// Not PEM, or something else between the certificates.
    #[error("certificate chain is not PEM ({0}): give certificates in PEM, the leaf first")]
    Pem(String),
    /// No certificate in it, or too many.
    #[error("certificate chain has {0} certificates, 1 to {MAX_CERTIFICATES} are read")]
    Count(usize),
    /// One of them cannot be read.
    #[error("certificate {0} of the chain: {1}")]
    Certificate(usize, CertError),
}

/// One certificate of Intel's profile.
#[derive(Debug)]
pub struct Certificate {
    x509: X509,
    point: Vec<u8>,
    /// Made when it is first used: that costs as much as reading the rest.
    key: OnceLock<Option<ParsedPublicKey>>,
}

impl Deref for Certificate {
    type Target = X509;

    fn deref(&self) -> &X509 {
        &self.x509
    }
}

impl Profile for Certificate {
    fn read(der: &[u8]) -> Option<Self> {
        Self::parse(der).ok()
    }
}

impl Certificate {
    /// Reads one DER-encoded certificate; nothing may follow it.
    ///
    /// # Errors
    /// Any [`CertError`].
    pub fn parse(der: &[u8]) -> Result<Self, CertError> {
        let (x509, spki) = X509::read(der)?;
        if !is_ecdsa_sha256(&x509.algorithm) {
            return Err(CertError::Algorithm);
        }
        if let Some(oid) = x509.twice() {
            return Err(CertError::Twice(oid.to_string()));
        }
        if let Some(oid) = x509.unknown_critical(&[]) {
            return Err(CertError::Critical(oid.to_string()));
        }
        let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let point = spki.subject_public_key.as_bytes().ok_or(CertError::Key)?;
        if spki.algorithm.oid != EC_PUBLIC_KEY || curve != Some(SECP256R1) || point.len() != 65 {
            return Err(CertError::Key);
        }
        Ok(Self { x509, point: point.to_vec(), key: OnceLock::new() })
    }

    /// Uncompressed point of the key, 65 bytes.
    pub fn point(&self) -> &[u8] {
        &self.point
    }

    pub(super) fn extension(&self, oid: ObjectIdentifier) -> Option<&[u8]> {
        self.extensions(oid).next()
    }

    /// Whether this key signed the bytes; the signature is DER.
    pub(super) fn signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let key = self.key.get_or_init(|| ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).ok());
        key.as_ref().is_some_and(|key| key.verify_sig(bytes, signature).is_ok())
    }

    /// The key, for signatures of two numbers of 32 bytes.
    pub(super) fn fixed_key(&self) -> Option<ParsedPublicKey> {
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point).ok()
    }

    /// Whether this authority may sign revocation lists.
    pub(super) fn signs_lists(&self) -> bool {
        self.authority.is_some() && self.allows(KeyUsage::crl_sign)
    }

    /// Without a key usage, the key may do everything (RFC 5280 §6.1.4 (n) and §6.3.3 (f)).
    fn allows(&self, use_: fn(&KeyUsage) -> bool) -> bool {
        self.usage.as_ref().is_none_or(use_)
    }

    /// Whether this certificate issued and signed the other one, with `below` authorities between that and a leaf.
    fn issued(&self, other: &Self, below: usize) -> bool {
        let within = self.authority.is_some_and(|limit| limit.is_none_or(|limit| below <= usize::from(limit)));
        let allowed = within && self.allows(KeyUsage::key_cert_sign);
        allowed && other.issuer == self.subject && self.signed(&other.tbs, &other.signature)
    }
}

/// A chain of certificates, the leaf first, each issued by the next.
#[derive(Debug)]
pub struct Chain {
    certificates: Vec<Arc<Certificate>>,
}

impl Chain {
    /// Reads a chain in PEM. Between the certificates there is white space alone; zero bytes may follow them, as in quotes.
    ///
    /// # Errors
    /// Any [`ChainError`].
    pub fn parse(text: &[u8]) -> Result<Self, ChainError> {
        Self::parse_under(text, &Anchors::none())
    }

    /// The same; a certificate that is an anchor is not read again.
    pub(super) fn parse_under(text: &[u8], anchors: &Anchors) -> Result<Self, ChainError> {
        if text.len() > MAX_CHAIN {
            return Err(ChainError::Length { found: text.len() });
        }
        let blocks = pem_blocks(text)?;
        if blocks.is_empty() || blocks.len() > MAX_CERTIFICATES {
            return Err(ChainError::Count(blocks.len()));
        }
        let read = |(number, der): (usize, &Vec<u8>)| match anchors.certificate(der) {
            Some(anchor) => Ok(anchor),
            None => Certificate::parse(der).map(Arc::new).map_err(|error| ChainError::Certificate(number, error)),
        };
        let certificates = (1..).zip(&blocks).map(read).collect::<Result<_, _>>()?;
        Ok(Self { certificates })
    }

    /// A chain without certificates, for a document whose signer is supposed.
    pub(super) fn none() -> Self {
        Self { certificates: Vec::new() }
    }

    /// Reads arbitrary bytes, also as one certificate; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = (Self::parse(data), Certificate::parse(data));
    }

    /// The certificates, the leaf first.
    pub fn certificates(&self) -> impl DoubleEndedIterator<Item = &Certificate> {
        self.certificates.iter().map(Arc::as_ref)
    }

    /// The first certificate.
    pub fn leaf(&self) -> Option<&Certificate> {
        self.certificates.first().map(Arc::as_ref)
    }

    /// The certificate that issued the leaf, where the chain has it.
    pub fn issuer(&self) -> Option<&Certificate> {
        self.certificates.get(1).map(Arc::as_ref)
    }

    /// First and last second at which all of them are valid, in seconds since 1970.
    pub fn window(&self) -> Option<(u64, u64)> {
        let from = self.certificates().map(|one| one.not_before()).max()?;
        Some((from, self.certificates().map(|one| one.not_after()).min()?))
    }

    /// The certificate that is not valid at that time.
    pub fn outside(&self, at: u64) -> Option<&Certificate> {
        self.certificates().find(|one| !one.is_valid_at(at))
    }

    /// Follows the chain from the leaf to an anchor, which becomes its last certificate where the chain leaves it out.
    ///
    /// # Errors
    /// What breaks it, in words.
    pub(super) fn complete(&mut self, anchors: &Anchors) -> Result<Root, String> {
        for (below, pair) in self.certificates.windows(2).enumerate() {
            if let [subject, issuer] = pair
                && !issuer.issued(subject, below)
            {
                return Err(format!("{} did not issue and sign {}", issuer.subject_name(), subject.subject_name()));
            }
        }
        let last = self.certificates.last().ok_or("the chain is empty")?;
        if let Some(root) = anchors.root(last.der()) {
            return Ok(root);
        }
        let below = self.certificates.len().saturating_sub(1);
        let by_name = anchors.certificates().find(|(anchor, _)| {
            last.issuer != last.subject && anchor.subject == last.issuer && anchor.issued(last, below)
        });
        let (anchor, root) =
            by_name.ok_or_else(|| format!("{} is no anchor and was issued by none", last.subject_name()))?;
        self.certificates.push(Arc::clone(anchor));
        Ok(root)
    }

    /// The last certificate: of a chain that was completed, the anchor.
    pub(super) fn last(&self) -> Option<&Certificate> {
        self.certificates.last().map(Arc::as_ref)
    }
}

/// Whether a signed structure of Intel's names its algorithm as it must.
pub(super) fn is_ecdsa_sha256(algorithm: &AlgorithmIdentifierOwned) -> bool {
    algorithm.oid == ECDSA_WITH_SHA256 && algorithm.parameters.is_none()
}

fn pem_blocks(text: &[u8]) -> Result<Vec<Vec<u8>>, ChainError> {
    let zeros = text.iter().rev().take_while(|&&byte| byte == 0).count();
    let text = text.get(..text.len().saturating_sub(zeros)).unwrap_or_default();
    pem::certificates(text, MAX_CERTIFICATES).map_err(|error| match error {
        PemError::Count(most) => ChainError::Count(most.saturating_add(1)),
        PemError::Pem(why) => ChainError::Pem(why),
    })
}
