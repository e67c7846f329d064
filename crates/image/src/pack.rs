//! Writes OCI layouts: for the demo and for tests. Deterministic: the same files and settings give the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::{Value, json};

use crate::convert::{digest, sha256_of};
use crate::manifest::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, REF_NAME};
use crate::reference::is_tag;

/// One entry of a layer. All times are 1970.
#[derive(Debug, Clone)]
pub struct PackEntry {
    /// Path in the image, without `..`; a leading `/` is ignored.
    pub path: String,
    /// What is there.
    pub content: PackContent,
    /// Permission bits (12).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Content of a [`PackEntry`].
#[derive(Debug, Clone)]
pub enum PackContent {
    /// A copy of this file.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(String),
}

/// The config of a packed image, as in the OCI image specification, "Image Configuration".
#[derive(Debug, Clone, Default)]
pub struct PackConfig {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, `NAME=VALUE`.
    pub env: Vec<String>,
    /// `User`.
    pub user: Option<String>,
    /// `WorkingDir`.
    pub working_dir: Option<String>,
    /// `Labels`.
    pub labels: BTreeMap<String, String>,
}

/// Why a layout was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A file cannot be read or written.
    #[error("cannot pack {path}: {source}")]
    Io {
        /// Of the file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The tag is not in the grammar of tags.
    #[error("{0:?} is no tag; use letters, digits, `_`, `.` and `-`")]
    Tag(String),
    /// The directory has an `index.json` that is no index.
    #[error("{path} is no OCI index: {why}; name an empty directory")]
    Index {
        /// Of the file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// An image has at least one layer.
    #[error("an image needs at least one layer")]
    NoLayers,
}

/// Writes an image for linux/amd64 with these gzip layers (lowest first) to the OCI layout `dir`, which is made if it is missing, under
/// `tag`, in place of an image that has it. Returns the digest of the manifest.
///
/// # Errors
/// [`PackError`]; files written before stay.
pub fn pack(dir: &Path, tag: &str, layers: &[Vec<PackEntry>], config: &PackConfig) -> Result<String, PackError> {
    if !is_tag(tag) {
        return Err(PackError::Tag(tag.to_owned()));
    }
    if layers.is_empty() {
        return Err(PackError::NoLayers);
    }
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|source| PackError::Io { path: blobs.clone(), source })?;
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for entries in layers {
        let (descriptor, diff_id) = write_layer(&blobs, entries)?;
        descriptors.push(descriptor);
        diff_ids.push(diff_id);
    }
    let config = write_document(&blobs, OCI_CONFIG, &config_document(config, &diff_ids))?;
    let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": descriptors });
    let mut descriptor = write_document(&blobs, OCI_MANIFEST, &manifest)?;
    let manifest_digest = descriptor.get("digest").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(fields) = descriptor.as_object_mut() {
        fields.insert("annotations".to_owned(), json!({ REF_NAME: tag }));
    }
    write(&dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add_to_index(&dir.join("index.json"), tag, descriptor)?;
    Ok(manifest_digest)
}

fn config_document(config: &PackConfig, diff_ids: &[String]) -> Value {
    let mut inner = serde_json::Map::new();
    let mut set = |key: &str, value: Value, there: bool| {
        if there {
            inner.insert(key.to_owned(), value);
        }
    };
    set("Entrypoint", json!(config.entrypoint), !config.entrypoint.is_empty());
    set("Cmd", json!(config.cmd), !config.cmd.is_empty());
    set("Env", json!(config.env), !config.env.is_empty());
    set("User", json!(config.user), config.user.is_some());
    set("WorkingDir", json!(config.working_dir), config.working_dir.is_some());
    set("Labels", json!(config.labels), !config.labels.is_empty());
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": inner,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

/// Descriptor and diff_id of a new gzip layer.
fn write_layer(blobs: &Path, entries: &[PackEntry]) -> Result<(Value, String), PackError> {
    let failed = |source| PackError::Io { path: blobs.to_owned(), source };
    let file = tempfile::NamedTempFile::new_in(blobs).map_err(failed)?;
    let gzip = flate2::GzBuilder::new().mtime(0).write(io::BufWriter::new(file), flate2::Compression::new(6));
    let mut tar = tar::Builder::new(Hashing { inner: gzip, context: Context::new(&SHA256) });
    for entry in entries {
        append(&mut tar, entry)?;
    }
    let hashing = tar.into_inner().map_err(failed)?;
    let diff_id = digest(hashing.context);
    let file = hashing.inner.finish().and_then(|w| w.into_inner().map_err(io::IntoInnerError::into_error));
    let file = file.map_err(failed)?;
    let reopened = file.reopen().map_err(failed)?;
    let size = reopened.metadata().map_err(failed)?.len();
    let blob_digest = sha256_of(reopened).map_err(failed)?;
    let path = blobs.join(blob_digest.trim_start_matches("sha256:"));
    file.persist(&path).map_err(|error| PackError::Io { path, source: error.error })?;
    Ok((json!({ "mediaType": OCI_LAYER_GZIP, "digest": blob_digest, "size": size }), diff_id))
}

fn append<W: Write>(tar: &mut tar::Builder<W>, entry: &PackEntry) -> Result<(), PackError> {
    let path = entry.path.trim_start_matches('/');
    let mut header = tar::Header::new_ustar();
    header.set_mode(entry.mode & 0o7777);
    header.set_uid(u64::from(entry.uid));
    header.set_gid(u64::from(entry.gid));
    header.set_mtime(0);
    header.set_size(0);
    let shown = PathBuf::from(&entry.path);
    let written = match &entry.content {
        PackContent::File(source) => {
            let failed = |error| PackError::Io { path: source.clone(), source: error };
            let file = File::open(source).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(size);
            tar.append_data(&mut header, path, file.take(size))
        }
        PackContent::Bytes(bytes) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, bytes.as_slice())
        }
        PackContent::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, format!("{}/", path.trim_end_matches('/')), io::empty())
        }
        PackContent::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, path, target)
        }
    };
    written.map_err(|source| PackError::Io { path: shown, source })
}

fn write_document(blobs: &Path, media_type: &str, document: &Value) -> Result<Value, PackError> {
    let bytes = document.to_string().into_bytes();
    let name = sha256_of(bytes.as_slice()).unwrap_or_default();
    write(&blobs.join(name.trim_start_matches("sha256:")), &bytes)?;
    Ok(json!({ "mediaType": media_type, "digest": name, "size": bytes.len() }))
}

fn add_to_index(path: &Path, tag: &str, descriptor: Value) -> Result<(), PackError> {
    let bad = |why: &str| PackError::Index { path: path.to_owned(), why: why.to_owned() };
    let mut index = match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| bad(&error.to_string()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!({ "schemaVersion": 2, "manifests": [] }),
        Err(source) => return Err(PackError::Io { path: path.to_owned(), source }),
    };
    let manifests =
        index.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(|| bad("it has no manifests"))?;
    manifests.retain(|m| m.get("annotations").and_then(|a| a.get(REF_NAME)).and_then(Value::as_str) != Some(tag));
    manifests.push(descriptor);
    write(path, index.to_string().as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), PackError> {
    fs::write(path, bytes).map_err(|source| PackError::Io { path: path.to_owned(), source })
}

struct Hashing<W> {
    inner: W,
    context: Context,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.context.update(data.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the OCI layout `dir` as one tar, as `docker load`, `ctr images import` and `skopeo` read it. Deterministic. `name` is the full
/// name that containerd gives the image of the layout that has `tag` (its annotation `io.containerd.image.name`).
///
/// # Errors
/// [`PackError`]; what was written of `file` stays.
pub fn archive(dir: &Path, tag: &str, name: &str, file: &Path) -> Result<(), PackError> {
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| PackError::Io { path, source }
    };
    let path = dir.join("index.json");
    let bad = |why: String| PackError::Index { path: path.clone(), why };
    let text = fs::read(&path).map_err(io_error(&path))?;
    let mut index: Value = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
    let tagged = manifests.into_iter().flatten().find_map(|manifest| {
        let annotations = manifest.get_mut("annotations")?.as_object_mut()?;
        (annotations.get(REF_NAME)?.as_str()? == tag).then_some(annotations)
    });
    let annotations = tagged.ok_or_else(|| bad(format!("it has no image {tag:?}")))?;
    annotations.insert("io.containerd.image.name".to_owned(), json!(name));

    let blobs = dir.join("blobs/sha256");
    let mut names: Vec<String> = fs::read_dir(&blobs)
        .map_err(io_error(&blobs))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let mut tar = tar::Builder::new(io::BufWriter::new(File::create(file).map_err(io_error(file))?));
    let entry = |path: String, content| PackEntry { path, content, mode: 0o644, uid: 0, gid: 0 };
    append(&mut tar, &entry("oci-layout".to_owned(), PackContent::File(dir.join("oci-layout"))))?;
    append(&mut tar, &entry("index.json".to_owned(), PackContent::Bytes(index.to_string().into_bytes())))?;
    for name in names {
        append(&mut tar, &entry(format!("blobs/sha256/{name}"), PackContent::File(blobs.join(name))))?;
    }
    let written = tar.into_inner().and_then(|writer| writer.into_inner().map_err(io::IntoInnerError::into_error));
    written.and_then(|file| file.sync_all()).map_err(io_error(file))
}
