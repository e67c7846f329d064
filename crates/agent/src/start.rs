//! The start of the guest, step by step.

use std::{
    fs,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use belljar_guest_api::{
    api::create_agent,
    names::{AGENT_PORT, AGENT_VSOCK_PORT},
};
use futures_util::stream;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::runtime;
use ttrpc::{r#async::Server, asynchronous::transport::Listener};

use crate::{
    attest,
    attested::Attested,
    clock::since_boot_us,
    cmdline::Cmdline,
    console,
    guest::Guest,
    initdata::{Bound, Document},
    layers::Layers,
    loopback,
    modules::{self, Devices, Hardware},
    mounts,
    pod::Pod,
    ports, power,
    refusal::{Kind, Refusal},
    secret_api::SecretApi,
    service::Service,
    status::{Board, State},
    sysctl,
    tee::{self, Attester},
    transport::PortListener,
    volumes::Volumes,
};

/// Longest wait for the host's port to appear.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
/// How long a guest that refused stays up for the host to read why.
const REFUSED_STAY: Duration = Duration::from_secs(120);

/// Runs the guest until it powers off.
pub fn run() -> ! {
    power::off_on_panic(false);
    let board = Board::new();
    let early = early(&board);
    let cmdline = early.as_ref().copied().unwrap_or_default();
    power::off_on_panic(cmdline.debug);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_stack_size(256 * 1024)
        .build();
    if let Ok(runtime) = runtime {
        runtime.block_on(serve(cmdline, board, early.err()));
    }
    power::off()
}

/// What must be there before anything else: file systems and modules.
fn early(board: &Board) -> Result<Cmdline, Refusal> {
    let internal = |error: &dyn std::fmt::Display| Refusal::new(Kind::Internal, error);
    board.timed("mounts", mounts::prepare).map_err(|error| internal(&error))?;
    let cmdline = Cmdline::parse(&fs::read_to_string(mounts::under("proc/cmdline")).unwrap_or_default());
    console::open(&mounts::under("dev"), cmdline.debug);
    let devices = Devices::find(&mounts::under("sys"));
    board.timed("modules", || modules::load(Hardware::of_cpu(), devices)).map_err(|error| internal(&error))?;
    mounts::switch_root().map_err(|error| internal(&error))?;
    loopback::up().map_err(|error| Refusal::new(Kind::Internal, format!("cannot bring up the loopback: {error}")))?;
    Ok(cmdline)
}

async fn serve(cmdline: Cmdline, board: Board, failed: Option<Refusal>) {
    let (guest, stopped) = Guest::new(cmdline, board);
    tracing::info!(us = since_boot_us(), "agent started");
    if let Some(refusal) = failed {
        refuse(&guest, refusal);
    }
    let mut server = match listen(&guest) {
        Ok(server) => server,
        // Nobody can be told; the console says it in debug mode.
        Err(refusal) => {
            tracing::error!(%refusal, "no way to the host");
            return;
        }
    };
    if let Err(error) = server.start().await {
        tracing::error!(%error, "no way to the host");
        return;
    }
    tokio::spawn({
        let guest = guest.clone();
        async move { guest.reaper.run().await }
    });
    if guest.board.now().state != State::Refused {
        tokio::spawn({
            let guest = guest.clone();
            async move {
                if let Err(refusal) = prepare(&guest).await {
                    refuse(&guest, refusal);
                }
            }
        });
    }
    let grace = tokio::select! {
        grace = stopped => grace.unwrap_or_default(),
        () = stay_refused(&guest) => Duration::ZERO,
    };
    tracing::info!(?grace, "stopping");
    guest.board.enter(State::Stopping);
    if let Some(pod) = guest.pod.get() {
        pod.stop(grace).await;
    }
}

/// From the initdata to a pod whose containers may be started.
async fn prepare(guest: &Arc<Guest>) -> Result<(), Refusal> {
    let (bound, attester) = blocking({
        let guest = guest.clone();
        move || bind(&guest)
    })
    .await?;
    let bound = Arc::new(bound);
    let _ = guest.bound.set(bound.clone());
    let _ = guest.attested.set(Attested::new(Arc::downgrade(guest), &bound, attester.clone()));
    guest.board.enter(State::Attesting);
    if !guest.cmdline.debug {
        let loud = |error| Refusal::new(Kind::Internal, format!("cannot keep the kernel off the console: {error}"));
        console::quiet_kernel().map_err(loud)?;
    }
    let opening = blocking({
        let (guest, bound) = (guest.clone(), bound.clone());
        move || guest.board.timed("layers", || Layers::open(&bound.contract))
    });
    let attestation = guest.board.timed_async("attestation", attest::fetch(guest, &bound, &attester));
    let (layers, released) = tokio::try_join!(opening, attestation)?;
    let layers = Arc::new(layers);
    let contract = bound.contract.clone();
    if let Some(api) = SecretApi::of(&contract, &released) {
        tokio::spawn(async move {
            if let Err(error) = api.serve().await {
                tracing::error!(%error, "secret api ended");
            }
        });
    }
    tokio::spawn(watch_layers(guest.clone(), layers.clone()));
    sysctl::apply(&contract.pod.sysctls).map_err(|error| Refusal::new(Kind::Contract, error))?;
    let volumes = Volumes::prepare(&contract).map_err(|error| Refusal::new(Kind::Internal, error))?;
    let _ = guest.pod.set(Pod::new(contract, layers, volumes, released));
    guest.board.enter(State::Ready);
    if guest.cmdline.debug {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).map(str::trim).unwrap_or_default();
        tracing::info!(us = since_boot_us(), rss, "ready");
    }
    Ok(())
}

/// Reads the initdata and has the TEE vouch for it.
fn bind(guest: &Guest) -> Result<(Bound, Arc<dyn Attester>), Refusal> {
    let document = guest.board.timed("initdata", Document::read)?;
    guest.board.timed("report", || {
        let attester = tee::find(Hardware::of_cpu()).map_err(|error| Refusal::new(Kind::Attestation, error))?;
        let mut report_data = [0; 64];
        getrandom(&mut report_data, GetRandomFlags::empty()).map_err(|error| Refusal::new(Kind::Internal, error))?;
        let report = attester.report(&report_data).and_then(|report| report.register(&report_data));
        let register = report.map_err(|error| Refusal::new(Kind::Attestation, error))?;
        Ok((document.bind(&register, guest.cmdline)?, attester))
    })
}

/// Ends the containers as soon as a layer fails verification.
async fn watch_layers(guest: Arc<Guest>, layers: Arc<Layers>) {
    let refusal = match layers.corruption().await {
        Ok(refusal) => refusal,
        // Unwatched, a container would go on after a changed block.
        Err(error) => Refusal::new(Kind::Internal, format!("cannot watch the image layers: {error}")),
    };
    refuse(&guest, refusal);
    if let Some(pod) = guest.pod.get() {
        pod.kill();
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Refusal::new(Kind::Internal, error)))
}

fn refuse(guest: &Guest, refusal: Refusal) {
    tracing::error!(kind = refusal.kind.word(), %refusal, "refused");
    guest.board.refuse(refusal);
}

async fn stay_refused(guest: &Guest) {
    loop {
        let now = guest.board.now();
        if now.state == State::Refused {
            return tokio::time::sleep(REFUSED_STAY).await;
        }
        guest.board.after(now.generation, Duration::from_secs(3600)).await;
    }
}

/// A server on the agent's virtio-serial port, or on vsock where the VM has no such port.
fn listen(guest: &Arc<Guest>) -> Result<Server, Refusal> {
    let greeted = Arc::new(AtomicBool::new(false));
    let service = Arc::new(Service::new(guest.clone(), greeted.clone()));
    let server = Server::new().register_service(create_agent(service));
    if let Some(path) = ports::serial_port(AGENT_PORT, PORT_PATIENCE) {
        let connections = stream::unfold(PortListener::new(path, greeted), |listener| async move {
            let connection = listener.accept().await;
            if connection.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Some((connection, listener))
        });
        return Ok(server.add_listener(Listener::new(connections)));
    }
    server
        .bind(&format!("vsock://-1:{AGENT_VSOCK_PORT}"))
        .map_err(|error| Refusal::new(Kind::Internal, format!("no port {AGENT_PORT}, and no vsock: {error}")))
}
