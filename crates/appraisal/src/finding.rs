//! The outcome of one rule: enough to explain a refusal in full, and to say who can change it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who can change what a rule found or expected.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Who sent the evidence: the guest, or whoever stands between.
    Attester,
    /// Who runs the machine: its firmware, its settings.
    Platform,
    /// Who wrote the workload's contract and started it.
    Workload,
    /// Who keeps this verifier's trust anchors and its collateral.
    Verifier,
    /// Who wrote the policy or its settings.
    Policy,
    /// Who registered the reference value; the name is theirs.
    Reference(String),
    /// Somebody by name: whom a rule of release names.
    Named(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attester => f.write_str("the attester"),
            Self::Platform => f.write_str("who runs the platform"),
            Self::Workload => f.write_str("who runs the workload"),
            Self::Verifier => f.write_str("who runs this verifier"),
            Self::Policy => f.write_str("who wrote the policy"),
            Self::Reference(name) => write!(f, "{name} (reference value)"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// One rule that was evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The claim that the rule looks at, as a path into the claims: `snp.measurement`.
    pub claim: String,
    /// Name of the rule.
    pub rule: String,
    /// What had to be there.
    pub expected: String,
    /// What was there.
    pub found: String,
    /// Who can change it.
    pub owner: Owner,
    /// Whether the rule holds.
    pub passed: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claim, rule, expected, found, owner, passed } = self;
        let word = if *passed { "holds" } else { "does not hold" };
        write!(f, "{rule} {word}: {claim} is {found}, expected {expected} (owner: {owner})")
    }
}
