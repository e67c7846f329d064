//! `belljar broker`: serves one, and administers one that runs here or elsewhere.

pub mod audit;
pub mod explain;
pub mod policy;
pub mod principal;
pub mod reference;
pub mod serve;
pub mod target;
pub mod workload;

use clap::Subcommand;

use crate::failure::Failure;
use crate::output::Format;
use crate::paths::Paths;

/// The broker.
#[derive(Debug, Subcommand)]
pub enum BrokerVerb {
    /// Serve until a signal. Prints its URL, which holds its key, as the first line of stdout
    #[command(
        after_help = "Example: belljar broker serve\nExample: belljar broker serve --config /etc/belljar/broker.toml"
    )]
    Serve(Box<serve::Serve>),
    /// Settings of a broker
    #[command(after_help = "Example: belljar broker config --example > broker.toml")]
    Config(serve::Config),
    /// Which workloads get which secrets
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    /// What evidence is compared with
    #[command(subcommand)]
    Reference(reference::ReferenceVerb),
    /// Workloads that were registered
    #[command(subcommand)]
    Workload(workload::WorkloadVerb),
    /// Withdraw a measurement, a chip, a contract or a signer: its sessions and tokens are dead at once
    #[command(after_help = "Example: belljar broker revoke chip 1a2b… --reason 'stolen from rack 4'")]
    Revoke(workload::Revoke),
    /// What is revoked; with --lift, one of them no more
    Revocations(workload::Revocations),
    /// Why something was refused: every check, expected and found
    #[command(
        after_help = "Example: belljar broker explain 0f1e2d3c4b5a\nExample: belljar broker explain 0f1e2d3c4b5a --policy new.toml --resource team/key/1"
    )]
    Explain(explain::Explain),
    /// Who did what, and what became of it
    #[command(after_help = "Example: belljar broker audit --follow\nExample: belljar broker audit verify")]
    Audit(Box<audit::Audit>),
    /// Who administers a tenant
    #[command(subcommand)]
    Principal(principal::PrincipalVerb),
    /// Tenants of a broker; only its owner sees them
    #[command(subcommand)]
    Tenant(principal::TenantVerb),
}

impl BrokerVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Serve(verb) => verb.execute(paths).await,
            Self::Config(verb) => verb.execute(format),
            Self::Policy(verb) => verb.execute(paths, format).await,
            Self::Reference(verb) => verb.execute(paths, format).await,
            Self::Workload(verb) => verb.execute(paths, format).await,
            Self::Revoke(verb) => verb.execute(paths, format).await,
            Self::Revocations(verb) => verb.execute(paths, format).await,
            Self::Explain(verb) => verb.execute(paths, format).await,
            Self::Audit(verb) => verb.execute(paths, format).await,
            Self::Principal(verb) => verb.execute(paths, format).await,
            Self::Tenant(verb) => verb.execute(paths, format).await,
        }
    }
}
