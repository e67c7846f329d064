//! A process that the host may wait for: a container's first one, or one that joined it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
    /// It was sent a signal from outside before: an exit status of 0 says only that it has a handler which ends so.
    pub signalled: bool,
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
    signalled: AtomicBool,
    ended: watch::Sender<Option<Ended>>,
}

impl Process {
    pub(super) fn new(label: String, pidfd: OwnedFd, wires: Wires, terminal: Option<OwnedFd>) -> io::Result<Self> {
        let ours = terminal.as_ref().map(OwnedFd::try_clone).transpose()?;
        let (signalled, ended) = (AtomicBool::new(false), watch::Sender::new(None));
        Ok(Self { label, streams: wires.connect(ours)?, pidfd, terminal, signalled, ended })
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

    /// Whether it was sent a signal.
    pub(super) fn signalled(&self) -> bool {
        self.signalled.load(Ordering::SeqCst)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), PodError> {
        // Before it is sent: whoever sees what the signal did sees this, too.
        self.signalled.store(true, Ordering::SeqCst);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{Run, Slot, Stand};
    use std::io::Read;
    use std::process::{Command, Stdio as ChildStdio};

    /// A container's slot after a run of this shell script, whose first process was sent `signal` once it had said something.
    async fn stand(script: &str, signal: Option<Signal>) -> Stand {
        let mut child = Command::new("sh").args(["-c", script]).stdout(ChildStdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let (_stdio, wires) = Wires::new(false, Access { output: false, input: false }, None).unwrap();
        let process = Arc::new(Process::new("a".into(), pidfd, wires, None).unwrap());
        let run =
            Run { process: process.clone(), running: std::sync::Mutex::default(), gone: watch::Sender::new(true) };
        let slot = Slot { run: Some(Arc::new(run)), ..Slot::default() };
        assert_eq!(slot.stand(), Stand::Runs);
        if let Some(signal) = signal {
            process.signal(signal).unwrap();
        }
        let status = child.wait().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
        let code = status.code().or(signal).and_then(|code| ExitCode::try_from(code).ok()).unwrap();
        process.has_ended(Ended { code, signalled: process.signalled(), ..Ended::default() });
        // Too late to have changed anything.
        assert_eq!(process.signal(Signal::TERM), Err(PodError::Ended("a".into())));
        slot.stand()
    }

    #[tokio::test]
    async fn whom_the_host_told_to_end_is_not_done() {
        let polite = "trap 'exit 0' TERM; echo up; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.05; done; exit 0";
        assert_eq!(stand(polite, Some(Signal::TERM)).await, Stand::Interrupted);
        assert_eq!(stand(polite, None).await, Stand::Ended(0));
        assert_eq!(stand(polite, Some(Signal::KILL)).await, Stand::Ended(137));
    }
}
