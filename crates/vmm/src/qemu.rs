//! Finds QEMU and knows its version without starting it each time.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::machine::TeeKind;

/// Oldest version that has what [`crate::arguments()`] uses and gets security fixes.
pub const OLDEST: Version = Version { major: 8, minor: 2 };
/// First version with the object `sev-snp-guest`.
pub const OLDEST_SNP: Version = Version { major: 9, minor: 1 };
/// First version with the object `tdx-guest`.
pub const OLDEST_TDX: Version = Version { major: 10, minor: 1 };
/// Names another QEMU binary than the one in `PATH`.
pub const ENV: &str = "BELLJAR_QEMU";

const PROGRAM: &str = "qemu-system-x86_64";
const CACHE_FILE: &str = "qemu.json";
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// A QEMU binary of a version that is new enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// The binary.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

/// Major and minor version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

/// Why there is no usable QEMU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QemuError {
    /// Not installed.
    #[error(
        "QEMU is missing ({looked_for}); install it: apt-get install qemu-system-x86/bookworm-backports, or set {ENV}"
    )]
    QemuMissing {
        /// What was looked for.
        looked_for: String,
    },
    /// Older than needed.
    #[error(
        "QEMU {found} is too old, {needed} or newer is needed; install it: apt-get install qemu-system-x86/bookworm-backports, or set {ENV}"
    )]
    QemuTooOld {
        /// The version of the binary.
        found: Version,
        /// The oldest that will do.
        needed: Version,
    },
    /// It does not tell its version.
    #[error("{path} does not say that it is QEMU ({found}); set {ENV} to a qemu-system-x86_64")]
    NotQemu {
        /// The binary.
        path: PathBuf,
        /// What happened instead.
        found: String,
    },
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Cached {
    path: PathBuf,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    version: Version,
}

impl Qemu {
    /// Finds the binary that [`ENV`] names, else the one in `PATH`; its version comes from a small file in `cache_dir`
    /// as long as path, inode, size and modification time are those of the binary that was asked.
    pub fn find(cache_dir: &Path) -> Result<Self, QemuError> {
        let path = match std::env::var_os(ENV) {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => in_path(std::env::var_os("PATH").as_deref())?,
        };
        Self::at(&path, cache_dir)
    }

    /// The QEMU at `path`.
    pub fn at(path: &Path, cache_dir: &Path) -> Result<Self, QemuError> {
        let missing = || QemuError::QemuMissing { looked_for: path.display().to_string() };
        let meta = std::fs::metadata(path).map_err(|_| missing())?;
        if !meta.is_file() {
            return Err(missing());
        }
        let cached = |version| Cached {
            path: path.to_owned(),
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            version,
        };
        let cache = cache_dir.join(CACHE_FILE);
        let known = std::fs::read(&cache).ok().and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
        let version = match known {
            Some(known) if known == cached(known.version) => known.version,
            _ => {
                let version = ask(path)?;
                crate::files::write_cache(&cache, &cached(version));
                version
            }
        };
        Self { path: path.to_owned(), version }.check(OLDEST)
    }

    /// Whether it is new enough for the TEE.
    pub fn check_tee(self, tee: TeeKind) -> Result<Self, QemuError> {
        self.check(match tee {
            TeeKind::Software => OLDEST,
            TeeKind::Snp => OLDEST_SNP,
            TeeKind::Tdx => OLDEST_TDX,
        })
    }

    fn check(self, needed: Version) -> Result<Self, QemuError> {
        match self.version >= needed {
            true => Ok(self),
            false => Err(QemuError::QemuTooOld { found: self.version, needed }),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn in_path(path: Option<&OsStr>) -> Result<PathBuf, QemuError> {
    path.into_iter()
        .flat_map(std::env::split_paths)
        .map(|dir| dir.join(PROGRAM))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
        .ok_or_else(|| QemuError::QemuMissing { looked_for: format!("no {PROGRAM} in PATH") })
}

/// Runs `path --version`. The first line is `QEMU emulator version 10.0.2 (Debian …)`.
fn ask(path: &Path) -> Result<Version, QemuError> {
    let wrong = |found: String| QemuError::NotQemu { path: path.to_owned(), found };
    let mut child = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| wrong(e.to_string()))?;
    let deadline = Instant::now() + TIME_LIMIT;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(wrong(format!("no answer to --version within {} s", TIME_LIMIT.as_secs())));
            }
            Err(e) => return Err(wrong(e.to_string())),
        }
    }
    let mut said = Vec::new();
    if let Some(out) = child.stdout.take() {
        // Nobody writes any more, so this cannot block on more than a grandchild; 4 KiB are more than the answer.
        let _ = std::io::Read::read_to_end(&mut std::io::Read::take(out, 4096), &mut said);
    }
    let first = said.split(|b| *b == b'\n').next().unwrap_or_default();
    parse(&String::from_utf8_lossy(first))
        .ok_or_else(|| wrong(format!("--version says {:?}", crate::console::printable(first, 80))))
}

fn parse(line: &str) -> Option<Version> {
    let mut numbers = line.strip_prefix("QEMU emulator version ")?.split(|c: char| !c.is_ascii_digit());
    Some(Version { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let debian = parse("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)");
        assert_eq!(debian, Some(Version { major: 10, minor: 0 }));
        assert_eq!(parse("QEMU emulator version 8.2.0"), Some(OLDEST));
        assert!(parse("QEMU emulator version 7.2.9").unwrap() < OLDEST);
        assert_eq!(parse("QEMU emulator version ten.0"), None);
        assert_eq!(parse("busybox 10.0.2"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn path_is_searched_in_order_for_an_executable() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::env::join_paths([dir.path().join("none"), dir.path().to_owned()]).unwrap();
        let missing = QemuError::QemuMissing { looked_for: "no qemu-system-x86_64 in PATH".into() };
        assert_eq!(in_path(Some(&path)), Err(missing.clone()));
        let file = dir.path().join(PROGRAM);
        std::fs::write(&file, "").unwrap();
        rustix::fs::chmod(&file, rustix::fs::Mode::RUSR).unwrap();
        rustix::fs::chmod(&file, rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(in_path(Some(&path)), Ok(file));
        assert_eq!(in_path(None), Err(missing));
    }
}
