//! Whether a log is what it was, and the first entry that is not.

use std::collections::BTreeMap;

use super::checkpoint::{AuditKeyId, AuditPublicKey, Checkpoint};
use super::entry::{Event, Hash, chain, genesis};
use crate::record::Tenant;

/// What is wrong with a log, from its first entry on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// An entry is missing, or stands elsewhere.
    #[error("entry {expected} is not in its place, where entry {found} stands: it was removed or moved")]
    Place {
        /// The number that has to come.
        expected: u64,
        /// The number that comes.
        found: u64,
    },
    /// An entry's bytes are not an entry.
    #[error("entry {0} has no form that is known: it was changed")]
    Malformed(u64),
    /// An entry does not fit to its hash and the hash before it.
    #[error(
        "entry {0} does not fit to its hash and the entry before it: it was changed, or put in, or one before it was removed"
    )]
    Changed(u64),
    /// A signed checkpoint says something else. The entries are consistent, so their hashes were made anew.
    #[error(
        "entry {sequence} has hash {found}, where a signed checkpoint has {expected}: it or one before it, behind entry {signed}, was changed and all hashes made anew"
    )]
    Rewritten {
        /// The entry of the checkpoint.
        sequence: u64,
        /// The last checkpoint before it that holds, or 0.
        signed: u64,
        /// Hash in the checkpoint, lowercase hex.
        expected: String,
        /// Hash in the log, lowercase hex.
        found: String,
    },
    /// The log ends too early.
    #[error("entry {missing} is missing at the end: {by} says that the log goes on to entry {to}")]
    Truncated {
        /// The first entry that is not there.
        missing: u64,
        /// The last entry that has to be there.
        to: u64,
        /// What says so.
        by: &'static str,
    },
    /// The log goes on, or ends differently, where its end is said to be.
    #[error("entry {0} is not what the log's end says: it was put in or changed")]
    End(u64),
    /// A checkpoint is not signed by a key that is trusted.
    #[error(
        "the checkpoint at entry {sequence} is not signed by a trusted key (it names key {key}): it was changed, or its key is missing here"
    )]
    Signature {
        /// The entry of the checkpoint.
        sequence: u64,
        /// The key that it names.
        key: AuditKeyId,
    },
    /// A checkpoint is of another tenant's log.
    #[error("the checkpoint at entry {sequence} is of {found}'s log, expected {expected}")]
    Tenant {
        /// The entry of the checkpoint.
        sequence: u64,
        /// Whose log this is.
        expected: Tenant,
        /// Whose checkpoint this is.
        found: Tenant,
    },
}

/// A log that is what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The number of its last entry; 0 when it is empty.
    pub entries: u64,
    /// The hash of its last entry.
    pub hash: Hash,
    /// The last entry under a signature. Entries behind it are only consistent: who can write the log can make them anew.
    pub signed: u64,
    /// Checkpoints that hold.
    pub checkpoints: u64,
}

/// Reads a log from its first entry on.
#[derive(Debug)]
pub(crate) struct Verifier {
    tenant: Tenant,
    hash: Hash,
    last: u64,
    signed: u64,
    checkpoints: u64,
    /// What is to be met, by number.
    expected: BTreeMap<u64, Vec<Hash>>,
}

impl Verifier {
    /// For a log with these checkpoints, of which each has to be signed by one of the keys.
    pub(crate) fn new(
        tenant: &Tenant,
        checkpoints: impl IntoIterator<Item = Checkpoint>,
        keys: &[AuditPublicKey],
    ) -> Result<Self, Broken> {
        let mut verifier = Self {
            tenant: tenant.clone(),
            hash: genesis(tenant),
            last: 0,
            signed: 0,
            checkpoints: 0,
            expected: BTreeMap::new(),
        };
        checkpoints.into_iter().try_for_each(|checkpoint| verifier.expect(&checkpoint, keys))?;
        Ok(verifier)
    }

    fn expect(&mut self, checkpoint: &Checkpoint, keys: &[AuditPublicKey]) -> Result<(), Broken> {
        let sequence = checkpoint.sequence;
        if checkpoint.tenant != self.tenant {
            let (expected, found) = (self.tenant.clone(), checkpoint.tenant.clone());
            return Err(Broken::Tenant { sequence, expected, found });
        }
        if !keys.iter().any(|key| checkpoint.is_signed_by(key)) {
            return Err(Broken::Signature { sequence, key: checkpoint.key });
        }
        self.expected.entry(sequence).or_default().push(checkpoint.hash);
        Ok(())
    }

    /// The next entry, as it is stored.
    pub(crate) fn entry(&mut self, sequence: u64, hash: &Hash, body: &[u8]) -> Result<Event, Broken> {
        let expected = self.last.saturating_add(1);
        if sequence != expected {
            return Err(Broken::Place { expected, found: sequence });
        }
        let event = Event::parse(body).ok_or(Broken::Malformed(sequence))?;
        if chain(&self.hash, sequence, body) != *hash {
            return Err(Broken::Changed(sequence));
        }
        for expected in self.expected.remove(&sequence).unwrap_or_default() {
            if expected != *hash {
                let (expected, found) = (hex::encode(expected), hex::encode(hash));
                return Err(Broken::Rewritten { sequence, signed: self.signed, expected, found });
            }
            self.signed = sequence;
            self.checkpoints = self.checkpoints.saturating_add(1);
        }
        (self.last, self.hash) = (sequence, *hash);
        Ok(event)
    }

    /// The end of the log, and where the log itself says that it is.
    pub(crate) fn end(self, sequence: u64, hash: &Hash) -> Result<Verified, Broken> {
        let missing = self.last.saturating_add(1);
        if let Some((to, _)) = self.expected.last_key_value() {
            // A checkpoint of nothing, at number 0, is not made.
            return Err(Broken::Truncated { missing, to: *to, by: "a signed checkpoint" });
        }
        if sequence > self.last {
            return Err(Broken::Truncated { missing, to: sequence, by: "the log's end" });
        }
        if sequence < self.last {
            return Err(Broken::End(sequence.saturating_add(1)));
        }
        if *hash != self.hash {
            return Err(Broken::End(self.last));
        }
        Ok(Verified { entries: self.last, hash: self.hash, signed: self.signed, checkpoints: self.checkpoints })
    }
}
