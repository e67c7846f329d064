//! When a host may be asked next, kept on disk under a lock so that all processes of a machine keep the pace together.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::http::MAX_RETRY_AFTER;
use crate::lock;

/// First wait after a failure, in milliseconds; it doubles with each further one.
const FIRST_WAIT: u64 = 1000;
/// Longest wait after failures, in milliseconds.
const LONGEST_WAIT: u64 = 60_000;
/// Wait after a refusal for too many requests that does not say for how long, in milliseconds: what AMD's service wants.
const THROTTLE_WAIT: u64 = 10_000;
/// For how long the state may be held by others: it is held for one read and one write.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest state that is read, in bytes.
const MAX_STATE: u64 = 4096;

/// What is known about one host; times in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Nothing is asked before.
    blocked_until: u64,
    /// No request of the paced kind is made before.
    next_paced: u64,
    /// Failures since the last answer.
    failures: u32,
}

/// Why it is not this request's turn.
#[derive(Debug)]
pub(crate) enum NoTurn {
    /// The host may be asked in so many milliseconds, which is longer than the caller waits.
    Wait(u64),
    /// The state cannot be kept.
    Io(io::Error),
}

impl From<io::Error> for NoTurn {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// How a request ended, as far as the pace is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With an answer, whatever it said.
    Answered,
    /// With the wish to wait, for so many seconds where it said.
    Throttled(Option<u64>),
    /// Without a usable answer.
    Failed,
}

/// The pace of all hosts.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    directory: PathBuf,
    clock: Arc<dyn Clock>,
}

impl Pace {
    pub(crate) fn new(directory: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { directory, clock }
    }

    /// Waits for this request's turn, at most until `latest` (milliseconds since 1970). Requests with an interval (in
    /// milliseconds) reserve their turn, so that those of several processes follow one another.
    pub(crate) async fn turn(&self, host: &str, interval: u64, latest: u64) -> Result<(), NoTurn> {
        loop {
            let mut held = self.open(host).await?;
            let now = self.clock.now_ms();
            let mut state = read(&mut held, now)?;
            let paced = if interval == 0 { 0 } else { state.next_paced };
            let start = now.max(state.blocked_until).max(paced);
            if start > now && start > latest {
                return Err(NoTurn::Wait(start.saturating_sub(now)));
            }
            if interval > 0 {
                state.next_paced = start.saturating_add(interval);
                write(&mut held, &state)?;
            }
            drop(held);
            if start > now {
                self.clock.sleep(Duration::from_millis(start.saturating_sub(now))).await;
            }
            // While this one waited, another may have been told to wait longer.
            let mut held = self.open(host).await?;
            let now = self.clock.now_ms();
            if read(&mut held, now)?.blocked_until <= now {
                return Ok(());
            }
        }
    }

    /// Notes how a request ended.
    pub(crate) async fn ended(&self, host: &str, ended: Ended) -> io::Result<()> {
        let mut held = self.open(host).await?;
        let now = self.clock.now_ms();
        let mut state = read(&mut held, now)?;
        if ended == Ended::Answered {
            if state.failures == 0 {
                return Ok(());
            }
            state.failures = 0;
        } else {
            let doubled =
                FIRST_WAIT.checked_shl(state.failures).unwrap_or(LONGEST_WAIT).clamp(FIRST_WAIT, LONGEST_WAIT);
            let wait = match ended {
                Ended::Throttled(Some(seconds)) => seconds.min(MAX_RETRY_AFTER).saturating_mul(1000),
                Ended::Throttled(None) => doubled.max(THROTTLE_WAIT),
                _ => doubled,
            };
            state.failures = state.failures.saturating_add(1).min(16);
            state.blocked_until = state.blocked_until.max(now.saturating_add(wait));
        }
        write(&mut held, &state)
    }

    async fn open(&self, host: &str) -> io::Result<File> {
        std::fs::create_dir_all(&self.directory)?;
        // A port's colon is the one character of a host that is better not in a file name; IPv6 brings brackets.
        let name: String =
            host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' }).collect();
        let file = self.directory.join(format!("{name}.json"));
        let held = lock::exclusive(&file, PATIENCE).await?;
        held.ok_or_else(|| {
            io::Error::new(io::ErrorKind::TimedOut, format!("{} is held by another process", file.display()))
        })
    }
}

/// The state; one that cannot be read, or that a clock put far into the future, starts anew.
fn read(held: &mut File, now: u64) -> io::Result<State> {
    let mut text = Vec::new();
    held.seek(SeekFrom::Start(0))?;
    (&*held).take(MAX_STATE).read_to_end(&mut text)?;
    let state: State = serde_json::from_slice(&text).unwrap_or_default();
    let furthest = now.saturating_add(MAX_RETRY_AFTER.saturating_mul(1000));
    if state.blocked_until > furthest || state.next_paced > furthest {
        return Ok(State::default());
    }
    Ok(state)
}

fn write(held: &mut File, state: &State) -> io::Result<()> {
    let text = serde_json::to_vec(state)?;
    held.seek(SeekFrom::Start(0))?;
    held.set_len(0)?;
    held.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    /// Real time, one-sided: a turn may come late, never early.
    #[tokio::test]
    async fn turns_that_are_asked_for_at_once_follow_one_another() {
        const INTERVAL: u64 = 20;
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let begun = clock.now_ms();
        let tasks: Vec<_> = (0..6)
            .map(|_| {
                // Each as another process has it.
                let pace = Pace::new(folder.path().to_owned(), Arc::clone(&clock));
                let clock = Arc::clone(&clock);
                tokio::spawn(async move {
                    pace.turn("a:1", INTERVAL, begun + 60_000).await.unwrap();
                    clock.now_ms()
                })
            })
            .collect();
        let mut turns = Vec::new();
        for task in tasks {
            turns.push(task.await.unwrap());
        }
        turns.sort_unstable();
        for (earlier, turn) in turns.iter().enumerate() {
            assert!(*turn >= begun + INTERVAL * u64::try_from(earlier).unwrap(), "{turns:?}");
        }
        // Another host has a pace of its own.
        let pace = Pace::new(folder.path().to_owned(), clock);
        assert!(pace.turn("b:1", INTERVAL, 0).await.is_ok());
        assert!(matches!(pace.turn("b:1", 60_000, 0).await, Err(NoTurn::Wait(wait)) if wait <= INTERVAL));
    }

    #[tokio::test]
    async fn failures_double_the_wait_and_an_answer_ends_it() {
        #[derive(Debug)]
        struct Still;
        impl Clock for Still {
            fn now_ms(&self) -> u64 {
                1_000_000
            }
            fn sleep(&self, _: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
                Box::pin(std::future::pending())
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let wait = async |pace: &Pace| match pace.turn("a", 0, 0).await {
            Err(NoTurn::Wait(wait)) => wait,
            Ok(()) => 0,
            Err(NoTurn::Io(error)) => panic!("{error}"),
        };
        let pace = Pace::new(folder.path().to_owned(), Arc::new(Still));
        let mut waits = Vec::new();
        for _ in 0..8 {
            pace.ended("a", Ended::Failed).await.unwrap();
            waits.push(wait(&pace).await);
        }
        assert_eq!(waits, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        // A wish to wait longer counts, one for less does not shorten the wait.
        pace.ended("a", Ended::Throttled(Some(90))).await.unwrap();
        assert_eq!(wait(&pace).await, 90_000);
        pace.ended("a", Ended::Throttled(Some(5))).await.unwrap();
        assert_eq!(wait(&pace).await, 90_000);
        // An answer ends the doubling; it does not come before its time.
        pace.ended("a", Ended::Answered).await.unwrap();
        assert_eq!(wait(&pace).await, 90_000);
        let other = Pace::new(folder.path().join("other"), Arc::new(Still));
        other.ended("a", Ended::Failed).await.unwrap();
        other.ended("a", Ended::Answered).await.unwrap();
        other.ended("a", Ended::Failed).await.unwrap();
        assert_eq!(wait(&other).await, 1000);
        other.ended("c", Ended::Throttled(None)).await.unwrap();
        assert!(matches!(other.turn("c", 0, 0).await, Err(NoTurn::Wait(10_000))));
    }
}
