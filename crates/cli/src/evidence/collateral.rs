//! The collateral that a user gives along with evidence: a directory of plain files, a cache, or a bundle.

use std::path::Path;

use belljar_collateral::{Cache, Collection, Directory, Product, Update, need};
use belljar_evidence::azure::HclReport;
use belljar_evidence::dcap::Collateral;
use belljar_evidence::snp::Chain;

use crate::collateral::store;
use crate::failure::Failure;
use belljar_verifier::Evidence;

/// What of the given collateral is for one piece of evidence.
#[derive(Debug, Clone, Default)]
pub struct Offered {
    /// Intel's.
    pub intel: Collateral,
    /// The certificate of the chip's key with its authorities.
    pub chain: Option<Chain>,
    /// The revocation list of AMD's root, DER; empty when there is none.
    pub crl: Vec<u8>,
}

/// Collateral as it was given.
#[derive(Debug)]
pub enum Store {
    /// Plain files.
    Directory(Box<Directory>),
    /// A cache or a bundle.
    Collection(Collection),
}

impl Store {
    /// Reads what is at `path`; `key` opens a bundle.
    pub fn open(path: &Path, key: Option<&Path>) -> Result<Self, Failure> {
        const KEY: &str = "--bundle-key";
        if !store::is_directory(path, key, KEY)? {
            return store::collection(path, key, KEY).map(Self::Collection);
        }
        let directory = Directory::open(path).map_err(Failure::usage)?;
        if directory.is_empty() {
            return store::cached(&Cache::new(path)).map(|documents| Self::Collection(Collection::new(documents)));
        }
        Ok(Self::Directory(Box::new(directory)))
    }

    /// Chooses for evidence; `pck_chain` is for quotes that do not hold it, `vek` is the endorsement key's certificate where
    /// its user names one. Nothing is verified here: the judge says what is wrong with it.
    pub fn offer(&self, evidence: &Evidence, pck_chain: Option<&[u8]>, vek: Option<&[u8]>) -> Result<Offered, Failure> {
        let of_amd = |collection: &Collection| {
            let report = report(evidence);
            report.map(|report| of_report(collection, &report, vek.or(evidence.vek()))).unwrap_or_default()
        };
        match self {
            Self::Directory(directory) => {
                let (chain, crl) = match report(evidence) {
                    Some(_) => of_amd(&Collection::new(directory.amd_documents().map_err(Failure::usage)?)),
                    None => (None, Vec::new()),
                };
                Ok(Offered { intel: directory.intel.clone(), chain, crl })
            }
            Self::Collection(collection) => {
                let items = quote(evidence).and_then(|quote| need::of_quote(quote, pck_chain, Update::Standard).ok());
                let (chain, crl) = of_amd(collection);
                Ok(Offered { intel: items.map(|items| collection.dcap(&items)).unwrap_or_default(), chain, crl })
            }
        }
    }
}

/// Certificates and revocation list for a report whose endorsement key may have been named or brought along.
fn of_report(collection: &Collection, report: &[u8], vek: Option<&[u8]>) -> (Option<Chain>, Vec<u8>) {
    let chain = chain(collection, report);
    let vek = vek.or(chain.as_ref().map(|chain| &chain.vek[..]));
    let crl = vek.and_then(|vek| collection.list_for(report, vek)).map(<[u8]>::to_vec).unwrap_or_default();
    (chain, crl)
}

/// The certificates for a report. One of version 2 does not name its product line, so each is tried.
fn chain(collection: &Collection, report: &[u8]) -> Option<Chain> {
    Product::ALL.into_iter().find_map(|product| {
        let items = need::of_report(report, Some(product)).ok()?;
        collection.snp(&items)
    })
}

/// The hardware report of AMD's in evidence.
fn report(evidence: &Evidence) -> Option<Vec<u8>> {
    match evidence {
        Evidence::Snp { report, .. } => Some(report.clone()),
        Evidence::Vtpm { hcl_report, td_quote, .. } if td_quote.is_empty() => {
            HclReport::parse(hcl_report).ok().map(|report| report.hardware)
        }
        _ => None,
    }
}

/// The quote of Intel's in evidence.
fn quote(evidence: &Evidence) -> Option<&[u8]> {
    match evidence {
        Evidence::Quote { quote, .. } => Some(quote),
        Evidence::Vtpm { td_quote, .. } if !td_quote.is_empty() => Some(td_quote),
        _ => None,
    }
}
