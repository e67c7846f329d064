//! The last output of each container, kept in the guest for the operator: what a container says stays readable to them where the host may
//! not see it. Kept only for a contract whose operator may read it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use belljar_attested::Kind;
use belljar_contract::Contract;
use tokio::sync::watch;

/// Most bytes that are kept of one container, both streams and their bookkeeping together.
pub const KEPT: usize = 256 * 1024;
/// Small additions of one stream go together up to this size.
const PIECE: usize = 4096;
/// What a piece costs beside its bytes, so that many small ones stay bounded, too.
const PIECE_COST: usize = 64;

/// What containers have said, by name.
#[derive(Debug, Default)]
pub struct Logs(BTreeMap<String, Arc<Log>>);

impl Logs {
    /// Empty logs of the contract's containers; none where nobody may read them.
    pub fn of(contract: &Contract) -> Self {
        let wanted = contract.operator.as_ref().is_some_and(|operator| operator.logs.allowed());
        let names = contract.containers.keys().filter(|_| wanted);
        Self(names.map(|name| (name.clone(), Arc::default())).collect())
    }

    /// The log of one container.
    pub fn get(&self, name: &str) -> Option<&Arc<Log>> {
        self.0.get(name)
    }
}

/// What one container has said, through all its runs.
#[derive(Debug, Default)]
pub struct Log {
    ring: Mutex<Ring>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Ring {
    pieces: VecDeque<(Kind, Vec<u8>)>,
    /// What the pieces cost, with [`PIECE_COST`] for each.
    cost: usize,
    /// How many bytes were dropped before the first piece.
    dropped: u64,
    /// Streams that may still bring something.
    open: usize,
}

/// Where a reader stands. A new one begins with the oldest byte that is kept.
#[derive(Debug, Default)]
pub struct Position {
    /// How many bytes it has seen, or missed; none before it has looked.
    at: Option<u64>,
    missed: u64,
}

impl Position {
    /// How many bytes were dropped that the reader would have seen next, since this was asked last.
    pub fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }
}

impl Log {
    /// A stream begins; the log may be followed until the last one has ended. `kind` is [`Kind::Stdout`] or [`Kind::Stderr`].
    pub fn stream(self: &Arc<Self>, kind: Kind) -> Tap {
        let mut ring = self.ring();
        ring.open = ring.open.saturating_add(1);
        Tap { log: self.clone(), kind }
    }

    /// The next bytes, of one stream; nothing when there are none yet. What was dropped meanwhile is skipped, and counted in `at`.
    pub fn next(&self, at: &mut Position) -> Option<(Kind, Vec<u8>)> {
        let ring = self.ring();
        let seen = at.at.unwrap_or(ring.dropped);
        at.missed = at.missed.saturating_add(ring.dropped.saturating_sub(seen));
        let next = seen.max(ring.dropped);
        at.at = Some(next);
        let mut skip = usize::try_from(next.saturating_sub(ring.dropped)).ok()?;
        for (kind, piece) in &ring.pieces {
            match piece.get(skip..) {
                Some(rest) if !rest.is_empty() => {
                    at.at = Some(next.saturating_add(length(rest)));
                    return Some((*kind, rest.to_vec()));
                }
                _ => skip = skip.saturating_sub(piece.len()),
            }
        }
        None
    }

    /// Whether no stream can bring anything more, as it stands.
    pub fn is_over(&self) -> bool {
        self.ring().open == 0
    }

    /// Sees each change from now on.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a stream that writes into a log.
#[derive(Debug)]
pub struct Tap {
    log: Arc<Log>,
    kind: Kind,
}

impl Tap {
    /// Adds what the stream brought; the oldest pieces make room.
    pub fn push(&self, data: &[u8]) {
        let mut ring = self.log.ring();
        let mut cost = data.len();
        match ring.pieces.back_mut() {
            Some((kind, piece)) if *kind == self.kind && piece.len().saturating_add(data.len()) <= PIECE => {
                piece.extend_from_slice(data);
            }
            _ => {
                cost = cost.saturating_add(PIECE_COST);
                ring.pieces.push_back((self.kind, data.to_vec()));
            }
        }
        ring.cost = ring.cost.saturating_add(cost);
        while ring.cost > KEPT {
            let Some((_, oldest)) = ring.pieces.pop_front() else { break };
            ring.cost = ring.cost.saturating_sub(oldest.len().saturating_add(PIECE_COST));
            ring.dropped = ring.dropped.saturating_add(length(&oldest));
        }
        drop(ring);
        self.log.changed.send_replace(());
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut ring = self.log.ring();
        ring.open = ring.open.saturating_sub(1);
        drop(ring);
        self.log.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(log: &Log, at: &mut Position) -> Vec<(Kind, Vec<u8>)> {
        std::iter::from_fn(|| log.next(at)).collect()
    }

    #[test]
    fn a_reader_sees_both_streams_in_order_and_then_only_what_is_new() {
        let log = Arc::<Log>::default();
        let (out, err) = (log.stream(Kind::Stdout), log.stream(Kind::Stderr));
        out.push(b"a");
        out.push(b"b");
        err.push(b"c");
        let mut at = Position::default();
        assert_eq!(all(&log, &mut at), [(Kind::Stdout, b"ab".to_vec()), (Kind::Stderr, b"c".to_vec())]);
        err.push(b"d");
        assert_eq!(all(&log, &mut at), [(Kind::Stderr, b"d".to_vec())]);
        assert!(!log.is_over());
        drop((out, err));
        assert!(log.is_over());
        assert_eq!(all(&log, &mut Position::default()).len(), 2);
    }

    #[test]
    fn a_reader_is_told_what_it_missed_and_not_what_was_gone_before() {
        let log = Arc::<Log>::default();
        let out = log.stream(Kind::Stdout);
        out.push(&[1; KEPT / 2]);
        out.push(&[2; KEPT / 2]);
        let mut at = Position::default();
        assert_eq!((log.next(&mut at).map(|(_, data)| data[0]), at.take_missed()), (Some(2), 0));
        out.push(&[3; KEPT / 2]);
        assert_eq!((log.next(&mut at).map(|(_, data)| data[0]), at.take_missed()), (Some(3), 0), "it was fast enough");
        out.push(&[4; KEPT / 2]);
        out.push(&[5; KEPT / 2]);
        let missed = u64::try_from(KEPT / 2).unwrap();
        assert_eq!((log.next(&mut at).map(|(_, data)| data[0]), at.take_missed()), (Some(5), missed));
        assert_eq!((log.next(&mut at), at.take_missed()), (None, 0));
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded_and_the_newest(pieces in prop::collection::vec((any::<bool>(), 1usize..60_000), 1..40)) {
            let log = Arc::<Log>::default();
            let (out, err) = (log.stream(Kind::Stdout), log.stream(Kind::Stderr));
            let mut said = Vec::new();
            let (mut reader, mut read) = (Position::default(), 0);
            for (index, (which, length)) in pieces.iter().enumerate() {
                let data = vec![u8::try_from(index).unwrap(); *length];
                if *which { out.push(&data) } else { err.push(&data) }
                said.extend(data);
                prop_assert!(log.ring().cost <= KEPT);
                if index % 3 == 0 {
                    read += all(&log, &mut reader).iter().map(|(_, piece)| piece.len()).sum::<usize>();
                }
            }
            let kept: Vec<u8> = all(&log, &mut Position::default()).into_iter().flat_map(|(_, piece)| piece).collect();
            prop_assert!(said.ends_with(&kept));
            prop_assert!(read <= said.len());
        }
    }
}
