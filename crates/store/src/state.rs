//! The hash of all that a store holds: the same on every medium, and before a backup and after its way back.
//!
//! SHA-256 over: `belljar state 1` and a NUL; for each record in the order of names an `R`, tenant, kind and key as they
//! are stored behind their length (8 bytes), revision (8 bytes), end (8 bytes, all ones for none), and the sealed value
//! behind its length; for each audit log in the order of tenants an `L`, the tenant's name behind its length, the number
//! and the hash of its last entry; the number of records (8 bytes). Values are hashed as they are sealed, so the hash says
//! nothing about them and no key is needed for it; data keys are left out, so that it stays when they are wrapped anew.

use aws_lc_rs::digest::{Context, SHA256};

use crate::audit::Hash;
use crate::backend::Raw;
use crate::embedded::format;
use crate::error::StoreError;
use crate::record::{Id, Tenant};
use crate::store::Store;

pub(crate) struct StateHasher {
    context: Context,
    records: u64,
}

impl Default for StateHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl StateHasher {
    pub(crate) fn new() -> Self {
        let mut context = Context::new(&SHA256);
        context.update(b"belljar state 1\0");
        Self { context, records: 0 }
    }

    fn part(&mut self, bytes: &[u8]) {
        self.context.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.context.update(bytes);
    }

    /// The next record.
    pub(crate) fn record(&mut self, raw: &Raw) {
        self.context.update(b"R");
        self.part(&format::key(&raw.entry.id));
        self.context.update(&format::value(raw.entry.revision, raw.entry.expires, &[]));
        self.part(&raw.sealed);
        self.records = self.records.saturating_add(1);
    }

    /// The next log, when all records were there.
    pub(crate) fn log(&mut self, tenant: &Tenant, sequence: u64, hash: &Hash) {
        self.context.update(b"L");
        self.part(tenant.as_str().as_bytes());
        self.context.update(&sequence.to_be_bytes());
        self.context.update(hash);
    }

    /// How many records there were, and the hash.
    pub(crate) fn finish(mut self) -> (u64, Hash) {
        self.context.update(&self.records.to_be_bytes());
        (self.records, self.context.finish().as_ref().try_into().unwrap_or_default())
    }
}

impl Store {
    /// The hash of all records and of the ends of all audit logs, at one moment.
    pub async fn state_hash(&self) -> Result<Hash, StoreError> {
        let mut snapshot = self.backend().snapshot().await?;
        let mut state = StateHasher::new();
        let mut after: Option<Id> = None;
        loop {
            let (page, next) = snapshot.records(after.as_ref()).await?;
            page.iter().for_each(|raw| state.record(raw));
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        for (tenant, sequence, hash) in snapshot.audit_ends().await? {
            state.log(&tenant, sequence, &hash);
        }
        Ok(state.finish().1)
    }
}
