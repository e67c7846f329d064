//! Does KVM really run a guest here?
//!
//! `/dev/kvm` may open and still run no unmodified kernel (nested or para-virtual hosts). So the guest image's kernel is
//! booted once with an init of 130 bytes that says a word on the console and powers off; the answer is remembered for
//! this host kernel, QEMU and CPU model.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::channels::{Channels, memory_file};
use crate::console::Console;
use crate::machine::{Accel, GuestFiles, Machine, Tee};
use crate::qemu::Qemu;
use crate::supervisor::{self, Exit};
use crate::tiny_guest;

/// Longest wait for the tiny guest.
pub const TIME_LIMIT: Duration = Duration::from_secs(6);

const CACHE_FILE: &str = "kvm.json";

/// Whether KVM runs guests here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kvm {
    /// It does.
    pub works: bool,
    /// How that is known, or why not, in one line.
    pub reason: String,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Host {
    kernel: String,
    cpu: String,
    qemu: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cached {
    host: Host,
    works: bool,
    reason: String,
}

impl Kvm {
    /// The accelerator to use.
    pub fn accel(&self) -> Accel {
        match self.works {
            true => Accel::Kvm,
            false => Accel::Tcg,
        }
    }
}

/// Finds out once, by a guest that boots with `guest`'s firmware and kernel (those of the software TEE), and remembers
/// the answer in `cache_dir`. A `/dev/kvm` that does not open is asked again each time. Takes at most [`TIME_LIMIT`] and
/// the time to end QEMU.
pub async fn probe(qemu: &Qemu, guest: &GuestFiles, cache_dir: &Path) -> Kvm {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Kvm { works: false, reason: format!("/dev/kvm does not open: {error}") };
    }
    let host = Host::this(qemu);
    let file = cache_dir.join(CACHE_FILE);
    let cached = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
    if let Some(Cached { works, reason, .. }) = cached.filter(|cached| cached.host == host) {
        return Kvm { works, reason };
    }
    match boot(qemu, guest).await {
        Ok(Kvm { works, reason }) => {
            crate::files::write_cache(&file, &Cached { host, works, reason: reason.clone() });
            Kvm { works, reason }
        }
        Err(error) => Kvm { works: false, reason: format!("the test guest could not be started: {error}") },
    }
}

async fn boot(qemu: &Qemu, guest: &GuestFiles) -> std::io::Result<Kvm> {
    let initrd = memory_file("belljar-kvm-probe", &tiny_guest::initrd())?;
    let machine = Machine {
        id: format!("kvm-probe-{}", std::process::id()),
        tee: Tee::Software { host_data: [0; 32] },
        accel: Accel::Kvm,
        vcpus: 1,
        memory_mib: 256,
        guest: GuestFiles {
            initrd: format!("/proc/self/fd/{}", initrd.as_raw_fd()).into(),
            cmdline: "console=hvc0 8250.nr_uarts=0 cryptomgr.notests quiet panic=-1".into(),
            ..guest.clone()
        },
        disks: Vec::new(),
        nic: None,
    };
    let (host_ends, guest_ends) = Channels::make(&machine)?;
    let arguments = crate::arguments(&machine, &guest_ends.fds());
    let inherited: Vec<OwnedFd> = guest_ends.into_fds().into_iter().chain([initrd]).collect();
    let spawned = crate::spawn::spawn(&qemu.path, arguments, inherited, Vec::new()).await?;
    let console = Console::default();
    let pidfd = spawned.pidfd.clone();
    let mut exit = supervisor::watch(spawned, host_ends.qmp, host_ends.console, console.clone(), None, Arc::default())?;
    let ended = tokio::time::timeout(TIME_LIMIT, exit.wait_for(Option::is_some)).await.is_ok();
    if !ended {
        let _ = rustix::process::pidfd_send_signal(&*pidfd, rustix::process::Signal::KILL);
        let _ = exit.wait_for(Option::is_some).await;
    }
    let spoke = console.last_lines().0.iter().any(|line| line.contains(tiny_guest::WORD));
    let last = exit.borrow().clone();
    Ok(match (spoke, last) {
        (true, _) => Kvm { works: true, reason: "a test guest ran".into() },
        (false, Some(Exit::QemuFailed { status, stderr })) if ended => {
            Kvm { works: false, reason: format!("a test guest did not run: QEMU ended ({status}): {stderr}") }
        }
        (false, _) if !ended => {
            Kvm { works: false, reason: format!("a test guest did not run within {} s", TIME_LIMIT.as_secs()) }
        }
        (false, _) => Kvm { works: false, reason: "a test guest crashed before its first program ran".into() },
    })
}

impl Host {
    fn this(qemu: &Qemu) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpu: model.map_or("unknown", |(_, model)| model).to_owned(),
            qemu: format!("{} {}", qemu.path.display(), qemu.version),
        }
    }
}

/// Forgets the answer, so that the next [`probe`] finds out again.
pub fn forget(cache_dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(cache_dir.join(CACHE_FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
