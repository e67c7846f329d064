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
use tokio::runtime;
use ttrpc::{r#async::Server, asynchronous::transport::Listener};

use crate::{
    clock::since_boot_us,
    cmdline::Cmdline,
    console,
    guest::Guest,
    modules::{self, Hardware},
    mounts, ports, power,
    refusal::{Kind, Refusal},
    service::Service,
    status::{Board, State},
    transport::PortListener,
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
    board.timed("modules", || modules::load(Hardware::of_cpu())).map_err(|error| internal(&error))?;
    mounts::switch_root().map_err(|error| internal(&error))?;
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
    let grace = tokio::select! {
        grace = stopped => grace.unwrap_or_default(),
        () = stay_refused(&guest) => Duration::ZERO,
    };
    tracing::info!(?grace, "stopping");
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
