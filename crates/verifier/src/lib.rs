//! Evidence of any kind, as a verifier (RFC 9334) gets it: raw, or in the JSON wrappers of Confidential Containers.
//!
//! [`Evidence::read`] recognises a file, [`Evidence::of_document`] a JSON document; both give the same typed value, which
//! `belljar-evidence` judges. Nothing is verified here.
#![forbid(unsafe_code)]

pub mod input;
mod pem;
mod wrapped_tpm;

pub use input::{Evidence, InputError, TpmQuote};
pub use pem::ders;
