//! What all TEEs have in common.

use belljar_evidence::Verdict;
use serde_json::{Map, Value, json};

/// Whose root the evidence ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// The vendor's of the hardware.
    Hardware,
    /// That of a software TEE.
    Software,
    /// A root for tests.
    Test,
    /// None that is trusted, or none that is looked for (a TPM's key is trusted by itself).
    None,
}

impl Root {
    /// The name in the claims.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Software => "software",
            Self::Test => "test",
            Self::None => "none",
        }
    }

    pub(super) fn is_software_name(name: &str) -> bool {
        name == Self::Software.name() || name == Self::Test.name()
    }
}

impl From<Option<belljar_evidence::Root>> for Root {
    fn from(root: Option<belljar_evidence::Root>) -> Self {
        use belljar_evidence::Root as Found;
        match root {
            Some(Found::Amd | Found::Intel) => Self::Hardware,
            Some(Found::Software) => Self::Software,
            Some(Found::Test) => Self::Test,
            None => Self::None,
        }
    }
}

/// Claims that were read out of a verdict.
pub(super) struct Read {
    /// The TEE's own, for under its name.
    pub(super) own: Value,
    /// Ours.
    pub(super) ours: Map<String, Value>,
    /// What the guest had included, lowercase hex.
    pub(super) report_data: Option<String>,
    /// What the host set, lowercase hex.
    pub(super) init_data: Option<String>,
}

/// The claims that every verdict gives: `authentic`, `verdict`, `first_failure`, `root`, `flags`, and `revocation_checked`:
/// whether the check of that name was made and holds.
pub(super) fn of_verdict<F>(verdict: &Verdict<F>, root: Root, revocation: Option<&str>) -> Map<String, Value> {
    let mut ours = Map::new();
    ours.insert("authentic".to_owned(), json!(verdict.is_valid()));
    ours.insert("verdict".to_owned(), json!(verdict.verdict.to_string()));
    if let Some(failure) = verdict.first_failure {
        ours.insert("first_failure".to_owned(), json!(failure));
    }
    ours.insert("root".to_owned(), json!(root.name()));
    ours.insert("flags".to_owned(), json!(verdict.flags));
    let checked = revocation.and_then(|name| verdict.check(name));
    let checked = checked.is_some_and(|check| check.outcome == belljar_evidence::Outcome::Passed);
    ours.insert("revocation_checked".to_owned(), json!(checked));
    ours
}

/// The root of evidence whose facts do not name it: a virtual TPM's.
pub(super) fn root_of_flags<F>(verdict: &Verdict<F>) -> Root {
    let has = |flag: &str| verdict.flags.iter().any(|found| found == flag);
    match (verdict.software, has("software-tee"), verdict.is_valid()) {
        (true, true, _) => Root::Software,
        (true, false, _) => Root::Test,
        (false, _, true) => Root::Hardware,
        (false, _, false) => Root::None,
    }
}
