//! Asks containerd's Kubernetes part for its version: the call `runtime.v1.RuntimeService/Version` of the CRI.
//!
//! That containerd runs says little: with a configuration that its CRI plugin refuses, it runs without that plugin. So this call is made, and
//! nothing less. It is one request without arguments, written here by hand over HTTP/2 (RFC 9113, the gRPC protocol description), which needs
//! no compressed header but the static table's; of the answer, only the data is looked at. A server without the plugin answers without data.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATH: &[u8] = b"/runtime.v1.RuntimeService/Version";
/// Default SETTINGS_MAX_FRAME_SIZE, which we do not raise.
const MAX_FRAME: usize = 16 << 10;
/// The answer has 60 bytes.
const MAX_ANSWER: usize = 4 << 10;
const MAX_FRAMES: usize = 64;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// What the runtime says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// `containerd`
    pub name: String,
    /// As `1.6.20~ds1`.
    pub version: String,
    /// The process that listens; 0 when it cannot be seen from here.
    pub process: u32,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CriError {
    /// Nobody listens, or the connection ends.
    #[error("{path}: {why}")]
    Away {
        /// The socket.
        path: String,
        /// What the system said.
        why: String,
    },
    /// It does not have the service.
    #[error("{path} answers, but has no CRI service; see `journalctl -u containerd` for why the plugin did not load")]
    NoService {
        /// The socket.
        path: String,
    },
    /// The answer is not one.
    #[error("{path} answers with {what}")]
    Nonsense {
        /// The socket.
        path: String,
        /// In which way.
        what: &'static str,
    },
}

/// Makes the call, within `limit`.
///
/// # Errors
/// [`CriError`].
pub fn version(socket: &Path, limit: Duration) -> Result<RuntimeVersion, CriError> {
    let path = socket.display().to_string();
    let away = |error: std::io::Error| CriError::Away { path: path.clone(), why: error.to_string() };
    let mut stream = UnixStream::connect(socket).map_err(away)?;
    let process =
        rustix::net::sockopt::socket_peercred(&stream).map_or(0, |peer| peer.pid.as_raw_nonzero().get().unsigned_abs());
    stream.set_write_timeout(Some(limit)).map_err(away)?;
    stream.write_all(&request()).map_err(away)?;
    let deadline = Instant::now() + limit;
    let mut reader = Reader { stream: &mut stream, deadline };
    let answer = answer(&mut reader).map_err(|fault| match fault {
        Fault::Io(error) => away(error),
        Fault::NoData => CriError::NoService { path: path.clone() },
        Fault::Nonsense(what) => CriError::Nonsense { path: path.clone(), what },
    })?;
    Ok(RuntimeVersion { process, ..answer })
}

fn request() -> Vec<u8> {
    let mut headers = vec![0x83, 0x86]; // :method POST, :scheme http
    let mut literal = |start: &[u8], value: &[u8]| {
        headers.extend_from_slice(start);
        headers.push(u8::try_from(value.len()).unwrap_or_default());
        headers.extend_from_slice(value);
    };
    literal(&[0x04], PATH); // :path
    literal(&[0x01], b"localhost"); // :authority
    literal(&[0x0f, 31 - 15], b"application/grpc"); // content-type
    literal(&[0x00, 2, b't', b'e'], b"trailers");
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &headers));
    // an empty message, not compressed
    bytes.extend(frame(DATA, END_STREAM, 1, &[0; 5]));
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut bytes = length.get(1..).unwrap_or_default().to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

enum Fault {
    Io(std::io::Error),
    NoData,
    Nonsense(&'static str),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// A stream that must have answered by a certain moment, however it drips.
struct Reader<'a> {
    stream: &'a mut UnixStream,
    deadline: Instant,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

impl Write for Reader<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// Reads frames until the answer's data is whole.
fn answer(stream: &mut (impl Read + Write)) -> Result<RuntimeVersion, Fault> {
    let mut data = Vec::new();
    for _ in 0..MAX_FRAMES {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(Fault::Nonsense("something that is not HTTP/2"));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        let on_ours = u32::from_be_bytes(id) & 0x7fff_ffff == 1;
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            DATA if on_ours => {
                data.extend_from_slice(
                    unpadded(flags, &payload).ok_or(Fault::Nonsense("a frame with too much padding"))?,
                );
                if data.len() > MAX_ANSWER {
                    return Err(Fault::Nonsense("more than a version"));
                }
                if let Some(message) = message(&data)? {
                    return parse(message).ok_or(Fault::Nonsense("a message that is no version"));
                }
                if flags & END_STREAM != 0 {
                    return Err(Fault::Nonsense("half a message"));
                }
            }
            HEADERS if on_ours && flags & END_STREAM != 0 => return Err(Fault::NoData),
            RST_STREAM if on_ours => return Err(Fault::NoData),
            GOAWAY => return Err(Fault::Nonsense("a farewell")),
            _ => {}
        }
    }
    Err(Fault::Nonsense("frames without end"))
}

fn unpadded(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    if flags & PADDED == 0 {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

/// The message behind its five bytes, once it is whole.
fn message(data: &[u8]) -> Result<Option<&[u8]>, Fault> {
    let Some((head, rest)) = data.split_first_chunk::<5>() else { return Ok(None) };
    let [compressed, length @ ..] = *head;
    if compressed != 0 {
        return Err(Fault::Nonsense("a compressed message, which nobody asked for"));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_ANSWER {
        return Err(Fault::Nonsense("more than a version"));
    }
    Ok(rest.get(..length))
}

/// `VersionResponse`: four strings, numbered 1 to 4; 2 is the runtime's name, 3 its version.
fn parse(mut message: &[u8]) -> Option<RuntimeVersion> {
    let mut answer = RuntimeVersion { name: String::new(), version: String::new(), process: 0 };
    while let Some((tag, rest)) = message.split_first() {
        let (length, rest) = rest.split_first()?;
        // All are short strings: one byte of tag, one of length.
        if tag & 7 != 2 || tag & 0x80 != 0 || length & 0x80 != 0 {
            return None;
        }
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        let text = std::str::from_utf8(value).ok().filter(|text| text.chars().all(|c| c.is_ascii_graphic()))?;
        match tag >> 3 {
            2 => text.clone_into(&mut answer.name),
            3 => text.clone_into(&mut answer.version),
            _ => {}
        }
        message = rest;
    }
    (!answer.name.is_empty() && !answer.version.is_empty()).then_some(answer)
}

/// Feeds any bytes as a server's answer.
pub fn fuzz(data: &[u8]) {
    struct Canned<'a>(&'a [u8]);
    impl Read for Canned<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for Canned<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let _ = answer(&mut Canned(data));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::UnixListener;

    fn reply() -> Vec<u8> {
        let mut body = vec![0, 0, 0, 0, 31];
        body.extend(b"\x0a\x050.1.0\x12\x0acontainerd\x1a\x062.1.9a\x22\x02v1");
        body.get_mut(4).map(|l| *l = 5 + 2 + 10 + 2 + 6 + 2 + 2 + 2).unwrap();
        body
    }

    fn serve(frames: Vec<u8>) -> Result<RuntimeVersion, CriError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&frames).unwrap();
            let mut seen = Vec::new();
            let _ = stream.read_to_end(&mut seen);
            seen
        });
        let answer = version(&path, Duration::from_secs(5));
        assert!(server.join().unwrap().starts_with(PREFACE));
        answer.map_err(|error| match error {
            CriError::Away { why, .. } => CriError::Away { path: String::new(), why },
            CriError::NoService { .. } => CriError::NoService { path: String::new() },
            CriError::Nonsense { what, .. } => CriError::Nonsense { path: String::new(), what },
        })
    }

    #[test]
    fn an_answer_and_what_is_none() {
        let settings = frame(SETTINGS, 0, 0, &[]);
        let headers = frame(HEADERS, END_HEADERS, 1, &[0x88]);
        let good = [settings.clone(), headers, frame(DATA, 0, 1, &reply())].concat();
        let version = serve(good).unwrap();
        assert_eq!((version.name.as_str(), version.version.as_str()), ("containerd", "2.1.9a"));
        assert_eq!(version.process, std::process::id());
        let unknown = [settings.clone(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88])].concat();
        assert_eq!(serve(unknown), Err(CriError::NoService { path: String::new() }));
        let http1 = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        let what = "something that is not HTTP/2";
        assert_eq!(serve(http1), Err(CriError::Nonsense { path: String::new(), what }));
        let mut compressed = reply();
        compressed[0] = 1;
        let what = "a compressed message, which nobody asked for";
        assert_eq!(serve(frame(DATA, 0, 1, &compressed)), Err(CriError::Nonsense { path: String::new(), what }));
    }

    #[test]
    fn nobody_there() {
        let dir = tempfile::tempdir().unwrap();
        let error = version(&dir.path().join("s"), Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, CriError::Away { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_answer_ends(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
            fuzz(&frame(DATA, 0, 1, &bytes));
            let _ = parse(&bytes);
        }
    }
}
