//! Kubernetes manifests: `belljar contract generate` and `belljar apply`.

pub mod apply;
pub mod generate;
pub mod kubectl;
pub mod manifest;
pub mod pods;
pub mod register;
pub mod verdict;
