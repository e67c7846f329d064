//! The container's cgroup (version 2).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::error::{ContainerError, During, Stage};
use super::plan::Limits;

/// How long killed processes may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// A cgroup of its own for one container.
#[derive(Debug)]
pub(super) struct Cgroup {
    pub path: PathBuf,
    name: String,
}

impl Cgroup {
    /// Makes it below `root` and sets the limits, before any process is in it.
    pub fn create(root: &Path, name: &str, limits: Limits) -> Result<Self, ContainerError> {
        let path = root.join(name);
        let needed =
            [("memory", limits.memory.is_some()), ("cpu", limits.cpu.is_some()), ("pids", limits.pids.is_some())];
        let available = read(&root.join("cgroup.controllers"))?;
        for (controller, _) in needed.into_iter().filter(|(_, needed)| *needed) {
            if !available.split_ascii_whitespace().any(|found| found == controller) {
                return Err(ContainerError::Controller { root: root.display().to_string(), controller });
            }
            write(&root.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        match fs::create_dir(&path) {
            // Left by a container that has ended; only an empty cgroup can be removed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir(&path).map_err(|_| ContainerError::Exists { name: name.to_owned() })?;
                fs::create_dir(&path).during(Stage::Cgroup, path.display())?;
            }
            result => result.during(Stage::Cgroup, path.display())?,
        }
        let cgroup = Self { path, name: name.to_owned() };
        if let Err(error) = cgroup.limit(limits) {
            let _ = fs::remove_dir(&cgroup.path);
            return Err(error);
        }
        Ok(cgroup)
    }

    fn limit(&self, limits: Limits) -> Result<(), ContainerError> {
        if let Some(bytes) = limits.memory {
            write(&self.path.join("memory.max"), &bytes.to_string())?;
            // Out of memory ends the container as a whole, not the one process that asked last.
            write(&self.path.join("memory.oom.group"), "1")?;
            let swap = self.path.join("memory.swap.max");
            // A kernel without swap has no such file.
            if swap.exists() {
                write(&swap, "0")?;
            }
        }
        if let Some((quota, period)) = limits.cpu {
            write(&self.path.join("cpu.max"), &format!("{quota} {period}"))?;
        }
        if let Some(pids) = limits.pids {
            write(&self.path.join("pids.max"), &pids.to_string())?;
        }
        Ok(())
    }

    /// The directory, for `CLONE_INTO_CGROUP`.
    pub fn open(&self) -> Result<File, ContainerError> {
        File::open(&self.path).during(Stage::Cgroup, self.path.display())
    }

    /// Whether the kernel ended processes for lack of memory (`oom_kill` of `memory.events`).
    pub fn oom_killed(&self) -> bool {
        let events = read(&self.path.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.and_then(|kills| kills.trim().parse::<u64>().ok()).is_some_and(|kills| kills > 0)
    }

    /// SIGKILL to every process in it, also to those that are being made.
    pub fn kill(&self) -> Result<(), ContainerError> {
        write(&self.path.join("cgroup.kill"), "1")
    }

    /// Ends what still runs, waits until it has ended, removes the cgroup.
    pub fn remove(&self) -> Result<(), ContainerError> {
        let subject = self.path.display();
        if !self.path.exists() {
            return Ok(());
        }
        self.kill()?;
        let mut events = File::open(self.path.join("cgroup.events")).during(Stage::Cgroup, &subject)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut text = String::new();
            io::Seek::rewind(&mut events).during(Stage::Cgroup, &subject)?;
            events.read_to_string(&mut text).during(Stage::Cgroup, &subject)?;
            if text.lines().any(|line| line == "populated 0") {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ContainerError::StillRunning { name: self.name.clone() });
            }
            // The file signals each change; the bound also covers a change between reading and polling.
            let timeout = Timespec::try_from(left.min(Duration::from_millis(100))).ok();
            let mut fds = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)];
            let _ = poll(&mut fds, timeout.as_ref());
        }
        fs::remove_dir(&self.path).during(Stage::Cgroup, subject)
    }
}

fn write(path: &Path, text: &str) -> Result<(), ContainerError> {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).during(Stage::Cgroup, path.display())
}

fn read(path: &Path) -> Result<String, ContainerError> {
    fs::read_to_string(path).during(Stage::Cgroup, path.display())
}
