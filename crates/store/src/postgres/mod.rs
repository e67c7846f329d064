//! The store in PostgreSQL, for several replicas.
//!
//! Every call is one statement, so it is one journey and one transaction, and no replica that goes away holds a lock
//! behind it. What several replicas must agree on is in functions of the database (`migrations/`).

mod append;
mod audit;
mod call;
mod listen;
mod pool;
mod restore;
mod snapshot;
mod url;

pub(crate) use listen::fuzz;
pub(crate) use snapshot::Snapshot;
pub use url::{PostgresOptions, UrlError};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _, SqlSafeStr as _};
use tokio::task::JoinHandle;

use crate::backend::{Applied, Paged, Raw, RawBatch, RawOp, Resealed, Retired};
use crate::error::{Conflict, OpenError, StoreError};
use crate::record::{Entry, Expected, Id, Kind, MAX_BATCH, MAX_BATCH_BYTES, Query, Tenant, Time};
use crate::seal::{DataKeyRow, KeyId};
use crate::watch::Announcer;
use append::Appender;
use call::{Caller, Failed, arguments, classify};

/// Records of one step of sealing anew.
const PART: i64 = 64;
/// SQLSTATE of a value whose data key is not there, and of a data key that has values.
const FOREIGN_KEY: &str = "23503";
/// Data keys of a tenant, or all.
const DATA_KEYS: &str = "SELECT id, tenant, key_id, wrapped, created, active FROM belljar_data_keys \
     WHERE tenant = $1 OR $1 IS NULL ORDER BY id";
/// Where it is written down which migrations were made.
const MIGRATIONS: &str = "belljar_migrations";

/// An open database.
#[derive(Debug)]
pub(crate) struct Postgres {
    caller: Arc<Caller>,
    appender: Appender,
    listener: JoinHandle<()>,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Postgres {
    /// Connects, brings the tables up to date, and listens.
    pub(crate) async fn open(options: &PostgresOptions, announcer: Announcer) -> Result<Self, OpenError> {
        let shown = options.shown();
        migrate(options).await.map_err(|error| open_error(shown, error))?;
        let caller = Arc::new(Caller::new(options));
        let row = one(caller.read("SELECT 'belljar_' || 'belljar_records'::regclass::oid", arguments![]).await?)?;
        let listener = listen::start(options, column(&row, 0)?, announcer).await.map_err(classify)?;
        Ok(Self { caller, appender: Appender::default(), listener })
    }

    pub(crate) async fn get(&self, id: &Id) -> Result<Option<Raw>, StoreError> {
        let sql = "SELECT revision, expires, value FROM belljar_records WHERE tenant = $1 AND kind = $2 AND key = $3";
        let (tenant, kind, key) = (id.tenant().as_str(), code(id.kind()), id.key().as_bytes());
        let rows = self.caller.read(sql, arguments![tenant, kind, key]).await?;
        rows.first().map(|row| raw(id.clone(), row)).transpose()
    }

    pub(crate) async fn list(&self, query: &Query, now: Time) -> Result<Paged<Raw, String>, StoreError> {
        // The part ends behind the value with which its bytes are enough; one more row says that there is more.
        let sql = "SELECT key, revision, expires, CASE WHEN n <= $6 AND before < $7 THEN value END AS value \
             FROM (SELECT *, row_number() OVER part AS n, \
                     sum(octet_length(value)) OVER part - octet_length(value) AS before \
                 FROM (SELECT * FROM belljar_records \
                     WHERE tenant = $1 AND kind = $2 AND key >= $3 AND (key < $4 OR $4 IS NULL) AND key > $5 \
                         AND (expires IS NULL OR expires > $8) \
                     ORDER BY key LIMIT $6 + 1) AS wanted \
                 WINDOW part AS (ORDER BY key ROWS UNBOUNDED PRECEDING)) AS counted \
             WHERE n <= $6 + 1 ORDER BY key";
        let rows = self.rows(sql, query, now).await?;
        let (mut page, mut next) = (Vec::with_capacity(rows.len()), None);
        for row in rows {
            let id = id_of(query, &row)?;
            let value: Option<Vec<u8>> = column(&row, "value")?;
            let Some(sealed) = value else { return Ok((page, next)) };
            next = Some(id.key().to_owned());
            page.push(Raw { entry: entry(id, &row)?, sealed });
        }
        Ok((page, None))
    }

    pub(crate) async fn names(&self, query: &Query, now: Time) -> Result<Paged<Entry, String>, StoreError> {
        let sql = "SELECT key, revision, expires FROM belljar_records \
             WHERE tenant = $1 AND kind = $2 AND key >= $3 AND (key < $4 OR $4 IS NULL) AND key > $5 \
                 AND (expires IS NULL OR expires > $8) AND $7 > 0::bigint \
             ORDER BY key LIMIT $6 + 1";
        let rows = self.rows(sql, query, now).await?;
        let more = rows.len() > query.page();
        let rows = rows.iter().take(query.page());
        let page = rows.map(|row| entry(id_of(query, row)?, row)).collect::<Result<Vec<_>, _>>()?;
        let next = page.last().filter(|_| more).map(|entry| entry.id.key().to_owned());
        Ok((page, next))
    }

    async fn rows(&self, sql: &'static str, query: &Query, now: Time) -> Result<Vec<PgRow>, StoreError> {
        let (tenant, kind, prefix) = (query.tenant.as_str(), code(query.kind), query.prefix.as_bytes());
        let end = after_prefix(prefix);
        let after = query.after.as_deref().unwrap_or_default().as_bytes();
        let limit = i64::try_from(query.page()).unwrap_or(i64::MAX);
        let bytes = i64::try_from(MAX_BATCH_BYTES).unwrap_or(i64::MAX);
        let now = signed(now.millis());
        self.caller.read(sql, arguments![tenant, kind, prefix, end.as_deref(), after, limit, bytes, now]).await
    }

    pub(crate) async fn apply(&self, batch: RawBatch, now: Time) -> Result<Applied, StoreError> {
        let statement = Statement::new(&batch);
        let row = match statement.run(&self.caller, now).await {
            // The data key was retired while its value was on the way.
            Err(Failed::Database { code, .. }) if code == FOREIGN_KEY => return Ok(Applied::Stale),
            other => one(other?)?,
        };
        match column::<i16>(&row, "outcome")? {
            0 => Ok(Applied::Revision(unsigned(column(&row, "change")?)?)),
            1 => {
                let item: i32 = column(&row, "item")?;
                let item = usize::try_from(item).ok().and_then(|item| item.checked_sub(1));
                let wanted = item.and_then(|item| batch.expected.get(item));
                let (id, expected) = wanted.ok_or_else(|| malformed("an answer about no precondition"))?;
                let seen: Option<i64> = column(&row, "seen")?;
                let found = seen.map(unsigned).transpose()?;
                Ok(Applied::Conflict(Conflict { id: id.clone(), expected: *expected, found }))
            }
            _ => Ok(Applied::Stale),
        }
    }

    pub(crate) async fn purge(&self, now: Time, limit: usize) -> Result<u64, StoreError> {
        // Rows that somebody is writing are left for the next time.
        let sql = "WITH gone AS (DELETE FROM belljar_records WHERE ctid = ANY (ARRAY ( \
                 SELECT ctid FROM belljar_records WHERE expires <= $1 \
                 ORDER BY expires, tenant, kind, key LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING 1) \
             SELECT count(*) FROM gone";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        count(self.caller.write(sql, arguments![signed(now.millis()), limit]).await?)
    }

    pub(crate) async fn data_keys(&self, tenant: Option<&Tenant>) -> Result<Vec<DataKeyRow>, StoreError> {
        let rows = self.caller.read(DATA_KEYS, arguments![tenant.map(Tenant::as_str)]).await?;
        rows.iter().map(data_key_row).collect()
    }

    pub(crate) async fn add_data_key(&self, row: &DataKeyRow, replaces: Option<u64>) -> Result<bool, StoreError> {
        let (tenant, key_id, wrapped) = (row.tenant.as_str(), row.key_id.as_str(), row.wrapped.as_slice());
        let (id, created, replaces) = (signed(row.id), signed(row.created.millis()), replaces.map(signed));
        let sql = "SELECT belljar_add_data_key($1, $2, $3, $4, $5, $6)";
        let added = self.caller.write(sql, arguments![id, tenant, key_id, wrapped, created, replaces]).await?;
        column(&one(added)?, 0)
    }

    pub(crate) async fn rewrap_data_key(
        &self,
        row: &DataKeyRow,
        key_id: &KeyId,
        wrapped: &[u8],
    ) -> Result<bool, StoreError> {
        let sql = "WITH done AS (UPDATE belljar_data_keys SET key_id = $3, wrapped = $4 WHERE id = $1 AND wrapped = $2 \
                 RETURNING 1) SELECT count(*) FROM done";
        let (id, old, key_id) = (signed(row.id), row.wrapped.as_slice(), key_id.as_str());
        Ok(count(self.caller.write(sql, arguments![id, old, key_id, wrapped]).await?)? == 1)
    }

    pub(crate) async fn key_uses(&self) -> Result<HashMap<u64, u64>, StoreError> {
        let sql = "SELECT data_key, count(*) AS count FROM belljar_records GROUP BY data_key";
        let rows = self.caller.read_long(sql, arguments![]).await?;
        let count = |row: &PgRow| Ok((unsigned(column(row, "data_key")?)?, unsigned(column(row, "count")?)?));
        rows.iter().map(count).collect()
    }

    pub(crate) async fn retire(&self, data_key: u64) -> Result<Retired, StoreError> {
        match self.caller.write("SELECT belljar_retire($1)", arguments![signed(data_key)]).await {
            Ok(rows) => Ok(match column::<i16>(&one(rows)?, 0)? {
                0 => Retired::Gone,
                1 => Retired::Absent,
                2 => Retired::Active,
                _ => Retired::InUse,
            }),
            Err(Failed::Database { code, .. }) if code == FOREIGN_KEY => Ok(Retired::InUse),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn outdated(&self, after: Option<&Id>) -> Result<Paged<Raw, Id>, StoreError> {
        let sql = "SELECT tenant, kind, key, revision, expires, value FROM belljar_records \
             WHERE data_key = ANY (ARRAY (SELECT id FROM belljar_data_keys WHERE NOT active)) \
                 AND (tenant, kind, key) > ($1, $2, $3) \
             ORDER BY tenant, kind, key LIMIT $4";
        let (tenant, kind, key) = behind(after);
        let rows = self.caller.read_long(sql, arguments![tenant, kind, key, PART]).await?;
        let page = rows.iter().map(|row| raw(full_id(row)?, row)).collect::<Result<Vec<Raw>, StoreError>>()?;
        let full = i64::try_from(page.len()).is_ok_and(|length| length >= PART);
        let next = page.last().filter(|_| full).map(|raw| raw.entry.id.clone());
        Ok((page, next))
    }

    pub(crate) async fn reseal(&self, values: Vec<Resealed>) -> Result<u64, StoreError> {
        let mut done = 0_u64;
        for part in values.chunks(MAX_BATCH) {
            let locks = Locks::new(part.iter().map(|value| (&value.entry.id, false)));
            let ids = Names::new(part.iter().map(|value| &value.entry.id));
            let revisions: Vec<i64> = part.iter().map(|value| signed(value.entry.revision)).collect();
            let old: Vec<i64> = part.iter().map(|value| signed(value.old_key)).collect();
            let new: Vec<i64> = part.iter().map(|value| signed(value.new_key)).collect();
            let sealed: Vec<&[u8]> = part.iter().map(|value| value.sealed.as_slice()).collect();
            let sql = "SELECT belljar_reseal($1, $2, $3, $4, $5, $6, $7, $8, $9)";
            let Locks { names, shared } = &locks;
            let Names { tenants, kinds, keys } = &ids;
            let arguments = arguments![names, shared, tenants, kinds, keys, &revisions, &old, &new, &sealed];
            match self.caller.write(sql, arguments).await {
                Ok(rows) => done = done.saturating_add(count(rows)?),
                // The new key was retired already: the values are as they were.
                Err(Failed::Database { code, .. }) if code == FOREIGN_KEY => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    /// Everything as it is now.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Snapshot::new(self.caller.connect_long().await?).await
    }

    pub(crate) async fn close(&self) {
        self.listener.abort();
        self.caller.close();
    }
}

/// Names of records, column by column.
#[derive(Default)]
struct Names<'a> {
    tenants: Vec<&'a str>,
    kinds: Vec<i16>,
    keys: Vec<&'a [u8]>,
}

impl<'a> Names<'a> {
    fn new(ids: impl Iterator<Item = &'a Id>) -> Self {
        let mut names = Self::default();
        ids.for_each(|id| names.push(id));
        names
    }

    fn push(&mut self, id: &'a Id) {
        self.tenants.push(id.tenant().as_str());
        self.kinds.push(code(id.kind()));
        self.keys.push(id.key().as_bytes());
    }
}

/// Locks of records, sorted.
struct Locks {
    names: Vec<i64>,
    shared: Vec<bool>,
}

impl Locks {
    /// A record that is both read and written is locked for writing.
    fn new<'a>(ids: impl Iterator<Item = (&'a Id, bool)>) -> Self {
        let mut all = BTreeMap::new();
        for (id, shared) in ids {
            let name = [id.tenant().as_str().as_bytes(), &[0, id.kind().code()], id.key().as_bytes()].concat();
            let hash = digest(&SHA256, &name);
            let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
            let entry = all.entry(i64::from_be_bytes(first)).or_insert(shared);
            *entry = *entry && shared;
        }
        Self { names: all.keys().copied().collect(), shared: all.values().copied().collect() }
    }
}

/// A batch, column by column.
struct Statement<'a> {
    locks: Locks,
    wanted: Names<'a>,
    want: Vec<i64>,
    put: Names<'a>,
    expires: Vec<Option<i64>>,
    data_keys: Vec<i64>,
    values: Vec<&'a [u8]>,
    delete: Names<'a>,
    audit_tenants: Vec<&'a str>,
    audit_bodies: Vec<&'a [u8]>,
    notices: Vec<String>,
}

impl<'a> Statement<'a> {
    fn new(batch: &'a RawBatch) -> Self {
        let written = batch.ops.iter().map(|op| match op {
            RawOp::Put { id, .. } | RawOp::Delete { id } => (id, false),
        });
        let mut statement = Self {
            locks: Locks::new(written.chain(batch.expected.iter().map(|(id, _)| (id, true)))),
            wanted: Names::new(batch.expected.iter().map(|(id, _)| id)),
            want: batch
                .expected
                .iter()
                .map(|(_, expected)| match expected {
                    Expected::Absent => -1,
                    Expected::Present => -2,
                    Expected::Revision(revision) => signed(*revision),
                })
                .collect(),
            put: Names::default(),
            expires: Vec::new(),
            data_keys: Vec::new(),
            values: Vec::new(),
            delete: Names::default(),
            audit_tenants: batch.audit.iter().map(|(tenant, _)| tenant.as_str()).collect(),
            audit_bodies: batch.audit.iter().map(|(_, body)| body.as_slice()).collect(),
            notices: Vec::new(),
        };
        for op in &batch.ops {
            match op {
                RawOp::Put { id, expires, data_key, sealed } => {
                    statement.put.push(id);
                    statement.expires.push(expires.map(|end| signed(end.millis())));
                    statement.data_keys.push(signed(*data_key));
                    statement.values.push(sealed);
                    statement.notices.extend(listen::notice(id, false));
                }
                RawOp::Delete { id } => {
                    statement.delete.push(id);
                    statement.notices.extend(listen::notice(id, true));
                }
            }
        }
        statement
    }

    async fn run(&self, caller: &Caller, now: Time) -> Result<Vec<PgRow>, Failed> {
        let arguments = arguments![
            &self.locks.names,
            &self.locks.shared,
            &self.wanted.tenants,
            &self.wanted.kinds,
            &self.wanted.keys,
            &self.want,
            &self.put.tenants,
            &self.put.kinds,
            &self.put.keys,
            &self.expires,
            &self.data_keys,
            &self.values,
            &self.delete.tenants,
            &self.delete.kinds,
            &self.delete.keys,
            &self.audit_tenants,
            &self.audit_bodies,
            &self.notices,
            signed(now.millis()),
        ];
        let sql = "SELECT * FROM belljar_apply($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
                 $17, $18, $19)";
        caller.write(sql, arguments).await
    }
}

/// Brings the tables up to date. Replicas that start at once do so one after the other.
async fn migrate(options: &PostgresOptions) -> Result<(), sqlx::Error> {
    // A connection of its own, which waits for others as long as they work.
    let connecting = PgConnection::connect_with(&options.connect);
    let mut connection = tokio::time::timeout(options.patience, connecting)
        .await
        .map_err(|_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))??;
    let sql = include_str!("../../migrations/0001_store.sql").into_sql_str();
    let migration = Migration::new(1, "store".into(), MigrationType::Simple, sql, false);
    let mut migrator = Migrator::with_migrations(vec![migration]);
    migrator.dangerous_set_table_name(MIGRATIONS);
    let result = migrator.run_direct(None, &mut connection, false).await;
    let closed = connection.close().await;
    result.map_err(|error| sqlx::Error::Migrate(Box::new(error)))?;
    closed
}

fn open_error(shown: &str, error: sqlx::Error) -> OpenError {
    use sqlx::migrate::MigrateError;
    match error {
        sqlx::Error::Migrate(error) => match *error {
            MigrateError::VersionMissing(version) => {
                OpenError::Format { path: shown.to_owned(), found: version.unsigned_abs(), expected: 1 }
            }
            MigrateError::VersionMismatch(_) | MigrateError::Dirty(_) => OpenError::Foreign(shown.to_owned()),
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => open_error(shown, error),
            other => OpenError::File { path: shown.to_owned(), why: other.to_string() },
        },
        other => OpenError::Store(classify(other)),
    }
}

/// As PostgreSQL has numbers. Those of ours are below its bound: revisions come from it, ids of data keys and times are
/// made so.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| malformed("a negative number"))
}

/// The one row of an answer.
fn one(rows: Vec<PgRow>) -> Result<PgRow, StoreError> {
    rows.into_iter().next().ok_or_else(|| malformed("an answer without a row"))
}

/// The number that is the answer.
fn count(rows: Vec<PgRow>) -> Result<u64, StoreError> {
    unsigned(column(&one(rows)?, 0)?)
}

fn malformed(what: &str) -> StoreError {
    StoreError::Malformed(what.to_owned())
}

fn code(kind: Kind) -> i16 {
    kind.code().into()
}

/// The record behind which a part starts; before all records there is none.
fn behind(after: Option<&Id>) -> (&str, i16, &[u8]) {
    after.map_or(("", 0, &[]), |id| (id.tenant().as_str(), code(id.kind()), id.key().as_bytes()))
}

fn column<'r, T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>>(
    row: &'r PgRow,
    name: impl sqlx::ColumnIndex<PgRow>,
) -> Result<T, StoreError> {
    row.try_get(name).map_err(|error| StoreError::Malformed(error.to_string()))
}

fn time(millis: i64) -> Result<Time, StoreError> {
    unsigned(millis).map(Time::from_millis)
}

fn entry(id: Id, row: &PgRow) -> Result<Entry, StoreError> {
    let expires: Option<i64> = column(row, "expires")?;
    Ok(Entry { id, revision: unsigned(column(row, "revision")?)?, expires: expires.map(time).transpose()? })
}

fn raw(id: Id, row: &PgRow) -> Result<Raw, StoreError> {
    Ok(Raw { entry: entry(id, row)?, sealed: column(row, "value")? })
}

fn id_of(query: &Query, row: &PgRow) -> Result<Id, StoreError> {
    make_id(&query.tenant, query.kind, column(row, "key")?)
}

fn tenant_of(row: &PgRow) -> Result<Tenant, StoreError> {
    Tenant::new(column(row, "tenant")?).map_err(|error| StoreError::Malformed(error.to_string()))
}

fn full_id(row: &PgRow) -> Result<Id, StoreError> {
    let tenant = tenant_of(row)?;
    let kind: i16 = column(row, "kind")?;
    let kind = u8::try_from(kind).ok().and_then(Kind::from_code).ok_or_else(|| malformed("a record of no kind"))?;
    make_id(&tenant, kind, column(row, "key")?)
}

fn make_id(tenant: &Tenant, kind: Kind, key: &[u8]) -> Result<Id, StoreError> {
    let id = std::str::from_utf8(key).ok().and_then(|key| Id::new(tenant, kind, key).ok());
    id.ok_or_else(|| malformed("a record with a key that is none"))
}

fn data_key_row(row: &PgRow) -> Result<DataKeyRow, StoreError> {
    Ok(DataKeyRow {
        id: unsigned(column(row, "id")?)?,
        tenant: tenant_of(row)?,
        key_id: KeyId::new(column(row, "key_id")?).map_err(|error| StoreError::Malformed(error.to_string()))?,
        wrapped: column(row, "wrapped")?,
        created: time(column(row, "created")?)?,
        active: column(row, "active")?,
    })
}

/// The first key behind all that start with `prefix`; none when there is no end.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let (head, rest) = prefix.split_at_checked(last)?;
    Some([head, &[rest.first()?.saturating_add(1)]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_an_end() {
        assert_eq!(after_prefix(b""), None);
        assert_eq!(after_prefix(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
    }

    #[test]
    fn locks_are_sorted_and_a_write_counts_for_both() {
        let tenant = Tenant::new("acme").unwrap();
        let ids: Vec<Id> = (0..20).map(|n| Id::new(&tenant, Kind::Key, &n.to_string()).unwrap()).collect();
        let locks = Locks::new(ids.iter().map(|id| (id, true)).chain([(&ids[3], false)]));
        assert!(locks.names.is_sorted());
        assert_eq!(locks.shared.iter().filter(|shared| !**shared).count(), 1);
        assert_eq!(locks.names.len(), 20);
        let only = Locks::new([(&ids[3], false)].into_iter());
        let at = locks.names.iter().position(|name| *name == only.names[0]).unwrap();
        assert!(!locks.shared[at]);
    }
}
