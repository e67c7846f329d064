//! What a store needs of the medium behind it. Values come here sealed.

use std::collections::HashMap;

use crate::audit::{Checkpoint, Hash, Stored};
use crate::backup::{Backup, RestoreError, Source};
use crate::embedded::{self, Embedded};
use crate::error::{Conflict, StoreError};
use crate::postgres::{self, Postgres};
use crate::record::{Entry, Expected, Id, MAX_PAGE, Query, Tenant, Time};
use crate::seal::{DataKeyRow, KeyId};

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) entry: Entry,
    pub(crate) sealed: Vec<u8>,
}

/// A change as it is stored.
#[derive(Debug, Clone)]
pub(crate) enum RawOp {
    Put { id: Id, expires: Option<Time>, data_key: u64, sealed: Vec<u8> },
    Delete { id: Id },
}

/// A batch as it is stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawBatch {
    pub(crate) expected: Vec<(Id, Expected)>,
    pub(crate) ops: Vec<RawOp>,
    /// Bodies for the logs of tenants.
    pub(crate) audit: Vec<(Tenant, Vec<u8>)>,
}

/// How a batch ended.
#[derive(Debug)]
pub(crate) enum Applied {
    /// It was applied, as this change.
    Revision(u64),
    /// A precondition does not hold.
    Conflict(Conflict),
    /// A value is sealed with a data key that is not in use any more.
    Stale,
}

/// A value that is sealed anew.
#[derive(Debug, Clone)]
pub(crate) struct Resealed {
    /// The record, in the revision that was sealed anew.
    pub(crate) entry: Entry,
    pub(crate) old_key: u64,
    pub(crate) new_key: u64,
    pub(crate) sealed: Vec<u8>,
}

/// A page of anything, and where the next one starts.
pub(crate) type Paged<T, After> = (Vec<T>, Option<After>);

/// What happened to a data key that was to be retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retired {
    Gone,
    Absent,
    Active,
    InUse,
}

/// One of the media.
#[derive(Debug)]
pub(crate) enum Backend {
    Embedded(Embedded),
    Postgres(Box<Postgres>),
}

/// Calls the same method of whichever medium it is.
macro_rules! each {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match $self {
            Self::Embedded(backend) => backend.$method($($argument),*).await,
            Self::Postgres(backend) => backend.$method($($argument),*).await,
        }
    };
}

impl Backend {
    pub(crate) async fn get(&self, id: &Id) -> Result<Option<Raw>, StoreError> {
        each!(self, get(id))
    }

    pub(crate) async fn list(&self, query: &Query, now: Time) -> Result<Paged<Raw, String>, StoreError> {
        each!(self, list(query, now))
    }

    pub(crate) async fn names(&self, query: &Query, now: Time) -> Result<Paged<Entry, String>, StoreError> {
        each!(self, names(query, now))
    }

    pub(crate) async fn apply(&self, batch: RawBatch, now: Time) -> Result<Applied, StoreError> {
        each!(self, apply(batch, now))
    }

    pub(crate) async fn purge(&self, now: Time, limit: usize) -> Result<u64, StoreError> {
        each!(self, purge(now, limit))
    }

    /// Data keys of a tenant, or all.
    pub(crate) async fn data_keys(&self, tenant: Option<&Tenant>) -> Result<Vec<DataKeyRow>, StoreError> {
        each!(self, data_keys(tenant))
    }

    /// Adds an active data key, when the tenant's active one is `replaces`, which then is not active any more.
    pub(crate) async fn add_data_key(&self, row: &DataKeyRow, replaces: Option<u64>) -> Result<bool, StoreError> {
        each!(self, add_data_key(row, replaces))
    }

    /// Stores another wrapping of a data key, when it is wrapped as in `row`.
    pub(crate) async fn rewrap_data_key(
        &self,
        row: &DataKeyRow,
        key_id: &KeyId,
        wrapped: &[u8],
    ) -> Result<bool, StoreError> {
        each!(self, rewrap_data_key(row, key_id, wrapped))
    }

    /// How many records are sealed with each data key; those of none are left out.
    pub(crate) async fn key_uses(&self) -> Result<HashMap<u64, u64>, StoreError> {
        each!(self, key_uses())
    }

    /// Removes a data key with which nothing is sealed.
    pub(crate) async fn retire(&self, data_key: u64) -> Result<Retired, StoreError> {
        each!(self, retire(data_key))
    }

    /// Records that are sealed with a data key that is not active, in order behind `after`.
    pub(crate) async fn outdated(&self, after: Option<&Id>) -> Result<Paged<Raw, Id>, StoreError> {
        each!(self, outdated(after))
    }

    /// Replaces sealed values whose records are still in the same revision and sealed with the same key. Revisions stay.
    pub(crate) async fn reseal(&self, values: Vec<Resealed>) -> Result<u64, StoreError> {
        each!(self, reseal(values))
    }

    /// Appends bodies to a log, one behind the other.
    pub(crate) async fn append(&self, tenant: &Tenant, bodies: Vec<Vec<u8>>) -> Result<(), StoreError> {
        each!(self, append(tenant, bodies))
    }

    pub(crate) async fn audit_entries(
        &self,
        tenant: &Tenant,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        each!(self, audit_entries(tenant, after, limit))
    }

    /// Number and hash of the last entry.
    pub(crate) async fn audit_end(&self, tenant: &Tenant) -> Result<Option<(u64, Hash)>, StoreError> {
        each!(self, audit_end(tenant))
    }

    pub(crate) async fn audit_tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        each!(self, audit_tenants())
    }

    /// False when there is one of this entry.
    pub(crate) async fn add_checkpoint(&self, checkpoint: &Checkpoint) -> Result<bool, StoreError> {
        each!(self, add_checkpoint(checkpoint))
    }

    /// Numbers and bodies of checkpoints.
    pub(crate) async fn checkpoints(
        &self,
        tenant: &Tenant,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        each!(self, checkpoints(tenant, after, limit))
    }

    /// Stores a backup, when nothing is there.
    pub(crate) async fn restore(&self, source: Box<dyn Source>) -> Result<Backup, RestoreError> {
        each!(self, restore(source))
    }

    pub(crate) async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Ok(match self {
            Self::Embedded(backend) => Snapshot::Embedded(backend.snapshot().await?),
            Self::Postgres(backend) => Snapshot::Postgres(Box::new(backend.snapshot().await?)),
        })
    }

    pub(crate) async fn close(&self) {
        each!(self, close());
    }
}

/// Everything that a medium held at one moment, in the order of names.
#[derive(Debug)]
pub(crate) enum Snapshot {
    Embedded(embedded::Reader),
    Postgres(Box<postgres::Snapshot>),
}

impl Snapshot {
    /// Records behind `after`; the last part has nothing behind it.
    pub(crate) async fn records(&mut self, after: Option<&Id>) -> Result<Paged<Raw, Id>, StoreError> {
        match self {
            Self::Embedded(reader) => reader.records(after),
            Self::Postgres(snapshot) => snapshot.records(after).await,
        }
    }

    pub(crate) async fn data_keys(&mut self) -> Result<Vec<DataKeyRow>, StoreError> {
        match self {
            Self::Embedded(reader) => reader.data_keys(None),
            Self::Postgres(snapshot) => snapshot.data_keys().await,
        }
    }

    /// At least the revision of the last change.
    pub(crate) async fn revision(&mut self) -> Result<u64, StoreError> {
        match self {
            Self::Embedded(reader) => reader.revision(),
            Self::Postgres(snapshot) => snapshot.revision().await,
        }
    }

    /// Number and hash of the last entry of each log.
    pub(crate) async fn audit_ends(&mut self) -> Result<Vec<(Tenant, u64, Hash)>, StoreError> {
        match self {
            Self::Embedded(reader) => reader.audit_ends(),
            Self::Postgres(snapshot) => snapshot.audit_ends().await,
        }
    }

    pub(crate) async fn audit_entries(&mut self, tenant: &Tenant, after: u64) -> Result<Vec<Stored>, StoreError> {
        match self {
            Self::Embedded(reader) => reader.audit_entries(tenant, after, MAX_PAGE),
            Self::Postgres(snapshot) => snapshot.audit_entries(tenant, after).await,
        }
    }

    pub(crate) async fn checkpoints(&mut self, tenant: &Tenant, after: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        match self {
            Self::Embedded(reader) => reader.checkpoints(tenant, after, MAX_PAGE),
            Self::Postgres(snapshot) => snapshot.checkpoints(tenant, after).await,
        }
    }
}
