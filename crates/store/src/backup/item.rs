//! What is in the stream of a backup: items, each a letter, a length (4 bytes) and so many bytes.

use super::RestoreError;
use crate::audit::{Hash, Stored};
use crate::backend::Raw;
use crate::embedded::format::{self, Parts};
use crate::record::{MAX_KEY, MAX_TENANT, MAX_VALUE, Tenant, Time};
use crate::seal::{DataKeyRow, MAX_WRAPPED, OVERHEAD};

/// Longest item: a record.
pub(super) const MAX_ITEM: usize = MAX_VALUE + OVERHEAD + MAX_KEY + MAX_TENANT + MAX_WRAPPED;

/// A part of a store. They come in this order; entries and checkpoints follow the log that they are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// When the backup was made, and the last change.
    Start {
        time: Time,
        revision: u64,
    },
    DataKey(DataKeyRow),
    Record(Raw),
    /// A log, and its last entry.
    Log {
        tenant: Tenant,
        sequence: u64,
        hash: Hash,
    },
    Entry(Stored),
    Checkpoint {
        sequence: u64,
        body: Vec<u8>,
    },
    /// All that was, and its hash.
    End {
        records: u64,
        entries: u64,
        state: Hash,
    },
}

impl Item {
    /// As bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (letter, parts): (u8, Vec<u8>) = match self {
            Self::Start { time, revision } => (b'S', [time.millis().to_be_bytes(), revision.to_be_bytes()].concat()),
            Self::DataKey(row) => (b'K', row.encode()),
            Self::Record(raw) => {
                let key = format::key(&raw.entry.id);
                let length = u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes();
                let value = format::value(raw.entry.revision, raw.entry.expires, &raw.sealed);
                (b'R', [&length[..], &key, &value].concat())
            }
            Self::Log { tenant, sequence, hash } => {
                (b'L', [&sequence.to_be_bytes()[..], hash, tenant.as_str().as_bytes()].concat())
            }
            Self::Entry(stored) => (b'A', [&stored.sequence.to_be_bytes()[..], &stored.hash, &stored.body].concat()),
            Self::Checkpoint { sequence, body } => (b'C', [&sequence.to_be_bytes()[..], body].concat()),
            Self::End { records, entries, state } => {
                (b'E', [&records.to_be_bytes()[..], &entries.to_be_bytes(), state].concat())
            }
        };
        let length = u32::try_from(parts.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&[letter][..], &length, &parts].concat()
    }

    /// From its letter and its bytes, all of which have to be the item.
    pub(super) fn decode(letter: u8, bytes: &[u8]) -> Option<Self> {
        match letter {
            b'S' => {
                let (time, revision) = bytes.split_first_chunk()?;
                let time = u64::from_be_bytes(*time);
                let revision = u64::from_be_bytes(revision.try_into().ok()?);
                let fits = time <= Time::MAX.millis() && i64::try_from(revision).is_ok();
                fits.then(|| Self::Start { time: Time::from_millis(time), revision })
            }
            b'K' => DataKeyRow::decode(bytes).filter(|row| i64::try_from(row.id).is_ok()).map(Self::DataKey),
            b'R' => {
                let (length, rest) = bytes.split_first_chunk()?;
                let (key, value) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
                let (id, parts) = (format::id(key)?, Parts::parse(value)?);
                i64::try_from(parts.revision).ok()?;
                Some(Self::Record(Raw { entry: parts.entry(id), sealed: parts.sealed.to_vec() }))
            }
            b'L' => {
                let (sequence, rest) = bytes.split_first_chunk()?;
                let (hash, tenant) = rest.split_first_chunk()?;
                let tenant = Tenant::new(std::str::from_utf8(tenant).ok()?).ok()?;
                Some(Self::Log { tenant, sequence: u64::from_be_bytes(*sequence), hash: *hash })
            }
            b'A' => {
                let (sequence, rest) = bytes.split_first_chunk()?;
                let (hash, body) = rest.split_first_chunk::<32>()?;
                let sequence = u64::from_be_bytes(*sequence);
                Some(Self::Entry(Stored { sequence, hash: hash.to_vec(), body: body.to_vec() }))
            }
            b'C' => {
                let (sequence, body) = bytes.split_first_chunk()?;
                Some(Self::Checkpoint { sequence: u64::from_be_bytes(*sequence), body: body.to_vec() })
            }
            b'E' => {
                let (records, rest) = bytes.split_first_chunk()?;
                let (entries, state) = rest.split_first_chunk()?;
                let (records, entries) = (u64::from_be_bytes(*records), u64::from_be_bytes(*entries));
                Some(Self::End { records, entries, state: state.try_into().ok()? })
            }
            _ => None,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "a start",
            Self::DataKey(_) => "a data key",
            Self::Record(_) => "a record",
            Self::Log { .. } => "a log",
            Self::Entry(_) => "an audit entry",
            Self::Checkpoint { .. } => "a checkpoint",
            Self::End { .. } => "an end",
        }
    }
}

/// For the fuzzer: an item of any bytes.
pub(super) fn fuzz(data: &[u8]) {
    let Some((letter, bytes)) = data.split_first() else { return };
    if let Some(item) = Item::decode(*letter, bytes) {
        let encoded = item.encode();
        assert_eq!((encoded.first(), encoded.get(5..)), (Some(letter), Some(bytes)));
    }
}

/// An item that has no form that is known.
pub(super) fn malformed(letter: u8) -> RestoreError {
    RestoreError::Malformed(format!("an item {:?} of an unknown form", char::from(letter)))
}
