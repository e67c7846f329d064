//! The pod's VM: from the contract to a running guest, and to its end. One task owns it; everybody else has a handle.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use belljar_contract::{Contract, Digest, Initdata, from_annotation};
use belljar_guest_api::api::AgentClient;
use belljar_guest_api::status::CallError;
use belljar_guest_image::GuestImage;
use belljar_launch::{Blueprint, BrokerAddress, tunnel};
use belljar_softtee::Keys;
use belljar_vmm::{Exit, Machine, Options, Pod as PodNote, PodVm, Pods, ProcessId, Qemu, RunDir, TeeKind, Wanted, tee};
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
    /// It has ended, and why.
    Ended(String),
}

/// A handle; clones are one VM. The VM ends when all handles are gone.
#[derive(Clone)]
pub struct Vm {
    phase: watch::Receiver<Phase>,
    stop: watch::Sender<bool>,
    qemu: Arc<OnceLock<u32>>,
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
            created: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            owner: ProcessId::this(),
            qemu: None,
        };
        let folder = run_dir(&config.state, note).map_err(|e| refused(&e))?;
        let mut options = belljar_launch::options(&config.cache, keys);
        options.qemu = Some(qemu.path);
        options.boot_timeout = config.boot_timeout();
        let (tell, phase) = watch::channel(Phase::Booting);
        let (stop, stopped) = watch::channel(false);
        let qemu = Arc::new(OnceLock::new());
        let owned = Owned { machine, folder, joined, broker: plan.broker, qemu: qemu.clone() };
        tokio::spawn(owned.run(options, tell, stopped));
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
            Ok(Phase::Ended(why)) => Err(ShimError::Unavailable(why)),
            Ok(Phase::Booting) | Err(_) => Err(ShimError::Unavailable("the pod VM is gone".to_owned())),
        }
    }

    /// The agent, if it answers now.
    pub fn agent_now(&self) -> Option<AgentClient> {
        match &*self.phase.borrow() {
            Phase::Up(agent) => Some(agent.clone()),
            Phase::Booting | Phase::Ended(_) => None,
        }
    }

    /// Why it has ended, if it has.
    pub fn ended_now(&self) -> Option<String> {
        match &*self.phase.borrow() {
            Phase::Ended(why) => Some(why.clone()),
            Phase::Booting | Phase::Up(_) => None,
        }
    }

    /// Process id of QEMU, once the guest has answered.
    pub fn qemu(&self) -> Option<u32> {
        self.qemu.get().copied()
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
    machine: Machine,
    folder: RunDir,
    joined: Joined,
    broker: Option<BrokerAddress>,
    qemu: Arc<OnceLock<u32>>,
}

impl Owned {
    async fn run(mut self, options: Options, tell: watch::Sender<Phase>, mut stopped: watch::Receiver<bool>) {
        let why = tokio::select! {
            // Dropping the start kills QEMU.
            () = asked(&mut stopped) => "the pod was stopped while its VM booted".to_owned(),
            started = PodVm::start(&self.machine, options) => match started {
                Ok(vm) => self.attend(vm, &tell, &mut stopped.clone()).await,
                Err(error) => error.to_string(),
            },
        };
        // Before the end is told: whoever waits for it finds nothing left.
        drop(self);
        tracing::info!(why, "pod VM has ended");
        tell.send_replace(Phase::Ended(why));
    }

    /// From the guest's first answer to the VM's end.
    async fn attend(&mut self, vm: PodVm, tell: &watch::Sender<Phase>, stopped: &mut watch::Receiver<bool>) -> String {
        tracing::info!(timings = ?vm.timings(), qemu = vm.qemu_pid(), "guest answers");
        let _ = self.qemu.set(vm.qemu_pid());
        if let Err(error) = self.folder.set_qemu(vm.qemu_pid()) {
            tracing::warn!(%error, "QEMU is not noted");
        }
        let agent = vm.agent();
        let prepared = async {
            if let Some(request) = self.joined.request() {
                agent.configure_network(context::with_duration(NETWORK_LIMIT), request).await.map_err(|error| {
                    let text = CallError::of(&error).map_or_else(|| error.to_string(), |answer| answer.message);
                    format!("the guest does not take the pod's network: {text}")
                })?;
            }
            Ok::<(), String>(())
        };
        let prepared = tokio::select! {
            prepared = prepared => prepared,
            exit = vm.exited() => return in_words(exit),
            () = asked(stopped) => Err("the pod was stopped".to_owned()),
        };
        if let Err(why) = prepared {
            vm.kill().await;
            return why;
        }
        let broker = self.broker.clone();
        let mut serving = self.joined.serve(&agent);
        serving.spawn(tunnel::serve(agent.clone(), move |tunnel| carry(tunnel, broker.clone())));
        tell.send_replace(Phase::Up(agent));
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

/// Waits until the VM is to end: somebody says so, or nobody is left who could.
async fn asked(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn carry(tunnel: tunnel::Tunnel, broker: Option<BrokerAddress>) -> Result<(), String> {
    let Some(broker) = broker else {
        return Err("this pod names no broker: set the annotation belljar.dev/broker, or broker in shim.toml".to_owned());
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
