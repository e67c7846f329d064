//! The host's end of the agent's port. Whatever the guest sends there is judged before ttrpc reads it.
//!
//! A ttrpc frame is `u32 BE length ‖ u32 BE stream ‖ u8 type ‖ u8 flags ‖ data` (ttrpc, `PROTOCOL.md`). The guest only
//! ever answers: type 2, on an odd stream that the client opened.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of an answer: a chunk of output with what protobuf adds.
pub const MAX_ANSWER: u32 = 128 * 1024;

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
#[derive(Debug)]
pub(crate) struct AgentLink<S> {
    stream: S,
    frames: Frames,
    fault: Fault,
}

impl<S> AgentLink<S> {
    pub fn new(stream: S) -> (Self, Fault) {
        let fault = Fault::default();
        (Self { stream, frames: Frames::default(), fault: fault.clone() }, fault)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AgentLink<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let this = self.get_mut();
        if let Err(what) = this.frames.take(buf.filled().get(before..).unwrap_or_default()) {
            let what = this.fault.0.get_or_init(|| what).clone();
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AgentLink<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
