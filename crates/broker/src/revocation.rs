//! What is withdrawn: a chip, a measurement, a contract, a workload, a signer. Sessions and tokens of theirs are dead from
//! then on, and nothing of theirs is admitted again.

use crate::{session::Identity, workload::Launch};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, str::FromStr};

/// What a revocation is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A reference value, such as a launch measurement.
    Measurement,
    /// A platform: chip id, PPID, fingerprint of a TPM's key.
    Chip,
    /// An init-data document, by the first 32 bytes of its digest.
    Contract,
    /// The key that signed contracts, by its fingerprint.
    Signer,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Measurement, Self::Chip, Self::Contract, Self::Signer];
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl FromStr for Subject {
    type Err = RevocationError;

    fn from_str(text: &str) -> Result<Self, RevocationError> {
        let found = Self::ALL.into_iter().find(|subject| subject.to_string() == text);
        found.ok_or_else(|| RevocationError::Subject(belljar_rcar::sanitize(text, 32)))
    }
}

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Of what.
    pub subject: Subject,
    /// Which one: lowercase hex.
    pub value: String,
    /// Why, for people.
    pub reason: String,
    /// Since when, Unix seconds.
    pub at: u64,
    /// Who did it.
    pub by: String,
}

/// Why something cannot be revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// Not a subject.
    #[error("{0:?} cannot be revoked; measurement, chip, contract and signer can")]
    Subject(String),
    /// Not hex of a length that there is.
    #[error("value of a {0} is not lowercase hex of 16 to 128 digits")]
    Value(Subject),
    /// A reason that cannot be shown.
    #[error("reason is longer than 200 characters or holds control characters")]
    Reason,
}

impl Revocation {
    /// Checks the form.
    ///
    /// # Errors
    /// Any [`RevocationError`].
    pub fn check(&self) -> Result<(), RevocationError> {
        let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if !(16..=128).contains(&self.value.len()) || !self.value.bytes().all(digit) {
            return Err(RevocationError::Value(self.subject));
        }
        if self.reason.chars().count() > 200 || belljar_rcar::sanitize(&self.reason, 200) != self.reason {
            return Err(RevocationError::Reason);
        }
        Ok(())
    }

    /// The key under which it is kept.
    pub(crate) fn key(subject: Subject, value: &str) -> String {
        format!("{subject}/{value}")
    }
}

/// All revocations of a tenant.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    by_key: HashMap<(Subject, String), Revocation>,
}

impl Revocations {
    pub(crate) fn new(all: impl IntoIterator<Item = Revocation>) -> Self {
        Self { by_key: all.into_iter().map(|one| ((one.subject, one.value.clone()), one)).collect() }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Revocation> {
        self.by_key.values()
    }

    /// The first that names any of these.
    pub(crate) fn of(
        &self,
        launch: &Launch,
        chip: &[u8],
        contract: &[u8; 32],
        signer: Option<&str>,
    ) -> Option<&Revocation> {
        if self.by_key.is_empty() {
            return None;
        }
        let get = |subject: Subject, value: String| self.by_key.get(&(subject, value));
        get(Subject::Contract, hex::encode(contract))
            .or_else(|| get(Subject::Chip, hex::encode(chip)))
            .or_else(|| signer.and_then(|signer| get(Subject::Signer, signer.to_owned())))
            .or_else(|| launch.values().find_map(|value| get(Subject::Measurement, value.clone())))
    }

    /// The first that names who attested.
    pub(crate) fn of_identity(&self, identity: &Identity) -> Option<&Revocation> {
        self.of(&identity.launch, &identity.chip, &identity.host_data, identity.who.signer.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_is_found_by_its_value_and_no_other() {
        let launch = Launch::from([("snp_launch_measurement".to_owned(), "aa".repeat(48))]);
        let one = |subject, value: &str| {
            let value = value.to_owned();
            Revocations::new([Revocation { subject, value, reason: String::new(), at: 1, by: "me".into() }])
        };
        let found = |all: &Revocations| all.of(&launch, &[0xbb; 64], &[0xcc; 32], Some("dd")).is_some();
        for (subject, value) in [
            (Subject::Measurement, "aa".repeat(48)),
            (Subject::Chip, "bb".repeat(64)),
            (Subject::Contract, "cc".repeat(32)),
            (Subject::Signer, "dd".to_owned()),
        ] {
            assert!(found(&one(subject, &value)), "{subject}");
            assert!(!found(&one(subject, &value.replace(&value[..1], "e"))), "{subject}");
            assert_eq!(subject.to_string().parse(), Ok(subject));
            for other in Subject::ALL.into_iter().filter(|other| *other != subject) {
                assert!(!found(&one(other, &value)), "{other}");
            }
        }
    }

    #[test]
    fn each_fault_is_told() {
        let good = Revocation {
            subject: Subject::Chip,
            value: "ab".repeat(64),
            reason: "stolen".into(),
            at: 1,
            by: "me".into(),
        };
        assert_eq!(good.check(), Ok(()));
        for value in ["ab".repeat(7), "ab".repeat(65), "AB".repeat(32), "zz".repeat(32)] {
            assert_eq!(Revocation { value, ..good.clone() }.check(), Err(RevocationError::Value(Subject::Chip)));
        }
        assert_eq!(Revocation { reason: "a\nb".into(), ..good }.check(), Err(RevocationError::Reason));
        assert_eq!("key".parse::<Subject>(), Err(RevocationError::Subject("key".into())));
    }
}
