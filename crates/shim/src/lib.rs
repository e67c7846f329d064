//! The containerd runtime shim of Belljar: one shim and one attested VM per pod. The binary is `containerd-shim-belljar-v2`.
//!
//! | module | holds |
//! |---|---|
//! | [`flags`] | the command line that container managers give |
//! | [`mod@bootstrap`] | the two dialects of `start` |
//! | [`mod@start`], [`mod@delete`], [`info`], [`mod@serve`] | what the program does, one action each |
//! | [`address`] | the shim's socket |
//! | [`task`] | the task service, versions 2 and 3 |
//! | [`sandbox`], [`sandbox_config`] | the sandbox service |
//! | [`pod`], [`process`] | states of the pod, its tasks and their processes |
//! | [`vm`], [`layers`] | from the contract to a running VM |
//! | [`network`] | the pod's network namespace, ports and name servers |
//! | [`volumes`], [`carrier`], [`values`] | files and environment variables that the contract leaves to the host |
//! | [`streams`] | named pipes of containerd, calls to the agent |
//! | [`events`] | what happened, in order, for containerd |
//! | [`mod@stats`] | what tasks use |
//! | [`bundle`], [`annotations`] | the few parts of `config.json` that are read |
//! | [`config`], [`options`] | settings of the node |
//! | [`error`] | typed errors and their ttrpc status |
//! | [`log`] | messages for containerd's log |
//!
//! The shim runs on the untrusted host. It names containers and brings values that the contract delegates; nothing that it says makes the
//! guest run anything else than the contract has.
#![forbid(unsafe_code)]

pub mod address;
pub mod annotations;
pub mod bootstrap;
pub mod bundle;
pub mod carrier;
pub mod config;
pub mod delete;
pub mod error;
pub mod events;
pub mod flags;
pub mod info;
pub mod layers;
pub mod log;
pub mod network;
pub mod options;
pub mod pod;
pub mod process;
pub mod sandbox;
pub mod sandbox_config;
pub mod serve;
pub mod start;
pub mod stats;
pub mod streams;
pub mod task;
pub mod values;
pub mod vm;
pub mod volumes;
