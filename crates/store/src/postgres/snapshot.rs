//! What the database held at one moment.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Executor as _};

use super::audit::{CHECKPOINTS, ENTRIES, checkpoint, end, stored};
use super::call::{arguments, classify};
use super::{DATA_KEYS, behind, count, data_key_row, full_id, raw, signed, tenant_of};
use crate::audit::{Hash, Stored};
use crate::backend::{Paged, Raw};
use crate::error::StoreError;
use crate::record::{Id, MAX_BATCH_BYTES, MAX_PAGE, Tenant};
use crate::seal::DataKeyRow;

/// Everything that was committed when this was made: a transaction that reads, on a connection of its own.
#[derive(Debug)]
pub(crate) struct Snapshot(PgConnection);

impl Snapshot {
    pub(super) async fn new(mut connection: PgConnection) -> Result<Self, StoreError> {
        // Whoever reads may be slow.
        let begin =
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0";
        connection.execute(AssertSqlSafe(begin)).await.map_err(classify)?;
        Ok(Self(connection))
    }

    async fn rows(
        &mut self,
        sql: &'static str,
        arguments: impl Fn() -> Result<sqlx::postgres::PgArguments, sqlx::Error>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let arguments = arguments().map_err(classify)?;
        sqlx::query_with(sql, arguments).fetch_all(&mut self.0).await.map_err(classify)
    }

    /// All records in order, behind `after`.
    pub(crate) async fn records(&mut self, after: Option<&Id>) -> Result<Paged<Raw, Id>, StoreError> {
        // The part ends behind the value with which its bytes are enough.
        let sql = "SELECT * FROM ( \
                 SELECT *, sum(octet_length(value)) OVER part - octet_length(value) AS before FROM ( \
                     SELECT tenant, kind, key, revision, expires, value FROM belljar_records \
                     WHERE (tenant, kind, key) > ($1, $2, $3) \
                     ORDER BY tenant, kind, key LIMIT $4) AS wanted \
                 WINDOW part AS (ORDER BY tenant, kind, key ROWS UNBOUNDED PRECEDING)) AS counted \
             WHERE before < $5 ORDER BY tenant, kind, key";
        let (tenant, kind, key) = behind(after);
        let limit = i64::try_from(MAX_PAGE).unwrap_or(i64::MAX);
        let bytes = i64::try_from(MAX_BATCH_BYTES).unwrap_or(i64::MAX);
        let rows = self.rows(sql, arguments![tenant, kind, key, limit, bytes]).await?;
        let page = rows.iter().map(|row| raw(full_id(row)?, row)).collect::<Result<Vec<_>, StoreError>>()?;
        let next = page.last().map(|raw| raw.entry.id.clone());
        Ok((page, next))
    }

    pub(crate) async fn data_keys(&mut self) -> Result<Vec<DataKeyRow>, StoreError> {
        let rows = self.rows(DATA_KEYS, arguments![None::<&str>]).await?;
        rows.iter().map(data_key_row).collect()
    }

    /// The last change, or a later number.
    pub(crate) async fn revision(&mut self) -> Result<u64, StoreError> {
        let sql = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM belljar_revision";
        count(self.rows(sql, arguments![]).await?)
    }

    pub(crate) async fn audit_ends(&mut self) -> Result<Vec<(Tenant, u64, Hash)>, StoreError> {
        let rows =
            self.rows("SELECT tenant, sequence, hash FROM belljar_audit_heads ORDER BY tenant", arguments![]).await?;
        let log = |row: &PgRow| {
            let (sequence, hash) = end(row)?;
            Ok((tenant_of(row)?, sequence, hash))
        };
        rows.iter().map(log).collect()
    }

    pub(crate) async fn audit_entries(&mut self, tenant: &Tenant, after: u64) -> Result<Vec<Stored>, StoreError> {
        let limit = i64::try_from(MAX_PAGE).unwrap_or(i64::MAX);
        let rows = self.rows(ENTRIES, arguments![tenant.as_str(), signed(after), limit]).await?;
        rows.iter().map(stored).collect()
    }

    pub(crate) async fn checkpoints(&mut self, tenant: &Tenant, after: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let limit = i64::try_from(MAX_PAGE).unwrap_or(i64::MAX);
        let rows = self.rows(CHECKPOINTS, arguments![tenant.as_str(), signed(after), limit]).await?;
        rows.iter().map(checkpoint).collect()
    }
}
