//! A one-node Kubernetes in namespaces of its own (`cluster/`), images for it, and a handle to drive it from tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

pub mod cluster;
pub mod images;
pub mod space;
