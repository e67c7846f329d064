//! A container's output, to its operator.

use std::time::Duration;

use belljar_attested::{Frame, Kind, frame::MAX_FRAME};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, split},
    time::timeout,
};

use crate::logs::{Log, Position};

/// How long a client may leave a frame unread.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// Sends what is kept, and with `follow` what comes, until the container says no more or the client has gone; and then that it was all.
pub(super) async fn send(stream: impl AsyncRead + AsyncWrite + Unpin, log: &Log, follow: bool) {
    let (mut from, mut to) = split(stream);
    let output = async {
        let (mut changed, mut at) = (log.watch(), Position::default());
        loop {
            // Asked before the last look: a stream that ends after it is seen at the next turn.
            let over = log.is_over();
            while let Some((kind, bytes)) = log.next(&mut at) {
                let missed = Some(at.take_missed()).filter(|missed| *missed > 0).map(Frame::gap);
                let pieces = bytes.chunks(MAX_FRAME).map(|content| Frame::new(kind, content));
                for frame in missed.into_iter().chain(pieces) {
                    write(&frame, &mut to).await?;
                }
            }
            if over || !follow || changed.changed().await.is_err() {
                return write(&Frame::new(Kind::End, b""), &mut to).await;
            }
        }
    };
    tokio::select! {
        _ = output => {}
        // The client has nothing to say here: whatever it does, it is done.
        _ = from.read_u8() => {}
    }
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut to).await;
}

/// Nothing when the client has gone, or reads no more.
async fn write(frame: &Frame, to: &mut (impl AsyncWrite + Unpin)) -> Option<()> {
    timeout(WRITE_LIMIT, frame.write(to)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::KEPT;
    use std::sync::Arc;
    use tokio::io::DuplexStream;

    async fn frames(stream: &mut DuplexStream) -> Vec<Frame> {
        let mut found = Vec::new();
        while let Some(frame) = Frame::read(stream).await.unwrap() {
            found.push(frame);
        }
        found
    }

    #[tokio::test]
    async fn the_last_frame_says_that_it_was_all() {
        let log = Arc::<Log>::default();
        let out = log.stream(Kind::Stdout);
        out.push(b"a");
        let (said, end) = (Frame::new(Kind::Stdout, b"a"), Frame::new(Kind::End, b""));
        let (mut ours, theirs) = tokio::io::duplex(4096);
        send(theirs, &log, false).await;
        assert_eq!(frames(&mut ours).await, [said.clone(), end.clone()]);

        // With `follow` not before the container says no more.
        let (mut ours, theirs) = tokio::io::duplex(4096);
        let sending = tokio::spawn({
            let log = log.clone();
            async move { send(theirs, &log, true).await }
        });
        assert_eq!(Frame::read(&mut ours).await.unwrap(), Some(said));
        assert!(timeout(Duration::from_millis(50), Frame::read(&mut ours)).await.is_err());
        out.push(b"b");
        drop(out);
        assert_eq!(frames(&mut ours).await, [Frame::new(Kind::Stdout, b"b"), end]);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn who_reads_too_slowly_is_told_what_is_missing() {
        let log = Arc::<Log>::default();
        let out = log.stream(Kind::Stdout);
        out.push(&[1; 1000]);
        // Room for less than the first piece, so that the rest has to wait.
        let (mut ours, theirs) = tokio::io::duplex(64);
        let sending = tokio::spawn({
            let log = log.clone();
            async move { send(theirs, &log, true).await }
        });
        assert_eq!(ours.read_u8().await.unwrap(), 4);
        for _ in 0..4 {
            out.push(&[2; KEPT / 2]);
        }
        drop(out);
        let mut head = vec![4];
        let mut rest = vec![0; 1004];
        ours.read_exact(&mut rest).await.unwrap();
        head.extend(rest);
        assert_eq!(Frame::read(&mut head.as_slice()).await.unwrap(), Some(Frame::new(Kind::Stdout, &[1; 1000])));
        let found = frames(&mut ours).await;
        let shown: usize =
            found.iter().filter(|frame| frame.kind == Kind::Stdout).map(|frame| frame.content.len()).sum();
        let missing = u64::try_from(4 * (KEPT / 2) - shown).unwrap();
        assert!(missing > 0);
        assert_eq!(found.first(), Some(&Frame::gap(missing)));
        assert_eq!(found.last(), Some(&Frame::new(Kind::End, b"")));
        sending.await.unwrap();
    }
}
