//! The attestation handshake between a workload and its broker: RCAR (request, challenge, attestation, response), the
//! protocol of the Key Broker Service of Confidential Containers, `/kbs/v0`, version 0.4.0.
//!
//! | module | holds |
//! |---|---|
//! | [`wire`] | the messages, with the exact member names |
//! | [`jcs`] | RFC 8785 canonical JSON |
//! | [`binding`] | `report_data`: what ties the TEE key and the nonce to the evidence |
//! | [`key`] | the TEE key (P-256) and its public JWK |
//! | [`jwe`] | encrypted replies: flattened JWE, ECDH-ES+A256KW, A256GCM |
//! | [`evidence`] | the evidence of each TEE as JSON: [`snp`], [`tdx`] |
//! | [`ear`] | the attestation token: EAT attestation result, signed with ES256 |
//! | [`uri`] | `kbs:///repository/type/tag` |
//! | [`connection`] | HTTP/1.1 over TLS 1.3 with a pinned server key, on any byte stream |
//! | [`client`] | the handshake, step by step |
//!
//! Sources: the formats were read in the public Trustee and guest-components repositories (August 2026) and compared
//! with a recorded exchange; RFC 7516/7518 (JWE), RFC 7517 (JWK), RFC 8785 (JCS), draft-ietf-rats-ear,
//! draft-ietf-rats-ar4si. Of the cryptography, only P-256 keys are implemented; P-521, RSA and ML-KEM keys of the format
//! are refused with [`key::KeyError`].
//!
//! The crate runs in a small guest: no DNS, no HTTP library beyond `hyper`, no certificate stores.

#![forbid(unsafe_code)]

pub mod binding;
pub mod client;
pub mod connection;
pub mod ear;
pub mod evidence;
pub mod jcs;
pub mod jwe;
pub mod key;
pub mod snp;
pub mod tdx;
mod text;
pub mod uri;
pub mod wire;

pub use binding::{HashAlgorithm, report_data};
pub use client::{Attester, Client, ClientError, Step};
pub use connection::{Connection, SpkiPin};
pub use evidence::Evidence;
pub use key::{Jwk, PublicKey, TeeKey};
pub use text::sanitize;
pub use uri::ResourceUri;
pub use wire::{InitData, Tee};
