//! Any messages on the host's channel, against a guest that is ready but has no disks, interface or containers.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use belljar_contract::Contract;
use belljar_guest_api::api::create_agent;
use ttrpc::{MessageHeader, Request, r#async::TtrpcContext};

use super::Service;
use crate::{
    attest::Released,
    cmdline::Cmdline,
    guest::Guest,
    layers::Layers,
    pod::Pod,
    status::{Board, State},
    volumes::Volumes,
};

/// Most calls of one input.
const MAX_CALLS: usize = 256;
/// How long a call is waited for: a long poll has nothing to wait for here.
const PATIENCE: Duration = Duration::from_millis(1);

/// The calls, in an order that does not change.
pub const METHODS: [&str; 21] = [
    "Hello",
    "Status",
    "ConfigureNetwork",
    "PutVolume",
    "StartContainer",
    "StartExec",
    "WaitContainer",
    "SignalContainer",
    "ResizeTerminal",
    "Stats",
    "WriteInput",
    "CloseInput",
    "ReadOutput",
    "TunnelAccept",
    "TunnelOpen",
    "TunnelRead",
    "TunnelWrite",
    "TunnelClose",
    "StartProbe",
    "EndProbe",
    "Shutdown",
];

/// Makes calls out of `data`: for each one byte that chooses it from [`METHODS`], two with the length of its message (little-endian),
/// and the message as it comes on the wire. The first call is Hello, whatever `data` says. Gives how many calls were answered
/// without an error.
pub fn run(data: &[u8]) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
    let (Ok(runtime), Some(guest)) = (runtime, Ready::new()) else { return 0 };
    let answered = runtime.block_on(guest.calls(data));
    // Work in the background ends here, before the directory goes.
    drop(runtime);
    answered
}

/// [`run`], for a fuzzer.
pub fn fuzz(data: &[u8]) {
    run(data);
}

/// A guest, and the directory of its volumes.
struct Ready {
    guest: Arc<Guest>,
    directory: PathBuf,
}

impl Ready {
    fn new() -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("belljar-fuzz-{}-{number}", std::process::id()));
        let contract = Contract::parse(include_str!("fuzz.toml")).ok()?;
        let board = Board::new();
        let (guest, _stop) = Guest::new(Cmdline::default(), board);
        let volumes = Volumes::in_directory(directory.clone());
        let pod = Pod::new(contract, Arc::new(Layers::none()), volumes, Released::default());
        guest.pod.set(pod).ok()?;
        guest.board.enter(State::Ready);
        Some(Self { guest, directory })
    }

    async fn calls(&self, mut data: &[u8]) -> usize {
        let service = Service::new(self.guest.clone(), Arc::new(AtomicBool::new(false)));
        let services = create_agent(Arc::new(service));
        let Some(service) = services.values().next() else { return 0 };
        let hello = [0x08, u8::try_from(belljar_guest_api::PROTOCOL).unwrap_or(0)];
        let mut answered = usize::from(call(service, "Hello", &hello).await);
        for _ in 0..MAX_CALLS {
            let Some(([method, low, high], rest)) = data.split_first_chunk::<3>() else { break };
            let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
            let (message, rest) = rest.split_at_checked(length).unwrap_or_default();
            let method = METHODS.get(usize::from(*method) % METHODS.len()).copied().unwrap_or_default();
            answered = answered.saturating_add(usize::from(call(service, method, message).await));
            data = rest;
        }
        answered
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn call(service: &ttrpc::r#async::Service, method: &str, message: &[u8]) -> bool {
    let Some(handler) = service.methods.get(method) else { return false };
    let context = TtrpcContext {
        mh: MessageHeader::default(),
        metadata: HashMap::new(),
        timeout_nano: 0,
        connection_data: Arc::default(),
    };
    let mut request = Request::new();
    request.payload = message.to_vec();
    let answer = tokio::time::timeout(PATIENCE, handler.handler(context, request)).await;
    // An error of ours is a response with a status.
    let ok = |status: &ttrpc::Status| status.code.enum_value() == Ok(ttrpc::Code::OK);
    answer.is_ok_and(|answer| answer.is_ok_and(|response| response.status.as_ref().is_none_or(ok)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_among_them() {
        let guest = Ready::new().unwrap();
        let service = Service::new(guest.guest.clone(), Arc::default());
        let services = create_agent(Arc::new(service));
        let mut known: Vec<_> = services.values().flat_map(|service| service.methods.keys()).collect();
        let mut methods = METHODS.to_vec();
        known.sort();
        methods.sort_unstable();
        assert_eq!(known, methods.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_right_message_is_answered() {
        assert_eq!(run(&[]), 1);
        // Status with generation 0 answers at once; a probe that does not run cannot be ended.
        assert_eq!(run(&[1, 0, 0, 1, 0, 0]), 3);
        assert_eq!(run(&[1, 0, 0, 19, 0, 0]), 2);
    }
}
