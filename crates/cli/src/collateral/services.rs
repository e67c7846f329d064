//! Options that say which services to ask, and how to reach them.

use std::path::{Path, PathBuf};

use belljar_collateral::{
    Anchors, Cache, FetchError, FetchOptions, Fetcher, Freshness, HttpError, HttpOptions, Limits, Proxies, Services,
};
use clap::Args;

use crate::evidence::file;
use crate::failure::Failure;

/// Services and connections.
#[derive(Debug, Args)]
pub struct ServiceOptions {
    /// AMD's key distribution service, or a mirror of it
    #[arg(long, value_name = "URL", env = "BELLJAR_KDS")]
    kds: Option<String>,
    /// A mirror of Intel's provisioning certification service
    #[arg(long, value_name = "URL", conflicts_with = "pccs")]
    pcs: Option<String>,
    /// A PCCS (Intel's caching service) for everything of Intel's
    #[arg(long, value_name = "URL", env = "BELLJAR_PCCS")]
    pccs: Option<String>,
    /// Address of the revocation list of Intel's root
    #[arg(long, value_name = "URL")]
    root_crl: Option<String>,
    /// Certificates that TLS trusts beside those of this machine, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Longest time to wait for a service that asks for patience, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    max_wait: u64,
}

impl ServiceOptions {
    /// A fetcher with a cache. Items past their next update are not taken from it unless `worst` allows.
    pub fn fetcher(&self, cache: Cache, anchors: Anchors, grace: u64, worst: Freshness) -> Result<Fetcher, Failure> {
        let usage = |error: HttpError| Failure::usage(error);
        let mut services = Services::vendors().map_err(usage)?;
        if let Some(base) = &self.kds {
            services = services.with_kds(base).map_err(usage)?;
        }
        if let Some(base) = &self.pcs {
            services = services.with_pcs(base).map_err(usage)?;
        }
        if let Some(base) = &self.pccs {
            services = services.with_pccs(base).map_err(usage)?;
        }
        if let Some(url) = &self.root_crl {
            services = services.with_root_crl(url).map_err(usage)?;
        }
        let ca = self.ca.as_deref().map(file::read).transpose()?;
        let http = HttpOptions { proxies: Proxies::from_env(), ca, limits: Limits::default() };
        let options = FetchOptions { max_wait: self.max_wait, grace, worst, ..FetchOptions::default() };
        Fetcher::new(cache, services, anchors, &http, options).map_err(|error| match error {
            HttpError::NoRoots(_) => Failure::undecided(error),
            other => usage(other),
        })
    }
}

/// The vendors' roots, and those that the user adds.
pub fn anchors(added: &[PathBuf]) -> Result<Anchors, Failure> {
    added.iter().try_fold(Anchors::vendors(), |anchors, path: &PathBuf| {
        let root = file::certificate(path)?;
        anchors.with_test_root(&root).map_err(|error| at(path, &error))
    })
}

/// A failure to fetch as the command ends with it: a lie is refused, everything else leaves it undecided.
pub fn failure(error: &FetchError) -> Failure {
    match error {
        FetchError::Refused { .. } | FetchError::Answer { .. } => Failure::refused(error),
        _ => Failure::undecided(error),
    }
}

fn at(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}
