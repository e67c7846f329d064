//! What Intel publishes about platforms: as it came, and read with its signatures checked.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::ParsedPublicKey;

use super::anchors::Anchors;
use super::cert::{Certificate, Chain};
use super::crl::Crl;
use super::json::{QeIdentity, Signed, TcbInfo};
use crate::anchors::Root;

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
    /// Certificates of that authority, PEM. The list of a quote is checked with the authority in the quote's own chain,
    /// so this is for collateral by itself.
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
    pub(super) fn of<E: std::fmt::Display>(bytes: &[u8], parse: impl FnOnce(&[u8]) -> Result<T, E>) -> Self {
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
    pub(super) signer: Arc<Signer>,
    /// Whether the signature verifies up to an anchor; why not, in words. `None` when the signer was not given.
    pub(super) signed: Option<Result<Root, String>>,
}

/// Who signs documents: a chain, followed to its anchor. Intel's signer is the same for both documents.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) chain: Item<Chain>,
    /// The anchor and the key, or why there is none. `None` without a chain that can be read.
    trusted: Option<Result<(Root, ParsedPublicKey), String>>,
}

impl Signer {
    fn new(chain: &[u8], anchors: &Anchors) -> Self {
        let mut chain = Item::of(chain, |text| Chain::parse_under(text, anchors));
        let trusted = match &mut chain {
            Item::Read(chain) => Some(Self::trust(chain, anchors)),
            _ => None,
        };
        Self { chain, trusted }
    }

    fn trust(chain: &mut Chain, anchors: &Anchors) -> Result<(Root, ParsedPublicKey), String> {
        let root = chain.complete(anchors)?;
        let leaf = chain.leaf().ok_or("the chain is empty")?;
        if leaf.subject_name() != TCB_SIGNING {
            return Err(format!("it is signed by {}, not by {TCB_SIGNING}", leaf.subject_name()));
        }
        let key = leaf.fixed_key().ok_or("the signer's key is no point on P-256")?;
        Ok((root, key))
    }

    fn verify(&self, document: &Signed) -> Option<Result<Root, String>> {
        let (root, key) = match self.trusted.as_ref()? {
            Ok(trusted) => trusted,
            Err(why) => return Some(Err(why.clone())),
        };
        Some(match key.verify_sig(&document.text, &document.signature) {
            Ok(()) => Ok(*root),
            Err(_) => Err("it does not verify: changed bytes, or another signer".to_owned()),
        })
    }
}

impl<T> Document<T> {
    fn new(content: Item<T>, signer: Arc<Signer>, signed: impl FnOnce(&T) -> &Signed) -> Self {
        let outcome = match (&content, &signer.chain) {
            (Item::Malformed(why), _) | (_, Item::Malformed(why)) => Some(Err(why.clone())),
            (Item::Read(read), Item::Read(_)) => signer.verify(signed(read)),
            _ => None,
        };
        Self { content, signer, signed: outcome }
    }
}

/// Collateral that was read, with every signature checked that does not depend on a quote or on the time.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) tcb_info: Document<TcbInfo>,
    pub(super) qe_identity: Document<QeIdentity>,
    pub(super) pck_crl: Item<Crl>,
    /// The authority that the list was first tried with, DER, and whether it signed it.
    pck_crl_tried: OnceLock<(Vec<u8>, bool)>,
    pub(super) root_crl: Item<Crl>,
    /// Which of the anchors signed it, and whose that is.
    pub(super) root_crl_signer: Option<(Arc<Certificate>, Root)>,
}

impl Prepared {
    pub(super) fn new(raw: &Collateral, anchors: &Anchors) -> Self {
        let tcb_signer = Arc::new(Signer::new(&raw.tcb_signing_chain, anchors));
        let qe_signer = if raw.qe_signing_chain == raw.tcb_signing_chain {
            Arc::clone(&tcb_signer)
        } else {
            Arc::new(Signer::new(&raw.qe_signing_chain, anchors))
        };
        let root_crl = Item::of(&raw.root_crl, Crl::parse);
        let by_anchor = |list: &Crl| anchors.certificates().find(|(anchor, _)| list.is_signed_by(anchor));
        let root_crl_signer = root_crl.read().and_then(by_anchor).map(|(anchor, root)| (Arc::clone(anchor), root));
        let identity = Item::of(&raw.qe_identity, QeIdentity::parse);
        Self {
            tcb_info: Document::new(Item::of(&raw.tcb_info, TcbInfo::parse), tcb_signer, |info| &info.signed),
            qe_identity: Document::new(identity, qe_signer, |identity| &identity.signed),
            pck_crl: Item::of(&raw.pck_crl, Crl::parse),
            pck_crl_tried: OnceLock::new(),
            root_crl,
            root_crl_signer,
        }
    }

    /// Puts TCB info that nobody signed in the place of the given one.
    pub(super) fn suppose(&mut self, info: TcbInfo) {
        let signer = Arc::new(Signer { chain: Item::Read(Chain::none()), trusted: None });
        self.tcb_info = Document { content: Item::Read(info), signer, signed: Some(Ok(Root::Test)) };
    }

    /// Whether the list of PCK certificates was signed by the authority that issued this quote's.
    pub(super) fn pck_crl_is_signed_by(&self, authority: &Certificate) -> bool {
        let Some(list) = self.pck_crl.read() else { return false };
        let (tried, signed) =
            self.pck_crl_tried.get_or_init(|| (authority.der().to_vec(), list.is_signed_by(authority)));
        if tried == authority.der() { *signed } else { list.is_signed_by(authority) }
    }
}
