//! Kubernetes manifests: `belljar contract generate` and `belljar apply`.

pub mod generate;
pub mod manifest;
