//! The durable state of a broker: sealed records in a file or in PostgreSQL.
//!
//! A [`Store`] holds records, named by tenant, kind and key ([`Id`]); each has a value and a revision. Reads see what was
//! committed; [`Store::apply`] makes changes together or not at all, under preconditions. Every value is sealed
//! (`docs/broker-store.md`).
#![forbid(unsafe_code)]

pub mod audit;
mod backend;
mod backup;
mod embedded;
mod error;
mod postgres;
mod record;
mod seal;
mod state;
mod store;
mod watch;

pub use backup::{Backup, BackupError, RestoreError, verify_backup};
pub use error::{Conflict, OpenError, StoreError};
pub use postgres::{PostgresOptions, UrlError};
pub use record::{
    Batch, BatchError, Entry, Expected, Id, Kind, MAX_BATCH, MAX_BATCH_BYTES, MAX_KEY, MAX_PAGE, MAX_TENANT, MAX_VALUE,
    NameError, Query, Record, Tenant, Time,
};
pub use seal::{
    DataKey, FileKey, FileKeyError, KeyError, KeyId, KeyIdError, KeyProvider, KeyUse, Keys, MAX_KEY_ID, MAX_WRAPPED,
    OVERHEAD, SealedError,
};
pub use store::{Location, Page, RetireError, Rewrapped, Store};
pub use watch::{Change, Event, Watch};

/// For the fuzzer: everything that is read back from a medium.
#[doc(hidden)]
pub fn fuzz_stored(data: &[u8]) {
    embedded::fuzz(data);
    audit::fuzz(data);
    postgres::fuzz(data);
    seal::fuzz(data);
}

/// For the fuzzer: the file of a backup, and what is in it.
#[doc(hidden)]
pub fn fuzz_backup(data: &[u8]) {
    backup::fuzz(data);
}
