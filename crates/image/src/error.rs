//! Why an image is not to be had.

use std::io;
use std::path::PathBuf;

use crate::convert::ConvertError;

/// Failure of [`crate::Store::open`] or [`crate::Store::ensure`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The layout directory or archive cannot be read.
    #[error("no image at {path}: {source}; name an OCI layout directory or archive")]
    NoSuchLayout {
        /// Of the directory, archive, or a file in it.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The layout has no such tag, or several images and no tag was named.
    #[error("no image {wanted} in {path}; it has: {}", list(found))]
    NoSuchTag {
        /// Of the layout.
        path: PathBuf,
        /// The tag, or `without a tag`.
        wanted: String,
        /// Tags that are there.
        found: Vec<String>,
    },
    /// The layout lacks a blob that a manifest names.
    #[error("blob {digest} is missing in {path}; copy the image again")]
    NoSuchBlob {
        /// Of the layout.
        path: PathBuf,
        /// Of the blob.
        digest: String,
    },
    /// An archive of a layout is malformed.
    #[error("{path} is no OCI archive: {why}")]
    Archive {
        /// Of the archive.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The registry does not have the image.
    #[error("registry {registry} has no image {reference}; check name and tag")]
    NotFound {
        /// Host and port.
        registry: String,
        /// As given.
        reference: String,
    },
    /// The registry does not answer.
    #[error("cannot reach registry {registry}: {why}; check that it runs and that this host can connect")]
    RegistryDown {
        /// Host and port.
        registry: String,
        /// The cause.
        why: String,
    },
    /// The registry wants credentials, or refuses those it got.
    #[error(
        "registry {registry} refuses {reference} without (other) credentials; log in to it, which writes them to $DOCKER_CONFIG/config.json"
    )]
    AuthRequired {
        /// Host and port.
        registry: String,
        /// As given.
        reference: String,
    },
    /// Any other answer of the registry.
    #[error("registry {registry} failed: {why}")]
    Registry {
        /// Host and port.
        registry: String,
        /// The answer.
        why: String,
    },
    /// `$DOCKER_CONFIG/config.json` cannot be used.
    #[error("cannot use the registry credentials in {path}: {why}")]
    Credentials {
        /// Of the file.
        path: PathBuf,
        /// What is wrong, without its content.
        why: String,
    },
    /// A document or reference has another digest.
    #[error("{what} has the wrong digest: expected {expected}, found {found}; do not use this image")]
    Digest {
        /// `manifest`, `index`, `config`.
        what: &'static str,
        /// Of the reference or the document above.
        expected: String,
        /// Of the bytes.
        found: String,
    },
    /// A document has another size than the one above it says, or is too large.
    #[error("{what} has the wrong size: expected {expected} bytes, found {found}")]
    Size {
        /// `manifest`, `index`, `config`.
        what: &'static str,
        /// Expected, or the bound.
        expected: u64,
        /// Found; counted up to the first byte too many.
        found: u64,
    },
    /// A document is no valid JSON of its kind, or breaks a rule of it.
    #[error("{what} is malformed: {why}")]
    Document {
        /// `manifest`, `index`, `config`, `index.json`.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A media type that is none of those supported.
    #[error(
        "unknown media type {found:?} of the {what}; supported are OCI and docker v2 images with tar, tar+gzip and tar+zstd layers"
    )]
    MediaType {
        /// `manifest`, `config`, `layer`.
        what: &'static str,
        /// The type.
        found: String,
    },
    /// The image is not for linux/amd64.
    #[error("the image is not for linux/amd64, only for: {}", list(found))]
    Platform {
        /// The platforms that it is for.
        found: Vec<String>,
    },
    /// [`crate::PullPolicy::Never`], and the store does not have the image.
    #[error("image {reference} is not in the store {store}, and pulling is off; pull it first")]
    NotInStore {
        /// As given.
        reference: String,
        /// Directory.
        store: PathBuf,
    },
    /// A layer was refused or could not be read.
    #[error("layer {diff_id}: {source}")]
    Layer {
        /// Digest of the uncompressed layer, as the config says.
        diff_id: String,
        /// The cause.
        source: ConvertError,
    },
    /// `push` goes from a layout on disk to a registry.
    #[error("cannot push {from} to {to}; push from oci:DIR or oci-archive:FILE to a registry")]
    PushTarget {
        /// As given.
        from: String,
        /// As given.
        to: String,
    },
    /// No space, quota or file size left.
    #[error("no space left for layer images in {path} ({free} bytes free); free some, or name another store")]
    DiskFull {
        /// Directory of the store.
        path: PathBuf,
        /// Bytes available to this user.
        free: u64,
    },
    /// The store cannot be used.
    #[error("cannot use the image store at {path}: {source}")]
    Store {
        /// Directory or file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn list(found: &[String]) -> String {
    if found.is_empty() { "nothing".to_owned() } else { found.join(", ") }
}
