//! The store of layer images, shared by all pods and processes of a host.
//!
//! ```text
//! DIR/layers/HEX.img     layer image (erofs, then the verity tree); HEX is the layer's diff_id
//! DIR/layers/HEX.json    its record: size, verity root, salt; written after the image
//! DIR/images/HEX.json    what a reference means; HEX is the SHA-256 of the reference
//! DIR/locks/HEX.lock     flock(2) held while that file is made
//! DIR/…/.tmp-HEX-…       files being made; removed by the next one that holds the lock, and by `Store::open`
//! ```
//!
//! Every file is written under another name, synced, and renamed; so a file that is there is whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use serde::Serialize;

use crate::convert::{self, ConvertError, Expected};
use crate::credentials::Credentials;
use crate::error::ImageError;
use crate::layout::Layout;
use crate::limits::Limits;
use crate::manifest;
use crate::progress::Progress;
use crate::record::{ImageRecord, LayerRecord, VERSION, key_of};
use crate::reference::Reference;
use crate::source::{Resolved, Source};
use crate::verity;

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Only when the store does not have the reference. Layouts on disk are always read, since that costs nothing.
    #[default]
    Missing,
    /// Always; layers that are in the store are not fetched again.
    Always,
    /// Never; an image that is not in the store is an error.
    Never,
}

/// An image whose layers are in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// As given.
    pub reference: String,
    /// `sha256:<hex>` of the manifest for linux/amd64 (not of an index above it).
    pub manifest_digest: String,
    /// The image's config.
    pub config: oci_spec::image::ImageConfiguration,
    /// Lowest first. The same layer may be there twice.
    pub layers: Vec<LayerImage>,
}

/// A layer image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerImage {
    /// The file: `data_blocks` blocks of erofs, then the dm-verity tree.
    pub path: PathBuf,
    /// `sha256:<hex>` of the uncompressed tar.
    pub diff_id: String,
    /// Root hash of the tree.
    pub verity_root: [u8; 32],
    /// Salt of the tree.
    pub salt: Vec<u8>,
    /// Number of 4096-byte blocks before the tree.
    pub data_blocks: u64,
}

/// A directory of layer images.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    limits: Limits,
    credentials: Credentials,
}

impl Store {
    /// Opens or makes a store, and removes what dead processes left unfinished. Registry logins are those of docker.
    ///
    /// # Errors
    /// [`ImageError::Store`], [`ImageError::DiskFull`].
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        let store = Self { dir: dir.to_owned(), limits: Limits::default(), credentials: Credentials::of_user() };
        for folder in ["layers", "images", "locks"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path).map_err(|error| store.failure(&path, error))?;
        }
        store.sweep("layers")?;
        store.sweep("images")?;
        Ok(store)
    }

    /// With other bounds on layers.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// With another docker `config.json` for registry logins; `None`: anonymous.
    #[must_use]
    pub fn with_docker_config(self, file: Option<PathBuf>) -> Self {
        Self { credentials: Credentials { file }, ..self }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes sure that the image's layers are in the store. With [`PullPolicy::Missing`] and a registry reference that the store knows,
    /// nothing is asked of the network and nothing is written.
    ///
    /// # Errors
    /// [`ImageError`]; the store is then as it was, but for layers that were finished before.
    pub async fn ensure(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        let known = self.image_record(reference);
        let local = !matches!(reference, Reference::Registry(_));
        if policy == PullPolicy::Never || (policy == PullPolicy::Missing && !local) {
            let found = known.as_ref().map(|record| self.known_image(record)).transpose()?.flatten();
            if let Some(image) = found {
                return Ok(image);
            }
            if policy == PullPolicy::Never {
                return Err(ImageError::NotInStore { reference: reference.to_string(), store: self.dir.clone() });
            }
        }
        let source = Arc::new(Source::open(reference, &self.credentials)?);
        let (image, resolved) = self.prepare(&source, reference.to_string(), progress).await?;
        let record = ImageRecord::new(reference, resolved)?;
        if known.as_ref() != Some(&record) {
            self.write_image_record(&record)?;
        }
        Ok(image)
    }

    /// Makes sure that the layers of the image with this manifest digest are in the store, from the blobs in `folder`: a folder with
    /// `blobs/sha256/`, such as containerd's content store. The store keeps no record of the image.
    ///
    /// # Errors
    /// [`ImageError`]; [`ImageError::NoSuchBlob`] when `folder` lacks a part of the image.
    pub async fn ensure_blobs(
        &self,
        folder: &Path,
        digest: &str,
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        let source = Arc::new(Source::Layout(Layout::blobs(folder, digest)));
        Ok(self.prepare(&source, digest.to_owned(), progress).await?.0)
    }

    async fn prepare(
        &self,
        source: &Arc<Source>,
        reference: String,
        progress: &dyn Progress,
    ) -> Result<(Image, Resolved), ImageError> {
        let resolved = source.resolve().await?;
        let sizes: Vec<_> = resolved.layers.iter().map(|layer| (layer.diff_id.clone(), layer.size)).collect();
        progress.layers(&sizes);
        let mut layers = Vec::with_capacity(resolved.layers.len());
        for (index, expected) in resolved.layers.iter().enumerate() {
            layers.push(self.ensure_layer(source, index, expected, progress).await?);
        }
        let manifest_digest = resolved.manifest_digest.clone();
        let config = manifest::parse_config(&resolved.config)?;
        Ok((Image { reference, manifest_digest, config, layers }, resolved))
    }

    /// Those layers of the store that have one of these verity roots. It reads the record of every layer.
    ///
    /// # Errors
    /// [`ImageError::Store`] when the store cannot be read.
    pub fn layers_by_root(&self, roots: &[[u8; 32]]) -> Result<Vec<LayerImage>, ImageError> {
        let folder = self.dir.join("layers");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|error| self.failure(&folder, error))? {
            let name = entry.map_err(|error| self.failure(&folder, error))?.file_name();
            let Some(hex) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            found.extend(self.layer(&format!("sha256:{hex}")).filter(|layer| roots.contains(&layer.verity_root)));
        }
        Ok(found)
    }

    /// A layer that is in the store, by diff_id.
    #[must_use]
    pub fn layer(&self, diff_id: &str) -> Option<LayerImage> {
        let hex = diff_id.strip_prefix("sha256:")?;
        let record: LayerRecord = serde_json::from_slice(&fs::read(self.layer_path(hex, "json")).ok()?).ok()?;
        let path = self.layer_path(hex, "img");
        let whole = fs::metadata(&path).ok()?.len() == record.file_bytes;
        (record.version == VERSION && record.diff_id == diff_id && whole).then_some(())?;
        let mut verity_root = [0; 32];
        hex::decode_to_slice(&record.verity_root, &mut verity_root).ok()?;
        let salt = hex::decode(&record.salt).ok()?;
        Some(LayerImage { path, diff_id: record.diff_id, verity_root, salt, data_blocks: record.data_blocks })
    }

    async fn ensure_layer(
        &self,
        source: &Arc<Source>,
        index: usize,
        expected: &Expected,
        progress: &dyn Progress,
    ) -> Result<LayerImage, ImageError> {
        if let Some(layer) = self.layer(&expected.diff_id) {
            progress.cached(index);
            return Ok(layer);
        }
        let hex = expected.diff_id.strip_prefix("sha256:").unwrap_or_default().to_owned();
        let (store, key) = (self.clone(), hex.clone());
        let lock = blocking(move || store.lock(&key, "layers")).await??;
        if let Some(layer) = self.layer(&expected.diff_id) {
            progress.cached(index);
            return Ok(layer);
        }
        let (told, mut heard) = tokio::sync::watch::channel(0_u64);
        let job = Job { store: self.clone(), expected: expected.clone(), hex, lock, told };
        let converted = match source.as_ref() {
            Source::Layout(_) => {
                let source = Arc::clone(source);
                let conversion = blocking(move || match source.as_ref() {
                    Source::Layout(layout) => job.run(layout.blob(&job.expected.digest)?),
                    Source::Registry(_) => job.run(io::empty()),
                });
                report(conversion, &mut heard, |done| progress.advance(index, done, expected.size)).await?
            }
            Source::Registry(registry) => {
                let (reader, feed) = registry.layer(&expected.digest).await?;
                let conversion = blocking(move || job.run(reader));
                let both = async { tokio::join!(conversion, feed).0 };
                report(both, &mut heard, |done| progress.advance(index, done, expected.size)).await?
            }
        };
        let layer = converted?;
        progress.finished(index);
        Ok(layer)
    }

    fn known_image(&self, record: &ImageRecord) -> Result<Option<Image>, ImageError> {
        let layers: Option<Vec<_>> = record.layers.iter().map(|blob| self.layer(&blob.diff_id)).collect();
        let Some(layers) = layers else { return Ok(None) };
        Ok(Some(Image {
            reference: record.reference.clone(),
            manifest_digest: record.manifest_digest.clone(),
            config: manifest::parse_config(record.config.as_bytes())?,
            layers,
        }))
    }

    fn image_record(&self, reference: &Reference) -> Option<ImageRecord> {
        let text = reference.to_string();
        let path = self.dir.join("images").join(format!("{}.json", key_of(&text)));
        let record: ImageRecord = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (record.version == VERSION && record.reference == text).then_some(record)
    }

    fn write_image_record(&self, record: &ImageRecord) -> Result<(), ImageError> {
        let key = key_of(&record.reference);
        let lock = self.lock(&key, "images")?;
        self.write_json("images", &key, record)?;
        drop(lock);
        Ok(())
    }

    /// Waits for the lock of one file, and removes what its last holder left unfinished.
    fn lock(&self, key: &str, folder: &str) -> Result<File, ImageError> {
        let path = self.dir.join("locks").join(format!("{key}.lock"));
        let failed = |error: io::Error| self.failure(&path, error);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        for left in self.unfinished(folder)?.into_iter().filter(|(_, owner)| owner == key) {
            fs::remove_file(&left.0).map_err(|error| self.failure(&left.0, error))?;
        }
        Ok(file)
    }

    /// Removes unfinished files that nobody works on.
    fn sweep(&self, folder: &str) -> Result<(), ImageError> {
        for (path, key) in self.unfinished(folder)? {
            let Ok(lock) = File::open(self.dir.join("locks").join(format!("{key}.lock"))) else { continue };
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.failure(&path, error)),
                    _ => tracing::info!(path = %path.display(), "removed an unfinished file"),
                }
            }
        }
        Ok(())
    }

    /// Unfinished files and the keys of their locks.
    fn unfinished(&self, folder: &str) -> Result<Vec<(PathBuf, String)>, ImageError> {
        let folder = self.dir.join(folder);
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|error| self.failure(&folder, error))? {
            let path = entry.map_err(|error| self.failure(&folder, error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(".tmp-"));
            if let Some((key, _)) = name.and_then(|name| name.split_once('-')) {
                let key = key.to_owned();
                found.push((path, key));
            }
        }
        Ok(found)
    }

    fn temporary(&self, folder: &str, key: &str) -> Result<tempfile::NamedTempFile, ImageError> {
        let folder = self.dir.join(folder);
        let made = tempfile::Builder::new().prefix(&format!(".tmp-{key}-")).tempfile_in(&folder);
        made.map_err(|error| self.failure(&folder, error))
    }

    fn write_json(&self, folder: &str, key: &str, record: &impl Serialize) -> Result<(), ImageError> {
        let temporary = self.temporary(folder, key)?;
        let path = self.dir.join(folder).join(format!("{key}.json"));
        let written = serde_json::to_writer_pretty(temporary.as_file(), record).map_err(io::Error::from);
        written.and_then(|()| temporary.as_file().sync_all()).map_err(|error| self.failure(&path, error))?;
        self.persist(temporary, &path)
    }

    fn persist(&self, temporary: tempfile::NamedTempFile, path: &Path) -> Result<(), ImageError> {
        let renamed = temporary.persist(path).map_err(|error| error.error);
        let folder = path.parent().unwrap_or(&self.dir);
        renamed.and_then(|_| File::open(folder)?.sync_all()).map_err(|error| self.failure(path, error))
    }

    fn layer_path(&self, hex: &str, extension: &str) -> PathBuf {
        self.dir.join("layers").join(format!("{hex}.{extension}"))
    }

    /// An error of the store's file system in our words.
    fn failure(&self, path: &Path, source: io::Error) -> ImageError {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge) && source.raw_os_error().is_some() {
            let free = rustix::fs::statvfs(&self.dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
            return ImageError::DiskFull { path: self.dir.clone(), free };
        }
        ImageError::Store { path: path.to_owned(), source }
    }
}

/// The conversion of one layer, on a thread of its own. The lock lives as long as it.
struct Job {
    store: Store,
    expected: Expected,
    hex: String,
    lock: File,
    told: tokio::sync::watch::Sender<u64>,
}

impl Job {
    fn run(&self, blob: impl Read) -> Result<LayerImage, ImageError> {
        let (store, hex) = (&self.store, &self.hex);
        let folder = store.dir.join("layers");
        let temporary = store.temporary("layers", hex)?;
        let image = temporary.as_file().try_clone().map_err(|error| store.failure(&folder, error))?;
        let advance = |done| {
            self.told.send_replace(done);
        };
        let done = convert::convert(blob, &self.expected, &store.limits, image, &folder, advance);
        let done = done.map_err(|error| match error {
            ConvertError::Write(error) => store.failure(&folder, error),
            source => ImageError::Layer { diff_id: self.expected.diff_id.clone(), source },
        })?;
        let path = store.layer_path(hex, "img");
        store.persist(temporary, &path)?;
        let record = LayerRecord {
            version: VERSION,
            diff_id: self.expected.diff_id.clone(),
            file_bytes: (done.data_blocks + verity::tree_blocks(done.data_blocks)) * 4096,
            data_blocks: done.data_blocks,
            verity_root: hex::encode(done.verity_root),
            salt: hex::encode(done.salt),
        };
        store.write_json("layers", hex, &record)?;
        let _held_until_here = &self.lock;
        Ok(LayerImage {
            path,
            diff_id: record.diff_id,
            verity_root: done.verity_root,
            salt: done.salt.to_vec(),
            data_blocks: done.data_blocks,
        })
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ImageError::Store { path: PathBuf::new(), source: io::Error::other(error) })
}

/// Awaits `work`, telling of what is `heard` meanwhile.
async fn report<T>(
    work: impl Future<Output = T>,
    heard: &mut tokio::sync::watch::Receiver<u64>,
    tell: impl Fn(u64),
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                tell(*heard.borrow());
                return done;
            }
            Ok(()) = heard.changed() => tell(*heard.borrow_and_update()),
        }
    }
}
