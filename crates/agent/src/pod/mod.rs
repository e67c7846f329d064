//! The containers of the pod: started by name, described by the contract alone, in the order and as often as it says.

mod error;
mod exec;
mod order;
mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use belljar_contract::{Container, Contract, HostValues, oci_spec};
use belljar_guest_api::limits::MAX_TERMINATION_MESSAGE;
use oci_spec::runtime::Spec;
use rustix::process::Signal;
use tokio::sync::watch;
use zeroize::Zeroizing;

pub use error::PodError;
pub use order::Stand;
pub use process::{Ended, Process};

use crate::{
    attest::Released,
    container::{self, Beginning, Bind, Bundle, ContainerError, Entrance, GeneratedFile, Running, SecretFile, Usage},
    guest::Guest,
    layers::Layers,
    logs::Logs,
    network,
    reaper::ExitCode,
    sysctl,
    volumes::Volumes,
};
use exec::Execs;
use process::Wires;

const CGROUPS: &str = "/sys/fs/cgroup";
/// How long a killed container may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// The containers that the contract allows.
#[derive(Debug)]
pub struct Pod {
    contract: Contract,
    layers: Arc<Layers>,
    /// The pod's volumes.
    pub volumes: Volumes,
    released: Mutex<Released>,
    logs: Logs,
    slots: Mutex<BTreeMap<String, Slot>>,
    execs: Execs,
}

/// What became of a container so far.
#[derive(Debug, Default)]
struct Slot {
    starting: bool,
    failed: bool,
    run: Option<Arc<Run>>,
}

/// One run of a container.
#[derive(Debug)]
struct Run {
    process: Arc<Process>,
    /// `None` once it has ended.
    running: Mutex<Option<Running>>,
    /// Whether nothing is left of it.
    gone: watch::Sender<bool>,
}

/// Whom a process's streams are for: what is not allowed goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whether its output can be read.
    pub output: bool,
    /// Whether its stdin can be written.
    pub input: bool,
}

impl Access {
    /// What the contract lets the host do.
    pub fn of_host(container: &Container) -> Self {
        Self { output: container.logs.allowed(), input: container.stdin.allowed() }
    }
}

/// What appears in a container beside its image, the contract's file systems and its secrets.
struct Places {
    binds: Vec<Bind>,
    generated: Vec<GeneratedFile>,
}

impl Slot {
    fn stand(&self) -> Stand {
        match &self.run {
            _ if self.starting => Stand::Runs,
            _ if self.failed => Stand::Failed,
            None => Stand::New,
            Some(run) => run.process.ended().map_or(Stand::Runs, |ended| Stand::of(&ended)),
        }
    }
}

impl Pod {
    /// A pod with opened layers, volumes and released secrets, none of its containers started.
    pub fn new(contract: Contract, layers: Arc<Layers>, volumes: Volumes, released: Released) -> Self {
        let released = Mutex::new(released);
        let logs = Logs::of(&contract);
        Self { contract, layers, volumes, released, logs, slots: Mutex::default(), execs: Execs::default() }
    }

    /// What the pod may do.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// What its containers have said, for the operator.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Starts the container `name`, when it is its turn. What happens does not depend on whether the caller goes on waiting.
    pub async fn start(guest: &Arc<Guest>, name: &str, env: BTreeMap<String, String>) -> Result<(), PodError> {
        // Not in the task: what waits long must end with its caller, who holds the bound on requests.
        guest.ready_pod().await?;
        let (guest, name) = (guest.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            let pod = guest.ready_pod().await?;
            pod.start_now(&guest, &name, env).await
        });
        task.await.unwrap_or(Err(PodError::Stopping))
    }

    async fn start_now(&self, guest: &Arc<Guest>, name: &str, env: BTreeMap<String, String>) -> Result<(), PodError> {
        let container = self.container(name)?;
        let settings = guest.network.settings(&self.contract)?;
        let values = HostValues { env, hostname: settings.and_then(|settings| settings.hostname.clone()) };
        let spec = oci_spec(&self.contract, name, &values);
        let spec = spec.map_err(|error| PodError::HostValue { why: error.to_string() })?;
        let binds = self.volumes.binds(&self.contract, name)?;
        let generated = network::files::of(&self.contract, container, settings);
        let places = Places { binds, generated };
        let last = self.claim(name)?;
        if let Some(last) = last {
            let _ = tokio::time::timeout(KILL_PATIENCE, last.gone.subscribe().wait_for(|gone| *gone)).await;
        }
        let spawned = self.spawn(guest, name, container, spec, places);
        let started = guest.board.timed_async("container", spawned).await;
        {
            let mut slots = lock(&self.slots);
            let slot = slots.entry(name.to_owned()).or_default();
            slot.starting = false;
            slot.failed = started.is_err();
            slot.run = started.as_ref().ok().cloned();
        }
        self.forget_secrets();
        // Who watches the layers ends the containers that it finds: one that was just being made is not among them.
        match self.layers.changed() {
            Some(refusal) => {
                guest.board.refuse(refusal.clone());
                self.kill();
                Err(PodError::Refused(refusal))
            }
            None => started.map(drop),
        }
    }

    /// Takes the right to start `name` now; gives its last run.
    fn claim(&self, name: &str) -> Result<Option<Arc<Run>>, PodError> {
        let mut slots = lock(&self.slots);
        order::may_start(&self.contract, name, |name| slots.get(name).map_or(Stand::New, Slot::stand))?;
        let slot = slots.entry(name.to_owned()).or_default();
        slot.starting = true;
        Ok(slot.run.clone())
    }

    async fn spawn(
        &self,
        guest: &Arc<Guest>,
        name: &str,
        container: &Container,
        spec: Spec,
        Places { binds, generated }: Places,
    ) -> Result<Arc<Run>, PodError> {
        let failed = |why: &dyn std::fmt::Display| PodError::Start { name: name.to_owned(), why: why.to_string() };
        let layers = self.layers.mount_points(&container.layers).ok_or_else(|| failed(&"a layer is not open"))?;
        let bundle = Bundle {
            name: name.to_owned(),
            spec,
            layers,
            scratch_bytes: container.scratch_bytes,
            secrets: self.secrets(container).ok_or_else(|| failed(&"a secret is not there"))?,
            binds,
            generated,
            sysctls: sysctl::of_container(&self.contract.pod.sysctls),
            cgroup_root: CGROUPS.into(),
        };
        let access = Access::of_host(container);
        let (stdio, wires) =
            Wires::new(container.terminal, access, self.logs.get(name)).map_err(|error| failed(&error))?;
        let adopted = tokio::task::spawn_blocking({
            let guest = guest.clone();
            move || guest.reaper.adopt(|| container::spawn(bundle, stdio), Running::pid)
        });
        let (mut running, exit) = adopted.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let terminal = running.terminal();
        let process = running
            .pidfd()
            .try_clone_to_owned()
            .and_then(|pidfd| Process::new(name.to_owned(), pidfd, wires, terminal));
        let process = match process {
            Ok(process) => Arc::new(process),
            Err(error) => {
                // Nobody could follow it.
                let _ = tokio::task::spawn_blocking(move || running.cleanup()).await;
                return Err(failed(&error));
            }
        };
        let run = Arc::new(Run { process, running: Mutex::new(Some(running)), gone: watch::Sender::new(false) });
        tokio::spawn(follow(guest.clone(), run.clone(), exit, access));
        Ok(run)
    }

    /// The container's secrets as files.
    fn secrets(&self, container: &Container) -> Option<Vec<SecretFile>> {
        let released = lock(&self.released);
        let file = |secret: &belljar_contract::Secret| {
            let content = Zeroizing::new(released.resources.get(&secret.resource)?.to_vec());
            Some(SecretFile { path: secret.path.clone().into(), mode: secret.mode, content })
        };
        container.secrets.iter().map(file).collect()
    }

    /// Wipes what no container can ask for any more.
    fn forget_secrets(&self) {
        let slots = lock(&self.slots);
        let may_start = |name: &String, container: &Container| {
            order::may_start_ever(container, slots.get(name).map_or(Stand::New, Slot::stand))
        };
        let wanted: BTreeSet<&str> = self
            .contract
            .containers
            .iter()
            .filter(|(name, container)| may_start(name, container))
            .flat_map(|(_, container)| &container.secrets)
            .map(|secret| secret.resource.as_str())
            .collect();
        lock(&self.released).resources.retain(|resource, _| wanted.contains(resource.as_str()));
    }

    fn container(&self, name: &str) -> Result<&Container, PodError> {
        self.contract.containers.get(name).ok_or_else(|| PodError::Unknown(name.to_owned()))
    }

    /// The last run of the container `name`.
    fn run(&self, name: &str) -> Result<Arc<Run>, PodError> {
        self.container(name)?;
        let run = lock(&self.slots).get(name).and_then(|slot| slot.run.clone());
        run.ok_or_else(|| PodError::NotStarted(name.to_owned()))
    }

    /// The first process of the container `name`, or the one that joined it as `exec`.
    pub fn process(&self, name: &str, exec: &str) -> Result<Arc<Process>, PodError> {
        match exec {
            "" => Ok(self.run(name)?.process.clone()),
            id => {
                self.container(name)?;
                Ok(self.execs.find(name, id)?.1)
            }
        }
    }

    /// Waits for the end of a process.
    pub async fn wait(&self, name: &str, exec: &str) -> Result<Ended, PodError> {
        let process = self.process(name, exec)?;
        let ended = process.wait().await;
        if let Ok((exec, found)) = self.execs.find(name, exec)
            && Arc::ptr_eq(&found, &process)
        {
            exec.was_waited_for();
        }
        Ok(ended)
    }

    /// Starts a further process in the running container `name` for the host, as `id`: only a command that the contract lists, on a
    /// terminal only in a container that has one by the contract. What happens does not depend on whether the caller goes on waiting.
    pub async fn start_exec(
        guest: &Arc<Guest>,
        name: &str,
        id: &str,
        args: Vec<String>,
        terminal: bool,
    ) -> Result<(), PodError> {
        guest.ready_pod().await?;
        let (guest, name, id) = (guest.clone(), name.to_owned(), id.to_owned());
        let task = tokio::spawn(async move {
            let pod = guest.ready_pod().await?;
            let container = pod.container(&name)?;
            exec::allowed(&name, container, &args, terminal)?;
            let place = pod.execs.reserve(&name, &id)?;
            let started = pod.start_unlisted(&guest, &name, &id, args, terminal, Access::of_host(container)).await;
            match started {
                Ok(process) => place.started(process),
                Err(error) => {
                    pod.execs.release(&place);
                    return Err(error);
                }
            }
            Ok(())
        });
        task.await.unwrap_or(Err(PodError::Stopping))
    }

    /// Starts any command in the running container `name`. Whether it may be, and what `access` its caller has, must be decided by the
    /// caller; the host gets no handle to it. `label` is for errors.
    pub async fn start_unlisted(
        &self,
        guest: &Arc<Guest>,
        name: &str,
        label: &str,
        args: Vec<String>,
        terminal: bool,
        access: Access,
    ) -> Result<Arc<Process>, PodError> {
        let failed = |why: &dyn std::fmt::Display| PodError::Exec { name: name.to_owned(), why: why.to_string() };
        let refused = |error: ContainerError| match error {
            ContainerError::Gone => PodError::Ended(name.to_owned()),
            error => failed(&error),
        };
        let run = self.run(name)?;
        let entrance = lock(&run.running).as_ref().map(Running::entrance);
        let entrance: Entrance =
            entrance.ok_or_else(|| PodError::Ended(name.to_owned()))?.map_err(|error| failed(&error))?;
        let (stdio, wires) = Wires::new(terminal, access, None).map_err(|error| failed(&error))?;
        let joined = tokio::task::spawn_blocking({
            let guest = guest.clone();
            move || {
                let (beginning, exit) = guest.reaper.adopt(|| entrance.begin(&args, stdio), Beginning::pid)?;
                Ok((beginning.finish()?, exit))
            }
        });
        let (joined, mut exit) = joined.await.map_err(|error| failed(&error))?.map_err(refused)?;
        let label = format!("{name} (exec {})", belljar_guest_api::limits::one_line(label));
        let process = Process::new(label, joined.pidfd, wires, joined.terminal).map_err(|error| failed(&error))?;
        let process = Arc::new(process);
        tokio::spawn({
            let process = process.clone();
            async move {
                let code = exit_code(&mut exit).await;
                process.has_ended(Ended { code, ..Ended::default() });
            }
        });
        // Who watches the layers kills what is in the container's cgroup by then.
        Ok(process)
    }

    /// Kills every process of the container `name`, the first one first.
    pub fn kill_container(&self, name: &str) -> Result<(), PodError> {
        let run = self.run(name)?;
        match lock(&run.running).as_ref() {
            Some(running) => {
                running.kill_all().map_err(|error| PodError::System { name: name.to_owned(), why: error.to_string() })
            }
            None => Err(PodError::Ended(name.to_owned())),
        }
    }

    /// What each running container uses now, by name.
    pub fn usage(&self) -> Vec<(String, Usage)> {
        let runs: Vec<_> =
            lock(&self.slots).iter().filter_map(|(name, slot)| Some((name.clone(), slot.run.clone()?))).collect();
        runs.into_iter()
            .filter_map(|(name, run)| {
                let usage = lock(&run.running).as_ref().map(Running::usage)?;
                Some((name, usage))
            })
            .collect()
    }

    /// Ends every container: SIGTERM, and SIGKILL to what is left after `grace`.
    pub async fn stop(&self, grace: Duration) {
        let runs = self.runs();
        if !grace.is_zero() {
            for run in &runs {
                let _ = run.process.signal(Signal::TERM);
            }
            let all = async {
                for run in &runs {
                    run.process.wait().await;
                }
            };
            let _ = tokio::time::timeout(grace, all).await;
        }
        self.kill();
        for run in &runs {
            let _ = tokio::time::timeout(KILL_PATIENCE, run.process.wait()).await;
        }
    }

    /// Kills every container at once.
    pub fn kill(&self) {
        for run in self.runs() {
            if let Some(running) = lock(&run.running).as_ref() {
                let _ = running.kill_all();
            }
        }
    }

    fn runs(&self) -> Vec<Arc<Run>> {
        lock(&self.slots).values().filter_map(|slot| slot.run.clone()).collect()
    }
}

async fn exit_code(exit: &mut watch::Receiver<Option<ExitCode>>) -> ExitCode {
    exit.wait_for(Option::is_some).await.ok().and_then(|code| *code).unwrap_or(255)
}

/// Follows a container to its end, says how it ended, and cleans up. The kernel has ended its other processes by then: they were
/// in a PID namespace whose first process it was.
async fn follow(guest: Arc<Guest>, run: Arc<Run>, mut exit: watch::Receiver<Option<ExitCode>>, access: Access) {
    let code = exit_code(&mut exit).await;
    let running = lock(&run.running).take();
    let oom_killed = running.as_ref().is_some_and(Running::oom_killed);
    let message = running.as_ref().filter(|_| access.output);
    let message = message.and_then(|running| running.termination_message(MAX_TERMINATION_MESSAGE).ok());
    // The container may have seen the failed block and ended by itself, before the kernel's event reached us.
    let pod = guest.pod.get();
    let refusal = pod.and_then(|pod| pod.layers.changed());
    if let Some(refusal) = &refusal {
        guest.board.refuse(refusal.clone());
    }
    let (signalled, message) = (run.process.signalled(), message.unwrap_or_default());
    run.process.has_ended(Ended { code, oom_killed, signalled, message, refusal });
    if let Some(pod) = pod {
        pod.forget_secrets();
    }
    let cleaned = tokio::task::spawn_blocking(move || running.map(Running::cleanup)).await;
    if let Ok(Some(Err(error))) = cleaned {
        tracing::warn!(%error, name = run.process.label, "container is not cleaned up");
    }
    run.gone.send_replace(true);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
