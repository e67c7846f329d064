//! Getting an item: from the cache while it is in date, else from its service, once for all processes of the machine.

use std::sync::Arc;
use std::time::Duration;

use belljar_evidence::Freshness;
use belljar_evidence::time::rfc3339;

use crate::cache::{Cache, CacheError};
use crate::check::{self, Anchors, Refused};
use crate::clock::{Clock, SystemClock};
use crate::document::Document;
use crate::http::{self, Http, HttpError, HttpOptions};
use crate::item::{Endorsement, Item};
use crate::ladder::{DEFAULT_GRACE, Facts};
use crate::pace::{Ended, NoTurn, Pace};
use crate::service::{AnswerError, Request, Services};

/// Most requests for one item in one call.
const MAX_ATTEMPTS: u32 = 3;
/// Longer than one call can hold the lock of an item beyond its own waiting: the bounds of three requests.
const LOCK_PATIENCE: Duration = Duration::from_secs(300);

/// How to fetch.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Longest time to wait for a host's pace, in seconds.
    pub max_wait: u64,
    /// An item with a next update is asked for again when it is older than this, in seconds, although it is in date:
    /// Intel publishes before the time when a fault becomes known.
    pub max_age: u64,
    /// For how many seconds after its next update an item still counts, as `in_grace`.
    pub grace: u64,
    /// Worst rung at which an item of the cache is given when its service is away.
    pub worst: Freshness,
    /// For how many seconds a service's word that there is no such item counts.
    pub absent_for: u64,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            max_wait: 60,
            max_age: 24 * 60 * 60,
            grace: DEFAULT_GRACE,
            worst: Freshness::InGrace,
            absent_for: 10 * 60,
        }
    }
}

/// Why there is no item to give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The service gave no answer that can be used.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The service's answer is not one for this kind of item.
    #[error("{host} gave no {item}: {error}")]
    Answer {
        /// Which item.
        item: Item,
        /// Which host.
        host: String,
        /// What is wrong with it.
        error: AnswerError,
    },
    /// The service gave something that is not taken, and that the cache does not take.
    #[error("{host} gave no {item}: {error}")]
    Refused {
        /// Which item.
        item: Item,
        /// Which host.
        host: String,
        /// Why it is not taken.
        error: Refused,
    },
    /// The host's pace asks for a longer wait than the caller has.
    #[error(
        "{host} may be asked again in {seconds} s, longer than {max_wait} s: try again then, or allow a longer wait"
    )]
    Wait {
        /// Which host.
        host: String,
        /// For how many seconds, rounded up.
        seconds: u64,
        /// What the caller allowed.
        max_wait: u64,
    },
    /// The service said a short time ago that it knows no such item.
    #[error(
        "{item}: the service knew no such item (status {status}), asked again after {}: check chip id, TCB or FMSPC", rfc3339(*until)
    )]
    Absent {
        /// Which item.
        item: Item,
        /// Until when that counts.
        until: u64,
        /// What it had answered.
        status: u16,
    },
    /// Another process fetches the item and does not come to an end.
    #[error("{0} is being fetched by another process that does not end: look for it, and try again")]
    Locked(Item),
    /// The cache or the state of the pace cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The state of the pace cannot be kept.
    #[error("the pace of {host} cannot be kept on disk: {error}")]
    Pace {
        /// Which host.
        host: String,
        /// Why.
        error: std::io::Error,
    },
}

/// An item that was got.
#[derive(Debug)]
pub struct Obtained {
    /// The item, verified.
    pub document: Document,
    /// What it says of itself.
    pub facts: Facts,
    /// How far it is in date.
    pub rung: Freshness,
    /// True when it was fetched in this call.
    pub fetched: bool,
    /// Why it could not be fetched anew, where that was tried and the cache's was given instead.
    pub failed_refresh: Option<FetchError>,
}

/// Gets items.
#[derive(Debug)]
pub struct Fetcher {
    http: Http,
    cache: Cache,
    pace: Pace,
    services: Services,
    anchors: Anchors,
    options: FetchOptions,
    clock: Arc<dyn Clock>,
}

impl Fetcher {
    /// A fetcher by the machine's clock.
    ///
    /// # Errors
    /// [`HttpError::Setup`] or [`HttpError::NoRoots`].
    pub fn new(
        cache: Cache,
        services: Services,
        anchors: Anchors,
        http: &HttpOptions,
        options: FetchOptions,
    ) -> Result<Self, HttpError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let pace = Pace::new(cache.hosts(), Arc::clone(&clock));
        Ok(Self { http: Http::new(http)?, cache, pace, services, anchors, options, clock })
    }

    /// The same by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        let pace = Pace::new(self.cache.hosts(), Arc::clone(&clock));
        Self { pace, clock, ..self }
    }

    /// Gives an item. With `anew` the service is asked although the cache has one that is in date, or remembers that the
    /// service knows none.
    ///
    /// # Errors
    /// Any [`FetchError`]. While the cache has the item at a rung that is not worse than the options allow, a service
    /// that is away or lies is no error: [`Obtained::failed_refresh`] says so.
    pub async fn obtain(&self, item: &Item, anew: bool) -> Result<Obtained, FetchError> {
        let begun = self.clock.now();
        if !anew
            && let Some(held) = self.held(item)
            && self.is_young(&held)
        {
            return Ok(held);
        }
        let patience = LOCK_PATIENCE.saturating_add(Duration::from_secs(self.options.max_wait));
        let _lock = self.cache.lock(item, patience).await?.ok_or_else(|| FetchError::Locked(item.clone()))?;
        // Another process may have fetched it while this one waited for the lock.
        let held = match self.held(item) {
            Some(held) if self.is_young(&held) && (!anew || held.document.fetched > begun) => return Ok(held),
            held => held,
        };
        if !anew && let Some((until, status)) = self.cache.absent(item, self.clock.now(), self.options.absent_for)? {
            return Err(FetchError::Absent { item: item.clone(), until, status });
        }
        match self.fetch(item, held.as_ref().map(|held| &held.facts)).await {
            Ok((document, facts)) => {
                self.cache.store(&document)?;
                let rung = facts.rung(self.clock.now(), self.options.grace);
                Ok(Obtained { document, facts, rung, fetched: true, failed_refresh: None })
            }
            Err(error) => match held.filter(|held| held.rung <= self.options.worst) {
                Some(held) => Ok(Obtained { failed_refresh: Some(error), ..held }),
                None => Err(error),
            },
        }
    }

    /// The cache's item, when there is one that verifies.
    fn held(&self, item: &Item) -> Option<Obtained> {
        let document = match self.cache.load(item) {
            Ok(document) => document?,
            Err(error) => {
                tracing::warn!(%item, %error, "the cache's item is not used");
                return None;
            }
        };
        match document.verify(&self.anchors) {
            Ok(facts) => {
                let rung = facts.rung(self.clock.now(), self.options.grace);
                Some(Obtained { document, facts, rung, fetched: false, failed_refresh: None })
            }
            Err(error) => {
                tracing::warn!(%item, %error, "the cache's item is not used");
                None
            }
        }
    }

    /// Whether the service need not be asked.
    fn is_young(&self, held: &Obtained) -> bool {
        let now = self.clock.now();
        // Certificates do not change until they end; only what has a next issue can be superseded.
        let changes = !matches!(held.document.item, Item::Vcek { .. } | Item::VekChain { .. });
        let age = now.checked_sub(held.document.fetched);
        held.rung == Freshness::Fresh && (!changes || age.is_some_and(|age| age <= self.options.max_age))
    }

    /// Asks the service; what comes back is verified.
    async fn fetch(&self, item: &Item, known: Option<&Facts>) -> Result<(Document, Facts), FetchError> {
        let request = self.services.request(item);
        let host = http::host(&request.url);
        let answer = match self.ask(&request, &host).await {
            Err(FetchError::Http(HttpError::Unknown { host, status })) => {
                let until = self.clock.now().saturating_add(self.options.absent_for);
                self.cache.remember_absent(item, until, status)?;
                return Err(HttpError::Unknown { host, status }.into());
            }
            answer => answer?,
        };
        let read = request.read(&answer.headers, answer.body);
        let (body, chain) =
            read.map_err(|error| FetchError::Answer { item: item.clone(), host: host.clone(), error })?;
        let mut document =
            Document { item: item.clone(), source: request.url.to_string(), fetched: self.clock.now(), chain, body };
        let refused = |error| FetchError::Refused { item: item.clone(), host: host.clone(), error };
        let facts = match item {
            Item::Vcek { .. } => self.complete(&mut document, &refused).await?,
            _ => document.verify(&self.anchors).map_err(refused)?,
        };
        check::in_date(&facts, known, document.fetched).map_err(refused)?;
        Ok((document, facts))
    }

    /// A VCEK comes without its authority: that is compiled in, or fetched once for the product line.
    async fn complete(
        &self,
        document: &mut Document,
        refused: &(impl Fn(Refused) -> FetchError + Sync),
    ) -> Result<Facts, FetchError> {
        let Item::Vcek { product, .. } = document.item else {
            return document.verify(&self.anchors).map_err(refused);
        };
        document.chain = check::builtin_chain(product);
        match document.verify(&self.anchors) {
            Err(Refused::Chain(_) | Refused::Signature(_)) => {
                let chain = Item::VekChain { product, kind: Endorsement::Vcek };
                let chain = Box::pin(self.obtain(&chain, false)).await?;
                document.chain = chain.document.body;
                document.verify(&self.anchors).map_err(refused)
            }
            verified => verified.map_err(refused),
        }
    }

    /// One answer, at the host's pace; what may pass is tried again.
    async fn ask(&self, request: &Request, host: &str) -> Result<http::Answer, FetchError> {
        let latest = self.clock.now_ms().saturating_add(self.options.max_wait.saturating_mul(1000));
        let mut failed: Option<HttpError> = None;
        let mut attempt = 1;
        loop {
            match self.pace.turn(host, request.interval, latest).await {
                Ok(()) => {}
                Err(NoTurn::Wait(ms)) => {
                    let (seconds, max_wait) = (ms.div_ceil(1000), self.options.max_wait);
                    let wait = FetchError::Wait { host: host.to_owned(), seconds, max_wait };
                    // What the host said says more than that it is not our turn yet.
                    return Err(failed.map_or(wait, FetchError::Http));
                }
                Err(NoTurn::Io(error)) => return Err(FetchError::Pace { host: host.to_owned(), error }),
            }
            let answer = self.http.get(request.url.clone(), self.clock.now()).await;
            let ended = match &answer {
                Err(HttpError::Throttled { retry_after, .. }) => Ended::Throttled(*retry_after),
                Err(error) if error.is_transient() => Ended::Failed,
                _ => Ended::Answered,
            };
            let noted = self.pace.ended(host, ended).await;
            noted.map_err(|error| FetchError::Pace { host: host.to_owned(), error })?;
            match answer {
                Err(error) if error.is_transient() && attempt < MAX_ATTEMPTS => failed = Some(error),
                answer => return Ok(answer?),
            }
            attempt += 1;
        }
    }
}
