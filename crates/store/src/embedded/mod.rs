//! The embedded store: one file, one process.

mod files;
pub(crate) mod format;
mod reader;
mod restore;
mod writer;

pub(crate) use reader::Reader;

#[doc(hidden)]
pub use format::fuzz;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Database, ReadableDatabase as _, ReadableTable, StorageBackend, TableDefinition, TransactionError, WriteTransaction,
};

use crate::audit::{Checkpoint, Hash, Stored, chain, genesis};
use crate::backend::{Applied, Paged, Raw, RawBatch, RawOp, Resealed, Retired};
use crate::error::{Conflict, OpenError, StoreError};
use crate::record::{Entry, Id, Query, Tenant, Time};
use crate::seal::{DataKeyRow, KeyId};
use crate::watch::{Announcer, Change, Event};
use files::{open_error, open_private};
use format::Parts;
use reader::{audit_end, data_key_row, malformed_value};
use writer::{Writer, failed};

/// Format of the file. A file of another one is refused.
const FORMAT: u64 = 1;
/// Memory for pages of the file, in bytes.
const CACHE: usize = 16 << 20;

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const RECORDS: Table = TableDefinition::new("records");
/// Index of ends: end and key of a record.
const ENDS: TableDefinition<&[u8], ()> = TableDefinition::new("ends");
const DATA_KEYS: TableDefinition<u64, &[u8]> = TableDefinition::new("data keys");
/// Records of each data key.
const USES: TableDefinition<u64, u64> = TableDefinition::new("uses");
/// Entries of logs: tenant, NUL, number; hash, body.
const AUDIT: Table = TableDefinition::new("audit");
/// The last entry of each log: number, hash.
const AUDIT_ENDS: TableDefinition<&str, &[u8]> = TableDefinition::new("audit ends");
/// Checkpoints of logs: tenant, NUL, number.
const CHECKPOINTS: Table = TableDefinition::new("checkpoints");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// An open file.
#[derive(Debug)]
pub(crate) struct Embedded {
    /// Taken when the store is closed.
    database: Mutex<Option<Arc<Database>>>,
    writer: Writer,
    announcer: Announcer,
}

impl Embedded {
    /// Opens the file, and makes it where there is none.
    pub(crate) fn open(path: &Path, announcer: Announcer) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        let file = open_private(path)?;
        let backend = FileBackend::new(file).map_err(|error| open_error(&name, error))?;
        Self::on(backend, name, announcer)
    }

    /// Holds everything in memory, as a file would.
    pub(crate) fn in_memory(announcer: Announcer) -> Result<Self, OpenError> {
        Self::on(InMemoryBackend::new(), "memory".into(), announcer)
    }

    fn on(backend: impl StorageBackend, name: String, announcer: Announcer) -> Result<Self, OpenError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let database = builder.create_with_backend(backend).map_err(|error| open_error(&name, error))?;
        prepare(&database, &name)?;
        let database = Arc::new(database);
        let writer = Writer::start(Arc::clone(&database))
            .map_err(|error| OpenError::File { path: name, why: error.to_string() })?;
        Ok(Self { database: Mutex::new(Some(database)), writer, announcer })
    }

    fn read(&self) -> Result<Reader, StoreError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Reader(database.ok_or(StoreError::Closed)?.begin_read().map_err(failed)?))
    }

    pub(crate) async fn get(&self, id: &Id) -> Result<Option<Raw>, StoreError> {
        self.read()?.get(id)
    }

    pub(crate) async fn list(&self, query: &Query, now: Time) -> Result<Paged<Raw, String>, StoreError> {
        self.read()?.list(query, now)
    }

    pub(crate) async fn names(&self, query: &Query, now: Time) -> Result<Paged<Entry, String>, StoreError> {
        self.read()?.names(query, now)
    }

    pub(crate) async fn apply(&self, batch: RawBatch, now: Time) -> Result<Applied, StoreError> {
        let announcer = self.announcer.clone();
        let announced: Vec<(Id, bool)> = batch
            .ops
            .iter()
            .map(|op| match op {
                RawOp::Put { id, .. } => (id.clone(), false),
                RawOp::Delete { id } => (id.clone(), true),
            })
            .filter(|(id, _)| id.kind().announced())
            .collect();
        let announce = move |applied: &Applied| {
            let Applied::Revision(revision) = *applied else { return };
            for (id, deleted) in announced {
                announcer.send(Event::Changed(Change { id, revision, deleted }));
            }
        };
        self.writer.write(move |transaction| apply(transaction, &batch, now), announce).await
    }

    pub(crate) async fn purge(&self, now: Time, limit: usize) -> Result<u64, StoreError> {
        let due = {
            let ends = self.read()?.0.open_table(ENDS).map_err(failed)?;
            let end = format::end(now, &[0xff]);
            // Keys start with a letter or a digit, so this lies behind all that end now.
            let due = ends.range::<&[u8]>(..end.as_slice()).map_err(failed)?.take(limit);
            due.map(|item| item.map(|(key, _)| key.value().to_vec())).collect::<Result<Vec<_>, _>>().map_err(failed)?
        };
        if due.is_empty() {
            return Ok(0);
        }
        let work = move |transaction: &WriteTransaction| {
            let mut ends = transaction.open_table(ENDS).map_err(failed)?;
            let mut records = transaction.open_table(RECORDS).map_err(failed)?;
            let mut uses = transaction.open_table(USES).map_err(failed)?;
            let mut count = 0_u64;
            for index in due {
                // It may have been written anew since it was looked up.
                if ends.remove(index.as_slice()).map_err(failed)?.is_none() {
                    continue;
                }
                let key = index.get(8..).unwrap_or_default();
                if let Some(old) = records.remove(key).map_err(failed)? {
                    count_use(&mut uses, Parts::parse(old.value()).and_then(|parts| parts.data_key()), false)?;
                    count = count.saturating_add(1);
                }
            }
            Ok(count)
        };
        self.writer.write(work, |_| ()).await
    }

    pub(crate) async fn data_keys(&self, tenant: Option<&Tenant>) -> Result<Vec<DataKeyRow>, StoreError> {
        self.read()?.data_keys(tenant)
    }

    pub(crate) async fn add_data_key(&self, row: &DataKeyRow, replaces: Option<u64>) -> Result<bool, StoreError> {
        let row = row.clone();
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(DATA_KEYS).map_err(failed)?;
            let mut active = None;
            for item in table.iter().map_err(failed)? {
                let (id, bytes) = item.map_err(failed)?;
                let other = data_key_row(id.value(), bytes.value())?;
                if other.active && other.tenant == row.tenant {
                    active = Some(other);
                }
            }
            let taken = table.get(row.id).map_err(failed)?.is_some();
            if taken || active.as_ref().map(|other| other.id) != replaces {
                return Ok(false);
            }
            if let Some(old) = active {
                let old = DataKeyRow { active: false, ..old };
                table.insert(old.id, old.encode().as_slice()).map_err(failed)?;
            }
            table.insert(row.id, row.encode().as_slice()).map_err(failed)?;
            Ok(true)
        };
        self.writer.write(work, |_| ()).await
    }

    pub(crate) async fn rewrap_data_key(
        &self,
        row: &DataKeyRow,
        key_id: &KeyId,
        wrapped: &[u8],
    ) -> Result<bool, StoreError> {
        let (old, key_id, wrapped) = (row.clone(), key_id.clone(), wrapped.to_vec());
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(DATA_KEYS).map_err(failed)?;
            let found = match table.get(old.id).map_err(failed)? {
                Some(bytes) => data_key_row(old.id, bytes.value())?,
                None => return Ok(false),
            };
            if found.wrapped != old.wrapped {
                return Ok(false);
            }
            let new = DataKeyRow { key_id, wrapped, ..found };
            table.insert(new.id, new.encode().as_slice()).map_err(failed)?;
            Ok(true)
        };
        self.writer.write(work, |_| ()).await
    }

    pub(crate) async fn key_uses(&self) -> Result<HashMap<u64, u64>, StoreError> {
        self.read()?.key_uses()
    }

    pub(crate) async fn retire(&self, data_key: u64) -> Result<Retired, StoreError> {
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(DATA_KEYS).map_err(failed)?;
            let row = match table.get(data_key).map_err(failed)? {
                Some(bytes) => data_key_row(data_key, bytes.value())?,
                None => return Ok(Retired::Absent),
            };
            if row.active {
                return Ok(Retired::Active);
            }
            let uses = transaction.open_table(USES).map_err(failed)?;
            if uses.get(data_key).map_err(failed)?.is_some() {
                return Ok(Retired::InUse);
            }
            table.remove(data_key).map_err(failed)?;
            Ok(Retired::Gone)
        };
        self.writer.write(work, |_| ()).await
    }

    pub(crate) async fn outdated(&self, after: Option<&Id>) -> Result<Paged<Raw, Id>, StoreError> {
        self.read()?.outdated(after)
    }

    pub(crate) async fn reseal(&self, values: Vec<Resealed>) -> Result<u64, StoreError> {
        let work = move |transaction: &WriteTransaction| {
            let mut records = transaction.open_table(RECORDS).map_err(failed)?;
            let mut uses = transaction.open_table(USES).map_err(failed)?;
            let keys = transaction.open_table(DATA_KEYS).map_err(failed)?;
            let mut count = 0_u64;
            for Resealed { entry, old_key, new_key, sealed } in values {
                let key = format::key(&entry.id);
                let same = match records.get(key.as_slice()).map_err(failed)? {
                    Some(found) => Parts::parse(found.value())
                        .is_some_and(|parts| parts.revision == entry.revision && parts.data_key() == Some(old_key)),
                    None => false,
                };
                if same && keys.get(new_key).map_err(failed)?.is_some() {
                    let value = format::value(entry.revision, entry.expires, &sealed);
                    records.insert(key.as_slice(), value.as_slice()).map_err(failed)?;
                    count_use(&mut uses, Some(old_key), false)?;
                    count_use(&mut uses, Some(new_key), true)?;
                    count = count.saturating_add(1);
                }
            }
            Ok(count)
        };
        self.writer.write(work, |_| ()).await
    }

    pub(crate) async fn append(&self, tenant: &Tenant, bodies: Vec<Vec<u8>>) -> Result<(), StoreError> {
        let entries: Vec<_> = bodies.into_iter().map(|body| (tenant.clone(), body)).collect();
        self.writer.write(move |transaction| append(transaction, &entries), |()| ()).await
    }

    pub(crate) async fn audit_entries(
        &self,
        tenant: &Tenant,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        self.read()?.audit_entries(tenant, after, limit)
    }

    pub(crate) async fn audit_end(&self, tenant: &Tenant) -> Result<Option<(u64, Hash)>, StoreError> {
        self.read()?.audit_end(tenant)
    }

    pub(crate) async fn audit_tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.read()?.audit_tenants()
    }

    pub(crate) async fn add_checkpoint(&self, checkpoint: &Checkpoint) -> Result<bool, StoreError> {
        let key = format::numbered(&checkpoint.tenant, checkpoint.sequence);
        let body = checkpoint.body();
        let work = move |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(CHECKPOINTS).map_err(failed)?;
            let there = table.get(key.as_slice()).map_err(failed)?.is_some();
            if !there {
                table.insert(key.as_slice(), body.as_slice()).map_err(failed)?;
            }
            Ok(!there)
        };
        self.writer.write(work, |_| ()).await
    }

    pub(crate) async fn checkpoints(
        &self,
        tenant: &Tenant,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.read()?.checkpoints(tenant, after, limit)
    }

    /// Everything as it is now.
    pub(crate) async fn snapshot(&self) -> Result<Reader, StoreError> {
        self.read()
    }

    /// Writes what waits and lets go of the file.
    pub(crate) async fn close(&self) {
        self.writer.stop();
        drop(self.database.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // The thread holds the database too; after this nobody does.
        self.writer.stop();
    }
}

fn apply(transaction: &WriteTransaction, batch: &RawBatch, now: Time) -> Result<Applied, StoreError> {
    let mut records = transaction.open_table(RECORDS).map_err(failed)?;
    for (id, expected) in &batch.expected {
        let found = match records.get(format::key(id).as_slice()).map_err(failed)? {
            Some(value) => {
                let parts = Parts::parse(value.value()).ok_or_else(|| malformed_value(id))?;
                (!parts.gone(now)).then_some(parts.revision)
            }
            None => None,
        };
        if !expected.holds(found) {
            return Ok(Applied::Conflict(Conflict { id: id.clone(), expected: *expected, found }));
        }
    }
    {
        let keys = transaction.open_table(DATA_KEYS).map_err(failed)?;
        for op in &batch.ops {
            let RawOp::Put { data_key, .. } = op else { continue };
            let active = match keys.get(*data_key).map_err(failed)? {
                Some(bytes) => data_key_row(*data_key, bytes.value())?.active,
                None => false,
            };
            if !active {
                return Ok(Applied::Stale);
            }
        }
    }
    let mut meta = transaction.open_table(META).map_err(failed)?;
    let revision = meta.get("revision").map_err(failed)?.map_or(0, |last| last.value()).saturating_add(1);
    meta.insert("revision", revision).map_err(failed)?;
    let mut ends = transaction.open_table(ENDS).map_err(failed)?;
    let mut uses = transaction.open_table(USES).map_err(failed)?;
    for op in &batch.ops {
        let (key, old) = match op {
            RawOp::Put { id, expires, data_key, sealed } => {
                let key = format::key(id);
                let value = format::value(revision, *expires, sealed);
                let old = records.insert(key.as_slice(), value.as_slice()).map_err(failed)?;
                let old = old.as_ref().and_then(|old| Parts::parse(old.value()).map(|p| (p.expires, p.data_key())));
                count_use(&mut uses, Some(*data_key), true)?;
                if let Some(expires) = expires {
                    ends.insert(format::end(*expires, &key).as_slice(), ()).map_err(failed)?;
                }
                // The same end as before is the same line of the index.
                let old = old.map(|(end, key)| (end.filter(|end| Some(*end) != *expires), key));
                (key, old)
            }
            RawOp::Delete { id } => {
                let key = format::key(id);
                let old = records.remove(key.as_slice()).map_err(failed)?;
                let old = old.as_ref().and_then(|old| Parts::parse(old.value()).map(|p| (p.expires, p.data_key())));
                (key, old)
            }
        };
        if let Some((end, data_key)) = old {
            count_use(&mut uses, data_key, false)?;
            if let Some(end) = end {
                ends.remove(format::end(end, &key).as_slice()).map_err(failed)?;
            }
        }
    }
    append(transaction, &batch.audit)?;
    Ok(Applied::Revision(revision))
}

/// Appends bodies to the logs of their tenants.
fn append(transaction: &WriteTransaction, entries: &[(Tenant, Vec<u8>)]) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut audit = transaction.open_table(AUDIT).map_err(failed)?;
    let mut ends = transaction.open_table(AUDIT_ENDS).map_err(failed)?;
    for (tenant, body) in entries {
        let (last, hash) = match ends.get(tenant.as_str()).map_err(failed)? {
            Some(end) => audit_end(tenant, end.value())?,
            None => (0, genesis(tenant)),
        };
        let sequence = last.saturating_add(1);
        let hash = chain(&hash, sequence, body);
        let key = format::numbered(tenant, sequence);
        audit.insert(key.as_slice(), [hash.as_slice(), body].concat().as_slice()).map_err(failed)?;
        let end = [sequence.to_be_bytes().as_slice(), &hash].concat();
        ends.insert(tenant.as_str(), end.as_slice()).map_err(failed)?;
    }
    Ok(())
}

/// Counts a value that is sealed with a data key, or one that is not any more.
fn count_use(uses: &mut redb::Table<'_, u64, u64>, data_key: Option<u64>, more: bool) -> Result<(), StoreError> {
    let Some(data_key) = data_key else { return Ok(()) };
    let now = uses.get(data_key).map_err(failed)?.map_or(0, |count| count.value());
    let count = if more { now.saturating_add(1) } else { now.saturating_sub(1) };
    if count == 0 {
        uses.remove(data_key).map_err(failed)?;
    } else {
        uses.insert(data_key, count).map_err(failed)?;
    }
    Ok(())
}

/// Checks the format of the file, or makes its tables where there are none.
fn prepare(database: &Database, path: &str) -> Result<(), OpenError> {
    let begin = |error: TransactionError| OpenError::Store(failed(error));
    let transaction = database.begin_read().map_err(begin)?;
    let known = match transaction.open_table(META) {
        Ok(meta) => meta.get("format").map_err(|error| OpenError::Store(failed(error)))?.map(|found| found.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => {
            let mut tables = transaction.list_tables().map_err(|error| OpenError::Store(failed(error)))?;
            if tables.next().is_some() {
                return Err(OpenError::Foreign(path.to_owned()));
            }
            None
        }
        Err(_) => return Err(OpenError::Foreign(path.to_owned())),
    };
    match known {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(OpenError::Format { path: path.to_owned(), found, expected: FORMAT }),
        None => create(database).map_err(OpenError::Store),
    }
}

fn create(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    transaction.open_table(RECORDS).map_err(failed)?;
    transaction.open_table(ENDS).map_err(failed)?;
    transaction.open_table(DATA_KEYS).map_err(failed)?;
    transaction.open_table(USES).map_err(failed)?;
    transaction.open_table(AUDIT).map_err(failed)?;
    transaction.open_table(AUDIT_ENDS).map_err(failed)?;
    transaction.open_table(CHECKPOINTS).map_err(failed)?;
    transaction.open_table(META).map_err(failed)?.insert("format", FORMAT).map_err(failed)?;
    transaction.commit().map_err(failed)
}
