//! A store: sealed records on a medium.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::audit::Audit;
use crate::backend::{Applied, Backend, Raw, RawBatch, RawOp, Resealed, Retired};
use crate::embedded::Embedded;
use crate::error::{OpenError, StoreError};
use crate::postgres::{Postgres, PostgresOptions};
use crate::record::{Batch, BatchError, Entry, Id, Op, Query, Record, Tenant, Time};
use crate::seal::{DataKey, KeyUse, Keyring, Keys, OpenKey, Sealed, SealedError};
use crate::watch::{Announcer, Event, Watch};

/// How often a batch is sealed anew because another replica made a new data key.
const TRIES: usize = 4;

/// Where a store is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Location {
    /// In a file, for one process.
    File(PathBuf),
    /// In the memory of this process, and gone with it.
    Memory,
    /// In PostgreSQL, for any number of replicas.
    Postgres(Box<PostgresOptions>),
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// For [`Query::after`] of the next part; `None` when this was the last.
    pub next: Option<String>,
}

/// What was sealed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewrapped {
    /// Data keys that were wrapped with another key-encryption key.
    pub data_keys: u64,
    /// Values that were sealed with a newer data key.
    pub values: u64,
}

/// A store. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backend: Backend,
    keyring: Keyring,
    announcer: Announcer,
    /// Rings when this process appended to a log.
    appended: Notify,
}

impl Store {
    /// Opens a store, and makes it where there is none. Tries the current key-encryption key, so that a wrong one is
    /// told at once.
    pub async fn open(location: &Location, keys: Keys) -> Result<Self, OpenError> {
        try_key(&keys).await?;
        let announcer = Announcer::new();
        let backend = match location {
            Location::File(path) => Backend::Embedded(open_file(path, announcer.clone()).await?),
            Location::Memory => Backend::Embedded(Embedded::in_memory(announcer.clone())?),
            Location::Postgres(options) => {
                Backend::Postgres(Box::new(Postgres::open(options, announcer.clone()).await?))
            }
        };
        let store = Self {
            inner: Arc::new(Inner { backend, keyring: Keyring::new(keys), announcer, appended: Notify::new() }),
        };
        Ok(store)
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.inner.backend
    }

    /// The record of this name, unless it has expired.
    pub async fn get(&self, id: &Id, now: Time) -> Result<Option<Record>, StoreError> {
        match self.backend().get(id).await? {
            Some(raw) if raw.entry.expires.is_none_or(|end| end > now) => self.unseal(raw).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Records with their values, in order. A part may hold fewer than was asked for: it ends at
    /// [`MAX_BATCH_BYTES`](crate::MAX_BATCH_BYTES) of values too.
    pub async fn list(&self, query: &Query, now: Time) -> Result<Page<Record>, StoreError> {
        let (raw, next) = self.backend().list(query, now).await?;
        let mut items = Vec::with_capacity(raw.len());
        for raw in raw {
            items.push(self.unseal(raw).await?);
        }
        Ok(Page { items, next })
    }

    /// Records without their values, in order. No key is needed for this.
    pub async fn names(&self, query: &Query, now: Time) -> Result<Page<Entry>, StoreError> {
        let (items, next) = self.backend().names(query, now).await?;
        Ok(Page { items, next })
    }

    /// Makes all changes of a batch, when all its preconditions hold; else none. Returns the revision of the change, which
    /// is that of every record that it wrote. When this returns the change is on the disk, and every later read on any
    /// replica sees it.
    pub async fn apply(&self, batch: Batch, now: Time) -> Result<u64, StoreError> {
        batch.check()?;
        for _ in 0..TRIES {
            let raw = self.seal(&batch, now).await?;
            match self.backend().apply(raw, now).await? {
                Applied::Revision(revision) => {
                    if !batch.audit.is_empty() {
                        self.inner.appended.notify_waiters();
                    }
                    return Ok(revision);
                }
                Applied::Conflict(conflict) => return Err(StoreError::Conflict(Box::new(conflict))),
                Applied::Stale => self.inner.keyring.outdated(batch.ops.iter().map(|op| op.id().tenant())),
            }
        }
        Err(StoreError::Away("data keys are changing".into()))
    }

    /// The audit logs.
    pub fn audit(&self) -> Audit<'_> {
        Audit::new(self)
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.inner.keyring.keys()
    }

    /// Everything is another: whoever keeps copies reads again.
    pub(crate) fn reload(&self) {
        self.inner.keyring.forget();
        self.inner.announcer.send(Event::Missed);
    }

    pub(crate) fn appended(&self) -> &Notify {
        &self.inner.appended
    }

    /// Changes of announced kinds ([`Kind::announced`](crate::Kind::announced)) from now on.
    pub fn watch(&self) -> Watch {
        self.inner.announcer.watch()
    }

    /// Removes up to `limit` records that have expired, oldest first. They were not visible any more. Returns how many.
    pub async fn purge(&self, now: Time, limit: usize) -> Result<u64, StoreError> {
        self.backend().purge(now, limit).await
    }

    /// Takes other key-encryption keys, without a restart. Data keys are unwrapped again when they are needed.
    pub async fn use_keys(&self, keys: Keys) -> Result<(), StoreError> {
        try_key(&keys).await?;
        self.inner.keyring.set(keys);
        Ok(())
    }

    /// Forgets all data keys in memory, so that each has to be unwrapped again: a tenant that withdrew its own key is
    /// closed from then on.
    pub fn forget_keys(&self) {
        self.inner.keyring.forget();
    }

    /// Makes a new data key for a tenant. All replicas seal new values with it from now on; [`Store::rewrap`] takes care
    /// of the old ones. False when another replica did so at the same time, which is as good.
    pub async fn rotate(&self, tenant: &Tenant, now: Time) -> Result<bool, StoreError> {
        self.inner.keyring.rotate(self.backend(), tenant, now).await
    }

    /// Wraps all data keys with the key-encryption keys of now, and seals all values with the data keys of now. Takes its
    /// time, in small steps beside the daily work; when it is dropped or fails half-way it may be called again. Values
    /// keep their revision.
    pub async fn rewrap(&self, now: Time) -> Result<Rewrapped, StoreError> {
        let mut done = Rewrapped { data_keys: self.inner.keyring.rewrap(self.backend()).await?, values: 0 };
        let mut after = None;
        loop {
            let (page, next) = self.backend().outdated(after.as_ref()).await?;
            let mut values = Vec::with_capacity(page.len());
            for raw in page {
                let record = self.unseal(raw.clone()).await?;
                let key = self.inner.keyring.sealing(self.backend(), raw.entry.id.tenant(), now).await?;
                let sealed = key.seal(&raw.entry.id, raw.entry.expires, &record.value)?;
                let old_key = Sealed::parse(&raw.sealed).map(|sealed| sealed.data_key).unwrap_or_default();
                if old_key != key.id {
                    values.push(Resealed { entry: raw.entry, old_key, new_key: key.id, sealed });
                }
            }
            if !values.is_empty() {
                done.values = done.values.saturating_add(self.backend().reseal(values).await?);
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(done),
            }
            tokio::task::yield_now().await;
        }
    }

    /// All data keys and how much is sealed with each.
    pub async fn key_uses(&self) -> Result<Vec<KeyUse>, StoreError> {
        let uses: HashMap<u64, u64> = self.backend().key_uses().await?;
        let rows = self.backend().data_keys(None).await?;
        let with = |id| uses.get(&id).copied().unwrap_or(0);
        Ok(rows
            .into_iter()
            .map(|row| KeyUse {
                data_key: row.id,
                records: with(row.id),
                tenant: row.tenant,
                key_id: row.key_id,
                created: row.created,
                active: row.active,
            })
            .collect())
    }

    /// Removes a data key that nothing is sealed with. False when it is not there; refused while it is in use.
    pub async fn retire(&self, data_key: u64) -> Result<bool, RetireError> {
        match self.backend().retire(data_key).await? {
            Retired::Gone => Ok(true),
            Retired::Absent => Ok(false),
            Retired::Active => Err(RetireError::Active(data_key)),
            Retired::InUse => Err(RetireError::InUse(data_key)),
        }
    }

    /// Writes what waits and lets go of the medium. Every later call fails with [`StoreError::Closed`].
    pub async fn close(&self) {
        self.backend().close().await;
    }

    async fn seal(&self, batch: &Batch, now: Time) -> Result<RawBatch, StoreError> {
        let mut ops = Vec::with_capacity(batch.ops.len());
        for op in &batch.ops {
            ops.push(match op {
                Op::Put { id, value, expires } => {
                    let key: Arc<OpenKey> = self.inner.keyring.sealing(self.backend(), id.tenant(), now).await?;
                    let sealed = key.seal(id, *expires, value)?;
                    RawOp::Put { id: id.clone(), expires: *expires, data_key: key.id, sealed }
                }
                Op::Delete { id } => RawOp::Delete { id: id.clone() },
            });
        }
        let mut audit = Vec::with_capacity(batch.audit.len());
        for (tenant, event) in &batch.audit {
            audit.push((tenant.clone(), event.body().map_err(BatchError::Audit)?));
        }
        Ok(RawBatch { expected: batch.expected.clone(), ops, audit })
    }

    async fn unseal(&self, raw: Raw) -> Result<Record, StoreError> {
        let Raw { entry, sealed } = raw;
        let damaged = |why: SealedError| StoreError::Damaged { what: entry.id.to_string(), why };
        let parsed = Sealed::parse(&sealed).map_err(damaged)?;
        let key = self.inner.keyring.opening(self.backend(), entry.id.tenant(), parsed.data_key).await?;
        let value = key.and_then(|key| key.open(&entry.id, entry.expires, &parsed)).map_err(damaged)?;
        Ok(Record { entry, value })
    }
}

/// Why a data key is not removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetireError {
    /// New values are sealed with it.
    #[error("data key {0:016x} seals new values: rotate first")]
    Active(u64),
    /// Values are sealed with it.
    #[error("data key {0:016x} still seals values: rewrap first")]
    InUse(u64),
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Wraps and unwraps a key that is used for nothing.
async fn try_key(keys: &Keys) -> Result<(), StoreError> {
    let provider = keys.current();
    let key = DataKey::generate()?;
    let wrapped = provider.wrap(&key, b"belljar trial").await?;
    let same = provider.unwrap(&wrapped, b"belljar trial").await?.is_some_and(|back| {
        use subtle::ConstantTimeEq as _;
        back.as_bytes().ct_eq(key.as_bytes()).into()
    });
    if same {
        Ok(())
    } else {
        Err(StoreError::Key(crate::KeyError::Wrapped { id: provider.id().clone(), data_key: 0 }))
    }
}

/// Opens a file away from the threads that serve requests: after a crash it may have to be walked through.
async fn open_file(path: &Path, announcer: Announcer) -> Result<Embedded, OpenError> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || Embedded::open(&path, announcer)).await;
    opened.map_err(|error| OpenError::Store(StoreError::Failed(error.to_string())))?
}
