//! What a verification found: every check in order, with what was expected and what was found.

use std::fmt;

use serde::Serialize;

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The claim was checked and holds.
    Passed,
    /// The claim was checked and does not hold.
    Failed,
    /// The claim could not be checked, or does not apply to this evidence; `found` says why.
    NotChecked,
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

/// One named check of a verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name, e.g. `report-signature`; `first_failure` of a verdict is one of these.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What had to be there, in words or lowercase hex.
    pub expected: String,
    /// What was there; for a check that was not made, the reason.
    pub found: String,
}

impl Check {
    /// A check that two texts are the same.
    pub fn same(name: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let (expected, found) = (expected.into(), found.into());
        let outcome = if expected == found { Outcome::Passed } else { Outcome::Failed };
        Self { name, outcome, expected, found }
    }

    /// A check that a field holds the expected bytes and then zeros.
    pub fn padded(name: &'static str, expected: &[u8], found: &[u8]) -> Self {
        let holds = found.strip_prefix(expected).is_some_and(|rest| rest.iter().all(|&byte| byte == 0));
        let outcome = if holds { Outcome::Passed } else { Outcome::Failed };
        Self { name, outcome, expected: hex::encode(expected), found: hex::encode(found) }
    }

    /// A check that could not be made, and why.
    pub fn not_made(name: &'static str, expected: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::NotChecked, expected: expected.into(), found: why.into() }
    }
}

/// The answer of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The evidence is authentic at the given time.
    Valid,
    /// The evidence must be refused.
    Invalid,
    /// No check failed, but one that is needed could not be made because a certificate is missing.
    Undecided,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Undecided => "undecided",
        })
    }
}

/// Whether evidence is authentic, and why.
///
/// `F` is what was read out of the evidence (for SNP, [`crate::snp::Facts`]). Fields of a report whose verdict is not
/// `valid` are what its bytes claim, nothing more.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict<F = crate::snp::Facts> {
    /// The answer.
    pub verdict: Decision,
    /// Name of the first check that failed, in the order of `checks`; with an undecided verdict, of the first needed
    /// check that could not be made.
    pub first_failure: Option<&'static str>,
    /// True when the chain ends in a root that is not the hardware vendor's but was added by the caller: such evidence
    /// says nothing about hardware.
    pub software: bool,
    /// Facts that a policy may have to refuse although the evidence is authentic, e.g. `debug-policy`, `vmpl-1`,
    /// `vlek`, `software-tee`, `test-root`.
    pub flags: Vec<String>,
    /// Every check, in order.
    pub checks: Vec<Check>,
    /// What the evidence and its certificates say.
    #[serde(flatten)]
    pub facts: F,
}

impl<F> Verdict<F> {
    /// True when the evidence is authentic. Says nothing about `software`, flags or the content: that is policy.
    pub fn is_valid(&self) -> bool {
        self.verdict == Decision::Valid
    }

    /// Adds a demand of the caller's behind the checks. One that failed makes the verdict invalid; one that could not be
    /// made makes a valid verdict undecided.
    pub fn require(&mut self, check: Check) {
        let verdict = match check.outcome {
            Outcome::Failed if self.verdict != Decision::Invalid => Decision::Invalid,
            Outcome::NotChecked if self.verdict == Decision::Valid => Decision::Undecided,
            _ => {
                self.checks.push(check);
                return;
            }
        };
        self.verdict = verdict;
        self.first_failure = Some(check.name);
        self.checks.push(check);
    }

    /// The check of that name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// The check that decided against the evidence: it failed, or could not be made.
    pub fn failure(&self) -> Option<&Check> {
        self.first_failure.and_then(|name| self.check(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Checks;

    fn verdict(found: bool) -> Verdict<()> {
        let mut checks = Checks::default();
        checks.compare("first", "a", "b", found);
        checks.into_verdict(false, Vec::new(), ())
    }

    #[test]
    fn a_demand_can_only_lower_a_verdict() {
        let mut valid = verdict(true);
        valid.require(Check::same("same", "a", "a"));
        assert_eq!((valid.verdict, valid.first_failure), (Decision::Valid, None));
        valid.require(Check::not_made("unknown", "a", "nobody knows"));
        assert_eq!((valid.verdict, valid.first_failure), (Decision::Undecided, Some("unknown")));
        valid.require(Check::same("other", "a", "b"));
        assert_eq!((valid.verdict, valid.first_failure), (Decision::Invalid, Some("other")));
        assert_eq!(valid.checks.len(), 4);

        let mut invalid = verdict(false);
        invalid.require(Check::same("same", "a", "a"));
        invalid.require(Check::not_made("unknown", "a", "nobody knows"));
        invalid.require(Check::same("other", "a", "b"));
        assert_eq!((invalid.verdict, invalid.first_failure), (Decision::Invalid, Some("first")));
    }

    #[test]
    fn a_field_is_padded_with_zeros_only() {
        assert_eq!(Check::padded("nonce", &[1, 2], &[1, 2, 0, 0]).outcome, Outcome::Passed);
        assert_eq!(Check::padded("nonce", &[1, 2], &[1, 2, 0, 3]).outcome, Outcome::Failed);
        assert_eq!(Check::padded("nonce", &[1, 2, 0], &[1, 2]).outcome, Outcome::Failed);
        assert_eq!(Check::padded("nonce", &[1, 3], &[1, 2, 0, 0]).outcome, Outcome::Failed);
    }
}
