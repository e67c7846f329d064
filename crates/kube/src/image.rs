//! What a contract needs to know of an image.

use std::collections::BTreeMap;

use belljar_contract::Layer;
use oci_spec::image::ImageConfiguration;

/// An image that was found, and whose layers have their verity roots.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// Digest of the manifest for linux/amd64, `sha256:…`.
    pub digest: String,
    /// Its configuration.
    pub config: ImageConfiguration,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

/// Images by the name that the manifest has for them; or why one cannot be had.
pub type Images = BTreeMap<String, Result<ResolvedImage, String>>;

/// `NAME@sha256:…`: the name with the digest that the contract has, unless it has one.
pub(crate) fn pinned(name: &str, digest: &str) -> String {
    if name.contains('@') { name.to_owned() } else { format!("{name}@{digest}") }
}
