//! The user's side. Evidence comes first: who has not judged it knows nothing of the other end.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header,
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    frame::Frame,
    tls::{self, Key, KeyError},
    wire::{self, ErrorReply, EvidenceReply, EvidenceRequest, ExecStart, LogsQuery},
};

/// Time for the handshake and for each answer.
pub const TIME_LIMIT: Duration = Duration::from_secs(20);
/// Most bytes of an answer that is an error.
const MAX_ERROR: usize = 16 * 1024;

/// Why the service gives nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Our own key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The stream ended or failed.
    #[error("connection lost: {0}")]
    Lost(String),
    /// No answer in time.
    #[error("no answer within {} s", TIME_LIMIT.as_secs())]
    Timeout,
    /// TLS failed: something else than the attested service answers.
    #[error("tls: {0}")]
    Tls(String),
    /// The answer is not the service's.
    #[error("answer is not understood: {0}")]
    Answer(String),
    /// The service says no.
    #[error("the pod refused ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words, one line, of the other side.
        message: String,
    },
}

/// A connection to the attested service.
#[derive(Debug)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    spki: Vec<u8>,
}

impl Client {
    /// Opens TLS on `stream`. Any server key is accepted here: [`Client::evidence`] must be judged with [`Client::spki`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect<S>(stream: S, operator: Option<&Key>) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (config, server) = tls::client(operator)?;
        // Neither sent nor compared.
        let name = ServerName::try_from("pod.belljar.internal").map_err(|error| ClientError::Tls(error.to_string()))?;
        let connecting = TlsConnector::from(config).connect(name, stream);
        let stream = timeout(TIME_LIMIT, connecting).await.map_err(|_| ClientError::Timeout)?;
        let stream = stream.map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<rustls::Error>() => ClientError::Tls(line(&error)),
            _ => ClientError::Lost(line(&error)),
        })?;
        let spki = server.get().ok_or_else(|| ClientError::Tls("the server has shown no key".to_owned()))?.to_vec();
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| ClientError::Lost(line(&error)))?;
        let driver = tokio::spawn(async move {
            // Its end is seen by whoever waits for an answer.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self { sender, driver, spki })
    }

    /// The DER `SubjectPublicKeyInfo` of the server's key, which it has proved to hold.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Asks for evidence that carries `nonce` and [`Client::spki`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn evidence(&mut self, nonce: &[u8]) -> Result<EvidenceReply, ClientError> {
        let body =
            serde_json::to_vec(&EvidenceRequest::new(nonce)).map_err(|error| ClientError::Answer(line(&error)))?;
        let answer = self.send(Method::POST, wire::EVIDENCE, Some(body)).await?;
        match answer.status() {
            StatusCode::OK => {
                let body = whole(answer, wire::MAX_EVIDENCE).await?;
                let reply: EvidenceReply =
                    wire::parse(&body, wire::MAX_EVIDENCE).map_err(|error| ClientError::Answer(error.to_string()))?;
                match reply.protocol {
                    wire::PROTOCOL => Ok(reply),
                    found => Err(ClientError::Answer(format!("protocol {found}, expected {}", wire::PROTOCOL))),
                }
            }
            status => Err(refused(status, answer).await),
        }
    }

    /// The frames of a container's output, as its operator.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn logs(self, query: &LogsQuery) -> Result<Frames, ClientError> {
        self.upgrade(Method::GET, &query.path()).await
    }

    /// Starts a process, as operator; its frames come and go on the stream.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn exec(self, start: &ExecStart) -> Result<Frames, ClientError> {
        let content = serde_json::to_vec(start).map_err(|error| ClientError::Answer(line(&error)))?;
        if content.len() > wire::MAX_START {
            let message = format!("the command has {} bytes, at most {} are allowed", content.len(), wire::MAX_START);
            return Err(ClientError::Answer(message));
        }
        let mut frames = self.upgrade(Method::POST, wire::EXEC).await?;
        let start = Frame::new(crate::Kind::Start, &content);
        start.write(&mut frames).await.map_err(|error| ClientError::Lost(line(&error)))?;
        Ok(frames)
    }

    async fn upgrade(mut self, method: Method, path: &str) -> Result<Frames, ClientError> {
        let answer = self.send(method, path, None).await?;
        match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                let upgraded = timeout(TIME_LIMIT, hyper::upgrade::on(answer)).await;
                let upgraded = upgraded.map_err(|_| ClientError::Timeout)?;
                upgraded.map(TokioIo::new).map_err(|error| ClientError::Answer(line(&error)))
            }
            status => Err(refused(status, answer).await),
        }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "pod");
        request = match &body {
            Some(_) => request.header(header::CONTENT_TYPE, "application/json"),
            None => request.header(header::CONNECTION, "upgrade").header(header::UPGRADE, wire::UPGRADE),
        };
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| ClientError::Answer(line(&error)))?;
        let lost = |error: hyper::Error| match error.is_parse() {
            true => ClientError::Answer(line(&error)),
            false => ClientError::Lost(line(&error)),
        };
        timeout(TIME_LIMIT, self.sender.send_request(request)).await.map_err(|_| ClientError::Timeout)?.map_err(lost)
    }

    /// Ends the connection.
    pub async fn close(self) {
        let Self { sender, mut driver, .. } = self;
        drop(sender);
        if timeout(Duration::from_secs(1), &mut driver).await.is_err() {
            driver.abort();
        }
    }
}

/// A stream of frames, inside TLS.
pub type Frames = TokioIo<Upgraded>;

async fn whole(answer: Response<Incoming>, most: usize) -> Result<Bytes, ClientError> {
    let read = timeout(TIME_LIMIT, Limited::new(answer.into_body(), most).collect()).await;
    let read = read.map_err(|_| ClientError::Timeout)?;
    read.map(|body| body.to_bytes()).map_err(|error| ClientError::Answer(line(&*error)))
}

async fn refused(status: StatusCode, answer: Response<Incoming>) -> ClientError {
    let body = whole(answer, MAX_ERROR).await.unwrap_or_default();
    let message = wire::parse::<ErrorReply>(&body, MAX_ERROR)
        .map_or_else(|_| "no reason was given".to_owned(), |reply| printable(&reply.error));
    ClientError::Refused { status: status.as_u16(), message }
}

fn line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    printable(&text)
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1024).collect()
}
