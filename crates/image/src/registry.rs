//! Images in registries, over the OCI distribution protocol by `oci-client`.

use std::io::{self, Read};
use std::time::Duration;

use futures_util::StreamExt;
use oci_client::Client;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use tokio::sync::mpsc;

use crate::credentials::Credentials;
use crate::error::ImageError;
use crate::manifest::{self, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST};
use crate::reference::is_loopback;

/// Time to connect, and longest silence of a registry that is being read.
const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(20);

/// One image name in one registry.
pub(crate) struct Registry {
    pub(crate) client: Client,
    reference: oci_client::Reference,
    pub(crate) auth: RegistryAuth,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("reference", &self.reference).finish_non_exhaustive()
    }
}

impl Registry {
    pub(crate) fn new(reference: &oci_client::Reference, credentials: &Credentials) -> Result<Self, ImageError> {
        let host = reference.resolve_registry().to_owned();
        let plain = if is_loopback(&host) { vec![host.clone()] } else { Vec::new() };
        let config = ClientConfig {
            protocol: ClientProtocol::HttpsExcept(plain),
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("belljar/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let auth = credentials.of(reference.registry())?;
        Ok(Self { client: Client::new(config), reference: reference.clone(), auth })
    }

    /// The document that the reference names. When it pins a digest, that is checked.
    pub(crate) async fn top(&self) -> Result<Vec<u8>, ImageError> {
        let accepted = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
        let pulled = self.client.pull_manifest_raw(&self.reference, &self.auth, &accepted).await;
        let (bytes, _) = pulled.map_err(|error| self.error("manifest", error))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(ImageError::Size { what: "manifest", expected: MAX_DOCUMENT, found: bytes.len() as u64 });
        }
        if let Some(pinned) = self.reference.digest() {
            manifest::check_digest("manifest", pinned, &bytes)?;
        }
        Ok(bytes.to_vec())
    }

    /// The manifest or index that `descriptor` in an index names.
    pub(crate) async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        descriptor.bounded("manifest")?;
        let pinned = self.reference.clone_with_digest(descriptor.digest.clone());
        let accepted = [descriptor.media_type.as_str()];
        let pulled = self.client.pull_manifest_raw(&pinned, &self.auth, &accepted).await;
        let (bytes, _) = pulled.map_err(|error| self.error("manifest", error))?;
        descriptor.check("manifest", &bytes)?;
        Ok(bytes.to_vec())
    }

    /// The config blob.
    pub(crate) async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        descriptor.bounded("config")?;
        let mut stream = self.stream("config", &descriptor.digest).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(error) if is_digest_error(&error) => break,
                Err(error) => return Err(ImageError::Registry { registry: self.host(), why: error.to_string() }),
            }
            if bytes.len() as u64 > descriptor.size {
                break;
            }
        }
        descriptor.check("config", &bytes)?;
        Ok(bytes)
    }

    /// A layer blob as a reader for another thread, and the future that feeds it. The future ends when the blob or the reader does.
    pub(crate) async fn layer(
        &self,
        digest: &str,
    ) -> Result<(impl Read + Send + 'static, impl Future<Output = ()>), ImageError> {
        let mut stream = self.stream("layer", digest).await?;
        let (sender, receiver) = mpsc::channel(16);
        let feed = async move {
            while let Some(piece) = stream.next().await {
                // Our own check of the digest has the better words.
                if piece.as_ref().is_err_and(is_digest_error) || sender.send(piece).await.is_err() {
                    return;
                }
            }
        };
        Ok((Fed { receiver, piece: None, at: 0 }, feed))
    }

    async fn stream(&self, what: &'static str, digest: &str) -> Result<oci_client::client::SizedStream, ImageError> {
        self.client.pull_blob_stream(&self.reference, digest).await.map_err(|error| self.error(what, error))
    }

    fn host(&self) -> String {
        self.reference.registry().to_owned()
    }

    fn error(&self, what: &'static str, error: OciDistributionError) -> ImageError {
        map_error(&self.reference, what, error)
    }
}

/// Puts an error of the protocol into our words.
pub(crate) fn map_error(
    reference: &oci_client::Reference,
    what: &'static str,
    error: OciDistributionError,
) -> ImageError {
    let registry = reference.registry().to_owned();
    let name = reference.to_string();
    match error {
        OciDistributionError::DigestError(DigestError::VerificationError { expected, actual }) => {
            ImageError::Digest { what, expected, found: actual }
        }
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            ImageError::AuthRequired { registry, reference: name }
        }
        OciDistributionError::ImageManifestNotFoundError(_) | OciDistributionError::ServerError { code: 404, .. } => {
            ImageError::NotFound { registry, reference: name }
        }
        OciDistributionError::ServerError { code: 401 | 403, .. } => {
            ImageError::AuthRequired { registry, reference: name }
        }
        OciDistributionError::RegistryError { envelope, .. } => match envelope.errors.first().map(|e| &e.code) {
            Some(
                OciErrorCode::ManifestUnknown
                | OciErrorCode::NameUnknown
                | OciErrorCode::NotFound
                | OciErrorCode::BlobUnknown,
            ) => ImageError::NotFound { registry, reference: name },
            Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => {
                ImageError::AuthRequired { registry, reference: name }
            }
            _ => ImageError::Registry { registry, why: envelope.to_string() },
        },
        OciDistributionError::RequestError(error) if error.is_connect() || error.is_timeout() => {
            ImageError::RegistryDown { registry, why: causes(&error) }
        }
        OciDistributionError::RequestError(error) if error.status().is_some_and(|s| s.as_u16() == 401) => {
            ImageError::AuthRequired { registry, reference: name }
        }
        OciDistributionError::RequestError(error) if error.status().is_some_and(|s| s.as_u16() == 404) => {
            ImageError::NotFound { registry, reference: name }
        }
        other => ImageError::Registry { registry, why: causes(&other) },
    }
}

/// The innermost cause, which is the one that says something.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn is_digest_error(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<DigestError>())
}

/// The reading end of a channel of pieces.
struct Fed<B> {
    receiver: mpsc::Receiver<io::Result<B>>,
    piece: Option<B>,
    at: usize,
}

impl<B: AsRef<[u8]>> Read for Fed<B> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        loop {
            let rest = self.piece.as_ref().and_then(|piece| piece.as_ref().get(self.at..)).unwrap_or_default();
            if !rest.is_empty() || target.is_empty() {
                let now = rest.len().min(target.len());
                for (to, from) in target.iter_mut().zip(rest) {
                    *to = *from;
                }
                self.at += now;
                return Ok(now);
            }
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = Some(piece?),
            }
            self.at = 0;
        }
    }
}
