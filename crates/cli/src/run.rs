//! `belljar run`: a container image in an attested pod VM, from the reference to the exit code.

pub mod broker;
pub mod options;
pub mod page;
pub mod plan;
pub mod progress;
pub mod session;
pub mod streams;
pub mod timings;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use belljar_image::{Image, ImageError, PullPolicy, Reference, Store};
use belljar_launch::tunnel;
use belljar_softtee::Keys;
use belljar_vmm::control::Control;
use belljar_vmm::{
    Detection, Machine, Pod, PodVm, Pods, ProcessId, Qemu, QemuError, RunDir, TeeKind, VmError, Wanted, tee,
};

use crate::failure::Failure;
use crate::output::Format;
use crate::paths::Paths;
use crate::run::broker::{Expectation, RunBroker};
use crate::run::options::{Pull, RunOptions, TeeChoice};
use crate::run::page::Facts;
use crate::run::plan::CONTAINER;
use crate::run::session::{Ended, Interrupts, SessionError};
use crate::run::timings::Timings;
use crate::verbs::guest;
use crate::verbs::measure::prediction_failure;

/// What `--tee software` and a machine without hardware mean, in one line.
pub const SOFTWARE_NOTICE: &str =
    "software TEE: it protects nothing from this host, which can read the pod's memory and forge its evidence";

/// Runs a container; the result is its exit code.
pub async fn run(options: RunOptions, paths: &Paths, format: Format) -> Result<i32, Failure> {
    let mut timings = Timings::start();
    let mut interrupts = Interrupts::listen()?;
    if let Some(file) = &options.page {
        // A page that cannot be written is a mistake to be told before the pod runs.
        File::create(file).map_err(|e| Failure::usage(format!("cannot write {}: {e}", file.display())))?;
    }
    // Giving up a start ends what it has begun: QEMU, its run folder, a pull.
    let started = tokio::select! {
        started = start(&options, paths, &mut timings) => started?,
        signal = interrupts.next() => return Ok(code_of_signal(signal)),
    };
    let outcome = attend(&started, &options, &mut interrupts, &mut timings).await;
    finish(started, outcome, &options, paths, format, timings).await
}

/// A pod VM that answers, and everything that must end with it.
struct Started {
    vm: PodVm,
    _control: Control,
    _directory: RunDir,
    broker: RunBroker,
    facts: Facts,
}

async fn start(options: &RunOptions, paths: &Paths, timings: &mut Timings) -> Result<Started, Failure> {
    let pods = Pods::of_user().map_err(Failure::undecided)?;
    pods.sweep().map_err(Failure::undecided)?;
    let detection = tee::detect();
    let kind = choose(&detection, options.tee)?;
    if let Some(name) = &options.name
        && pods.list().map_err(Failure::undecided)?.iter().any(|pod| pod.name == *name)
    {
        return Err(Failure::usage(format!("a pod named {name:?} is running already")).hint("choose another --name"));
    }
    let guest_image = guest::open(&paths.guest())?;
    let qemu = Qemu::find(&paths.cache).map_err(qemu_failure)?;
    timings.ended("look at this machine");

    let store = Store::open(&paths.store()).map_err(image_failure)?;
    let reference: Reference = options.image.parse().map_err(Failure::usage)?;
    let policy = match options.pull {
        Pull::Missing => PullPolicy::Missing,
        Pull::Always => PullPolicy::Always,
        Pull::Never => PullPolicy::Never,
    };
    let image = store.ensure(&reference, policy, &progress::Bars::default()).await.map_err(image_failure)?;
    timings.ended("image");

    let id = pod_id()?;
    let name = options.name.clone().unwrap_or_else(|| format!("pod-{id}"));
    let secrets = plan::read_secrets(options, &id)?;
    let keys = match kind {
        TeeKind::Software => Some(Arc::new(Keys::load_or_create(&paths.softtee()).map_err(Failure::undecided)?)),
        TeeKind::Snp | TeeKind::Tdx => None,
    };
    let mut broker = RunBroker::open(options, keys.as_ref().map(|keys| keys.ark()))?;
    let hostname = if options.name.is_some() { name.as_str() } else { CONTAINER };
    let contract = plan::contract(options, &image, &secrets, broker.pin(), hostname)?;
    let (initdata, digest) = plan::initdata(&contract)?;
    let vcpus = belljar_launch::shape(options.cpus);
    let measurement = belljar_launch::predict(&guest_image, kind, options.debug, vcpus).map_err(prediction_failure)?;
    let expectation = Expectation {
        name: name.clone(),
        initdata_digest: digest.host_data(),
        measurement: (measurement, format!("guest image {:.12}, {vcpus} vCPU", guest_image.id())),
        software: kind == TeeKind::Software,
    };
    broker.expect(&expectation, secrets).await?;
    timings.ended("contract and broker");

    if kind == TeeKind::Software {
        let why = if options.tee == TeeChoice::Auto { "no SEV-SNP and no TDX here, so this uses the " } else { "" };
        eprintln!("belljar: {why}{SOFTWARE_NOTICE}");
    }
    let directory = pods.create(pod(&id, &name, options, kind)).map_err(Failure::undecided)?;
    let tee = detection.tee(kind, digest.host_data());
    let accelerator = belljar_launch::accelerator(&qemu, &guest_image, &paths.cache).await;
    let machine = plan::machine(&id, options, &guest_image, tee, accelerator, &initdata, &image)?;
    let (vm, directory) = boot(&machine, options, paths, keys, directory).await?;
    let end = broker.end();
    tokio::spawn(tunnel::serve(vm.agent(), move |tunnel| end.clone().carry(tunnel)));
    timings.ended(timings::BOOT);
    let (vm, control) = serve_control(vm, &directory)?;
    let facts = Facts::new(options, &image, &guest_image, &machine, &contract, &initdata, &digest, measurement);
    Ok(Started { vm, _control: control, _directory: directory, broker, facts })
}

async fn attend(
    started: &Started,
    options: &RunOptions,
    interrupts: &mut Interrupts,
    timings: &mut Timings,
) -> Result<Ended, SessionError> {
    session::start(&started.vm, CONTAINER, interrupts).await?;
    timings.ended("attestation, secrets, layers, container");
    let ended = session::attend(&started.vm, CONTAINER, interrupts).await?;
    timings.ended("container");
    let wanted = options.timings || options.page.is_some() || !options.rm;
    if wanted && let Some(status) = session::status(&started.vm.agent()).await {
        timings.add_guest(status.phases.into_iter().map(|p| (p.name, p.start_us, p.end_us)));
    }
    Ok(ended)
}

async fn finish(
    started: Started,
    outcome: Result<Ended, SessionError>,
    options: &RunOptions,
    paths: &Paths,
    format: Format,
    timings: Timings,
) -> Result<i32, Failure> {
    let Started { vm, _control: control, _directory: directory, broker, facts } = started;
    let record = broker.record(&facts.initdata_digest).await;
    vm.kill().await;
    drop(control);
    drop(directory);
    let result = match outcome {
        Ok(ended) => Ok(ended.code),
        Err(SessionError::Interrupted(signal)) => Ok(code_of_signal(signal)),
        Err(SessionError::Failed(failure)) => Err(failure),
        Err(SessionError::Refused(refusal)) => Err(refusal.into_failure(record.as_ref().and_then(broker::denial))),
    };
    let page = facts.page(record.as_ref(), &result, timings.phases());
    broker.withdraw().await;
    if !options.rm {
        // The container has run, and its exit code is the answer; a record that is lost is not.
        if let Err(failure) = page::keep(&paths.data, &facts.pod, &page) {
            eprintln!("belljar: {failure}; this run has no record");
        }
    }
    if let Some(file) = &options.page {
        std::fs::write(file, belljar_page::render(&page))
            .map_err(|e| Failure::undecided(format!("cannot write {}: {e}", file.display())))?;
    }
    if options.timings {
        match format {
            Format::Text => eprint!("{}", timings.table()),
            Format::Json => eprintln!("{}", serde_json::json!({ "phases": timings.phases() })),
        }
    }
    result
}

/// The exit code of a run that a signal has ended, as a shell has it.
fn code_of_signal(signal: u32) -> i32 {
    i32::try_from(signal).map_or(130, |signal| 128 + signal)
}

fn choose(detection: &Detection, choice: TeeChoice) -> Result<TeeKind, Failure> {
    let wanted = match choice {
        TeeChoice::Auto => Wanted::Auto,
        TeeChoice::Snp => Wanted::Only(TeeKind::Snp),
        TeeChoice::Tdx => Wanted::Only(TeeKind::Tdx),
        TeeChoice::Software => Wanted::Only(TeeKind::Software),
    };
    // A machine without the TEE that was asked for is a no, not a maybe: there is no downgrade.
    detection.select(wanted).map_err(Failure::refused)
}

async fn boot(
    machine: &Machine,
    options: &RunOptions,
    paths: &Paths,
    keys: Option<Arc<Keys>>,
    mut directory: RunDir,
) -> Result<(PodVm, RunDir), Failure> {
    let mut start = belljar_launch::options(&paths.cache, keys);
    start.boot_timeout = Duration::from_secs(options.boot_timeout);
    if options.debug {
        eprintln!("belljar: --debug: the guest's log follows, and its measurement is another one");
        start.console = Some(stderr_file()?);
    }
    let vm = PodVm::start(machine, start).await.map_err(vm_failure)?;
    directory.set_qemu(vm.qemu_pid()).map_err(Failure::undecided)?;
    Ok((vm, directory))
}

fn serve_control(mut vm: PodVm, directory: &RunDir) -> Result<(PodVm, Control), Failure> {
    let probe = vm.take_probe_port();
    let control =
        Control::serve(&directory.control_socket(), directory.pod().clone(), vm.qemu_pid(), vm.agent(), probe)
            .map_err(|e| Failure::undecided(format!("cannot serve {}: {e}", directory.control_socket().display())))?;
    Ok((vm, control))
}

fn pod(id: &str, name: &str, options: &RunOptions, tee: TeeKind) -> Pod {
    Pod {
        id: id.to_owned(),
        name: name.to_owned(),
        image: options.image.clone(),
        tee,
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        owner: ProcessId::this(),
        qemu: None,
    }
}

fn pod_id() -> Result<String, Failure> {
    let mut bytes = [0; 6];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::undecided("no random numbers"))?;
    Ok(hex::encode(bytes))
}

fn stderr_file() -> Result<File, Failure> {
    use std::os::fd::AsFd;
    let stderr = std::io::stderr();
    stderr.as_fd().try_clone_to_owned().map(File::from).map_err(|e| Failure::undecided(format!("stderr: {e}")))
}

/// Which exit code an image's error has: a wrong digest is a no, a registry that is away is a maybe.
pub fn image_failure(error: ImageError) -> Failure {
    match error {
        ImageError::NoSuchLayout { .. } | ImageError::NoSuchTag { .. } | ImageError::NotFound { .. } => {
            Failure::usage(error)
        }
        ImageError::RegistryDown { .. }
        | ImageError::Registry { .. }
        | ImageError::AuthRequired { .. }
        | ImageError::NotInStore { .. }
        | ImageError::DiskFull { .. }
        | ImageError::Store { .. }
        | ImageError::Credentials { .. } => Failure::undecided(error),
        _ => Failure::refused(error),
    }
}

fn qemu_failure(error: QemuError) -> Failure {
    Failure::undecided(error)
}

fn vm_failure(error: VmError) -> Failure {
    match error {
        VmError::Machine(_) | VmError::ConsoleNeedsDebug => Failure::usage(error),
        _ => Failure::undecided(error),
    }
}

/// Prepares an image without running it.
pub async fn prepare(reference: &str, policy: PullPolicy, store: &Path) -> Result<Image, Failure> {
    let store = Store::open(store).map_err(image_failure)?;
    let reference: Reference = reference.parse().map_err(Failure::usage)?;
    store.ensure(&reference, policy, &progress::Bars::default()).await.map_err(image_failure)
}
