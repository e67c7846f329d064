//! The logs of a store.

use std::io::Write;
use std::time::Duration;

use tokio::time::timeout;

use super::checkpoint::{AuditKey, AuditKeyError, AuditPublicKey, Checkpoint};
use super::entry::{AuditEntry, Event, EventError, Hash, genesis};
use super::export::{ExportError, Exporter};
use super::verify::{Broken, Verified, Verifier};
use crate::error::StoreError;
use crate::record::{MAX_PAGE, Tenant, Time};
use crate::store::Store;

/// How often a follower looks for what other replicas appended.
const LOOK: Duration = Duration::from_millis(500);

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) hash: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Stored {
    fn hash(&self) -> Option<Hash> {
        self.hash.as_slice().try_into().ok()
    }

    fn entry(&self, tenant: &Tenant) -> Result<AuditEntry, StoreError> {
        let parsed = Event::parse(&self.body).zip(self.hash());
        let (event, hash) = parsed.ok_or_else(|| {
            StoreError::Malformed(format!("entry {} of {tenant}'s audit log in an unknown form", self.sequence))
        })?;
        Ok(AuditEntry { sequence: self.sequence, event, hash })
    }
}

/// Why something was not done to a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// It cannot be an entry.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The log is broken.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The key cannot sign.
    #[error(transparent)]
    Key(#[from] AuditKeyError),
    /// The export cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The logs of a store.
#[derive(Debug, Clone, Copy)]
pub struct Audit<'a> {
    store: &'a Store,
}

impl<'a> Audit<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// Appends to a tenant's log, in this order and nothing in between. When this returns the entries are on the disk. To
    /// append together with a change there is [`Batch::audit`](crate::Batch::audit).
    pub async fn append(&self, tenant: &Tenant, events: &[Event]) -> Result<(), AuditError> {
        let bodies = events.iter().map(Event::body).collect::<Result<Vec<_>, _>>()?;
        if !bodies.is_empty() {
            self.store.backend().append(tenant, bodies).await?;
            self.store.appended().notify_waiters();
        }
        Ok(())
    }

    /// Entries behind the number `after`, at most `limit` and at most [`MAX_PAGE`].
    pub async fn entries(&self, tenant: &Tenant, after: u64, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let stored = self.store.backend().audit_entries(tenant, after, limit.min(MAX_PAGE)).await?;
        stored.iter().map(|stored| stored.entry(tenant)).collect()
    }

    /// The number and the hash of the last entry; 0 and the hash before the first entry of an empty log.
    pub async fn end(&self, tenant: &Tenant) -> Result<(u64, Hash), StoreError> {
        Ok(self.store.backend().audit_end(tenant).await?.unwrap_or_else(|| (0, genesis(tenant))))
    }

    /// Tenants with a log.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.store.backend().audit_tenants().await
    }

    /// Entries as they come, from the one behind `after` on.
    pub fn follow(&self, tenant: &Tenant, after: u64) -> Follow {
        Follow { store: self.store.clone(), tenant: tenant.clone(), after }
    }

    /// Signs how far a log goes now; `None` when it is empty, or signed so far already.
    pub async fn checkpoint(
        &self,
        tenant: &Tenant,
        key: &AuditKey,
        now: Time,
    ) -> Result<Option<Checkpoint>, AuditError> {
        let (sequence, hash) = self.end(tenant).await?;
        if sequence == 0 {
            return Ok(None);
        }
        let checkpoint = key.sign(tenant, sequence, hash, now)?;
        let added = self.store.backend().add_checkpoint(&checkpoint).await?;
        Ok(added.then_some(checkpoint))
    }

    /// The checkpoints of a log, in order.
    pub async fn checkpoints(&self, tenant: &Tenant) -> Result<Vec<Checkpoint>, StoreError> {
        let mut all = Vec::new();
        loop {
            let after = all.last().map_or(0, |last: &Checkpoint| last.sequence);
            let part = self.store.backend().checkpoints(tenant, after, MAX_PAGE).await?;
            if part.is_empty() {
                return Ok(all);
            }
            for (sequence, body) in part {
                all.push(Checkpoint::parse(tenant, sequence, &body).ok_or_else(|| {
                    StoreError::Malformed(format!(
                        "the checkpoint at entry {sequence} of {tenant}'s audit log in an unknown form"
                    ))
                })?);
            }
        }
    }

    /// Verifies a whole log: every hash, that nothing is missing, every checkpoint, and `known` ones that were kept
    /// elsewhere, without which the last checkpoints could be taken away with their entries.
    pub async fn verify(
        &self,
        tenant: &Tenant,
        keys: &[AuditPublicKey],
        known: &[Checkpoint],
    ) -> Result<Verified, AuditError> {
        // The end first: what is appended meanwhile is not looked at.
        let (end, hash) = self.end(tenant).await?;
        let checkpoints = self.checkpoints(tenant).await?;
        let mut verifier = Verifier::new(tenant, checkpoints.into_iter().chain(known.iter().cloned()), keys)?;
        self.walk(tenant, end, async |stored| {
            let hash = stored.hash().ok_or(Broken::Malformed(stored.sequence))?;
            verifier.entry(stored.sequence, &hash, &stored.body)?;
            Ok(())
        })
        .await?;
        Ok(verifier.end(end, &hash)?)
    }

    /// Writes a whole log as lines of JSON, with its checkpoints. Whoever has it verifies it with
    /// [`verify_export`](crate::audit::verify_export).
    pub async fn export(&self, tenant: &Tenant, out: impl Write) -> Result<u64, AuditError> {
        let (end, hash) = self.end(tenant).await?;
        let checkpoints = self.checkpoints(tenant).await?;
        let mut exporter = Exporter::new(out, tenant, end, hash)?;
        self.walk(tenant, end, async |stored| Ok(exporter.entry(stored.entry(tenant)?)?)).await?;
        for checkpoint in checkpoints.into_iter().filter(|checkpoint| checkpoint.sequence <= end) {
            exporter.checkpoint(checkpoint)?;
        }
        exporter.end(end)?;
        Ok(end)
    }

    /// Reads entries up to the number `end`.
    async fn walk(
        &self,
        tenant: &Tenant,
        end: u64,
        mut each: impl AsyncFnMut(Stored) -> Result<(), AuditError>,
    ) -> Result<(), AuditError> {
        let mut after = 0;
        loop {
            let part = self.store.backend().audit_entries(tenant, after, MAX_PAGE).await?;
            let Some(last) = part.last().map(|stored| stored.sequence) else { return Ok(()) };
            for stored in part {
                if stored.sequence > end {
                    return Ok(());
                }
                each(stored).await?;
            }
            after = last;
        }
    }
}

/// Entries of a log as they come.
#[derive(Debug)]
pub struct Follow {
    store: Store,
    tenant: Tenant,
    after: u64,
}

impl Follow {
    /// The next entries, at least one; waits until there is one. What this process appends is there at once, what others
    /// append within half a second.
    pub async fn next(&mut self) -> Result<Vec<AuditEntry>, StoreError> {
        loop {
            let store = self.store.clone();
            let appended = store.appended().notified();
            tokio::pin!(appended);
            // From here on no wake-up is missed.
            appended.as_mut().enable();
            let entries = store.audit().entries(&self.tenant, self.after, MAX_PAGE).await?;
            if let Some(last) = entries.last() {
                self.after = last.sequence;
                return Ok(entries);
            }
            let _ = timeout(LOOK, appended).await;
        }
    }
}
