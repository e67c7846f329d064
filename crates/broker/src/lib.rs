//! The broker: verifier and relying party (RFC 9334) of a workload's attestation. It challenges, verifies the evidence,
//! appraises it against what the user expects, and releases secrets to workloads that a rule names. It releases nothing
//! else: without a registered workload and a rule, every request is refused.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what a broker is made from |
//! | [`workload`] | who may get what: init-data digest, expected measurements, resources, rules |
//! | [`record`] | what happened: checks with expected and found, denials, releases |
//! | [`remote`] | registering workloads with a broker in another process |
//! | [`initdata`] | the digest of an init-data document |
//!
//! The handshake is `/kbs/v0` of the Confidential Containers key broker (`belljar-rcar` has its messages). Sessions live
//! in memory; each is good for one attestation. A software TEE is refused unless [`Config::allow_software_tee`] is set,
//! and its token says `software-tee` and `contraindicated` even then.
//!
//! ```no_run
//! # async fn example(workload: belljar_broker::Workload, ark: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! use belljar_broker::{Anchors, Broker, Config, Trust};
//! let broker = Broker::new(Config {
//!     trust: Trust { amd: Anchors::amd().with_software_root(ark), ..Trust::default() },
//!     allow_software_tee: true,
//!     ..Config::default()
//! })?;
//! let workload = broker.register(workload)?;
//! let listening = broker.listen(([127, 0, 0, 1], 0)).await?;
//! println!("{} {}", listening.address(), listening.pin());
//! # listening.shutdown().await;
//! # let _ = workload; Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod api;
mod appraisal;
pub mod audit;
mod collateral;
pub mod config;
mod files;
mod handshake;
pub mod initdata;
mod keep;
mod manage;
mod principal;
pub mod record;
mod release;
pub mod remote;
mod revocation;
mod server;
mod session;
pub mod settings;
pub mod standalone;
mod state;
mod tenant;
pub mod verify;
pub mod workload;

pub use api::fuzz;
pub use belljar_evidence::snp::Anchors;
pub use config::{AdminToken, Clock, Config, ConfigError, Limits, SystemClock, own_machines};
pub use files::FileError;
pub use keep::KeepError;
pub use principal::{Principal, Role};
pub use record::{CheckRecord, Denial, HandshakeRecord, Outcome, Release};
pub use remote::{BrokerUrl, Method, RemoteBroker, RemoteError};
pub use revocation::{Revocation, RevocationError, Subject};
pub use server::{Listening, ServeError, TlsServer, serve_standalone};
pub use settings::{Settings, SettingsError};
pub use standalone::{Standalone, StartError, TOKEN_FILE, URL_FILE};
pub use state::Broker;
pub use verify::Trust;
pub use workload::{KnownWorkload, Launch, Reference, Resource, Rule, Workload, WorkloadError, WorkloadId};
