//! What Intel publishes about platforms: as it came, and read with its signatures checked.

use super::anchors::{Anchors, Root};
use super::cert::{Certificate, Chain};
use super::crl::Crl;
use super::json::{QeIdentity, Signed, TcbInfo};

/// Common name of the certificate that signs TCB info and identities.
const TCB_SIGNING: &str = "Intel SGX TCB Signing";

/// Collateral as it came; what is empty was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collateral {
    /// TCB info of the platform's FMSPC, JSON.
    pub tcb_info: Vec<u8>,
    /// Certificates of the key that signed the TCB info, PEM, the leaf first.
    pub tcb_signing_chain: Vec<u8>,
    /// Identity of the quoting enclave, JSON.
    pub qe_identity: Vec<u8>,
    /// Certificates of the key that signed the identity, PEM, the leaf first.
    pub qe_signing_chain: Vec<u8>,
    /// Revocation list of the authority that issued the PCK's certificate, DER.
    pub pck_crl: Vec<u8>,
    /// Certificates of that authority, PEM; the quote brings them, too.
    pub pck_crl_chain: Vec<u8>,
    /// Revocation list of the root, DER.
    pub root_crl: Vec<u8>,
}

/// One item of collateral.
#[derive(Debug)]
pub(super) enum Item<T> {
    /// Not given.
    Absent,
    /// Given, and not what it should be; says why.
    Malformed(String),
    /// Read.
    Read(T),
}

impl<T> Item<T> {
    fn of<E: std::fmt::Display>(bytes: &[u8], parse: impl FnOnce(&[u8]) -> Result<T, E>) -> Self {
        if bytes.is_empty() {
            return Self::Absent;
        }
        match parse(bytes) {
            Ok(read) => Self::Read(read),
            Err(error) => Self::Malformed(error.to_string()),
        }
    }

    pub(super) fn read(&self) -> Option<&T> {
        match self {
            Self::Read(read) => Some(read),
            _ => None,
        }
    }
}

/// A signed document of Intel's service, with the chain of its signer.
#[derive(Debug)]
pub(super) struct Document<T> {
    pub(super) content: Item<T>,
    pub(super) signer: Item<Chain>,
    /// Whether the signature verifies up to an anchor; why not, in words. `None` when the signer was not given.
    pub(super) signed: Option<Result<Root, String>>,
}

impl<T> Document<T> {
    fn new(content: Item<T>, chain: &[u8], signed: impl FnOnce(&T) -> &Signed, anchors: &Anchors) -> Self {
        let signer = Item::of(chain, Chain::parse);
        let outcome = match (&content, &signer) {
            (Item::Malformed(why), _) | (_, Item::Malformed(why)) => Some(Err(why.clone())),
            (Item::Read(read), Item::Read(signer)) => Some(verify(signed(read), signer, anchors)),
            _ => None,
        };
        Self { content, signer, signed: outcome }
    }
}

fn verify(document: &Signed, signer: &Chain, anchors: &Anchors) -> Result<Root, String> {
    let root = signer.root(anchors)?;
    let leaf = signer.leaf().ok_or("the chain is empty")?;
    if leaf.subject_name() != TCB_SIGNING {
        return Err(format!("it is signed by {}, not by {TCB_SIGNING}", leaf.subject_name()));
    }
    let key = leaf.fixed_key().ok_or("the signer's key is no point on P-256")?;
    match key.verify_sig(&document.text, &document.signature) {
        Ok(()) => Ok(root),
        Err(_) => Err("it does not verify: changed bytes, or another signer".to_owned()),
    }
}

/// Collateral that was read, with every signature checked that does not depend on a quote or on the time.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) tcb_info: Document<TcbInfo>,
    pub(super) qe_identity: Document<QeIdentity>,
    pub(super) pck_crl: Item<Crl>,
    /// The authority of that list.
    pub(super) pck_crl_chain: Item<Chain>,
    /// Whether that authority signed it; `None` where one of them is missing.
    pck_crl_signed: Option<bool>,
    /// Whether that authority leads to an anchor; `None` where it is missing.
    pck_crl_root: Option<Result<Root, String>>,
    pub(super) root_crl: Item<Crl>,
    /// Whether one of the anchors signed it.
    pub(super) root_crl_signed: bool,
}

impl Prepared {
    pub(super) fn new(raw: &Collateral, anchors: &Anchors) -> Self {
        let pck_crl = Item::of(&raw.pck_crl, Crl::parse);
        let pck_crl_chain = Item::of(&raw.pck_crl_chain, Chain::parse);
        let pck_crl_signed = match (pck_crl.read(), pck_crl_chain.read().and_then(Chain::leaf)) {
            (Some(list), Some(authority)) => Some(list.is_signed_by(authority)),
            _ => None,
        };
        let pck_crl_root = pck_crl_chain.read().map(|chain| chain.root(anchors));
        let root_crl = Item::of(&raw.root_crl, Crl::parse);
        let by_anchor = |list: &Crl| {
            anchors.iter().filter_map(|(der, _)| Certificate::parse(der).ok()).any(|anchor| list.is_signed_by(&anchor))
        };
        let root_crl_signed = root_crl.read().is_some_and(by_anchor);
        Self {
            tcb_info: Document::new(
                Item::of(&raw.tcb_info, TcbInfo::parse),
                &raw.tcb_signing_chain,
                |info| &info.signed,
                anchors,
            ),
            qe_identity: Document::new(
                Item::of(&raw.qe_identity, QeIdentity::parse),
                &raw.qe_signing_chain,
                |identity| &identity.signed,
                anchors,
            ),
            pck_crl,
            pck_crl_chain,
            pck_crl_signed,
            pck_crl_root,
            root_crl,
            root_crl_signed,
        }
    }

    /// Puts TCB info that nobody signed in the place of the given one.
    pub(super) fn suppose(&mut self, info: TcbInfo) {
        let signer = Item::Read(Chain::none());
        self.tcb_info = Document { content: Item::Read(info), signer, signed: Some(Ok(Root::Test)) };
    }

    /// Whether the list of PCK certificates was signed by the authority that issued this quote's.
    pub(super) fn pck_crl_is_signed_by(&self, authority: &Certificate) -> bool {
        let Some(list) = self.pck_crl.read() else { return false };
        // The same certificate was tried when the collateral was read.
        match (self.pck_crl_chain.read().and_then(Chain::leaf), self.pck_crl_signed) {
            (Some(tried), Some(signed)) if tried.der() == authority.der() => signed,
            _ => list.is_signed_by(authority),
        }
    }

    /// Whether the list of PCK certificates was signed by the authority given with it, up to an anchor; why not, in
    /// words. `None` where that authority was not given.
    pub(super) fn pck_crl_alone(&self) -> Option<Result<(), String>> {
        let (root, signed) = (self.pck_crl_root.as_ref()?, self.pck_crl_signed?);
        Some(match (root, signed) {
            (Err(why), _) => Err(why.clone()),
            (Ok(_), false) => Err("it does not verify: another authority, or changed bytes".to_owned()),
            (Ok(_), true) => Ok(()),
        })
    }

    /// Whose root the authority of that list leads to.
    pub(super) fn pck_crl_root(&self) -> Option<&Root> {
        self.pck_crl_root.as_ref()?.as_ref().ok()
    }
}
