//! A backup, back into a database.

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::sync::mpsc;

use super::call::{arguments, classify};
use super::{Names, Postgres, count, signed};
use crate::audit::Stored;
use crate::backend::Raw;
use crate::backup::{Backup, Item, RestoreError, Source};
use crate::error::StoreError;
use crate::record::{Id, MAX_BATCH_BYTES, Tenant};
use crate::seal::{DataKeyRow, Sealed};

/// Items that are stored together.
const TOGETHER: usize = 1000;

impl Postgres {
    /// Stores everything, when nothing is there.
    pub(crate) async fn restore(&self, mut source: Box<dyn Source>) -> Result<Backup, RestoreError> {
        let mut connection = self.caller.connect_long().await?;
        // Nobody writes meanwhile. When this call ends early the connection does too, and nothing has happened.
        let begin = "BEGIN; LOCK TABLE belljar_records, belljar_data_keys, belljar_audit, belljar_audit_heads, \
             belljar_audit_checkpoints IN EXCLUSIVE MODE";
        connection.execute(AssertSqlSafe(begin)).await.map_err(classify)?;
        let sql = "SELECT CASE WHEN EXISTS (SELECT FROM belljar_records) OR EXISTS (SELECT FROM belljar_data_keys) \
             OR EXISTS (SELECT FROM belljar_audit_heads) THEN 1 ELSE 0 END::bigint";
        let filled = sqlx::query(sql).fetch_all(&mut connection).await.map_err(classify)?;
        if count(filled)? != 0 {
            return Err(RestoreError::NotEmpty);
        }
        // The file is read, opened and checked by a thread of its own.
        let (parts, mut coming) = mpsc::channel::<Vec<Item>>(2);
        let reading = tokio::task::spawn_blocking(move || {
            let (mut part, mut bytes) = (Vec::new(), 0_usize);
            while let Some(item) = source.next()? {
                bytes = bytes.saturating_add(match &item {
                    Item::Record(raw) => raw.sealed.len(),
                    Item::Entry(stored) => stored.body.len(),
                    _ => 0,
                });
                part.push(item);
                if part.len() >= TOGETHER || bytes >= MAX_BATCH_BYTES {
                    bytes = 0;
                    if parts.blocking_send(std::mem::take(&mut part)).is_err() {
                        break;
                    }
                }
            }
            let _ = parts.blocking_send(part);
            source.done()
        });
        let mut log = None;
        while let Some(part) = coming.recv().await {
            store(&mut connection, part, &mut log).await?;
        }
        let backup = reading.await.map_err(|error| StoreError::Failed(error.to_string()))??;
        // What no announcement is, is an order to read everything again.
        let end = "SELECT pg_notify('belljar_' || 'belljar_records'::regclass::oid, 'restored'); COMMIT";
        match connection.execute(AssertSqlSafe(end)).await {
            Ok(_) => Ok(backup),
            Err(error) => Err(RestoreError::Store(StoreError::Unknown(error.to_string()))),
        }
    }
}

/// Stores a part; `log` is the one that entries belong to.
async fn store(connection: &mut PgConnection, part: Vec<Item>, log: &mut Option<Tenant>) -> Result<(), RestoreError> {
    let mut keys: Vec<DataKeyRow> = Vec::new();
    let mut records: Vec<Raw> = Vec::new();
    let mut ends = (Vec::new(), Vec::new(), Vec::new());
    let mut entries: Vec<(Tenant, Stored)> = Vec::new();
    let mut checkpoints: Vec<(Tenant, u64, Vec<u8>)> = Vec::new();
    for item in part {
        match item {
            Item::Start { revision, .. } => {
                let sql = "SELECT setval('belljar_revision', greatest($1, 1), $1 > 0)";
                run(connection, sql, arguments![signed(revision)]).await?;
            }
            Item::DataKey(row) => keys.push(row),
            Item::Record(raw) => records.push(raw),
            Item::Log { tenant, sequence, hash } => {
                ends.0.push(tenant.as_str().to_owned());
                ends.1.push(signed(sequence));
                ends.2.push(hash.to_vec());
                *log = Some(tenant);
            }
            Item::Entry(stored) => entries.push((log.clone().ok_or(RestoreError::Cut)?, stored)),
            Item::Checkpoint { sequence, body } => {
                checkpoints.push((log.clone().ok_or(RestoreError::Cut)?, sequence, body));
            }
            Item::End { .. } => {}
        }
    }
    if !keys.is_empty() {
        let ids: Vec<i64> = keys.iter().map(|row| signed(row.id)).collect();
        let tenants: Vec<&str> = keys.iter().map(|row| row.tenant.as_str()).collect();
        let key_ids: Vec<&str> = keys.iter().map(|row| row.key_id.as_str()).collect();
        let wrapped: Vec<&[u8]> = keys.iter().map(|row| row.wrapped.as_slice()).collect();
        let created: Vec<i64> = keys.iter().map(|row| signed(row.created.millis())).collect();
        let active: Vec<bool> = keys.iter().map(|row| row.active).collect();
        let sql = "INSERT INTO belljar_data_keys (id, tenant, key_id, wrapped, created, active) \
             SELECT * FROM unnest($1, $2, $3, $4, $5, $6)";
        run(connection, sql, arguments![&ids, &tenants, &key_ids, &wrapped, &created, &active]).await?;
    }
    if !records.is_empty() {
        let Names { tenants, kinds, keys } = Names::new(records.iter().map(|raw| &raw.entry.id as &Id));
        let revisions: Vec<i64> = records.iter().map(|raw| signed(raw.entry.revision)).collect();
        let expires: Vec<Option<i64>> =
            records.iter().map(|raw| raw.entry.expires.map(|end| signed(end.millis()))).collect();
        let data_keys: Vec<i64> =
            records.iter().map(|raw| Sealed::parse(&raw.sealed).map_or(0, |sealed| signed(sealed.data_key))).collect();
        let values: Vec<&[u8]> = records.iter().map(|raw| raw.sealed.as_slice()).collect();
        let sql = "INSERT INTO belljar_records (tenant, kind, key, revision, expires, data_key, value) \
             SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7)";
        let arguments = arguments![&tenants, &kinds, &keys, &revisions, &expires, &data_keys, &values];
        run(connection, sql, arguments).await?;
    }
    if !ends.0.is_empty() {
        let sql = "INSERT INTO belljar_audit_heads (tenant, sequence, hash) SELECT * FROM unnest($1, $2, $3)";
        run(connection, sql, arguments![&ends.0, &ends.1, &ends.2]).await?;
    }
    if !entries.is_empty() {
        let tenants: Vec<&str> = entries.iter().map(|(tenant, _)| tenant.as_str()).collect();
        let sequences: Vec<i64> = entries.iter().map(|(_, stored)| signed(stored.sequence)).collect();
        let hashes: Vec<&[u8]> = entries.iter().map(|(_, stored)| stored.hash.as_slice()).collect();
        let bodies: Vec<&[u8]> = entries.iter().map(|(_, stored)| stored.body.as_slice()).collect();
        let sql = "INSERT INTO belljar_audit (tenant, sequence, hash, body) SELECT * FROM unnest($1, $2, $3, $4)";
        run(connection, sql, arguments![&tenants, &sequences, &hashes, &bodies]).await?;
    }
    if !checkpoints.is_empty() {
        let tenants: Vec<&str> = checkpoints.iter().map(|(tenant, ..)| tenant.as_str()).collect();
        let sequences: Vec<i64> = checkpoints.iter().map(|(_, sequence, _)| signed(*sequence)).collect();
        let bodies: Vec<&[u8]> = checkpoints.iter().map(|(_, _, body)| body.as_slice()).collect();
        let sql = "INSERT INTO belljar_audit_checkpoints (tenant, sequence, body) SELECT * FROM unnest($1, $2, $3)";
        run(connection, sql, arguments![&tenants, &sequences, &bodies]).await?;
    }
    Ok(())
}

async fn run(
    connection: &mut PgConnection,
    sql: &'static str,
    arguments: impl Fn() -> Result<PgArguments, sqlx::Error>,
) -> Result<(), StoreError> {
    let arguments = arguments().map_err(classify)?;
    sqlx::query_with(sql, arguments).execute(connection).await.map(drop).map_err(classify)
}
