//! Certificates of a TPM's keys: a chain from the endorsement key (EK) or attestation key (AK) to an anchor of the caller's.
//!
//! TCG EK Credential Profile; RFC 5280. Names of the subjects decide nothing here: the key and its purpose do.

use std::ops::Deref;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, UnparsedPublicKey,
};
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::Hash;
use super::key::{KeyError, PublicKey};
use super::signature::{Scheme, Signature};
use crate::time::rfc3339;
use crate::x509::{Fault, MAX_CERTIFICATE, X509};

/// Longest chain and longest list of anchors, in certificates.
pub const MAX_CERTIFICATES: usize = 16;

const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const ANY_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const NAME_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.30");
const CERTIFICATE_POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.32");

/// Which key of a TPM a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Endorsement key: extended key usage 2.23.133.8.1, and key usage for encipherment or agreement.
    EndorsementKey,
    /// Attestation key: extended key usage 2.23.133.8.3, and key usage for signatures.
    AttestationKey,
}

impl Purpose {
    fn oid(self) -> ObjectIdentifier {
        match self {
            Self::EndorsementKey => ObjectIdentifier::new_unwrap("2.23.133.8.1"),
            Self::AttestationKey => ObjectIdentifier::new_unwrap("2.23.133.8.3"),
        }
    }
}

/// Why a certificate chain does not show whose the key is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// No certificate, or too many, or no anchor.
    #[error("{0} certificates and {1} anchors were given: give 1 to {MAX_CERTIFICATES} of each")]
    Count(usize, usize),
    /// Too long to be a certificate.
    #[error("certificate has {0} bytes, more than {MAX_CERTIFICATE}: give one certificate in DER")]
    Length(usize),
    /// Not one DER-encoded X.509 certificate, or bytes follow it.
    #[error("not a DER-encoded certificate ({0}): fetch it again from its issuer")]
    Der(String),
    /// Signed otherwise than with RSASSA-PKCS1 or ECDSA and SHA-256 or SHA-384, or the two statements of it differ.
    #[error("certificate is signed with {0}, not with RSASSA-PKCS1 or ECDSA and SHA-256 or SHA-384: refuse it")]
    Algorithm(String),
    /// A public key that is not one of ours.
    #[error("key of a certificate: {0}")]
    Key(#[from] KeyError),
    /// A critical extension that we do not know, or a constraint on names, which is not followed here.
    #[error("certificate has the extension {0}, which is not understood: refuse it")]
    Critical(String),
    /// An extension that is there twice.
    #[error("certificate has the extension {0} twice: refuse it")]
    Twice(String),
    /// Not valid at the time that is judged at.
    #[error(
        "certificate is valid from {} to {} and not at {}: get a current one",
        rfc3339(*.from), rfc3339(*.to), rfc3339(*.at)
    )]
    Window {
        /// First second, since 1970.
        from: u64,
        /// Last second, since 1970.
        to: u64,
        /// When it was judged, in seconds since 1970.
        at: u64,
    },
    /// The certificate may not be used for that key.
    #[error("certificate does not say that its key is for {0}: give the certificate of that key")]
    Purpose(&'static str),
    /// A certificate was not issued by the next one of the chain.
    #[error("certificate {0} of the chain was not issued by the next one: {1}")]
    Issuer(usize, Refused),
    /// The last certificate is no anchor, and none has issued it.
    #[error("the last certificate is no anchor and was issued by none: give the chain up to an anchor")]
    Anchor,
}

impl From<Fault> for CertificateError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Der(why) => Self::Der(why),
            Fault::Algorithm(oid) => Self::Algorithm(oid),
            Fault::Twice(oid) => Self::Twice(oid),
        }
    }
}

/// Why a certificate is not the issuer of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Its name is another one than the issuer's.
    #[error("the names differ")]
    Name,
    /// It is no authority, or its key usage does not say that it signs certificates.
    #[error("that is no authority for certificates")]
    Authority,
    /// More authorities are below it than it allows.
    #[error("its path length is exceeded")]
    PathLength,
    /// It states purposes, and the leaf's is not among them.
    #[error("that is an authority for other purposes")]
    Purpose,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Signature,
}

/// Follows a chain (DER, the leaf first) to one of the anchors (DER), and gives the key that it certifies.
///
/// Each certificate, and the anchor, must be valid at `at` (seconds since 1970). Revocation is not looked at: makers of
/// TPMs publish lists under addresses of their own, and a caller that has one must look at it.
///
/// # Errors
/// Any [`CertificateError`].
pub fn verify(
    chain: &[Vec<u8>],
    anchors: &[Vec<u8>],
    purpose: Purpose,
    at: u64,
) -> Result<PublicKey, CertificateError> {
    let counts = 1..=MAX_CERTIFICATES;
    if !counts.contains(&chain.len()) || !counts.contains(&anchors.len()) {
        return Err(CertificateError::Count(chain.len(), anchors.len()));
    }
    let (certificates, roots) = (read(chain)?, read(anchors)?);
    let (Some(leaf), Some(last)) = (certificates.first(), certificates.last()) else {
        return Err(CertificateError::Count(chain.len(), anchors.len()));
    };
    leaf.is_for(purpose)?;
    for certificate in &certificates {
        certificate.valid(at)?;
    }
    for (below, pair) in certificates.windows(2).enumerate() {
        if let [subject, issuer] = pair {
            let number = below.saturating_add(1);
            issuer.issued(subject, below, purpose).map_err(|why| CertificateError::Issuer(number, why))?;
        }
    }
    // An anchor at the end of the chain was valid and has issued what is below it, as any certificate there.
    if chain.last().is_some_and(|der| anchors.contains(der)) {
        return Ok(leaf.key.clone());
    }
    let below = certificates.len().saturating_sub(1);
    let root = roots.iter().find(|root| root.issued(last, below, purpose).is_ok()).ok_or(CertificateError::Anchor)?;
    root.valid(at)?;
    Ok(leaf.key.clone())
}

fn read(list: &[Vec<u8>]) -> Result<Vec<Certificate>, CertificateError> {
    list.iter().map(|der| Certificate::parse(der)).collect()
}

/// Reads arbitrary bytes as one certificate; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = Certificate::parse(data);
}

/// One certificate of a TPM's key, or of an authority for them.
struct Certificate {
    x509: X509,
    key: PublicKey,
    purposes: Option<Vec<ObjectIdentifier>>,
}

impl Deref for Certificate {
    type Target = X509;

    fn deref(&self) -> &X509 {
        &self.x509
    }
}

impl Certificate {
    fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE {
            return Err(CertificateError::Length(der.len()));
        }
        let malformed = |error: x509_cert::der::Error| CertificateError::Der(error.to_string());
        let (x509, spki) = X509::read(der)?;
        if !is_known(&x509.algorithm) {
            return Err(CertificateError::Algorithm(x509.algorithm.oid.to_string()));
        }
        if let Some(oid) = x509.twice() {
            return Err(CertificateError::Twice(oid.to_string()));
        }
        // The TPM's maker and model, and policies: any of them is taken, so that they decide nothing.
        let unknown = x509.unknown_critical(&[EXTENDED_KEY_USAGE, SUBJECT_ALT_NAME, CERTIFICATE_POLICIES]);
        let constrained = x509.extensions(NAME_CONSTRAINTS).next().map(|_| NAME_CONSTRAINTS);
        if let Some(oid) = constrained.or(unknown) {
            return Err(CertificateError::Critical(oid.to_string()));
        }
        let purposes = x509.extensions(EXTENDED_KEY_USAGE).next().map(ExtendedKeyUsage::from_der).transpose();
        let purposes = purposes.map_err(malformed)?.map(|usage| usage.0);
        let key = PublicKey::from_spki(&spki.to_der().map_err(malformed)?)?;
        Ok(Self { x509, key, purposes })
    }

    fn valid(&self, at: u64) -> Result<(), CertificateError> {
        if self.is_valid_at(at) {
            return Ok(());
        }
        Err(CertificateError::Window { from: self.not_before(), to: self.not_after(), at })
    }

    /// As a leaf: no authority; the extended key usage must be there and name the purpose; a key usage must allow it.
    fn is_for(&self, purpose: Purpose) -> Result<(), CertificateError> {
        let named = self.authority.is_none()
            && self.purposes.as_ref().is_some_and(|purposes| purposes.contains(&purpose.oid()));
        let allowed = |usage: &KeyUsage| match purpose {
            Purpose::EndorsementKey => usage.key_encipherment() || usage.key_agreement(),
            Purpose::AttestationKey => usage.digital_signature(),
        };
        if named && self.usage.as_ref().is_none_or(allowed) {
            return Ok(());
        }
        Err(CertificateError::Purpose(match purpose {
            Purpose::EndorsementKey => "an endorsement key of a TPM",
            Purpose::AttestationKey => "an attestation key of a TPM",
        }))
    }

    /// Whether this certificate issued and signed the other one, with `below` authorities between that and a leaf.
    fn issued(&self, other: &Self, below: usize, purpose: Purpose) -> Result<(), Refused> {
        if other.issuer != self.subject {
            return Err(Refused::Name);
        }
        let limit = self.authority.ok_or(Refused::Authority)?;
        if !self.usage.as_ref().is_none_or(KeyUsage::key_cert_sign) {
            return Err(Refused::Authority);
        }
        if limit.is_some_and(|limit| below > usize::from(limit)) {
            return Err(Refused::PathLength);
        }
        let fits = |purposes: &Vec<_>| purposes.contains(&purpose.oid()) || purposes.contains(&ANY_PURPOSE);
        if !self.purposes.as_ref().is_none_or(fits) {
            return Err(Refused::Purpose);
        }
        if !signed(&self.key, other) {
            return Err(Refused::Signature);
        }
        Ok(())
    }
}

/// RFC 4055 wants NULL as parameters of RSA, RFC 5758 none for ECDSA.
fn is_known(algorithm: &AlgorithmIdentifierOwned) -> bool {
    match algorithm.oid {
        RSA_SHA256 | RSA_SHA384 => algorithm.parameters.as_ref().is_some_and(|any| AnyRef::from(any).is_null()),
        ECDSA_SHA256 | ECDSA_SHA384 => algorithm.parameters.is_none(),
        _ => false,
    }
}

fn signed(key: &PublicKey, certificate: &Certificate) -> bool {
    let rsa = |hash| {
        let signature = Signature { scheme: Scheme::RsaSsa, hash, numbers: vec![certificate.signature.clone()] };
        matches!(key, PublicKey::Rsa { .. }) && key.signed(&certificate.tbs, &signature)
    };
    let size = match key {
        PublicKey::Ec { size, .. } => *size,
        PublicKey::Rsa { .. } => 0,
    };
    let algorithm = match (certificate.algorithm.oid, size) {
        (RSA_SHA256, _) => return rsa(Hash::Sha256),
        (RSA_SHA384, _) => return rsa(Hash::Sha384),
        (ECDSA_SHA256, 32) => &ECDSA_P256_SHA256_ASN1,
        (ECDSA_SHA384, 32) => &ECDSA_P256_SHA384_ASN1,
        (ECDSA_SHA256, 48) => &ECDSA_P384_SHA256_ASN1,
        (ECDSA_SHA384, 48) => &ECDSA_P384_SHA384_ASN1,
        _ => return false,
    };
    let PublicKey::Ec { point, .. } = key else { return false };
    UnparsedPublicKey::new(algorithm, point).verify(&certificate.tbs, &certificate.signature).is_ok()
}
