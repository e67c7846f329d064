//! The guest: what is shared between the start of the pod and the calls of the host.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use belljar_contract::Contract;
use belljar_guest_api::limits::MAX_GRACE_MS;
use tokio::sync::oneshot;

use crate::{
    attested::Attested,
    cmdline::Cmdline,
    initdata::Bound,
    network::PodNetwork,
    pod::{Pod, PodError},
    reaper::Reaper,
    status::{Board, State},
    tunnel::Tunnels,
};

/// The parts of the guest.
#[derive(Debug)]
pub struct Guest {
    /// Words of the kernel command line.
    pub cmdline: Cmdline,
    /// State, phases, refusal.
    pub board: Board,
    /// Connections that the host carries.
    pub tunnels: Arc<Tunnels>,
    /// The pod's interface.
    pub network: PodNetwork,
    /// Child processes.
    pub reaper: Reaper,
    /// The contract and its document, once the hardware vouches for them.
    pub bound: OnceLock<Arc<Bound>>,
    /// The attested service, once the contract is bound.
    pub attested: OnceLock<Arc<Attested>>,
    /// The right to read what containers use, which one call at a time has.
    pub counting: Arc<tokio::sync::Mutex<()>>,
    /// Containers, once the guest is ready.
    pub pod: OnceLock<Pod>,
    stop: Mutex<Option<oneshot::Sender<Duration>>>,
}

impl Guest {
    /// A guest that has just started, and the receiver of the order to stop: it gives the grace for containers.
    pub fn new(cmdline: Cmdline, board: Board) -> (Arc<Self>, oneshot::Receiver<Duration>) {
        let (stop, stopped) = oneshot::channel();
        let guest = Self {
            cmdline,
            board,
            tunnels: Arc::default(),
            network: PodNetwork::default(),
            reaper: Reaper::default(),
            bound: OnceLock::new(),
            attested: OnceLock::new(),
            counting: Arc::default(),
            pod: OnceLock::new(),
            stop: Mutex::new(Some(stop)),
        };
        (Arc::new(guest), stopped)
    }

    /// Orders the end of the guest, once; `grace_ms` is cut to [`MAX_GRACE_MS`].
    pub fn stop(&self, grace_ms: u32) {
        if let Some(stop) = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.board.enter(State::Stopping);
            let _ = stop.send(Duration::from_millis(grace_ms.min(MAX_GRACE_MS).into()));
        }
    }

    /// The bound contract; waits for that.
    pub async fn bound_contract(&self) -> Result<&Contract, PodError> {
        self.board.bound().await.map_err(|refusal| refusal.map_or(PodError::Stopping, PodError::Refused))?;
        self.bound.get().map(|bound| &bound.contract).ok_or(PodError::Stopping)
    }

    /// The containers, when the guest is ready; waits for that.
    pub async fn ready_pod(&self) -> Result<&Pod, PodError> {
        self.board.ready().await.map_err(|refusal| refusal.map_or(PodError::Stopping, PodError::Refused))?;
        self.pod.get().ok_or(PodError::Stopping)
    }
}
