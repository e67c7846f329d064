//! Certificates and revocation lists before they are signed.

use std::time::Duration;

use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::der::Encode;
use x509_cert::der::asn1::{Any, BitString, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::flagset::FlagSet;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

use crate::{EcKey, NOW};

/// What a certificate or a list says that it is signed with; it always is with ECDSA and SHA-256.
#[derive(Clone, Copy, Debug)]
pub enum Algorithm {
    /// ECDSA with SHA-256, as it is.
    EcdsaSha256,
    /// ECDSA with SHA-384 in both places.
    EcdsaSha384,
    /// ECDSA with SHA-384 outside, with SHA-256 inside.
    Lie,
}

impl Algorithm {
    fn inside(self) -> AlgorithmIdentifierOwned {
        let oid = match self {
            Self::EcdsaSha256 | Self::Lie => "1.2.840.10045.4.3.2",
            Self::EcdsaSha384 => "1.2.840.10045.4.3.3",
        };
        AlgorithmIdentifierOwned { oid: oid.parse().unwrap(), parameters: None }
    }

    fn outside(self) -> AlgorithmIdentifierOwned {
        match self {
            Self::Lie => Self::EcdsaSha384.inside(),
            other => other.inside(),
        }
    }
}

/// A certificate to be made.
#[derive(Clone, Debug)]
pub struct Cert {
    /// Common name of the subject.
    pub subject: String,
    /// Common name of the issuer.
    pub issuer: String,
    /// Serial number, a positive byte.
    pub serial: u8,
    /// The subject's key.
    pub key: EcKey,
    /// The key that signs.
    pub signer: EcKey,
    /// Basic constraints: whether an authority, and for how many below; `None` for no such extension.
    pub constraints: Option<(bool, Option<u8>)>,
    /// Key usage; `None` for no such extension.
    pub usages: Option<FlagSet<KeyUsages>>,
    /// Further extensions.
    pub extensions: Vec<Extension>,
    /// First second of its validity.
    pub from: u64,
    /// Last second of its validity.
    pub to: u64,
    /// What it says that it is signed with.
    pub algorithm: Algorithm,
}

impl Cert {
    /// An authority that signs certificates and lists.
    pub fn authority(subject: &str, issuer: &str, serial: u8, key: &EcKey, signer: &EcKey) -> Self {
        Self {
            subject: subject.to_owned(),
            issuer: issuer.to_owned(),
            serial,
            key: key.clone(),
            signer: signer.clone(),
            constraints: Some((true, None)),
            usages: Some(KeyUsages::KeyCertSign | KeyUsages::CRLSign),
            extensions: Vec::new(),
            from: NOW - 100_000,
            to: NOW + 100_000,
            algorithm: Algorithm::EcdsaSha256,
        }
    }

    /// A certificate that signs no certificates.
    pub fn leaf(subject: &str, issuer: &str, serial: u8, key: &EcKey, signer: &EcKey) -> Self {
        Self {
            constraints: Some((false, None)),
            usages: Some(KeyUsages::DigitalSignature | KeyUsages::NonRepudiation),
            from: NOW - 50_000,
            to: NOW + 50_000,
            ..Self::authority(subject, issuer, serial, key, signer)
        }
    }

    /// The signed certificate, DER.
    pub fn der(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        if let Some((ca, path_len_constraint)) = self.constraints {
            extensions.push(extension(
                "2.5.29.19",
                true,
                BasicConstraints { ca, path_len_constraint }.to_der().unwrap(),
            ));
        }
        if let Some(usages) = self.usages {
            extensions.push(extension("2.5.29.15", true, KeyUsage(usages).to_der().unwrap()));
        }
        extensions.extend(self.extensions.iter().cloned());
        let tbs_certificate = TbsCertificate {
            version: Version::V3,
            serial_number: SerialNumber::new(&[self.serial]).unwrap(),
            signature: self.algorithm.inside(),
            issuer: name(&self.issuer),
            validity: Validity { not_before: time(self.from), not_after: time(self.to) },
            subject: name(&self.subject),
            subject_public_key_info: SubjectPublicKeyInfoOwned {
                algorithm: AlgorithmIdentifierOwned {
                    oid: "1.2.840.10045.2.1".parse().unwrap(),
                    parameters: Some(
                        Any::encode_from(&"1.2.840.10045.3.1.7".parse::<ObjectIdentifier>().unwrap()).unwrap(),
                    ),
                },
                subject_public_key: BitString::from_bytes(self.key.point()).unwrap(),
            },
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: (!extensions.is_empty()).then_some(extensions),
        };
        let signature = BitString::from_bytes(&self.signer.sign_der(&tbs_certificate.to_der().unwrap())).unwrap();
        Certificate { tbs_certificate, signature_algorithm: self.algorithm.outside(), signature }.to_der().unwrap()
    }

    /// The signed certificate, PEM.
    pub fn pem(&self) -> String {
        belljar_evidence::pem::encode(&self.der())
    }
}

/// A revocation list to be made.
#[derive(Clone, Debug)]
pub struct List {
    /// Common name of the issuer.
    pub issuer: String,
    /// The key that signs.
    pub signer: EcKey,
    /// Serial numbers that it names.
    pub serials: Vec<u8>,
    /// When it was issued.
    pub from: u64,
    /// When the next one comes; `None` for no such field.
    pub to: Option<u64>,
    /// Extensions of the list.
    pub extensions: Vec<Extension>,
    /// Extensions of each entry.
    pub entry_extensions: Vec<Extension>,
    /// What it says that it is signed with.
    pub algorithm: Algorithm,
}

impl List {
    /// A list that names one certificate which nobody has.
    pub fn new(issuer: &str, signer: &EcKey) -> Self {
        Self {
            issuer: issuer.to_owned(),
            signer: signer.clone(),
            serials: vec![99],
            from: NOW - 1000,
            to: Some(NOW + 1000),
            extensions: Vec::new(),
            entry_extensions: Vec::new(),
            algorithm: Algorithm::EcdsaSha256,
        }
    }

    /// The signed list, DER.
    pub fn der(&self) -> Vec<u8> {
        let some = |extensions: &Vec<Extension>| (!extensions.is_empty()).then(|| extensions.clone());
        let entry = |serial: &u8| RevokedCert {
            serial_number: SerialNumber::new(&[*serial]).unwrap(),
            revocation_date: time(self.from),
            crl_entry_extensions: some(&self.entry_extensions),
        };
        let revoked: Vec<RevokedCert> = self.serials.iter().map(entry).collect();
        let tbs_cert_list = TbsCertList {
            version: Version::V2,
            signature: self.algorithm.inside(),
            issuer: name(&self.issuer),
            this_update: time(self.from),
            next_update: self.to.map(time),
            revoked_certificates: (!revoked.is_empty()).then_some(revoked),
            crl_extensions: some(&self.extensions),
        };
        let signature = BitString::from_bytes(&self.signer.sign_der(&tbs_cert_list.to_der().unwrap())).unwrap();
        CertificateList { tbs_cert_list, signature_algorithm: self.algorithm.outside(), signature }.to_der().unwrap()
    }
}

/// An extension.
pub fn extension(oid: &str, critical: bool, value: Vec<u8>) -> Extension {
    Extension { extn_id: oid.parse().unwrap(), critical, extn_value: OctetString::new(value).unwrap() }
}

fn name(common: &str) -> Name {
    format!("CN={common},O=Intel Corporation,L=Santa Clara,ST=CA,C=US").parse().unwrap()
}

fn time(seconds: u64) -> Time {
    Time::UtcTime(UtcTime::from_unix_duration(Duration::from_secs(seconds)).unwrap())
}

/// Reads back what was made, so that a knob that makes nonsense is noticed here.
#[cfg(test)]
mod tests {
    use x509_cert::der::Decode;

    use super::*;

    #[test]
    fn what_is_made_can_be_read() {
        let key = EcKey::new(1, "root");
        let cert = Cert::authority("Root", "Root", 1, &key, &key).der();
        assert_eq!(belljar_evidence::dcap::Certificate::parse(&cert).unwrap().subject_name(), "Root");
        assert!(Certificate::from_der(&cert).is_ok());
        let list = belljar_evidence::dcap::Crl::parse(&List::new("Root", &key).der()).unwrap();
        assert_eq!(list.len(), 1);
    }
}
