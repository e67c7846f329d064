//! AMD's shape of certificates for the fake key distribution service.

use belljar_collateral::{Item, Product};
use belljar_evidence::pem;

use x509_cert::ext::pkix::KeyUsages;

use crate::pki::{self, CHIP, Cert, Keys, List, NOW, TCB};

/// A root, an authority, and what they sign.
pub struct Amd {
    keys: Keys,
    now: u64,
    pub ark: Vec<u8>,
    pub chain: Vec<u8>,
}

impl Amd {
    pub fn new() -> Self {
        Self::at(NOW)
    }

    /// With certificates that are valid at another time.
    pub fn at(now: u64) -> Self {
        let keys = Keys::new(1);
        let authority = |name, key| {
            let mut cert = Cert::authority(name, "ARK-Milan", key);
            (cert.from, cert.to) = (now - 1000, now + 1000);
            cert.constrain(true, KeyUsages::KeyCertSign | KeyUsages::CRLSign);
            cert.sign(&keys.ark)
        };
        let (ark, ask) = (authority("ARK-Milan", &keys.ark), authority("SEV-Milan", &keys.ask));
        let chain = [pem::encode(&ask), pem::encode(&ark)].concat().into_bytes();
        Self { keys, now, ark, chain }
    }

    /// The certificate of the chip, after `change`.
    pub fn vcek(&self, change: impl FnOnce(&mut Cert)) -> Vec<u8> {
        let mut cert = Cert::vcek(pki::Product::Milan, "SEV-Milan", &self.keys);
        (cert.from, cert.to) = (self.now - 500, self.now + 500);
        change(&mut cert);
        cert.sign(&self.keys.ask)
    }

    /// The revocation list of the product line, after `change`.
    pub fn list(&self, change: impl FnOnce(&mut List)) -> Vec<u8> {
        let mut list = List::new("ARK-Milan");
        (list.from, list.to) = (self.now - 500, Some(self.now + 500));
        change(&mut list);
        list.sign(&self.keys.ark)
    }

    /// The same, signed by another key than the authority's.
    pub fn forged(&self) -> Vec<u8> {
        Cert::vcek(pki::Product::Milan, "SEV-Milan", &self.keys).sign(&self.keys.ark)
    }
}

/// The chip of the certificate.
pub fn item() -> Item {
    Item::vcek(Product::Milan, &CHIP, TCB).unwrap()
}

/// Another chip.
pub fn other(byte: u8) -> Item {
    Item::vcek(Product::Milan, &[byte; 64], TCB).unwrap()
}

/// Where the item is asked for.
pub fn path(item: &Item) -> String {
    let Item::Vcek { hwid, .. } = item else { panic!("not a VCEK") };
    let hwid: String = hwid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("/vcek/v1/Milan/{hwid}?blSPL=04&teeSPL=01&snpSPL=24&ucodeSPL=219")
}

pub const LIST: &str = "/vcek/v1/Milan/crl";
pub const CHAIN: &str = "/vcek/v1/Milan/cert_chain";
