//! The vendors' endorsements that a broker has at hand. No handshake waits for a vendor: what is missing is noted, the
//! evidence is refused for now, and [`keep`] fetches it in the background.

use belljar_collateral::{Collection, Document, Fetcher, Item, Product, Update, lists_for, need};
use belljar_evidence::{
    dcap,
    snp::{self, Chain},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::Notify;

/// Most items that are noted as missing at once.
const MAX_WANTED: usize = 256;
/// Most platforms whose verifiers are remembered.
const MAX_VERIFIERS: usize = 1024;
/// How often items are looked at whether they grow old.
const ROUND: Duration = Duration::from_secs(600);

/// Endorsements, and verifiers that remember what they have checked under them.
#[derive(Debug)]
pub(crate) struct Shelf {
    snp: snp::Verifier,
    intel: dcap::Anchors,
    stock: RwLock<Arc<Stock>>,
    wanted: Mutex<BTreeSet<Item>>,
    news: Notify,
}

/// What changes together.
#[derive(Debug, Default)]
struct Stock {
    collection: Collection,
    lists: bool,
    verifiers: Mutex<HashMap<String, Arc<dcap::Verifier>>>,
}

impl Shelf {
    pub(crate) fn new(amd: snp::Anchors, intel: dcap::Anchors, collection: Collection) -> Self {
        Self {
            snp: snp::Verifier::new(amd),
            intel,
            stock: RwLock::new(Arc::new(Stock::of(collection))),
            wanted: Mutex::default(),
            news: Notify::new(),
        }
    }

    pub(crate) fn snp(&self) -> &snp::Verifier {
        &self.snp
    }

    /// Replaces all endorsements.
    pub(crate) fn replace(&self, collection: Collection) {
        *self.stock.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Stock::of(collection));
    }

    fn stock(&self) -> Arc<Stock> {
        Arc::clone(&self.stock.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds what an SNP report needs and did not bring: the chip's certificate, its authority, the revocation list.
    pub(crate) fn complete(&self, report: &[u8], chain: &mut Chain) {
        let stock = self.stock();
        if chain.vek.is_empty() {
            let needs: Vec<Vec<Item>> =
                Product::ALL.into_iter().filter_map(|product| need::of_report(report, Some(product)).ok()).collect();
            match needs.iter().find_map(|items| stock.collection.snp(items)) {
                Some(found) => *chain = found,
                // A report that names its processor needs the same items under each product.
                None => match &needs[..] {
                    [first, rest @ ..] if rest.iter().all(|items| items == first) => self.want(first),
                    _ => {}
                },
            }
        }
        if chain.crl.is_empty() && stock.lists {
            chain.crl = stock.collection.list_for(report, &chain.vek).map(<[u8]>::to_vec).unwrap_or_default();
        }
    }

    /// The verifier for a quote's platform.
    pub(crate) fn dcap(&self, quote: &[u8]) -> Arc<dcap::Verifier> {
        let stock = self.stock();
        let items = need::of_quote(quote, None, Update::Standard).unwrap_or_default();
        let key = items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let known = stock.verifiers.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        known.unwrap_or_else(|| {
            let verifier = Arc::new(dcap::Verifier::new(&stock.collection.dcap(&items), self.intel.clone()));
            let mut verifiers = stock.verifiers.lock().unwrap_or_else(PoisonError::into_inner);
            if verifiers.len() >= MAX_VERIFIERS {
                verifiers.clear();
            }
            verifiers.insert(key, Arc::clone(&verifier));
            verifier
        })
    }

    /// Notes what authentic evidence of a platform needs and is not there. Nobody else can make a broker ask for it.
    pub(crate) fn miss(&self, quote: &[u8]) {
        let stock = self.stock();
        let items = need::of_quote(quote, None, Update::Standard).unwrap_or_default();
        self.want(&items.into_iter().filter(|item| stock.collection.find(item).is_none()).collect::<Vec<_>>());
    }

    /// Notes that the revocation list of a verified chip's product line is not there.
    pub(crate) fn miss_list(&self, report: &[u8], vek: &[u8]) {
        let stock = self.stock();
        if let Some((product, kinds)) = lists_for(report, vek)
            && let [kind, _] = kinds
            && kinds.iter().all(|kind| stock.collection.find(&Item::VekCrl { product, kind: *kind }).is_none())
        {
            self.want(&[Item::VekCrl { product, kind }]);
        }
    }

    fn want(&self, items: &[Item]) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = wanted.len();
        for item in items {
            if wanted.len() < MAX_WANTED {
                wanted.insert(item.clone());
            }
        }
        if wanted.len() > before {
            self.news.notify_one();
        }
    }
}

impl Stock {
    fn of(collection: Collection) -> Self {
        let lists = collection.documents().iter().any(|document| matches!(document.item, Item::VekCrl { .. }));
        Self { collection, lists, verifiers: Mutex::default() }
    }
}

/// Fetches what handshakes missed, and what grows old, for as long as it is polled.
pub(crate) async fn keep(shelf: Arc<Shelf>, fetcher: Fetcher) {
    loop {
        let _ = tokio::time::timeout(ROUND, shelf.news.notified()).await;
        let wanted = std::mem::take(&mut *shelf.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        let held: Vec<Document> = shelf.stock().collection.documents().to_vec();
        let mut items: Vec<Item> = held.iter().map(|document| document.item.clone()).collect();
        items.extend(wanted.into_iter().filter(|item| held.iter().all(|document| document.item != *item)));
        let mut documents: Vec<Document> = Vec::with_capacity(items.len());
        let mut changed = false;
        for item in items {
            let before = held.iter().find(|document| document.item == item);
            match fetcher.obtain(&item, false).await {
                Ok(obtained) => {
                    changed |= before != Some(&obtained.document);
                    documents.push(obtained.document);
                }
                Err(error) => {
                    tracing::warn!(%item, %error, "endorsement not fetched");
                    documents.extend(before.cloned());
                }
            }
        }
        if changed {
            tracing::info!(items = documents.len(), "endorsements renewed");
            shelf.replace(Collection::new(documents));
        }
    }
}
