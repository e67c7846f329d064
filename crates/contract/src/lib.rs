//! The pod contract and initdata.
//!
//! The *pod contract* is a page of TOML that says all that a pod VM may do: its containers (image by digest, layers by
//! dm-verity root, command, environment, user, capabilities), the secrets it may ask for, and whether its output may
//! leave. It travels inside an *initdata* document whose digest the hardware binds to the VM (`HOST_DATA` on SEV-SNP,
//! `MRCONFIGID` on TDX), so the untrusted host can name a container and never describe one.
//!
//! | module | holds |
//! |---|---|
//! | [`model`] | the types, their defaults and bounds |
//! | [`parse`] | TOML to contract; unknown keys are refused by name |
//! | [`check`] | bounds and rules between fields |
//! | [`canonical`] | contract to TOML, one byte string per contract |
//! | [`words`] | the contract as plain sentences |
//! | [`diff`] | what one contract allows that another did not, in words |
//! | [`build`] | a contract from an image's configuration and run flags |
//! | [`user`] | user and group names, resolved in the verified root file system |
//! | [`initdata`] | the initdata document and its digest |
//! | [`disk`] | its way into the guest: block device and pod annotation |
//! | [`host_value`] | the types of values that the host gives |
//! | [`needs`] | what the pod needs of a machine |
//! | [`spec`] | the OCI runtime specification of a container, from the contract alone |
#![forbid(unsafe_code)]

pub mod build;
pub mod canonical;
pub mod check;
pub mod diff;
pub mod disk;
mod error;
pub mod host_value;
pub mod initdata;
pub mod model;
pub mod needs;
pub mod parse;
pub mod spec;
pub mod user;
pub mod words;

pub use build::{ImageFacts, RunOptions};
pub use diff::{Change, Kind};
pub use disk::{decode_disk, encode_disk, from_annotation, to_annotation};
pub use error::{ContractError, InitdataError};
pub use host_value::{HostValueError, check_service_link, service_link_type};
pub use initdata::{Algorithm, Digest, Initdata, MAX_INITDATA, digest};
pub use model::{
    BrokerPin, Container, Contract, Dns, HostFile, HostType, Layer, MeasuredFile, Network, Operator, Permission,
    PodSettings, Resolver, Resources, Restart, Secret, Tmpfs, User, Volume, VolumeMount,
};
pub use needs::Needs;
pub use spec::{HostValues, oci_spec};
pub use user::ResolvedUser;
