//! Certificates (AMD 57230).

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{KeyPair, RSA_PSS_SHA256, RSA_PSS_SHA384, RsaEncoding};
use x509_cert::der::asn1::{Any, BitString, Ia5String, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

use super::{Keys, NOW, Product};

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
    /// Common name of the subject.
    pub subject: &'static str,
    /// Common name of the issuer.
    pub issuer: &'static str,
    /// Serial number, of one byte.
    pub serial: u8,
    /// The public key.
    pub key: SubjectPublicKeyInfoOwned,
    /// All extensions.
    pub extensions: Vec<Extension>,
    /// First second of validity, in seconds since 1970.
    pub from: u64,
    /// Last second of validity, in seconds since 1970.
    pub to: u64,
    /// How it is signed.
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

    /// A VCEK in the line's layout.
    pub fn vcek(product: Product, issuer: &'static str, keys: &Keys) -> Self {
        let mut extensions = vec![
            amd("1", 0_u8.to_der().unwrap()),
            amd("2", Ia5String::new(product.name()).unwrap().to_der().unwrap()),
            amd("4", product.hw_id().to_vec()),
        ];
        // In the order of the TCB's bytes: boot loader is 1, TEE 2, SNP 3, microcode 8, FMC 9.
        let numbers = if product == Product::Turin { [9, 1, 2, 3, 5, 6, 7, 8] } else { [1, 2, 4, 5, 6, 7, 3, 8] };
        for (number, level) in numbers.into_iter().zip(product.tcb()) {
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

    /// A VLEK in the line's layout.
    pub fn vlek(product: Product, issuer: &'static str, keys: &Keys) -> Self {
        let mut cert = Self { subject: "SEV-VLEK", ..Self::vcek(product, issuer, keys) };
        cert.remove("4");
        cert.extensions.push(amd("5", Ia5String::new("CN=csp").unwrap().to_der().unwrap()));
        cert
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

impl Padding {
    pub(super) fn algorithm(self) -> AlgorithmIdentifierOwned {
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

    pub(super) fn sign(self, key: &RsaKeyPair, bytes: &[u8]) -> BitString {
        let encoding: &dyn RsaEncoding = match self {
            Self::Short | Self::Long => &RSA_PSS_SHA384,
            Self::Sha256 | Self::Lie => &RSA_PSS_SHA256,
        };
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(encoding, &SystemRandom::new(), bytes, &mut signature).unwrap();
        BitString::from_bytes(&signature).unwrap()
    }
}

pub(super) fn name(common_name: &str) -> Name {
    format!("CN={common_name},O=Test").parse().unwrap()
}

pub(super) fn time(seconds: u64) -> Time {
    Time::UtcTime(UtcTime::from_unix_duration(Duration::from_secs(seconds)).unwrap())
}

/// An extension below AMD's arc.
pub fn amd(below: &str, value: Vec<u8>) -> Extension {
    extension(&format!("1.3.6.1.4.1.3704.1.{below}"), false, value)
}

/// An extension.
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
