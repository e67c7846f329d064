//! The host's end of the agent's port. Whatever the guest sends there is judged before ttrpc reads it.
//!
//! A ttrpc frame is `u32 BE length ‖ u32 BE stream ‖ u8 type ‖ u8 flags ‖ data` (ttrpc, `PROTOCOL.md`). The guest only
//! ever answers: type 2, on an odd stream that the client opened.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, split};
use tokio::sync::mpsc;

/// Most bytes of an answer: a chunk of output with what protobuf adds.
pub const MAX_ANSWER: u32 = 128 * 1024;

/// Most bytes of calls that the guest has not taken; then the connection fails. It is far more than callers who wait for
/// their answers have at one time.
const MAX_WAITING: usize = 32 << 20;

const HEADER: usize = 10;
const RESPONSE: u8 = 2;

/// What was wrong with the guest's bytes, set once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fault(Arc<OnceLock<String>>);

impl Fault {
    pub fn found(&self) -> Option<String> {
        self.0.get().cloned()
    }
}

/// A stream whose incoming bytes must be ttrpc answers of bounded length; else reading it fails for good.
///
/// Writing never waits: ttrpc gives a connection up when a call is dropped, or runs out of time, in the middle of its frame,
/// and with it all other calls. What the guest has not taken yet waits in memory, at most [`MAX_WAITING`].
#[derive(Debug)]
pub(crate) struct AgentLink<S> {
    read: ReadHalf<S>,
    write: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes in `write`.
    waiting: Arc<AtomicUsize>,
    frames: Frames,
    fault: Fault,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> AgentLink<S> {
    /// Needs the runtime.
    pub fn new(stream: S) -> (Self, Fault) {
        let fault = Fault::default();
        let (read, mut to_guest) = split(stream);
        let (write, mut calls) = mpsc::unbounded_channel::<Vec<u8>>();
        let waiting = Arc::new(AtomicUsize::new(0));
        tokio::spawn({
            let waiting = waiting.clone();
            async move {
                while let Some(bytes) = calls.recv().await {
                    if to_guest.write_all(&bytes).await.is_err() {
                        return;
                    }
                    waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
                }
            }
        });
        (Self { read, write, waiting, frames: Frames::default(), fault: fault.clone() }, fault)
    }
}

impl<S: AsyncRead> AsyncRead for AgentLink<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.read).poll_read(cx, buf))?;
        let this = self.get_mut();
        if let Err(what) = this.frames.take(buf.filled().get(before..).unwrap_or_default()) {
            let what = this.fault.0.get_or_init(|| what).clone();
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncWrite for AgentLink<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting.fetch_add(buf.len(), Ordering::Relaxed) > MAX_WAITING {
            return Poll::Ready(Err(io::Error::other("the guest takes no calls")));
        }
        let sent = self.write.send(buf.to_vec()).map(|()| buf.len());
        Poll::Ready(sent.map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug, Default)]
struct Frames {
    header: Vec<u8>,
    /// Bytes of the current frame's data still to come.
    data: usize,
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.data > 0 {
                let skip = self.data.min(bytes.len());
                self.data -= skip;
                bytes = bytes.get(skip..).unwrap_or_default();
                continue;
            }
            let (head, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
            self.header.extend_from_slice(head);
            bytes = rest;
            if let [l0, l1, l2, l3, _, _, _, s3, kind, _] = *self.header.as_slice() {
                let length = u32::from_be_bytes([l0, l1, l2, l3]);
                if kind != RESPONSE || s3 & 1 == 0 || length > MAX_ANSWER {
                    return Err(format!("no ttrpc answer: {}", hex::encode(&self.header)));
                }
                self.data = usize::try_from(length).unwrap_or(usize::MAX);
                self.header.clear();
            }
        }
        Ok(())
    }
}

/// For the fuzzer: bytes from the guest, in two parts.
pub(crate) fn fuzz(data: &[u8]) {
    let (a, b) = data.split_at(data.len() / 2);
    let mut frames = Frames::default();
    let _ = frames.take(a).and_then(|()| frames.take(b));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u32, stream: u32, kind: u8) -> Vec<u8> {
        [&length.to_be_bytes(), &stream.to_be_bytes(), [kind, 0].as_slice()].concat()
    }

    #[test]
    fn only_bounded_answers_pass() {
        let take = |bytes: &[u8]| Frames::default().take(bytes);
        let two = [frame(3, 1, 2), b"abc".to_vec(), frame(0, 3, 2), frame(MAX_ANSWER, 5, 2)].concat();
        assert_eq!(take(&two), Ok(()));
        assert_eq!(take(&frame(MAX_ANSWER + 1, 1, 2)), Err("no ttrpc answer: 00020001000000010200".into()));
        assert_eq!(take(&frame(3, 1, 1)), Err("no ttrpc answer: 00000003000000010100".into()));
        assert_eq!(take(&frame(3, 2, 2)), Err("no ttrpc answer: 00000003000000020200".into()));
        assert_eq!(take(b"Linux version 6"), Err("no ttrpc answer: 4c696e75782076657273".into()));
    }

    /// A guest that is slow to read, and callers that give up in the middle: the calls of others go on.
    #[tokio::test]
    async fn a_call_that_is_dropped_ends_no_other_call() {
        use belljar_guest_api::api::{AgentClient, TunnelWriteRequest};
        use tokio::io::AsyncReadExt as _;
        let (ours, mut guest) = tokio::net::UnixStream::pair().unwrap();
        let (link, _fault) = AgentLink::new(ours);
        let agent =
            AgentClient::new(ttrpc::asynchronous::Client::new(ttrpc::asynchronous::transport::Socket::new(link)));
        let call = |data: Vec<u8>| {
            let agent = agent.clone();
            let request = TunnelWriteRequest { id: 1, data, ..Default::default() };
            tokio::spawn(async move { agent.tunnel_write(ttrpc::context::Context::default(), &request).await })
        };
        // More than the socket holds.
        let dropped: Vec<_> = (0..16).map(|_| call(vec![7; 60_000])).collect();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        for call in dropped {
            call.abort();
        }
        let kept = call(b"kept".to_vec());
        let answered = async {
            let mut seen = Vec::new();
            loop {
                let mut head = [0; HEADER];
                guest.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes(head[..4].try_into().unwrap());
                let mut data = vec![0; usize::try_from(length).unwrap()];
                guest.read_exact(&mut data).await.unwrap();
                seen.push(data.len());
                if memchr::memmem::find(&data, b"kept").is_some() {
                    // An empty answer, which is a good one.
                    let stream = u32::from_be_bytes(head[4..8].try_into().unwrap());
                    guest.write_all(&frame(0, stream, RESPONSE)).await.unwrap();
                    return seen;
                }
            }
        };
        let seen = tokio::time::timeout(std::time::Duration::from_secs(20), answered).await.unwrap();
        assert!(seen[..seen.len() - 1].iter().all(|length| *length > 60_000), "{seen:?}");
        kept.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_takes_nothing_does_not_fill_the_host() {
        let (ours, _guest) = tokio::net::UnixStream::pair().unwrap();
        let (mut link, _fault) = AgentLink::new(ours);
        let chunk = vec![0; 1 << 20];
        let mut taken = 0;
        let error = loop {
            match link.write_all(&chunk).await {
                Ok(()) => taken += chunk.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.to_string(), "the guest takes no calls");
        assert!((MAX_WAITING..MAX_WAITING + (4 << 20)).contains(&taken), "{taken}");
    }

    proptest::proptest! {
        #[test]
        fn chunks_do_not_matter(data in proptest::collection::vec(0u8..3, 0..200), cut in 0usize..200) {
            let (a, b) = data.split_at(cut.min(data.len()));
            let mut frames = Frames::default();
            let parts = frames.take(a).and_then(|()| frames.take(b));
            assert_eq!(parts, Frames::default().take(&data));
        }
    }
}
