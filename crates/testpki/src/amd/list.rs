//! Revocation lists of a root.

use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use x509_cert::Version;
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::der::Encode;
use x509_cert::ext::Extension;
use x509_cert::serial_number::SerialNumber;

use super::cert::{name, time};
use super::{NOW, Padding};

/// A revocation list to be made.
#[derive(Clone, Debug)]
pub struct List {
    /// Common name of the issuer.
    pub issuer: &'static str,
    /// When it was issued, in seconds since 1970.
    pub from: u64,
    /// When the next one comes, in seconds since 1970.
    pub to: Option<u64>,
    /// Serial numbers of one byte; those of certificates above are 1 where a test does not change them.
    pub serials: Vec<u8>,
    /// Extensions of the list.
    pub extensions: Vec<Extension>,
    /// Extensions of each entry.
    pub entry_extensions: Vec<Extension>,
    /// How it is signed.
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
