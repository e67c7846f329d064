//! The containers of the pod: started by name, described by the contract alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use belljar_contract::{Container, Contract, HostValues, Permission, oci_spec};
use belljar_guest_api::status::Code;
use rustix::process::Signal;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{
    attest::Released,
    container::{self, Bundle, Running, SecretFile, Stdio},
    guest::Guest,
    layers::Layers,
    network::{self, NetworkError},
    reaper::ExitCode,
    refusal::Refusal,
    streams::{self, End, Streams},
};

const CGROUPS: &str = "/sys/fs/cgroup";
/// How long a killed container may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

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
    /// It was started before.
    #[error("container {0:?} was started already")]
    Started(String),
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
    /// Its stdin is closed.
    #[error("stdin of container {0:?} is closed")]
    InputClosed(String),
    /// No such signal.
    #[error("{0} is not a signal, expected 1 to 64")]
    Signal(u32),
    /// The container could not be started.
    #[error("container {name:?} does not start: {why}")]
    Start {
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
            Self::Unknown(_) => Code::NotFound,
            Self::Started(_) => Code::AlreadyExists,
            Self::Denied { .. } => Code::PermissionDenied,
            Self::Signal(_) => Code::InvalidArgument,
            Self::System { .. } => Code::Internal,
            Self::Network { code, .. } => *code,
            _ => Code::FailedPrecondition,
        }
    }
}

/// How a container has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit status as a shell has it.
    pub code: ExitCode,
    /// The kernel ended it for lack of memory.
    pub oom_killed: bool,
    /// The guest ended it, or does not vouch for what it did, because a layer was changed.
    pub refusal: Option<Refusal>,
}

/// A started container.
#[derive(Debug)]
pub struct Process {
    name: String,
    running: Mutex<Option<Running>>,
    /// Its standard streams.
    pub streams: Streams,
    ended: watch::Sender<Option<Ended>>,
}

/// The containers that the contract allows.
#[derive(Debug)]
pub struct Pod {
    contract: Contract,
    layers: Arc<Layers>,
    released: Mutex<Released>,
    claimed: Mutex<BTreeSet<String>>,
    started: Mutex<BTreeMap<String, Arc<Process>>>,
}

impl Pod {
    /// A pod with opened layers and released secrets, none of its containers started.
    pub fn new(contract: Contract, layers: Arc<Layers>, released: Released) -> Self {
        let released = Mutex::new(released);
        Self { contract, layers, released, claimed: Mutex::default(), started: Mutex::default() }
    }

    /// Starts the container `name`, once.
    pub async fn start(&self, guest: &Arc<Guest>, name: &str) -> Result<(), PodError> {
        let container = self.contract.containers.get(name).ok_or_else(|| PodError::Unknown(name.to_owned()))?;
        guest.network.settings(&self.contract)?;
        if !lock(&self.claimed).insert(name.to_owned()) {
            return Err(PodError::Started(name.to_owned()));
        }
        let started = guest.board.timed_async("container", self.spawn(guest, name, container)).await;
        let started = started.map(|process| {
            lock(&self.started).insert(name.to_owned(), process);
        });
        // Who watches the layers ends the containers that it finds: one that was just being made is not among them.
        match self.layers.changed() {
            Some(refusal) => {
                guest.board.refuse(refusal.clone());
                self.kill();
                Err(PodError::Refused(refusal))
            }
            None => started,
        }
    }

    async fn spawn(&self, guest: &Arc<Guest>, name: &str, container: &Container) -> Result<Arc<Process>, PodError> {
        let failed = |why: &dyn std::fmt::Display| PodError::Start { name: name.to_owned(), why: why.to_string() };
        let settings = guest.network.settings(&self.contract)?;
        let host =
            HostValues { env: BTreeMap::new(), hostname: settings.and_then(|settings| settings.hostname.clone()) };
        let spec = oci_spec(&self.contract, name, &host).map_err(|error| failed(&error))?;
        let layers = self.layers.mount_points(&container.layers).ok_or_else(|| failed(&"a layer is not open"))?;
        let bundle = Bundle {
            name: name.to_owned(),
            spec,
            layers,
            scratch_bytes: container.scratch_bytes,
            secrets: self.take_secrets(name, container).ok_or_else(|| failed(&"a secret is not there"))?,
            generated: network::files::of(&self.contract, container, settings),
            cgroup_root: CGROUPS.into(),
        };
        let (logs, input) = (container.logs == Permission::Allow, container.stdin == Permission::Allow);
        let (stdio, ours) = open_streams(container.terminal, logs, input).map_err(|error| failed(&error))?;
        let adopted = tokio::task::spawn_blocking({
            let guest = guest.clone();
            move || guest.reaper.adopt(|| container::spawn(bundle, stdio), Running::pid)
        });
        let (mut running, exit) = adopted.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let streams = connect_streams(ours, running.terminal(), logs, input).map_err(|error| failed(&error))?;
        let process = Arc::new(Process {
            name: name.to_owned(),
            running: Mutex::new(Some(running)),
            streams,
            ended: watch::Sender::new(None),
        });
        tokio::spawn(end(guest.clone(), process.clone(), exit, self.layers.clone()));
        Ok(process)
    }

    /// The container's secrets as files. A resource that no other container can still ask for leaves our memory.
    fn take_secrets(&self, name: &str, container: &Container) -> Option<Vec<SecretFile>> {
        let mut released = lock(&self.released);
        let mut files = Vec::with_capacity(container.secrets.len());
        for secret in &container.secrets {
            let content = released.resources.get(&secret.resource)?;
            let content = Zeroizing::new(content.to_vec());
            files.push(SecretFile { path: secret.path.clone().into(), mode: secret.mode, content });
        }
        let claimed = lock(&self.claimed);
        let others = self.contract.containers.iter().filter(|(other, _)| *other != name && !claimed.contains(*other));
        let wanted: BTreeSet<&str> =
            others.flat_map(|(_, other)| &other.secrets).map(|secret| secret.resource.as_str()).collect();
        released.resources.retain(|resource, _| wanted.contains(resource.as_str()));
        Some(files)
    }

    /// What the pod may do.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// The started container `name`.
    pub fn process(&self, name: &str) -> Result<Arc<Process>, PodError> {
        if !self.contract.containers.contains_key(name) {
            return Err(PodError::Unknown(name.to_owned()));
        }
        lock(&self.started).get(name).cloned().ok_or_else(|| PodError::NotStarted(name.to_owned()))
    }

    /// Ends every container: SIGTERM, and SIGKILL to what is left after `grace`.
    pub async fn stop(&self, grace: Duration) {
        let processes: Vec<_> = lock(&self.started).values().cloned().collect();
        if !grace.is_zero() {
            for process in &processes {
                let _ = process.signal(Signal::TERM);
            }
            let all = async {
                for process in &processes {
                    process.wait().await;
                }
            };
            let _ = tokio::time::timeout(grace, all).await;
        }
        self.kill();
        for process in &processes {
            let _ = tokio::time::timeout(KILL_PATIENCE, process.wait()).await;
        }
    }

    /// Kills every container at once.
    pub fn kill(&self) {
        for process in lock(&self.started).values() {
            if let Some(running) = lock(&process.running).as_ref() {
                let _ = running.kill_all();
            }
        }
    }
}

impl Process {
    /// Waits for the end.
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        ended.unwrap_or(Ended { code: 255, oom_killed: false, refusal: None })
    }

    /// Sends a signal to the first process.
    pub fn signal(&self, signal: Signal) -> Result<(), PodError> {
        match lock(&self.running).as_ref() {
            Some(running) => running.signal(signal).map_err(|error| match error.raw_os_error() {
                Some(libc::ESRCH) => PodError::Ended(self.name.clone()),
                _ => PodError::System { name: self.name.clone(), why: error.to_string() },
            }),
            None => Err(PodError::Ended(self.name.clone())),
        }
    }
}

/// Follows a container to its end, cleans up, and only then says how it ended.
async fn end(
    guest: Arc<Guest>,
    process: Arc<Process>,
    mut exit: watch::Receiver<Option<ExitCode>>,
    layers: Arc<Layers>,
) {
    let code = exit.wait_for(Option::is_some).await.ok().and_then(|code| *code).unwrap_or(255);
    let running = lock(&process.running).take();
    let oom_killed = running.as_ref().is_some_and(Running::oom_killed);
    // The container may have seen the failed block and ended by itself, before the kernel's event reached us.
    let refusal = layers.changed();
    if let Some(refusal) = &refusal {
        guest.board.refuse(refusal.clone());
    }
    process.ended.send_replace(Some(Ended { code, oom_killed, refusal }));
    let cleaned = tokio::task::spawn_blocking(move || running.map(Running::cleanup)).await;
    if let Ok(Some(Err(error))) = cleaned {
        tracing::warn!(%error, name = process.name, "container is not cleaned up");
    }
}

type Ours = [Option<std::os::fd::OwnedFd>; 3];

fn open_streams(terminal: bool, logs: bool, input: bool) -> std::io::Result<(Stdio, Ours)> {
    if terminal {
        return Ok((Stdio::Terminal, [None, None, None]));
    }
    let (stdin, our_stdin) = streams::input(input)?;
    let (stdout, our_stdout) = streams::output(logs)?;
    let (stderr, our_stderr) = streams::output(logs)?;
    Ok((Stdio::Streams { stdin, stdout, stderr }, [our_stdin, our_stdout, our_stderr]))
}

fn connect_streams(
    ours: Ours,
    terminal: Option<std::os::fd::OwnedFd>,
    logs: bool,
    input: bool,
) -> std::io::Result<Streams> {
    let [mut stdin, mut stdout, stderr] = ours;
    if let Some(master) = terminal {
        stdin = input.then(|| master.try_clone()).transpose()?;
        if logs {
            stdout = Some(master);
        } else {
            let master = End::new(master)?;
            // A terminal that nobody reads would stop the container.
            tokio::spawn(async move { while master.read(4096).await.is_ok_and(|data| !data.is_empty()) {} });
        }
    }
    let output = |fd: Option<_>| fd.map(|fd| End::new(fd).map(tokio::sync::Mutex::new)).transpose();
    let stdin = stdin.map(|fd| End::new(fd).map(|end| tokio::sync::Mutex::new(Some(end)))).transpose()?;
    Ok(Streams { stdin, stdout: output(stdout)?, stderr: output(stderr)? })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
