//! A backup: everything that a store holds in one file, sealed as a whole; and the way back into an empty store.
//!
//! Values are in it as they are stored, so whoever restores them needs the same key-encryption keys; the file itself is
//! sealed with a key of its own, which the current key-encryption key wraps. It shows neither names nor numbers.

mod item;
mod stream;

pub(crate) use item::Item;

use std::collections::HashSet;
use std::io::Read;

use tokio::io::AsyncWrite;

use crate::audit::{Broken, Checkpoint, Hash, Verifier};
use crate::error::StoreError;
use crate::record::{Id, Tenant, Time};
use crate::seal::{KeyError, KeyId, Keys, Sealed};
use crate::state::StateHasher;
use crate::store::Store;
use stream::{Header, Reader, Writer};

/// Why a backup was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// It cannot be written.
    #[error("cannot write the backup: {0}")]
    Io(#[from] std::io::Error),
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a backup was not restored. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It cannot be read.
    #[error("cannot read the backup: {0}")]
    Io(#[from] std::io::Error),
    /// Another file, or a header that was changed.
    #[error("this is not a backup of a belljar store, or its header was changed: name another file")]
    Foreign,
    /// It ends too early.
    #[error("the backup ends before its end: it was cut, use another copy")]
    Cut,
    /// A part of it was changed.
    #[error("chunk {0} of the backup was changed, moved or added, or is of another backup: use another copy")]
    Changed(u64),
    /// Its key is wrapped by a key that is not configured.
    #[error("the backup is sealed with key {0}, which is not configured: configure it as a previous key")]
    NotConfigured(KeyId),
    /// Its key does not open.
    #[error("the backup's key does not open with key {0}: it was changed, or the key is another one of that name")]
    Wrapped(KeyId),
    /// It holds something that this version does not know.
    #[error("the backup holds {0}, which this version cannot read: use the version that wrote it")]
    Malformed(String),
    /// A log in it is broken.
    #[error("the audit log of {tenant} in the backup is broken: {broken}")]
    Log {
        /// Whose.
        tenant: Tenant,
        /// How.
        broken: Broken,
    },
    /// Its records do not have the hash that it says.
    #[error("the state hash of what the backup holds is {found}, expected {expected}: use another copy")]
    State {
        /// Hash that the backup says, lowercase hex.
        expected: String,
        /// Hash of its content, lowercase hex.
        found: String,
    },
    /// There is something in the store.
    #[error("the store is not empty: restore into a new one")]
    NotEmpty,
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// When it was made.
    pub time: Time,
    /// Records.
    pub records: u64,
    /// Entries of all audit logs.
    pub entries: u64,
    /// The state hash of the store at that moment.
    pub state: Hash,
}

impl Store {
    /// Writes everything that the store holds now, while it goes on working. Returns what is in it, and the number of its
    /// bytes.
    pub async fn backup(&self, out: impl AsyncWrite + Unpin, now: Time) -> Result<(Backup, u64), BackupError> {
        let keys = self.keys();
        let mut writer = Writer::new(out, &**keys.current()).await?;
        let mut snapshot = self.backend().snapshot().await?;
        let mut state = StateHasher::new();
        writer.write(&Item::Start { time: now, revision: snapshot.revision().await? }.encode()).await?;
        for row in snapshot.data_keys().await? {
            writer.write(&Item::DataKey(row).encode()).await?;
        }
        let mut after: Option<Id> = None;
        loop {
            let (page, next) = snapshot.records(after.as_ref()).await?;
            for raw in page {
                state.record(&raw);
                writer.write(&Item::Record(raw).encode()).await?;
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut entries = 0_u64;
        for (tenant, sequence, hash) in snapshot.audit_ends().await? {
            state.log(&tenant, sequence, &hash);
            writer.write(&Item::Log { tenant: tenant.clone(), sequence, hash }.encode()).await?;
            let mut after = 0;
            loop {
                let page = snapshot.audit_entries(&tenant, after).await?;
                let Some(last) = page.last() else { break };
                after = last.sequence;
                for stored in page {
                    entries = entries.saturating_add(1);
                    writer.write(&Item::Entry(stored).encode()).await?;
                }
            }
            let mut after = 0;
            loop {
                let page = snapshot.checkpoints(&tenant, after).await?;
                let Some((last, _)) = page.last() else { break };
                after = *last;
                for (sequence, body) in page {
                    writer.write(&Item::Checkpoint { sequence, body }.encode()).await?;
                }
            }
        }
        let (records, state) = state.finish();
        writer.write(&Item::End { records, entries, state }.encode()).await?;
        let bytes = writer.end().await?;
        Ok((Backup { time: now, records, entries, state }, bytes))
    }

    /// Restores a backup into this store, in which nothing may be. It is there as a whole, or not at all.
    pub async fn restore<R: Read + Send + 'static>(&self, input: R) -> Result<Backup, RestoreError> {
        let items = open(input, &self.keys()).await?;
        let backup = self.backend().restore(Box::new(items)).await?;
        self.reload();
        Ok(backup)
    }
}

/// Reads a whole backup and checks everything that a restore would, without a store.
pub async fn verify_backup<R: Read + Send + 'static>(input: R, keys: &Keys) -> Result<Backup, RestoreError> {
    let mut items = open(input, keys).await?;
    let read = tokio::task::spawn_blocking(move || {
        while items.next()?.is_some() {}
        items.done()
    });
    read.await.map_err(|error| RestoreError::Store(StoreError::Failed(error.to_string())))?
}

async fn open<R: Read + Send + 'static>(mut input: R, keys: &Keys) -> Result<Items<R>, RestoreError> {
    let header = tokio::task::spawn_blocking(move || Header::read(&mut input).map(|header| (header, input)));
    let header = header.await.map_err(|error| RestoreError::Store(StoreError::Failed(error.to_string())))?;
    let (header, input) = header?;
    let provider = keys.named(&header.key_id).ok_or_else(|| RestoreError::NotConfigured(header.key_id.clone()))?;
    let key = header.unwrap(&**provider).await?;
    Ok(Items::new(Reader::new(input, header, &key)?))
}

/// The items of a backup, checked on the way. A medium takes them one after the other and keeps them when
/// [`Source::done`] says that it has seen all.
pub(crate) trait Source: Send {
    /// The next item that is to be stored; `None` at the end.
    fn next(&mut self) -> Result<Option<Item>, RestoreError>;
    /// What it was, when the end was reached and everything is right.
    fn done(&self) -> Result<Backup, RestoreError>;
}

struct Items<R> {
    reader: Reader<R>,
    state: StateHasher,
    time: Option<Time>,
    revision: u64,
    data_keys: HashSet<u64>,
    /// Tenants with an active data key.
    active: HashSet<Tenant>,
    last: Option<Id>,
    entries: u64,
    log: Option<OpenLog>,
    done: Option<Backup>,
}

struct OpenLog {
    tenant: Tenant,
    sequence: u64,
    hash: Hash,
    verifier: Verifier,
    checkpoint: u64,
}

impl<R: Read + Send> Items<R> {
    fn new(reader: Reader<R>) -> Self {
        Self {
            reader,
            state: StateHasher::new(),
            time: None,
            revision: 0,
            data_keys: HashSet::new(),
            active: HashSet::new(),
            last: None,
            entries: 0,
            log: None,
            done: None,
        }
    }

    fn read(&mut self) -> Result<Item, RestoreError> {
        let head = self.reader.take(5)?;
        let (letter, length) = head.split_first().ok_or(RestoreError::Cut)?;
        let length = length.try_into().map_or(u32::MAX, u32::from_be_bytes);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > item::MAX_ITEM {
            return Err(item::malformed(*letter));
        }
        let bytes = self.reader.take(length)?;
        Item::decode(*letter, &bytes).ok_or_else(|| item::malformed(*letter))
    }

    /// The log whose entries came is at its end.
    fn end_log(&mut self) -> Result<(), RestoreError> {
        let Some(OpenLog { tenant, sequence, hash, verifier, .. }) = self.log.take() else { return Ok(()) };
        verifier.end(sequence, &hash).map_err(|broken| RestoreError::Log { tenant, broken })?;
        Ok(())
    }

    fn check(&mut self, item: &Item) -> Result<(), RestoreError> {
        let misplaced = || Err(RestoreError::Malformed(format!("{} in a wrong place", item.name())));
        match item {
            Item::Start { time, revision } if self.time.is_none() => {
                (self.time, self.revision) = (Some(*time), *revision);
            }
            _ if self.time.is_none() => return misplaced(),
            Item::DataKey(row) if self.last.is_none() && self.log.is_none() => {
                if !self.data_keys.insert(row.id) || (row.active && !self.active.insert(row.tenant.clone())) {
                    return misplaced();
                }
            }
            Item::Record(raw) if self.log.is_none() => {
                let sealed =
                    Sealed::parse(&raw.sealed).map_err(|why| RestoreError::Malformed(format!("{why} in it")))?;
                let known = self.data_keys.contains(&sealed.data_key) && raw.entry.revision <= self.revision;
                if !known || self.last.as_ref().is_some_and(|last| *last >= raw.entry.id) {
                    return misplaced();
                }
                self.state.record(raw);
                self.last = Some(raw.entry.id.clone());
            }
            Item::Log { tenant, sequence, hash } => {
                if self.log.as_ref().is_some_and(|log| log.tenant >= *tenant) {
                    return misplaced();
                }
                self.end_log()?;
                self.state.log(tenant, *sequence, hash);
                let verifier = Verifier::new(tenant, [], &[]);
                let verifier = verifier.map_err(|broken| RestoreError::Log { tenant: tenant.clone(), broken })?;
                let (tenant, sequence, hash) = (tenant.clone(), *sequence, *hash);
                self.log = Some(OpenLog { tenant, sequence, hash, verifier, checkpoint: 0 });
            }
            Item::Entry(stored) => {
                let Some(log) = self.log.as_mut().filter(|log| log.checkpoint == 0) else { return misplaced() };
                let hash: Hash = stored.hash.as_slice().try_into().unwrap_or_default();
                let checked = log.verifier.entry(stored.sequence, &hash, &stored.body);
                checked.map_err(|broken| RestoreError::Log { tenant: log.tenant.clone(), broken })?;
                self.entries = self.entries.saturating_add(1);
            }
            Item::Checkpoint { sequence, body } => {
                let Some(log) = self.log.as_mut().filter(|log| log.checkpoint < *sequence) else { return misplaced() };
                if Checkpoint::parse(&log.tenant, *sequence, body).is_none() {
                    return Err(item::malformed(b'C'));
                }
                log.checkpoint = *sequence;
            }
            Item::End { records, entries, state } => {
                self.end_log()?;
                self.reader.end()?;
                let time = self.time.unwrap_or(Time::MAX);
                let (found_records, found) = std::mem::take(&mut self.state).finish();
                if found != *state || found_records != *records || self.entries != *entries {
                    let (expected, found) = (hex::encode(state), hex::encode(found));
                    return Err(RestoreError::State { expected, found });
                }
                self.done = Some(Backup { time, records: *records, entries: *entries, state: *state });
            }
            Item::Start { .. } | Item::DataKey(_) | Item::Record(_) => return misplaced(),
        }
        Ok(())
    }
}

impl<R: Read + Send> Source for Items<R> {
    fn next(&mut self) -> Result<Option<Item>, RestoreError> {
        if self.done.is_some() {
            return Ok(None);
        }
        let item = self.read()?;
        self.check(&item)?;
        Ok(if self.done.is_some() { None } else { Some(item) })
    }

    fn done(&self) -> Result<Backup, RestoreError> {
        self.done.ok_or(RestoreError::Cut)
    }
}

/// For the fuzzer: the header of any bytes, the stream behind it as if its key were known, and items of any bytes as if
/// they had been sealed.
pub(crate) fn fuzz(data: &[u8]) {
    item::fuzz(data);
    let mut input = data;
    let Ok(key) = crate::FileKey::new(&std::array::from_fn(|n| u8::try_from(n).unwrap_or(0))) else { return };
    if let Ok(header) = Header::read(&mut input)
        && let Ok(reader) = Reader::new(input, header, &crate::DataKey::from_bytes([7; 32]))
    {
        assert!(Items::new(reader).next().is_err());
    }
    // The same bytes as the content of a genuine file.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    let mut file = Vec::new();
    let sealed = runtime.block_on(async {
        let mut writer = Writer::new(&mut file, &key).await?;
        writer.write(data).await?;
        writer.end().await
    });
    if sealed.is_err() {
        return;
    }
    let mut input = file.as_slice();
    let Ok(header) = Header::read(&mut input) else { return };
    let Ok(inner) = runtime.block_on(header.unwrap(&key)) else { return };
    if let Ok(reader) = Reader::new(input, header, &inner) {
        let mut items = Items::new(reader);
        while let Ok(Some(_)) = items.next() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Event, Stored, chain, genesis};
    use crate::backend::Raw;
    use crate::record::{Entry, Kind};
    use crate::seal::{DataKeyRow, OpenKey};

    /// The items of a small store: what a genuine backup holds.
    fn items() -> Vec<Item> {
        let (acme, other) = (Tenant::new("acme").unwrap(), Tenant::new("b").unwrap());
        let now = Time::from_secs(1_700_000_000);
        let row = |id, tenant: &Tenant| DataKeyRow {
            id,
            tenant: tenant.clone(),
            key_id: KeyId::new("file:00").unwrap(),
            wrapped: vec![1; 60],
            created: now,
            active: true,
        };
        let record = |tenant: &Tenant, kind, key, data_key| {
            let id = Id::new(tenant, kind, key).unwrap();
            let open = OpenKey::new(data_key, &crate::DataKey::from_bytes([3; 32])).unwrap();
            let sealed = open.seal(&id, Some(now), b"value").unwrap();
            Item::Record(Raw { entry: Entry { id, revision: 3, expires: Some(now) }, sealed })
        };
        let body = Event::new(now, "admin", "put", "a", "done").body().unwrap();
        let first = chain(&genesis(&acme), 1, &body);
        let second = chain(&first, 2, &body);
        let checkpoint = crate::audit::AuditKey::generate().unwrap().0.sign(&acme, 2, second, now).unwrap();
        let mut items = vec![
            Item::Start { time: now, revision: 4 },
            Item::DataKey(row(5, &acme)),
            Item::DataKey(row(6, &other)),
            record(&acme, Kind::Resource, "a", 5),
            record(&acme, Kind::Policy, "a", 5),
            record(&other, Kind::Resource, "a", 6),
            Item::Log { tenant: acme, sequence: 2, hash: second },
            Item::Entry(Stored { sequence: 1, hash: first.to_vec(), body: body.clone() }),
            Item::Entry(Stored { sequence: 2, hash: second.to_vec(), body }),
            Item::Checkpoint { sequence: 2, body: checkpoint.body() },
            Item::Log { tenant: other.clone(), sequence: 0, hash: genesis(&other) },
        ];
        let end = end(&items);
        items.push(end);
        items
    }

    /// The end that fits.
    fn end(items: &[Item]) -> Item {
        let mut state = StateHasher::new();
        let mut entries = 0;
        for item in items {
            match item {
                Item::Record(raw) => state.record(raw),
                Item::Log { tenant, sequence, hash } => state.log(tenant, *sequence, hash),
                Item::Entry(_) => entries += 1,
                _ => {}
            }
        }
        let (records, state) = state.finish();
        Item::End { records, entries, state }
    }

    async fn read(items: &[Item]) -> Result<Backup, RestoreError> {
        let keys = Keys::new(std::sync::Arc::new(crate::FileKey::new(&[9; 32]).unwrap()));
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, &**keys.current()).await.unwrap();
        for item in items {
            writer.write(&item.encode()).await.unwrap();
        }
        writer.end().await.unwrap();
        verify_backup(std::io::Cursor::new(file), &keys).await
    }

    #[tokio::test]
    async fn items_come_in_order_and_fit_together() {
        let good = items();
        assert_eq!(read(&good).await.unwrap().records, 3);
        for item in &good {
            let bytes = item.encode();
            assert_eq!(Item::decode(bytes[0], &bytes[5..]).as_ref(), Some(item));
        }
        let with = |make: &dyn Fn(&mut Vec<Item>)| {
            let mut items = good.clone();
            make(&mut items);
            items
        };
        let misplaced = async |what: &str, make: &dyn Fn(&mut Vec<Item>)| match read(&with(make)).await {
            Err(RestoreError::Malformed(why)) => assert_eq!(why, format!("{what} in a wrong place")),
            other => panic!("{what}: {other:?}"),
        };
        misplaced("a data key", &|items| drop(items.remove(0))).await;
        misplaced("a start", &|items| items.insert(1, items[0].clone())).await;
        misplaced("a data key", &|items| items.insert(2, items[1].clone())).await;
        misplaced("a data key", &|items| items.swap(2, 3)).await;
        misplaced("a record", &|items| items.swap(3, 4)).await;
        misplaced("a record", &|items| items.insert(4, items[3].clone())).await;
        misplaced("a record", &|items| drop(items.remove(2))).await;
        misplaced("a record", &|items| items[0] = Item::Start { time: Time::MAX, revision: 2 }).await;
        misplaced("a record", &|items| items.swap(5, 6)).await;
        misplaced("an audit entry", &|items| drop(items.remove(6))).await;
        misplaced("an audit entry", &|items| items.swap(8, 9)).await;
        misplaced("a checkpoint", &|items| items.insert(10, items[9].clone())).await;
        misplaced("a log", &|items| items.insert(11, items[6].clone())).await;
        // Two active data keys of a tenant.
        misplaced("a data key", &|items| {
            if let (Item::DataKey(first), Item::DataKey(second)) = (items[1].clone(), &mut items[2]) {
                second.tenant = first.tenant;
            }
        })
        .await;

        // Logs that are broken, each in its own way.
        let log = async |make: &dyn Fn(&mut Vec<Item>)| match read(&with(make)).await {
            Err(RestoreError::Log { broken, .. }) => broken,
            other => panic!("{other:?}"),
        };
        assert_eq!(log(&|items| drop(items.remove(7))).await, Broken::Place { expected: 1, found: 2 });
        let truncated = Broken::Truncated { missing: 2, to: 2, by: "the log's end" };
        assert_eq!(log(&|items| drop(items.drain(8..10))).await, truncated);
        let changed = log(&|items| {
            if let Item::Entry(stored) = &mut items[8] {
                stored.hash[0] ^= 1;
            }
        });
        assert_eq!(changed.await, Broken::Changed(2));

        // What is left out is missing in the hash.
        let state = read(&with(&|items| drop(items.remove(5)))).await;
        assert!(matches!(state, Err(RestoreError::State { .. })), "{state:?}");
        let state = read(&with(&|items| drop(items.remove(10)))).await;
        assert!(matches!(state, Err(RestoreError::State { .. })), "{state:?}");
        let cut = read(&good[..good.len() - 1]).await;
        assert!(matches!(cut, Err(RestoreError::Cut)), "{cut:?}");
        let more = read(&[&good[..], &good[..1]].concat()).await;
        assert!(matches!(more, Err(RestoreError::Malformed(_))), "{more:?}");
    }
}
