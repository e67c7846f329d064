//! The owner of a pod answers other processes of its user on `control.sock` of the run folder: one JSON object per line.
//!
//! ```text
//! {"op":"info"}                                        → {"pod":{…},"qemu_pid":7}
//! {"op":"probe-start","seed":"<64 hex>","copies":16}   → {}
//! {"op":"probe-end"}                                   → {}
//! anything that fails                                  → {"error":"one line"}
//! ```
//!
//! A probe belongs to its connection: one runs at a time, and it ends with the connection that began it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use belljar_guest_api::api::{AgentClient, Empty, StartProbeRequest};
use belljar_guest_api::limits::{MAX_PROBE_COPIES, PROBE_SEED};
use belljar_guest_api::status::CallError;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;

use crate::run_dir::Pod;

/// Longest line in either direction.
const MAX_LINE: u64 = 16 * 1024;
/// Longest wait for the guest's agent.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the probe port must be silent to count as empty.
const SILENCE: Duration = Duration::from_millis(100);

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What the pod is.
    Info,
    /// Puts canaries into the guest's memory.
    ProbeStart {
        /// 32 bytes in hex.
        seed: String,
        /// Copies of the private canary.
        copies: u32,
    },
    /// Wipes them.
    ProbeEnd,
}

/// What the owner answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// Why it was not done, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// For [`Request::Info`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// For [`Request::Info`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu_pid: Option<u32>,
}

/// Why a request got no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The owner does not answer.
    #[error("the pod's owner does not answer: {0}; is the pod still running?")]
    Io(#[from] io::Error),
    /// The answer is no JSON of ours.
    #[error("the pod's owner answers garbage: {0}; use one version of belljar")]
    Garbage(serde_json::Error),
    /// The owner refused.
    #[error("{0}")]
    Refused(String),
}

/// A connection to a pod's owner.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<UnixStream>,
}

impl Session {
    /// Connects to the socket of [`crate::Pods::control_socket`].
    pub async fn connect(socket: &Path) -> Result<Self, ControlError> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(socket).await?) })
    }

    /// Asks, and waits for the answer.
    pub async fn call(&mut self, request: &Request) -> Result<Response, ControlError> {
        let exchange = async {
            write_line(self.stream.get_mut(), request).await?;
            read_line(&mut self.stream).await?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        let line = tokio::time::timeout(CALL_TIMEOUT * 2, exchange).await.map_err(io::Error::from)??;
        let response: Response = serde_json::from_slice(&line).map_err(ControlError::Garbage)?;
        match response.error {
            Some(error) => Err(ControlError::Refused(crate::console::printable(error.as_bytes(), 1024))),
            None => Ok(response),
        }
    }
}

/// The owner's side. Dropping it ends the service and every connection.
#[derive(Debug)]
pub struct Control(JoinHandle<()>);

/// What the service knows of the pod.
struct Served {
    pod: Pod,
    qemu_pid: u32,
    agent: AgentClient,
    /// Held by the connection whose probe runs; inside is the probe port, which is read only to empty it.
    probe: Arc<Mutex<Option<UnixStream>>>,
}

impl Control {
    /// Serves `socket` for this pod. `probe_port` is [`crate::PodVm::take_probe_port`].
    pub fn serve(
        socket: &Path,
        pod: Pod,
        qemu_pid: u32,
        agent: AgentClient,
        probe_port: Option<UnixStream>,
    ) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let served = Arc::new(Served { pod, qemu_pid, agent, probe: Arc::new(Mutex::new(probe_port)) });
        Ok(Self(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::debug!(%error, "control socket");
                        tokio::time::sleep(SILENCE).await;
                        continue;
                    }
                };
                while connections.try_join_next().is_some() {}
                let same_user = stream
                    .peer_cred()
                    .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw());
                // The folder is closed to others already; 16 at once are more than a person has terminals.
                if same_user && connections.len() < 16 {
                    connections.spawn(served.clone().connection(stream));
                }
            }
        })))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Probe = OwnedMutexGuard<Option<UnixStream>>;

impl Served {
    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let mut probe = None;
        while let Ok(Some(line)) = read_line(&mut stream).await {
            let response = match serde_json::from_slice(&line) {
                Ok(request) => self.answer(request, &mut probe).await,
                Err(error) => Err(format!("not a request: {error}")),
            };
            let response = response.unwrap_or_else(|error| Response { error: Some(error), ..Default::default() });
            if write_line(stream.get_mut(), &response).await.is_err() {
                break;
            }
        }
        if probe.is_some() {
            let _ = self.end_probe(&mut probe).await;
        }
    }

    async fn answer(&self, request: Request, probe: &mut Option<Probe>) -> Result<Response, String> {
        match request {
            Request::Info => {
                return Ok(Response {
                    pod: Some(self.pod.clone()),
                    qemu_pid: Some(self.qemu_pid),
                    ..Default::default()
                });
            }
            Request::ProbeStart { seed, copies } => self.start_probe(&seed, copies, probe).await?,
            Request::ProbeEnd => self.end_probe(probe).await?,
        }
        Ok(Response::default())
    }

    async fn start_probe(&self, seed: &str, copies: u32, probe: &mut Option<Probe>) -> Result<(), String> {
        let seed = hex::decode(seed).ok().filter(|seed| seed.len() == PROBE_SEED);
        let seed = seed.ok_or_else(|| format!("a probe's seed is {PROBE_SEED} bytes in hex"))?;
        if !(1..=MAX_PROBE_COPIES).contains(&copies) {
            return Err(format!("a probe has 1 to {MAX_PROBE_COPIES} copies, found {copies}"));
        }
        let guard = self.probe.clone().try_lock_owned();
        *probe = Some(guard.map_err(|_| "another probe of this pod is running; wait for its end")?);
        let request = StartProbeRequest { seed, copies, ..Default::default() };
        let started = self.agent.start_probe(ttrpc::context::with_duration(CALL_TIMEOUT), &request).await;
        if let Err(error) = started {
            *probe = None;
            return Err(in_words(&error));
        }
        Ok(())
    }

    /// The guest's queue stays full of the shared canary until it is read; the next probe needs it empty.
    async fn end_probe(&self, probe: &mut Option<Probe>) -> Result<(), String> {
        let mut guard = probe.take().ok_or("no probe of this connection is running")?;
        let ended = self.agent.end_probe(ttrpc::context::with_duration(CALL_TIMEOUT), &Empty::new()).await;
        if let Some(port) = guard.as_mut() {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(Ok(1..)) = tokio::time::timeout(SILENCE, port.read(&mut buffer)).await {}
        }
        ended.map(drop).map_err(|error| in_words(&error))
    }
}

fn in_words(error: &ttrpc::Error) -> String {
    match CallError::of(error) {
        Some(refused) => format!("the guest refused: {refused}"),
        None => format!("the guest does not answer: {}", crate::console::printable(error.to_string().as_bytes(), 200)),
    }
}

async fn read_line(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stream.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "line is too long or not whole")),
    }
}

async fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// For the fuzzer: one request line.
pub(crate) fn fuzz(data: &[u8]) {
    let _ = serde_json::from_slice::<Request>(data);
    let _ = serde_json::from_slice::<Response>(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(read(r#"{"op":"info"}"#).unwrap(), Request::Info);
        let start = Request::ProbeStart { seed: "ab".into(), copies: 3 };
        assert_eq!(read(r#"{"op":"probe-start","seed":"ab","copies":3}"#).unwrap(), start);
        assert!(
            read(r#"{"op":"probe-start","seed":"ab","copies":3,"x":1}"#)
                .unwrap_err()
                .to_string()
                .contains("unknown field")
        );
        assert!(read(r#"{"op":"reboot"}"#).unwrap_err().to_string().contains("unknown variant"));
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_a_request_or_an_error(line in proptest::collection::vec(0u8.., 0..300)) {
            fuzz(&line);
        }
    }
}
