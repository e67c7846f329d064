//! Documents of an image: index, manifest, config. Source: OCI image specification 1.1 and docker's "Image Manifest Version 2, Schema 2".

use serde::Deserialize;

use crate::convert::{Compression, Expected, sha256_of};
use crate::error::ImageError;
use crate::reference::is_digest;

/// Largest document that is read, in bytes (what registries accept).
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers of an image: overlayfs and docker allow about as many.
const MAX_LAYERS: usize = 128;
/// Annotation with the tag, in `index.json`.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A content descriptor. Fields that we do not use are not read.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// `index.json`, an image index or a manifest list.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What a top document turned out to be.
#[derive(Debug)]
pub(crate) enum Top {
    Index(Index),
    Manifest(Manifest),
}

impl Descriptor {
    pub(crate) fn is_index(&self) -> bool {
        [OCI_INDEX, DOCKER_LIST].contains(&self.media_type.as_str())
    }

    fn is_manifest(&self) -> bool {
        [OCI_MANIFEST, DOCKER_MANIFEST].contains(&self.media_type.as_str())
    }

    /// Compares the bytes of the document that this describes.
    pub(crate) fn check(&self, what: &'static str, bytes: &[u8]) -> Result<(), ImageError> {
        if bytes.len() as u64 != self.size {
            return Err(ImageError::Size { what, expected: self.size, found: bytes.len() as u64 });
        }
        check_digest(what, &self.digest, bytes)
    }

    /// A document's size must be within the bound before it is fetched.
    pub(crate) fn bounded(&self, what: &'static str) -> Result<(), ImageError> {
        if !is_digest(&self.digest) {
            return Err(ImageError::Document { what, why: format!("{:?} is no sha256 digest", self.digest) });
        }
        if self.size > MAX_DOCUMENT {
            return Err(ImageError::Size { what, expected: MAX_DOCUMENT, found: self.size });
        }
        Ok(())
    }
}

pub(crate) fn check_digest(what: &'static str, expected: &str, bytes: &[u8]) -> Result<(), ImageError> {
    let found = digest_of(bytes);
    if found == expected {
        return Ok(());
    }
    Err(ImageError::Digest { what, expected: expected.to_owned(), found })
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    sha256_of(bytes).unwrap_or_default()
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::Document { what, why: error.to_string() })
}

/// Parses an index or manifest. Its own `mediaType` decides; OCI documents may lack it, then the fields decide.
pub(crate) fn parse_top(bytes: &[u8]) -> Result<Top, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        schema_version: u32,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let head: Head = parse("manifest", bytes)?;
    if head.schema_version != 2 {
        let found = format!("schema version {}", head.schema_version);
        return Err(ImageError::MediaType { what: "manifest", found });
    }
    // A document that is both would be read differently by different tools.
    match (head.media_type.as_deref(), head.manifests.is_some(), head.layers.is_some()) {
        (Some(OCI_INDEX | DOCKER_LIST) | None, true, false) => Ok(Top::Index(parse("index", bytes)?)),
        (Some(OCI_MANIFEST | DOCKER_MANIFEST) | None, false, true) => Ok(Top::Manifest(parse("manifest", bytes)?)),
        (Some(OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST) | None, ..) => Err(ImageError::Document {
            what: "manifest",
            why: "it must have either `manifests` or `layers`, as its media type says".to_owned(),
        }),
        (Some(other), ..) => Err(ImageError::MediaType { what: "manifest", found: other.to_owned() }),
    }
}

/// The entry for linux/amd64: the plain architecture before its variants, else a nested index or an entry without platform.
pub(crate) fn choose(index: &Index) -> Result<&Descriptor, ImageError> {
    let fits = |d: &&Descriptor| d.is_manifest() || d.is_index();
    let amd64 = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == "amd64");
    let plain = |d: &&Descriptor| {
        d.platform.as_ref().is_some_and(|p| p.variant.as_deref().is_none_or(|v| v.is_empty() || v == "v1"))
    };
    let entries = || index.manifests.iter().filter(fits);
    let chosen = entries()
        .find(|d| amd64(d) && plain(d))
        .or_else(|| entries().find(amd64))
        .or_else(|| entries().find(|d| d.platform.is_none()));
    match (chosen, index.manifests.iter().find(|d| !fits(d))) {
        (Some(chosen), _) => Ok(chosen),
        (None, Some(other)) if entries().next().is_none() => {
            Err(ImageError::MediaType { what: "manifest", found: other.media_type.clone() })
        }
        (None, _) => {
            Err(ImageError::Platform { found: entries().filter_map(|d| d.platform.as_ref()).map(name).collect() })
        }
    }
}

fn name(platform: &Platform) -> String {
    let variant = platform.variant.as_deref().map(|v| format!("/{v}")).unwrap_or_default();
    format!("{}/{}{variant}", platform.os, platform.architecture)
}

impl Manifest {
    /// Docker's type when the manifest says so, else OCI's.
    pub(crate) fn media_type(&self) -> &'static str {
        if self.media_type.as_deref() == Some(DOCKER_MANIFEST) { DOCKER_MANIFEST } else { OCI_MANIFEST }
    }

    /// Config and layers must be of known types before anything is fetched.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        if ![OCI_CONFIG, DOCKER_CONFIG].contains(&self.config.media_type.as_str()) {
            return Err(ImageError::MediaType { what: "config", found: self.config.media_type.clone() });
        }
        self.config.bounded("config")?;
        for layer in &self.layers {
            compression(&layer.media_type)?;
            if !is_digest(&layer.digest) {
                let why = format!("layer digest {:?} is no sha256 digest", layer.digest);
                return Err(ImageError::Document { what: "manifest", why });
            }
        }
        if self.layers.is_empty() || self.layers.len() > MAX_LAYERS {
            let why = format!("it has {} layers; 1 to {MAX_LAYERS} are supported", self.layers.len());
            return Err(ImageError::Document { what: "manifest", why });
        }
        Ok(())
    }

    /// Joins the layers with the diff_ids of the config, lowest first.
    pub(crate) fn layers(&self, diff_ids: &[String]) -> Result<Vec<Expected>, ImageError> {
        if diff_ids.len() != self.layers.len() {
            let why = format!("it has {} diff_ids for {} layers", diff_ids.len(), self.layers.len());
            return Err(ImageError::Document { what: "config", why });
        }
        let join = |(layer, diff_id): (&Descriptor, &String)| {
            if !is_digest(diff_id) {
                return Err(ImageError::Document {
                    what: "config",
                    why: format!("diff_id {diff_id:?} is no sha256 digest"),
                });
            }
            Ok(Expected {
                digest: layer.digest.clone(),
                size: layer.size,
                diff_id: diff_id.clone(),
                compression: compression(&layer.media_type)?,
            })
        };
        self.layers.iter().zip(diff_ids).map(join).collect()
    }
}

fn compression(media_type: &str) -> Result<Compression, ImageError> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Ok(Compression::None)
        }
        OCI_LAYER_GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            Ok(Compression::Zstd)
        }
        other => Err(ImageError::MediaType { what: "layer", found: other.to_owned() }),
    }
}

/// Parses the config and checks that it is for linux/amd64.
pub(crate) fn parse_config(bytes: &[u8]) -> Result<oci_spec::image::ImageConfiguration, ImageError> {
    let config: oci_spec::image::ImageConfiguration = parse("config", bytes)?;
    if *config.os() != oci_spec::image::Os::Linux || *config.architecture() != oci_spec::image::Arch::Amd64 {
        return Err(ImageError::Platform { found: vec![format!("{}/{}", config.os(), config.architecture())] });
    }
    Ok(config)
}

/// Any bytes as each of the documents: the entry for fuzzing.
pub fn fuzz(data: &[u8]) {
    if let Ok(Top::Index(index)) = parse_top(data) {
        let _ = choose(&index);
    }
    if let Ok(Top::Manifest(manifest)) = parse_top(data) {
        let _ = manifest.check().and_then(|()| manifest.layers(&[]));
    }
    let _ = parse_config(data);
}
