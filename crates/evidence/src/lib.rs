//! Judges attestation evidence: bytes in, a [`Verdict`] out.
//!
//! The crate is pure. It opens no file and no connection and reads no clock: the evidence, the certificates, the trust
//! anchors and the time to judge at are all arguments. The same arguments give the same verdict, so that every refusal
//! can be replayed offline.
//!
//! Three steps are kept apart, each a module of its own: reading bytes into typed values ([`snp::Report`],
//! [`snp::CertTable`]), verifying that they are authentic ([`snp::verify`]), and judging what they say, which is the
//! business of the caller (the broker) with the facts of the verdict. A debuggable guest, for example, is authentic
//! evidence: it is reported as the flag `debug-policy` and not as a failure.
#![forbid(unsafe_code)]

mod anchors;
pub mod azure;
mod bytes;
mod checks;
mod crl;
pub mod dcap;
pub mod eventlog;
mod kind;
pub mod pem;
pub mod policy;
pub mod snp;
mod strictness;
pub mod time;
pub mod tpm;
mod verdict;
mod x509;

pub use anchors::{Anchors, Root};
pub use crl::{CrlError, List};
pub use kind::Kind;
pub use strictness::{Freshness, Missing, Options};
pub use verdict::{Check, Decision, Outcome, Verdict};
pub use x509::X509;
