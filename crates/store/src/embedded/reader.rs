//! What a file held at one moment.

use std::collections::HashMap;
use std::ops::Bound;

use redb::{ReadTransaction, ReadableTable as _};

use super::format::{self, Parts};
use super::writer::failed;
use super::{AUDIT, AUDIT_ENDS, CHECKPOINTS, DATA_KEYS, META, RECORDS, Table, USES};
use crate::audit::{Hash, Stored};
use crate::backend::{Paged, Raw};
use crate::error::StoreError;
use crate::record::{Entry, Id, MAX_BATCH_BYTES, MAX_PAGE, Query, Tenant, Time};
use crate::seal::DataKeyRow;

/// Everything that was committed when this was made.
pub(crate) struct Reader(pub(super) ReadTransaction);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn get(&self, id: &Id) -> Result<Option<Raw>, StoreError> {
        let records = self.0.open_table(RECORDS).map_err(failed)?;
        let Some(found) = records.get(format::key(id).as_slice()).map_err(failed)? else { return Ok(None) };
        let parts = Parts::parse(found.value()).ok_or_else(|| malformed_value(id))?;
        Ok(Some(Raw { entry: parts.entry(id.clone()), sealed: parts.sealed.to_vec() }))
    }

    pub(crate) fn list(&self, query: &Query, now: Time) -> Result<Paged<Raw, String>, StoreError> {
        self.page(query, now, |entry, parts| Raw { entry, sealed: parts.sealed.to_vec() }, |raw| raw.sealed.len())
    }

    pub(crate) fn names(&self, query: &Query, now: Time) -> Result<Paged<Entry, String>, StoreError> {
        self.page(query, now, |entry, _| entry, |_| 0)
    }

    fn page<T>(
        &self,
        query: &Query,
        now: Time,
        make: impl Fn(Entry, &Parts<'_>) -> T,
        weight: impl Fn(&T) -> usize,
    ) -> Result<Paged<T, String>, StoreError> {
        let records = self.0.open_table(RECORDS).map_err(failed)?;
        let (prefix, after) = format::range(query);
        let from = match &after {
            Some(after) if *after >= prefix => Bound::Excluded(after.as_slice()),
            _ => Bound::Included(prefix.as_slice()),
        };
        let (mut page, mut bytes, mut last) = (Vec::new(), 0_usize, None);
        for item in records.range::<&[u8]>((from, Bound::Unbounded)).map_err(failed)? {
            let (key, value) = item.map_err(failed)?;
            if !key.value().starts_with(&prefix) {
                return Ok((page, None));
            }
            let id = format::id(key.value()).ok_or_else(|| malformed_key(key.value()))?;
            let parts = Parts::parse(value.value()).ok_or_else(|| malformed_value(&id))?;
            if parts.gone(now) {
                continue;
            }
            if page.len() >= query.page() || bytes >= MAX_BATCH_BYTES {
                return Ok((page, last));
            }
            last = Some(id.key().to_owned());
            let item = make(parts.entry(id), &parts);
            bytes = bytes.saturating_add(weight(&item));
            page.push(item);
        }
        Ok((page, None))
    }

    pub(crate) fn data_keys(&self, tenant: Option<&Tenant>) -> Result<Vec<DataKeyRow>, StoreError> {
        let table = self.0.open_table(DATA_KEYS).map_err(failed)?;
        let mut rows = Vec::new();
        for item in table.iter().map_err(failed)? {
            let (id, bytes) = item.map_err(failed)?;
            let row = data_key_row(id.value(), bytes.value())?;
            if tenant.is_none_or(|tenant| row.tenant == *tenant) {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    pub(crate) fn key_uses(&self) -> Result<HashMap<u64, u64>, StoreError> {
        let table = self.0.open_table(USES).map_err(failed)?;
        let items = table.iter().map_err(failed)?;
        items.map(|item| item.map(|(id, count)| (id.value(), count.value()))).collect::<Result<_, _>>().map_err(failed)
    }

    pub(crate) fn outdated(&self, after: Option<&Id>) -> Result<Paged<Raw, Id>, StoreError> {
        let active: Vec<u64> = self.data_keys(None)?.into_iter().filter(|row| row.active).map(|row| row.id).collect();
        let records = self.0.open_table(RECORDS).map_err(failed)?;
        let after = after.map(format::key);
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut page, mut bytes) = (Vec::new(), 0_usize);
        // Looks at a bounded part of the records at a time.
        for (seen, item) in records.range::<&[u8]>((from, Bound::Unbounded)).map_err(failed)?.enumerate() {
            let (key, value) = item.map_err(failed)?;
            let id = format::id(key.value()).ok_or_else(|| malformed_key(key.value()))?;
            let parts = Parts::parse(value.value()).ok_or_else(|| malformed_value(&id))?;
            let outdated = parts.data_key().is_some_and(|key| !active.contains(&key));
            if outdated {
                bytes = bytes.saturating_add(parts.sealed.len());
                page.push(Raw { entry: parts.entry(id.clone()), sealed: parts.sealed.to_vec() });
            }
            if seen >= MAX_PAGE || bytes >= MAX_BATCH_BYTES {
                return Ok((page, Some(id)));
            }
        }
        Ok((page, None))
    }

    pub(crate) fn audit_entries(&self, tenant: &Tenant, after: u64, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let items = self.numbered(AUDIT, tenant, after, limit)?;
        let entry = |(sequence, mut hash): (u64, Vec<u8>)| {
            let body = hash.split_off(hash.len().min(32));
            Stored { sequence, hash, body }
        };
        Ok(items.into_iter().map(entry).collect())
    }

    pub(crate) fn audit_end(&self, tenant: &Tenant) -> Result<Option<(u64, Hash)>, StoreError> {
        let ends = self.0.open_table(AUDIT_ENDS).map_err(failed)?;
        let end = ends.get(tenant.as_str()).map_err(failed)?;
        end.map(|end| audit_end(tenant, end.value())).transpose()
    }

    pub(crate) fn audit_tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        let ends = self.0.open_table(AUDIT_ENDS).map_err(failed)?;
        let mut tenants = Vec::new();
        for item in ends.iter().map_err(failed)? {
            let tenant = Tenant::new(item.map_err(failed)?.0.value());
            tenants.push(tenant.map_err(|error| StoreError::Malformed(error.to_string()))?);
        }
        Ok(tenants)
    }

    pub(crate) fn checkpoints(
        &self,
        tenant: &Tenant,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.numbered(CHECKPOINTS, tenant, after, limit)
    }

    /// Items of a tenant behind a number, in order.
    fn numbered(
        &self,
        table: Table,
        tenant: &Tenant,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let table = self.0.open_table(table).map_err(failed)?;
        let from = format::numbered(tenant, after);
        let to = format::numbered(tenant, u64::MAX);
        let range = (Bound::Excluded(from.as_slice()), Bound::Included(to.as_slice()));
        let mut items = Vec::new();
        for item in table.range::<&[u8]>(range).map_err(failed)?.take(limit) {
            let (key, value) = item.map_err(failed)?;
            let number = key.value().last_chunk().copied().map(u64::from_be_bytes);
            let number = number.ok_or_else(|| malformed_key(key.value()))?;
            items.push((number, value.value().to_vec()));
        }
        Ok(items)
    }

    /// Number and hash of the last entry of each log.
    pub(crate) fn audit_ends(&self) -> Result<Vec<(Tenant, u64, Hash)>, StoreError> {
        let mut ends = Vec::new();
        for tenant in self.audit_tenants()? {
            if let Some((sequence, hash)) = self.audit_end(&tenant)? {
                ends.push((tenant, sequence, hash));
            }
        }
        Ok(ends)
    }

    /// All records in order, behind `after`.
    pub(crate) fn records(&self, after: Option<&Id>) -> Result<Paged<Raw, Id>, StoreError> {
        let records = self.0.open_table(RECORDS).map_err(failed)?;
        let after = after.map(format::key);
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut page, mut bytes) = (Vec::new(), 0_usize);
        for item in records.range::<&[u8]>((from, Bound::Unbounded)).map_err(failed)? {
            let (key, value) = item.map_err(failed)?;
            let id = format::id(key.value()).ok_or_else(|| malformed_key(key.value()))?;
            let parts = Parts::parse(value.value()).ok_or_else(|| malformed_value(&id))?;
            bytes = bytes.saturating_add(parts.sealed.len());
            page.push(Raw { entry: parts.entry(id.clone()), sealed: parts.sealed.to_vec() });
            if page.len() >= MAX_PAGE || bytes >= MAX_BATCH_BYTES {
                return Ok((page, Some(id)));
            }
        }
        Ok((page, None))
    }

    /// The last change.
    pub(crate) fn revision(&self) -> Result<u64, StoreError> {
        let meta = self.0.open_table(META).map_err(failed)?;
        Ok(meta.get("revision").map_err(failed)?.map_or(0, |last| last.value()))
    }
}

pub(super) fn audit_end(tenant: &Tenant, end: &[u8]) -> Result<(u64, Hash), StoreError> {
    let parts = end.split_first_chunk().and_then(|(number, hash)| Some((number, hash.try_into().ok()?)));
    let (number, hash) =
        parts.ok_or_else(|| StoreError::Malformed(format!("the end of {tenant}'s audit log in an unknown form")))?;
    Ok((u64::from_be_bytes(*number), hash))
}

pub(super) fn data_key_row(id: u64, bytes: &[u8]) -> Result<DataKeyRow, StoreError> {
    let row = DataKeyRow::decode(bytes).filter(|row| row.id == id);
    row.ok_or_else(|| StoreError::Malformed(format!("data key {id:016x} of an unknown form")))
}

pub(super) fn malformed_value(id: &Id) -> StoreError {
    StoreError::Malformed(format!("{id} of an unknown form"))
}

pub(super) fn malformed_key(key: &[u8]) -> StoreError {
    StoreError::Malformed(format!("a record with key {}", hex::encode(key.get(..64).unwrap_or(key))))
}
