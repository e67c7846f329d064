//! Where a broker keeps what must outlive a request: in memory (a broker inside `belljar run`), or in a file that outlives
//! the process. One small interface for both.

mod file;
mod memory;

pub(crate) use file::File;

use memory::Memory;
use std::sync::Arc;
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
    /// An entry of the audit log.
    Audit,
    /// A signed checkpoint of the audit log.
    Checkpoint,
}

impl Kind {
    /// As it is stored.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Tenant => 1,
            Self::Resource => 2,
            Self::Policy => 3,
            Self::Reference => 4,
            Self::Workload => 5,
            Self::Revocation => 6,
            Self::Admin => 7,
            Self::Key => 8,
            Self::Audit => 9,
            Self::Checkpoint => 10,
        }
    }
}

/// A value and the change that wrote it.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) key: String,
    pub(crate) revision: u64,
    pub(crate) value: Zeroizing<Vec<u8>>,
}

/// What is there, without its value.
pub(crate) struct Named {
    pub(crate) key: String,
    pub(crate) revision: u64,
    /// Length of the value.
    pub(crate) bytes: usize,
}

/// Why something was not kept, or is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// It has failed.
    #[error("store: {0}")]
    Failed(String),
}

/// The keeper. Clones are handles of the same one.
#[derive(Clone)]
pub(crate) enum Keep {
    /// For as long as the process lives.
    Memory(Arc<Memory>),
    /// In a file.
    File(File),
}

impl Default for Keep {
    fn default() -> Self {
        Self::Memory(Arc::default())
    }
}

impl Keep {
    pub(crate) async fn get(&self, tenant: &str, kind: Kind, key: &str) -> Result<Option<Kept>, KeepError> {
        match self {
            Self::Memory(memory) => Ok(memory.read(tenant, kind, key)),
            // A look-up in mapped pages: no thread of its own.
            Self::File(file) => file.read(tenant, kind, key),
        }
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
        match self {
            Self::Memory(memory) => Ok(memory.list(tenant, kind, prefix, after, limit)),
            Self::File(file) => {
                let (tenant, prefix, after) = (tenant.to_owned(), prefix.to_owned(), after.map(str::to_owned));
                blocking(file, move |file| file.list(&tenant, kind, &prefix, after.as_deref(), limit)).await
            }
        }
    }

    /// The same without the values: key, revision and length of each. Nothing is opened for it.
    pub(crate) async fn names(
        &self,
        tenant: &str,
        kind: Kind,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Named>, KeepError> {
        match self {
            Self::Memory(memory) => {
                let kept = memory.list(tenant, kind, prefix, after, limit).into_iter();
                Ok(kept.map(|one| Named { key: one.key, revision: one.revision, bytes: one.value.len() }).collect())
            }
            Self::File(file) => {
                let (tenant, prefix, after) = (tenant.to_owned(), prefix.to_owned(), after.map(str::to_owned));
                blocking(file, move |file| file.names(&tenant, kind, &prefix, after.as_deref(), limit)).await
            }
        }
    }

    pub(crate) async fn put(
        &self,
        tenant: &str,
        kind: Kind,
        key: &str,
        value: Zeroizing<Vec<u8>>,
    ) -> Result<u64, KeepError> {
        match self {
            Self::Memory(memory) => Ok(memory.write(tenant, kind, key, value)),
            Self::File(file) => {
                let (tenant, key) = (tenant.to_owned(), key.to_owned());
                blocking(file, move |file| file.write(&tenant, kind, &key, &value)).await
            }
        }
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

    /// Keeps several values together or not at all: tenant, key, value of each.
    pub(crate) async fn put_all(
        &self,
        kind: Kind,
        values: Vec<(String, String, Zeroizing<Vec<u8>>)>,
    ) -> Result<(), KeepError> {
        match self {
            Self::Memory(memory) => {
                for (tenant, key, value) in values {
                    memory.write(&tenant, kind, &key, value);
                }
                Ok(())
            }
            Self::File(file) => blocking(file, move |file| file.write_all(kind, &values)).await,
        }
    }

    /// A number that is greater than all before.
    pub(crate) async fn next_order(&self) -> Result<u64, KeepError> {
        match self {
            Self::Memory(memory) => Ok(memory.next()),
            Self::File(file) => blocking(file, File::next).await,
        }
    }

    /// False when it was not there.
    pub(crate) async fn delete(&self, tenant: &str, kind: Kind, key: &str) -> Result<bool, KeepError> {
        match self {
            Self::Memory(memory) => Ok(memory.delete(tenant, kind, key)),
            Self::File(file) => {
                let (tenant, key) = (tenant.to_owned(), key.to_owned());
                blocking(file, move |file| file.delete(&tenant, kind, &key)).await
            }
        }
    }
}

/// Waits for the disk on a thread that may wait.
async fn blocking<T: Send + 'static>(
    file: &File,
    work: impl FnOnce(&File) -> Result<T, KeepError> + Send + 'static,
) -> Result<T, KeepError> {
    let file = file.clone();
    let done = tokio::task::spawn_blocking(move || work(&file)).await;
    done.map_err(|e| KeepError::Failed(e.to_string()))?
}
