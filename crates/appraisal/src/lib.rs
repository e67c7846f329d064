//! Appraisal (RFC 9334): what a verified piece of evidence is worth to its user, and what may be released to it.
//!
//! | module | holds |
//! |---|---|
//! | [`claims`] | one form of claims for every TEE, out of the verdict of `belljar-evidence` |
//! | [`mod@reference`] | reference values: names, sets, expiry, who says so; and how they are imported |
//! | [`policy`] | the default policy, each of its rules with what was expected and found |
//! | [`ear`] | the result as a token carries it: one submodule for each device |
//! | [`case`] | one appraisal with all that went into it, to be explained and replayed later |
//! | [`finding`] | one rule's outcome, with who can change it |
//! | [`rego`] | policies in Rego, those of upstream unchanged |
//! | [`release`] | which workload gets which resource; nothing unless a rule says so |
//!
//! The crate is pure: no file, no connection, no clock. The time is an argument, and the same arguments give the same
//! answer, so that a refusal can be explained and replayed later.
#![forbid(unsafe_code)]

pub mod case;
pub mod claims;
pub mod ear;
pub mod finding;
pub mod policy;
pub mod reference;
pub mod rego;
pub mod release;
mod text;

pub use case::Case;
pub use claims::Claims;
pub use finding::{Finding, Owner};
