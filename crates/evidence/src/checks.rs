//! The list of checks of one verification while it grows, and the verdict that it comes to.

use std::fmt::Display;
use std::time::Duration;

use x509_cert::der::DateTime;

use crate::verdict::{Check, Decision, Outcome, Verdict};

/// A time in seconds since 1970 as people and programs write it (RFC 3339); the number where the calendar has none.
pub(crate) fn when(seconds: u64) -> String {
    DateTime::from_unix_duration(Duration::from_secs(seconds))
        .map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// Checks in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    done: Vec<Check>,
    /// First check that would have decided and could not be made.
    missing: Option<&'static str>,
}

impl Checks {
    /// A check with its outcome; one that was not made does not stand in the way of a verdict (see [`Self::cannot`]).
    pub(crate) fn add(&mut self, name: &'static str, outcome: Outcome, expected: impl Display, found: impl Display) {
        self.done.push(Check { name, outcome, expected: expected.to_string(), found: found.to_string() });
    }

    /// A check that was made.
    pub(crate) fn compare(&mut self, name: &'static str, expected: impl Display, found: impl Display, holds: bool) {
        self.add(name, if holds { Outcome::Passed } else { Outcome::Failed }, expected, found);
    }

    /// A check that the verdict needs, and for which something is missing: without a failure the verdict is undecided.
    pub(crate) fn cannot(&mut self, name: &'static str, expected: impl Display, why: impl Display) {
        self.missing.get_or_insert(name);
        self.add(name, Outcome::NotChecked, expected, why);
    }

    /// The verdict: invalid at the first failure, else undecided when something was missing, else valid.
    pub(crate) fn into_verdict<F>(self, software: bool, flags: Vec<String>, facts: F) -> Verdict<F> {
        let failed = self.done.iter().find(|check| check.outcome == Outcome::Failed).map(|check| check.name);
        let (verdict, first_failure) = match (failed, self.missing) {
            (Some(name), _) => (Decision::Invalid, Some(name)),
            (None, Some(name)) => (Decision::Undecided, Some(name)),
            (None, None) => (Decision::Valid, None),
        };
        Verdict { verdict, first_failure, software, flags, checks: self.done, facts }
    }
}
