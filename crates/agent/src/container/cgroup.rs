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

/// What the processes of a container use: bytes, and microseconds of CPU time. What the kernel does not count is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time.
    pub cpu_us: u64,
    /// CPU time in user mode.
    pub cpu_user_us: u64,
    /// CPU time in the kernel.
    pub cpu_system_us: u64,
    /// Memory, with what the kernel caches for it.
    pub memory: u64,
    /// Memory without file pages that were not used lately, as kubelet counts it.
    pub working_set: u64,
    /// Limit of memory; 0: none of its own.
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Processes that were killed for lack of memory.
    pub oom_kills: u64,
}

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
        let mut wanted = String::new();
        for (controller, needed) in needed {
            // Memory and processes are counted also where nothing limits them; CPU time is counted without its controller.
            match available.split_ascii_whitespace().any(|found| found == controller) {
                true if controller == "cpu" && !needed => {}
                true => wanted.push_str(&format!("+{controller} ")),
                false if needed => {
                    return Err(ContainerError::Controller { root: root.display().to_string(), controller });
                }
                false => {}
            }
        }
        let control = root.join("cgroup.subtree_control");
        let enabled = read(&control)?;
        let missing =
            |word: &&str| !enabled.split_ascii_whitespace().any(|found| word.strip_prefix('+') == Some(found));
        let wanted: Vec<&str> = wanted.split_ascii_whitespace().filter(missing).collect();
        if !wanted.is_empty() {
            write(&control, &wanted.join(" "))?;
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
        // Out of memory, its own or the VM's, ends the container as a whole, not the one process that asked last.
        let together = self.path.join("memory.oom.group");
        if limits.memory.is_some() || together.exists() {
            write(&together, "1")?;
        }
        if let Some(bytes) = limits.memory {
            write(&self.path.join("memory.max"), &bytes.to_string())?;
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

    /// Whether the kernel ended processes for lack of memory.
    pub fn oom_killed(&self) -> bool {
        self.value("memory.events", "oom_kill") > 0
    }

    /// What its processes use now.
    pub fn usage(&self) -> Usage {
        let memory = self.value("memory.current", "");
        // Read once: the three are of one moment, and the parts are not more than the whole.
        let cpu = read(&self.path.join("cpu.stat")).unwrap_or_default();
        Usage {
            cpu_us: number(&cpu, "usage_usec"),
            cpu_user_us: number(&cpu, "user_usec"),
            cpu_system_us: number(&cpu, "system_usec"),
            memory,
            working_set: memory.saturating_sub(self.value("memory.stat", "inactive_file")),
            memory_limit: self.value("memory.max", ""),
            pids: self.value("pids.current", ""),
            oom_kills: self.value("memory.events", "oom_kill"),
        }
    }

    /// The number behind `key` in a file of the cgroup.
    fn value(&self, file: &str, key: &str) -> u64 {
        number(&read(&self.path.join(file)).unwrap_or_default(), key)
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

/// The number behind `key` in a flat keyed file, or the only one with an empty key (Documentation/admin-guide/cgroup-v2.rst,
/// "Interface Files"). 0 where there is none, as for `max`.
fn number(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| match line.split_once(' ') {
        Some((found, value)) => (found == key).then_some(value),
        None => key.is_empty().then_some(line),
    });
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn read(path: &Path) -> Result<String, ContainerError> {
    fs::read_to_string(path).during(Stage::Cgroup, path.display())
}
