//! Files of volumes, from the node's disk into the guest. The contract says which volumes there are and what may be in them; the shim only
//! finds the files, by the place where the container has them mounted.
//!
//! The kubelet's volumes are folders with a link `..data` to the folder of the present version, and links to the files in it; a new
//! version is a new folder and a swapped link. So the folder behind `..data` is read, which never changes under the reader. Nothing is
//! opened outside of a volume's folder, whatever links say.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use aws_lc_rs::digest::{Context as Hash, SHA256};
use belljar_contract::{Contract, Volume};
use belljar_guest_api::api::{PutVolumeRequest, VolumeFile};
use belljar_guest_api::limits::{MAX_VOLUME, MAX_VOLUME_FILES};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, openat2};

use crate::bundle::BundleConfig;
use crate::error::ShimError;

/// The link to the present version.
const DATA: &str = "..data";
/// Deepest folder in a volume.
const MAX_DEPTH: usize = 16;
/// The kubelet's folder for mounts of parts of a volume: `PODS/UID/volume-subpaths/VOLUME/CONTAINER/INDEX`.
const SUBPATHS: &str = "volume-subpaths";

/// Why the files of a volume cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// The pod mounts nothing there.
    #[error("volume {volume}: the pod has nothing mounted at {path}, where the contract mounts it")]
    NotMounted {
        /// The volume's name.
        volume: String,
        /// Where the contract mounts it.
        path: String,
    },
    /// A file or folder cannot be read.
    #[error("volume {volume}: {path}: {error}")]
    Read {
        /// The volume's name.
        volume: String,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's words.
        error: std::io::Error,
    },
    /// Too large for the guest.
    #[error("volume {volume} has more than {MAX_VOLUME} bytes or {MAX_VOLUME_FILES} files")]
    TooLarge {
        /// The volume's name.
        volume: String,
    },
    /// A name that the guest does not take.
    #[error("volume {volume}: {path} is nested too deep, or its name is not UTF-8")]
    Name {
        /// The volume's name.
        volume: String,
        /// The file.
        path: PathBuf,
    },
}

impl From<VolumeError> for ShimError {
    fn from(error: VolumeError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// A volume whose files this node has.
#[derive(Debug)]
pub struct Source {
    volume: String,
    folder: PathBuf,
    /// The names that the contract has, unless others may be there too.
    only: Option<Vec<String>>,
    /// Whether changes are wanted.
    pub follows: bool,
    /// What was sent last.
    sent: Mutex<Option<[u8; 32]>>,
    /// What `..data` pointed to then.
    version: Mutex<Option<PathBuf>>,
}

/// The volumes of a container that the host brings, by its mounts in the contract and in `config.json`.
///
/// # Errors
/// [`VolumeError::NotMounted`].
pub fn sources(contract: &Contract, container: &str, config: &BundleConfig) -> Result<Vec<Source>, VolumeError> {
    let mounts = contract.containers.get(container).map(|container| container.mounts.as_slice()).unwrap_or_default();
    let mut sources: Vec<Source> = Vec::new();
    for mount in mounts {
        let (only, follows) = match contract.volumes.get(&mount.volume) {
            Some(Volume::Measured { files }) => (Some(files.keys().cloned().collect()), false),
            Some(Volume::Host { files, others: false }) => (Some(files.keys().cloned().collect()), true),
            Some(Volume::Host { others: true, .. }) => (None, true),
            Some(Volume::Scratch { .. }) | None => continue,
        };
        if sources.iter().any(|source| source.volume == mount.volume) {
            continue;
        }
        let found = config
            .mount_source(&mount.path)
            .ok_or_else(|| VolumeError::NotMounted { volume: mount.volume.clone(), path: mount.path.clone() })?;
        sources.push(Source {
            volume: mount.volume.clone(),
            folder: whole(found),
            only,
            follows,
            sent: Mutex::default(),
            version: Mutex::default(),
        });
    }
    Ok(sources)
}

/// The volume's folder, for a mount of a part of it (`subPath`) as the kubelet prepares it.
fn whole(source: &Path) -> PathBuf {
    let parts: Vec<_> = source.components().collect();
    let Some(at) = parts.iter().position(|part| *part == Component::Normal(OsStr::new(SUBPATHS))) else {
        return source.to_owned();
    };
    let (Some(head), Some(Component::Normal(volume))) = (parts.get(..at), parts.get(at + 1)) else {
        return source.to_owned();
    };
    let volumes = head.iter().collect::<PathBuf>().join("volumes");
    let kinds = ["configmap", "secret", "projected", "downward-api"];
    let folders = kinds.map(|kind| volumes.join(format!("kubernetes.io~{kind}")).join(volume));
    folders.into_iter().find(|folder| folder.is_dir()).unwrap_or_else(|| source.to_owned())
}

impl Source {
    /// The volume's name.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// The whole volume, if it is another than at the last call.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn changed(&self) -> Result<Option<PutVolumeRequest>, VolumeError> {
        let version = std::fs::read_link(self.folder.join(DATA)).ok();
        {
            let known = self.version.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if version.is_some() && *known == version {
                return Ok(None);
            }
        }
        let request = self.read()?;
        let mut hash = Hash::new(&SHA256);
        for file in &request.files {
            for part in [file.path.as_bytes(), &file.data] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(hash.finish().as_ref());
        *self.version.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = version;
        let mut sent = self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *sent == Some(digest) {
            return Ok(None);
        }
        *sent = Some(digest);
        Ok(Some(request))
    }

    /// The next [`Source::changed`] gives the volume again: it did not arrive.
    pub fn forget(&self) {
        *self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        *self.version.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    fn read(&self) -> Result<PutVolumeRequest, VolumeError> {
        let failed = |path: &Path, error: rustix::io::Errno| VolumeError::Read {
            volume: self.volume.clone(),
            path: path.to_owned(),
            error: error.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.folder, flags, Mode::empty()).map_err(|e| failed(&self.folder, e))?;
        let data = match beneath(&root, Path::new(DATA), flags) {
            Ok(data) => data,
            Err(rustix::io::Errno::NOENT) => root,
            Err(error) => return Err(failed(&self.folder.join(DATA), error)),
        };
        let mut walk = Walk { source: self, files: Vec::new(), bytes: 0 };
        walk.folder(&data, Path::new(""), 0)?;
        walk.files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut request = PutVolumeRequest::new();
        self.volume.clone_into(&mut request.volume);
        request.files = walk.files;
        Ok(request)
    }
}

/// Opens a path that stays below `root`, whatever links say.
fn beneath(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

struct Walk<'a> {
    source: &'a Source,
    files: Vec<VolumeFile>,
    bytes: usize,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &OwnedFd, path: &Path, depth: usize) -> Result<(), VolumeError> {
        let failed = |path: &Path, error: rustix::io::Errno| VolumeError::Read {
            volume: self.source.volume.clone(),
            path: self.source.folder.join(path),
            error: error.into(),
        };
        for entry in Dir::read_from(folder).map_err(|e| failed(path, e))? {
            let entry = entry.map_err(|e| failed(path, e))?;
            let name = entry.file_name().to_bytes();
            // At the top, `..data` and the folders of versions.
            if name == b"." || name == b".." || (depth == 0 && name.starts_with(b"..")) {
                continue;
            }
            let path = path.join(OsStr::from_bytes(name));
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let opened = beneath(folder, Path::new(OsStr::from_bytes(name)), flags).map_err(|e| failed(&path, e))?;
            let stat = rustix::fs::fstat(&opened).map_err(|e| failed(&path, e))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth >= MAX_DEPTH => return Err(self.name(path)),
                FileType::Directory => self.folder(&opened, &path, depth + 1)?,
                FileType::RegularFile => self.file(opened, &path)?,
                // Sockets, pipes and devices are no files of a volume.
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, opened: OwnedFd, path: &Path) -> Result<(), VolumeError> {
        let Some(name) = path.to_str() else { return Err(self.name(path.to_owned())) };
        if self.source.only.as_ref().is_some_and(|only| !only.iter().any(|known| known == name)) {
            return Ok(());
        }
        let too_large = || VolumeError::TooLarge { volume: self.source.volume.clone() };
        let room = MAX_VOLUME.saturating_sub(self.bytes);
        let mut data = Vec::new();
        let limit = u64::try_from(room).unwrap_or(u64::MAX).saturating_add(1);
        File::from(opened).take(limit).read_to_end(&mut data).map_err(|error| VolumeError::Read {
            volume: self.source.volume.clone(),
            path: self.source.folder.join(path),
            error,
        })?;
        if data.len() > room || self.files.len() >= MAX_VOLUME_FILES {
            return Err(too_large());
        }
        self.bytes += data.len();
        self.files.push(VolumeFile { path: name.to_owned(), data, ..Default::default() });
        Ok(())
    }

    fn name(&self, path: PathBuf) -> VolumeError {
        VolumeError::Name { volume: self.source.volume.clone(), path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn source(folder: &Path, only: Option<&[&str]>) -> Source {
        Source {
            volume: "v".into(),
            folder: folder.to_owned(),
            only: only.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            follows: true,
            sent: Mutex::default(),
            version: Mutex::default(),
        }
    }

    fn names(request: &PutVolumeRequest) -> Vec<(&str, &[u8])> {
        request.files.iter().map(|file| (file.path.as_str(), file.data.as_slice())).collect()
    }

    /// As the kubelet's atomic writer lays a volume out.
    fn version(folder: &Path, name: &str, files: &[(&str, &str)]) {
        let inner = folder.join(name);
        fs::create_dir_all(&inner).unwrap();
        for (file, content) in files {
            let path = inner.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            let top = file.split('/').next().unwrap();
            let _ = symlink(format!("..data/{top}"), folder.join(top));
        }
        let _ = fs::remove_file(folder.join("..data_tmp"));
        symlink(name, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    }

    #[test]
    fn the_present_version_is_read_and_a_new_one_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        version(folder.path(), "..1", &[("a", "1"), ("d/b", "2")]);
        let all = source(folder.path(), None);
        let request = all.changed().unwrap().unwrap();
        assert_eq!(request.volume, "v");
        assert_eq!(names(&request), [("a", b"1".as_slice()), ("d/b", b"2")]);
        assert_eq!(all.changed().unwrap(), None);
        version(folder.path(), "..2", &[("a", "1"), ("d/b", "2")]);
        assert_eq!(all.changed().unwrap(), None, "the same files in a new folder");
        version(folder.path(), "..3", &[("a", "3"), ("d/b", "2")]);
        assert_eq!(names(&all.changed().unwrap().unwrap()), [("a", b"3".as_slice()), ("d/b", b"2")]);
        all.forget();
        assert!(all.changed().unwrap().is_some());
        let one = source(folder.path(), Some(&["d/b", "missing"]));
        assert_eq!(names(&one.changed().unwrap().unwrap()), [("d/b", b"2".as_slice())]);
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("shadow"), "secret").unwrap();
        for target in [outside.path().join("shadow"), PathBuf::from("../shadow"), "/proc/self/environ".into()] {
            let folder = outside.path().join("volume");
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("plain"), "1").unwrap();
            symlink("plain", folder.join("inside")).unwrap();
            let good = source(&folder, None).changed().unwrap().unwrap();
            assert_eq!(names(&good), [("inside", b"1".as_slice()), ("plain", b"1")]);
            symlink(&target, folder.join("link")).unwrap();
            let error = source(&folder, None).changed().unwrap_err();
            assert!(matches!(error, VolumeError::Read { .. }), "{error}");
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
            symlink(outside.path(), folder.join("..data")).unwrap();
            assert!(matches!(source(&folder, None).changed().unwrap_err(), VolumeError::Read { .. }));
            fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn volumes_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let half = vec![0; MAX_VOLUME / 2];
        fs::write(folder.path().join("a"), &half).unwrap();
        fs::write(folder.path().join("b"), &half).unwrap();
        assert_eq!(source(folder.path(), None).changed().unwrap().unwrap().files.len(), 2);
        fs::write(folder.path().join("c"), [0; 2]).unwrap();
        assert!(matches!(source(folder.path(), None).changed().unwrap_err(), VolumeError::TooLarge { .. }));
        let deep = tempfile::tempdir().unwrap();
        fs::create_dir_all(deep.path().join("d/".repeat(MAX_DEPTH))).unwrap();
        assert!(source(deep.path(), None).changed().is_ok());
        fs::create_dir_all(deep.path().join("d/".repeat(MAX_DEPTH + 1))).unwrap();
        assert!(matches!(source(deep.path(), None).changed().unwrap_err(), VolumeError::Name { .. }));
    }

    #[test]
    fn a_part_of_a_volume_is_found_by_its_whole() {
        let pods = tempfile::tempdir().unwrap();
        let volume = pods.path().join("volumes/kubernetes.io~configmap/conf");
        fs::create_dir_all(&volume).unwrap();
        assert_eq!(whole(&pods.path().join("volume-subpaths/conf/web/0")), volume);
        let other = pods.path().join("volume-subpaths/other/web/0");
        assert_eq!(whole(&other), other);
        assert_eq!(whole(&volume), volume);
    }
}
