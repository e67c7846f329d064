//! What is known on this host of running pods: one folder per pod, that lives as long as its owner.
//!
//! The owner holds a lock on `lock`; the kernel drops it when the owner dies, however it dies. [`Pods::sweep`] takes the
//! folders whose lock is free, ends a QEMU that is left (only one of the very start time that was noted) and removes them.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::files::{process_start, write_json};
use crate::machine::TeeKind;

const POD: &str = "pod.json";
const LOCK: &str = "lock";
const CONTROL: &str = "control.sock";
/// Longest `pod.json` that is read.
const MAX_POD: u64 = 64 * 1024;

/// A process, named for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its id.
    pub pid: u32,
    /// Its start time in clock ticks since boot.
    pub start: u64,
}

/// What is noted of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// 1 to 64 of `[a-z0-9-]`, unique on this host.
    pub id: String,
    /// The name that the user gave or saw.
    pub name: String,
    /// The image reference as the user wrote it.
    pub image: String,
    /// The TEE.
    pub tee: TeeKind,
    /// Unix time of the start in seconds.
    pub created: u64,
    /// The process that owns the pod.
    pub owner: ProcessId,
    /// The QEMU process, once started.
    pub qemu: Option<ProcessId>,
}

/// Why the run folders cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// The operating system refused something.
    #[error("run folder {path}: {error}; check its owner and the space left")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's words.
        error: std::io::Error,
    },
    /// The folder belongs to somebody else, or others may write to it.
    #[error("run folder {path} belongs to uid {uid} with mode {mode:o}, expected our own with 700; remove it")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// The id would leave the folder.
    #[error("pod id {found:?} is not 1 to 64 of a-z, 0-9 and '-'")]
    Id {
        /// The id.
        found: String,
    },
    /// A pod of this id is there already.
    #[error("a pod {id} is running already")]
    Exists {
        /// The id.
        id: String,
    },
    /// No running pod has this name or id.
    #[error("no running pod {wanted:?}; `belljar doctor` lists those that run")]
    NotFound {
        /// Name or id.
        wanted: String,
    },
    /// More than one pod has this name.
    #[error("{count} running pods are named {wanted:?}; use the id")]
    Ambiguous {
        /// The name.
        wanted: String,
        /// How many.
        count: usize,
    },
}

/// The folder of all pods' folders.
#[derive(Clone, Debug)]
pub struct Pods {
    base: PathBuf,
}

/// The folder of a pod that this process owns. Dropping it removes the folder.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    pod: Pod,
    _lock: File,
}

/// What [`Pods::sweep`] removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Name of the folder.
    pub id: String,
    /// A QEMU process was left and has been killed.
    pub killed_qemu: bool,
}

impl Pods {
    /// `${XDG_RUNTIME_DIR}/belljar/pods`; without that variable `/run/belljar/pods` for root and
    /// `/tmp/belljar-UID/belljar/pods` for others.
    pub fn of_user() -> Result<Self, RunDirError> {
        let uid = rustix::process::geteuid();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let root = match runtime {
            Some(dir) => dir,
            None if uid.is_root() => PathBuf::from("/run"),
            None => {
                let dir = PathBuf::from(format!("/tmp/belljar-{}", uid.as_raw()));
                own_folder(&dir)?;
                dir
            }
        };
        own_folder(&root.join("belljar"))?;
        Self::at(root.join("belljar/pods"))
    }

    /// The folder `base`, which is made when it is not there.
    pub fn at(base: impl Into<PathBuf>) -> Result<Self, RunDirError> {
        let base = base.into();
        own_folder(&base)?;
        Ok(Self { base })
    }

    /// Makes the folder of a new pod, and takes its lock.
    pub fn create(&self, pod: Pod) -> Result<RunDir, RunDirError> {
        let letters = pod.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !(1..=64).contains(&pod.id.len()) || !letters {
            return Err(RunDirError::Id { found: pod.id });
        }
        let _all = self.lock_all()?;
        let path = self.base.join(&pod.id);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(RunDirError::Exists { id: pod.id });
            }
            other => other.map_err(at(&path))?,
        }
        let lock = File::create(path.join(LOCK)).and_then(|file| file.lock().map(|()| file));
        let lock = lock.and_then(|lock| write_json(&path.join(POD), &pod).map(|()| lock));
        match lock {
            Ok(lock) => Ok(RunDir { path, pod, _lock: lock }),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&path);
                Err(at(&path)(error))
            }
        }
    }

    /// The pods whose owner lives, oldest first.
    pub fn list(&self) -> Result<Vec<Pod>, RunDirError> {
        let mut pods = Vec::new();
        for path in self.folders()? {
            if let (true, Some(pod)) = (is_locked(&path), read_pod(&path)) {
                pods.push(pod);
            }
        }
        pods.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(pods)
    }

    /// The running pod of this id or name.
    pub fn find(&self, wanted: &str) -> Result<Pod, RunDirError> {
        let mut pods: Vec<Pod> =
            self.list()?.into_iter().filter(|pod| pod.id == wanted || pod.name == wanted).collect();
        if let Some(exact) = pods.iter().position(|pod| pod.id == wanted) {
            return Ok(pods.swap_remove(exact));
        }
        match (pods.len(), pods.pop()) {
            (1, Some(pod)) => Ok(pod),
            (0, _) | (_, None) => Err(RunDirError::NotFound { wanted: wanted.to_owned() }),
            (count, _) => Err(RunDirError::Ambiguous { wanted: wanted.to_owned(), count }),
        }
    }

    /// Where the owner of a pod serves [`crate::control`].
    pub fn control_socket(&self, pod: &Pod) -> PathBuf {
        self.base.join(&pod.id).join(CONTROL)
    }

    /// Removes what dead owners have left. Cheap when there is nothing: one folder is read.
    pub fn sweep(&self) -> Result<Vec<Swept>, RunDirError> {
        if self.folders()?.is_empty() {
            return Ok(Vec::new());
        }
        let _all = self.lock_all()?;
        let mut swept = Vec::new();
        for path in self.folders()? {
            if is_locked(&path) {
                continue;
            }
            let killed_qemu = read_pod(&path).and_then(|pod| pod.qemu).is_some_and(kill);
            match std::fs::remove_dir_all(&path) {
                // Its owner was just removing it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                removed => removed.map_err(at(&path))?,
            }
            let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            swept.push(Swept { id, killed_qemu });
        }
        Ok(swept)
    }

    fn folders(&self) -> Result<Vec<PathBuf>, RunDirError> {
        let entries = std::fs::read_dir(&self.base).map_err(at(&self.base))?;
        Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
    }

    /// Keeps others from making or sweeping folders; without it a folder could be swept before its lock is taken.
    fn lock_all(&self) -> Result<File, RunDirError> {
        let path = self.base.join(".lock");
        let file = File::create(&path).map_err(at(&path))?;
        file.lock().map_err(at(&path))?;
        Ok(file)
    }
}

impl RunDir {
    /// What is noted.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where to serve [`crate::control`].
    pub fn control_socket(&self) -> PathBuf {
        self.path.join(CONTROL)
    }

    /// Notes the QEMU process, so that it can be found when this process dies.
    pub fn set_qemu(&mut self, pid: u32) -> Result<(), RunDirError> {
        self.pod.qemu = ProcessId::of(pid);
        let path = self.path.join(POD);
        write_json(&path, &self.pod).map_err(at(&path))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "run folder not removed");
        }
    }
}

impl ProcessId {
    /// The living process of this id.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start: process_start(pid)? })
    }

    /// This process.
    pub fn this() -> Self {
        let pid = std::process::id();
        Self { pid, start: process_start(pid).unwrap_or_default() }
    }
}

/// Makes `path`, or takes it if it is ours alone. Only its last part is made.
fn own_folder(path: &Path) -> Result<(), RunDirError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(at(path)(error)),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(path).map_err(at(path))?;
    let (uid, mode) = (meta.uid(), meta.mode() & 0o7777);
    match meta.is_dir() && uid == rustix::process::geteuid().as_raw() && mode & 0o022 == 0 {
        true => Ok(()),
        false => Err(RunDirError::Foreign { path: path.to_owned(), uid, mode }),
    }
}

/// Whether a living owner holds the folder's lock. A folder without a lock file has none.
fn is_locked(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)).map(|file| file.try_lock()) {
        Ok(Err(TryLockError::WouldBlock)) => true,
        Ok(_) | Err(_) => false,
    }
}

fn read_pod(folder: &Path) -> Option<Pod> {
    let mut bytes = Vec::new();
    let file = File::open(folder.join(POD)).ok()?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_POD), &mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Kills the process and waits until it is gone, at most a second. False when it was gone before.
fn kill(process: ProcessId) -> bool {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let Some(pidfd) = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return false;
    };
    // The pidfd keeps the number from being used anew, so what is checked is what is killed.
    if process_start(process.pid) != Some(process.start) {
        return false;
    }
    let killed = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).is_ok();
    for _ in 0..100 {
        if process_start(process.pid) != Some(process.start) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    killed
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> RunDirError + use<> {
    let path = path.to_owned();
    move |error| RunDirError::Io { path: path.clone(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(id: &str) -> Pod {
        Pod {
            id: id.into(),
            name: format!("name-{id}"),
            image: "oci:x".into(),
            tee: TeeKind::Software,
            created: 1,
            owner: ProcessId::this(),
            qemu: None,
        }
    }

    /// A folder as an owner leaves it that was killed.
    fn abandoned(pods: &Pods, id: &str, qemu: Option<ProcessId>) {
        let folder = pods.base.join(id);
        std::fs::create_dir(&folder).unwrap();
        File::create(folder.join(LOCK)).unwrap();
        write_json(&folder.join(POD), &Pod { qemu, ..pod(id) }).unwrap();
    }

    fn sleeper() -> std::process::Child {
        std::process::Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn a_pod_is_listed_while_its_owner_lives_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let pods = Pods::at(dir.path().join("pods")).unwrap();
        let mut run = pods.create(pod("a")).unwrap();
        run.set_qemu(std::process::id()).unwrap();
        assert_eq!(pods.list().unwrap(), [Pod { qemu: Some(ProcessId::this()), ..pod("a") }]);
        assert_eq!(pods.find("a").unwrap().id, "a");
        assert_eq!(pods.find("name-a").unwrap().id, "a");
        assert!(matches!(pods.find("b"), Err(RunDirError::NotFound { wanted }) if wanted == "b"));
        assert!(matches!(pods.create(pod("a")), Err(RunDirError::Exists { id }) if id == "a"));
        assert_eq!(pods.sweep().unwrap(), []);
        drop(run);
        assert_eq!(pods.list().unwrap(), []);
        assert!(!dir.path().join("pods/a").exists());
    }

    #[test]
    fn two_pods_of_one_name_are_ambiguous() {
        let dir = tempfile::tempdir().unwrap();
        let pods = Pods::at(dir.path()).unwrap();
        let both = ["a", "b"].map(|id| pods.create(Pod { name: "n".into(), ..pod(id) }).unwrap());
        assert!(matches!(pods.find("n"), Err(RunDirError::Ambiguous { count: 2, .. })));
        assert_eq!(pods.find("b").unwrap().id, "b");
        drop(both);
    }

    #[test]
    fn ids_stay_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let pods = Pods::at(dir.path()).unwrap();
        for id in ["", "..", "a/b", "A", &"a".repeat(65)] {
            assert!(matches!(pods.create(pod(id)), Err(RunDirError::Id { found }) if found == id));
        }
    }

    #[test]
    fn sweep_kills_the_noted_process_only_and_removes_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let pods = Pods::at(dir.path()).unwrap();
        let (mut left, mut other) = (sleeper(), sleeper());
        abandoned(&pods, "left", ProcessId::of(left.id()));
        let reused = ProcessId::of(other.id()).map(|process| ProcessId { start: process.start - 1, ..process });
        abandoned(&pods, "reused", reused);
        let mut swept = pods.sweep().unwrap();
        swept.sort_by(|a, b| a.id.cmp(&b.id));
        let expected = [("left", true), ("reused", false)];
        assert_eq!(swept, expected.map(|(id, killed_qemu)| Swept { id: id.into(), killed_qemu }));
        assert!(!left.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(pods.sweep().unwrap(), []);
        assert_eq!(pods.folders().unwrap(), [] as [PathBuf; 0]);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("pods");
        Pods::at(&base).unwrap();
        rustix::fs::chmod(&base, rustix::fs::Mode::from_raw_mode(0o770)).unwrap();
        assert!(matches!(Pods::at(&base), Err(RunDirError::Foreign { mode: 0o770, .. })));
        rustix::fs::chmod(&base, rustix::fs::Mode::from_raw_mode(0o750)).unwrap();
        Pods::at(&base).unwrap();
    }
}
