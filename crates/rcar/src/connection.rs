//! HTTP/1.1 over TLS 1.3 on any byte stream, with the server known by the hash of its public key alone: no certificate
//! authority, no name, no clock.

use aws_lc_rs::digest::{SHA256, digest};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        aws_lc_rs::{default_provider, kx_group},
        verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use std::{
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use subtle::ConstantTimeEq;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// SHA-256 over the DER SubjectPublicKeyInfo of the server's TLS key; as text 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpkiPin(pub [u8; 32]);

impl SpkiPin {
    /// Of a DER SubjectPublicKeyInfo.
    pub fn of_spki(der: &[u8]) -> Self {
        let mut pin = [0; 32];
        pin.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(pin)
    }

    /// Of a DER certificate; nothing when it is not one.
    pub fn of_certificate(der: &CertificateDer<'_>) -> Option<Self> {
        ParsedCertificate::try_from(der).ok().map(|cert| Self::of_spki(cert.subject_public_key_info().as_ref()))
    }
}

impl fmt::Display for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpkiPin({self})")
    }
}

impl FromStr for SpkiPin {
    type Err = ConnectionError;

    fn from_str(text: &str) -> Result<Self, ConnectionError> {
        let mut pin = [0; 32];
        hex::decode_to_slice(text, &mut pin).map_err(|_| ConnectionError::BadPin)?;
        Ok(Self(pin))
    }
}

/// Why a connection fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The stream ended or failed: the server is away.
    #[error("connection lost: {0}")]
    Lost(String),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// Another server, or somebody in between.
    #[error(
        "server key {found} is not the pinned key {expected}; this is another server, or somebody stands in between"
    )]
    PinMismatch {
        /// The pinned key.
        expected: SpkiPin,
        /// The key that was shown.
        found: SpkiPin,
    },
    /// The TLS handshake failed otherwise.
    #[error("tls: {0}")]
    Tls(String),
    /// The answer is not HTTP/1.1.
    #[error("http: {0}")]
    Http(String),
    /// The answer is too long.
    #[error("answer is longer than {0} bytes")]
    TooLong(usize),
    /// A request that cannot be written.
    #[error("request cannot be written: {0}")]
    Request(String),
    /// Not 64 hexadecimal digits.
    #[error("not a key pin; write the 64 hexadecimal digits of the sha-256 of the server's public key")]
    BadPin,
}

/// An answer, whole.
#[derive(Clone)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Values of `set-cookie`.
    pub cookies: Vec<String>,
    /// Body.
    pub body: Bytes,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({}, {} bytes)", self.status, self.body.len())
    }
}

/// One connection; requests go one after the other.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    limit: Duration,
}

impl Connection {
    /// Time for the handshake and for each answer, unless [`Connection::open_within`] sets another.
    pub const TIME_LIMIT: Duration = Duration::from_secs(20);

    /// Opens TLS on `stream`, and accepts only the pinned key.
    pub async fn open<S>(stream: S, pin: SpkiPin) -> Result<Self, ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::open_within(stream, pin, Self::TIME_LIMIT).await
    }

    /// [`Connection::open`] with another time for the handshake and for each answer.
    pub async fn open_within<S>(stream: S, pin: SpkiPin, limit: Duration) -> Result<Self, ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let verifier = Arc::new(PinVerifier { pin, found: OnceLock::new(), provider: default_provider() });
        let connector = TlsConnector::from(Arc::new(tls_config(verifier.clone())?));
        // The name is not sent and not compared: the key is the name.
        let name = ServerName::try_from("broker.belljar.internal").map_err(|e| ConnectionError::Tls(e.to_string()))?;
        let tls = timeout(limit, connector.connect(name, stream))
            .await
            .map_err(|_| ConnectionError::Timeout(limit))?
            .map_err(|e| match verifier.found.get() {
            Some(found) => ConnectionError::PinMismatch { expected: pin, found: *found },
            None if e.get_ref().is_some_and(|inner| inner.is::<TlsError>()) => ConnectionError::Tls(short(&e)),
            None => ConnectionError::Lost(short(&e)),
        })?;
        let (sender, connection) = handshake(TokioIo::new(tls)).await.map_err(|e| ConnectionError::Http(short(&e)))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the broker ended");
            }
        });
        Ok(Self { sender, driver, limit })
    }

    /// Sends a request and reads its answer of at most `max` bytes. `headers` are given as they are; `Host` is added, and
    /// `Content-Type: application/json` where there is a body.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
        body: Option<Vec<u8>>,
        max: usize,
    ) -> Result<Answer, ConnectionError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "broker");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| ConnectionError::Request(short(&e)))?;
        let limit = self.limit;
        timeout(limit, self.exchange(request, max)).await.map_err(|_| ConnectionError::Timeout(limit))?
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>, max: usize) -> Result<Answer, ConnectionError> {
        self.sender.ready().await.map_err(lost)?;
        let answer = self.sender.send_request(request).await.map_err(lost)?;
        let (head, body) = answer.into_parts();
        let cookies = head.headers.get_all(header::SET_COOKIE).iter();
        let cookies = cookies.take(8).filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
        let body = Limited::new(body, max).collect().await.map_err(|e| match e.downcast::<hyper::Error>() {
            Ok(e) => lost(*e),
            Err(_) => ConnectionError::TooLong(max),
        })?;
        Ok(Answer { status: head.status, cookies, body: body.to_bytes() })
    }

    /// Ends the connection in order; waits a moment for the other side.
    pub async fn close(self) {
        let Self { sender, mut driver, .. } = self;
        drop(sender);
        if timeout(Duration::from_secs(1), &mut driver).await.is_err() {
            driver.abort();
        }
    }
}

fn lost(error: hyper::Error) -> ConnectionError {
    if error.is_parse() || error.is_parse_status() {
        ConnectionError::Http(short(&error))
    } else {
        ConnectionError::Lost(short(&error))
    }
}

/// The error and its causes in one line.
fn short(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    crate::sanitize(&text, 240)
}

fn tls_config(verifier: Arc<PinVerifier>) -> Result<ClientConfig, ConnectionError> {
    // The host carries this connection and may keep it: the hybrid with ML-KEM-768 is offered first, so that a quantum
    // computer of tomorrow does not open the secrets of today.
    let mut provider = verifier.provider.clone();
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| ConnectionError::Tls(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Accepts one public key, whatever certificate carries it. The handshake's signature is verified as always, so the
/// server must hold the private key.
#[derive(Debug)]
struct PinVerifier {
    pin: SpkiPin,
    found: OnceLock<SpkiPin>,
    provider: CryptoProvider,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let found =
            SpkiPin::of_certificate(end_entity).ok_or(TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        if bool::from(found.0.ct_eq(&self.pin.0)) {
            return Ok(ServerCertVerified::assertion());
        }
        let _ = self.found.set(found);
        Err(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("tls 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
