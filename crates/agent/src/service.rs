//! The calls of `proto/agent.proto`: checks of the request, then one line to the part of the guest that does it.

mod budget;
mod containers;
pub mod fuzz;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use belljar_guest_api::{
    PROTOCOL,
    api::{self, Agent},
    limits::{MAX_CHUNK, MAX_NAME, MAX_POLL_MS, one_line},
    protobuf::Message,
    status::Code,
};
use budget::{Budget, Held};
use ttrpc::r#async::TtrpcContext;

use crate::{
    guest::Guest,
    inward,
    pod::PodError,
    probe::{Probe, ProbeError},
    tunnel::TunnelError,
};

/// The service that the host calls.
#[derive(Debug)]
pub struct Service {
    guest: Arc<Guest>,
    greeted: Arc<AtomicBool>,
    budget: Budget,
    probe: Mutex<Option<Probe>>,
}

impl Service {
    /// A service for `guest`; `greeted` says whether the host of the present connection has said hello.
    pub fn new(guest: Arc<Guest>, greeted: Arc<AtomicBool>) -> Self {
        Self { guest, greeted, budget: Budget::default(), probe: Mutex::new(None) }
    }

    /// The guest, for a call of a host that has said hello, while there is room for its request.
    fn greeted(&self, request: &impl Message) -> ttrpc::Result<Greeted<'_>> {
        if !self.greeted.load(Ordering::Relaxed) {
            return Err(Code::FailedPrecondition.error("no hello on this connection yet: call Hello first"));
        }
        Ok(Greeted { guest: &self.guest, _held: self.budget.take(request)? })
    }
}

/// The guest while a call is answered.
struct Greeted<'a> {
    guest: &'a Arc<Guest>,
    _held: Held<'a>,
}

impl std::ops::Deref for Greeted<'_> {
    type Target = Arc<Guest>;

    fn deref(&self) -> &Self::Target {
        self.guest
    }
}

#[async_trait]
impl Agent for Service {
    async fn hello(&self, _: &TtrpcContext, request: api::HelloRequest) -> ttrpc::Result<api::HelloResponse> {
        if request.protocol != PROTOCOL {
            let found = request.protocol;
            let message =
                format!("protocol {found} is not spoken here, expected {PROTOCOL}: use a matching guest image");
            return Err(Code::FailedPrecondition.error(message));
        }
        self.greeted.store(true, Ordering::Relaxed);
        Ok(api::HelloResponse {
            protocol: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            debug: self.guest.cmdline.debug,
            ..Default::default()
        })
    }

    async fn status(&self, _: &TtrpcContext, request: api::StatusRequest) -> ttrpc::Result<api::StatusResponse> {
        let guest = self.greeted(&request)?;
        Ok(guest.board.after(request.generation, poll(request.timeout_ms)).await.into())
    }

    async fn configure_network(
        &self,
        _: &TtrpcContext,
        request: api::ConfigureNetworkRequest,
    ) -> ttrpc::Result<api::Empty> {
        let greeted = self.greeted(&request)?;
        let guest = greeted.clone();
        // Not when the guest is ready: the host may serve the tunnel to the broker only after this call.
        guest.bound_contract().await.map_err(refused)?;
        let configured = tokio::task::spawn_blocking(move || {
            let bound = guest.bound.get().ok_or(PodError::Stopping)?;
            guest.board.timed("network", || guest.network.configure(&request, &bound.contract))?;
            Ok(())
        });
        match configured.await {
            Ok(outcome) => outcome.map(|()| api::Empty::new()).map_err(refused),
            Err(error) => Err(Code::Internal.error(error.to_string())),
        }
    }

    async fn put_volume(&self, _: &TtrpcContext, request: api::PutVolumeRequest) -> ttrpc::Result<api::Empty> {
        let guest = self.greeted(&request)?;
        containers::put_volume(&guest, request).await
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: api::StartContainerRequest,
    ) -> ttrpc::Result<api::Empty> {
        let guest = self.greeted(&request)?;
        containers::start(&guest, request).await
    }

    async fn start_exec(&self, _: &TtrpcContext, request: api::StartExecRequest) -> ttrpc::Result<api::Empty> {
        let guest = self.greeted(&request)?;
        containers::start_exec(&guest, request).await
    }

    async fn wait_container(
        &self,
        _: &TtrpcContext,
        request: api::ContainerRequest,
    ) -> ttrpc::Result<api::WaitContainerResponse> {
        let guest = self.greeted(&request)?;
        containers::wait(&guest, request).await
    }

    async fn signal_container(
        &self,
        _: &TtrpcContext,
        request: api::SignalContainerRequest,
    ) -> ttrpc::Result<api::Empty> {
        let guest = self.greeted(&request)?;
        containers::send_signal(&guest, &request)
    }

    async fn resize_terminal(
        &self,
        _: &TtrpcContext,
        request: api::ResizeTerminalRequest,
    ) -> ttrpc::Result<api::Empty> {
        let guest = self.greeted(&request)?;
        containers::resize(&guest, &request)
    }

    async fn stats(&self, _: &TtrpcContext, request: api::Empty) -> ttrpc::Result<api::StatsResponse> {
        let guest = self.greeted(&request)?;
        containers::stats(&guest).await
    }

    async fn write_input(&self, _: &TtrpcContext, request: api::WriteInputRequest) -> ttrpc::Result<api::Empty> {
        let guest = self.greeted(&request)?;
        containers::write_input(&guest, request).await
    }

    async fn close_input(&self, _: &TtrpcContext, request: api::ContainerRequest) -> ttrpc::Result<api::Empty> {
        let guest = self.greeted(&request)?;
        containers::close_input(&guest, request).await
    }

    async fn read_output(
        &self,
        _: &TtrpcContext,
        request: api::ReadOutputRequest,
    ) -> ttrpc::Result<api::ReadOutputResponse> {
        let guest = self.greeted(&request)?;
        containers::read_output(&guest, request).await
    }

    async fn tunnel_accept(
        &self,
        _: &TtrpcContext,
        request: api::TunnelAcceptRequest,
    ) -> ttrpc::Result<api::TunnelAcceptResponse> {
        let (id, target) = self.greeted(&request)?.tunnels.accept(poll(request.timeout_ms)).await.unwrap_or_default();
        Ok(api::TunnelAcceptResponse { id, target: target.to_owned(), ..Default::default() })
    }

    async fn tunnel_open(
        &self,
        _: &TtrpcContext,
        request: api::TunnelOpenRequest,
    ) -> ttrpc::Result<api::TunnelOpenResponse> {
        let guest = self.greeted(&request)?;
        let pod = guest.ready_pod().await.map_err(refused)?;
        let attested = guest.attested.get().cloned().ok_or_else(|| refused(PodError::Stopping))?;
        let id = inward::open(&guest.tunnels, pod.contract(), attested, &request.target).await.map_err(tunnel)?;
        Ok(api::TunnelOpenResponse { id, ..Default::default() })
    }

    async fn tunnel_read(
        &self,
        _: &TtrpcContext,
        request: api::TunnelReadRequest,
    ) -> ttrpc::Result<api::TunnelReadResponse> {
        let data = self.greeted(&request)?.tunnels.read(request.id, chunk(request.max)).await.map_err(tunnel)?;
        Ok(api::TunnelReadResponse { eof: data.is_empty(), data, ..Default::default() })
    }

    async fn tunnel_write(&self, _: &TtrpcContext, request: api::TunnelWriteRequest) -> ttrpc::Result<api::Empty> {
        self.greeted(&request)?.tunnels.write(request.id, &request.data).await.map_err(tunnel)?;
        Ok(api::Empty::new())
    }

    async fn tunnel_close(&self, _: &TtrpcContext, request: api::TunnelCloseRequest) -> ttrpc::Result<api::Empty> {
        self.greeted(&request)?.tunnels.close(request.id, &request.error).map_err(tunnel)?;
        Ok(api::Empty::new())
    }

    async fn start_probe(&self, _: &TtrpcContext, request: api::StartProbeRequest) -> ttrpc::Result<api::Empty> {
        self.greeted(&request)?;
        let mut slot = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return Err(Code::AlreadyExists.error("a probe is running: call EndProbe first"));
        }
        let probe = Probe::start(&request.seed, request.copies).map_err(|error| match error {
            ProbeError::Request { .. } => Code::InvalidArgument.error(error.to_string()),
            ProbeError::NoPort => Code::Unavailable.error(error.to_string()),
            _ => Code::Internal.error(error.to_string()),
        })?;
        *slot = Some(probe);
        Ok(api::Empty::new())
    }

    async fn end_probe(&self, _: &TtrpcContext, request: api::Empty) -> ttrpc::Result<api::Empty> {
        self.greeted(&request)?;
        match self.probe.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(_) => Ok(api::Empty::new()),
            None => Err(Code::FailedPrecondition.error("no probe is running")),
        }
    }

    async fn shutdown(&self, _: &TtrpcContext, request: api::ShutdownRequest) -> ttrpc::Result<api::Empty> {
        self.greeted(&request)?.stop(request.grace_ms);
        Ok(api::Empty::new())
    }
}

/// The wait of a long poll, cut to what is allowed.
fn poll(timeout_ms: u32) -> Duration {
    Duration::from_millis(timeout_ms.min(MAX_POLL_MS).into())
}

/// The most bytes that a reply may carry: what the caller wants, 0 meaning as much as is allowed.
fn chunk(max: u32) -> usize {
    match usize::try_from(max) {
        Ok(max @ 1..=MAX_CHUNK) => max,
        _ => MAX_CHUNK,
    }
}

/// A name that is short enough to be looked for.
fn named(name: &str) -> Result<&str, PodError> {
    if name.len() <= MAX_NAME { Ok(name) } else { Err(PodError::Unknown(one_line(name))) }
}

fn refused(error: PodError) -> ttrpc::Error {
    error.code().error(error.to_string())
}

fn tunnel(error: TunnelError) -> ttrpc::Error {
    let code = match error {
        TunnelError::Unknown(_) => Code::NotFound,
        TunnelError::TooLong(_) => Code::InvalidArgument,
        TunnelError::TooMany | TunnelError::Busy => Code::ResourceExhausted,
        TunnelError::Target { .. } => Code::PermissionDenied,
        TunnelError::Refused { .. } => Code::Unavailable,
        TunnelError::Gone => Code::FailedPrecondition,
    };
    code.error(error.to_string())
}
