//! A further process in a running container: the same namespaces, root, user, capabilities, filters and limits as its first one.
//!
//! A short-lived thread joins the namespaces (setns(2) with the first process's pidfd) and clones the process from there. The
//! container's own processes can see the new one, and signal it, before it has become its program. So waiting for that is a
//! step of its own, with an end, that holds up nobody else.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FsWord, Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, pidfd_send_signal};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe};
use rustix::time::Timespec;

use super::child::Failure;
use super::error::{ContainerError, During, Stage};
use super::{Ground, Launch, Launched, Stdio, explain, lossy, plan, streams, terminal};

/// Longest time for a process to become its program.
const PATIENCE: Duration = Duration::from_secs(10);
/// `DEVPTS_SUPER_MAGIC` (linux/magic.h).
const DEVPTS: FsWord = 0x1cd1;
/// Number of `CAP_SYS_PTRACE` (linux/capability.h).
const PTRACE: u64 = 19;

/// The way into a running container.
#[derive(Debug, Clone)]
pub struct Entrance {
    first: Arc<OwnedFd>,
    cgroup: PathBuf,
    ground: Arc<Ground>,
}

/// A process that is about to become its program.
#[derive(Debug)]
pub struct Beginning {
    pid: Pid,
    launched: Launched,
    terminal: Option<OwnedFd>,
    ground: Arc<Ground>,
}

/// A process that runs in a container beside its first one.
#[derive(Debug)]
pub struct Joined {
    /// The process.
    pub pidfd: OwnedFd,
    /// Master of its terminal, with [`Stdio::Terminal`].
    pub terminal: Option<OwnedFd>,
}

impl Entrance {
    pub(super) fn new(first: OwnedFd, cgroup: PathBuf, ground: Arc<Ground>) -> Self {
        Self { first: Arc::new(first), cgroup, ground }
    }

    /// Makes the process; blocks for some milliseconds. Nothing is decided here about whether `args` may be run.
    ///
    /// # Errors
    /// [`ContainerError`]; [`ContainerError::Gone`] when the container has ended.
    pub fn begin(&self, args: &[String], stdio: Stdio) -> Result<Beginning, ContainerError> {
        if self.ground.plan.capabilities.bounding & 1 << PTRACE != 0 {
            return Err(ContainerError::Tracer);
        }
        let args = plan::strings("args", args)?;
        if args.is_empty() {
            return Err(plan::malformed("args", "at least one", &"none"));
        }
        // The thread's file system root and namespaces end with it.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("exec".to_owned());
            let failed = |error: io::Error| Err(error).during(Stage::Clone, self.cgroup.display());
            match thread.spawn_scoped(scope, || self.inside(&args, stdio)).map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => failed(io::Error::other("the thread that makes it ended early")),
                Err(error) => failed(error),
            }
        })
    }

    fn inside(&self, args: &[CString], stdio: Stdio) -> Result<Beginning, ContainerError> {
        let Ground { plan, user, env } = &*self.ground;
        let cgroup = File::open(&self.cgroup).map_err(|_| ContainerError::Gone)?;
        // SAFETY: the flag does not unshare the descriptor table, which is what makes `unshare` unsafe.
        unsafe { unshare_unsafe(UnshareFlags::FS) }.during(Stage::Namespace, "of its own file system root")?;
        let spaces = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::PROCESS_ID
            | ThreadNameSpaceType::CONTROL_GROUP;
        move_into_thread_name_spaces(self.first.as_fd(), spaces).map_err(gone)?;
        let of_its_own = matches!(stdio, Stdio::Terminal);
        let terminal = if of_its_own { Some(terminal::open(&devpts()?, user.uid)?) } else { None };
        let (master, stdio) = streams(stdio, terminal)?;
        let process = Launch { plan, user, env, args, terminal: of_its_own, joins: true };
        let launched = process.launch(stdio, &cgroup)?;
        let pid = Pid::from_raw(launched.pid).ok_or(ContainerError::Gone)?;
        Ok(Beginning { pid, launched, terminal: master, ground: self.ground.clone() })
    }
}

/// The container's devpts: that of its own making, whatever its processes have done to `/dev`.
fn devpts() -> Result<OwnedFd, ContainerError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(CWD, "/dev/pts", flags, Mode::empty(), resolve).during(Stage::Terminal, "/dev/pts")?;
    match fstatfs(&found).during(Stage::Terminal, "/dev/pts")?.f_type {
        DEVPTS => Ok(found),
        _ => Err(Errno::NODEV).during(Stage::Terminal, "/dev/pts"),
    }
}

/// Joining fails so when the first process has ended.
fn gone(error: Errno) -> ContainerError {
    match error {
        Errno::SRCH => ContainerError::Gone,
        error => ContainerError::Setup {
            stage: Stage::Namespace,
            subject: "of the container".to_owned(),
            source: error.into(),
        },
    }
}

impl Beginning {
    /// The process, in the agent's PID namespace; whoever reaps must know it before [`Beginning::finish`].
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits until it has become its program; blocks. A process that does not is killed, and left to be reaped.
    ///
    /// # Errors
    /// [`ContainerError`]: why it has not.
    pub fn finish(mut self) -> Result<Joined, ContainerError> {
        let program = lossy(&self.launched.program);
        let told = told(self.launched.report.as_fd());
        let failure = told.as_ref().ok().and_then(|told| Failure::read(told));
        if told.is_err() || failure.is_some() {
            let _ = pidfd_send_signal(&self.launched.pidfd, Signal::KILL);
        }
        told.during(Stage::Clone, program)?;
        match failure {
            Some(failure) => Err(explain(&self.ground.plan, &self.ground.user, &self.launched.program, failure)),
            None => Ok(Joined { pidfd: self.launched.pidfd, terminal: self.terminal.take() }),
        }
    }
}

/// What the process tells before it becomes its program: nothing, or a failure.
fn told(report: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::from_borrowed_fd(report, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                let seconds = PATIENCE.as_secs();
                return Err(io::Error::other(format!("it has not become its program within {seconds} s")));
            }
            Ok(_) => {
                let mut buffer = [0; 64];
                let count = rustix::io::read(report, &mut buffer)?;
                if count == 0 || told.len() > buffer.len() {
                    return Ok(told);
                }
                told.extend_from_slice(buffer.get(..count).unwrap_or_default());
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
