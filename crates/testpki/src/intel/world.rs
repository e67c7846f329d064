//! Everything at once, before it is signed.

use aws_lc_rs::digest::{Context, SHA256};
use belljar_evidence::dcap::{Anchors, Collateral};
use x509_cert::der::asn1::{ObjectIdentifier, OctetString, SequenceOf};
use x509_cert::der::{Encode, asn1::Any};

use super::cert::{Cert, List, extension};
use super::documents::{Document, qe_identity, sgx_tcb_info, tdx_tcb_info};
use super::quote::{EnclaveShape, QuoteShape, TdShape};
use crate::EcKey;

const ROOT: &str = "Intel SGX Root CA";
const PLATFORM_CA: &str = "Intel SGX PCK Platform CA";

/// Keys under one seed.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The root's.
    pub root: EcKey,
    /// The PCK authority's.
    pub ca: EcKey,
    /// The PCK.
    pub pck: EcKey,
    /// The TCB signer's.
    pub tcb: EcKey,
    /// The attestation key.
    pub attestation: EcKey,
    /// One of nobody's.
    pub other: EcKey,
}

impl Keys {
    /// The keys of a seed.
    pub fn new(seed: u64) -> Self {
        let key = |name| EcKey::new(seed, name);
        Self {
            root: key("root"),
            ca: key("ca"),
            pck: key("pck"),
            tcb: key("tcb"),
            attestation: key("attestation"),
            other: key("other"),
        }
    }
}

/// What the PCK's certificate says of its platform (Intel's PCK certificate profile).
#[derive(Clone, Debug)]
pub struct Sgx {
    /// Security versions of the components.
    pub components: [u8; 16],
    /// Security version of the PCE.
    pub pce_svn: u16,
    /// PCE id.
    pub pce_id: [u8; 2],
    /// FMSPC.
    pub fmspc: [u8; 6],
}

impl Sgx {
    /// A platform at the newest level of the documents of this crate.
    pub fn newest() -> Self {
        Self { components: [5; 16], pce_svn: 13, pce_id: [0, 0], fmspc: [0x00, 0x90, 0x6E, 0xD5, 0, 0] }
    }

    /// The extension's value.
    pub fn value(&self) -> Vec<u8> {
        let octets = |bytes: &[u8]| Any::encode_from(&OctetString::new(bytes).unwrap()).unwrap();
        let number = |value: u16| Any::encode_from(&value).unwrap();
        let pair = |arcs: &str, value: Any| -> Any {
            let oid: ObjectIdentifier = format!("1.2.840.113741.1.13.1.{arcs}").parse().unwrap();
            list(vec![Any::encode_from(&oid).unwrap(), value])
        };
        let mut tcb: Vec<Any> =
            (1..).zip(self.components).map(|(n, svn)| pair(&format!("2.{n}"), number(svn.into()))).collect();
        tcb.push(pair("2.17", number(self.pce_svn)));
        tcb.push(pair("2.18", octets(&self.components)));
        let all = vec![
            pair("1", octets(&[0x99; 16])),
            pair("2", list(tcb)),
            pair("3", octets(&self.pce_id)),
            pair("4", octets(&self.fmspc)),
            pair("5", Any::new(x509_cert::der::Tag::Enumerated, [1]).unwrap()),
        ];
        list(all).to_der().unwrap()
    }
}

/// A sequence of anything.
fn list(items: Vec<Any>) -> Any {
    let mut sequence = SequenceOf::<Any, 24>::new();
    for item in items {
        sequence.add(item).unwrap();
    }
    Any::encode_from(&sequence).unwrap()
}

/// Everything of one verification, before it is signed. All fields are there to be changed.
#[derive(Clone, Debug)]
pub struct World {
    /// The keys.
    pub keys: Keys,
    /// The root, which is the anchor.
    pub root: Cert,
    /// The PCK authority.
    pub ca: Cert,
    /// The PCK's certificate; the extension is added when it is made.
    pub pck: Cert,
    /// The platform; `None` leaves the extension out.
    pub sgx: Option<Sgx>,
    /// The TCB signer.
    pub tcb_signer: Cert,
    /// The identity's signer, when it is another one.
    pub qe_signer: Option<Cert>,
    /// The authority's list.
    pub pck_crl: List,
    /// The root's list.
    pub root_crl: List,
    /// TCB info.
    pub tcb_info: Document,
    /// QE identity.
    pub qe_identity: Document,
    /// The quote.
    pub quote: QuoteShape,
    /// Whether the root's certificate is part of the chains.
    pub chains_have_root: bool,
    /// The key that signs the QE's report.
    pub qe_report_signer: EcKey,
    /// The key that signs header and body.
    pub quote_signer: EcKey,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The quote.
    pub quote: Vec<u8>,
    /// The PCK chain, PEM; the quote holds it when its certification data is of type 5.
    pub pck_chain: Vec<u8>,
    /// The collateral.
    pub collateral: Collateral,
    /// The root, DER.
    pub root: Vec<u8>,
}

impl Made {
    /// The root as an anchor for tests.
    pub fn anchors(&self) -> Anchors {
        Anchors::none().with_test_root(&self.root)
    }
}

impl World {
    /// A TD's quote of version 4, up to date in everything.
    pub fn tdx4(seed: u64) -> Self {
        let keys = Keys::new(seed);
        Self {
            root: Cert::authority(ROOT, ROOT, 1, &keys.root, &keys.root),
            ca: Cert::authority(PLATFORM_CA, ROOT, 2, &keys.ca, &keys.root),
            pck: Cert::leaf("Intel SGX PCK Certificate", PLATFORM_CA, 3, &keys.pck, &keys.ca),
            sgx: Some(Sgx::newest()),
            tcb_signer: Cert::leaf("Intel SGX TCB Signing", ROOT, 4, &keys.tcb, &keys.root),
            qe_signer: None,
            pck_crl: List::new(PLATFORM_CA, &keys.ca),
            root_crl: List::new(ROOT, &keys.root),
            tcb_info: document("tcbInfo", tdx_tcb_info(), &keys),
            qe_identity: document("enclaveIdentity", qe_identity("TD_QE"), &keys),
            quote: QuoteShape::tdx4(),
            chains_have_root: true,
            qe_report_signer: keys.pck.clone(),
            quote_signer: keys.attestation.clone(),
            keys,
        }
    }

    /// The same of version 5, body type 3.
    pub fn tdx5(seed: u64) -> Self {
        let mut world = Self::tdx4(seed);
        world.quote.version = 5;
        let plain = TdShape::plain();
        world.quote.td = Some(TdShape { tee_tcb_svn2: Some(plain.tee_tcb_svn), ..plain });
        world
    }

    /// An enclave's quote of version 3, up to date in everything.
    pub fn sgx3(seed: u64) -> Self {
        let mut world = Self::tdx4(seed);
        world.quote.version = 3;
        world.quote.tee_type = 0;
        world.quote.td = None;
        world.tcb_info.content = sgx_tcb_info();
        world.qe_identity.content = qe_identity("QE");
        world
    }

    /// The TD, to be changed.
    pub fn td(&mut self) -> &mut TdShape {
        self.quote.td.as_mut().expect("a quote of a td")
    }

    /// The platform, to be changed.
    pub fn sgx(&mut self) -> &mut Sgx {
        self.sgx.as_mut().expect("a certificate with the extension")
    }

    /// Signs everything.
    pub fn make(&self) -> Made {
        // A signature is another one each time, so each certificate is made once.
        let root_der = self.root.der();
        let root = belljar_evidence::pem::encode(&root_der);
        let ca = self.ca.pem();
        let chain = |certificates: &[&str]| {
            let mut text = certificates.concat();
            if self.chains_have_root {
                text.push_str(&root);
            }
            text.into_bytes()
        };
        let mut pck = self.pck.clone();
        if let Some(sgx) = &self.sgx {
            pck.extensions.push(extension("1.2.840.113741.1.13.1", false, sgx.value()));
        }
        let pck_chain = chain(&[&pck.pem(), &ca]);
        let tcb_chain = chain(&[&self.tcb_signer.pem()]);
        let collateral = Collateral {
            tcb_info: self.tcb_info.text(),
            tcb_signing_chain: tcb_chain.clone(),
            qe_identity: self.qe_identity.text(),
            qe_signing_chain: self.qe_signer.as_ref().map_or(tcb_chain, |signer| chain(&[&signer.pem()])),
            pck_crl: self.pck_crl.der(),
            pck_crl_chain: chain(&[&ca]),
            root_crl: self.root_crl.der(),
        };
        Made { quote: self.signed_quote(&pck_chain), pck_chain, collateral, root: root_der }
    }

    /// Only the quote, with the certificates that were made before.
    pub fn quote_under(&self, made: &Made) -> Vec<u8> {
        self.signed_quote(&made.pck_chain)
    }

    fn signed_quote(&self, chain: &[u8]) -> Vec<u8> {
        let key = &self.keys.attestation.point()[1..];
        let mut qe: EnclaveShape = self.quote.qe.clone();
        if self.quote.binding {
            let mut context = Context::new(&SHA256);
            context.update(key);
            context.update(&self.quote.auth);
            qe.report_data = [0; 64];
            qe.report_data[..32].copy_from_slice(context.finish().as_ref());
        }
        let qe = qe.bytes();
        let qe_signature = self.qe_report_signer.sign_fixed(&qe);
        let signature = self.quote_signer.sign_fixed(&self.quote.signed());
        let data = if self.quote.certification == 5 { chain } else { &[7; 32] };
        self.quote.bytes(signature, key, &qe, qe_signature, data)
    }
}

fn document(member: &'static str, content: serde_json::Value, keys: &Keys) -> Document {
    Document { member, content, signer: keys.tcb.clone(), altered: None, prepared: None }
}
