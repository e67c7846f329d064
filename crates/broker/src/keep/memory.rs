//! A keeper for as long as the process lives.

use super::{Kept, Kind};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use zeroize::Zeroizing;

/// Tenant, kind, key.
type Name = (String, Kind, String);

/// The keeper.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Records>);

#[derive(Default)]
struct Records {
    revision: u64,
    held: BTreeMap<Name, Held>,
}

struct Held {
    revision: u64,
    value: Zeroizing<Vec<u8>>,
}

impl Memory {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self, tenant: &str, kind: Kind, key: &str) -> Option<Kept> {
        let records = self.records();
        let held = records.held.get(&(tenant.to_owned(), kind, key.to_owned()))?;
        Some(Kept { key: key.to_owned(), revision: held.revision, value: held.value.clone() })
    }

    pub(crate) fn list(&self, tenant: &str, kind: Kind, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Kept> {
        let records = self.records();
        let first = (tenant.to_owned(), kind, after.unwrap_or_default().max(prefix).to_owned());
        let mine = records
            .held
            .range(first..)
            .take_while(|((owner, of, key), _)| owner == tenant && *of == kind && key.starts_with(prefix));
        let behind = mine.filter(|((_, _, key), _)| after.is_none_or(|after| key.as_str() > after));
        let kept = |((_, _, key), held): (&Name, &Held)| Kept {
            key: key.clone(),
            revision: held.revision,
            value: held.value.clone(),
        };
        behind.take(limit).map(kept).collect()
    }

    /// A revision that nothing has.
    pub(crate) fn next(&self) -> u64 {
        let mut records = self.records();
        records.revision += 1;
        records.revision
    }

    pub(crate) fn write(&self, tenant: &str, kind: Kind, key: &str, value: Zeroizing<Vec<u8>>) -> u64 {
        let mut records = self.records();
        records.revision += 1;
        let revision = records.revision;
        records.held.insert((tenant.to_owned(), kind, key.to_owned()), Held { revision, value });
        revision
    }

    pub(crate) fn delete(&self, tenant: &str, kind: Kind, key: &str) -> bool {
        self.records().held.remove(&(tenant.to_owned(), kind, key.to_owned())).is_some()
    }
}
