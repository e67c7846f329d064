//! The states of a process that containerd knows: a container's first process, an exec, or the sandbox itself.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use containerd_shim_protos::api::Status;
use tokio::sync::watch;

use crate::error::ShimError;
use crate::streams::{Stdio, Streams};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// As a shell has it: 0 to 255, 128 and the signal's number.
    pub code: u32,
    /// When.
    pub at: SystemTime,
}

impl Exit {
    /// Now, with this code.
    pub fn now(code: u32) -> Self {
        Self { code, at: SystemTime::now() }
    }
}

/// The state of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    Created,
    /// The guest was asked to start it, and has not answered.
    Starting,
    /// It runs.
    Running,
    /// It has ended.
    Stopped(Exit),
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopped(_) => "stopped",
        }
    }

    /// As containerd knows it.
    pub fn status(self) -> Status {
        match self {
            Self::Created | Self::Starting => Status::CREATED,
            Self::Running => Status::RUNNING,
            Self::Stopped(_) => Status::STOPPED,
        }
    }
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// For messages.
    id: String,
    /// Its streams as containerd named them.
    pub stdio: Stdio,
    /// Its streams; none for the sandbox.
    pub streams: Option<Streams>,
    /// Columns and rows that were asked for before it ran.
    size: Mutex<Option<(u32, u32)>>,
    state: watch::Sender<State>,
}

impl Process {
    /// One that is made and not started.
    pub fn new(id: &str, stdio: Stdio, streams: Option<Streams>) -> Self {
        Self { id: id.to_owned(), stdio, streams, size: Mutex::default(), state: watch::Sender::new(State::Created) }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its state now.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// From created to starting.
    ///
    /// # Errors
    /// [`ShimError::State`] when it is in another state.
    pub fn begin(&self) -> Result<(), ShimError> {
        let mut found = State::Created;
        let changed = self.state.send_if_modified(|state| {
            found = *state;
            let fits = found == State::Created;
            if fits {
                *state = State::Starting;
            }
            fits
        });
        match changed {
            true => Ok(()),
            false => Err(ShimError::State { id: self.id.clone(), found: found.word(), expected: "created" }),
        }
    }

    /// From starting to running. False when it was ended meanwhile.
    pub fn runs(&self) -> bool {
        self.state.send_if_modified(|state| {
            let fits = *state == State::Starting;
            if fits {
                *state = State::Running;
            }
            fits
        })
    }

    /// From starting back to created: the guest did not start it.
    pub fn failed(&self) {
        self.state.send_if_modified(|state| {
            let fits = *state == State::Starting;
            if fits {
                *state = State::Created;
            }
            fits
        });
    }

    /// It has ended. False when that was known.
    pub fn stop(&self, exit: Exit) -> bool {
        self.state.send_if_modified(|state| {
            let fits = !matches!(state, State::Stopped(_));
            if fits {
                *state = State::Stopped(exit);
            }
            fits
        })
    }

    /// Waits until it has ended.
    pub async fn ended(&self) -> Exit {
        let mut state = self.state.subscribe();
        loop {
            if let State::Stopped(exit) = *state.borrow_and_update() {
                return exit;
            }
            if state.changed().await.is_err() {
                return Exit::now(255);
            }
        }
    }

    /// # Errors
    /// [`ShimError::State`] unless it runs.
    pub fn check_runs(&self) -> Result<(), ShimError> {
        match self.state() {
            State::Running => Ok(()),
            other => Err(ShimError::State { id: self.id.clone(), found: other.word(), expected: "running" }),
        }
    }

    /// # Errors
    /// [`ShimError::State`] while it is being started or runs.
    pub fn check_over(&self) -> Result<Option<Exit>, ShimError> {
        match self.state() {
            State::Stopped(exit) => Ok(Some(exit)),
            State::Created => Ok(None),
            other => Err(ShimError::State { id: self.id.clone(), found: other.word(), expected: "stopped" }),
        }
    }

    /// Remembers a terminal's size until the process runs.
    pub fn keep_size(&self, columns: u32, rows: u32) {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner) = Some((columns, rows));
    }

    /// The size that was remembered, once.
    pub fn take_size(&self) -> Option<(u32, u32)> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn states_follow_each_other_and_an_end_is_final() {
        let process = Process::new("a", Stdio::default(), None);
        assert_eq!(process.check_over(), Ok(None));
        assert!(process.check_runs().is_err());
        process.begin().unwrap();
        let twice = process.begin().unwrap_err();
        assert_eq!(twice, ShimError::State { id: "a".into(), found: "starting", expected: "created" });
        process.failed();
        process.begin().unwrap();
        assert!(process.runs());
        assert!(process.check_over().is_err());
        process.check_runs().unwrap();
        process.failed();
        assert_eq!(process.state(), State::Running);
        assert!(process.stop(Exit::now(3)));
        assert!(!process.stop(Exit::now(4)));
        assert_eq!(process.ended().await.code, 3);
        assert_eq!(process.check_over().unwrap().map(|exit| exit.code), Some(3));
        assert!(!process.runs(), "an end while starting is not undone");
    }
}
