//! A credit-card fraud scorer: Belljar's example of a workload whose model and data nobody but its owner may see.
//!
//! Two programs share this library. `fraud-train` runs at the owner's desk: it generates labelled transactions
//! ([`generate`]), fits gradient-boosted trees to them ([`train()`]), measures the model on transactions it never saw
//! ([`metrics`]), and seals model and transactions under one key ([`seal`]). `fraud-score` runs in the pod: it reads
//! that key, opens both files ([`seal`], [`model`], [`csv`]), and prints which transactions look fraudulent.
//!
//! All arithmetic that decides a byte of output uses integers or the four IEEE 754 operations, never the platform's
//! mathematical library, so that a seed gives the same model on every machine ([`math`]).

#![forbid(unsafe_code)]

pub mod csv;
pub mod generate;
pub mod math;
pub mod metrics;
pub mod model;
pub mod seal;
pub mod train;
pub mod transaction;

pub use model::Model;
pub use seal::{Content, Key};
pub use train::train;
pub use transaction::{Category, Transaction};
