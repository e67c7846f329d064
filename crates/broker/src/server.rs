//! The broker on the network: TLS 1.3, a key of its own made at start and kept in memory.

use crate::{config::Limits, remote::BrokerUrl, state::Broker};
use axum::Router;
use belljar_rcar::SpkiPin;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ServerConfig,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{default_provider, kx_group},
    },
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Name in the certificate that is made; clients pin the key and look at no name.
pub(crate) const NAME: &str = "broker.belljar.internal";

/// Why the broker cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// No certificate.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// TLS cannot be set up.
    #[error("cannot set up tls: {0}")]
    Tls(String),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {cause}; choose another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A standalone broker needs an admin token, or nobody could give it workloads.
    #[error("a standalone broker needs an admin token")]
    NoAdminToken,
}

/// The TLS side of a broker: serves single streams (a tunnel, a socket pair), or listens.
#[derive(Clone)]
pub struct TlsServer {
    acceptor: TlsAcceptor,
    router: Router,
    pin: SpkiPin,
    limits: Limits,
}

impl std::fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsServer").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl TlsServer {
    /// Makes the key and its self-signed certificate.
    pub fn new(broker: &Broker) -> Result<Self, ServeError> {
        let certificate = |e: rcgen::Error| ServeError::Certificate(e.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(certificate)?;
        let params = CertificateParams::new(vec![NAME.into()]).map_err(certificate)?;
        let cert = params.self_signed(&key).map_err(certificate)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Self::with_certificate(broker, vec![cert.der().clone()], key)
    }

    /// With a certificate chain, the server's first, and its key.
    ///
    /// # Errors
    /// [`ServeError::Certificate`] or [`ServeError::Tls`].
    pub fn with_certificate(
        broker: &Broker,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, ServeError> {
        let pin = chain.first().and_then(|first| SpkiPin::of_certificate(first));
        let pin = pin.ok_or_else(|| ServeError::Certificate("the first one cannot be read".into()))?;
        let tls = |e: rustls::Error| ServeError::Tls(e.to_string());
        // What is recorded today must not be read by tomorrow's quantum computers: the hybrid first.
        let provider = CryptoProvider {
            kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
            ..default_provider()
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(tls)?;
        // Nobody comes back with a ticket: each handshake is a connection of its own.
        config.send_tls13_tickets = 0;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { acceptor, router: broker.router(), pin, limits: *broker.limits() })
    }

    /// SHA-256 of the server key's SubjectPublicKeyInfo: what the contract pins.
    pub fn pin(&self) -> SpkiPin {
        self.pin
    }

    /// Serves one stream until its client is done, its time is over, or `shutdown` becomes true or loses its sender.
    pub async fn serve_stream<S>(&self, stream: S, mut shutdown: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.limits;
        let stream = match timeout(limits.tls, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "tls handshake failed"),
            Err(_) => return tracing::debug!("tls handshake took too long"),
        };
        let service = TowerToHyperService::new(self.router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle)
            .max_headers(64)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let stop = async { shutdown.wait_for(|stop| *stop).await.is_ok() };
        let result = tokio::select! {
            result = connection.as_mut() => result,
            _ = stop => {
                // What is being answered is answered; then the connection ends.
                connection.as_mut().graceful_shutdown();
                timeout(Duration::from_secs(2), connection).await.unwrap_or(Ok(()))
            }
            () = sleep(limits.connection) => return tracing::debug!("connection took too long"),
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
    }

    /// Listens on `address`; port 0 takes a free one.
    pub async fn listen(self, address: impl Into<SocketAddr>) -> Result<Listening, ServeError> {
        let address = address.into();
        let failed = |cause| ServeError::Listen { address, cause };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let pin = self.pin;
        let task = tokio::spawn(accept(self, listener, stopped));
        Ok(Listening { address, pin, stop, task })
    }
}

impl Broker {
    /// Serves this broker on `address` with a fresh key, for example `([127, 0, 0, 1], 0)`.
    pub async fn listen(&self, address: impl Into<SocketAddr>) -> Result<Listening, ServeError> {
        TlsServer::new(self)?.listen(address).await
    }
}

/// Serves a broker that other processes give workloads to, by its admin API: `belljar run --broker URL`.
pub async fn serve_standalone(broker: &Broker, address: impl Into<SocketAddr>) -> Result<Listening, ServeError> {
    if broker.admin_token().is_none() {
        return Err(ServeError::NoAdminToken);
    }
    broker.listen(address).await
}

/// A listening broker. Dropping it stops it without waiting for its connections.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    pin: SpkiPin,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// SHA-256 of the server key's SubjectPublicKeyInfo.
    pub fn pin(&self) -> SpkiPin {
        self.pin
    }

    /// Address and pin in one: what `--broker` takes.
    pub fn url(&self) -> BrokerUrl {
        BrokerUrl { host: self.address.ip().to_string(), port: self.address.port(), pin: self.pin }
    }

    /// Stops listening, and waits up to three seconds for what is being answered.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if timeout(Duration::from_secs(3), &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn accept(server: TlsServer, listener: TcpListener, stopped: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(server.limits.connections));
    let mut connections = JoinSet::new();
    let mut stop = stopped.clone();
    loop {
        while connections.try_join_next().is_some() {}
        let stream: TcpStream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or a connection that went away: the next may do better.
                    tracing::debug!(%error, "accept failed");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = async { stop.wait_for(|stop| *stop).await.is_ok() } => break,
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            tracing::debug!("too many connections; one is closed unanswered");
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (server, stopped) = (server.clone(), stopped.clone());
        connections.spawn(async move {
            server.serve_stream(stream, stopped).await;
            drop(slot);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}
