//! Intel DCAP: quotes of TDX and SGX, the collateral that Intel publishes for them, and whether both are authentic.
//!
//! | item | source |
//! |---|---|
//! | [`Quote`] version 3 | Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4 |
//! | [`Quote`] versions 4 and 5 | Intel TDX DCAP Quoting Library API, appendix A.3 and A.4 |
//! | [`TdReport`] | Intel TDX Module Base Architecture Specification, TDREPORT_STRUCT and TDINFO_STRUCT |
//! | [`EnclaveReport`] | Intel SDM volume 3D, REPORT |
//! | [`Pck`] | Intel SGX PCK Certificate and Certificate Revocation List Profile Specification |
//! | [`TcbInfo`], [`QeIdentity`] | Intel SGX and TDX Provisioning Certification Service API, versions 3 and 4 |
//!
//! Why this is not built on the crate `dcap-qvl`: `docs/adr/0013-dcap-by-hand.md`.

mod anchors;
mod body;
mod cert;
mod collateral;
mod crl;
mod json;
mod pck;
mod platform;
mod quote;
mod tcb;
mod verify;

pub use anchors::{Anchors, INTEL_ROOT};
pub use body::{EnclaveReport, TdExtension, TdReport};
pub use cert::{CertError, Certificate, Chain, ChainError};
pub use collateral::Collateral;
pub use crl::Crl;
pub use json::{IsvLevel, JsonError, Level, QeIdentity, Rating, Signed, TcbInfo, TdxModule};
pub use pck::{Pck, PckError};
pub use platform::{Published, verify_collateral};
pub use quote::{Body, CertificationData, MAX_QUOTE, Quote, QuoteError};
pub use tcb::{Status, Tcb};
pub use verify::{Facts, Fields, PCK_CHAIN, Verifier, verify};

pub use crate::anchors::Root;
pub use crate::strictness::{Freshness, Missing, Options};
