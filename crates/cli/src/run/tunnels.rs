//! Outward connections that the guest wants: the host carries their bytes to the broker. They are TLS inside, and the
//! guest checks the broker's key; the host sees lengths and times.

use std::sync::Arc;

use belljar_broker::{BrokerUrl, TlsServer};
use belljar_guest_api::api::{
    AgentClient, TunnelAcceptRequest, TunnelCloseRequest, TunnelReadRequest, TunnelWriteRequest,
};
use belljar_guest_api::limits::{MAX_CHUNK, MAX_POLL_MS};
use belljar_guest_api::names::BROKER_TARGET;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use ttrpc::context::Context;

/// Where tunnels to the broker end.
#[derive(Debug, Clone)]
pub enum BrokerEnd {
    /// In this process; the receiver tells it to stop.
    Here(Arc<TlsServer>, watch::Receiver<bool>),
    /// Elsewhere.
    There(BrokerUrl),
}

/// Serves the guest's wishes until the VM ends.
pub async fn serve(agent: AgentClient, broker: BrokerEnd) {
    loop {
        let mut request = TunnelAcceptRequest::new();
        request.timeout_ms = MAX_POLL_MS;
        let Ok(wanted) = agent.tunnel_accept(Context::default(), &request).await else { return };
        if wanted.id != 0 {
            tokio::spawn(carry(agent.clone(), wanted.id, wanted.target, broker.clone()));
        }
    }
}

async fn carry(agent: AgentClient, id: u64, target: String, broker: BrokerEnd) {
    let ended = match (target.as_str(), broker) {
        (BROKER_TARGET, BrokerEnd::Here(server, stop)) => {
            let (ours, theirs) = tokio::io::duplex(MAX_CHUNK);
            let serving = tokio::spawn(async move { server.serve_stream(theirs, stop).await });
            let ended = copy(&agent, id, ours).await;
            serving.abort();
            ended.map_err(|e| e.to_string())
        }
        (BROKER_TARGET, BrokerEnd::There(url)) => match url.connect().await {
            Ok(stream) => copy(&agent, id, stream).await.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        },
        _ => Err("no such target".to_owned()),
    };
    let mut request = TunnelCloseRequest::new();
    request.id = id;
    request.error = ended.err().unwrap_or_default();
    let _ = agent.tunnel_close(Context::default(), &request).await;
}

async fn copy<S>(agent: &AgentClient, id: u64, stream: S) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (from_broker, to_broker) = tokio::io::split(stream);
    // The guest may close its side and still wait for the reply; the broker's end is the end.
    let outward = tokio::spawn(outward(agent.clone(), id, to_broker));
    let ended = inward(agent.clone(), id, from_broker).await;
    outward.abort();
    ended
}

async fn outward(agent: AgentClient, id: u64, mut to_broker: impl AsyncWrite + Unpin) {
    loop {
        let mut request = TunnelReadRequest::new();
        request.id = id;
        request.max = u32::try_from(MAX_CHUNK).unwrap_or(u32::MAX);
        let Ok(reply) = agent.tunnel_read(Context::default(), &request).await else { break };
        if to_broker.write_all(&reply.data).await.is_err() || reply.eof {
            break;
        }
    }
    let _ = to_broker.shutdown().await;
}

async fn inward(agent: AgentClient, id: u64, mut from_broker: impl AsyncRead + Unpin) -> std::io::Result<()> {
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        let read = from_broker.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let mut request = TunnelWriteRequest::new();
        request.id = id;
        request.data = buffer.get(..read).unwrap_or_default().to_vec();
        if agent.tunnel_write(Context::default(), &request).await.is_err() {
            return Ok(());
        }
    }
}
