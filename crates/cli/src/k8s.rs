//! Belljar on a cluster: the manifests, how it stands with each node, and the process that prepares a node.

pub mod api;
pub mod daemon;
pub mod image;
pub mod manifests;
pub mod nodes;
