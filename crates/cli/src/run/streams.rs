//! The container's standard streams, carried by calls to the agent. Output is taken by long polls, so that a reader of
//! ours who stops reading stops the container's pipe, and nothing piles up in between.

use std::io::Write;

use belljar_guest_api::api::{AgentClient, ContainerRequest, Output, ReadOutputRequest, WriteInputRequest};
use belljar_guest_api::limits::MAX_CHUNK;
use tokio::io::AsyncReadExt;
use ttrpc::context::Context;

/// How the copying of an output ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The container's side ended.
    All,
    /// Whoever reads our output has gone away (`belljar run … | head`).
    ReaderGone,
}

/// Carries one of the container's outputs to a writer of ours until either ends.
pub async fn copy_output(agent: &AgentClient, container: &str, output: Output, first: impl FnOnce()) -> Copied {
    let mut first = Some(first);
    loop {
        let mut request = ReadOutputRequest::new();
        container.clone_into(&mut request.name);
        request.output = output.into();
        request.max = u32::try_from(MAX_CHUNK).unwrap_or(u32::MAX);
        let Ok(reply) = agent.read_output(Context::default(), &request).await else { return Copied::All };
        if !reply.data.is_empty() {
            if let Some(first) = first.take() {
                first();
            }
            let data = reply.data;
            let written = tokio::task::spawn_blocking(move || match output {
                Output::STDOUT => write(&mut std::io::stdout().lock(), &data),
                Output::STDERR => write(&mut std::io::stderr().lock(), &data),
            });
            if !written.await.is_ok_and(|w| w.is_ok()) {
                return Copied::ReaderGone;
            }
        }
        if reply.eof {
            return Copied::All;
        }
    }
}

fn write(writer: &mut impl Write, data: &[u8]) -> std::io::Result<()> {
    writer.write_all(data)?;
    writer.flush()
}

/// Carries our stdin to the container until it ends.
pub async fn copy_input(agent: &AgentClient, container: &str) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        let read = stdin.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            break;
        }
        let mut request = WriteInputRequest::new();
        container.clone_into(&mut request.name);
        request.data = buffer.get(..read).unwrap_or_default().to_vec();
        if agent.write_input(Context::default(), &request).await.is_err() {
            return;
        }
    }
    let mut request = ContainerRequest::new();
    container.clone_into(&mut request.name);
    // The container may have ended already.
    let _ = agent.close_input(Context::default(), &request).await;
}
