//! From an OCI layout to a registry.

use std::io::Read;

use futures_util::stream;
use oci_client::RegistryOperation;
use oci_client::errors::OciDistributionError;

use crate::credentials::Credentials;
use crate::error::ImageError;
use crate::reference::Reference;
use crate::registry::{Registry, map_error};
use crate::source::Source;

/// Bytes per piece of a blob on its way out.
const PIECE: usize = 256 * 1024;

/// Copies the image `from` (an OCI layout on disk; of an index, its linux/amd64 image) to the registry reference `to`, with docker's logins.
/// Blobs that the registry has are not sent. Returns the digest of the manifest.
///
/// # Errors
/// [`ImageError`]; [`ImageError::PushTarget`] when `from` is a registry or `to` is none.
pub async fn push(from: &Reference, to: &Reference) -> Result<String, ImageError> {
    let wrong = || ImageError::PushTarget { from: from.to_string(), to: to.to_string() };
    let Reference::Registry(target) = to else { return Err(wrong()) };
    let credentials = Credentials::of_user();
    let source = Source::open(from, &credentials)?;
    let Source::Layout(layout) = &source else { return Err(wrong()) };
    let resolved = source.resolve().await?;
    let registry = Registry::new(target, &credentials)?;
    let failed = |what| move |error: OciDistributionError| map_error(target, what, error);
    registry.client.auth(target, &registry.auth, RegistryOperation::Push).await.map_err(failed("manifest"))?;
    let mut blobs: Vec<(&str, &str, u64)> =
        resolved.layers.iter().map(|l| ("layer", l.digest.as_str(), l.size)).collect();
    blobs.push(("config", &resolved.config_digest, resolved.config.len() as u64));
    for (what, digest, size) in blobs {
        if registry.client.blob_exists(target, digest).await.map_err(failed(what))? {
            continue;
        }
        let pieces = stream::iter(Pieces { inner: layout.blob(digest)?, done: false });
        registry.client.push_blob_stream(target, pieces, digest, Some(size)).await.map_err(failed(what))?;
    }
    let media_type = resolved.media_type.parse().map_err(|_| wrong())?;
    let pushed = registry.client.push_manifest_raw(target, resolved.manifest, media_type).await;
    pushed.map_err(failed("manifest"))?;
    Ok(resolved.manifest_digest)
}

/// A blob in pieces; the last item may be an error.
struct Pieces {
    inner: Box<dyn Read + Send>,
    done: bool,
}

impl Iterator for Pieces {
    type Item = Result<bytes::Bytes, OciDistributionError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let mut piece = Vec::new();
        let read = self.inner.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        self.done = read.is_err() || piece.is_empty();
        match read {
            Ok(0) => None,
            Ok(_) => Some(Ok(piece.into())),
            Err(error) => Some(Err(OciDistributionError::IoError(error))),
        }
    }
}
