//! Items by what needs them: of a bundle, a cache or a directory.

use belljar_evidence::dcap::Collateral;
use belljar_evidence::pem;
use belljar_evidence::snp::{Certificate, Chain, Report, SigningKey};

use crate::document::Document;
use crate::item::{Endorsement, Item, Product};

/// Documents to choose from. What is chosen is given as it is: whoever judges evidence verifies it again.
#[derive(Clone, Debug, Default)]
pub struct Collection {
    documents: Vec<Document>,
}

impl Collection {
    /// From the documents of a bundle or a cache.
    pub fn new(documents: Vec<Document>) -> Self {
        Self { documents }
    }

    /// All of them.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// One item.
    pub fn find(&self, item: &Item) -> Option<&Document> {
        self.documents.iter().find(|document| document.item == *item)
    }

    /// The items that a quote needs ([`crate::need::of_quote`]), as its verifier takes them; what is missing stays empty.
    pub fn dcap(&self, items: &[Item]) -> Collateral {
        let mut collateral = Collateral::default();
        for document in items.iter().filter_map(|item| self.find(item)) {
            let (body, chain) = (document.body.clone(), document.chain.clone());
            match document.item {
                Item::TcbInfo { .. } => (collateral.tcb_info, collateral.tcb_signing_chain) = (body, chain),
                Item::QeIdentity { .. } => (collateral.qe_identity, collateral.qe_signing_chain) = (body, chain),
                Item::PckCrl(_) => (collateral.pck_crl, collateral.pck_crl_chain) = (body, chain),
                Item::RootCrl => collateral.root_crl = body,
                Item::Vcek { .. } | Item::VekChain { .. } | Item::VekCrl { .. } => {}
            }
        }
        collateral
    }

    /// The chip's certificate that a report needs ([`crate::need::of_report`]) with its authority, and the revocation list
    /// where there is one; `None` when the certificate is not there.
    pub fn snp(&self, items: &[Item]) -> Option<Chain> {
        let vcek = items.iter().filter(|item| matches!(item, Item::Vcek { .. })).find_map(|item| self.find(item))?;
        let mut authorities = pem::certificates(&vcek.chain, 2).unwrap_or_default().into_iter();
        Some(Chain {
            vek: vcek.body.clone(),
            ask: authorities.next().unwrap_or_default(),
            ark: authorities.next().unwrap_or_default(),
            crl: self.vek_crl(items).map(<[u8]>::to_vec).unwrap_or_default(),
        })
    }

    /// The revocation list for a report whose endorsement key has this certificate, DER: that of the root which the key's
    /// issuer stands under. Both lists of a product line are that root's.
    pub fn list_for(&self, report: &[u8], vek: &[u8]) -> Option<&[u8]> {
        let (product, kinds) = lists_for(report, vek)?;
        let list = kinds.into_iter().find_map(|kind| self.find(&Item::VekCrl { product, kind }))?;
        Some(&list.body)
    }

    /// The revocation list of the product line that a report needs, DER; `None` when it is not there.
    pub fn vek_crl(&self, items: &[Item]) -> Option<&[u8]> {
        let list = items.iter().filter(|item| matches!(item, Item::VekCrl { .. })).find_map(|item| self.find(item))?;
        Some(&list.body)
    }
}

/// The product line of an endorsement key's certificate, and its lists in the order in which to take them.
pub fn lists_for(report: &[u8], vek: &[u8]) -> Option<(Product, [Endorsement; 2])> {
    let vek = Certificate::parse(vek).ok()?;
    let product = Product::ALL.into_iter().find(|product| {
        [format!("SEV-{}", product.name()), format!("SEV-VLEK-{}", product.name())]
            .iter()
            .any(|name| name == vek.issuer_name())
    })?;
    let mut kinds = [Endorsement::Vcek, Endorsement::Vlek];
    if Report::parse(report).is_ok_and(|report| report.signing_key == SigningKey::Vlek) {
        kinds.reverse();
    }
    Some((product, kinds))
}
