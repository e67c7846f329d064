//! A process that the host may wait for: a container's first one, or one that joined it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use belljar_attested::Kind;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::watch;

use super::{Access, error::PodError};
use crate::{
    container::{self, Stdio},
    logs::Log,
    reaper::ExitCode,
    refusal::Refusal,
    streams::{self, End, Streams},
};

/// How a process has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Exit status as a shell has it.
    pub code: ExitCode,
    /// The kernel ended the container for lack of memory.
    pub oom_killed: bool,
    /// What the container left in its termination log; empty where its output may not leave.
    pub message: String,
    /// The guest ended it, or does not vouch for what it did, because a layer was changed.
    pub refusal: Option<Refusal>,
}

/// A started process.
#[derive(Debug)]
pub struct Process {
    /// The container, and for a process that joined it the id: for errors.
    pub label: String,
    /// Its standard streams.
    pub streams: Streams,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    ended: watch::Sender<Option<Ended>>,
}

impl Process {
    pub(super) fn new(label: String, pidfd: OwnedFd, wires: Wires, terminal: Option<OwnedFd>) -> io::Result<Self> {
        let ours = terminal.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(Self { label, streams: wires.connect(ours)?, pidfd, terminal, ended: watch::Sender::new(None) })
    }

    /// How it has ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Waits for the end.
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        ended.unwrap_or(Ended { code: 255, ..Ended::default() })
    }

    pub(super) fn has_ended(&self, how: Ended) {
        self.ended.send_replace(Some(how));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), PodError> {
        pidfd_send_signal(&self.pidfd, signal).map_err(|error| match error {
            rustix::io::Errno::SRCH => PodError::Ended(self.label.clone()),
            error => self.failed(error.into()),
        })
    }

    /// Sets the size of its terminal.
    pub fn resize(&self, columns: u32, rows: u32) -> Result<(), PodError> {
        let terminal = self.terminal.as_ref().ok_or_else(|| PodError::NoTerminal(self.label.clone()))?;
        match (u16::try_from(columns), u16::try_from(rows)) {
            (Ok(wide @ 1..), Ok(high @ 1..)) => {
                container::resize(terminal.as_fd(), wide, high).map_err(|error| self.failed(error))
            }
            _ => Err(PodError::TerminalSize { columns, rows }),
        }
    }

    fn failed(&self, error: io::Error) -> PodError {
        PodError::System { name: self.label.clone(), why: error.to_string() }
    }
}

/// Our ends of the streams of a process to be.
#[derive(Debug)]
pub struct Wires {
    ours: [Option<OwnedFd>; 3],
    access: Access,
    log: Option<Arc<Log>>,
}

impl Wires {
    /// Streams for a process: those that are not allowed go nowhere, but output goes to `log` where there is one. With a terminal there
    /// is nothing to prepare.
    pub(super) fn new(terminal: bool, access: Access, log: Option<&Arc<Log>>) -> io::Result<(Stdio, Self)> {
        let log = log.cloned();
        if terminal {
            return Ok((Stdio::Terminal, Self { ours: [None, None, None], access, log }));
        }
        let output = access.output || log.is_some();
        let (stdin, our_stdin) = streams::input(access.input)?;
        let (stdout, our_stdout) = streams::output(output)?;
        let (stderr, our_stderr) = streams::output(output)?;
        let ours = [our_stdin, our_stdout, our_stderr];
        Ok((Stdio::Streams { stdin, stdout, stderr }, Self { ours, access, log }))
    }

    fn connect(self, terminal: Option<OwnedFd>) -> io::Result<Streams> {
        let Self { ours: [mut stdin, mut stdout, stderr], access, log } = self;
        if let Some(master) = terminal {
            stdin = access.input.then(|| master.try_clone()).transpose()?;
            stdout = Some(master);
        }
        let output = |fd: Option<OwnedFd>, kind: Kind| -> io::Result<_> {
            let Some(fd) = fd else { return Ok(None) };
            let end = End::new(fd)?.tapped(log.as_ref().map(|log| log.stream(kind)));
            if access.output {
                return Ok(Some(tokio::sync::Mutex::new(end)));
            }
            // Read for the log alone; and a terminal that nobody reads would stop the process.
            tokio::spawn(async move { while end.read(4096).await.is_ok_and(|data| !data.is_empty()) {} });
            Ok(None)
        };
        let stdin = stdin.map(|fd| End::new(fd).map(|end| tokio::sync::Mutex::new(Some(end)))).transpose()?;
        Ok(Streams { stdin, stdout: output(stdout, Kind::Stdout)?, stderr: output(stderr, Kind::Stderr)? })
    }
}
