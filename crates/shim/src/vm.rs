//! The pod's VM: from the contract to a running guest, and to its end. One task owns it; everybody else has a handle.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use belljar_contract::{Contract, Digest, Initdata, from_annotation};
use belljar_guest_api::api::{AgentClient, State as GuestState, StatusRequest};
use belljar_guest_api::limits::one_line;
use belljar_guest_api::status::CallError;
use belljar_guest_image::GuestImage;
use belljar_launch::{Blueprint, BrokerAddress, tunnel};
use belljar_softtee::Keys;
use belljar_vmm::cgroup::Cgroup;
use belljar_vmm::{Booting, Exit, Machine, Pod as PodNote, PodVm, Pods, ProcessId, Qemu, RunDir, TeeKind, Wanted, tee};
use tokio::sync::watch;
use ttrpc::context;

use crate::config::{Config, TeeChoice};
use crate::error::ShimError;
use crate::network::{Joined, Place};

/// How long QEMU may take to end: it is killed after a second.
const END: Duration = Duration::from_secs(2);
/// How long the guest may take over its network.
const NETWORK_LIMIT: Duration = Duration::from_secs(20);

/// The contract of a pod, as its annotation has it.
#[derive(Debug, Clone)]
pub struct Bound {
    /// What may run.
    pub contract: Contract,
    /// The whole document.
    pub initdata: String,
    /// Its digest, which is bound to the VM.
    pub digest: Digest,
}

impl Bound {
    /// From the value of the annotation.
    ///
    /// # Errors
    /// [`ShimError::InvalidArgument`], with what is wrong.
    pub fn from_annotation(value: &str) -> Result<Self, ShimError> {
        let bad = |error: &dyn std::fmt::Display| ShimError::InvalidArgument(format!("the pod's contract: {error}"));
        let raw = from_annotation(value).map_err(|e| bad(&e))?;
        let contract = Initdata::parse(&raw).and_then(|initdata| initdata.contract()).map_err(|e| bad(&e))?;
        let digest = belljar_contract::digest(&raw).map_err(|e| bad(&e))?;
        let initdata = String::from_utf8(raw).map_err(|e| bad(&e))?;
        Ok(Self { contract, initdata, digest })
    }
}

/// What a VM is started for.
#[derive(Debug)]
pub struct Plan {
    /// Id of the sandbox.
    pub id: String,
    /// `NAMESPACE/NAME` of the pod, or the id.
    pub name: String,
    /// Its contract.
    pub bound: Arc<Bound>,
    /// Path of its cgroup; empty for none.
    pub cgroup: String,
    /// Whether it is a pod of a kubelet, and not a single container.
    pub in_pod: bool,
    /// Its network on this node.
    pub place: Place,
    /// Where its broker listens.
    pub broker: Option<BrokerAddress>,
    /// Which TEE.
    pub tee: TeeChoice,
}

/// How far a VM is.
#[derive(Clone)]
enum Phase {
    /// The guest has not answered yet.
    Booting,
    /// The guest's agent answers.
    Up(AgentClient),
    /// It answers, and refuses the pod: the reason. The VM stays, so that the pod's containers can be told.
    Refused(String),
    /// It has ended, and why.
    Ended(String),
}

/// A handle; clones are one VM. The VM ends when all handles are gone.
#[derive(Clone)]
pub struct Vm {
    phase: watch::Receiver<Phase>,
    stop: watch::Sender<bool>,
    qemu: u32,
    began: Instant,
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm").field("began", &self.began).finish_non_exhaustive()
    }
}

impl Vm {
    /// Starts the VM. What can be told at once, is; the boot goes on behind.
    ///
    /// # Errors
    /// A lack of this node, or of the contract, in words for the pod's events.
    pub async fn launch(plan: Plan, config: &Config) -> Result<Self, ShimError> {
        let refused = |error: &dyn std::fmt::Display| ShimError::Refused(error.to_string());
        let began = Instant::now();
        let detection = tee::detect();
        let wanted = match plan.tee {
            TeeChoice::Hardware => Wanted::Auto,
            TeeChoice::Only(kind) => Wanted::Only(kind),
        };
        let kind = detection.select(wanted).map_err(|e| refused(&e))?;
        if kind == TeeKind::Software && plan.tee == TeeChoice::Hardware && !config.software {
            return Err(ShimError::Refused(
                "this node has neither SEV-SNP nor TDX, see `belljar doctor`; the runtime class belljar-software runs pods without \
                 protection, and `software = true` in /etc/belljar/shim.toml lets the class belljar do so"
                    .to_owned(),
            ));
        }
        let image = GuestImage::open(&config.guest()).map_err(|e| refused(&e))?;
        let qemu = match &config.qemu {
            Some(path) => Qemu::at(path, &config.cache),
            None => Qemu::find(&config.cache),
        };
        let qemu = qemu.map_err(|e| refused(&e))?;
        let layers = crate::layers::ensure(&plan.bound.contract, config).await.map_err(|e| refused(&e))?;
        tracing::info!(micros = began.elapsed().as_micros(), layers = layers.len(), "layers are there");
        let keys = match kind {
            TeeKind::Software => Some(Arc::new(Keys::load_or_create(&config.softtee()).map_err(|e| refused(&e))?)),
            TeeKind::Snp | TeeKind::Tdx => None,
        };
        let needs = plan.bound.contract.needs();
        let joined = tokio::task::spawn_blocking({
            let (bound, place) = (plan.bound.clone(), plan.place.clone());
            move || Joined::join(&bound.contract, &place)
        });
        let joined = joined.await.map_err(|e| refused(&e))??;
        let id = short_id(&plan.id);
        let blueprint = Blueprint {
            id: &id,
            tee: detection.tee(kind, plan.bound.digest.host_data()),
            accel: belljar_launch::accelerator(&qemu, &image, &config.cache).await,
            guest: &image,
            initdata: &plan.bound.initdata,
            layers,
            nic: joined.nic()?,
            vcpus: belljar_launch::shape(needs.cpu_millis),
            memory_mib: belljar_launch::memory_mib(needs.memory_bytes).map_err(|e| refused(&e))?,
            debug: plan.bound.contract.debug,
        };
        let machine = blueprint.machine().map_err(|e| refused(&e))?;
        machine.check_files().map_err(|e| refused(&e))?;
        let note = PodNote {
            id,
            name: plan.name.clone(),
            image: plan.bound.contract.containers.keys().cloned().collect::<Vec<_>>().join(", "),
            tee: kind,
            created: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs(),
            owner: ProcessId::this(),
            qemu: None,
        };
        let mut folder = run_dir(&config.state, note).map_err(|e| refused(&e))?;
        let mut options = belljar_launch::options(&config.cache, keys);
        options.qemu = Some(qemu.path);
        options.boot_timeout = config.boot_timeout();
        let cgroup = OwnCgroup::make(&plan)?;
        options.cgroups = cgroup.folders();
        options.oom_score_adj = plan.in_pod.then(|| oom_score(&plan.cgroup));
        let booting = PodVm::spawn(&machine, options).await.map_err(|e| refused(&e))?;
        let qemu = booting.qemu_pid();
        if let Err(error) = folder.set_qemu(qemu) {
            tracing::warn!(%error, "QEMU is not noted");
        }
        let (tell, phase) = watch::channel(Phase::Booting);
        let (stop, stopped) = watch::channel(false);
        let owned = Owned { _machine: machine, _folder: folder, cgroup, joined, broker: plan.broker };
        tokio::spawn(owned.run(booting, tell, stopped));
        Ok(Self { phase, stop, qemu, began })
    }

    /// The agent, as soon as it answers.
    ///
    /// # Errors
    /// [`ShimError::Unavailable`] with the reason when the VM has ended.
    pub async fn agent(&self) -> Result<AgentClient, ShimError> {
        let mut phase = self.phase.clone();
        let up = phase.wait_for(|phase| !matches!(phase, Phase::Booting)).await.map(|phase| phase.clone());
        match up {
            Ok(Phase::Up(agent)) => Ok(agent),
            Ok(Phase::Refused(why)) => Err(ShimError::Refused(why)),
            Ok(Phase::Ended(why)) => Err(ShimError::Unavailable(why)),
            Ok(Phase::Booting) | Err(_) => Err(ShimError::Unavailable("the pod VM is gone".to_owned())),
        }
    }

    /// The agent, if it answers now.
    pub fn agent_now(&self) -> Option<AgentClient> {
        match &*self.phase.borrow() {
            Phase::Up(agent) => Some(agent.clone()),
            Phase::Booting | Phase::Refused(_) | Phase::Ended(_) => None,
        }
    }

    /// Why it has ended, if it has.
    pub fn ended_now(&self) -> Option<String> {
        match &*self.phase.borrow() {
            Phase::Ended(why) => Some(why.clone()),
            Phase::Booting | Phase::Up(_) | Phase::Refused(_) => None,
        }
    }

    /// What is worth knowing of it, for `crictl inspectp`.
    pub fn info(&self) -> [(String, String); 2] {
        let phase = match &*self.phase.borrow() {
            Phase::Booting => "the guest boots".to_owned(),
            Phase::Up(_) => "the guest answers".to_owned(),
            Phase::Refused(why) | Phase::Ended(why) => why.clone(),
        };
        [("vm".to_owned(), phase), ("qemu".to_owned(), self.qemu.to_string())]
    }

    /// Process id of QEMU.
    pub fn qemu(&self) -> u32 {
        self.qemu
    }

    /// Waits for the VM's end, and says why it came.
    pub async fn ended(&self) -> String {
        let mut phase = self.phase.clone();
        match phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await.map(|phase| phase.clone()) {
            Ok(Phase::Ended(why)) => why,
            _ => "the pod VM is gone".to_owned(),
        }
    }

    /// Ends the VM, within two seconds even when it does not listen.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(END, self.ended()).await.is_err() {
            tracing::warn!("the pod VM is slow to end");
        }
    }
}

/// The pod's folder under `state`, after what dead shims left there was removed.
fn run_dir(state: &Path, note: PodNote) -> Result<RunDir, belljar_vmm::RunDirError> {
    if let Some(parent) = state.parent() {
        // Made private by the next line, which also judges it.
        let _ = std::fs::create_dir_all(parent);
        let _ = std::fs::set_permissions(parent, std::os::unix::fs::PermissionsExt::from_mode(0o700));
    }
    let pods = Pods::at(state)?;
    pods.sweep()?;
    pods.create(note)
}

/// Everything that belongs to the VM, and ends with it.
struct Owned {
    /// Holds the initdata disk's memory.
    _machine: Machine,
    joined: Joined,
    _folder: RunDir,
    cgroup: OwnCgroup,
    broker: Option<BrokerAddress>,
}

/// The cgroup of QEMU; dropping it removes it.
struct OwnCgroup(Option<Cgroup>);

impl OwnCgroup {
    fn make(plan: &Plan) -> Result<Self, ShimError> {
        if plan.cgroup.is_empty() {
            return Ok(Self(None));
        }
        match Cgroup::create(&plan.cgroup) {
            Ok(cgroup) => Ok(Self(Some(cgroup))),
            // A pod's limits stand in the cgroup above, which the kubelet has made. `ctr run` makes none.
            Err(error) if plan.in_pod => Err(ShimError::Refused(error.to_string())),
            Err(error) => {
                tracing::debug!(%error, "QEMU stays in the shim's cgroup");
                Ok(Self(None))
            }
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        self.0.as_ref().map(|cgroup| cgroup.folders().to_vec()).unwrap_or_default()
    }
}

impl OwnCgroup {
    /// Whether the kernel has killed a process of it for want of memory: `memory.events` of version 2, `memory.oom_control` of version 1.
    fn ran_out_of_memory(&self) -> bool {
        self.folders().iter().any(|folder| {
            ["memory.events", "memory.oom_control"].iter().any(|name| {
                let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
                let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
                count.is_some_and(|count| count.trim() != "0")
            })
        })
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.as_ref().map(Cgroup::remove) {
            tracing::warn!(%error, "the pod's cgroup stays");
        }
    }
}

/// When memory of the node runs out, VMs go in the order of their pods' classes, as the kubelet ranks containers.
fn oom_score(cgroup: &str) -> i16 {
    match () {
        () if cgroup.contains("besteffort") => 1000,
        () if cgroup.contains("burstable") => 900,
        () => -997,
    }
}

impl Owned {
    async fn run(self, booting: Booting, tell: watch::Sender<Phase>, mut stopped: watch::Receiver<bool>) {
        let killer = booting.killer();
        let started = tokio::select! {
            () = asked(&mut stopped) => None,
            started = booting.hello() => Some(started),
        };
        let why = match started {
            Some(Ok(vm)) => self.attend(vm, &tell, &mut stopped).await,
            Some(Err(error)) => error.to_string(),
            None => {
                killer.kill().await;
                "the pod was stopped while its VM booted".to_owned()
            }
        };
        let why = match self.cgroup.ran_out_of_memory() {
            true => format!(
                "{why}: the pod's memory limit on the node is too small for its VM; raise the overhead of its RuntimeClass"
            ),
            false => why,
        };
        // Before the end is told: whoever waits for it finds nothing left.
        drop(self);
        tracing::info!(why, "pod VM has ended");
        tell.send_replace(Phase::Ended(why));
    }

    /// From the guest's first answer to the VM's end.
    async fn attend(&self, vm: PodVm, tell: &watch::Sender<Phase>, stopped: &mut watch::Receiver<bool>) -> String {
        tracing::info!(timings = ?vm.timings(), qemu = vm.qemu_pid(), "guest answers");
        let agent = vm.agent();
        let prepared = tokio::select! {
            prepared = self.prepare(&agent) => prepared,
            exit = vm.exited() => return in_words(exit),
            () = asked(stopped) => {
                vm.kill().await;
                return "the pod was stopped".to_owned();
            }
        };
        let refused = match prepared {
            Ok(()) => None,
            Err(why) => {
                tracing::error!(why, "the guest refuses the pod");
                Some(why)
            }
        };
        let broker = self.broker.clone();
        let mut serving = self.joined.serve(&agent);
        serving.spawn(tunnel::serve(agent.clone(), move |tunnel| carry(tunnel, broker.clone())));
        tell.send_replace(match refused {
            Some(why) => Phase::Refused(why),
            None => Phase::Up(agent),
        });
        let why = tokio::select! {
            exit = vm.exited() => in_words(exit),
            () = asked(stopped) => {
                vm.kill().await;
                "the pod was stopped".to_owned()
            }
        };
        serving.shutdown().await;
        why
    }
}

impl Owned {
    /// Gives the guest its network.
    async fn prepare(&self, agent: &AgentClient) -> Result<(), String> {
        let Some(request) = self.joined.request() else { return Ok(()) };
        let Err(error) = agent.configure_network(context::with_duration(NETWORK_LIMIT), request).await else {
            return Ok(());
        };
        let Some(answer) = CallError::of(&error) else {
            return Err(format!("the guest does not take the pod's network: {error}"));
        };
        // A guest that has refused the pod refuses every call with the reason.
        let request = StatusRequest { generation: u64::MAX, timeout_ms: 1, ..Default::default() };
        match agent.status(context::with_duration(NETWORK_LIMIT), &request).await {
            Ok(status) if status.state.enum_value_or_default() == GuestState::REFUSED => Err(format!(
                "the guest refuses the pod ({}): {}",
                one_line(&status.refusal_kind),
                one_line(&status.refusal)
            )),
            _ => Err(format!("the guest does not take the pod's network: {}", answer.message)),
        }
    }
}

/// Waits until the VM is to end: somebody says so, or nobody is left who could.
async fn asked(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn carry(tunnel: tunnel::Tunnel, broker: Option<BrokerAddress>) -> Result<(), String> {
    let Some(broker) = broker else {
        return Err(
            "this pod names no broker: set the annotation belljar.dev/broker, or broker in shim.toml".to_owned()
        );
    };
    let stream = broker.connect().await.map_err(|error| error.to_string())?;
    tunnel.carry(stream).await.map_err(|error| error.to_string())
}

fn in_words(exit: Exit) -> String {
    match exit {
        Exit::PoweredOff => "the guest powered off".to_owned(),
        Exit::Crashed { last_lines } => format!("the guest crashed; {last_lines}"),
        Exit::Killed => "the pod VM was killed".to_owned(),
        Exit::QemuFailed { status, stderr } => format!("QEMU ended ({status}): {stderr}"),
    }
}

/// A name of at most 64 of `[a-z0-9-]` for a sandbox's id; the id itself where it is one.
pub fn short_id(id: &str) -> String {
    let fits = id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits && (1..=64).contains(&id.len()) {
        return id.to_owned();
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_bytes());
    hex::encode(digest)
}
