//! Where the start of the pod stands: state, finished phases, refusal. Every change raises the generation, which a
//! `Status` call waits for.

use std::{future::Future, time::Duration};

use belljar_guest_api::api;
use tokio::sync::watch;

use crate::{clock::since_boot_us, refusal::Refusal};

/// Most phases that are recorded.
const MAX_PHASES: usize = 64;

/// State of the pod's start, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Mounts, modules, initdata, report.
    Booting,
    /// The contract is accepted; layers are opened and secrets are fetched.
    Attesting,
    /// Containers may be started.
    Ready,
    /// The guest will not go on, see the refusal.
    Refused,
    /// The guest is about to power off.
    Stopping,
}

/// One finished phase; times are microseconds since the guest kernel started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// Start.
    pub start_us: u64,
    /// End.
    pub end_us: u64,
}

/// Everything that a `Status` call answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Raised by one with each change; starts at 1.
    pub generation: u64,
    /// Where the start stands.
    pub state: State,
    /// Set with [`State::Refused`].
    pub refusal: Option<Refusal>,
    /// Finished phases in the order of their end.
    pub phases: Vec<Phase>,
}

/// The one place that holds the [`Snapshot`].
#[derive(Debug)]
pub struct Board {
    sender: watch::Sender<Snapshot>,
}

impl Board {
    /// A board in [`State::Booting`].
    pub fn new() -> Self {
        let first = Snapshot { generation: 1, state: State::Booting, refusal: None, phases: Vec::with_capacity(16) };
        Self { sender: watch::Sender::new(first) }
    }

    /// Moves on to `state`. A refusal is final, except for power-off.
    pub fn enter(&self, state: State) {
        self.change(|now| {
            let moves = now.state != state && (now.state != State::Refused || state == State::Stopping);
            if moves {
                now.state = state;
            }
            moves
        });
    }

    /// Refuses to go on; the first refusal stays.
    pub fn refuse(&self, refusal: Refusal) {
        self.change(|now| {
            let first = now.refusal.is_none() && now.state != State::Stopping;
            if first {
                now.state = State::Refused;
                now.refusal = Some(refusal);
            }
            first
        });
    }

    /// Records a phase that ends now and began at `start_us`, if it is one of the first [`MAX_PHASES`]: containers may be started
    /// again for ever.
    pub fn phase(&self, name: &'static str, start_us: u64) {
        let phase = Phase { name, start_us, end_us: since_boot_us() };
        self.change(|now| {
            let room = now.phases.len() < MAX_PHASES;
            if room {
                now.phases.push(phase);
            }
            room
        });
    }

    /// Runs `work` and records it as the phase `name`, whatever its outcome.
    pub fn timed<T>(&self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let start = since_boot_us();
        let result = work();
        self.phase(name, start);
        result
    }

    /// Like [`Board::timed`], for a future.
    pub async fn timed_async<T>(&self, name: &'static str, work: impl Future<Output = T>) -> T {
        let start = since_boot_us();
        let result = work.await;
        self.phase(name, start);
        result
    }

    /// The present snapshot.
    pub fn now(&self) -> Snapshot {
        self.sender.borrow().clone()
    }

    /// The first snapshot whose generation differs from `generation`, or the present one after `timeout`.
    pub async fn after(&self, generation: u64, timeout: Duration) -> Snapshot {
        let mut receiver = self.sender.subscribe();
        let changed = receiver.wait_for(|now| now.generation != generation);
        let _ = tokio::time::timeout(timeout, changed).await;
        self.now()
    }

    /// Waits until containers may be started; the refusal when they never will be.
    pub async fn ready(&self) -> Result<(), Option<Refusal>> {
        self.reach(&[State::Ready]).await
    }

    /// Waits until the contract is bound; the refusal when it never will be.
    pub async fn bound(&self) -> Result<(), Option<Refusal>> {
        self.reach(&[State::Attesting, State::Ready]).await
    }

    /// Waits for one of `wanted`, or a state after them.
    async fn reach(&self, wanted: &[State]) -> Result<(), Option<Refusal>> {
        let before = |state: State| matches!(state, State::Booting | State::Attesting) && !wanted.contains(&state);
        let mut receiver = self.sender.subscribe();
        match receiver.wait_for(|now| !before(now.state)).await {
            Ok(now) if wanted.contains(&now.state) => Ok(()),
            Ok(now) => Err(now.refusal.clone()),
            Err(_) => Err(None),
        }
    }

    fn change(&self, apply: impl FnOnce(&mut Snapshot) -> bool) {
        self.sender.send_if_modified(|now| {
            let changed = apply(now);
            if changed {
                now.generation += 1;
            }
            changed
        });
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Snapshot> for api::StatusResponse {
    fn from(now: Snapshot) -> Self {
        let state = match now.state {
            State::Booting => api::State::BOOTING,
            State::Attesting => api::State::ATTESTING,
            State::Ready => api::State::READY,
            State::Refused => api::State::REFUSED,
            State::Stopping => api::State::STOPPING,
        };
        let phase = |phase: Phase| api::Phase {
            name: phase.name.to_owned(),
            start_us: phase.start_us,
            end_us: phase.end_us,
            ..Default::default()
        };
        let (refusal, refusal_kind) = match now.refusal {
            Some(refusal) => (refusal.message, refusal.kind.word().to_owned()),
            None => Default::default(),
        };
        Self {
            generation: now.generation,
            state: state.into(),
            refusal,
            refusal_kind,
            phases: now.phases.into_iter().map(phase).collect(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Kind;

    #[test]
    fn each_change_raises_the_generation_once() {
        let board = Board::new();
        board.enter(State::Booting);
        assert_eq!(board.now().generation, 1);
        board.enter(State::Attesting);
        assert_eq!(board.now().generation, 2);
        assert_eq!(board.timed("layers", || 7), 7);
        assert_eq!(board.now().generation, 3);
        assert_eq!(board.now().phases.first().map(|phase| phase.name), Some("layers"));
    }

    #[test]
    fn the_first_refusal_stays() {
        let board = Board::new();
        board.refuse(Refusal::new(Kind::Layer, "first"));
        board.refuse(Refusal::new(Kind::Secret, "second"));
        board.enter(State::Ready);
        let now = board.now();
        assert_eq!((now.state, now.refusal), (State::Refused, Some(Refusal::new(Kind::Layer, "first"))));
        board.enter(State::Stopping);
        assert_eq!(board.now().state, State::Stopping);
    }

    #[tokio::test]
    async fn a_status_call_waits_for_a_change_or_its_time_out() {
        let board = std::sync::Arc::new(Board::new());
        assert_eq!(board.after(0, Duration::from_secs(60)).await.generation, 1);
        let before = tokio::time::Instant::now();
        assert_eq!(board.after(1, Duration::from_millis(20)).await.generation, 1);
        assert!(before.elapsed() >= Duration::from_millis(20));
        let waiter = tokio::spawn({
            let board = board.clone();
            async move { board.after(1, Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        board.enter(State::Ready);
        assert_eq!(waiter.await.unwrap().state, State::Ready);
        assert_eq!(board.ready().await, Ok(()));
    }

    #[tokio::test]
    async fn readiness_of_a_refused_guest_is_its_refusal() {
        let board = Board::new();
        let refusal = Refusal::new(Kind::Initdata, "differs");
        board.refuse(refusal.clone());
        assert_eq!(board.ready().await, Err(Some(refusal)));
    }

    #[tokio::test]
    async fn a_contract_is_bound_before_containers_may_start() {
        let board = Board::new();
        let waits = async |wait: &mut (dyn Future<Output = Result<(), Option<Refusal>>> + Unpin)| {
            tokio::time::timeout(Duration::from_millis(20), wait).await.is_err()
        };
        assert!(waits(&mut Box::pin(board.bound())).await && waits(&mut Box::pin(board.ready())).await);
        board.enter(State::Attesting);
        assert_eq!(board.bound().await, Ok(()));
        assert!(waits(&mut Box::pin(board.ready())).await);
        board.enter(State::Ready);
        assert_eq!((board.bound().await, board.ready().await), (Ok(()), Ok(())));
        board.enter(State::Stopping);
        assert_eq!((board.bound().await, board.ready().await), (Err(None), Err(None)));
    }
}
