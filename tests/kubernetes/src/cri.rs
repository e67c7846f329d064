//! A client of the container runtime interface: gRPC over a Unix socket, one call at a time.
//!
//! gRPC for calls without streams is little: HTTP/2 POST to `/package.Service/Method`, each message after one byte (0: not compressed)
//! and its length in four, big endian; the result's code in the trailer `grpc-status`, its text percent-encoded in `grpc-message`.

use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use protobuf::Message;

use crate::messages::cri::*;

/// Largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

/// A refused call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// gRPC's code, such as 5 for "not found".
    pub code: u32,
    /// What the runtime says.
    pub message: String,
}

impl Status {
    /// The code by name.
    pub fn name(&self) -> String {
        let names = [
            "OK",
            "Canceled",
            "Unknown",
            "InvalidArgument",
            "DeadlineExceeded",
            "NotFound",
            "AlreadyExists",
            "PermissionDenied",
            "ResourceExhausted",
            "FailedPrecondition",
            "Aborted",
            "OutOfRange",
            "Unimplemented",
            "Internal",
            "Unavailable",
        ];
        names.get(self.code as usize).map_or_else(|| format!("code {}", self.code), |name| (*name).to_owned())
    }
}

/// A connection to containerd.
#[derive(Debug)]
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    connection: SendRequest<Bytes>,
}

impl Cri {
    /// Connects to this socket.
    pub fn connect(socket: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let connection = runtime.block_on(async {
            let stream =
                tokio::net::UnixStream::connect(socket).await.unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
            let (client, connection) = h2::client::handshake(stream).await.expect("containerd speaks HTTP/2");
            tokio::spawn(connection);
            client
        });
        Self { runtime, connection }
    }

    /// One call of the runtime service.
    pub fn call<Q: Message, A: Message>(&self, method: &str, request: &Q) -> Result<A, Status> {
        let message = request.write_to_bytes().expect("a message can be written");
        let client = self.connection.clone();
        let done = self
            .runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(150), unary(client, method, &message)).await });
        let bytes = done.unwrap_or_else(|_| panic!("{method}: no answer within 150 s"))?;
        Ok(A::parse_from_bytes(&bytes).unwrap_or_else(|e| panic!("{method}: {e}")))
    }

    /// `Version`.
    pub fn version(&self) -> VersionResponse {
        self.call("Version", &VersionRequest::new()).expect("a version")
    }

    /// `RunPodSandbox`: the id.
    pub fn run_sandbox(&self, config: &PodSandboxConfig, handler: &str) -> Result<String, Status> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()).into(),
            runtime_handler: handler.to_owned(),
            ..Default::default()
        };
        self.call::<_, RunPodSandboxResponse>("RunPodSandbox", &request).map(|answer| answer.pod_sandbox_id)
    }

    /// `PodSandboxStatus`.
    pub fn sandbox(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), ..Default::default() };
        self.call::<_, PodSandboxStatusResponse>("PodSandboxStatus", &request)
            .map(|answer| answer.status.unwrap_or_default())
    }

    /// `StopPodSandbox`.
    pub fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = SandboxRequest { pod_sandbox_id: id.to_owned(), ..Default::default() };
        self.call::<_, Empty>("StopPodSandbox", &request).map(drop)
    }

    /// `RemovePodSandbox`.
    pub fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let request = SandboxRequest { pod_sandbox_id: id.to_owned(), ..Default::default() };
        self.call::<_, Empty>("RemovePodSandbox", &request).map(drop)
    }

    /// `CreateContainer`: the id.
    pub fn create(
        &self,
        sandbox: &str,
        container: &ContainerConfig,
        config: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container.clone()).into(),
            sandbox_config: Some(config.clone()).into(),
            ..Default::default()
        };
        self.call::<_, CreateContainerResponse>("CreateContainer", &request).map(|answer| answer.container_id)
    }

    /// `StartContainer`.
    pub fn start(&self, id: &str) -> Result<(), Status> {
        let request = ContainerRequest { container_id: id.to_owned(), ..Default::default() };
        self.call::<_, Empty>("StartContainer", &request).map(drop)
    }

    /// `StopContainer`, with the grace in seconds.
    pub fn stop(&self, id: &str, grace: i64) -> Result<(), Status> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: grace, ..Default::default() };
        self.call::<_, Empty>("StopContainer", &request).map(drop)
    }

    /// `RemoveContainer`.
    pub fn remove(&self, id: &str) -> Result<(), Status> {
        let request = ContainerRequest { container_id: id.to_owned(), ..Default::default() };
        self.call::<_, Empty>("RemoveContainer", &request).map(drop)
    }

    /// `ContainerStatus`.
    pub fn container(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), ..Default::default() };
        self.call::<_, ContainerStatusResponse>("ContainerStatus", &request)
            .map(|answer| answer.status.unwrap_or_default())
    }

    /// `ExecSync`, with the time-out in seconds.
    pub fn exec(&self, id: &str, command: &[&str], timeout: i64) -> Result<ExecSyncResponse, Status> {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        self.call("ExecSync", &ExecSyncRequest { container_id: id.to_owned(), cmd, timeout, ..Default::default() })
    }
}

async fn unary(client: SendRequest<Bytes>, method: &str, message: &[u8]) -> Result<Vec<u8>, Status> {
    let broken = |what: &dyn std::fmt::Display| Status { code: 14, message: format!("{method}: {what}") };
    let request = Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|e| broken(&e))?;
    let mut client = client.ready().await.map_err(|e| broken(&e))?;
    let (response, mut body) = client.send_request(request, false).map_err(|e| broken(&e))?;
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).map_err(|e| broken(&e))?);
    frame.put_slice(message);
    body.send_data(frame.freeze(), true).map_err(|e| broken(&e))?;
    let response = response.await.map_err(|e| broken(&e))?;
    // An answer without a body has its status among the headers.
    status(response.headers())?;
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|e| broken(&e))?;
        answer.extend_from_slice(&chunk);
        if answer.len() > MAX_ANSWER {
            return Err(broken(&"the answer is too long"));
        }
        body.flow_control().release_capacity(chunk.len()).map_err(|e| broken(&e))?;
    }
    let trailers = body.trailers().await.map_err(|e| broken(&e))?.unwrap_or_default();
    status(&trailers)?;
    match answer.split_at_checked(5) {
        Some((head, message)) if head[0] == 0 => Ok(message.to_vec()),
        _ => Err(broken(&"no message in the answer")),
    }
}

fn status(headers: &HeaderMap) -> Result<(), Status> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    match text("grpc-status").parse::<u32>() {
        Ok(0) | Err(_) => Ok(()),
        Ok(code) => Err(Status { code, message: percent_decoded(&text("grpc-message")) }),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match hex {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
