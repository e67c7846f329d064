//! Why an operation did not happen.

use std::fmt;

use crate::record::{BatchError, Expected, Id};
use crate::seal::{KeyError, SealedError};

/// A precondition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Of which record.
    pub id: Id,
    /// What had to hold.
    pub expected: Expected,
    /// The revision in which the record is, when it is there.
    pub found: Option<u64>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, expected, found } = self;
        match found {
            Some(found) => write!(f, "{id} is in revision {found}, expected {expected}"),
            None => write!(f, "{id} is absent, expected {expected}"),
        }
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A precondition of a batch does not hold. Nothing was changed.
    #[error("{0}: read it again")]
    Conflict(Box<Conflict>),
    /// The batch cannot be applied to any store.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The store cannot be reached. Nothing was changed; it may be asked again later.
    #[error("the store is away ({0}): try again later")]
    Away(String),
    /// The store went away while a change was under way. The change was made as a whole, or not at all.
    #[error(
        "the store went away during a change ({0}), which was made as a whole or not at all: read before trying again"
    )]
    Unknown(String),
    /// A record is not what was stored under this name: it was changed, moved or cut outside of this program.
    #[error("{what} was not written here ({why}): restore from a backup")]
    Damaged {
        /// What is damaged.
        what: String,
        /// How that shows.
        why: SealedError,
    },
    /// What the store holds has no form that this version knows.
    #[error(
        "the store holds {0}, which this version cannot read: restore from a backup, or use the version that wrote it"
    )]
    Malformed(String),
    /// A key that seals values cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The medium failed. The process has to open the store anew.
    #[error("the store failed ({0}): check disk and database, then start again")]
    Failed(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later without anybody doing anything here, and surely changed nothing.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Key(KeyError::Away { .. }))
    }
}

/// Why a store cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("{0} is in use by another process: stop it first, or use PostgreSQL for several replicas")]
    InUse(String),
    /// Others may read or write it.
    #[error("{path} has mode {mode:03o}, others may read or write it: chmod {expected:03o}, and find out who did")]
    Open {
        /// The file or directory.
        path: String,
        /// Its mode.
        mode: u32,
        /// What it has to be.
        expected: u32,
    },
    /// Not a store of ours.
    #[error("{0} is not a store: name another file, or remove it")]
    Foreign(String),
    /// Written by another version.
    #[error(
        "{path} has format {found}, this version reads format {expected}: use the version that wrote it, or restore a backup of it"
    )]
    Format {
        /// The store.
        path: String,
        /// Its format.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// A file cannot be opened.
    #[error("cannot open {path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What failed.
        why: String,
    },
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}
