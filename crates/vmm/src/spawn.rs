//! Starts QEMU so that it cannot outlive this process.
//!
//! `PR_SET_PDEATHSIG` (`prctl(2)`) fires when the *thread* that made the child ends, so all children are made by one
//! thread that lives as long as the process.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock, mpsc};

use rustix::io::FdFlags;
use rustix::process::{PidfdFlags, Signal};
use tokio::sync::oneshot;

/// A started process: its stderr is a pipe, it leads its own process group, and it dies with us. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Spawned {
    child: Option<Child>,
    pub pid: u32,
    pub pidfd: Arc<OwnedFd>,
}

impl Spawned {
    /// The process's stderr, once.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.as_mut()?.stderr.take()
    }

    /// Kills it; the pidfd cannot name another process.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&*self.pidfd, Signal::KILL);
    }

    /// Waits for its end. Does not block for long once the pidfd is readable; still it is a wait.
    pub fn reap(mut self) -> io::Result<ExitStatus> {
        match self.child.take() {
            Some(mut child) => child.wait(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Job {
    command: Command,
    inherited: Vec<OwnedFd>,
    cgroups: Vec<File>,
    answer: oneshot::Sender<io::Result<Spawned>>,
}

/// Runs `program`, which inherits `inherited` under the numbers that they have here; they are closed here. Before its
/// first instruction it enters the cgroups of which `cgroups` are the `cgroup.procs`.
pub(crate) async fn spawn(
    program: &Path,
    arguments: Vec<OsString>,
    inherited: Vec<OwnedFd>,
    cgroups: Vec<File>,
) -> io::Result<Spawned> {
    static SPAWNER: OnceLock<Option<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        let run = move || {
            jobs.into_iter().for_each(|Job { command, inherited, cgroups, answer }| {
                let _ = answer.send(make_child(command, inherited, cgroups));
            })
        };
        std::thread::Builder::new().name("belljar-spawn".into()).stack_size(256 * 1024).spawn(run).ok().map(|_| sender)
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let mut command = Command::new(program);
    // Its own process group: Ctrl-C in the terminal reaches us alone, and we end the guest in order.
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let (answer, done) = oneshot::channel();
    spawner.as_ref().ok_or_else(gone)?.send(Job { command, inherited, cgroups, answer }).map_err(|_| gone())?;
    done.await.map_err(|_| gone())?
}

fn make_child(mut command: Command, inherited: Vec<OwnedFd>, cgroups: Vec<File>) -> io::Result<Spawned> {
    let numbers: Vec<RawFd> = inherited.iter().map(|fd| fd.as_raw_fd()).collect();
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
        }
        for procs in &cgroups {
            // Zero is the process that writes.
            rustix::io::write(procs, b"0")?;
        }
        for number in &numbers {
            // SAFETY: the owned descriptors are open in the parent until after the fork, so they are open in this child.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*number) };
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only direct system calls (prctl, getppid, write, fcntl), which are
    // async-signal-safe; it neither allocates nor takes a lock.
    let mut child = unsafe { command.pre_exec(prepare) }.spawn()?;
    drop(inherited);
    let pid = rustix::process::Pid::from_child(&child);
    match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => Ok(Spawned { pid: child.id(), child: Some(child), pidfd: Arc::new(pidfd) }),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error.into())
        }
    }
}
