//! The shim's process: it serves containerd at its socket until the last task is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::bootstrap::TTRPC_ADDRESS;
use crate::config::{Config, TeeChoice};
use crate::events::Events;
use crate::flags::Flags;
use crate::pod::Pod;
use crate::sandbox::SandboxService;
use crate::task::{SERVICE_V2, SERVICE_V3, TaskService};

/// How long the answer to `Shutdown` may take to leave.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Serves the listener that stands at stdin.
///
/// # Errors
/// When there is no listener, or the runtime cannot be made.
pub fn serve(flags: &Flags, config: Config, tee: TeeChoice) -> io::Result<()> {
    let listener = listener()?;
    let _ = rustix::process::setsid();
    crate::log::start(&config.log, flags.debug);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?;
    let result = runtime.block_on(run(listener, flags, config, tee));
    // A conversion that nobody waits for must not hold the process.
    runtime.shutdown_background();
    result
}

/// The socket that `start` made; afterwards stdin is `/dev/null`.
fn listener() -> io::Result<UnixListener> {
    let stdin = io::stdin();
    let listener = UnixListener::from(stdin.as_fd().try_clone_to_owned()?);
    if !rustix::net::sockopt::socket_acceptconn(&listener).unwrap_or(false) {
        return Err(io::Error::other("stdin is no listening socket: a shim is started by containerd, with `start`"));
    }
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn run(listener: UnixListener, flags: &Flags, config: Config, tee: TeeChoice) -> io::Result<()> {
    let path = listener.local_addr()?.as_pathname().map(std::path::Path::to_owned);
    let ttrpc = std::env::var(TTRPC_ADDRESS).ok().filter(|address| !address.is_empty());
    let events = Events::start(ttrpc.as_deref(), &flags.namespace);
    let pod = Pod::new(&flags.id, config, tee, events);
    let shutdown = Arc::new(Notify::new());
    let mut server = Server::new().add_listener(Listener::from(tokio::net::UnixListener::from_std(listener)?));
    for services in [
        task_services(&pod, &shutdown, SERVICE_V3),
        task_services(&pod, &shutdown, SERVICE_V2),
        SandboxService::services(pod.clone(), shutdown.clone()),
    ] {
        server = server.register_service(services);
    }
    server.start().await.map_err(io::Error::other)?;
    tracing::info!(id = flags.id, version = env!("CARGO_PKG_VERSION"), "shim serves");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = shutdown.notified() => {}
        _ = terminate.recv() => tracing::warn!("SIGTERM: the pod is ended"),
        _ = interrupt.recv() => tracing::warn!("SIGINT: the pod is ended"),
    }
    // First of all: from here on containerd may kill this process at any moment, and nobody is to find its socket.
    if let Some(path) = path {
        let _ = std::fs::remove_file(path);
    }
    pod.end().await;
    tokio::time::sleep(LAST_WORDS).await;
    Ok(())
}

/// The service under this name. The generated code names it as version 3 does.
fn task_services(pod: &Arc<Pod>, shutdown: &Arc<Notify>, name: &str) -> HashMap<String, ttrpc::asynchronous::Service> {
    let service = TaskService::new(pod.clone(), shutdown.clone());
    let made = containerd_shim_protos::shim_async::create_task(Arc::new(service));
    made.into_values().map(|service| (name.to_owned(), service)).collect()
}
