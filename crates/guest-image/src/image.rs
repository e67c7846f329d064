//! An image on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::{sha256_file, sha256_hex};
use crate::manifest::{MAX_MANIFEST, Manifest, ManifestError};
use crate::store::{CURRENT, MANIFEST};

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There is none.
    #[error("there is no guest image in {path}; run `belljar guest build`")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file of it is missing.
    #[error("the guest image has no {path}; run `belljar guest build`")]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses to read it.
    #[error("{path} cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Its manifest is none.
    #[error("{path}: {error}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: ManifestError,
    },
    /// The directory bears the name of another image.
    #[error("the guest image in {path} is {found} by its manifest; run `belljar guest build`")]
    OtherId {
        /// The directory.
        path: PathBuf,
        /// The name that follows from the manifest.
        found: String,
    },
    /// A file is longer or shorter than the manifest says.
    #[error("{path} has {found} bytes, expected {expected}; run `belljar guest build`")]
    Size {
        /// The file.
        path: PathBuf,
        /// By the manifest.
        expected: u64,
        /// On disk.
        found: u64,
    },
    /// A file has other contents than the manifest says.
    #[error("{path} has the SHA-256 {found}, expected {expected}; run `belljar guest build`")]
    Digest {
        /// The file.
        path: PathBuf,
        /// By the manifest.
        expected: String,
        /// On disk.
        found: String,
    },
}

/// A guest image: its directory and what its manifest says. The files' presence and sizes were checked when it was opened, and
/// their contents by [`verify`](Self::verify) only: that reads 80 MB.
#[derive(Debug, Clone)]
pub struct GuestImage {
    directory: PathBuf,
    manifest: Manifest,
    id: String,
}

impl GuestImage {
    /// Opens the image in `directory`, or the one that `current` in it points to.
    pub fn open(directory: &Path) -> Result<Self, ImageError> {
        let directory = if directory.join(MANIFEST).exists() { directory.to_owned() } else { directory.join(CURRENT) };
        // the link may be swapped at any time; from here on it is this one image
        let directory = match fs::canonicalize(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::Missing { path: directory });
            }
            result => result.map_err(|error| ImageError::Unreadable { path: directory, error })?,
        };
        let path = directory.join(MANIFEST);
        let size = size_of(&path)?;
        if size > MAX_MANIFEST {
            return Err(ImageError::Size { path, expected: MAX_MANIFEST, found: size });
        }
        let bytes = fs::read(&path).map_err(|error| ImageError::Unreadable { path: path.clone(), error })?;
        let manifest = Manifest::parse(&bytes).map_err(|error| ImageError::Manifest { path, error })?;
        let id = sha256_hex(&bytes);
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.len() == 64 && name.bytes().all(|c| c.is_ascii_hexdigit()) && name != id {
            return Err(ImageError::OtherId { path: directory, found: id });
        }
        for (name, entry) in &manifest.files {
            let path = directory.join(name);
            let found = size_of(&path)?;
            if found != entry.size {
                return Err(ImageError::Size { path, expected: entry.size, found });
            }
        }
        Ok(Self { directory, manifest, id })
    }

    /// Reads every file and compares its SHA-256 with the manifest.
    pub fn verify(&self) -> Result<(), ImageError> {
        for (name, entry) in &self.manifest.files {
            let path = self.directory.join(name);
            let (found, _) =
                sha256_file(&path).map_err(|error| ImageError::Unreadable { path: path.clone(), error })?;
            if found != entry.sha256 {
                return Err(ImageError::Digest { path, expected: entry.sha256.clone(), found });
            }
        }
        Ok(())
    }

    /// The image's name: SHA-256 over its manifest, in lowercase hex.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The directory that holds the files, with every link resolved.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The kernel as an ELF with a PVH note.
    pub fn vmlinux(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// The kernel as a bzImage.
    pub fn vmlinuz(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The guest's first root.
    pub fn initrd(&self) -> PathBuf {
        self.directory.join("initrd")
    }

    /// Firmware for the fast start without a TEE.
    pub fn qboot(&self) -> PathBuf {
        self.directory.join("qboot.rom")
    }

    /// Firmware for AMD SEV-SNP.
    pub fn ovmf_amdsev(&self) -> PathBuf {
        self.directory.join("OVMF.amdsev.fd")
    }

    /// Firmware for Intel TDX.
    pub fn ovmf_inteltdx(&self) -> PathBuf {
        self.directory.join("OVMF.inteltdx.ms.fd")
    }

    /// The kernel's command line, see [`CommandLine::line`](crate::CommandLine::line).
    pub fn cmdline(&self, debug: bool) -> String {
        self.manifest.command_line.line(debug)
    }

    /// What `belljar guest inspect` prints.
    pub fn inspect(&self) -> Inspection {
        let files = self.manifest.files.iter().map(|(name, entry)| InspectedFile {
            name: name.clone(),
            size: entry.size,
            sha256: entry.sha256.clone(),
            package: entry.package.clone(),
            version: entry.version.clone(),
        });
        Inspection {
            id: self.id.clone(),
            directory: self.directory.clone(),
            kernel_release: self.manifest.kernel_release.clone(),
            agent_version: self.manifest.agent_version.clone(),
            cmdline: self.cmdline(false),
            cmdline_debug: self.cmdline(true),
            files: files.collect(),
            modules: self.manifest.modules.iter().map(|module| module.name.clone()).collect(),
        }
    }
}

fn size_of(path: &Path) -> Result<u64, ImageError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ImageError::MissingFile { path: path.to_owned() }),
        Err(error) => Err(ImageError::Unreadable { path: path.to_owned(), error }),
    }
}

/// An image in the words of a person: as JSON, or as a table by its `Display`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The image's name.
    pub id: String,
    /// Where it lies.
    pub directory: PathBuf,
    /// `uname -r` of the guest.
    pub kernel_release: String,
    /// The agent's version.
    pub agent_version: String,
    /// The kernel's command line.
    pub cmdline: String,
    /// The kernel's command line with debugging.
    pub cmdline_debug: String,
    /// The files, sorted by name.
    pub files: Vec<InspectedFile>,
    /// The modules in the initrd, sorted by name.
    pub modules: Vec<String>,
}

/// One file of an [`Inspection`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedFile {
    /// Its name.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 in lowercase hex.
    pub sha256: String,
    /// The package that it comes from.
    pub package: String,
    /// The package's version.
    pub version: String,
}

impl std::fmt::Display for Inspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "image    {}", self.id)?;
        writeln!(f, "in       {}", self.directory.display())?;
        writeln!(f, "kernel   {}", self.kernel_release)?;
        writeln!(f, "agent    {}", self.agent_version)?;
        writeln!(f, "cmdline  {}", self.cmdline)?;
        writeln!(f, "debug    {}", self.cmdline_debug)?;
        writeln!(f, "modules  {}", self.modules.join(" "))?;
        let width = |of: &dyn Fn(&InspectedFile) -> usize| self.files.iter().map(of).max().unwrap_or(0);
        let (name, package) = (width(&|file| file.name.len()), width(&|file| file.package.len()));
        writeln!(f, "\n{:name$}  {:>10}  {:64}  {:package$}  VERSION", "FILE", "BYTES", "SHA-256", "PACKAGE")?;
        for file in &self.files {
            let InspectedFile { name: file_name, size, sha256, package: from, version } = file;
            writeln!(f, "{file_name:name$}  {size:>10}  {sha256}  {from:package$}  {version}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::manifest;
    use crate::store::install;

    fn store() -> tempfile::TempDir {
        let store = tempfile::tempdir().unwrap();
        let manifest = manifest();
        let files: Vec<_> = manifest.files.keys().map(|name| (name.as_str(), b"contents".as_slice())).collect();
        install(&manifest, &files, store.path()).unwrap();
        store
    }

    #[test]
    fn an_image_opens_by_the_store_and_by_its_own_directory() {
        let store = store();
        let image = GuestImage::open(store.path()).unwrap();
        image.verify().unwrap();
        assert_eq!(image.id(), manifest().id().unwrap());
        assert_eq!(image.cmdline(false), "b q");
        assert_eq!(image.cmdline(true), "b d");
        assert_eq!(fs::read(image.vmlinux()).unwrap(), b"contents");
        assert_eq!(GuestImage::open(&store.path().join(image.id())).unwrap().id(), image.id());
        let table = image.inspect().to_string();
        assert!(table.contains(image.id()) && table.contains("OVMF.inteltdx.ms.fd"), "{table}");
        assert_eq!(serde_json::to_value(image.inspect()).unwrap()["files"][0]["size"], 8);
    }

    #[test]
    fn no_image_says_what_to_do() {
        let empty = tempfile::tempdir().unwrap();
        let error = GuestImage::open(empty.path()).unwrap_err();
        assert!(matches!(error, ImageError::Missing { .. }), "{error:?}");
        assert!(error.to_string().ends_with("run `belljar guest build`"));
    }

    #[test]
    fn each_damage_has_its_own_error() {
        let (store, name) = (store(), "initrd");
        let path = GuestImage::open(store.path()).unwrap().directory().join(name);
        let open = || GuestImage::open(store.path());
        fs::write(&path, b"content").unwrap();
        assert!(matches!(open(), Err(ImageError::Size { expected: 8, found: 7, .. })));
        fs::write(&path, b"Contents").unwrap();
        assert!(matches!(open().unwrap().verify(), Err(ImageError::Digest { path: found, .. }) if found == path));
        fs::remove_file(&path).unwrap();
        assert!(matches!(open(), Err(ImageError::MissingFile { path: found }) if found == path));
        fs::write(&path, b"contents").unwrap();
        open().unwrap().verify().unwrap();
    }

    #[test]
    fn a_damaged_manifest_is_refused() {
        let store = store();
        let path = GuestImage::open(store.path()).unwrap().directory().join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap();
        let with = |from: &str, to: &str| {
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            GuestImage::open(store.path()).map(|image| image.id().to_owned())
        };
        assert!(with("", "").is_ok());
        let unknown = with("\"format\": 1,", "\"format\": 1, \"x\": 1,");
        assert!(matches!(unknown, Err(ImageError::Manifest { error: ManifestError::Json(_), .. })));
        assert!(matches!(with("\"0.1.0\"", "\"0.1.1\""), Err(ImageError::OtherId { .. })));
        fs::write(&path, vec![b' '; 256 * 1024 + 1]).unwrap();
        assert!(matches!(GuestImage::open(store.path()), Err(ImageError::Size { found: 262_145, .. })));
    }

    #[test]
    fn a_whole_image_is_not_written_again_and_a_damaged_one_is() {
        let store = store();
        let image = GuestImage::open(store.path()).unwrap();
        let before = fs::metadata(image.initrd()).unwrap().modified().unwrap();
        let manifest = manifest();
        let files: Vec<_> = manifest.files.keys().map(|name| (name.as_str(), b"contents".as_slice())).collect();
        install(&manifest, &files, store.path()).unwrap();
        assert_eq!(fs::metadata(image.initrd()).unwrap().modified().unwrap(), before);
        fs::write(image.initrd(), b"Contents").unwrap();
        install(&manifest, &files, store.path()).unwrap();
        GuestImage::open(store.path()).unwrap().verify().unwrap();
        let left: Vec<_> = fs::read_dir(store.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }
}
