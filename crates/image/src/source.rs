//! From a reference to an image's documents, all checked.

use crate::convert::Expected;
use crate::credentials::Credentials;
use crate::error::ImageError;
use crate::layout::Layout;
use crate::manifest::{self, Descriptor, Manifest, Top};
use crate::reference::Reference;
use crate::registry::Registry;

/// Deepest nesting: an index in an index.
const MAX_NESTING: usize = 2;

/// Where blobs come from.
#[derive(Debug)]
pub(crate) enum Source {
    Layout(Layout),
    Registry(Registry),
}

/// An image's documents.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) manifest_digest: String,
    /// The manifest's own bytes.
    pub(crate) manifest: Vec<u8>,
    /// What to call it in a registry.
    pub(crate) media_type: &'static str,
    pub(crate) config_digest: String,
    /// The config's own bytes.
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Expected>,
}

impl Source {
    pub(crate) fn open(reference: &Reference, credentials: &Credentials) -> Result<Self, ImageError> {
        Ok(match reference {
            Reference::OciDir { dir, tag } => Self::Layout(Layout::directory(dir, tag.as_deref())),
            Reference::OciArchive { file } => Self::Layout(Layout::archive(file)?),
            Reference::Registry(reference) => Self::Registry(Registry::new(reference, credentials)?),
        })
    }

    /// Follows the reference to the manifest for linux/amd64 and its config.
    pub(crate) async fn resolve(&self) -> Result<Resolved, ImageError> {
        let mut bytes = match self {
            Self::Layout(layout) => layout.top()?,
            Self::Registry(registry) => registry.top().await?,
        };
        let mut nesting = 0;
        let manifest = loop {
            match manifest::parse_top(&bytes)? {
                Top::Manifest(manifest) => break manifest,
                Top::Index(_) if nesting == MAX_NESTING => {
                    let why = format!("indexes are nested more than {MAX_NESTING} deep");
                    return Err(ImageError::Document { what: "index", why });
                }
                Top::Index(index) => {
                    nesting += 1;
                    bytes = self.manifest(manifest::choose(&index)?).await?;
                }
            }
        };
        self.finish(&manifest, bytes).await
    }

    async fn finish(&self, manifest: &Manifest, bytes: Vec<u8>) -> Result<Resolved, ImageError> {
        manifest.check()?;
        let config = match self {
            Self::Layout(layout) => layout.read("config", &manifest.config)?,
            Self::Registry(registry) => registry.config(&manifest.config).await?,
        };
        let layers = manifest.layers(manifest::parse_config(&config)?.rootfs().diff_ids())?;
        Ok(Resolved {
            manifest_digest: manifest::digest_of(&bytes),
            manifest: bytes,
            media_type: manifest.media_type(),
            config_digest: manifest.config.digest.clone(),
            config,
            layers,
        })
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Layout(layout) => layout.read("manifest", descriptor),
            Self::Registry(registry) => registry.manifest(descriptor).await,
        }
    }
}
