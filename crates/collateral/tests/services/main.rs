//! Fetching against services of our own that throttle, hang, break off, lie, and answer late or unsigned.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod amd;
mod fake;
mod intel;
mod kds;
mod network;
mod offline;
mod pcs;

use belljar_testpki::amd as pki;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use belljar_collateral::{Anchors, Cache, Clock, FetchOptions, Fetcher, HttpOptions, Limits, Services};
use fake::Fake;
use intel::NOW;

/// A clock that waiting moves.
#[derive(Debug)]
pub struct FakeClock(AtomicU64);

impl FakeClock {
    fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seconds * 1000)))
    }

    fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
        Box::pin(tokio::task::yield_now())
    }
}

/// A cache folder, a clock, and the roots that are trusted.
struct Bench {
    folder: tempfile::TempDir,
    clock: Arc<FakeClock>,
    anchors: Anchors,
}

impl Bench {
    fn new(anchor: &[u8]) -> Self {
        let anchors = Anchors::vendors().with_test_root(anchor).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), clock: FakeClock::at(NOW), anchors }
    }

    fn fetcher(&self, fake: &Fake) -> Fetcher {
        self.fetcher_with(fake, FetchOptions::default())
    }

    fn fetcher_with(&self, fake: &Fake, options: FetchOptions) -> Fetcher {
        fetcher(self.folder.path(), fake, self.anchors.clone(), options).with_clock(self.clock.clone())
    }

    fn cache(&self) -> Cache {
        Cache::new(self.folder.path())
    }

    fn now(&self) -> u64 {
        self.clock.now()
    }
}

fn fetcher(folder: &Path, fake: &Fake, anchors: Anchors, options: FetchOptions) -> Fetcher {
    let services = Services::vendors().unwrap().with_kds(&fake.base()).unwrap().with_pccs(&fake.base()).unwrap();
    let limits =
        Limits { first_byte: Duration::from_millis(200), body: Duration::from_millis(200), ..Limits::default() };
    let http = HttpOptions { limits, ..HttpOptions::default() };
    Fetcher::new(Cache::new(folder), services, anchors, &http, options).unwrap()
}
