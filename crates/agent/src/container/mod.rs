//! The container runtime: one OCI specification (built from the contract alone), verified layers and secrets in, one
//! process out.
//!
//! A short-lived thread of the agent gives itself a mount namespace of its own, builds the whole root file system there with
//! ordinary code, and then clones the container's first process, which has only a fixed list of system calls left to make. So
//! the agent's own mount namespace never sees the container's file system or its secrets, and when the container's
//! last process ends, its mounts, scratch memory and secret files are gone. `docs/adr/0004-container-runtime.md` has the reasons.
//!
//! The agent must have left the initramfs ([`crate::mounts::switch_root`]); `pivot_root` fails there.

mod cgroup;
mod child;
mod error;
mod exec;
mod generated;
mod inside;
mod plan;
mod rootfs;
mod seccomp;
mod syscalls;
mod terminal;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use belljar_contract::ResolvedUser;
use rustix::fs::Gid;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use zeroize::Zeroizing;

use cgroup::Cgroup;
pub use cgroup::Usage;
use child::{Child, ChildMount, Failure, Pointers};
use error::During;
pub use error::{ContainerError, Stage};
pub use exec::{Beginning, Entrance, Joined};
use plan::Plan;
pub use terminal::resize;

/// What a container is made of.
#[derive(Debug)]
pub struct Bundle {
    /// Name: a DNS label, unique among the running containers; names the cgroup.
    pub name: String,
    /// From [`belljar_contract::oci_spec`]; a field that the runtime does not honour is refused.
    pub spec: oci_spec::runtime::Spec,
    /// Directories with the mounted, verified layers, lowest first; at least one. Each path is shorter than 256 bytes.
    pub layers: Vec<PathBuf>,
    /// Bound of the writable layer in bytes ([`belljar_contract::Container::scratch_bytes`]).
    pub scratch_bytes: u64,
    /// Secrets that appear as files.
    pub secrets: Vec<SecretFile>,
    /// Files of the agent's making that appear in it, read-only.
    pub generated: Vec<GeneratedFile>,
    /// What appears at the specification's bind mounts, one for each; their sources are only names.
    pub binds: Vec<Bind>,
    /// Kernel settings that the container's own namespaces have, by name with dots.
    pub sysctls: BTreeMap<String, String>,
    /// Mount point of the cgroup v2 hierarchy, normally `/sys/fs/cgroup`.
    pub cgroup_root: PathBuf,
}

/// A file or directory of the agent's mount namespace that appears in the container.
#[derive(Debug)]
pub struct Bind {
    /// Where: the destination of a bind mount of the specification.
    pub destination: PathBuf,
    /// A clone of its mount, attached nowhere (open_tree(2)).
    pub tree: OwnedFd,
}

/// What appears in a container beside its image and its own file systems; the fields are those of [`Bundle`].
#[derive(Debug, Default)]
pub struct Additions {
    /// Secrets.
    pub secrets: Vec<SecretFile>,
    /// Files of the agent's making.
    pub generated: Vec<GeneratedFile>,
    /// Volumes.
    pub binds: Vec<Bind>,
    /// Kernel settings.
    pub sysctls: BTreeMap<String, String>,
}

/// A file of the agent's making, for everybody in the container to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Absolute, normalised path in the container.
    pub path: PathBuf,
    /// Content.
    pub content: Vec<u8>,
}

/// A secret and where it appears. Its content is not printable.
pub struct SecretFile {
    /// Absolute, normalised path in the container.
    pub path: PathBuf,
    /// Mode, at most 0777; the owner is the container's user.
    pub mode: u32,
    /// Content.
    pub content: Zeroizing<Vec<u8>>,
}

/// File where a container may leave a message for whoever asks why it has ended, as Kubernetes calls it by default.
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// Standard streams of the process.
#[derive(Debug)]
pub enum Stdio {
    /// Three descriptors; the runtime's copies are closed when [`spawn`] returns.
    Streams {
        /// What it reads.
        stdin: OwnedFd,
        /// Where its output goes.
        stdout: OwnedFd,
        /// Where its messages go.
        stderr: OwnedFd,
    },
    /// A new terminal of the container, if and only if the specification has `process.terminal`. Its master is
    /// [`Running::terminal`].
    Terminal,
}

/// A container that runs, or has run and is not cleaned up.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    cgroup: Cgroup,
    terminal: Option<OwnedFd>,
    message: OwnedFd,
    ground: Arc<Ground>,
}

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Starts a container. Returns when its program has been executed, or with the reason why not; then nothing is left of it.
///
/// Blocks for some milliseconds; makes one thread and one child process. Wipes the secrets' memory.
///
/// # Errors
/// [`ContainerError`].
pub fn spawn(bundle: Bundle, stdio: Stdio) -> Result<Running, ContainerError> {
    let prepared = prepare(&bundle.name, &bundle.spec, &bundle.cgroup_root)?;
    let Bundle { layers, scratch_bytes, secrets, generated, binds, sysctls, .. } = bundle;
    prepared.start(layers, scratch_bytes, Additions { secrets, generated, binds, sysctls }, stdio)
}

/// The first part of [`spawn`], which needs neither layers nor secrets and so can be done while these are on their way: reads the
/// specification, compiles its filter, makes the cgroup. A prepared container that is not started leaves an empty cgroup, which the
/// next one of that name replaces.
///
/// # Errors
/// [`ContainerError`].
pub fn prepare(name: &str, spec: &oci_spec::runtime::Spec, cgroup_root: &Path) -> Result<Prepared, ContainerError> {
    let plan = Plan::new(name, spec)?;
    if plan.args.is_empty() {
        return Err(plan::malformed("process.args", "at least one", &"none"));
    }
    let cgroup = Cgroup::create(cgroup_root, name, plan.limits)?;
    Ok(Prepared { plan, cgroup })
}

/// A container that can be started.
pub struct Prepared {
    plan: Plan,
    cgroup: Cgroup,
}

impl Prepared {
    /// The second part of [`spawn`]; the parameters are those of [`Bundle`].
    ///
    /// # Errors
    /// [`ContainerError`].
    pub fn start(
        self,
        layers: Vec<PathBuf>,
        scratch_bytes: u64,
        additions: Additions,
        stdio: Stdio,
    ) -> Result<Running, ContainerError> {
        let Self { plan, cgroup } = self;
        // The thread's file system root and namespaces end with it; the container's process keeps them.
        let started = std::thread::scope(|scope| {
            let body = || start(&plan, layers, scratch_bytes, additions, stdio, &cgroup);
            let thread = std::thread::Builder::new().name("container".to_owned()).spawn_scoped(scope, body);
            let failed = |error: io::Error| Err(error).during(Stage::Clone, cgroup.path.display());
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => failed(io::Error::other("the thread that builds it ended early")),
                Err(error) => failed(error),
            }
        });
        match started {
            Ok(Started { pid, pidfd, terminal, message, user }) => {
                let ground = Arc::new(Ground { env: whole_env(&plan, &user), plan, user });
                Ok(Running { pid, pidfd, cgroup, terminal, message, ground })
            }
            Err(error) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("cgroup", &self.cgroup).finish_non_exhaustive()
    }
}

/// What is known of a container once its first process runs.
struct Started {
    pid: Pid,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    message: OwnedFd,
    user: ResolvedUser,
}

/// What every process of a container stands on.
#[derive(Debug)]
struct Ground {
    plan: Plan,
    user: ResolvedUser,
    /// The environment, with `HOME`.
    env: Vec<CString>,
}

/// Runs in the thread of [`Prepared::start`].
fn start(
    plan: &Plan,
    layers: Vec<PathBuf>,
    scratch_bytes: u64,
    additions: Additions,
    stdio: Stdio,
    cgroup: &Cgroup,
) -> Result<Started, ContainerError> {
    if plan.terminal != matches!(stdio, Stdio::Terminal) {
        let found = if plan.terminal { "set without one" } else { "not set with one" };
        return Err(plan::malformed("process.terminal", "to agree with the streams", &found));
    }
    if layers.is_empty() {
        return Err(plan::malformed("layers", "at least one", &"none"));
    }
    let directory = cgroup.open()?;
    let ready = rootfs::build(plan, &layers, scratch_bytes, additions)?;
    let env = whole_env(plan, &ready.user);
    let (master, stdio) = streams(stdio, ready.terminal)?;
    let process =
        Launch { plan, user: &ready.user, env: &env, args: &plan.args, terminal: plan.terminal, joins: false };
    let launched = process.launch(stdio, &directory)?;
    let program = launched.program.clone();
    let (pid, pidfd) = launched.become_program(plan, &ready.user)?;
    let pid = Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH).during(Stage::Clone, lossy(&program))?;
    Ok(Started { pid, pidfd, terminal: master, message: ready.message, user: ready.user })
}

/// The streams of the process, and the master of its terminal.
fn streams(
    stdio: Stdio,
    terminal: Option<(OwnedFd, OwnedFd)>,
) -> Result<(Option<OwnedFd>, [OwnedFd; 3]), ContainerError> {
    match (stdio, terminal) {
        (Stdio::Streams { stdin, stdout, stderr }, _) => Ok((None, [stdin, stdout, stderr])),
        (Stdio::Terminal, Some((master, peer))) => {
            let copy = |fd: &OwnedFd| fd.try_clone().during(Stage::Terminal, "its peer");
            Ok((Some(master), [copy(&peer)?, copy(&peer)?, peer]))
        }
        (Stdio::Terminal, None) => Err(io::Error::from_raw_os_error(libc::ENOTTY)).during(Stage::Terminal, ""),
    }
}

fn whole_env(plan: &Plan, user: &ResolvedUser) -> Vec<CString> {
    let mut env = plan.env.clone();
    if !env.iter().any(|entry| entry.as_bytes().starts_with(b"HOME=")) {
        env.extend(CString::new(format!("HOME={}", user.home)));
    }
    env
}

/// A process to be, of a container whose root and namespaces the calling thread is in.
struct Launch<'a> {
    plan: &'a Plan,
    user: &'a ResolvedUser,
    env: &'a [CString],
    args: &'a [CString],
    terminal: bool,
    joins: bool,
}

/// A process that has been made and has not become its program yet.
#[derive(Debug)]
struct Launched {
    pid: i32,
    pidfd: OwnedFd,
    report: io::PipeReader,
    program: CString,
}

impl Launch<'_> {
    fn launch(&self, stdio: [OwnedFd; 3], cgroup: &impl AsRawFd) -> Result<Launched, ContainerError> {
        let Self { plan, user, env, args, terminal, joins } = *self;
        let program = program(args, &plan.cwd, env)?;
        let (report, reporter) = io::pipe().during(Stage::Clone, "its report")?;
        let reporter = duplicate_high(&reporter.into()).during(Stage::Clone, "its report")?;
        let high = |fd: OwnedFd| duplicate_high(&fd).during(Stage::Stdio, "a stream");
        let [stdin, stdout, stderr] = stdio;
        // A process that joins finds mounts, hidden and read-only paths as the first one has left them.
        let first = |paths: &'_ [CString]| if joins { 0 } else { paths.len() };
        let child = Child {
            mounts: if joins { Vec::new() } else { ChildMount::all(plan) },
            masked: plan.masked.get(..first(&plan.masked)).unwrap_or_default(),
            read_only: plan.read_only.get(..first(&plan.read_only)).unwrap_or_default(),
            stdio: [high(stdin)?, high(stdout)?, high(stderr)?],
            terminal,
            rlimits: &plan.rlimits,
            cwd: CString::new(plan.cwd.as_os_str().as_encoded_bytes()).unwrap_or_default(),
            umask: plan.umask,
            uid: user.uid,
            gid: user.gid,
            groups: user.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect(),
            capabilities: plan.capabilities,
            no_new_privileges: plan.no_new_privileges,
            filters: &plan.filters,
            program,
            args: Pointers::new(args),
            env: Pointers::new(env),
            report: reporter.as_raw_fd(),
            joins,
        };
        let (pid, pidfd) = child.start(cgroup.as_raw_fd()).during(Stage::Clone, lossy(&child.program))?;
        // The child's copy of the reporter is closed by its `execve` or its end; with ours closed, too, the report ends then.
        Ok(Launched { pid, pidfd, report, program: child.program })
    }
}

impl Launched {
    /// Waits until the process has become its program. One that has not is killed and reaped.
    fn become_program(mut self, plan: &Plan, user: &ResolvedUser) -> Result<(i32, OwnedFd), ContainerError> {
        let mut told = Vec::new();
        let read = self.report.read_to_end(&mut told);
        let failure = Failure::read(&told);
        if read.is_err() || failure.is_some() {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
        read.during(Stage::Clone, lossy(&self.program))?;
        match failure {
            Some(failure) => Err(explain(plan, user, &self.program, failure)),
            None => Ok((self.pid, self.pidfd)),
        }
    }
}

/// The error for a failure of the child.
fn explain(plan: &Plan, user: &ResolvedUser, program: &CStr, failure: Failure) -> ContainerError {
    let index = failure.index;
    let subject = match failure.stage {
        Stage::Mount => {
            let mut mounts = plan.mounts.iter().filter(|mount| mount.kind.in_child());
            mounts.nth(index).map(|mount| mount.destination.display().to_string())
        }
        Stage::Mask => plan.masked.get(index).map(|path| lossy(path)),
        Stage::ReadOnly => plan.read_only.get(index).map(|path| lossy(path)),
        Stage::Rlimit => {
            plan.rlimits.get(index).map(|limit| format!("{} to {}:{}", limit.resource, limit.soft, limit.hard))
        }
        Stage::WorkingDirectory => Some(plan.cwd.display().to_string()),
        Stage::Identity => Some(format!("user {} and group {}", user.uid, user.gid)),
        Stage::Namespace => Some("cgroup".to_owned()),
        Stage::Stdio => Some("the standard streams".to_owned()),
        _ => Some(lossy(program)),
    };
    let source = io::Error::from_raw_os_error(failure.errno);
    ContainerError::Setup { stage: failure.stage, subject: subject.unwrap_or_default(), source }
}

/// Finds the program as Docker does: a name with a slash is a path, another one is looked up in the container's own `PATH`.
/// The thread's root is the container's by now.
fn program(args: &[CString], cwd: &Path, env: &[CString]) -> Result<CString, ContainerError> {
    let name = args.first().cloned().unwrap_or_default();
    if name.as_bytes().contains(&b'/') {
        return Ok(name);
    }
    let path = env.iter().find_map(|entry| entry.to_str().ok()?.strip_prefix("PATH=")).unwrap_or_default();
    let wanted = lossy(&name);
    for directory in path.split(':') {
        // An empty entry is the working directory.
        let candidate = cwd.join(directory).join(&wanted);
        let found = std::fs::metadata(&candidate);
        if found.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0) {
            return Ok(CString::new(candidate.as_os_str().as_encoded_bytes()).unwrap_or_default());
        }
    }
    Err(ContainerError::NotInPath { program: wanted, path: path.to_owned() })
}

/// The last bytes of a file as text of at most `max` bytes; what is no UTF-8 is replaced.
fn tail(file: &OwnedFd, max: usize) -> io::Result<String> {
    let size = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    let mut bytes = vec![0; size.min(max)];
    let from = u64::try_from(size.saturating_sub(max)).unwrap_or(0);
    let count = rustix::io::pread(file, bytes.as_mut_slice(), from)?;
    bytes.truncate(count);
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    // A replacement is longer than what it replaces.
    text.truncate((0..=text.len().min(max)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
    Ok(text)
}

/// A copy that none of the descriptors 0 to 2 can be.
fn duplicate_high(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 10)?)
}

fn lossy(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

impl Running {
    /// The first process, in the agent's PID namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable when the first process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Directory of the container's cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup.path
    }

    /// The terminal's master, with [`Stdio::Terminal`], once.
    pub fn terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Waits for the first process and reaps it. Not for an agent whose [`crate::reaper`] does that.
    ///
    /// # Errors
    /// `ECHILD` when somebody else has reaped it.
    pub fn wait(&self) -> io::Result<Exit> {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => {
                    let code = status.exit_status().map(Exit::Code);
                    let exit = code.or_else(|| status.terminating_signal().map(Exit::Signal));
                    return exit.ok_or_else(|| io::Error::other("the process has neither a status nor a signal"));
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a signal to the first process. As PID 1 of its namespace it gets only what it has a handler for, SIGKILL and SIGSTOP.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Ends every process of the container at once, the first one first: it must not see another one end and go on.
    ///
    /// # Errors
    /// [`ContainerError::Setup`] when the cgroup is gone.
    pub fn kill_all(&self) -> Result<(), ContainerError> {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.cgroup.kill()
    }

    /// Whether the kernel ended the container for lack of memory; to be asked before [`Running::cleanup`].
    pub fn oom_killed(&self) -> bool {
        self.cgroup.oom_killed()
    }

    /// What the container uses now.
    pub fn usage(&self) -> Usage {
        self.cgroup.usage()
    }

    /// The last `max` bytes of what the container has written to [`TERMINATION_LOG`], as text.
    ///
    /// # Errors
    /// What reading the file gives.
    pub fn termination_message(&self, max: usize) -> io::Result<String> {
        tail(&self.message, max)
    }

    /// The way in for further processes.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn entrance(&self) -> io::Result<Entrance> {
        Ok(Entrance::new(self.pidfd.try_clone()?, self.cgroup.path.clone(), self.ground.clone()))
    }

    /// Ends what still runs and removes the cgroup; mounts, scratch memory and secrets go with the last process.
    ///
    /// # Errors
    /// [`ContainerError::StillRunning`] when processes do not end within 2 s of SIGKILL.
    pub fn cleanup(self) -> Result<(), ContainerError> {
        self.cgroup.remove()
    }
}

impl Exit {
    /// As a shell has it: the status, or 128 and the signal.
    pub fn status(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_i32.saturating_add(signal),
        }
    }
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretFile").field("path", &self.path).field("mode", &self.mode).finish_non_exhaustive()
    }
}
