//! Kubernetes YAML to pod contracts.
//!
//! A manifest goes in; for each workload in it a contract comes out, and the manifest with the contract in an annotation
//! of the pod template. Every field of a pod template is either honoured, or the cluster's business by an explicit list,
//! or a [`Problem`] with its full path: nothing is ignored in silence. All problems of a manifest are told at once.
//!
//! | module | holds |
//! |---|---|
//! | [`yaml`] | YAML as Kubernetes reads it |
//! | [`manifest`] | documents, workloads, and the annotated manifest |
//! | [`plan`], [`container`] | pod template and container, field by field |
//! | [`volumes`], [`security`] | volumes and security contexts |
//! | [`annotations`] | Belljar's own annotations |
//! | [`policy`] | a NetworkPolicy for a workload |
//! | [`image`] | what must be known of an image |
//! | [`error`] | problems |
//!
//! Nothing here opens a file or a connection: the caller reads the manifest, and looks up the images that
//! [`Manifest::images`] names.

#![forbid(unsafe_code)]

pub mod annotations;
mod beside;
pub mod container;
mod downward;
mod env;
pub mod error;
mod expand;
pub mod image;
pub mod manifest;
pub mod plan;
pub mod policy;
mod probes;
mod quantity;
mod resources;
pub mod security;
mod shell;
pub mod volumes;
mod walk;
pub mod yaml;

pub use beside::Source;
pub use error::{KubeError, Problem, Reason};
pub use image::{Images, ResolvedImage};
pub use manifest::fuzz;
pub use manifest::{Generated, Manifest, Options, Workload};
