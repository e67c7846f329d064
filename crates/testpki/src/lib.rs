//! A test PKI in the shape of the vendors': roots, authorities, keys, lists, documents, and evidence signed under them,
//! with a knob for each thing that a verifier must look at. A test says "the same, but the PCK is revoked".
//!
//! Keys come from a seed, so names, serial numbers and keys are the same in each run. Signatures are randomised by the
//! cryptographic library and are not. The crate is a library for tests: it panics where a test would, and nothing that
//! is shipped may depend on it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

pub mod amd;
pub mod intel;
mod keys;
pub mod swtpm;

pub use belljar_evidence::time::rfc3339;
pub use keys::EcKey;

/// When everything is valid, in seconds since 1970: 2026-05-28T20:26:40Z.
pub const NOW: u64 = 1_780_000_000;
