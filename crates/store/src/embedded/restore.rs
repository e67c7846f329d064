//! A backup, back into a file.

use std::sync::{Arc, Mutex, PoisonError};

use redb::{ReadableTableMetadata as _, WriteTransaction};

use super::format::{self, Parts};
use super::writer::failed;
use super::{AUDIT, AUDIT_ENDS, CHECKPOINTS, DATA_KEYS, ENDS, Embedded, META, RECORDS, USES, count_use};
use crate::audit::Stored;
use crate::backend::Raw;
use crate::backup::{Backup, Item, RestoreError, Source};
use crate::error::StoreError;

impl Embedded {
    /// Stores everything, when nothing is there.
    pub(crate) async fn restore(&self, mut source: Box<dyn Source>) -> Result<Backup, RestoreError> {
        let refused = Arc::new(Mutex::new(None));
        let told = Arc::clone(&refused);
        let work = move |transaction: &WriteTransaction| {
            restore(transaction, &mut *source).map_err(|error| {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                // Takes the transaction with it.
                StoreError::Failed("a backup was refused".into())
            })
        };
        self.writer.write(work, |_| ()).await.map_err(|error| {
            let refused = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
            refused.unwrap_or(RestoreError::Store(error))
        })
    }
}

fn restore(transaction: &WriteTransaction, source: &mut dyn Source) -> Result<Backup, RestoreError> {
    let mut records = transaction.open_table(RECORDS).map_err(failed)?;
    let mut ends = transaction.open_table(ENDS).map_err(failed)?;
    let mut data_keys = transaction.open_table(DATA_KEYS).map_err(failed)?;
    let mut uses = transaction.open_table(USES).map_err(failed)?;
    let mut audit = transaction.open_table(AUDIT).map_err(failed)?;
    let mut audit_ends = transaction.open_table(AUDIT_ENDS).map_err(failed)?;
    let mut checkpoints = transaction.open_table(CHECKPOINTS).map_err(failed)?;
    let mut meta = transaction.open_table(META).map_err(failed)?;
    let empty = records.is_empty().map_err(failed)?
        && data_keys.is_empty().map_err(failed)?
        && audit_ends.is_empty().map_err(failed)?;
    if !empty {
        return Err(RestoreError::NotEmpty);
    }
    let mut log = None;
    while let Some(item) = source.next()? {
        match item {
            Item::Start { revision, .. } => drop(meta.insert("revision", revision).map_err(failed)?),
            Item::DataKey(row) => drop(data_keys.insert(row.id, row.encode().as_slice()).map_err(failed)?),
            Item::Record(Raw { entry, sealed }) => {
                let key = format::key(&entry.id);
                let value = format::value(entry.revision, entry.expires, &sealed);
                records.insert(key.as_slice(), value.as_slice()).map_err(failed)?;
                if let Some(expires) = entry.expires {
                    ends.insert(format::end(expires, &key).as_slice(), ()).map_err(failed)?;
                }
                count_use(&mut uses, Parts::parse(&value).and_then(|parts| parts.data_key()), true)?;
            }
            Item::Log { tenant, sequence, hash } => {
                let end = [sequence.to_be_bytes().as_slice(), &hash].concat();
                audit_ends.insert(tenant.as_str(), end.as_slice()).map_err(failed)?;
                log = Some(tenant);
            }
            Item::Entry(Stored { sequence, hash, body }) => {
                let tenant = log.as_ref().ok_or(RestoreError::Cut)?;
                let key = format::numbered(tenant, sequence);
                audit.insert(key.as_slice(), [hash, body].concat().as_slice()).map_err(failed)?;
            }
            Item::Checkpoint { sequence, body } => {
                let tenant = log.as_ref().ok_or(RestoreError::Cut)?;
                let key = format::numbered(tenant, sequence);
                checkpoints.insert(key.as_slice(), body.as_slice()).map_err(failed)?;
            }
            Item::End { .. } => {}
        }
    }
    source.done()
}
