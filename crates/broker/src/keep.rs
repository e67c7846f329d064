//! Where a broker keeps what must outlive a request: in memory (a broker inside `belljar run`), or in a store that outlives
//! the process. One small interface for both; `belljar-store` seals the values of secret kinds.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use zeroize::Zeroizing;

/// What a record is about; the order is that of listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A tenant.
    Tenant,
    /// What is released to workloads; secret.
    Resource,
    /// Rules or Rego.
    Policy,
    /// A reference value.
    Reference,
    /// A registered workload; secret, as its own resources are in it.
    Workload,
    /// What is withdrawn.
    Revocation,
    /// Who may administer.
    Admin,
    /// A key of the broker's; secret.
    Key,
}

/// A value and the change that wrote it.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) key: String,
    pub(crate) revision: u64,
    pub(crate) value: Zeroizing<Vec<u8>>,
}

/// Why something was not kept, or is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// The key is no key.
    #[error("{0}")]
    Name(String),
    /// The store is away for now.
    #[error("the store is away ({0}): try again later")]
    Away(String),
    /// It has failed.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// The keeper.
#[derive(Default)]
pub(crate) struct Keep {
    memory: Mutex<Memory>,
}

/// Tenant, kind, key.
type Name = (String, Kind, String);

#[derive(Default)]
struct Memory {
    revision: u64,
    records: BTreeMap<Name, Held>,
}

struct Held {
    revision: u64,
    value: Zeroizing<Vec<u8>>,
}

impl Keep {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn get(&self, tenant: &str, kind: Kind, key: &str) -> Result<Option<Kept>, KeepError> {
        let memory = self.memory();
        let found = memory.records.get(&(tenant.to_owned(), kind, key.to_owned()));
        Ok(found.map(|held| Kept { key: key.to_owned(), revision: held.revision, value: held.value.clone() }))
    }

    /// Records whose keys start with `prefix` and come after `after`, in the order of their keys.
    pub(crate) async fn list(
        &self,
        tenant: &str,
        kind: Kind,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Kept>, KeepError> {
        let memory = self.memory();
        let first = (tenant.to_owned(), kind, after.unwrap_or_default().max(prefix).to_owned());
        let mine = memory
            .records
            .range(first..)
            .take_while(|((owner, of, key), _)| owner == tenant && *of == kind && key.starts_with(prefix));
        let behind = mine.filter(|((_, _, key), _)| after.is_none_or(|after| key.as_str() > after));
        let kept = |((_, _, key), held): (&Name, &Held)| Kept {
            key: key.clone(),
            revision: held.revision,
            value: held.value.clone(),
        };
        Ok(behind.take(limit).map(kept).collect())
    }

    pub(crate) async fn put(
        &self,
        tenant: &str,
        kind: Kind,
        key: &str,
        value: Zeroizing<Vec<u8>>,
    ) -> Result<u64, KeepError> {
        let mut memory = self.memory();
        memory.revision += 1;
        let revision = memory.revision;
        memory.records.insert((tenant.to_owned(), kind, key.to_owned()), Held { revision, value });
        Ok(revision)
    }

    /// Keeps a value where there is none; the one that is there then.
    pub(crate) async fn put_new(
        &self,
        tenant: &str,
        kind: Kind,
        key: &str,
        value: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, KeepError> {
        if let Some(kept) = self.get(tenant, kind, key).await? {
            return Ok(kept.value);
        }
        self.put(tenant, kind, key, value.clone()).await?;
        Ok(value)
    }

    /// A number that is greater than all before.
    pub(crate) async fn next_order(&self) -> Result<u64, KeepError> {
        let mut memory = self.memory();
        memory.revision += 1;
        Ok(memory.revision)
    }

    /// False when it was not there.
    pub(crate) async fn delete(&self, tenant: &str, kind: Kind, key: &str) -> Result<bool, KeepError> {
        Ok(self.memory().records.remove(&(tenant.to_owned(), kind, key.to_owned())).is_some())
    }
}
