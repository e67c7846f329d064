//! What the store writes down: about a layer beside its image, about an image by its reference.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::convert::{Compression, Expected};
use crate::error::ImageError;
use crate::reference::Reference;
use crate::source::Resolved;

/// Version of the layer format and of the records. Another version's files are not used.
pub(crate) const VERSION: u32 = 1;

/// A layer image, in `layers/HEX.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayerRecord {
    pub(crate) version: u32,
    pub(crate) diff_id: String,
    pub(crate) file_bytes: u64,
    pub(crate) data_blocks: u64,
    pub(crate) verity_root: String,
    pub(crate) salt: String,
}

/// What a reference means, in `images/HEX.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageRecord {
    pub(crate) version: u32,
    pub(crate) reference: String,
    pub(crate) manifest_digest: String,
    pub(crate) config: String,
    pub(crate) layers: Vec<BlobRecord>,
}

/// A layer of an image.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BlobRecord {
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) diff_id: String,
    pub(crate) compression: Compression,
}

impl ImageRecord {
    pub(crate) fn new(reference: &Reference, resolved: Resolved) -> Result<Self, ImageError> {
        let blob = |layer: Expected| BlobRecord {
            digest: layer.digest,
            size: layer.size,
            diff_id: layer.diff_id,
            compression: layer.compression,
        };
        Ok(Self {
            version: VERSION,
            reference: reference.to_string(),
            manifest_digest: resolved.manifest_digest,
            config: String::from_utf8(resolved.config)
                .map_err(|error| ImageError::Document { what: "config", why: error.to_string() })?,
            layers: resolved.layers.into_iter().map(blob).collect(),
        })
    }
}

/// The name of the record of a reference.
pub(crate) fn key_of(reference: &str) -> String {
    hex::encode(digest(&SHA256, reference.as_bytes()))
}
