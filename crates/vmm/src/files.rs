//! Small files: caches that may be lost, and the start time of a process.

use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::Serialize;

/// Writes `value` as JSON by rename, readable by its owner alone. A cache that cannot be written costs time, nothing else.
pub(crate) fn write_cache(path: &Path, value: &impl Serialize) {
    if let Err(error) = write_json(path, value) {
        tracing::debug!(path = %path.display(), %error, "cache not written");
    }
}

/// Writes `value` as JSON by rename, readable by its owner alone; makes the folder.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    use std::io::Write as _;
    if let Some(dir) = path.parent() {
        make_private_dir(dir)?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    std::fs::rename(&new, path)
}

/// Makes a folder and its parents, 0700 where new.
pub(crate) fn make_private_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Start time of a process in clock ticks since boot (`proc_pid_stat(5)`, field 22): with the pid, it names a process for
/// good. `None` when there is none, or only a zombie.
pub fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name (field 2) stands in parentheses and may hold anything, so count from the last one.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_of_this_process_is_stable_and_of_pid_0_is_none() {
        let ours = process_start(std::process::id());
        assert!(ours.is_some_and(|ticks| ticks > 0));
        assert_eq!(ours, process_start(std::process::id()));
        assert_eq!(process_start(0), None);
    }
}
