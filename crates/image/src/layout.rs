//! OCI layouts on disk (OCI image specification, "Image Layout"): a directory, or a tar of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::ImageError;
use crate::manifest::{self, Descriptor, Index, MAX_DOCUMENT, REF_NAME};
use crate::reference::is_digest;
use crate::tar::{Kind, TarError, TarReader};

/// Most files of an archive.
const MAX_FILES: usize = 100_000;

/// An opened layout.
#[derive(Debug)]
pub(crate) struct Layout {
    path: PathBuf,
    tag: Option<String>,
    /// Digest of the manifest or index, for a folder of blobs without `index.json`.
    pinned: Option<String>,
    /// Offset and length of each file of an archive.
    archive: Option<BTreeMap<String, (u64, u64)>>,
}

impl Layout {
    pub(crate) fn directory(path: &Path, tag: Option<&str>) -> Self {
        Self { path: path.to_owned(), tag: tag.map(str::to_owned), pinned: None, archive: None }
    }

    /// A folder with `blobs/sha256/` and nothing else that we know, such as containerd's content store.
    pub(crate) fn blobs(path: &Path, digest: &str) -> Self {
        Self { path: path.to_owned(), tag: None, pinned: Some(digest.to_owned()), archive: None }
    }

    /// Reads the archive once to find its files.
    pub(crate) fn archive(path: &Path) -> Result<Self, ImageError> {
        let bad = |why: String| ImageError::Archive { path: path.to_owned(), why };
        let file = File::open(path).map_err(|source| ImageError::NoSuchLayout { path: path.to_owned(), source })?;
        let mut tar = TarReader::seeking(file);
        let mut files = BTreeMap::new();
        while let Some(entry) = tar.next_entry().map_err(|error| match error {
            TarError::Checksum { at: 0 } | TarError::Truncated { at: 0 } => {
                bad("it is not a tar (a compressed one must be unpacked first)".to_owned())
            }
            other => bad(other.to_string()),
        })? {
            if entry.kind != Kind::File {
                continue;
            }
            let Some((start, len)) = tar.data_range() else { continue };
            if len != entry.size {
                return Err(bad("it has sparse files".to_owned()));
            }
            let Ok(name) = String::from_utf8(entry.path) else { continue };
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            files.insert(name, (start, len));
            if files.len() > MAX_FILES {
                return Err(bad(format!("it has more than {MAX_FILES} files")));
            }
        }
        Ok(Self { path: path.to_owned(), tag: None, pinned: None, archive: Some(files) })
    }

    /// Bytes of the image's manifest or index, checked.
    pub(crate) fn top(&self) -> Result<Vec<u8>, ImageError> {
        let Some(digest) = &self.pinned else { return self.read("manifest", &self.find()?) };
        let mut bytes = Vec::new();
        self.blob(digest)?
            .take(MAX_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| ImageError::NoSuchLayout { path: self.path.clone(), source })?;
        let found = bytes.len() as u64;
        if found > MAX_DOCUMENT {
            return Err(ImageError::Size { what: "manifest", expected: MAX_DOCUMENT, found });
        }
        manifest::check_digest("manifest", digest, &bytes)?;
        Ok(bytes)
    }

    /// The image that the reference means: the tagged one, or the only one.
    fn find(&self) -> Result<Descriptor, ImageError> {
        let version: serde_json::Value = manifest::parse("oci-layout", &self.document("oci-layout", MAX_DOCUMENT)?)?;
        if version.get("imageLayoutVersion").and_then(|v| v.as_str()) != Some("1.0.0") {
            let why = "imageLayoutVersion is not 1.0.0".to_owned();
            return Err(ImageError::Document { what: "oci-layout", why });
        }
        let index: Index = manifest::parse("index.json", &self.document("index.json", MAX_DOCUMENT)?)?;
        let tag_of = |d: &Descriptor| d.annotations.as_ref().and_then(|a| a.get(REF_NAME).cloned());
        let found = match &self.tag {
            Some(tag) => index.manifests.iter().find(|d| tag_of(d).as_ref() == Some(tag)),
            None => index.manifests.first().filter(|_| index.manifests.len() == 1),
        };
        found.cloned().ok_or_else(|| ImageError::NoSuchTag {
            path: self.path.clone(),
            wanted: self.tag.clone().unwrap_or_else(|| "without a tag".to_owned()),
            found: index.manifests.iter().filter_map(tag_of).collect(),
        })
    }

    /// Bytes of the document that `descriptor` describes, checked.
    pub(crate) fn read(&self, what: &'static str, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        descriptor.bounded(what)?;
        let mut bytes = Vec::new();
        self.blob(&descriptor.digest)?
            .take(MAX_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| ImageError::NoSuchLayout { path: self.path.clone(), source })?;
        descriptor.check(what, &bytes)?;
        Ok(bytes)
    }

    /// A reader of a blob.
    pub(crate) fn blob(&self, digest: &str) -> Result<Box<dyn Read + Send>, ImageError> {
        let missing = || ImageError::NoSuchBlob { path: self.path.clone(), digest: digest.to_owned() };
        let hex = digest.strip_prefix("sha256:").filter(|_| is_digest(digest)).ok_or_else(missing)?;
        self.open(&format!("blobs/sha256/{hex}")).map_err(|error| match error {
            ImageError::NoSuchLayout { source, .. } if source.kind() == io::ErrorKind::NotFound => missing(),
            other => other,
        })
    }

    fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.open(name)?
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| ImageError::NoSuchLayout { path: self.path.join(name), source })?;
        Ok(bytes)
    }

    fn open(&self, name: &str) -> Result<Box<dyn Read + Send>, ImageError> {
        let Some(files) = &self.archive else {
            let path = self.path.join(name);
            let file = File::open(&path).map_err(|source| ImageError::NoSuchLayout { path, source })?;
            return Ok(Box::new(file));
        };
        let failed = |source| ImageError::NoSuchLayout { path: self.path.join(name), source };
        let (start, len) = files.get(name).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let mut file = File::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(*start)).map_err(failed)?;
        Ok(Box::new(file.take(*len)))
    }
}
