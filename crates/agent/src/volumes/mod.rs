//! The pod's volumes, as the contract describes them: scratch space that containers share, and files that the host brings. All of them
//! are memory file systems in the agent's own mount namespace, each with a bound; containers get clones of these mounts.
//!
//! | module | does |
//! |---|---|
//! | [`check`] | judges the host's files: measured content, typed values |
//! | [`store`] | replaces the files of a volume at once |

pub mod check;
pub mod store;

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use belljar_contract::{Contract, Volume, VolumeMount};
use belljar_guest_api::{
    api::VolumeFile,
    limits::{MAX_VOLUME, MAX_VOLUME_FILES},
    status::Code,
};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat, openat2},
    io::Errno,
    mount::{MountFlags, OpenTreeFlags, mount, open_tree},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::container::Bind;
use check::Accepted;

/// Where the volumes are.
pub const PLACE: &str = "/run/belljar/volumes";
/// Bound of a volume with files of the host: the present version and the next one, with room for versions that containers still
/// hold open.
const HOST_BYTES: u64 = 16 << 20;

/// Why a volume is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// The contract has no such volume.
    #[error("the contract has no volume {0:?}")]
    Unknown(String),
    /// The volume begins empty, and no files are brought.
    #[error("volume {volume:?} is scratch in the contract, expected measured or host for files that the host brings")]
    Scratch {
        /// The volume.
        volume: String,
    },
    /// Too many files at once.
    #[error("volume {volume:?} comes with {found} files, at most {MAX_VOLUME_FILES} are allowed")]
    TooMany {
        /// The volume.
        volume: String,
        /// How many.
        found: usize,
    },
    /// Too many bytes at once.
    #[error("volume {volume:?} comes with {found} bytes, at most {MAX_VOLUME} are allowed")]
    TooLarge {
        /// The volume.
        volume: String,
        /// How many.
        found: usize,
    },
    /// A path that could lead anywhere.
    #[error(
        "volume {volume:?}: {file:?} is no path, expected a relative one without `.` and `..` that does not begin with `..`"
    )]
    Path {
        /// The volume.
        volume: String,
        /// The path.
        file: String,
    },
    /// Two files at one path.
    #[error("volume {volume:?}: {file:?} comes twice, or is a directory as well")]
    Clash {
        /// The volume.
        volume: String,
        /// The path.
        file: String,
    },
    /// A file that the contract does not list.
    #[error("file {file:?} of volume {volume:?} is not in the contract, and the contract allows no others")]
    NotListed {
        /// The volume.
        volume: String,
        /// The file.
        file: String,
    },
    /// A file that the contract lists did not come.
    #[error("file {file:?} of volume {volume:?} is missing, expected {expected}")]
    Missing {
        /// The volume.
        volume: String,
        /// The file.
        file: String,
        /// What was expected.
        expected: String,
    },
    /// The content of a measured file is another one.
    #[error(
        "file {file:?} of volume {volume:?} is not the one of the contract: sha256 expected {expected}, found {found}"
    )]
    Content {
        /// The volume.
        volume: String,
        /// The file.
        file: String,
        /// The contract's digest.
        expected: String,
        /// The digest of what came.
        found: String,
    },
    /// A file of the host is not of its type.
    #[error("file {file:?} of volume {volume:?}: {why}")]
    HostType {
        /// The volume.
        volume: String,
        /// The file.
        file: String,
        /// What was found and expected.
        why: String,
    },
    /// A container needs it, and it has no files yet.
    #[error("volume {volume:?} has no files yet, which container {container:?} needs: call PutVolume first")]
    NotPut {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
    },
    /// The part of the volume that a container mounts cannot be had.
    #[error("volume {volume:?} has no usable sub_path {path:?}: {why}")]
    SubPath {
        /// The volume.
        volume: String,
        /// The path.
        path: String,
        /// Why, in one line.
        why: String,
    },
    /// The files do not fit beside those that are in use.
    #[error("volume {volume:?} is full: containers still hold files of versions before")]
    Full {
        /// The volume.
        volume: String,
    },
    /// A system call failed.
    #[error("volume {volume:?}: {why}")]
    System {
        /// The volume.
        volume: String,
        /// Why, in one line.
        why: String,
    },
}

impl VolumeError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown(_) => Code::NotFound,
            Self::TooMany { .. } | Self::TooLarge { .. } | Self::Path { .. } | Self::Clash { .. } => {
                Code::InvalidArgument
            }
            Self::NotPut { .. } | Self::SubPath { .. } => Code::FailedPrecondition,
            Self::Full { .. } => Code::ResourceExhausted,
            Self::System { .. } => Code::Internal,
            Self::Scratch { .. }
            | Self::NotListed { .. }
            | Self::Missing { .. }
            | Self::Content { .. }
            | Self::HostType { .. } => Code::PermissionDenied,
        }
    }
}

/// The volumes of a pod.
#[derive(Debug)]
pub struct Volumes {
    place: PathBuf,
    /// Whether each gets a file system of its own.
    mounted: bool,
    put: Mutex<BTreeMap<String, Put>>,
    turn: Arc<Semaphore>,
}

/// A volume that has files.
#[derive(Debug)]
struct Put {
    /// The present version; 0 when there is none yet.
    version: u64,
    /// The last version that was tried: the directory of one that has failed half-way may be the present content.
    tried: u64,
    /// SHA-256 over paths, modes and contents of the present version; none while that is not in its place as a whole.
    digest: Option<Vec<u8>>,
}

impl Volumes {
    /// Makes the scratch volumes of the contract.
    pub fn prepare(contract: &Contract) -> Result<Self, VolumeError> {
        let volumes = Self { place: PLACE.into(), mounted: true, put: Mutex::default(), turn: turns() };
        for (name, volume) in &contract.volumes {
            if let Volume::Scratch { size_bytes } = volume {
                // Any user of any container may write there, as in an emptyDir.
                volumes.mount(name, *size_bytes, 0o777).map_err(|error| failed(name, &error))?;
            }
        }
        Ok(volumes)
    }

    /// Volumes in a directory of another file system, for tests: without a bound of their own, and without scratch volumes.
    pub fn in_directory(place: PathBuf) -> Self {
        Self { place, mounted: false, put: Mutex::default(), turn: turns() }
    }

    /// Waits for the right to call [`Volumes::put`], which one caller at a time has: so what waits is bounded by those who wait,
    /// and not by those who have gone.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turn.clone().acquire_owned().await.ok()
    }

    /// Takes all files of the volume `name`, which replace those that it has. Blocks for some milliseconds.
    pub fn put(&self, contract: &Contract, name: &str, files: Vec<VolumeFile>) -> Result<(), VolumeError> {
        let files = check::judge(name, contract.volumes.get(name), files)?;
        let digest = digest(&files);
        let mut put = self.put.lock().unwrap_or_else(PoisonError::into_inner);
        let version = match put.get(name) {
            Some(before) if before.digest.as_ref() == Some(&digest) => return Ok(()),
            Some(before) => before.tried.saturating_add(1),
            None => {
                self.mount(name, HOST_BYTES, 0o755).map_err(|error| failed(name, &error))?;
                1
            }
        };
        // Known from here on, so that a second attempt finds the file system made.
        let entry = put.entry(name.to_owned()).or_insert(Put { version: 0, tried: 0, digest: None });
        entry.tried = version;
        let root = self.place.join(name);
        let full = |error: io::Error| match error.raw_os_error() {
            Some(libc::ENOSPC) => VolumeError::Full { volume: name.to_owned() },
            _ => failed(name, &error),
        };
        store::replace(&root, version, &files).map_err(full)?;
        // The content is the new one from here on, also when what follows fails: neither the old files nor these count as put then.
        *entry = Put { version, tried: version, digest: None };
        store::tidy(&root, version, &files).map_err(full)?;
        entry.digest = Some(digest);
        Ok(())
    }

    /// Clones of the mounts that container `name` has, by their destinations.
    pub fn binds(&self, contract: &Contract, name: &str) -> Result<Vec<Bind>, VolumeError> {
        let mounts = contract.containers.get(name).map(|container| container.mounts.as_slice()).unwrap_or_default();
        let put = self.put.lock().unwrap_or_else(PoisonError::into_inner);
        let bind = |mount: &VolumeMount| {
            let volume = &mount.volume;
            let root = self.place.join(volume);
            let (content, writable) = match contract.volumes.get(volume) {
                None => return Err(VolumeError::Unknown(volume.clone())),
                Some(Volume::Scratch { .. }) => (root.clone(), true),
                Some(_) => match put.get(volume) {
                    Some(Put { version: version @ 1.., digest: Some(_), .. }) => {
                        (root.join(store::directory(*version)), false)
                    }
                    _ => return Err(VolumeError::NotPut { volume: volume.clone(), container: name.to_owned() }),
                },
            };
            let tree = match &mount.sub_path {
                None => clone(&root).map_err(|error| failed(volume, &error)),
                Some(path) => part(&content, path, writable).map_err(|error| VolumeError::SubPath {
                    volume: volume.clone(),
                    path: path.clone(),
                    why: error.to_string(),
                }),
            };
            Ok(Bind { destination: mount.path.clone().into(), tree: tree? })
        };
        mounts.iter().map(bind).collect()
    }

    fn mount(&self, name: &str, bytes: u64, mode: u32) -> io::Result<()> {
        let at = self.place.join(name);
        fs::create_dir_all(&at)?;
        if !self.mounted {
            return Ok(());
        }
        // One inode for each page that fits, and some for directories: empty files cost memory, too.
        let options = format!("size={bytes},nr_inodes={},mode={mode:o}", (bytes / 4096).saturating_add(1024));
        let options = CString::new(options).unwrap_or_default();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", &at, "tmpfs", flags, Some(options.as_c_str()))?;
        fs::set_permissions(&at, fs::Permissions::from_mode(mode))
    }
}

fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

fn clone(root: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, root, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

/// A clone of the file or directory `path` below `content`; with `make`, a missing one is made as a directory that everybody may
/// write. No symbolic link is followed: containers write to scratch volumes.
fn part(content: &Path, path: &str, make: bool) -> io::Result<OwnedFd> {
    let open = |path: &Path| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&base(content)?, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve | ResolveFlags::NO_XDEV)
    };
    let mut found = open(Path::new(path));
    if make && matches!(found, Err(Errno::NOENT)) {
        let mut above = base(content)?;
        let mut so_far = PathBuf::new();
        for name in Path::new(path).components() {
            so_far.push(name);
            found = open(&so_far);
            if matches!(found, Err(Errno::NOENT)) {
                mkdirat(&above, name.as_os_str(), Mode::from_raw_mode(0o777))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                fchmod(openat(&above, name.as_os_str(), flags, Mode::empty())?, Mode::from_raw_mode(0o777))?;
                found = open(&so_far);
            }
            above = found?;
            found = above.try_clone().map_err(|_| Errno::MFILE);
        }
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(&found?, "", flags)?)
}

fn base(content: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(content, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn failed(volume: &str, error: &io::Error) -> VolumeError {
    VolumeError::System { volume: volume.to_owned(), why: error.to_string() }
}

fn digest(files: &[Accepted]) -> Vec<u8> {
    let mut files: Vec<&Accepted> = files.iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut context = Context::new(&SHA256);
    for file in files {
        for part in [file.path.as_bytes(), &file.mode.to_le_bytes(), &file.data] {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            context.update(part);
        }
    }
    context.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract() -> Contract {
        let mut contract = Contract::parse(include_str!("../../tests/container/container.toml")).unwrap();
        contract.volumes.insert("v".into(), Volume::Host { files: BTreeMap::new(), others: true });
        let mount = VolumeMount { volume: "v".into(), path: "/v".into(), sub_path: None, read_only: false };
        contract.containers.get_mut("probe").unwrap().mounts = vec![mount];
        contract
    }

    #[test]
    fn a_version_that_got_in_half_way_is_not_taken_for_the_one_before() {
        let (dir, contract) = (tempfile::tempdir().unwrap(), contract());
        let volumes = Volumes::in_directory(dir.path().into());
        let root = dir.path().join("v");
        let put = |data: &str| {
            let file = VolumeFile { path: "a".into(), data: data.into(), ..Default::default() };
            volumes.put(&contract, "v", vec![file])
        };
        let present = || fs::read_to_string(root.join("a")).unwrap();
        let not_put = || matches!(volumes.binds(&contract, "probe"), Err(VolumeError::NotPut { .. }));
        assert!(not_put());
        put("old").unwrap();
        assert!(!not_put());
        put("old").unwrap();
        assert!(root.join("..v1").exists(), "the same files again change nothing");

        // A directory that cannot be removed as a file: the new content is in by then.
        fs::create_dir(root.join("stray")).unwrap();
        assert!(matches!(put("new"), Err(VolumeError::System { .. })));
        assert_eq!(present(), "new");
        assert!(not_put(), "nobody starts with a volume that is half-way");
        fs::remove_dir(root.join("stray")).unwrap();
        put("old").unwrap();
        assert_eq!(present(), "old");
        assert!(!not_put());

        // The twin: what was refused before it got in leaves the volume as it was.
        let clash = |path: &str| VolumeFile { path: path.into(), ..Default::default() };
        assert!(volumes.put(&contract, "v", vec![clash("b"), clash("b/c")]).is_err());
        assert_eq!(present(), "old");
        assert!(!not_put());
    }
}
