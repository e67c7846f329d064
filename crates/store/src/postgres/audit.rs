//! Audit logs in the database.

use sqlx::postgres::PgRow;

use super::call::arguments;
use super::{Postgres, column, count, malformed, signed, tenant_of, unsigned};
use crate::audit::{Checkpoint, Hash, Stored};
use crate::error::StoreError;
use crate::record::Tenant;

/// Entries of a log behind a number.
pub(super) const ENTRIES: &str = "SELECT sequence, hash, body FROM belljar_audit WHERE tenant = $1 AND sequence > $2 \
     ORDER BY sequence LIMIT $3";
/// Checkpoints of a log behind a number.
pub(super) const CHECKPOINTS: &str = "SELECT sequence, body FROM belljar_audit_checkpoints \
     WHERE tenant = $1 AND sequence > $2 ORDER BY sequence LIMIT $3";

pub(super) fn stored(row: &PgRow) -> Result<Stored, StoreError> {
    let sequence = unsigned(column(row, "sequence")?)?;
    Ok(Stored { sequence, hash: column(row, "hash")?, body: column(row, "body")? })
}

pub(super) fn checkpoint(row: &PgRow) -> Result<(u64, Vec<u8>), StoreError> {
    Ok((unsigned(column(row, "sequence")?)?, column(row, "body")?))
}

pub(super) fn end(row: &PgRow) -> Result<(u64, Hash), StoreError> {
    let hash: &[u8] = column(row, "hash")?;
    let hash = hash.try_into().map_err(|_| malformed("the end of an audit log in an unknown form"))?;
    Ok((unsigned(column(row, "sequence")?)?, hash))
}

impl Postgres {
    pub(crate) async fn append(&self, tenant: &Tenant, bodies: Vec<Vec<u8>>) -> Result<(), StoreError> {
        self.appender.append(&self.caller, tenant, bodies).await
    }

    pub(crate) async fn audit_entries(
        &self,
        tenant: &Tenant,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.caller.read(ENTRIES, arguments![tenant.as_str(), signed(after), limit]).await?;
        rows.iter().map(stored).collect()
    }

    pub(crate) async fn audit_end(&self, tenant: &Tenant) -> Result<Option<(u64, Hash)>, StoreError> {
        let sql = "SELECT sequence, hash FROM belljar_audit_heads WHERE tenant = $1";
        let rows = self.caller.read(sql, arguments![tenant.as_str()]).await?;
        rows.first().map(end).transpose()
    }

    pub(crate) async fn audit_tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        let rows = self.caller.read("SELECT tenant FROM belljar_audit_heads ORDER BY tenant", arguments![]).await?;
        rows.iter().map(tenant_of).collect()
    }

    pub(crate) async fn add_checkpoint(&self, checkpoint: &Checkpoint) -> Result<bool, StoreError> {
        let sql = "WITH added AS (INSERT INTO belljar_audit_checkpoints VALUES ($1, $2, $3) ON CONFLICT DO NOTHING \
                 RETURNING 1) SELECT count(*) FROM added";
        let body = checkpoint.body();
        let arguments = arguments![checkpoint.tenant.as_str(), signed(checkpoint.sequence), body.as_slice()];
        Ok(count(self.caller.write(sql, arguments).await?)? == 1)
    }

    pub(crate) async fn checkpoints(
        &self,
        tenant: &Tenant,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.caller.read(CHECKPOINTS, arguments![tenant.as_str(), signed(after), limit]).await?;
        rows.iter().map(checkpoint).collect()
    }
}
