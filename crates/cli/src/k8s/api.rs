//! One call of the Kubernetes API, from within a pod: the change of a Node. With the pod's own ServiceAccount, whose files the kubelet
//! puts at a fixed place (Kubernetes documentation, "Accessing the Kubernetes API from a Pod").

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// Where the kubelet puts token and certificate.
pub const FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const LIMIT: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 4 << 20;

/// Why the Node was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// Not in a pod.
    #[error("{0}; run this in a pod with a ServiceAccount")]
    NotInPod(String),
    /// The API server is away, or shows a certificate that is not its own.
    #[error("the API server at {address}: {why}")]
    Away {
        /// Its address.
        address: String,
        /// Why.
        why: String,
    },
    /// It says no.
    #[error("the API server refuses the change of node {node}: {status} {message}")]
    Refused {
        /// The node.
        node: String,
        /// The status.
        status: StatusCode,
        /// Its message.
        message: String,
    },
}

/// The API server, as a pod sees it.
#[derive(Debug)]
pub struct Api {
    address: (IpAddr, u16),
    folder: std::path::PathBuf,
}

impl Api {
    /// From the environment that the kubelet gives each container.
    ///
    /// # Errors
    /// [`ApiError::NotInPod`].
    pub fn of_pod(folder: &Path) -> Result<Self, ApiError> {
        let variable = |name: &str| std::env::var(name).map_err(|_| ApiError::NotInPod(format!("{name} is not set")));
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let wrong = |what: &str| ApiError::NotInPod(format!("{what:?} is no address"));
        let address = (host.parse().map_err(|_| wrong(&host))?, port.parse().map_err(|_| wrong(&port))?);
        Ok(Self { address, folder: folder.to_owned() })
    }

    /// Changes a Node by a JSON merge patch (RFC 7386).
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn patch_node(&self, node: &str, patch: &Value) -> Result<(), ApiError> {
        let address = format!("{}:{}", self.address.0, self.address.1);
        let away = |why: String| ApiError::Away { address: address.clone(), why };
        let call = self.call(node, patch);
        let (status, body) = tokio::time::timeout(LIMIT, call)
            .await
            .map_err(|_| away(format!("no answer within {} s", LIMIT.as_secs())))??;
        if status.is_success() {
            return Ok(());
        }
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        let message = answer.and_then(|answer| answer.get("message")?.as_str().map(crate::failure::one_line));
        Err(ApiError::Refused { node: node.to_owned(), status, message: message.unwrap_or_default() })
    }

    async fn call(&self, node: &str, patch: &Value) -> Result<(StatusCode, Bytes), ApiError> {
        let address = format!("{}:{}", self.address.0, self.address.1);
        let away = |why: &dyn std::fmt::Display| ApiError::Away { address: address.clone(), why: why.to_string() };
        // The kubelet renews the token, so it is read each time.
        let path = self.folder.join("token");
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| ApiError::NotInPod(format!("{}: {error}", path.display())))
        };
        let token = Zeroizing::new(read(&path)?);
        let bearer = Zeroizing::new([b"Bearer ".as_slice(), token.trim_ascii()].concat());
        let mut authorization = HeaderValue::from_bytes(&bearer).map_err(|error| away(&error))?;
        authorization.set_sensitive(true);

        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&read(&self.folder.join("ca.crt"))?) {
            let certificate = certificate.map_err(|error| away(&format!("ca.crt: {error}")))?;
            roots.add(certificate).map_err(|error| away(&format!("ca.crt: {error}")))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| away(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.map_err(|error| away(&error))?;
        let name = ServerName::IpAddress(self.address.0.into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| away(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| away(&error))?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(format!("/api/v1/nodes/{node}"))
            .header(HOST, &address)
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/merge-patch+json")
            .body(Full::new(Bytes::from(patch.to_string())))
            .map_err(|error| away(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| away(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| away(&error))?;
        driver.abort();
        Ok((status, body.to_bytes()))
    }
}
