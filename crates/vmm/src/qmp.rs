//! The little of QMP that a pod VM needs: the handshake, events, and `quit` (QEMU, `docs/interop/qmp-spec.rst`).

use std::io;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Longest line that is read. QEMU's longest here is an event of some hundred bytes.
const MAX_LINE: u64 = 64 * 1024;

/// What QEMU says.
#[derive(Debug)]
pub(crate) struct Events(BufReader<OwnedReadHalf>);

/// What QEMU is told.
#[derive(Debug)]
pub(crate) struct Commands(OwnedWriteHalf);

/// What QEMU says that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The machine has ended; `reason` is a `ShutdownCause` (QEMU, `qapi/run-state.json`).
    Shutdown { reason: String },
    /// The machine is stopped, and nobody asked for it: QEMU's way to say that KVM failed.
    Stop,
}

#[derive(Deserialize)]
struct Line {
    event: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    reason: Option<String>,
}

/// Leaves negotiation mode without waiting for the greeting, which [`Events::next`] passes over: QEMU reads the command
/// when it is ready.
pub(crate) async fn connect(stream: UnixStream) -> io::Result<(Events, Commands)> {
    let (read, mut write) = stream.into_split();
    write.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").await?;
    Ok((Events(BufReader::new(read)), Commands(write)))
}

impl Events {
    /// The next event; `None` when QEMU has closed the connection. Not to be cancelled: a part of a line would be lost.
    pub async fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.0).take(MAX_LINE).read_until(b'\n', &mut line).await;
            match read {
                Ok(0) => return Ok(None),
                // QEMU ended before it had read all that we sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            if let Some(event) = parse(&line)? {
                return Ok(Some(event));
            }
        }
    }
}

impl Commands {
    /// Tells QEMU to end.
    pub async fn quit(&mut self) -> io::Result<()> {
        self.0.write_all(b"{\"execute\":\"quit\"}\n").await
    }
}

fn parse(line: &[u8]) -> io::Result<Option<Event>> {
    let line: Line = serde_json::from_slice(line)?;
    Ok(match line.event.as_deref() {
        Some("SHUTDOWN") => {
            Some(Event::Shutdown { reason: line.data.and_then(|data| data.reason).unwrap_or_default() })
        }
        Some("STOP") => Some(Event::Stop),
        _ => None,
    })
}

/// For the fuzzer: one line of QMP.
pub(crate) fn fuzz(data: &[u8]) {
    let _ = parse(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let shutdown = br#"{"timestamp": {"seconds": 1, "microseconds": 8}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#;
        assert_eq!(parse(shutdown).unwrap(), Some(Event::Shutdown { reason: "guest-reset".into() }));
        assert_eq!(parse(br#"{"event": "STOP"}"#).unwrap(), Some(Event::Stop));
        assert_eq!(parse(br#"{"event": "RESUME"}"#).unwrap(), None);
        assert_eq!(parse(br#"{"return": {}}"#).unwrap(), None);
        assert_eq!(parse(b"garbage").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_an_event_or_an_error(line in proptest::collection::vec(0u8.., 0..300)) {
            fuzz(&line);
        }
    }
}
