//! Collateral: what vendors publish about their hardware, without which evidence cannot be judged. Fetched, verified,
//! cached on disk for all processes of a machine, put into a folder or a signed bundle for machines without network.
//!
//! | item | vendor's service | how it is verified |
//! |---|---|---|
//! | VCEK | AMD KDS (AMD 57230), by chip id and TCB | up to AMD's root; hwID and TCB are those asked for |
//! | ASK or ASVK with ARK | AMD KDS | the root is an anchor |
//! | revocation list of a product line | AMD KDS | signed by its ARK, which is an anchor |
//! | TCB info, QE identity | Intel PCS version 4, or a PCCS | Intel's TCB signer over the exact bytes; TEE and FMSPC are those asked for |
//! | revocation lists of PCK authorities and of the root | the same | signed by their authority, up to Intel's root |
//!
//! An item is authentic or it is not kept ([`check::verify`]); how far it is in date is another question, with a ladder
//! of three rungs ([`Facts::rung`]) from which policy chooses. The crate opens files and connections and reads a clock
//! ([`Clock`]); what it verifies with, `belljar-evidence`, does none of this.
#![forbid(unsafe_code)]

mod bundle;
mod cache;
pub mod check;
mod clock;
mod collection;
mod directory;
mod document;
mod fetch;
mod http;
mod item;
mod ladder;
mod lock;
pub mod need;
mod pace;
mod service;
mod signing;

pub use belljar_evidence::Freshness;
pub use bundle::{Bundle, BundleError, MAX_BUNDLE, MAX_ITEMS};
pub use cache::{Cache, CacheError};
pub use check::{Anchors, Refused};
pub use clock::{Clock, SystemClock};
pub use collection::{Collection, lists_for};
pub use directory::{Directory, DirectoryError};
pub use document::{Document, DocumentError, MAX_BODY, MAX_DOCUMENT};
pub use fetch::{FetchError, FetchOptions, Fetcher, Obtained};
pub use http::{HttpError, HttpOptions, Limits, Proxies};
pub use item::{Endorsement, Item, ItemError, PckCa, Product, Tee, Update};
pub use ladder::{DEFAULT_GRACE, Facts};
pub use service::{AnswerError, Services, VCEK_INTERVAL};
pub use signing::{BundleKey, KeyError, MAX_KEY, PublicKey};
