//! The standard streams of a process: named pipes of containerd on one side, calls to the agent on the other.
//!
//! An output pipe is kept open at both ends, so that a containerd that is away neither breaks it nor ends it; its pipe fills, and the
//! process waits. stdin is kept open by a writer of ours until containerd says `CloseIO`, for the same reason.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use belljar_guest_api::api::{AgentClient, ContainerRequest, Output, ReadOutputRequest, WriteInputRequest};
use belljar_guest_api::limits::MAX_CHUNK;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use ttrpc::context::Context;

use crate::error::ShimError;

/// What stands in the log of a container whose contract keeps its output inside.
pub const DENIED: &str = "output of this container does not leave the pod (contract: logs = deny)\n";

/// Where containerd wants the streams; an empty path is no stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Path of a named pipe.
    pub stdin: String,
    /// Path of a named pipe, or `file://PATH`.
    pub stdout: String,
    /// Likewise; empty with a terminal.
    pub stderr: String,
    /// Whether the process has a terminal, whose output is all stdout's.
    pub terminal: bool,
}

/// The agent's name for a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessName {
    /// The container's name in the contract.
    pub container: String,
    /// Id of the exec process; empty for the container's own.
    pub exec: String,
}

impl ProcessName {
    /// As calls name it.
    pub fn request(&self) -> ContainerRequest {
        let mut request = ContainerRequest::new();
        self.container.clone_into(&mut request.name);
        self.exec.clone_into(&mut request.exec);
        request
    }
}

/// An output of containerd's, open.
#[derive(Debug)]
enum Sink {
    Pipe(pipe::Sender),
    File(tokio::fs::File),
}

/// Streams that are open; first waiting, then copied.
#[derive(Debug)]
pub struct Streams {
    stdin: Mutex<Option<pipe::Receiver>>,
    /// Keeps stdin from ending when its writers come and go.
    hold: Mutex<Option<pipe::Sender>>,
    outputs: Mutex<Vec<(Output, Sink)>>,
    copying: Mutex<Vec<JoinHandle<()>>>,
    input: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streams {
    /// Opens them. Needs a runtime.
    ///
    /// # Errors
    /// [`ShimError::InvalidArgument`] for a stream of a kind that is not served, or that cannot be opened.
    pub fn open(stdio: &Stdio) -> Result<Self, ShimError> {
        let bad = |path: &str, error: io::Error| ShimError::InvalidArgument(format!("stream {path}: {error}"));
        let (mut stdin, mut hold) = (None, None);
        if !stdio.stdin.is_empty() {
            stdin = Some(pipe::OpenOptions::new().open_receiver(&stdio.stdin).map_err(|e| bad(&stdio.stdin, e))?);
            hold = Some(pipe::OpenOptions::new().open_sender(&stdio.stdin).map_err(|e| bad(&stdio.stdin, e))?);
        }
        let mut outputs = Vec::new();
        for (output, path) in [(Output::STDOUT, &stdio.stdout), (Output::STDERR, &stdio.stderr)] {
            if path.is_empty() || (stdio.terminal && output == Output::STDERR) {
                continue;
            }
            outputs.push((output, Sink::open(path)?));
        }
        Ok(Self {
            stdin: Mutex::new(stdin),
            hold: Mutex::new(hold),
            outputs: Mutex::new(outputs),
            copying: Mutex::default(),
            input: Mutex::default(),
        })
    }

    /// Copies from now on. With `leaves` false, the output stays inside, and its reader is told so.
    pub fn start(&self, agent: &AgentClient, process: &ProcessName, leaves: bool) {
        let mut copying = lock(&self.copying);
        for (output, sink) in lock(&self.outputs).drain(..) {
            if leaves {
                copying.push(tokio::spawn(copy_output(agent.clone(), process.clone(), output, sink)));
            } else if output == Output::STDOUT {
                copying.push(tokio::spawn(async move {
                    let mut sink = sink;
                    let _ = sink.write(DENIED.as_bytes()).await;
                }));
            }
        }
        if let Some(stdin) = lock(&self.stdin).take() {
            *lock(&self.input) = Some(tokio::spawn(copy_input(agent.clone(), process.clone(), stdin)));
        }
    }

    /// No more input comes: what is in the pipe still goes to the process, then its stdin ends.
    pub fn close_input(&self) {
        lock(&self.hold).take();
    }

    /// The process has ended: no more input; the rest of its output is copied, and the pipes end.
    pub fn ended(&self) {
        self.close_input();
        if let Some(input) = lock(&self.input).take() {
            input.abort();
        }
    }

    /// Waits until all output is copied, at most `limit`, then closes everything.
    pub async fn drain(&self, limit: Duration) {
        self.ended();
        lock(&self.stdin).take();
        lock(&self.outputs).clear();
        let copying: Vec<_> = lock(&self.copying).drain(..).collect();
        let deadline = tokio::time::Instant::now() + limit;
        for mut copy in copying {
            if tokio::time::timeout_at(deadline, &mut copy).await.is_err() {
                copy.abort();
            }
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for task in lock(&self.copying).drain(..).chain(lock(&self.input).take()) {
            task.abort();
        }
    }
}

impl Sink {
    fn open(path: &str) -> Result<Self, ShimError> {
        let bad = |error: io::Error| ShimError::InvalidArgument(format!("stream {path}: {error}"));
        let plain = match path.split_once("://") {
            None => path,
            Some(("file", rest)) => rest,
            Some(("fifo", rest)) => rest,
            Some((scheme, _)) => {
                return Err(ShimError::InvalidArgument(format!(
                    "stream {path}: a logger of kind {scheme} is not served; use a named pipe or file://PATH"
                )));
            }
        };
        let plain = Path::new(plain);
        if !plain.is_absolute() {
            return Err(ShimError::InvalidArgument(format!("stream {path}: not an absolute path")));
        }
        match std::fs::metadata(plain) {
            Ok(meta) if meta.file_type().is_fifo() => {
                Ok(Self::Pipe(pipe::OpenOptions::new().read_write(true).open_sender(plain).map_err(bad)?))
            }
            Ok(meta) if !meta.is_file() => {
                Err(ShimError::InvalidArgument(format!("stream {path}: neither a named pipe nor a file")))
            }
            _ => {
                let file = std::fs::OpenOptions::new().append(true).create(true).open(plain).map_err(bad)?;
                Ok(Self::File(tokio::fs::File::from_std(file)))
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::File(file) => {
                file.write_all(bytes).await?;
                file.flush().await
            }
        }
    }
}

async fn copy_output(agent: AgentClient, process: ProcessName, output: Output, mut sink: Sink) {
    loop {
        let mut request = ReadOutputRequest::new();
        process.container.clone_into(&mut request.name);
        process.exec.clone_into(&mut request.exec);
        request.output = output.into();
        request.max = u32::try_from(MAX_CHUNK).unwrap_or(u32::MAX);
        let reply = match agent.read_output(Context::default(), &request).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(?process, ?output, %error, "output ended");
                return;
            }
        };
        if !reply.data.is_empty()
            && let Err(error) = sink.write(&reply.data).await
        {
            // A full disk, say. The process must not stop because of it: its output is read on and lost.
            tracing::warn!(?process, %error, "output is lost");
        }
        if reply.eof {
            return;
        }
    }
}

async fn copy_input(agent: AgentClient, process: ProcessName, mut stdin: pipe::Receiver) {
    let mut buffer = vec![0; 16 * 1024];
    let mut taken = true;
    while let Ok(read @ 1..) = stdin.read(&mut buffer).await {
        if !taken {
            // Whoever writes must not hang although nobody listens.
            continue;
        }
        let mut request = WriteInputRequest::new();
        process.container.clone_into(&mut request.name);
        process.exec.clone_into(&mut request.exec);
        request.data = buffer.get(..read).unwrap_or_default().to_vec();
        if let Err(error) = agent.write_input(Context::default(), &request).await {
            tracing::debug!(?process, %error, "input is not taken");
            taken = false;
        }
    }
    if taken {
        let _ = agent.close_input(Context::default(), &process.request()).await;
    }
}
