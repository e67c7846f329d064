//! Certificates and reports in AMD's shape, signed by keys that are public, with a knob for each thing that a
//! verifier must look at.
#![allow(missing_docs, reason = "fields are named as in the certificates")]

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA256, RSA_PSS_SHA384, RsaEncoding,
};
use belljar_evidence::snp::{REPORT_LEN, SIGNED_LEN};
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::der::asn1::{Any, BitString, Ia5String, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

pub use crate::NOW;

/// TCB of the VEK and of reports, in Milan's layout.
pub const TCB: [u8; 8] = [4, 1, 0, 0, 0, 0, 24, 219];
/// Chip of the VCEK and of reports.
pub const CHIP: [u8; 64] = [0xC4; 64];

/// Keys that AMD would hold.
#[derive(Debug)]
pub struct Keys {
    pub ark: RsaKeyPair,
    pub ask: RsaKeyPair,
    pub small: RsaKeyPair,
    pub vek: EcdsaKeyPair,
}

impl Keys {
    /// The keys of every run.
    pub fn new() -> Self {
        let rsa = |pkcs8: &[u8]| RsaKeyPair::from_pkcs8(pkcs8).unwrap();
        Self {
            ark: rsa(include_bytes!("../data/ark.pk8")),
            ask: rsa(include_bytes!("../data/ask.pk8")),
            small: rsa(include_bytes!("../data/small.pk8")),
            vek: EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, include_bytes!("../data/vek.pk8")).unwrap(),
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::new()
    }
}

/// How a certificate is signed.
#[derive(Clone, Copy, Debug)]
pub enum Padding {
    /// RSASSA-PSS with SHA-384, trailer field left out.
    Short,
    /// The same, trailer field written.
    Long,
    /// RSASSA-PSS with SHA-256.
    Sha256,
    /// Signed with SHA-256 while the parameters say SHA-384.
    Lie,
}

/// A certificate to be made.
#[derive(Clone, Debug)]
pub struct Cert {
    pub subject: &'static str,
    pub issuer: &'static str,
    /// Serial number, of one byte.
    pub serial: u8,
    pub key: SubjectPublicKeyInfoOwned,
    pub extensions: Vec<Extension>,
    pub from: u64,
    pub to: u64,
    pub padding: Padding,
}

impl Cert {
    /// An authority.
    pub fn authority(subject: &'static str, issuer: &'static str, key: &RsaKeyPair) -> Self {
        let mut cert = Self {
            subject,
            issuer,
            serial: 1,
            key: SubjectPublicKeyInfoOwned {
                algorithm: AlgorithmIdentifierOwned {
                    oid: "1.2.840.113549.1.1.1".parse().unwrap(),
                    parameters: Some(Any::null()),
                },
                subject_public_key: BitString::from_bytes(key.public_key().as_ref()).unwrap(),
            },
            extensions: Vec::new(),
            from: NOW - 1000,
            to: NOW + 1000,
            padding: Padding::Long,
        };
        cert.constrain(true, KeyUsages::KeyCertSign.into());
        cert
    }

    /// Replaces what the key may be used for.
    pub fn constrain(&mut self, ca: bool, usages: x509_cert::der::flagset::FlagSet<KeyUsages>) {
        let constraints = BasicConstraints { ca, path_len_constraint: None };
        self.extensions = vec![
            extension("2.5.29.19", true, constraints.to_der().unwrap()),
            extension("2.5.29.15", true, KeyUsage(usages).to_der().unwrap()),
        ];
    }

    /// A VCEK of Milan's layout.
    pub fn vcek(issuer: &'static str, keys: &Keys) -> Self {
        let [bl, tee, spl_4, spl_5, spl_6, spl_7, snp, ucode] = TCB;
        let mut extensions = vec![
            amd("1", 0_u8.to_der().unwrap()),
            amd("2", Ia5String::new("Milan-B0").unwrap().to_der().unwrap()),
            amd("4", CHIP.to_vec()),
        ];
        for (number, level) in (1..).zip([bl, tee, snp, spl_4, spl_5, spl_6, spl_7, ucode]) {
            extensions.push(amd(&format!("3.{number}"), level.to_der().unwrap()));
        }
        Self {
            subject: "SEV-VCEK",
            issuer,
            serial: 1,
            key: SubjectPublicKeyInfoOwned {
                algorithm: AlgorithmIdentifierOwned {
                    oid: "1.2.840.10045.2.1".parse().unwrap(),
                    parameters: Some(Any::encode_from(&"1.3.132.0.34".parse::<ObjectIdentifier>().unwrap()).unwrap()),
                },
                subject_public_key: BitString::from_bytes(keys.vek.public_key().as_ref()).unwrap(),
            },
            extensions,
            from: NOW - 500,
            to: NOW + 500,
            padding: Padding::Short,
        }
    }

    /// Takes out the extension below AMD's arc.
    pub fn remove(&mut self, below: &str) {
        let oid = amd(below, Vec::new()).extn_id;
        let before = self.extensions.len();
        self.extensions.retain(|extension| extension.extn_id != oid);
        assert_eq!(self.extensions.len(), before - 1);
    }

    /// Puts another value into the extension below AMD's arc.
    pub fn replace(&mut self, below: &str, value: Vec<u8>) {
        self.remove(below);
        self.extensions.push(amd(below, value));
    }

    /// Signs it.
    pub fn sign(&self, key: &RsaKeyPair) -> Vec<u8> {
        let algorithm = self.padding.algorithm();
        let tbs_certificate = TbsCertificate {
            version: Version::V3,
            serial_number: SerialNumber::new(&[self.serial]).unwrap(),
            signature: algorithm.clone(),
            issuer: name(self.issuer),
            validity: Validity { not_before: time(self.from), not_after: time(self.to) },
            subject: name(self.subject),
            subject_public_key_info: self.key.clone(),
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: Some(self.extensions.clone()),
        };
        let signature = self.padding.sign(key, &tbs_certificate.to_der().unwrap());
        Certificate { tbs_certificate, signature_algorithm: algorithm, signature }.to_der().unwrap()
    }
}

/// A revocation list to be made.
#[derive(Clone, Debug)]
pub struct List {
    pub issuer: &'static str,
    pub from: u64,
    pub to: Option<u64>,
    /// Serial numbers of one byte; those of certificates above are 1 where a test does not change them.
    pub serials: Vec<u8>,
    pub extensions: Vec<Extension>,
    /// Extensions of each entry.
    pub entry_extensions: Vec<Extension>,
    pub padding: Padding,
}

impl List {
    /// Of a root, naming nothing.
    pub fn new(issuer: &'static str) -> Self {
        Self {
            issuer,
            from: NOW - 500,
            to: Some(NOW + 500),
            serials: Vec::new(),
            extensions: Vec::new(),
            entry_extensions: Vec::new(),
            padding: Padding::Long,
        }
    }

    /// Signs it.
    pub fn sign(&self, key: &RsaKeyPair) -> Vec<u8> {
        let some = |extensions: &Vec<Extension>| (!extensions.is_empty()).then(|| extensions.clone());
        let revoked: Vec<RevokedCert> = self
            .serials
            .iter()
            .map(|serial| RevokedCert {
                serial_number: SerialNumber::new(&[*serial]).unwrap(),
                revocation_date: time(self.from),
                crl_entry_extensions: some(&self.entry_extensions),
            })
            .collect();
        let algorithm = self.padding.algorithm();
        let tbs_cert_list = TbsCertList {
            version: Version::V2,
            signature: algorithm.clone(),
            issuer: name(self.issuer),
            this_update: time(self.from),
            next_update: self.to.map(time),
            revoked_certificates: (!revoked.is_empty()).then_some(revoked),
            crl_extensions: some(&self.extensions),
        };
        let signature = self.padding.sign(key, &tbs_cert_list.to_der().unwrap());
        CertificateList { tbs_cert_list, signature_algorithm: algorithm, signature }.to_der().unwrap()
    }
}

impl Padding {
    fn algorithm(self) -> AlgorithmIdentifierOwned {
        let parameters = match self {
            Self::Short | Self::Lie => pss(2, &[]),
            Self::Long => pss(2, &[0xA3, 0x03, 0x02, 0x01, 0x01]),
            Self::Sha256 => pss(1, &[]),
        };
        AlgorithmIdentifierOwned {
            oid: "1.2.840.113549.1.1.10".parse().unwrap(),
            parameters: Some(Any::from_der(&parameters).unwrap()),
        }
    }

    fn sign(self, key: &RsaKeyPair, bytes: &[u8]) -> BitString {
        let encoding: &dyn RsaEncoding = match self {
            Self::Short | Self::Long => &RSA_PSS_SHA384,
            Self::Sha256 | Self::Lie => &RSA_PSS_SHA256,
        };
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(encoding, &SystemRandom::new(), bytes, &mut signature).unwrap();
        BitString::from_bytes(&signature).unwrap()
    }
}

fn name(common_name: &str) -> Name {
    format!("CN={common_name},O=Test").parse().unwrap()
}

fn time(seconds: u64) -> Time {
    Time::UtcTime(UtcTime::from_unix_duration(Duration::from_secs(seconds)).unwrap())
}

/// A report of version 3 of the chip, unsigned.
pub fn report() -> [u8; REPORT_LEN] {
    let mut report = [0; REPORT_LEN];
    report[0x00] = 3;
    report[0x0A] = 3;
    report[0x34] = 1;
    report[0x180..0x188].copy_from_slice(&TCB);
    report[0x188..0x18B].copy_from_slice(&[0x19, 0x01, 0x01]);
    report[0x1A0..0x1E0].copy_from_slice(&CHIP);
    report
}

/// Signs a report as firmware does.
pub fn sign(report: &mut [u8; REPORT_LEN], key: &EcdsaKeyPair) {
    let signature = key.sign(&SystemRandom::new(), &report[..SIGNED_LEN]).unwrap();
    for (half, offset) in signature.as_ref().chunks_exact(48).zip([SIGNED_LEN, SIGNED_LEN + 72]) {
        report[offset..offset + 48].copy_from_slice(half);
        report[offset..offset + 48].reverse();
    }
}

/// An extension below AMD's arc.
pub fn amd(below: &str, value: Vec<u8>) -> Extension {
    extension(&format!("1.3.6.1.4.1.3704.1.{below}"), false, value)
}

pub fn extension(oid: &str, critical: bool, value: Vec<u8>) -> Extension {
    Extension { extn_id: oid.parse().unwrap(), critical, extn_value: OctetString::new(value).unwrap() }
}

/// RSASSA-PSS-params for SHA-2 number `hash` (1 is SHA-256, 2 is SHA-384), with salt of the same length.
fn pss(hash: u8, trailer: &[u8]) -> Vec<u8> {
    let sha = [0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, hash, 0x05, 0x00];
    let mgf1 = [0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x08];
    let salt = [0xA2, 0x03, 0x02, 0x01, 16 * (hash + 1)];
    let body = [&[0xA0, 0x0F][..], &sha, &[0xA1, 0x1C, 0x30, 0x1A], &mgf1, &sha, &salt, trailer].concat();
    [&[0x30, u8::try_from(body.len()).unwrap()][..], &body].concat()
}
