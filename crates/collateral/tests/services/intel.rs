//! Documents and lists in Intel's shape, as a service answers them.

use std::sync::atomic::{AtomicU64, Ordering};

use belljar_evidence::pem;
use belljar_testpki::intel::{Cert, Document, Keys, List, qe_identity, sgx_tcb_info, tdx_tcb_info};
use belljar_testpki::rfc3339;

pub use belljar_testpki::NOW;
pub const DAY: u64 = 24 * 60 * 60;
pub const FMSPC: [u8; 6] = [0xB0, 0xC0, 0x6F, 0, 0, 0];

const ROOT: &str = "Intel SGX Root CA";
const PLATFORM: &str = "Intel SGX PCK Platform CA";
const PROCESSOR: &str = "Intel SGX PCK Processor CA";

/// A root with the authorities and the signer below it; each has keys of its own.
pub struct Intel {
    pub root: Vec<u8>,
    keys: Keys,
    root_pem: String,
    signer: Cert,
}

/// What a document or list says.
#[derive(Clone)]
pub struct Claims {
    pub id: &'static str,
    pub issued: u64,
    pub next_update: u64,
    pub number: u32,
    pub fmspc: [u8; 6],
}

impl Claims {
    pub fn of(id: &'static str) -> Self {
        Self { id, issued: NOW - DAY, next_update: NOW + 29 * DAY, number: 20, fmspc: FMSPC }
    }
}

/// A body with the header that comes with it.
pub struct Signed {
    pub body: Vec<u8>,
    pub chain: String,
}

impl Intel {
    pub fn new() -> Self {
        Self::with_signer("Intel SGX TCB Signing")
    }

    /// With another name of the signer.
    pub fn with_signer(signer: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let keys = Keys::new(NEXT.fetch_add(1, Ordering::Relaxed));
        let root = lasting(Cert::authority(ROOT, ROOT, 1, &keys.root, &keys.root)).der();
        let signer = lasting(Cert::leaf(signer, ROOT, 4, &keys.tcb, &keys.root));
        Self { root_pem: pem::encode(&root), root, keys, signer }
    }

    pub fn tcb_info(&self, claims: &Claims) -> Signed {
        let mut content = if claims.id == "TDX" { tdx_tcb_info() } else { sgx_tcb_info() };
        content["fmspc"] = claims.fmspc.iter().map(|byte| format!("{byte:02X}")).collect::<String>().into();
        self.document("tcbInfo", content, claims)
    }

    pub fn identity(&self, claims: &Claims) -> Signed {
        self.document("enclaveIdentity", qe_identity(claims.id), claims)
    }

    pub fn platform_list(&self, claims: &Claims) -> Signed {
        let authority = Cert::authority(PLATFORM, ROOT, 2, &self.keys.ca, &self.keys.root);
        Signed { body: list(List::new(PLATFORM, &self.keys.ca), claims), chain: self.header(authority) }
    }

    pub fn processor_list(&self, claims: &Claims) -> Signed {
        let authority = Cert::authority(PROCESSOR, ROOT, 3, &self.keys.other, &self.keys.root);
        Signed { body: list(List::new(PROCESSOR, &self.keys.other), claims), chain: self.header(authority) }
    }

    pub fn root_list(&self, claims: &Claims) -> Vec<u8> {
        list(List::new(ROOT, &self.keys.root), claims)
    }

    fn document(&self, member: &'static str, mut content: serde_json::Value, claims: &Claims) -> Signed {
        content["issueDate"] = rfc3339(claims.issued).into();
        content["nextUpdate"] = rfc3339(claims.next_update).into();
        content["tcbEvaluationDataNumber"] = claims.number.into();
        let document = Document { member, content, signer: self.keys.tcb.clone(), altered: None, prepared: None };
        Signed { body: document.text(), chain: self.header(self.signer.clone()) }
    }

    fn header(&self, leaf: Cert) -> String {
        header(&[lasting(leaf).pem(), self.root_pem.clone()].concat())
    }
}

/// A chain as it stands in a header: percent-encoded PEM.
pub fn header(pem: &str) -> String {
    pem.replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B").replace('=', "%3D")
}

fn lasting(cert: Cert) -> Cert {
    Cert { from: NOW - 1000 * DAY, to: NOW + 1000 * DAY, ..cert }
}

fn list(list: List, claims: &Claims) -> Vec<u8> {
    List { from: claims.issued, to: Some(claims.next_update), ..list }.der()
}
