//! Ways to a pod's attested service.

use std::fmt;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use belljar_guest_api::names::ATTESTED_PORT;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::failure::{Failure, one_line};

/// How long `kubectl` may take until it forwards.
const FORWARD_LIMIT: Duration = Duration::from_secs(30);
/// How long a TCP connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of `kubectl`'s complaints that are shown.
const MAX_COMPLAINT: u64 = 4096;

/// Where a pod's attested service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A pod of the cluster.
    Pod(String),
    /// An address.
    Tcp(String, u16),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected pod/NAME or tcp:HOST:PORT";
        if let Some(name) = text.strip_prefix("pod/") {
            // A name that begins with a dash would be an option of kubectl.
            let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
            let fits = plain && (1..=253).contains(&name.len()) && !name.starts_with(['-', '.']);
            return if fits { Ok(Self::Pod(name.to_owned())) } else { Err(format!("{name:?} is not a pod's name")) };
        }
        let address = text.strip_prefix("tcp:").ok_or(FORM)?;
        let (host, port) = address.rsplit_once(':').ok_or(FORM)?;
        let port = port.parse().map_err(|_| FORM)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() { Err(FORM.to_owned()) } else { Ok(Self::Tcp(host.to_owned(), port)) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => write!(f, "pod/{name}"),
            Self::Tcp(host, port) => write!(f, "tcp:{host}:{port}"),
        }
    }
}

/// What carries a connection: dropping it ends `kubectl`.
#[derive(Debug)]
pub struct Connection {
    _kubectl: Option<Child>,
}

impl Target {
    /// Connects.
    pub async fn connect(&self, namespace: Option<&str>) -> Result<(Connection, TcpStream), Failure> {
        match self {
            Self::Tcp(host, port) => {
                let stream = tcp(host, *port).await.map_err(|why| Failure::undecided(format!("{self}: {why}")))?;
                Ok((Connection { _kubectl: None }, stream))
            }
            Self::Pod(name) => {
                let (kubectl, port) = forward(name, namespace).await?;
                let stream =
                    tcp("127.0.0.1", port).await.map_err(|why| Failure::undecided(format!("{self}: {why}")))?;
                Ok((Connection { _kubectl: Some(kubectl) }, stream))
            }
        }
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, String> {
    let connected = timeout(CONNECT_LIMIT, TcpStream::connect((host, port))).await;
    connected.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())
}

/// The program that talks to the cluster: `BELLJAR_KUBECTL`, or `kubectl`.
fn kubectl() -> std::ffi::OsString {
    std::env::var_os("BELLJAR_KUBECTL").filter(|program| !program.is_empty()).unwrap_or_else(|| "kubectl".into())
}

/// Starts `kubectl port-forward` from a free port of the loopback; gives the port.
async fn forward(pod: &str, namespace: Option<&str>) -> Result<(Child, u16), Failure> {
    let mut command = Command::new(kubectl());
    command.arg("port-forward").arg("--address=127.0.0.1");
    if let Some(namespace) = namespace {
        command.arg(format!("--namespace={namespace}"));
    }
    command.arg(format!("pod/{pod}")).arg(format!(":{ATTESTED_PORT}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        Failure::undecided(format!("cannot run {}: {error}", kubectl().display()))
            .hint("install kubectl, or name it in BELLJAR_KUBECTL")
    })?;
    let stdout = child.stdout.take().ok_or_else(|| Failure::undecided("kubectl has no output"))?;
    let mut lines = BufReader::new(stdout.take(MAX_COMPLAINT)).lines();
    let port = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(port) = forwarded(&line) {
                return Some(port);
            }
        }
        None
    };
    match timeout(FORWARD_LIMIT, port).await {
        Ok(Some(port)) => {
            // Whatever it says from now on ("Handling connection"), it must not wait for a reader.
            let mut rest = lines.into_inner().into_inner().into_inner();
            tokio::spawn(async move { tokio::io::copy(&mut rest, &mut tokio::io::sink()).await });
            if let Some(mut errors) = child.stderr.take() {
                tokio::spawn(async move { tokio::io::copy(&mut errors, &mut tokio::io::sink()).await });
            }
            Ok((child, port))
        }
        outcome => {
            let mut said = String::new();
            if let Some(errors) = child.stderr.take().filter(|_| outcome.is_ok()) {
                let _ = errors.take(MAX_COMPLAINT).read_to_string(&mut said).await;
            }
            let why = match (outcome, said.trim()) {
                (Err(_), _) => format!("no answer within {} s", FORWARD_LIMIT.as_secs()),
                (_, "") => "it ended without a word".to_owned(),
                (_, said) => one_line(said),
            };
            Err(Failure::undecided(format!("kubectl port-forward pod/{pod}: {why}")))
        }
    }
}

/// The port in `Forwarding from 127.0.0.1:43211 -> 8007`.
fn forwarded(line: &str) -> Option<u16> {
    let (port, to) = line.strip_prefix("Forwarding from 127.0.0.1:")?.split_once(" -> ")?;
    if to.trim() == ATTESTED_PORT.to_string() { port.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let parse = |text: &str| text.parse::<Target>();
        assert_eq!(parse("pod/web-0"), Ok(Target::Pod("web-0".into())));
        assert_eq!(parse("tcp:127.0.0.1:8007"), Ok(Target::Tcp("127.0.0.1".into(), 8007)));
        assert_eq!(parse("tcp:[::1]:8007"), Ok(Target::Tcp("::1".into(), 8007)));
        for bad in ["web", "pod/", "pod/-n", "pod/a b", "pod/A", "tcp:host", "tcp::1", "tcp:h:x", "tcp:h:70000"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_forwarded_port_is_read() {
        assert_eq!(forwarded("Forwarding from 127.0.0.1:43211 -> 8007"), Some(43211));
        assert_eq!(forwarded("Forwarding from [::1]:43211 -> 8007"), None);
        assert_eq!(forwarded("Forwarding from 127.0.0.1:43211 -> 80"), None);
        assert_eq!(forwarded("error: something"), None);
    }
}
