//! One file per verb.

pub mod broker;
pub mod collateral;
pub mod contract;
pub mod doctor;
pub mod evidence;
pub mod guest;
pub mod image;
pub mod k8s;
pub mod kube;
pub mod measure;
pub mod node;
pub mod operator;
pub mod probe;
pub mod sealed;
pub mod secret;
pub mod verify;
