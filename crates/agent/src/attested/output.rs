//! A container's output, to its operator.

use std::time::Duration;

use belljar_attested::{Frame, frame::MAX_FRAME};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, split},
    time::timeout,
};

use crate::logs::{Log, Position};

/// How long a client may leave a frame unread.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// Sends what is kept, and with `follow` what comes, until the container says no more or the client has gone.
pub(super) async fn send(stream: impl AsyncRead + AsyncWrite + Unpin, log: &Log, follow: bool) {
    let (mut from, mut to) = split(stream);
    let output = async {
        let (mut changed, mut at) = (log.watch(), Position::default());
        loop {
            // Asked before the last look: a stream that ends after it is seen at the next turn.
            let over = log.is_over();
            while let Some((kind, bytes)) = log.next(&mut at) {
                for content in bytes.chunks(MAX_FRAME) {
                    match timeout(WRITE_LIMIT, Frame::new(kind, content).write(&mut to)).await {
                        Ok(Ok(())) => {}
                        _ => return,
                    }
                }
            }
            if over || !follow || changed.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = output => {}
        // The client has nothing to say here: whatever it does, it is done.
        _ = from.read_u8() => {}
    }
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut to).await;
}
