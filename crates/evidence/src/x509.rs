//! X.509 certificates (RFC 5280 section 4): what certificates of every vendor have in common. Which keys, signatures and
//! extensions are taken is each vendor's profile: [`crate::snp::Certificate`], [`crate::dcap::Certificate`],
//! [`crate::tpm::certificate`].

use x509_cert::TbsCertificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Encode, Error};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::name::Name;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::crl::signed_parts;
use crate::time::rfc3339;

/// Longest certificate that is read, in bytes; vendors' have about 1700.
pub(crate) const MAX_CERTIFICATE: usize = 16 * 1024;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");

/// Why bytes are no certificate of any profile.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Not one DER-encoded certificate, or bytes follow it.
    Der(String),
    /// It is signed with another algorithm than it says inside; the one outside.
    Algorithm(String),
    /// An extension that is there twice.
    Twice(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Der(error.to_string())
    }
}

/// A certificate of any profile, whose signature is still to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509 {
    der: Vec<u8>,
    /// What is signed.
    pub(crate) tbs: Vec<u8>,
    pub(crate) algorithm: AlgorithmIdentifierOwned,
    /// The signature; empty when it is not whole bytes.
    pub(crate) signature: Vec<u8>,
    /// Name of the issuer, DER.
    pub(crate) issuer: Vec<u8>,
    /// Name of the subject, DER.
    pub(crate) subject: Vec<u8>,
    issuer_name: String,
    subject_name: String,
    serial: Vec<u8>,
    not_before: u64,
    not_after: u64,
    /// Path length, `None` inside for no limit; outer `None` when it is no authority.
    pub(crate) authority: Option<Option<u8>>,
    pub(crate) usage: Option<KeyUsage>,
    extensions: Vec<Extension>,
}

impl X509 {
    /// Reads one DER-encoded certificate, behind which nothing may follow, and its key.
    pub(crate) fn read(der: &[u8]) -> Result<(Self, SubjectPublicKeyInfoOwned), Fault> {
        if der.len() > MAX_CERTIFICATE {
            return Err(Fault::Der(format!("it has {} bytes, more than {MAX_CERTIFICATE}", der.len())));
        }
        let (tbs, algorithm, signature) = signed_parts(der)?;
        let parsed = TbsCertificate::from_der(tbs)?;
        if parsed.signature != algorithm {
            return Err(Fault::Algorithm(algorithm.oid.to_string()));
        }
        let extensions = parsed.extensions.unwrap_or_default();
        let one = |oid| {
            let mut found = extensions.iter().filter(|extension| extension.extn_id == oid);
            match (found.next(), found.next()) {
                (first, None) => Ok(first.map(|extension| extension.extn_value.as_bytes())),
                _ => Err(Fault::Twice(oid.to_string())),
            }
        };
        let constraints = one(BASIC_CONSTRAINTS)?.map(BasicConstraints::from_der).transpose()?;
        let usage = one(KEY_USAGE)?.map(KeyUsage::from_der).transpose()?;
        let certificate = Self {
            der: der.to_vec(),
            tbs: tbs.to_vec(),
            algorithm,
            signature: signature.to_vec(),
            issuer: parsed.issuer.to_der()?,
            subject: parsed.subject.to_der()?,
            issuer_name: common_name(&parsed.issuer),
            subject_name: common_name(&parsed.subject),
            serial: parsed.serial_number.as_bytes().to_vec(),
            not_before: parsed.validity.not_before.to_unix_duration().as_secs(),
            not_after: parsed.validity.not_after.to_unix_duration().as_secs(),
            authority: constraints
                .filter(|constraints| constraints.ca)
                .map(|constraints| constraints.path_len_constraint),
            usage,
            extensions,
        };
        Ok((certificate, parsed.subject_public_key_info))
    }

    /// The certificate as it was read.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Common name of the subject.
    pub fn subject_name(&self) -> &str {
        &self.subject_name
    }

    /// Common name of the issuer.
    pub fn issuer_name(&self) -> &str {
        &self.issuer_name
    }

    /// Serial number, most significant byte first.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// First second at which the certificate is valid, in seconds since 1970.
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// Last second at which the certificate is valid, in seconds since 1970.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Whether it is valid at that time.
    pub(crate) fn is_valid_at(&self, at: u64) -> bool {
        (self.not_before..=self.not_after).contains(&at)
    }

    /// When it is valid, for a person.
    pub(crate) fn window_in_words(&self) -> String {
        format!("{} is valid from {} to {}", self.subject_name, rfc3339(self.not_before), rfc3339(self.not_after))
    }

    /// Values of the extensions of that name, DER.
    pub(crate) fn extensions(&self, oid: ObjectIdentifier) -> impl Iterator<Item = &[u8]> {
        let of_name = self.extensions.iter().filter(move |extension| extension.extn_id == oid);
        of_name.map(|extension| extension.extn_value.as_bytes())
    }

    /// An extension that is there twice.
    pub(crate) fn twice(&self) -> Option<ObjectIdentifier> {
        let all = || self.extensions.iter().map(|extension| extension.extn_id);
        all().enumerate().find(|(at, oid)| all().take(*at).any(|before| before == *oid)).map(|(_, oid)| oid)
    }

    /// A critical extension that is none of those that are read here and none that the profile knows.
    pub(crate) fn unknown_critical(&self, known: &[ObjectIdentifier]) -> Option<ObjectIdentifier> {
        let is_known = |oid| [BASIC_CONSTRAINTS, KEY_USAGE].contains(&oid) || known.contains(&oid);
        let unknown = |extension: &&Extension| extension.critical && !is_known(extension.extn_id);
        self.extensions.iter().find(unknown).map(|extension| extension.extn_id)
    }
}

fn common_name(name: &Name) -> String {
    let values = name.0.iter().flat_map(|rdn| rdn.0.iter()).filter(|attribute| attribute.oid == COMMON_NAME);
    values.map(|attribute| String::from_utf8_lossy(attribute.value.value())).collect::<Vec<_>>().join("+")
}
