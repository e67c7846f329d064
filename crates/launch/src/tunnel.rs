//! Connections between the guest and the outside, of which the host carries the bytes. Outward ones go to the broker and
//! are TLS inside, whose key the guest checks; inward ones go to the agent's attested service, or to a port that the
//! contract lists. Of TLS the host sees lengths and times.

use belljar_guest_api::api::{
    AgentClient, TunnelAcceptRequest, TunnelCloseRequest, TunnelOpenRequest, TunnelReadRequest, TunnelWriteRequest,
};
use belljar_guest_api::limits::{MAX_CHUNK, MAX_POLL_MS};
use belljar_guest_api::names::BROKER_TARGET;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use ttrpc::context::Context;

/// A connection that the guest's agent knows by its number.
#[derive(Clone)]
pub struct Tunnel {
    agent: AgentClient,
    id: u64,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Serves the guest's wishes for connections to its broker until the VM ends. `connect` carries one of them, with
/// [`Tunnel::carry`], until its end; its error is told to the guest.
pub async fn serve<C, F>(agent: AgentClient, connect: C)
where
    C: Fn(Tunnel) -> F,
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    loop {
        let mut request = TunnelAcceptRequest::new();
        request.timeout_ms = MAX_POLL_MS;
        let Ok(wanted) = agent.tunnel_accept(Context::default(), &request).await else { return };
        if wanted.id == 0 {
            continue;
        }
        let tunnel = Tunnel { agent: agent.clone(), id: wanted.id };
        if wanted.target != BROKER_TARGET {
            tokio::spawn(async move { tunnel.close("no such target").await });
            continue;
        }
        let carried = connect(tunnel.clone());
        tokio::spawn(async move {
            let ended = carried.await;
            tunnel.close(&ended.err().unwrap_or_default()).await;
        });
    }
}

impl Tunnel {
    /// Opens an inward connection; [`names`](belljar_guest_api::names) has the targets.
    ///
    /// # Errors
    /// The call's, when the guest has nothing there or the contract does not allow it.
    pub async fn open(agent: AgentClient, target: &str) -> ttrpc::Result<Self> {
        let mut request = TunnelOpenRequest::new();
        target.clone_into(&mut request.target);
        let id = agent.tunnel_open(Context::default(), &request).await?.id;
        Ok(Self { agent, id })
    }

    /// Carries bytes both ways until the stream has ended, or the guest no longer takes its bytes.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn carry<S>(&self, stream: S) -> std::io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (from, to) = tokio::io::split(stream);
        // The guest may close its side and still wait for the reply; the other end is the end.
        let outward = tokio::spawn(outward(self.clone(), to));
        let ended = self.inward(from).await;
        outward.abort();
        ended
    }

    /// Carries bytes both ways for a client that came from outside. A client that has no more to send still gets what the guest says; the
    /// guest's end is the end.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn carry_inward<S>(&self, stream: S) -> std::io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (from, to) = tokio::io::split(stream);
        let outward = outward(self.clone(), to);
        let inward = async {
            self.inward(from).await?;
            let mut request = TunnelWriteRequest::new();
            request.id = self.id;
            let _ = self.agent.tunnel_write(Context::default(), &request).await;
            Ok(())
        };
        tokio::pin!(outward);
        tokio::select! {
            () = &mut outward => Ok(()),
            ended = inward => {
                if ended.is_ok() {
                    outward.await;
                }
                ended
            }
        }
    }

    /// Ends it; `error` tells the guest why.
    pub async fn close(&self, error: &str) {
        let mut request = TunnelCloseRequest::new();
        request.id = self.id;
        error.clone_into(&mut request.error);
        let _ = self.agent.tunnel_close(Context::default(), &request).await;
    }

    async fn inward(&self, mut from: impl AsyncRead + Unpin) -> std::io::Result<()> {
        let mut buffer = vec![0; MAX_CHUNK];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            let mut request = TunnelWriteRequest::new();
            request.id = self.id;
            request.data = buffer.get(..read).unwrap_or_default().to_vec();
            if self.agent.tunnel_write(Context::default(), &request).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn outward(tunnel: Tunnel, mut to: impl AsyncWrite + Unpin) {
    loop {
        let mut request = TunnelReadRequest::new();
        request.id = tunnel.id;
        request.max = u32::try_from(MAX_CHUNK).unwrap_or(u32::MAX);
        let Ok(reply) = tunnel.agent.tunnel_read(Context::default(), &request).await else { break };
        if to.write_all(&reply.data).await.is_err() || reply.eof {
            break;
        }
    }
    let _ = to.shutdown().await;
}
