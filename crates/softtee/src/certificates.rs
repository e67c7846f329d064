//! Certificates in AMD's layout: RSA-4096 authorities that sign with RSASSA-PSS and SHA-384, and a P-384 VCEK.
//!
//! Source: Versioned Chip Endorsement Key Certificate and KDS Interface Specification (AMD 57230). Only the names differ:
//! organisation and unit say what this is.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{KeyPair, RSA_PSS_SHA384};
use x509_cert::certificate::{Certificate, TbsCertificate, Version};
use x509_cert::der::asn1::{Any, BitString, GeneralizedTime, Ia5String, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::flagset::FlagSet;
use x509_cert::der::{Decode, Encode, Error, ErrorKind, Tag};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use crate::report::TCB;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// Below this stand the extensions of AMD 57230.
const AMD: &str = "1.3.6.1.4.1.3704.1";

/// RSASSA-PSS-params with SHA-384, MGF1 over SHA-384 and 48 bytes of salt (RFC 4055 §3.1), DER.
const PSS_SHA384: [u8; 54] = [
    0x30, 0x34, 0xA0, 0x0F, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00,
    0xA1, 0x1C, 0x30, 0x1A, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x08, 0x30, 0x0D, 0x06, 0x09,
    0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xA2, 0x03, 0x02, 0x01, 0x30,
];

/// Common name of the root.
pub(crate) const ARK: &str = "ARK-Belljar-Software";
/// Common name of the intermediate.
pub(crate) const ASK: &str = "SEV-Belljar-Software";
/// Product that the VCEK names: the one whose TCB layout the reports have.
const PRODUCT: &str = "Milan-B0";
/// Years that authorities are valid for.
const AUTHORITY_YEARS: u64 = 25;
/// Years that a VCEK is valid for.
const VCEK_YEARS: u64 = 7;
const YEAR: u64 = 365 * 24 * 3600;

/// An authority: its name and its key.
#[derive(Clone, Copy)]
pub(crate) struct Issuer<'a> {
    pub(crate) common_name: &'static str,
    pub(crate) key: &'a RsaKeyPair,
}

/// The certificate of the root or of the intermediate, DER. `now` in seconds since 1970.
pub(crate) fn authority(subject: Issuer<'_>, issuer: Issuer<'_>, now: u64) -> Result<Vec<u8>, Error> {
    let is_root = subject.common_name == issuer.common_name;
    let usages: FlagSet<KeyUsages> =
        if is_root { KeyUsages::KeyCertSign | KeyUsages::CRLSign } else { KeyUsages::KeyCertSign.into() };
    let constraints = BasicConstraints { ca: true, path_len_constraint: (!is_root).then_some(0) };
    let extensions = vec![
        extension(BASIC_CONSTRAINTS, true, constraints.to_der()?)?,
        extension(KEY_USAGE, true, KeyUsage(usages).to_der()?)?,
    ];
    let key = SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned { oid: RSA_ENCRYPTION, parameters: Some(Any::null()) },
        subject_public_key: BitString::from_bytes(subject.key.public_key().as_ref())?,
    };
    certificate(subject.common_name, key, extensions, AUTHORITY_YEARS, issuer, now)
}

/// The certificate of the endorsement key, DER. `point` is its uncompressed public key.
pub(crate) fn vcek(point: &[u8], chip_id: &[u8; 64], issuer: Issuer<'_>, now: u64) -> Result<Vec<u8>, Error> {
    let [bl, tee, spl_4, spl_5, spl_6, spl_7, snp, ucode] = TCB;
    let mut extensions = vec![
        extension(amd("1")?, false, 0_u8.to_der()?)?,
        extension(amd("2")?, false, Ia5String::new(PRODUCT)?.to_der()?)?,
    ];
    let levels = [bl, tee, snp, spl_4, spl_5, spl_6, spl_7, ucode];
    for (number, level) in (1..).zip(levels) {
        extensions.push(extension(amd(&format!("3.{number}"))?, false, level.to_der()?)?);
    }
    // AMD puts the bare bytes of the chip id here, not a DER value.
    extensions.push(extension(amd("4")?, false, chip_id.to_vec())?);
    let key = SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned { oid: EC_PUBLIC_KEY, parameters: Some(Any::encode_from(&SECP384R1)?) },
        subject_public_key: BitString::from_bytes(point)?,
    };
    certificate("SEV-VCEK", key, extensions, VCEK_YEARS, issuer, now)
}

fn certificate(
    subject: &str,
    subject_public_key_info: SubjectPublicKeyInfoOwned,
    extensions: Vec<Extension>,
    years: u64,
    issuer: Issuer<'_>,
    now: u64,
) -> Result<Vec<u8>, Error> {
    let algorithm = AlgorithmIdentifierOwned { oid: RSASSA_PSS, parameters: Some(Any::from_der(&PSS_SHA384)?) };
    // A day back, for clocks that differ.
    let not_before = now.saturating_sub(24 * 3600);
    // RFC 5280 §4.1.2.5: UTCTime up to the year 2049, GeneralizedTime from then on.
    let time = |seconds| {
        let since = Duration::from_secs(seconds);
        UtcTime::from_unix_duration(since)
            .map(Time::UtcTime)
            .or_else(|_| GeneralizedTime::from_unix_duration(since).map(Time::GeneralTime))
    };
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| failed())?;
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(&serial)?,
        signature: algorithm.clone(),
        issuer: name(issuer.common_name)?,
        validity: Validity { not_before: time(not_before)?, not_after: time(not_before + years * YEAR)? },
        subject: name(subject)?,
        subject_public_key_info,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions),
    };
    let mut signature = vec![0; issuer.key.public_modulus_len()];
    issuer
        .key
        .sign(&RSA_PSS_SHA384, &SystemRandom::new(), &tbs_certificate.to_der()?, &mut signature)
        .map_err(|_| failed())?;
    let signature = BitString::from_bytes(&signature)?;
    Certificate { tbs_certificate, signature_algorithm: algorithm, signature }.to_der()
}

/// A name that nobody takes for AMD's.
fn name(common_name: &str) -> Result<Name, Error> {
    format!("CN={common_name},O=Belljar software TEE - protects nothing,OU=Belljar software TEE - protects nothing")
        .parse()
}

fn amd(below: &str) -> Result<ObjectIdentifier, Error> {
    ObjectIdentifier::new(&format!("{AMD}.{below}")).map_err(Error::from)
}

fn extension(extn_id: ObjectIdentifier, critical: bool, value: Vec<u8>) -> Result<Extension, Error> {
    Ok(Extension { extn_id, critical, extn_value: OctetString::new(value)? })
}

fn failed() -> Error {
    Error::from(ErrorKind::Value { tag: Tag::BitString })
}
