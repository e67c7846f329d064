//! The freshness ladder: what an item's own dates make of it at one moment.

use belljar_evidence::Freshness;
use serde::Serialize;

/// Seconds for which an item still counts after its next update was due, where the caller does not say otherwise: a week.
pub const DEFAULT_GRACE: u64 = 7 * 24 * 60 * 60;

/// What an item says of itself once it is known to be authentic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Common name of the authority that signed it.
    pub issuer: String,
    /// Whose root that authority leads to: `amd`, `intel`, or `test` for one that the caller added.
    pub root: &'static str,
    /// When it was issued, in seconds since 1970.
    pub issued: u64,
    /// When its next issue is due, in seconds since 1970; for certificates the last second at which they are valid.
    pub next_update: u64,
    /// Last second at which the certificates of its signer are valid. No grace goes past it.
    pub expires: u64,
    /// Number of Intel's evaluation; higher is newer.
    pub evaluation_number: Option<u32>,
}

impl Facts {
    /// The rung at a time in seconds since 1970, with a grace in seconds.
    pub fn rung(&self, at: u64, grace: u64) -> Freshness {
        if at > self.expires { Freshness::Stale } else { Freshness::at(at, self.next_update, grace) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rungs_meet_at_the_second() {
        let facts = Facts {
            issuer: String::new(),
            root: "test",
            issued: 100,
            next_update: 200,
            expires: 1000,
            evaluation_number: None,
        };
        assert_eq!(facts.rung(200, 50), Freshness::Fresh);
        assert_eq!(facts.rung(201, 50), Freshness::InGrace);
        assert_eq!(facts.rung(250, 50), Freshness::InGrace);
        assert_eq!(facts.rung(251, 50), Freshness::Stale);
        assert_eq!(facts.rung(201, 0), Freshness::Stale);
        // No grace past the certificates of the signer.
        assert_eq!(facts.rung(1000, 10_000), Freshness::InGrace);
        assert_eq!(facts.rung(1001, 10_000), Freshness::Stale);
    }
}
