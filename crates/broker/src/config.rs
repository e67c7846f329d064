//! What a broker is made from.

use crate::{verify::Trust, workload::Workload};
use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use belljar_appraisal::policy::{Settings, SnpFloor};
use belljar_collateral::Collection;
use belljar_rcar::ear::{TokenError, TokenKey};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Configuration; the default trusts AMD's roots, knows no workload, and has no admin API.
#[derive(Debug)]
pub struct Config {
    /// Roots that evidence may end in, and what of authentic evidence is taken.
    pub trust: Trust,
    /// The vendors' endorsements that are there from the start.
    pub collateral: Collection,
    /// Admits evidence of a software TEE, which protects nothing from its host.
    pub allow_software_tee: bool,
    /// What the default policy takes beside what is always right. Its `allow_software_tee` is not looked at.
    pub policy: Settings,
    /// Key that signs tokens; a fresh one when absent.
    pub token_key: Option<TokenKey>,
    /// Workloads that are known from the start.
    pub workloads: Vec<Workload>,
    /// Opens the admin API `/belljar/v1` to the bearer of this token.
    pub admin_token: Option<AdminToken>,
    /// Bounds.
    pub limits: Limits,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            collateral: Collection::default(),
            allow_software_tee: false,
            policy: Settings::default(),
            token_key: None,
            workloads: Vec::new(),
            admin_token: None,
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// A policy for a broker that one user runs for pods of their own, on machines that they know: any TCB of AMD's is taken, also
/// without a revocation list. All other rules are those of the default, which takes no SNP platform without a floor.
pub fn own_machines() -> Settings {
    let lines = ["Milan", "Genoa", "Turin"].map(|line| (line.to_owned(), SnpFloor::default()));
    Settings {
        min_snp_tcb: lines.into(),
        require_revocation: false,
        flags: vec!["vlek".to_owned()],
        ..Settings::default()
    }
}

/// Bounds of what a broker keeps and how long it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Attestations within the lifetime of a session; further ones are refused with 429 until some expire.
    pub sessions: usize,
    /// Lifetime of a session, from its challenge on.
    pub session: Duration,
    /// Lifetime of a token.
    pub token: Duration,
    /// Handshake records that are kept; the oldest go first.
    pub records: usize,
    /// Registered workloads at once.
    pub workloads: usize,
    /// Connections at once.
    pub connections: usize,
    /// Time for a TLS handshake.
    pub tls: Duration,
    /// Time for one request, from its head on.
    pub request: Duration,
    /// Time that a connection may wait for its next request.
    pub idle: Duration,
    /// Time for a connection in all.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 4096,
            session: Duration::from_secs(300),
            token: Duration::from_secs(300),
            records: 64,
            workloads: 1024,
            connections: 256,
            tls: Duration::from_secs(10),
            request: Duration::from_secs(20),
            idle: Duration::from_secs(60),
            connection: Duration::from_secs(600),
        }
    }
}

/// Why a broker cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No token key.
    #[error("no token key: {0}")]
    TokenKey(#[from] TokenError),
    /// A workload is refused.
    #[error("workload refused: {0}")]
    Workload(#[from] crate::workload::WorkloadError),
    /// An admin token that can be guessed.
    #[error("admin token of {0} characters is too short; use 32 or more, for example from `openssl rand -hex 32`")]
    AdminToken(usize),
    /// No random numbers.
    #[error("no random numbers")]
    Random,
    /// A limit of zero.
    #[error("limit {0} is zero")]
    Limit(&'static str),
}

/// The secret of the admin API's users. Compared in constant time, never shown.
#[derive(Clone)]
pub struct AdminToken(Zeroizing<String>);

impl AdminToken {
    /// A given token, at least 32 characters.
    pub fn new(token: Zeroizing<String>) -> Result<Self, ConfigError> {
        match token.chars().count() {
            short @ 0..32 => Err(ConfigError::AdminToken(short)),
            _ => Ok(Self(token)),
        }
    }

    /// A fresh token: 256 random bits as 64 hexadecimal digits.
    pub fn generate() -> Result<Self, ConfigError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        rand::fill(bytes.as_mut()).map_err(|_| TokenError::Library("make random numbers"))?;
        Ok(Self(Zeroizing::new(hex::encode(bytes.as_ref()))))
    }

    /// The token itself, to hand it to its user.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `found` is the token. Takes the same time wherever the two differ.
    pub(crate) fn matches(&self, found: &str) -> bool {
        let hash = |text: &str| digest(&SHA256, text.as_bytes());
        hash(found).as_ref().ct_eq(hash(&self.0).as_ref()).into()
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Seconds since 1970.
    fn now(&self) -> u64;
}

/// The system's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}
