//! The list of checks of one verification while it grows, and the verdict that it comes to.

use std::fmt::Display;

use crate::strictness::Missing;
use crate::verdict::{Check, Decision, Outcome, Verdict};

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

    /// A check whose collateral was not given, as the caller wants it.
    pub(crate) fn absent(&mut self, missing: Missing, name: &'static str, expected: impl Display, what: &str) {
        let why = format!("{what} was not given");
        match missing {
            Missing::Undecided => self.cannot(name, expected, why),
            Missing::Allowed => self.add(name, Outcome::NotChecked, expected, why),
        }
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
