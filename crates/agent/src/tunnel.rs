//! Connections out of the guest and into it, carried by the host's `Tunnel*` calls.
//!
//! What the guest wants to reach is queued here by name; the host accepts it, connects, and moves bytes both ways. Inward, the host
//! opens a connection to what [`crate::inward`] allows. Each direction holds at most one [`MAX_CHUNK`]; a full direction makes its
//! writer wait. The host is free to read and change everything: what must stay secret goes through TLS in here.

use std::{
    collections::{HashMap, VecDeque},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use belljar_guest_api::limits::{MAX_CHUNK, MAX_TUNNELS, one_line};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf, duplex, split,
    },
    sync::{Notify, watch},
};

/// Why a tunnel call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// No tunnel has this id, or it is closed.
    #[error("no tunnel has the id {0}, or it is closed")]
    Unknown(u64),
    /// The guest has [`MAX_TUNNELS`] tunnels already.
    #[error("{MAX_TUNNELS} tunnels are open already")]
    TooMany,
    /// More than [`MAX_CHUNK`] bytes at once.
    #[error("{0} bytes at once, at most {MAX_CHUNK} are allowed")]
    TooLong(usize),
    /// The guest has closed its end.
    #[error("the guest has closed this tunnel")]
    Gone,
    /// Nothing of that name may be reached.
    #[error("tunnel target expected {allowed}, found {found:?}")]
    Target {
        /// What the contract allows, in words.
        allowed: String,
        /// What the host asked for, in one line.
        found: String,
    },
    /// The attested service has as many connections as it serves.
    #[error("{} connections to the attested service are open already", crate::attested::MAX_CONNECTIONS)]
    Busy,
    /// Nobody listens there.
    #[error("cannot connect to port {port} of the pod's loopback: {why}")]
    Refused {
        /// TCP port.
        port: u16,
        /// Why.
        why: String,
    },
}

/// All tunnels of the guest.
#[derive(Debug, Default)]
pub struct Tunnels {
    table: Mutex<Table>,
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    waiting: VecDeque<u64>,
    open: HashMap<u64, Arc<HostEnd>>,
}

#[derive(Debug)]
struct HostEnd {
    target: &'static str,
    from_guest: tokio::sync::Mutex<ReadHalf<DuplexStream>>,
    to_guest: tokio::sync::Mutex<WriteHalf<DuplexStream>>,
    /// `Some` once the host has closed the tunnel, with its reason.
    closed: watch::Sender<Option<String>>,
}

impl Tunnels {
    /// Queues a connection to `target` for the host.
    pub fn open(self: &Arc<Self>, target: &'static str) -> Result<GuestEnd, TunnelError> {
        let end = self.add(target)?;
        self.table().waiting.push_back(end.id);
        self.wanted.notify_one();
        Ok(end)
    }

    /// The guest's end of a connection that the host has opened; its id is [`GuestEnd::id`].
    pub fn inward(self: &Arc<Self>) -> Result<GuestEnd, TunnelError> {
        self.add("")
    }

    fn add(self: &Arc<Self>, target: &'static str) -> Result<GuestEnd, TunnelError> {
        let (guest, host) = duplex(MAX_CHUNK);
        let (from_guest, to_guest) = split(host);
        let closed = watch::Sender::new(None);
        let reason = closed.subscribe();
        let mut table = self.table();
        if table.open.len() >= MAX_TUNNELS {
            return Err(TunnelError::TooMany);
        }
        table.last += 1;
        let id = table.last;
        let end = HostEnd { target, from_guest: from_guest.into(), to_guest: to_guest.into(), closed };
        table.open.insert(id, Arc::new(end));
        Ok(GuestEnd { id, stream: guest, reason, tunnels: self.clone() })
    }

    /// The next connection that the guest wants: its id and target; `None` after `timeout`.
    pub async fn accept(&self, timeout: Duration) -> Option<(u64, &'static str)> {
        let next = async {
            loop {
                let wanted = self.wanted.notified();
                {
                    let mut table = self.table();
                    if let Some(id) = table.waiting.pop_front() {
                        if !table.waiting.is_empty() {
                            self.wanted.notify_one();
                        }
                        if let Some(end) = table.open.get(&id) {
                            return (id, end.target);
                        }
                        continue;
                    }
                }
                wanted.await;
            }
        };
        tokio::time::timeout(timeout, next).await.ok()
    }

    /// At most `max` bytes that the guest sends, or an empty buffer after its last one; then the id is free.
    pub async fn read(&self, id: u64, max: usize) -> Result<Vec<u8>, TunnelError> {
        let end = self.end(id)?;
        let mut closed = end.closed.subscribe();
        let mut buffer = Vec::with_capacity(max.clamp(1, MAX_CHUNK));
        let read = async {
            let mut from_guest = end.from_guest.lock().await;
            from_guest.read_buf(&mut buffer).await
        };
        let count = tokio::select! {
            count = read => count.unwrap_or(0),
            _ = closed.wait_for(Option::is_some) => return Err(TunnelError::Unknown(id)),
        };
        if count == 0 {
            self.table().open.remove(&id);
        }
        Ok(buffer)
    }

    /// Gives `data` to the guest; returns when the guest's buffer has taken all of it. No data: the host has no more to send, and the
    /// guest sees the end of the stream; what it sends itself still reaches the host.
    pub async fn write(&self, id: u64, data: &[u8]) -> Result<(), TunnelError> {
        if data.len() > MAX_CHUNK {
            return Err(TunnelError::TooLong(data.len()));
        }
        let end = self.end(id)?;
        let mut closed = end.closed.subscribe();
        let write = async {
            let mut to_guest = end.to_guest.lock().await;
            match data {
                [] => to_guest.shutdown().await,
                data => to_guest.write_all(data).await,
            }
        };
        tokio::select! {
            outcome = write => outcome.map_err(|_| TunnelError::Gone),
            _ = closed.wait_for(Option::is_some) => Err(TunnelError::Unknown(id)),
        }
    }

    /// Ends a tunnel in both directions. The guest sees the end of the stream, and `error` as the reason.
    pub fn close(&self, id: u64, error: &str) -> Result<(), TunnelError> {
        let end = self.table().open.remove(&id).ok_or(TunnelError::Unknown(id))?;
        end.closed.send_replace(Some(one_line(error)));
        Ok(())
    }

    fn end(&self, id: u64) -> Result<Arc<HostEnd>, TunnelError> {
        self.table().open.get(&id).cloned().ok_or(TunnelError::Unknown(id))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest's end of a tunnel: a byte stream. Dropping it ends the tunnel; bytes that were written still reach the host.
#[derive(Debug)]
pub struct GuestEnd {
    id: u64,
    stream: DuplexStream,
    reason: watch::Receiver<Option<String>>,
    tunnels: Arc<Tunnels>,
}

impl GuestEnd {
    /// Number of the tunnel in the host's calls.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Watches for the host's reason for closing the tunnel: untrusted text of one line, possibly empty.
    pub fn reason(&self) -> watch::Receiver<Option<String>> {
        self.reason.clone()
    }
}

impl Drop for GuestEnd {
    fn drop(&mut self) {
        let mut table = self.tunnels.table();
        if let Some(at) = table.waiting.iter().position(|id| *id == self.id) {
            table.waiting.remove(at);
            table.open.remove(&self.id);
        }
    }
}

impl AsyncRead for GuestEnd {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for GuestEnd {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_end_is_seen() {
        let tunnels = Arc::new(Tunnels::default());
        assert_eq!(tunnels.accept(SHORT).await, None);
        let mut guest = tunnels.open("broker").unwrap();
        assert_eq!(tunnels.accept(SHORT).await, Some((1, "broker")));
        guest.write_all(b"to the broker").await.unwrap();
        assert_eq!(tunnels.read(1, 5).await.unwrap(), b"to th");
        assert_eq!(tunnels.read(1, MAX_CHUNK).await.unwrap(), b"e broker");
        tunnels.write(1, b"back").await.unwrap();
        let mut back = [0; 4];
        guest.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"back");
        guest.write_all(b"last").await.unwrap();
        drop(guest);
        assert_eq!(tunnels.read(1, MAX_CHUNK).await.unwrap(), b"last");
        assert_eq!(tunnels.read(1, MAX_CHUNK).await.unwrap(), b"");
        assert_eq!(tunnels.read(1, MAX_CHUNK).await, Err(TunnelError::Unknown(1)));
    }

    #[tokio::test]
    async fn a_host_with_no_more_to_send_still_reads() {
        let tunnels = Arc::new(Tunnels::default());
        let mut guest = tunnels.inward().unwrap();
        let id = guest.id();
        assert_eq!(tunnels.accept(SHORT).await, None, "the host has opened it itself");
        tunnels.write(id, b"question").await.unwrap();
        tunnels.write(id, b"").await.unwrap();
        let mut question = String::new();
        guest.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        guest.write_all(b"answer").await.unwrap();
        assert_eq!(tunnels.read(id, MAX_CHUNK).await.unwrap(), b"answer");
        assert_eq!(tunnels.write(id, b"more").await, Err(TunnelError::Gone));
    }

    #[tokio::test]
    async fn a_full_direction_makes_its_writer_wait() {
        let tunnels = Arc::new(Tunnels::default());
        let mut guest = tunnels.open("broker").unwrap();
        tunnels.write(1, &[7; MAX_CHUNK]).await.unwrap();
        let more = tokio::spawn({
            let tunnels = tunnels.clone();
            async move { tunnels.write(1, b"x").await }
        });
        tokio::time::sleep(SHORT).await;
        assert!(!more.is_finished());
        let mut taken = vec![0; 1000];
        guest.read_exact(&mut taken).await.unwrap();
        assert_eq!(more.await.unwrap(), Ok(()));
        assert_eq!(tunnels.write(1, &[0; MAX_CHUNK + 1]).await, Err(TunnelError::TooLong(MAX_CHUNK + 1)));
    }

    #[tokio::test]
    async fn the_reason_of_the_host_reaches_the_guest() {
        let tunnels = Arc::new(Tunnels::default());
        let mut guest = tunnels.open("broker").unwrap();
        let reason = guest.reason();
        let reading = tokio::spawn({
            let tunnels = tunnels.clone();
            async move { tunnels.read(1, 10).await }
        });
        tokio::task::yield_now().await;
        tunnels.close(1, "connection refused\n").unwrap();
        assert_eq!(reading.await.unwrap(), Err(TunnelError::Unknown(1)));
        assert_eq!(guest.read(&mut [0; 4]).await.unwrap(), 0);
        assert_eq!(reason.borrow().as_deref(), Some("connection refused "));
        assert_eq!(tunnels.close(1, ""), Err(TunnelError::Unknown(1)));
    }

    #[tokio::test]
    async fn tunnels_are_bounded_and_an_abandoned_one_is_never_offered() {
        let tunnels = Arc::new(Tunnels::default());
        let mut ends: Vec<_> = (0..MAX_TUNNELS).map(|_| tunnels.open("broker").unwrap()).collect();
        assert_eq!(tunnels.open("broker").unwrap_err(), TunnelError::TooMany);
        ends.remove(0);
        assert!(tunnels.open("broker").is_ok());
        assert_eq!(tunnels.accept(SHORT).await, Some((2, "broker")));
        assert_eq!(tunnels.accept(SHORT).await, Some((3, "broker")));
    }
}
