//! What the attested service of a pod speaks: the agent in the guest serves it, `belljar verify`, `belljar logs` and
//! `belljar exec` use it. docs/attested-service.md describes the format and what it withstands.
//!
//! | module | holds |
//! |---|---|
//! | [`binding`] | `report_data`: what ties nonce and TLS key to the evidence |
//! | [`wire`] | the JSON messages and paths |
//! | [`frame`] | frames of streams: output, input, exit status |
//! | [`tls`] | TLS 1.3 with raw public keys on both sides (RFC 7250): no certificates, no names, no clock |
//! | [`client`] | the user's side, on any byte stream |

#![forbid(unsafe_code)]

pub mod binding;
pub mod client;
pub mod frame;
pub mod tls;
pub mod wire;

pub use binding::report_data;
pub use client::{Client, ClientError};
pub use frame::{Frame, Kind};
