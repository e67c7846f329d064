//! A broker in another process, for `belljar run --broker URL`: its admin API from the caller's side.

use crate::{
    api::TENANT_HEADER,
    api::workloads::{BodyError, HandshakesBody, KnownBody, RegisteredBody, WorkloadBody},
    config::AdminToken,
    record::HandshakeRecord,
    workload::{KnownWorkload, Workload, WorkloadId},
};
use belljar_rcar::{
    SpkiPin,
    connection::{Answer, Connection, ConnectionError},
    wire::{self, ErrorBody},
};
pub use hyper::Method;
use hyper::{StatusCode, header};
use std::{fmt, str::FromStr, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use zeroize::Zeroizing;

/// Where a broker is, and which key it has: `https://host:port#sha256=<64 hexadecimal digits>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The key.
    pub pin: SpkiPin,
}

/// Why a remote broker does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// Not a broker's URL.
    #[error("not a broker url: {0}; write https://host:port#sha256=<64 hexadecimal digits>")]
    Url(&'static str),
    /// It cannot be reached.
    #[error("broker {address} cannot be reached: {cause}; check that it runs")]
    Unreachable {
        /// Its address.
        address: String,
        /// What happened.
        cause: String,
    },
    /// The connection failed.
    #[error("broker: {0}")]
    Connection(#[from] ConnectionError),
    /// It says no.
    #[error("broker refused ({status} {kind}): {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Kind of the error.
        kind: String,
        /// Its reason.
        detail: String,
    },
    /// The answer is not what the API says.
    #[error("broker answered something else than its api says: {0}")]
    Answer(String),
}

impl BrokerUrl {
    /// Opens a TCP connection to it, for a handshake or for a tunnel.
    pub async fn connect(&self) -> Result<TcpStream, RemoteError> {
        const LIMIT: Duration = Duration::from_secs(10);
        let unreachable = |cause: String| RemoteError::Unreachable { address: self.address(), cause };
        let stream = timeout(LIMIT, TcpStream::connect((self.host.as_str(), self.port)))
            .await
            .map_err(|_| unreachable("no answer within 10 s".into()))?
            .map_err(|e| unreachable(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}#sha256={}", self.address(), self.pin)
    }
}

impl FromStr for BrokerUrl {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let rest = text.strip_prefix("https://").ok_or(RemoteError::Url("it does not begin with https://"))?;
        let (address, pin) = rest.split_once("#sha256=").ok_or(RemoteError::Url("it names no key"))?;
        let pin = pin.parse().map_err(|_| RemoteError::Url("the key is not 64 hexadecimal digits"))?;
        let address = address.strip_suffix('/').unwrap_or(address);
        let (host, port) = address.rsplit_once(':').ok_or(RemoteError::Url("it names no port"))?;
        let port = port.parse().map_err(|_| RemoteError::Url("the port is not a number up to 65535"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fits = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b)),
        };
        if !fits {
            return Err(RemoteError::Url("the host is neither a name nor an address"));
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port, pin })
    }
}

/// A remote broker and the right to administer it.
#[derive(Debug, Clone)]
pub struct RemoteBroker {
    url: BrokerUrl,
    token: AdminToken,
    /// Whose affairs; the token's own tenant when absent.
    tenant: Option<String>,
}

impl RemoteBroker {
    /// The broker at `url`.
    pub fn new(url: BrokerUrl, token: AdminToken) -> Self {
        Self { url, token, tenant: None }
    }

    /// The same, to administer another tenant; only the broker's owner may.
    #[must_use]
    pub fn of_tenant(self, tenant: Option<String>) -> Self {
        Self { tenant, ..self }
    }

    /// Sends a request of the admin API (`/belljar/v1`), and gives the body of its answer.
    ///
    /// # Errors
    /// Any [`RemoteError`].
    pub async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Zeroizing<Vec<u8>>, RemoteError> {
        Ok(Zeroizing::new(self.ask(method, path, Some(body)).await?.body.to_vec()))
    }

    /// Where it is.
    pub fn url(&self) -> &BrokerUrl {
        &self.url
    }

    /// Registers a workload, with its secrets.
    pub async fn register(&self, workload: &Workload) -> Result<WorkloadId, RemoteError> {
        let body = serde_json::to_vec(&WorkloadBody::from(workload)).map_err(|e| RemoteError::Answer(e.to_string()))?;
        let answer = self.ask(Method::POST, "/belljar/v1/workloads", Some(body)).await?;
        let body: RegisteredBody = read(&answer)?;
        body.id.parse().map_err(|e: crate::workload::WorkloadError| RemoteError::Answer(e.to_string()))
    }

    /// The workloads of this name, oldest registration first.
    pub async fn known(&self, name: &str) -> Result<Vec<KnownWorkload>, RemoteError> {
        // What a query may hold as it is; the rest is escaped (RFC 3986, unreserved characters).
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
        let escaped: String =
            name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
        let answer = self.ask(Method::GET, &format!("/belljar/v1/workloads?name={escaped}"), None).await?;
        let workloads = read::<KnownBody>(&answer)?.workloads.into_iter();
        workloads.map(|body| body.try_into().map_err(|e: BodyError| RemoteError::Answer(e.to_string()))).collect()
    }

    /// Withdraws a workload.
    pub async fn withdraw(&self, id: &WorkloadId) -> Result<(), RemoteError> {
        self.ask(Method::DELETE, &format!("/belljar/v1/workloads/{id}"), None).await.map(|_| ())
    }

    /// The handshakes of the workload with this init-data digest, oldest first.
    pub async fn handshakes(&self, initdata_digest: &[u8; 32]) -> Result<Vec<HandshakeRecord>, RemoteError> {
        let path = format!("/belljar/v1/handshakes?initdata={}", hex::encode(initdata_digest));
        let answer = self.ask(Method::GET, &path, None).await?;
        Ok(read::<HandshakesBody<HandshakeRecord>>(&answer)?.handshakes)
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Answer, RemoteError> {
        const MAX_ANSWER: usize = 64 * 1024 * 1024;
        let stream = self.url.connect().await?;
        let mut connection = Connection::open(stream, self.url.pin).await?;
        let mut headers = vec![(header::AUTHORIZATION, format!("Bearer {}", self.token.reveal()))];
        if let Some(tenant) = &self.tenant {
            headers.push((header::HeaderName::from_static(TENANT_HEADER), tenant.clone()));
        }
        let answer = connection.send(method, path, &headers, body, MAX_ANSWER).await?;
        connection.close().await;
        match answer.status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(answer),
            status => {
                let body = wire::parse::<ErrorBody>("error", &answer.body, wire::MAX_ANSWER)
                    .unwrap_or_else(|_| ErrorBody::new("Unknown", "no reason was given"));
                let kind = belljar_rcar::sanitize(body.name(), 64);
                Err(RemoteError::Refused {
                    status: status.as_u16(),
                    kind,
                    detail: belljar_rcar::sanitize(&body.detail, 512),
                })
            }
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: &Answer) -> Result<T, RemoteError> {
    serde_json::from_slice(&answer.body).map_err(|e| RemoteError::Answer(belljar_rcar::sanitize(&e.to_string(), 160)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let key = "ab".repeat(32);
        let parse = |text: String| text.parse::<BrokerUrl>();
        for (host, bare) in [("127.0.0.1", "127.0.0.1"), ("broker.example", "broker.example"), ("[::1]", "::1")] {
            let url = parse(format!("https://{host}:8080/#sha256={key}")).unwrap();
            assert_eq!((url.host.as_str(), url.port, url.pin), (bare, 8080, SpkiPin([0xab; 32])));
            assert_eq!(url.to_string(), format!("https://{host}:8080#sha256={key}"));
        }
        for (text, why) in [
            (format!("http://h:1#sha256={key}"), "it does not begin with https://"),
            ("https://h:1".into(), "it names no key"),
            (format!("https://h:1#sha256={key}0"), "the key is not 64 hexadecimal digits"),
            (format!("https://h#sha256={key}"), "it names no port"),
            (format!("https://h:70000#sha256={key}"), "the port is not a number up to 65535"),
            (format!("https://a/b:1#sha256={key}"), "the host is neither a name nor an address"),
            (format!("https://:1#sha256={key}"), "the host is neither a name nor an address"),
        ] {
            assert_eq!(parse(text), Err(RemoteError::Url(why)));
        }
    }
}
