//! A running process as the kernel shows it below `/proc`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Longest command line that is read, in bytes; the kernel allows about 2 MiB.
const MAX_COMMAND_LINE: usize = 4 * 1024 * 1024;

/// A process, known by its number and its start time, so that a number that is used again is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pid: u32,
    start_time: u64,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn find(pid: u32) -> std::io::Result<Self> {
        Ok(Self { pid, start_time: start_time(pid)? })
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&self) -> bool {
        start_time(self.pid).is_ok_and(|time| time == self.start_time)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its arguments, the program's name first.
    pub(crate) fn arguments(&self) -> std::io::Result<Vec<OsString>> {
        let bytes = std::fs::read(self.entry("cmdline"))?;
        if bytes.len() > MAX_COMMAND_LINE {
            return Err(std::io::Error::other("command line of more than 4 MiB"));
        }
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        Ok(bytes.split(|&byte| byte == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect())
    }

    /// The program that it executes.
    pub(crate) fn program(&self) -> std::io::Result<PathBuf> {
        std::fs::read_link(self.entry("exe"))
    }

    /// A file under the name that the process has for it: in its root, relative names in its working directory.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        match path.strip_prefix('/') {
            Some(below_root) => self.entry("root").join(below_root),
            None => self.entry("cwd").join(path),
        }
    }

    fn entry(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }
}

/// Start time in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)). Zombies have none for us.
fn start_time(pid: u32) -> std::io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let malformed = || std::io::Error::other("unreadable /proc/PID/stat");
    // The second field is the program's name in parentheses, which may itself hold parentheses and spaces.
    let (_, fields) = stat.rsplit_once(") ").ok_or_else(malformed)?;
    let mut fields = fields.split(' ');
    if matches!(fields.next(), Some("Z" | "X") | None) {
        return Err(std::io::Error::other("the process has ended"));
    }
    fields.nth(18).and_then(|field| field.parse().ok()).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_seen_as_it_is() {
        let process = Process::find(std::process::id()).unwrap();
        assert!(process.is_alive());
        assert_eq!(process.arguments().unwrap(), std::env::args_os().collect::<Vec<_>>());
        assert_eq!(process.program().unwrap(), std::env::current_exe().unwrap());
        assert!(process.file("Cargo.toml").is_file());
        assert!(process.file("/proc/self/stat").is_file());
        let other = Process { start_time: process.start_time + 1, ..process };
        assert!(!other.is_alive());
    }
}
