//! The machine that this process runs on.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::{Access, Cpuid, Failure, Machine};

/// More of a file or of a program's output is not read.
const MAX_BYTES: u64 = 256 << 10;
/// A program that takes longer is ended.
const MAX_TIME: Duration = Duration::from_secs(5);

/// The machine that this process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Machine for Host {
    fn read(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        // Without O_NONBLOCK, a fifo in place of a file would stop us for ever.
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).ok()?;
        let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).ok()?;
        file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    fn exists(&self, path: &str) -> bool {
        Path::new(path).exists()
    }

    fn open(&self, path: &str) -> Access {
        access(OpenOptions::new().read(true).write(true).open(path))
    }

    fn connect(&self, path: &str) -> Access {
        access(UnixStream::connect(path))
    }

    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> Cpuid {
        cpuid(leaf, sub_leaf)
    }

    fn run(&self, program: &OsStr, arguments: &[&str]) -> Result<String, Failure> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| match e.kind() {
                ErrorKind::NotFound => Failure::NotFound,
                _ => Failure::Failed(format!("does not start: {e}")),
            })?;
        let stdout = child.stdout.take();
        let (sender, output) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is still worth having; nobody listens any more after the deadline.
            let _ = stdout.map(|pipe| pipe.take(MAX_BYTES).read_to_end(&mut bytes));
            let _ = sender.send(bytes);
        });
        let deadline = Instant::now() + MAX_TIME;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(Failure::Failed(format!("gave no answer in {} s", MAX_TIME.as_secs())));
                }
                Err(e) => return Err(Failure::Failed(format!("cannot be waited for: {e}"))),
            }
        };
        if !status.success() {
            return Err(Failure::Failed(format!("ended with {status}")));
        }
        // A grandchild may hold the pipe open.
        let left = deadline.saturating_duration_since(Instant::now());
        let bytes = output.recv_timeout(left).map_err(|_| Failure::Failed("its output does not end".into()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn free_bytes(&self, path: &Path) -> Option<u64> {
        let there = path.ancestors().find(|p| p.exists())?;
        let file_system = rustix::fs::statvfs(there).ok()?;
        file_system.f_bavail.checked_mul(file_system.f_frsize)
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }
}

fn access<T>(result: std::io::Result<T>) -> Access {
    match result {
        Ok(_) => Access::Opens,
        Err(e) => match e.kind() {
            ErrorKind::NotFound => Access::Missing,
            ErrorKind::PermissionDenied => Access::Denied,
            _ => Access::Fails(e.to_string()),
        },
    }
}

#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32, sub_leaf: u32) -> Cpuid {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // Intel answers a leaf beyond the last with the data of the last: such a leaf does not exist.
    if leaf > __cpuid(leaf & 0x8000_0000).eax && !(0x4000_0000..0x4000_0100).contains(&leaf) {
        return Cpuid::default();
    }
    let r = __cpuid_count(leaf, sub_leaf);
    Cpuid { eax: r.eax, ebx: r.ebx, ecx: r.ecx, edx: r.edx }
}

#[cfg(not(target_arch = "x86_64"))]
fn cpuid(_leaf: u32, _sub_leaf: u32) -> Cpuid {
    Cpuid::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_bounded_and_never_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("big"), vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(Host.read(&path("big")).unwrap().len(), 256 << 10);
        std::fs::write(path("line"), "Y\n").unwrap();
        assert_eq!(Host.read(&path("line")).unwrap(), "Y");
        assert_eq!(Host.read(&path("absent")), None);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(Host.read(&path("fifo")).as_deref(), Some(""));
    }

    #[test]
    fn programs() {
        assert_eq!(Host.run(OsStr::new("echo"), &["hello"]).unwrap(), "hello\n");
        assert_eq!(Host.run(OsStr::new("/no/such/program"), &[]), Err(Failure::NotFound));
        assert!(matches!(Host.run(OsStr::new("false"), &[]), Err(Failure::Failed(_))));
        let started = Instant::now();
        assert_eq!(Host.run(OsStr::new("sleep"), &["60"]), Err(Failure::Failed("gave no answer in 5 s".into())));
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn sockets_and_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(Host.connect(path.to_str().unwrap()), Access::Missing);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(Host.connect(path.to_str().unwrap()), Access::Opens);
        drop(listener);
        assert!(matches!(Host.connect(path.to_str().unwrap()), Access::Fails(_)));
        assert!(Host.free_bytes(&dir.path().join("not/yet/there")).is_some());
    }
}
