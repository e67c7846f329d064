//! The audit log: append-only, hash-chained, with signed checkpoints; one log for each tenant.

mod checkpoint;
mod entry;
mod export;
mod log;
mod verify;

pub use checkpoint::{AuditKey, AuditKeyError, AuditKeyId, AuditPublicKey, Checkpoint};
pub use entry::{AuditEntry, Event, EventError, Hash, MAX_BODY, MAX_DETAILS, MAX_TEXT};
pub(crate) use entry::{chain, genesis};
pub use export::{ExportError, verify_export};
pub(crate) use log::Stored;
pub use log::{Audit, AuditError, Follow};
pub(crate) use verify::Verifier;
pub use verify::{Broken, Verified};

/// For the fuzzer: everything that is read back of a log.
pub(crate) fn fuzz(data: &[u8]) {
    entry::fuzz(data);
    export::fuzz(data);
    if let Ok(tenant) = crate::Tenant::new("fuzz")
        && let Some(checkpoint) = Checkpoint::parse(&tenant, 1, data)
    {
        assert_eq!(checkpoint.body(), data);
    }
}
