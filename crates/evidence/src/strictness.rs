//! How strictly to judge what vendors publish: what is missing, and what is past its next update.

use serde::{Deserialize, Serialize};

use crate::time::rfc3339;

/// How far collateral is in date; of several items the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// The next update is still to come.
    Fresh,
    /// The next update has passed, and the caller's grace has not.
    InGrace,
    /// Both have passed.
    Stale,
}

impl Freshness {
    /// The rung of something whose next update is due at `next`, all in seconds since 1970, with a grace in seconds.
    pub fn at(at: u64, next: u64, grace: u64) -> Self {
        if at <= next {
            Self::Fresh
        } else if at <= next.saturating_add(grace) {
            Self::InGrace
        } else {
            Self::Stale
        }
    }

    /// The name for a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::InGrace => "in grace",
            Self::Stale => "stale",
        }
    }
}

/// What to do about collateral that was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The verdict is undecided: what the vendor has revoked or rated down cannot be told.
    Undecided,
    /// Checks that need it are not made, and the verdict rests on the others.
    Allowed,
}

/// How strictly to judge.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What to do about collateral that was not given.
    pub missing: Missing,
    /// For how many seconds after its next update collateral is in grace.
    pub grace: u64,
    /// Worst freshness that is taken.
    pub accept: Freshness,
}

impl Default for Options {
    fn default() -> Self {
        Self { missing: Missing::Undecided, grace: 0, accept: Freshness::Fresh }
    }
}

impl Options {
    /// Collateral is not asked for; what is given must be fresh.
    pub const UNASKED: Self = Self { missing: Missing::Allowed, grace: 0, accept: Freshness::Fresh };

    /// The rung of something that was issued at `issued` and has its next update at `next`, and what was found, in words:
    /// `Ok` when it is taken at `at`.
    pub(crate) fn in_date(&self, issued: u64, next: u64, at: u64) -> (Freshness, Result<String, String>) {
        let rung = Freshness::at(at, next, self.grace);
        let found = if at < issued {
            Err(format!("issued at {}", rfc3339(issued)))
        } else if rung > self.accept {
            Err(format!("the next update was due at {}: {}", rfc3339(next), rung.name()))
        } else {
            Ok(format!("issued at {}, next update at {}: {}", rfc3339(issued), rfc3339(next), rung.name()))
        };
        (rung, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rungs_meet_at_the_second() {
        let rung = |at, grace| Freshness::at(at, 200, grace);
        assert_eq!((rung(200, 50), rung(201, 50)), (Freshness::Fresh, Freshness::InGrace));
        assert_eq!((rung(250, 50), rung(251, 50)), (Freshness::InGrace, Freshness::Stale));
        assert_eq!((rung(201, 0), rung(u64::MAX, u64::MAX)), (Freshness::Stale, Freshness::InGrace));
    }

    #[test]
    fn the_worst_rung_that_is_taken_is_the_callers() {
        let taken = |accept, at| Options { grace: 50, accept, ..Options::UNASKED }.in_date(100, 200, at).1.is_ok();
        let times = [99, 100, 200, 201, 250, 251];
        for (accept, expected) in [
            (Freshness::Fresh, [false, true, true, false, false, false]),
            (Freshness::InGrace, [false, true, true, true, true, false]),
            (Freshness::Stale, [false, true, true, true, true, true]),
        ] {
            assert_eq!(times.map(|at| taken(accept, at)), expected, "{accept:?}");
        }
        let (_, found) = Options::UNASKED.in_date(100, 200, 150);
        assert_eq!(found.unwrap(), "issued at 1970-01-01T00:01:40Z, next update at 1970-01-01T00:03:20Z: fresh");
    }
}
