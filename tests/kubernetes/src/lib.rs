//! A one-node Kubernetes in namespaces of its own (`cluster/`), images for it, and a handle to drive it from tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

pub mod cluster;
pub mod conformance;
pub mod containerd;
pub mod cri;
pub mod images;
pub mod node;
pub mod space;

/// Messages of the container runtime interface, generated from `proto/cri.proto`.
#[allow(missing_docs, missing_debug_implementations, clippy::all, clippy::pedantic)]
pub mod messages {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
