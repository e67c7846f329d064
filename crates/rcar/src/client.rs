//! The handshake from the workload's side, one step at a time.
//!
//! ```no_run
//! # async fn example(stream: tokio::net::TcpStream, attester: impl belljar_rcar::Attester) -> Result<(), Box<dyn std::error::Error>> {
//! use belljar_rcar::{Client, InitData, Tee};
//! let pin = "…64 hexadecimal digits…".parse()?;
//! let mut client = Client::connect(stream, pin).await?;
//! let report_data = client.auth(Tee::Snp).await?;
//! let evidence = attester.evidence(report_data).await?;
//! client.attest(&evidence, Some(InitData::toml("version = \"0.1.0\"…"))).await?;
//! let secret = client.resource(&"kbs:///default/key/1".parse()?).await?;
//! # Ok(()) }
//! ```

use crate::{
    binding::{HashAlgorithm, report_data},
    connection::{Answer, Connection, ConnectionError, SpkiPin},
    evidence::Evidence,
    jwe::{Jwe, JweError},
    key::{KeyError, TeeKey},
    uri::ResourceUri,
    wire::{
        self, Attestation, Challenge, ErrorBody, InitData, Request, RuntimeData, Tee, TeeEvidence, Token, WireError,
    },
};
use hyper::{Method, header};
use std::{fmt, future::Future, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

/// Where evidence comes from: the TSM interface, or the software TEE's port.
pub trait Attester {
    /// Why there is no evidence.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Evidence about this guest that is bound to `report_data`.
    fn evidence(&self, report_data: [u8; 64]) -> impl Future<Output = Result<Evidence, Self::Error>> + Send;
}

/// A step of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The TLS handshake.
    Connect,
    /// Request and challenge.
    Auth,
    /// Attestation and token.
    Attest,
    /// A resource.
    Resource,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Auth => "auth",
            Self::Attest => "attest",
            Self::Resource => "resource",
        })
    }
}

/// Why a step fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The broker is away: nothing was decided.
    #[error("broker is away ({step}): {cause}; check that it runs and can be reached")]
    Transport {
        /// When.
        step: Step,
        /// What happened.
        cause: ConnectionError,
    },
    /// The server holds another key than the contract names.
    #[error(
        "broker key {found} is not the pinned key {expected}; this is another broker, or somebody stands in between"
    )]
    PinMismatch {
        /// The pinned key.
        expected: SpkiPin,
        /// The key that was shown.
        found: SpkiPin,
    },
    /// The broker says no.
    #[error("broker refused {step} ({status} {kind}): {detail}")]
    Refused {
        /// What was refused.
        step: Step,
        /// HTTP status.
        status: u16,
        /// Kind of the error, such as `PolicyDeny`.
        kind: String,
        /// The broker's reason, one line, sanitised and bounded.
        detail: String,
    },
    /// The broker failed by itself (5xx): nothing was decided.
    #[error("broker failed during {step} with status {status}; look at its log and try again")]
    Broker {
        /// When.
        step: Step,
        /// HTTP status.
        status: u16,
    },
    /// The answer is not what the protocol says.
    #[error("broker answered {step} with something else than the protocol says: {problem}")]
    Protocol {
        /// When.
        step: Step,
        /// What is wrong.
        problem: String,
    },
    /// The resource does not decrypt.
    #[error("resource cannot be opened: {0}")]
    Decrypt(#[from] JweError),
    /// No key could be made.
    #[error("no tee key: {0}")]
    Key(#[from] KeyError),
    /// A step before its time.
    #[error("{step} needs {needs} first")]
    Order {
        /// What was asked.
        step: Step,
        /// What comes before.
        needs: Step,
    },
}

/// One handshake over one connection.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    key: TeeKey,
    session: Option<Session>,
}

struct Session {
    cookie: String,
    nonce: String,
    hash: HashAlgorithm,
    tee: Tee,
    token: Option<Token>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("tee", &self.tee).field("token", &self.token).finish_non_exhaustive()
    }
}

impl Client {
    /// Longest reason that [`ClientError::Refused`] holds, in characters.
    pub const MAX_DETAIL: usize = 512;

    /// Opens TLS 1.3 on `stream`, to the server with this key and no other.
    pub async fn connect<S>(stream: S, pin: SpkiPin) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::connect_within(stream, pin, Connection::TIME_LIMIT).await
    }

    /// [`Client::connect`] with another time for the TLS handshake and for each answer.
    pub async fn connect_within<S>(stream: S, pin: SpkiPin, limit: Duration) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = Connection::open_within(stream, pin, limit).await;
        let connection = connection.map_err(|cause| failed(Step::Connect, cause))?;
        Ok(Self { connection, key: TeeKey::generate()?, session: None })
    }

    /// Asks for a challenge, with a fresh TEE key. Gives the `report_data` for the evidence.
    pub async fn auth(&mut self, tee: Tee) -> Result<[u8; 64], ClientError> {
        let step = Step::Auth;
        self.session = None;
        self.key = TeeKey::generate()?;
        let answer = self.post(step, "/kbs/v0/auth", &Request::new(tee), None).await?;
        let (challenge, hash) = Challenge::parse(&answer.body).map_err(|e| misfit(step, &e))?;
        let cookie = session_cookie(&answer)
            .ok_or_else(|| ClientError::Protocol { step, problem: "no session cookie".into() })?;
        let bound = report_data(&self.key.jwk(), &challenge.nonce, "", hash);
        self.session = Some(Session { cookie, nonce: challenge.nonce, hash, tee, token: None });
        Ok(bound)
    }

    /// The `report_data` of the challenge, again.
    pub fn report_data(&self) -> Option<[u8; 64]> {
        let session = self.session.as_ref()?;
        Some(report_data(&self.key.jwk(), &session.nonce, "", session.hash))
    }

    /// Sends the evidence and the init-data document; the broker's token comes back.
    pub async fn attest(&mut self, evidence: &Evidence, init_data: Option<InitData>) -> Result<&Token, ClientError> {
        let step = Step::Attest;
        let session = self.session.as_ref().ok_or(ClientError::Order { step, needs: Step::Auth })?;
        if session.tee != evidence.tee() {
            let problem = format!("evidence of {} for a challenge to {}", evidence.tee(), session.tee);
            return Err(ClientError::Protocol { step, problem });
        }
        let message = Attestation {
            init_data,
            runtime_data: RuntimeData { nonce: session.nonce.clone(), tee_pubkey: self.key.jwk() },
            tee_evidence: TeeEvidence { primary_evidence: evidence, additional_evidence: String::new() },
        };
        let cookie = session.cookie.clone();
        let answer = self.post(step, "/kbs/v0/attest", &message, Some(cookie)).await?;
        let token: Token = wire::parse("token", &answer.body, wire::MAX_ANSWER).map_err(|e| misfit(step, &e))?;
        match self.session.as_mut() {
            Some(session) => {
                if let Some(cookie) = session_cookie(&answer) {
                    session.cookie = cookie;
                }
                Ok(session.token.insert(token))
            }
            None => Err(ClientError::Order { step, needs: Step::Auth }),
        }
    }

    /// Fetches and decrypts a resource.
    pub async fn resource(&mut self, uri: &ResourceUri) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let step = Step::Resource;
        let session = self.session.as_ref().filter(|s| s.token.is_some());
        let cookie = session.ok_or(ClientError::Order { step, needs: Step::Attest })?.cookie.clone();
        let headers = [(header::COOKIE, format!("{}={cookie}", wire::COOKIE))];
        let path = uri.http_path();
        let answer = self.connection.send(Method::GET, &path, &headers, None, wire::MAX_RESOURCE_ANSWER).await;
        let answer = accepted(step, answer.map_err(|cause| failed(step, cause))?)?;
        Ok(Jwe::parse(&answer.body)?.decrypt(&self.key)?)
    }

    /// The token, once attested.
    pub fn token(&self) -> Option<&Token> {
        self.session.as_ref()?.token.as_ref()
    }

    /// Ends the connection in order.
    pub async fn close(self) {
        self.connection.close().await;
    }

    async fn post(
        &mut self,
        step: Step,
        path: &str,
        message: &impl serde::Serialize,
        cookie: Option<String>,
    ) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(message)
            .map_err(|e| ClientError::Protocol { step, problem: crate::sanitize(&e.to_string(), 120) })?;
        let headers: Vec<_> =
            cookie.map(|cookie| (header::COOKIE, format!("{}={cookie}", wire::COOKIE))).into_iter().collect();
        let answer = self.connection.send(Method::POST, path, &headers, Some(body), wire::MAX_ANSWER).await;
        accepted(step, answer.map_err(|cause| failed(step, cause))?)
    }
}

fn failed(step: Step, cause: ConnectionError) -> ClientError {
    match cause {
        ConnectionError::PinMismatch { expected, found } => ClientError::PinMismatch { expected, found },
        ConnectionError::Http(_) | ConnectionError::TooLong(_) => {
            ClientError::Protocol { step, problem: cause.to_string() }
        }
        cause => ClientError::Transport { step, cause },
    }
}

fn misfit(step: Step, error: &WireError) -> ClientError {
    ClientError::Protocol { step, problem: error.to_string() }
}

fn accepted(step: Step, answer: Answer) -> Result<Answer, ClientError> {
    let status = answer.status.as_u16();
    match status {
        200 => Ok(answer),
        400..=499 => {
            let body = wire::parse::<ErrorBody>("error", &answer.body, wire::MAX_ANSWER)
                .unwrap_or_else(|_| ErrorBody::new("Unknown", "the broker gave no reason in the form of the protocol"));
            let kind = crate::sanitize(body.name(), 64);
            let detail = crate::sanitize(&body.detail, Client::MAX_DETAIL);
            Err(ClientError::Refused { step, status, kind, detail })
        }
        500..=599 => Err(ClientError::Broker { step, status }),
        _ => Err(ClientError::Protocol { step, problem: format!("status {status}") }),
    }
}

/// The session id of an answer; only characters that cannot break the header it is sent back in.
fn session_cookie(answer: &Answer) -> Option<String> {
    let value = answer.cookies.iter().find_map(|cookie| {
        let (name, rest) = cookie.split_once('=')?;
        (name.trim() == wire::COOKIE).then(|| rest.split(';').next().unwrap_or_default().trim())
    })?;
    let fits = !value.is_empty()
        && value.len() <= wire::MAX_COOKIE
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    fits.then(|| value.to_owned())
}
