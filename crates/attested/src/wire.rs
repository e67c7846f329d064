//! Messages. All of them are JSON objects; unknown members are refused on the way in.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::binding::{MAX_NONCE, MIN_NONCE};

/// Version of the service, said in each evidence.
pub const PROTOCOL: u32 = 1;
/// Path of evidence: `POST` with [`EvidenceRequest`].
pub const EVIDENCE: &str = "/v1/evidence";
/// Path of a container's output: `GET` with `?container=NAME` and `&follow=true`, upgraded to [`UPGRADE`]; for the operator. Frames come
/// from the guest alone.
pub const LOGS: &str = "/v1/logs";
/// Path of a further process: `POST`, upgraded to [`UPGRADE`], the first frame is [`ExecStart`]; for the operator.
pub const EXEC: &str = "/v1/exec";
/// Protocol name of the upgrade (RFC 9110, 7.8): [frames](crate::frame).
pub const UPGRADE: &str = "belljar-frames-v1";
/// Most bytes of a request's body.
pub const MAX_REQUEST: usize = 4096;
/// Most bytes of an [`ExecStart`].
pub const MAX_START: usize = 64 * 1024;
/// Most arguments of a command.
pub const MAX_ARGS: usize = 1024;
/// Most bytes of evidence with the initdata.
pub const MAX_EVIDENCE: usize = 4 << 20;

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not this message.
    #[error("request is not understood: {0}")]
    Json(String),
    /// Too many bytes.
    #[error("request has {found} bytes, at most {most} are allowed")]
    TooLong {
        /// How many.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// The nonce is not base64, or its length does not fit.
    #[error("nonce expected {MIN_NONCE} to {MAX_NONCE} bytes in base64, found {0}")]
    Nonce(String),
    /// The query of [`LOGS`].
    #[error("query expected container=NAME and, if wanted, follow=true, found {0:?}")]
    Query(String),
    /// No command, or more than [`MAX_ARGS`] arguments.
    #[error("args expected 1 to {MAX_ARGS} texts without NUL, found {0}")]
    Args(String),
}

/// Asks for evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRequest {
    nonce: String,
}

impl EvidenceRequest {
    /// With this nonce.
    pub fn new(nonce: &[u8]) -> Self {
        Self { nonce: STANDARD.encode(nonce) }
    }

    /// Reads the body of a request; gives the nonce.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn parse(body: &[u8]) -> Result<Vec<u8>, WireError> {
        let request: Self = parse(body, MAX_REQUEST)?;
        let nonce = STANDARD.decode(&request.nonce).map_err(|_| WireError::Nonce("no base64".to_owned()))?;
        match nonce.len() {
            MIN_NONCE..=MAX_NONCE => Ok(nonce),
            found => Err(WireError::Nonce(format!("{found} bytes"))),
        }
    }
}

/// Evidence of the pod VM, and the document that its launch was bound to. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceReply {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The TEE's name in the attestation protocol: `snp` (also the software TEE) or `tdx`.
    pub tee: String,
    /// As in the handshake with a broker: `primary_evidence` of belljar-rcar.
    pub evidence: Value,
    /// The initdata document, byte for byte.
    pub initdata: String,
}

/// An answer that is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorReply {
    /// One line, cause first.
    pub error: String,
}

/// What [`LOGS`] asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsQuery {
    /// The container.
    pub container: String,
    /// Whether to stay for what comes.
    pub follow: bool,
}

impl LogsQuery {
    /// Reads the query part of the path. Names are DNS labels, so there is nothing to unescape.
    ///
    /// # Errors
    /// [`WireError::Query`].
    pub fn parse(query: &str) -> Result<Self, WireError> {
        let refused = || WireError::Query(query.chars().filter(|c| !c.is_control()).take(200).collect());
        let (mut container, mut follow) = (None, None);
        for part in query.split('&') {
            match part.split_once('=') {
                Some(("container", name)) if container.is_none() && is_label(name) => container = Some(name.to_owned()),
                Some(("follow", "true")) if follow.is_none() => follow = Some(true),
                Some(("follow", "false")) if follow.is_none() => follow = Some(false),
                _ => return Err(refused()),
            }
        }
        Ok(Self { container: container.ok_or_else(refused)?, follow: follow.unwrap_or(false) })
    }

    /// The path with this query.
    pub fn path(&self) -> String {
        format!("{LOGS}?container={}&follow={}", self.container, self.follow)
    }
}

fn is_label(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    plain && (1..=63).contains(&name.len())
}

/// Starts a process; the first frame after the upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecStart {
    /// In this container.
    pub container: String,
    /// Command and arguments.
    pub args: Vec<String>,
    /// Whether it gets a terminal.
    #[serde(default)]
    pub terminal: bool,
}

impl ExecStart {
    /// Reads the content of its frame.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn parse(content: &[u8]) -> Result<Self, WireError> {
        let start: Self = parse(content, MAX_START)?;
        match start.args.len() {
            1..=MAX_ARGS if start.args.iter().all(|arg| !arg.contains('\0')) => {}
            found => return Err(WireError::Args(found.to_string())),
        }
        match is_label(&start.container) {
            true => Ok(start),
            false => Err(WireError::Json("container is not a name".to_owned())),
        }
    }
}

/// How a process has ended; the last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecExit {
    /// Exit status as a shell has it: 0 to 255, 128 and the signal.
    pub code: u32,
}

/// Reads one message of at most `most` bytes.
///
/// # Errors
/// [`WireError::TooLong`], [`WireError::Json`].
pub fn parse<T: DeserializeOwned>(bytes: &[u8], most: usize) -> Result<T, WireError> {
    if bytes.len() > most {
        return Err(WireError::TooLong { found: bytes.len(), most });
    }
    // The parser's own words may quote what was sent; they stay one short line.
    serde_json::from_slice(bytes)
        .map_err(|error| WireError::Json(error.to_string().chars().filter(|c| !c.is_control()).take(200).collect()))
}

/// For fuzzing: what arrives in a request, by its first byte.
pub fn fuzz(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    match which % 4 {
        0 => {
            if let Ok(nonce) = EvidenceRequest::parse(rest) {
                assert!((MIN_NONCE..=MAX_NONCE).contains(&nonce.len()));
            }
        }
        1 => {
            if let Ok(query) = LogsQuery::parse(&String::from_utf8_lossy(rest)) {
                let path = query.path();
                let again = LogsQuery::parse(path.split_once('?').map_or("", |(_, query)| query));
                assert_eq!(again, Ok(query));
            }
        }
        2 => {
            if let Ok(start) = ExecStart::parse(rest) {
                assert!(!start.args.is_empty() && start.args.len() <= MAX_ARGS);
            }
        }
        _ => crate::frame::fuzz(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_nonce_has_bounds() {
        let read = |length: usize| {
            let body = serde_json::to_vec(&EvidenceRequest::new(&vec![7; length])).unwrap();
            EvidenceRequest::parse(&body)
        };
        assert_eq!(read(32), Ok(vec![7; 32]));
        assert_eq!(read(64), Ok(vec![7; 64]));
        assert_eq!(read(31), Err(WireError::Nonce("31 bytes".into())));
        assert_eq!(read(65), Err(WireError::Nonce("65 bytes".into())));
        assert_eq!(EvidenceRequest::parse(br#"{"nonce":"%%"}"#), Err(WireError::Nonce("no base64".into())));
        let more = format!(r#"{{"nonce":"{}","more":1}}"#, STANDARD.encode([7; 32]));
        assert!(matches!(EvidenceRequest::parse(more.as_bytes()), Err(WireError::Json(_))));
        let found = MAX_REQUEST + 1;
        let long = vec![b' '; found];
        assert_eq!(EvidenceRequest::parse(&long), Err(WireError::TooLong { found, most: MAX_REQUEST }));
    }

    #[test]
    fn a_query_is_read_whole() {
        let query = |follow| LogsQuery { container: "web".into(), follow };
        assert_eq!(LogsQuery::parse("container=web"), Ok(query(false)));
        assert_eq!(LogsQuery::parse("follow=true&container=web"), Ok(query(true)));
        for bad in [
            "",
            "container=",
            "container=Web",
            "container=a&container=b",
            "follow=1&container=a",
            "container=a&x=1",
            "follow=true",
        ] {
            assert_eq!(LogsQuery::parse(bad), Err(WireError::Query(bad.into())));
        }
    }

    #[test]
    fn a_command_is_at_least_one_word_without_nul() {
        let parse = |text: &str| ExecStart::parse(text.as_bytes());
        let good = parse(r#"{"container":"web","args":["ls","-l"]}"#).unwrap();
        assert_eq!((good.args.len(), good.terminal), (2, false));
        assert_eq!(parse(r#"{"container":"web","args":[]}"#), Err(WireError::Args("0".into())));
        assert_eq!(parse(r#"{"container":"web","args":["a\u0000"]}"#), Err(WireError::Args("1".into())));
        assert!(parse(r#"{"container":"../web","args":["ls"]}"#).is_err());
    }

    proptest! {
        #[test]
        fn bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..512)) {
            fuzz(&data);
        }
    }
}
