//! A running pod VM: start, connect, watch, end.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use belljar_guest_api::api::{AgentClient, HelloRequest, HelloResponse};
use belljar_guest_api::status::CallError;
use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use ttrpc::asynchronous::transport::Socket;

use crate::agent_link::{AgentLink, Fault};
use crate::cgroup;
use crate::channels::Channels;
use crate::console::{Console, LastLines, printable};
use crate::machine::{Machine, MachineError, TeeKind};
use crate::qemu::{Qemu, QemuError};
use crate::supervisor::{self, Exit, Quit};
use crate::tee_port::{self, SecureProcessor, TeePortError};

/// Longest wait for the agent's `Hello` unless told otherwise. Bad input must end within 30 s.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(25);
/// How long QEMU may take to end when told so, before it is killed.
const QUIT_GRACE: Duration = Duration::from_millis(800);
/// How long it may take from there until it is reaped. Together a VM's end takes at most 2 s.
const KILL_GRACE: Duration = Duration::from_millis(1200);

/// How to start a pod VM.
#[derive(Debug)]
pub struct Options {
    /// Where the version of QEMU is remembered.
    pub cache_dir: PathBuf,
    /// A QEMU binary, instead of `BELLJAR_QEMU` or the one in `PATH`.
    pub qemu: Option<PathBuf>,
    /// Longest wait for the agent.
    pub boot_timeout: Duration,
    /// Receives what the guest writes to its console; for a machine whose command line has the debug word only.
    pub console: Option<std::fs::File>,
    /// Writes the reports of a software TEE; for that TEE only. Without one the guest gets an error instead of a report.
    pub processor: Option<Arc<dyn SecureProcessor>>,
    /// Folders of the cgroups that QEMU enters before its first instruction: one of version 2, or one of each hierarchy
    /// of version 1. A folder that does not exist is passed over.
    pub cgroups: Vec<PathBuf>,
    /// `oom_score_adj` of QEMU (`proc_pid_oom_score_adj(5)`); where it cannot be set, QEMU runs with ours.
    pub oom_score_adj: Option<i16>,
}

impl Options {
    /// Defaults: QEMU from the environment, [`BOOT_TIMEOUT`], no console, no secure processor, our own cgroups.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            qemu: None,
            boot_timeout: BOOT_TIMEOUT,
            console: None,
            processor: None,
            cgroups: Vec::new(),
            oom_score_adj: None,
        }
    }
}

/// Why there is no pod VM. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// The description is not valid.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// No usable QEMU.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// A console was given for a machine without debug.
    #[error("the guest's console may be read in debug mode only; add --debug, which changes the measurement")]
    ConsoleNeedsDebug,
    /// A software secure processor was given for a hardware TEE.
    #[error("a software secure processor cannot write the reports of {tee}")]
    ProcessorWithHardware {
        /// The machine's TEE.
        tee: TeeKind,
    },
    /// The operating system refused something.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The operating system's words.
        error: std::io::Error,
    },
    /// QEMU ended by itself, before or while the guest ran.
    #[error(
        "QEMU ended ({status}) before the guest answered: {stderr}; run `belljar doctor`, or build the guest image anew"
    )]
    QemuFailed {
        /// Exit status in words.
        status: String,
        /// What it said, at most 1 KiB in one line.
        stderr: String,
    },
    /// No `Hello` in time.
    #[error("the guest did not answer within {} s; is the guest image whole? {last_lines}", waited.as_secs())]
    BootTimeout {
        /// The time waited.
        waited: Duration,
        /// What the guest printed.
        last_lines: LastLines,
    },
    /// The guest's kernel stopped with a panic or a reset.
    #[error("the guest crashed while starting; is the guest image whole? {last_lines}")]
    GuestCrashed {
        /// What the guest printed.
        last_lines: LastLines,
    },
    /// The guest powered itself off.
    #[error("the guest powered off before it answered; {last_lines}")]
    GuestPoweredOff {
        /// What the guest printed.
        last_lines: LastLines,
    },
    /// The agent's port carries something else than answers.
    #[error("the guest's agent answers garbage ({found}); build the guest image anew: belljar guest build")]
    AgentGarbage {
        /// What came, bounded.
        found: String,
    },
    /// The agent speaks another version.
    #[error(
        "the guest's agent speaks protocol {found}, expected {expected}; build the guest image anew: belljar guest build"
    )]
    Protocol {
        /// Our version.
        expected: u32,
        /// The agent's.
        found: u32,
    },
    /// The agent refused `Hello`.
    #[error("the guest's agent refused to begin: {0}")]
    HelloRefused(CallError),
}

/// A running pod VM whose agent has answered. Dropping it kills the VM.
pub struct PodVm {
    agent: AgentClient,
    hello: HelloResponse,
    timings: Timings,
    running: Running,
}

impl std::fmt::Debug for PodVm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodVm").field("running", &self.running).field("timings", &self.timings).finish_non_exhaustive()
    }
}

/// How long the start took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Timings {
    /// From the call of [`PodVm::spawn`] until QEMU was started.
    pub before_spawn: Duration,
    /// From there to the agent's `Hello`.
    pub spawn_to_hello: Duration,
}

/// The part that exists before the agent has answered; dropping it kills QEMU.
#[derive(Debug)]
struct Running {
    pid: u32,
    handle: Killer,
    console: Console,
    tee_ended: tee_port::Ended,
    tee_service: JoinHandle<()>,
    fault: Fault,
    probe: Option<UnixStream>,
}

/// A pod VM that has been started and whose agent has not answered yet. Dropping it kills the VM.
pub struct Booting {
    agent: AgentClient,
    running: Running,
    before_spawn: Duration,
    spawned: Instant,
    limit: Duration,
}

impl std::fmt::Debug for Booting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Booting").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Booting {
    /// Process id of QEMU.
    pub fn qemu_pid(&self) -> u32 {
        self.running.pid
    }

    /// Completes when the VM has ended, with the reason. May be called, and awaited, any number of times.
    pub fn exited(&self) -> impl Future<Output = Exit> + Send + 'static {
        exit_of(self.running.handle.exit.clone())
    }

    /// Ends the VM from anywhere, also while [`Booting::hello`] waits.
    pub fn killer(&self) -> Killer {
        self.running.handle.clone()
    }

    /// Waits for the agent, at most until the boot's time is over; it runs since the start. A VM that does not answer
    /// is ended.
    pub async fn hello(self) -> Result<PodVm, VmError> {
        let Self { agent, running, before_spawn, spawned, limit } = self;
        let hello = match running.hello(&agent, spawned + limit, limit).await {
            Ok(hello) => hello,
            Err(error) => {
                running.handle.kill().await;
                return Err(error);
            }
        };
        let timings = Timings { before_spawn, spawn_to_hello: spawned.elapsed() };
        tracing::debug!(pid = running.pid, ?timings, "pod VM runs");
        Ok(PodVm { agent, hello, timings, running })
    }
}

/// Ends a pod VM; clones end the same one.
#[derive(Clone, Debug)]
pub struct Killer {
    pidfd: Arc<OwnedFd>,
    exit: watch::Receiver<Option<Exit>>,
    quit: Arc<Quit>,
}

impl Killer {
    /// Ends the VM now: QEMU is told to quit, and killed when it has not within 0.8 s. It takes at most 2 s; then QEMU is
    /// reaped, unless the kernel cannot end it, in which case it is reaped later.
    pub async fn kill(&self) -> Exit {
        self.quit.ask();
        if let Ok(exit) = tokio::time::timeout(QUIT_GRACE, exit_of(self.exit.clone())).await {
            return exit;
        }
        let _ = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
        tokio::time::timeout(KILL_GRACE, exit_of(self.exit.clone())).await.unwrap_or(Exit::Killed)
    }
}

impl PodVm {
    /// Starts the machine; its agent answers later.
    pub async fn spawn(machine: &Machine, options: Options) -> Result<Booting, VmError> {
        let began = Instant::now();
        let (running, agent) = Running::start(machine, &options).await?;
        let spawned = Instant::now();
        Ok(Booting { agent, running, before_spawn: spawned - began, spawned, limit: options.boot_timeout })
    }

    /// Starts the machine and waits for its agent.
    pub async fn start(machine: &Machine, options: Options) -> Result<Self, VmError> {
        Self::spawn(machine, options).await?.hello().await
    }

    /// The agent. Clones share one connection.
    pub fn agent(&self) -> AgentClient {
        self.agent.clone()
    }

    /// What the agent said at `Hello`.
    pub fn hello(&self) -> &HelloResponse {
        &self.hello
    }

    /// Process id of QEMU.
    pub fn qemu_pid(&self) -> u32 {
        self.running.pid
    }

    /// How long the start took.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// What the guest wrote to its console lately.
    pub fn console(&self) -> &Console {
        &self.running.console
    }

    /// Completes when the VM has ended, with the reason. May be called, and awaited, any number of times.
    pub fn exited(&self) -> impl Future<Output = Exit> + Send + 'static {
        exit_of(self.running.handle.exit.clone())
    }

    /// Ends the VM from anywhere.
    pub fn killer(&self) -> Killer {
        self.running.handle.clone()
    }

    /// Why the TEE port is no longer served although the VM runs.
    pub fn tee_port_error(&self) -> Option<&TeePortError> {
        self.running.tee_ended.get()
    }

    /// What was wrong with the agent's bytes, after a call has failed with a lost connection.
    pub fn agent_fault(&self) -> Option<String> {
        self.running.fault.found()
    }

    /// The host's end of the probe port, once. Nothing reads it otherwise, so what the guest writes there stays in memory
    /// that it shares.
    pub fn take_probe_port(&mut self) -> Option<UnixStream> {
        self.running.probe.take()
    }

    /// Ends the VM now, as [`Killer::kill`] does.
    pub async fn kill(self) -> Exit {
        self.running.handle.kill().await
    }
}

impl Running {
    async fn start(machine: &Machine, options: &Options) -> Result<(Self, AgentClient), VmError> {
        let system = |what| move |error: std::io::Error| VmError::System { what, error };
        machine.check_files()?;
        if options.console.is_some() && !machine.debug() {
            return Err(VmError::ConsoleNeedsDebug);
        }
        if options.processor.is_some() && machine.tee.kind() != TeeKind::Software {
            return Err(VmError::ProcessorWithHardware { tee: machine.tee.kind() });
        }
        let qemu = match &options.qemu {
            Some(path) => Qemu::at(path, &options.cache_dir)?,
            None => Qemu::find(&options.cache_dir)?,
        };
        let qemu = qemu.check_tee(machine.tee.kind())?;
        let sink = options.console.as_ref().map(std::fs::File::try_clone).transpose();
        let sink = sink.map_err(system("use the console file"))?;
        let (host, guest) = Channels::make(machine).map_err(system("make the pod VM's channels"))?;
        let arguments = crate::arguments(machine, &guest.fds());
        let cgroups = cgroup::procs(&options.cgroups).map_err(system("enter the pod's cgroup"))?;
        let spawned = crate::spawn::spawn(&qemu.path, arguments, guest.into_fds(), cgroups).await;
        let spawned = spawned.map_err(system("start QEMU"))?;
        if let Some(score) = options.oom_score_adj
            && let Err(error) = std::fs::write(format!("/proc/{}/oom_score_adj", spawned.pid), score.to_string())
        {
            tracing::warn!(%error, score, "QEMU keeps our oom_score_adj");
        }

        let (pid, pidfd) = (spawned.pid, spawned.pidfd.clone());
        let quit = Arc::new(Quit::default());
        let console = Console::default();
        let exit = supervisor::watch(spawned, host.qmp, host.console, console.clone(), sink, quit.clone())
            .map_err(system("watch QEMU"))?;
        let tee_ended = tee_port::Ended::new(OnceLock::new());
        let service = tee_port::serve(host.tee, options.processor.clone(), pid);
        let tee_service = tokio::spawn({
            let ended = tee_ended.clone();
            async move {
                if let Err(error) = service.await {
                    tracing::warn!(%error, "TEE port is no longer served");
                    let _ = ended.set(error);
                }
            }
        });
        let (link, fault) = AgentLink::new(host.agent);
        let agent = AgentClient::new(ttrpc::asynchronous::Client::new(Socket::new(link)));
        let probe = Some(host.probe);
        let handle = Killer { pidfd, exit, quit };
        Ok((Self { pid, handle, console, tee_ended, tee_service, fault, probe }, agent))
    }

    /// Bytes wait in the socket until the guest has opened its port, so one call is enough.
    async fn hello(&self, agent: &AgentClient, deadline: Instant, limit: Duration) -> Result<HelloResponse, VmError> {
        let timeout = || VmError::BootTimeout { waited: limit, last_lines: self.console.last_lines() };
        let request = HelloRequest { protocol: belljar_guest_api::PROTOCOL, ..Default::default() };
        let call = agent.hello(ttrpc::context::with_duration(limit + Duration::from_secs(5)), &request);
        let answer = tokio::select! {
            answer = call => answer,
            exit = exit_of(self.handle.exit.clone()) => return Err(self.ended_early(exit)),
            () = tokio::time::sleep_until(deadline.into()) => return Err(timeout()),
        };
        let error = match answer {
            Ok(hello) if hello.protocol == belljar_guest_api::PROTOCOL => return Ok(hello),
            Ok(hello) => {
                return Err(VmError::Protocol { expected: belljar_guest_api::PROTOCOL, found: hello.protocol });
            }
            Err(error) => error,
        };
        if let Some(found) = self.fault.found() {
            return Err(VmError::AgentGarbage { found });
        }
        if let Some(refused) = CallError::of(&error) {
            return Err(VmError::HelloRefused(refused));
        }
        // The connection is lost: mostly since QEMU is about to be gone.
        match tokio::time::timeout(Duration::from_secs(2), exit_of(self.handle.exit.clone())).await {
            Ok(exit) => Err(self.ended_early(exit)),
            Err(_) => Err(VmError::AgentGarbage { found: printable(error.to_string().as_bytes(), 200) }),
        }
    }

    fn ended_early(&self, exit: Exit) -> VmError {
        match exit {
            Exit::PoweredOff => VmError::GuestPoweredOff { last_lines: self.console.last_lines() },
            Exit::Crashed { last_lines } => VmError::GuestCrashed { last_lines },
            Exit::Killed => VmError::QemuFailed { status: "killed".into(), stderr: String::new() },
            Exit::QemuFailed { status, stderr } => VmError::QemuFailed { status, stderr },
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tee_service.abort();
        if self.handle.exit.borrow().is_none() {
            self.handle.quit.ask();
            // The supervisor reaps it; the pidfd cannot name another process.
            let _ = rustix::process::pidfd_send_signal(self.handle.pidfd.as_fd(), Signal::KILL);
        }
    }
}

async fn exit_of(mut exit: watch::Receiver<Option<Exit>>) -> Exit {
    match exit.wait_for(Option::is_some).await.map(|exit| exit.clone()) {
        Ok(Some(exit)) => exit,
        _ => Exit::Killed,
    }
}
