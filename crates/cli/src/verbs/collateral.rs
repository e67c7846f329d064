//! `belljar collateral fetch|status|bundle|verify|simulate`: what vendors publish, without which evidence cannot be judged.

mod bundle;
mod fetch;
mod simulate;
mod status;

use std::path::PathBuf;

use belljar_collateral::Cache;
use clap::{Args, Subcommand};

use crate::collateral::services;
use crate::evidence::vector::{now, seconds};
use crate::failure::Failure;
use crate::output::Format;
use crate::paths::Paths;

/// What vendors publish about their hardware.
#[derive(Debug, Subcommand)]
pub enum CollateralVerb {
    /// Get collateral from AMD and Intel into the cache, at the pace that they allow
    #[command(
        after_help = "Examples: belljar collateral fetch quote.bin report.bin\n          belljar collateral fetch --fmspc b0c06f000000 --tee tdx --authority platform --out ./collateral\n          belljar collateral fetch --item amd/Genoa/chain/vlek\nProxies: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY. Exit codes: 0 all is there, 1 an answer was refused, 3 a service is away."
    )]
    Fetch(Box<fetch::Fetch>),
    /// List the cache: each item with its issuer, purpose, dates and freshness
    #[command(
        after_help = "Example: belljar collateral status --grace-days 0\nExit codes: 0 all is fresh or in grace, 1 something is stale or damaged, 3 nothing is there."
    )]
    Status(status::Status),
    /// Put the cache into one signed file for machines without network
    #[command(
        after_help = "Examples: belljar collateral bundle --new-key --key bundle.key --out collateral.bundle\n          belljar collateral bundle --key bundle.key --out collateral.bundle --item intel/root-crl"
    )]
    Bundle(bundle::Bundle),
    /// Verify a bundle or a directory: its signature, and every item up to the vendor's root
    #[command(
        after_help = "Examples: belljar collateral verify collateral.bundle --key bundle.key.pub\n          belljar collateral verify ./collateral --at 2026-01-31T12:00:00Z\nExit codes: 0 all is authentic and in date, 1 something is not, 3 nothing is in it."
    )]
    Verify(status::Verify),
    /// Which stored quotes would change their verdict or status if Intel published this TCB info
    #[command(
        after_help = "Example: belljar collateral simulate --tcb-info new.json --evidence ./quotes --collateral ./collateral\nExit codes: 0 none would change, 1 some would, 3 none is of that platform."
    )]
    Simulate(simulate::Simulate),
}

impl CollateralVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Fetch(verb) => verb.execute(paths, format).await,
            Self::Status(verb) => verb.execute(paths, format),
            Self::Bundle(verb) => verb.execute(paths, format),
            Self::Verify(verb) => verb.execute(format),
            Self::Simulate(verb) => verb.execute(paths, format),
        }
    }
}

/// The cache.
#[derive(Debug, Args)]
struct CacheOption {
    /// The cache (default: ~/.cache/belljar/collateral)
    #[arg(long, value_name = "DIR", env = "BELLJAR_COLLATERAL")]
    cache: Option<PathBuf>,
}

impl CacheOption {
    fn open(&self, paths: &Paths) -> Cache {
        Cache::new(self.cache.clone().unwrap_or_else(|| paths.cache.join("collateral")))
    }
}

/// By which roots and dates to judge items.
#[derive(Debug, Args)]
struct Terms {
    /// Trust this root, too, PEM or DER; the vendors' are compiled in
    #[arg(long, value_name = "FILE")]
    anchor: Vec<PathBuf>,
    /// Days for which an item counts as in grace after its next update was due
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    grace_days: u32,
    /// Judge as of this time (default: now)
    #[arg(long, value_name = "RFC3339", value_parser = seconds)]
    at: Option<u64>,
}

impl Terms {
    fn anchors(&self) -> Result<belljar_collateral::Anchors, Failure> {
        services::anchors(&self.anchor)
    }

    /// Seconds of grace.
    fn grace(&self) -> u64 {
        u64::from(self.grace_days).saturating_mul(86_400)
    }

    fn at(&self) -> Result<u64, Failure> {
        self.at.map_or_else(now, Ok)
    }
}
