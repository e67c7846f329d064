//! The calls between the host and the guest of a pod VM, and every name, frame and bound that both sides must agree on.
//!
//! | module | holds |
//! |---|---|
//! | [`api`] | messages of `proto/agent.proto`, the [`api::AgentClient`] and the service trait [`api::Agent`] (ttrpc, async) |
//! | [`names`] | virtio port names, disk serials, words of the kernel command line |
//! | [`limits`] | bounds of every field that may carry bytes |
//! | [`softport`] | frames of the software secure processor's port |
//! | [`canary`](mod@canary) | the byte patterns of the memory probe |
//! | [`status`] | typed codes for errors of a call, in both directions |
//!
//! The host names, it never describes: no call carries a command, an environment, a mount or a capability. The host may
//! read every reply, so nothing secret travels here; secrets travel inside the TLS connection that the `Tunnel*` calls carry.
#![deny(unsafe_code)]

pub mod canary;
pub mod limits;
pub mod names;
pub mod softport;
pub mod status;

pub use canary::canary;
/// The library of the messages, for who reads them from bytes.
pub use protobuf;

/// Version of the calls, said by both sides in `Hello`. A different version is refused.
pub const PROTOCOL: u32 = 2;

/// Messages and service of `proto/agent.proto` (package `belljar.guest.v1`), generated at build time.
pub mod api {
    pub use crate::generated::agent::*;
    pub use crate::generated::agent_ttrpc::{Agent, AgentClient, create_agent};
}

#[allow(clippy::all, clippy::restriction, clippy::pedantic, missing_docs, missing_debug_implementations)]
#[rustfmt::skip]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
