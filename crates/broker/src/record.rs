//! What happened in a handshake, kept for the process that embeds the broker, and for the admin API.

use crate::workload::Launch;
use belljar_evidence as evidence;
use belljar_rcar::ear::{Status, TrustVector};
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, fmt, sync::Arc};

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not hold.
    Failed,
    /// It could not be made or does not apply; `found` says why.
    NotChecked,
}

impl From<evidence::Outcome> for Outcome {
    fn from(outcome: evidence::Outcome) -> Self {
        match outcome {
            evidence::Outcome::Passed => Self::Passed,
            evidence::Outcome::Failed => Self::Failed,
            evidence::Outcome::NotChecked => Self::NotChecked,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotChecked => "not checked",
        })
    }
}

/// One check, in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRecord {
    /// Name of the claim: those of the evidence's verification (`report-signature`, `chain-to-anchor`, …), then
    /// `report_data`, `init_data`, `host_data`, `measurement`, `policy_debug_allowed`, `policy_migrate_ma_allowed`,
    /// `guest_vmpl`, `hardware`.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What had to be there; bytes in lowercase hex.
    pub expected: String,
    /// What was there.
    pub found: String,
    /// Who owns the expected value; absent where the specification does.
    pub owner: Option<String>,
}

/// Why something was refused, in full. The workload sees only a short reason and the id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Names this denial in the workload's error and here.
    pub id: String,
    /// `attestation`, or `resource <path>`.
    pub refused: String,
    /// The claim that decided.
    pub claim: String,
    /// Its expected value.
    pub expected: String,
    /// The value that was found.
    pub found: String,
    /// Who owns the expected value, and can change it.
    pub owner: String,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, refused, claim, expected, found, owner } = self;
        write!(f, "{refused} refused: {claim} is {found}, expected {expected} (owner: {owner}; denial {id})")
    }
}

/// A request for a resource, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Unix seconds.
    pub at: u64,
    /// `repository/type/tag`.
    pub resource: String,
    /// Length of what was released, in bytes.
    pub bytes: Option<usize>,
    /// Why not.
    pub denial: Option<Denial>,
}

/// A certificate that came with the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// `VCEK`, `ASK`, `ARK`, …
    pub kind: String,
    /// DER in standard base64.
    pub der: String,
}

/// One handshake, from its attestation message on. Of a message that could not be appraised (not understood, another
/// session's nonce, an unusable key) only the denial is recorded; one without a live session leaves no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeRecord {
    /// Its name.
    pub id: String,
    /// Whose challenge it answered.
    pub tenant: String,
    /// When the evidence came, Unix seconds.
    pub at: u64,
    /// `snp`, or `software-tee` when no hardware stands behind the evidence, or the TEE that the client named.
    pub tee: String,
    /// Whether the workload was admitted: all checks passed.
    pub admitted: bool,
    /// Tier of the appraisal (EAR); `contraindicated` for a software TEE also when it was admitted.
    pub status: Status,
    /// AR4SI vector.
    pub trust_vector: TrustVector,
    /// Every check in order, also those behind the first that failed.
    pub checks: Vec<CheckRecord>,
    /// Why it was refused.
    pub denial: Option<Denial>,
    /// What rules of release go by; absent when the evidence could not be read.
    pub who: Option<belljar_appraisal::release::Identity>,
    /// Names of the workloads that this init-data digest stands for.
    pub workloads: Vec<String>,
    /// HOST_DATA of the report, hex.
    pub host_data: Option<String>,
    /// What the launch was measured to.
    pub launch: Launch,
    /// What a policy may refuse: `vlek`, `debug-policy`, …
    pub flags: Vec<String>,
    /// Intel's combined TCB status.
    pub tcb: Option<String>,
    /// Whether Intel's collateral was in date: `fresh`, `in grace` or `stale`.
    pub freshness: Option<String>,
    /// The init-data document as it was sent, for the record.
    pub init_data: Option<String>,
    /// The main part of the evidence, hex: an SNP report, a quote, a paravisor's report, a TPM's message.
    pub evidence: Option<String>,
    /// The certificates that came with it.
    pub chain: Vec<CertificateRecord>,
    /// The token that was given.
    pub token: Option<String>,
    /// What was asked for with it.
    pub releases: Vec<Release>,
}

impl HandshakeRecord {
    /// The check of this name; of two, the last, which is the appraisal's.
    pub fn check(&self, name: &str) -> Option<&CheckRecord> {
        self.checks.iter().rev().find(|check| check.name == name)
    }
}

/// The last handshakes, oldest first.
#[derive(Debug)]
pub(crate) struct Ring {
    records: VecDeque<Arc<HandshakeRecord>>,
    limit: usize,
}

impl Ring {
    pub(crate) fn new(limit: usize) -> Self {
        Self { records: VecDeque::new(), limit }
    }

    pub(crate) fn push(&mut self, record: Arc<HandshakeRecord>) {
        if self.records.len() >= self.limit {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// Adds a release to a record that is still kept, and gives the new version of it.
    pub(crate) fn add_release(&mut self, id: &str, release: Release) -> Option<Arc<HandshakeRecord>> {
        const MAX_RELEASES: usize = 256;
        let record = self.records.iter_mut().rev().find(|record| record.id == id)?;
        let inner = Arc::make_mut(record);
        if inner.releases.len() >= MAX_RELEASES {
            inner.releases.remove(0);
        }
        inner.releases.push(release);
        Some(record.clone())
    }

    pub(crate) fn all(&self) -> Vec<Arc<HandshakeRecord>> {
        self.records.iter().cloned().collect()
    }
}
