//! Why a call about a container fails.

use belljar_contract::Restart;
use belljar_guest_api::{limits::MAX_EXECS, status::Code};

use crate::{network::NetworkError, refusal::Refusal, volumes::VolumeError};

/// Why a call about a container fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// The guest will never start containers.
    #[error("{0}")]
    Refused(Refusal),
    /// The guest is about to power off.
    #[error("the guest is stopping")]
    Stopping,
    /// The contract has no container of that name.
    #[error("the contract has no container {0:?}")]
    Unknown(String),
    /// It runs, or is just being started.
    #[error("container {0:?} was started already")]
    Started(String),
    /// It has ended, and the contract does not let it be started again.
    #[error("container {name:?} {ended} and restart is {restart} in the contract: it is not started again")]
    NoRestart {
        /// The container.
        name: String,
        /// What became of its last run.
        ended: String,
        /// What the contract says.
        restart: &'static str,
    },
    /// An init container that comes before it has not ended with 0.
    #[error(
        "container {name:?} comes after init container {before:?}, expected that to have ended with 0, found that it {found}"
    )]
    Order {
        /// The container.
        name: String,
        /// The init container.
        before: String,
        /// Where that stands.
        found: String,
    },
    /// A value that the host gives for the container is not one that the contract leaves to it.
    #[error("{why}")]
    HostValue {
        /// Why, in one line: container, variable, expected, found.
        why: String,
    },
    /// A volume is not as the contract wants it, or not there.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// It was not started yet.
    #[error("container {0:?} was not started: call StartContainer first")]
    NotStarted(String),
    /// It has ended.
    #[error("container {0:?} has ended")]
    Ended(String),
    /// The contract forbids it.
    #[error("{field} expected allow by the contract for container {name:?}, found deny")]
    Denied {
        /// `logs` or `stdin`.
        field: &'static str,
        /// The container.
        name: String,
    },
    /// The contract does not list the command.
    #[error(
        "exec of {command} in container {name:?} is denied: expected one of the {listed} commands that the contract lists there, word for word"
    )]
    ExecDenied {
        /// The container.
        name: String,
        /// The command as the host gave it.
        command: String,
        /// How many the contract lists.
        listed: usize,
    },
    /// The contract gives the container no terminal.
    #[error(
        "exec with a terminal in container {0:?} is denied: its `terminal` expected true by the contract, found false"
    )]
    ExecTerminal(String),
    /// The host's id for a process is empty or too long.
    #[error("exec id has {found} bytes, expected 1 to {most}")]
    ExecId {
        /// Its length.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// The id is taken.
    #[error("container {name:?} has a process with the exec id {id:?}, which runs or was not waited for")]
    ExecExists {
        /// The container.
        name: String,
        /// The id.
        id: String,
    },
    /// No process has that id.
    #[error("container {name:?} has no process with the exec id {id:?}")]
    ExecUnknown {
        /// The container.
        name: String,
        /// The id.
        id: String,
    },
    /// Too many processes.
    #[error("{MAX_EXECS} processes by StartExec run or were not waited for: wait for one first")]
    ExecTooMany,
    /// Its stdin is closed.
    #[error("stdin of container {0:?} is closed")]
    InputClosed(String),
    /// It has no terminal.
    #[error("container {0:?} has no terminal")]
    NoTerminal(String),
    /// A size that no terminal has.
    #[error("terminal size {columns} x {rows} is out of bounds, expected 1 to 65535 each")]
    TerminalSize {
        /// Characters in a row.
        columns: u32,
        /// Rows.
        rows: u32,
    },
    /// No such signal.
    #[error("{0} is not a signal, expected 1 to 64")]
    Signal(u32),
    /// A signal for all processes of one exec process.
    #[error("`all` means every process of a container: leave out the exec id")]
    AllOfExec,
    /// Another signal than SIGKILL for all processes of a container.
    #[error("`all` expected signal 9, found {0}: other signals go to the first process, without `all`")]
    AllButKill(u32),
    /// The container could not be started.
    #[error("container {name:?} does not start: {why}")]
    Start {
        /// The container.
        name: String,
        /// Why, in one line.
        why: String,
    },
    /// The process could not be started.
    #[error("exec in container {name:?} fails: {why}")]
    Exec {
        /// The container.
        name: String,
        /// Why, in one line.
        why: String,
    },
    /// The pod's network is not there, or not as the contract wants it.
    #[error("{why}")]
    Network {
        /// The code on the wire.
        code: Code,
        /// Why, in one line.
        why: String,
    },
    /// A system call failed.
    #[error("container {name:?}: {why}")]
    System {
        /// The container.
        name: String,
        /// Why, in one line.
        why: String,
    },
}

impl From<NetworkError> for PodError {
    fn from(error: NetworkError) -> Self {
        Self::Network { code: error.code(), why: error.to_string() }
    }
}

impl PodError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown(_) | Self::ExecUnknown { .. } => Code::NotFound,
            Self::Started(_) | Self::ExecExists { .. } => Code::AlreadyExists,
            Self::Denied { .. }
            | Self::NoRestart { .. }
            | Self::ExecDenied { .. }
            | Self::ExecTerminal(_)
            | Self::HostValue { .. }
            | Self::AllButKill(_) => Code::PermissionDenied,
            Self::Signal(_) | Self::AllOfExec | Self::ExecId { .. } | Self::TerminalSize { .. } => {
                Code::InvalidArgument
            }
            Self::ExecTooMany => Code::ResourceExhausted,
            Self::System { .. } => Code::Internal,
            Self::Network { code, .. } => *code,
            Self::Volume(error) => error.code(),
            _ => Code::FailedPrecondition,
        }
    }
}

/// The word of the contract's format.
pub(super) fn restart_word(restart: Restart) -> &'static str {
    match restart {
        Restart::Never => "never",
        Restart::OnFailure => "on-failure",
        Restart::Always => "always",
    }
}
