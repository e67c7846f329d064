//! One GET of a bounded body, through the usual proxies, with a time for each step.
//!
//! TLS takes the root certificates of the machine's own store (`rustls-platform-verifier`, as for image registries;
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` name another), and a file that the caller adds. TLS hides which chips are asked
//! about; that an answer is genuine rests on the vendors' signatures alone, so a mirror may be asked over plain HTTP.

use std::error::Error as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{NoProxy, Proxy, StatusCode, Url, redirect};

use crate::document::MAX_BODY;

/// Longest time that a server can make us wait, in seconds: an hour.
pub(crate) const MAX_RETRY_AFTER: u64 = 60 * 60;

/// Proxy settings as they stand in the environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For https addresses.
    pub https: Option<String>,
    /// For http addresses.
    pub http: Option<String>,
    /// Hosts, domains and networks without one, separated by commas.
    pub no_proxy: Option<String>,
}

impl std::fmt::Debug for Proxies {
    /// Says which are set: the address of a proxy may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies")
            .field("https", &self.https.is_some())
            .field("http", &self.http.is_some())
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

impl Proxies {
    /// Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` through `lookup`; of a name in both spellings the
    /// lower-case one counts, as for curl. An empty value is none.
    pub fn from(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let of = |name: &str| {
            let lower = lookup(&name.to_lowercase());
            lower.or_else(|| lookup(name)).filter(|value| !value.is_empty())
        };
        let all = of("ALL_PROXY");
        Self {
            https: of("HTTPS_PROXY").or_else(|| all.clone()),
            http: of("HTTP_PROXY").or(all),
            no_proxy: of("NO_PROXY"),
        }
    }

    /// From the environment of the process.
    pub fn from_env() -> Self {
        Self::from(|name| std::env::var(name).ok())
    }
}

/// Bounds of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// To reach the server, with proxy and TLS.
    pub connect: Duration,
    /// From the request to the head of the answer, the connection included.
    pub first_byte: Duration,
    /// From the head to the last byte.
    pub body: Duration,
    /// Longest body in bytes.
    pub size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(30),
            body: Duration::from_secs(60),
            size: MAX_BODY,
        }
    }
}

/// How to connect.
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    /// Proxies.
    pub proxies: Proxies,
    /// Certificates, PEM, that TLS trusts beside those of the machine.
    pub ca: Option<Vec<u8>>,
    /// Bounds.
    pub limits: Limits,
}

/// Why a request has no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The client cannot be set up with these options.
    #[error("cannot set up connections: {0}")]
    Setup(String),
    /// TLS has nothing to trust.
    #[error("TLS has no root certificates ({0}): install this machine's (ca-certificates), or give a file of them")]
    NoRoots(String),
    /// Not an address.
    #[error("{address:?} is not an http or https address: {why}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// The server was not reached, or TLS failed.
    #[error("{host} cannot be reached ({why}): check network and proxy settings (HTTPS_PROXY, NO_PROXY)")]
    Connect {
        /// Name or address.
        host: String,
        /// What failed.
        why: String,
    },
    /// No answer in time.
    #[error("{host} did not answer within {} ms: try again later", .after.as_millis())]
    Silent {
        /// Name or address.
        host: String,
        /// The bound.
        after: Duration,
    },
    /// The body was not there in time.
    #[error("{host} did not send its whole answer within {} ms: try again later", .after.as_millis())]
    Slow {
        /// Name or address.
        host: String,
        /// The bound.
        after: Duration,
    },
    /// The connection ended before the answer did.
    #[error("{host} broke off its answer ({why}): try again later")]
    Cut {
        /// Name or address.
        host: String,
        /// What failed.
        why: String,
    },
    /// More bytes than an item can have.
    #[error("{host} sent more than {limit} bytes: this is not the service, or it is broken")]
    TooLarge {
        /// Name or address.
        host: String,
        /// The bound.
        limit: usize,
    },
    /// The server points elsewhere. That is not followed.
    #[error("{host} sends us elsewhere ({location}): configure the address that it names, if you trust it")]
    Redirect {
        /// Name or address.
        host: String,
        /// Where to.
        location: String,
    },
    /// The server asks for patience.
    #[error("{host} asks to wait{}: try again then", .retry_after.map(|s| format!(" {s} seconds")).unwrap_or_default())]
    Throttled {
        /// Name or address.
        host: String,
        /// For how many seconds, where it says so.
        retry_after: Option<u64>,
    },
    /// The server knows no such item.
    #[error("{host} knows no such item (status {status}): check chip id, TCB or FMSPC")]
    Unknown {
        /// Name or address.
        host: String,
        /// 400, 404 or 410.
        status: u16,
    },
    /// Another status than 200.
    #[error("{host} answered with status {status}: try again later")]
    Status {
        /// Name or address.
        host: String,
        /// The status.
        status: u16,
    },
}

impl HttpError {
    /// Whether another attempt may end otherwise.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Silent { .. }
            | Self::Slow { .. }
            | Self::Cut { .. }
            | Self::Throttled { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

/// An answer with status 200.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// A client for the vendors' services.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
    limits: Limits,
}

impl Http {
    pub(crate) fn new(options: &HttpOptions) -> Result<Self, HttpError> {
        let setup = |error: reqwest::Error| HttpError::Setup(cause(&error));
        let limits = options.limits;
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(limits.connect)
            .http1_only()
            .user_agent(concat!("belljar/", env!("CARGO_PKG_VERSION")));
        let exceptions = options.proxies.no_proxy.as_deref().and_then(NoProxy::from_string);
        if let Some(address) = &options.proxies.https {
            builder = builder.proxy(Proxy::https(address).map_err(setup)?.no_proxy(exceptions.clone()));
        }
        if let Some(address) = &options.proxies.http {
            builder = builder.proxy(Proxy::http(address).map_err(setup)?.no_proxy(exceptions));
        }
        if let Some(pem) = &options.ca {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(setup)?;
            if certificates.is_empty() {
                return Err(HttpError::Setup("the CA file holds no certificate in PEM".to_owned()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        // Every option was read above, so what is left to fail is the machine's store.
        let client = builder.build().map_err(|error| HttpError::NoRoots(cause(&error)))?;
        Ok(Self { client, limits })
    }

    /// GETs an address; `now` (seconds since 1970) is for a Retry-After that names a date.
    pub(crate) async fn get(&self, url: Url, now: u64) -> Result<Answer, HttpError> {
        let host = host(&url);
        let limits = self.limits;
        let sent = tokio::time::timeout(limits.first_byte, self.client.get(url).send()).await;
        let silent = || HttpError::Silent { host: host.clone(), after: limits.first_byte };
        let response = sent.map_err(|_| silent())?.map_err(|error| {
            let why = cause(&error.without_url());
            HttpError::Connect { host: host.clone(), why }
        })?;
        let status = response.status();
        let headers = response.headers().clone();
        if status.is_redirection() {
            let location = headers.get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or("nowhere");
            return Err(HttpError::Redirect { host, location: location.chars().take(200).collect() });
        }
        match status {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                return Err(HttpError::Throttled { host, retry_after: retry_after(&headers, now) });
            }
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::BAD_REQUEST => {
                return Err(HttpError::Unknown { host, status: status.as_u16() });
            }
            _ => return Err(HttpError::Status { host, status: status.as_u16() }),
        }
        let read = read_body(response, &host, limits.size);
        let body = tokio::time::timeout(limits.body, read)
            .await
            .map_err(|_| HttpError::Slow { host: host.clone(), after: limits.body })??;
        Ok(Answer { headers, body })
    }
}

async fn read_body(mut response: reqwest::Response, host: &str, limit: usize) -> Result<Vec<u8>, HttpError> {
    let too_large = || HttpError::TooLarge { host: host.to_owned(), limit };
    let announced = response.content_length().map(usize::try_from);
    if announced.is_some_and(|length| !length.is_ok_and(|length| length <= limit)) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) if body.len().saturating_add(piece.len()) > limit => return Err(too_large()),
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => return Ok(body),
            Err(error) => {
                return Err(HttpError::Cut { host: host.to_owned(), why: cause(&error.without_url()) });
            }
        }
    }
}

/// Reads an address of a service.
pub(crate) fn address(text: &str) -> Result<Url, HttpError> {
    let wrong = |why: String| HttpError::Address { address: text.to_owned(), why };
    let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    match url.scheme() {
        "https" | "http" if url.has_host() && url.query().is_none() && url.fragment().is_none() => Ok(url),
        "https" | "http" => Err(wrong("give scheme, host and path alone".to_owned())),
        other => Err(wrong(format!("its scheme is {other}"))),
    }
}

/// Host and port, as they stand in messages and in the state of the back-off.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("localhost");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Retry-After (RFC 9110 section 10.2.3) in seconds from now: a number, or a date.
fn retry_after(headers: &HeaderMap, now: u64) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = text.parse().ok().or_else(|| {
        let date = httpdate::parse_http_date(text).ok()?;
        let from = UNIX_EPOCH.checked_add(Duration::from_secs(now)).unwrap_or(SystemTime::UNIX_EPOCH);
        Some(date.duration_since(from).unwrap_or_default().as_secs())
    })?;
    Some(seconds.min(MAX_RETRY_AFTER))
}

/// The innermost cause: what the libraries wrap around it says nothing to a user.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let (inner, outer) = (inner.to_string(), error.source().map(ToString::to_string));
    match outer {
        // "operation timed out" and the like need to say of what.
        Some(outer) if outer != inner => format!("{outer}: {inner}"),
        _ => inner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        headers
    }

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        assert_eq!(retry_after(&header("12"), 0), Some(12));
        assert_eq!(retry_after(&header("Sun, 06 Nov 1994 08:49:37 GMT"), 784_111_770), Some(7));
        assert_eq!(retry_after(&header("Sun, 06 Nov 1994 08:49:37 GMT"), 784_111_800), Some(0));
        assert_eq!(retry_after(&header("99999999999"), 0), Some(MAX_RETRY_AFTER));
        assert_eq!(retry_after(&header("soon"), 0), None);
        assert_eq!(retry_after(&HeaderMap::new(), 0), None);
    }

    #[test]
    fn proxies_come_from_the_environment_in_both_spellings() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Proxies::from(move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
        };
        let both = of(&[("HTTPS_PROXY", "http://upper"), ("https_proxy", "http://lower"), ("NO_PROXY", "a,b")]);
        assert_eq!(both.https.as_deref(), Some("http://lower"));
        assert_eq!(both.no_proxy.as_deref(), Some("a,b"));
        assert_eq!(
            of(&[("HTTP_PROXY", "http://h"), ("HTTPS_PROXY", "")]),
            Proxies { http: Some("http://h".to_owned()), ..Proxies::default() }
        );
        let all = of(&[("ALL_PROXY", "http://a"), ("http_proxy", "http://h")]);
        assert_eq!((all.https.as_deref(), all.http.as_deref()), (Some("http://a"), Some("http://h")));
        assert!(!format!("{:?}", of(&[("HTTPS_PROXY", "http://user:secret@p")])).contains("secret"));
    }

    #[test]
    fn an_address_is_scheme_host_and_path() {
        assert_eq!(host(&address("https://kdsintf.amd.com").unwrap()), "kdsintf.amd.com");
        assert_eq!(host(&address("http://127.0.0.1:8081/x/").unwrap()), "127.0.0.1:8081");
        for wrong in ["ftp://a", "kdsintf.amd.com", "https://a/?b=c", "https://a/#b", ""] {
            assert!(matches!(address(wrong), Err(HttpError::Address { .. })), "{wrong}");
        }
    }
}
