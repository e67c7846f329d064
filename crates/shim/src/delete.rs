//! `delete`: removes what is left of a container, also when its shim is dead. containerd calls it when a shim's connection is lost.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use belljar_vmm::cgroup::Cgroup;
use belljar_vmm::{Pods, network, process_start};
use containerd_shim_protos::api::DeleteResponse;
use protobuf::Message as _;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::address::{SOCKET_DIR, ShimSocket};
use crate::annotations::Role;
use crate::bundle::BundleConfig;
use crate::config::Config;
use crate::events::timestamp;
use crate::flags::Flags;
use crate::start::{ADDRESS_FILE, PID_FILE};

/// What a killed process ends with.
const KILLED: u32 = 137;
/// How long a killed shim, and its QEMU, may take to go.
const GONE: Duration = Duration::from_secs(2);

/// Removes what is left, and returns the bytes of the answer. What cannot be removed is told on stderr; the answer comes anyway, since
/// containerd keeps a container for ever that cannot be deleted.
pub fn delete(flags: &Flags, config: &Config) -> Vec<u8> {
    let bundle = match flags.bundle.as_str() {
        "" => PathBuf::from("."),
        bundle => PathBuf::from(bundle),
    };
    let described = BundleConfig::read(&bundle).ok();
    let role = described.as_ref().and_then(|described| Role::of(&described.annotations).ok());
    // A container's shim is its pod's, and goes with that.
    let pid = match role {
        Some(Role::Container { .. }) => None,
        _ => end_shim(&bundle, &flags.id),
    };
    if !matches!(role, Some(Role::Container { .. })) {
        remove_rest(&bundle, flags, config);
        if let Some(described) = described {
            leave_host(&described);
        }
    }
    let mut answer = DeleteResponse::new();
    answer.pid = pid.unwrap_or_default();
    answer.exit_status = KILLED;
    answer.exited_at = Some(timestamp(SystemTime::now())).into();
    answer.write_to_bytes().unwrap_or_default()
}

fn remove_rest(bundle: &Path, flags: &Flags, config: &Config) {
    if config.state.exists() {
        // Every folder whose owner is dead, so this pod's; a QEMU that is left is killed.
        match Pods::at(&config.state).and_then(|pods| pods.sweep()) {
            Ok(_) => {}
            Err(error) => eprintln!("{error}"),
        }
    }
    let address = std::fs::read_to_string(bundle.join(ADDRESS_FILE)).ok();
    let noted = address.and_then(|address| ShimSocket::parse(address.trim()));
    // The bundle may be half gone.
    let usual = ShimSocket::of(Path::new(SOCKET_DIR), &flags.address, &flags.namespace, &flags.id);
    for socket in noted.into_iter().chain([usual]) {
        if socket.path().exists() && !socket.answers() {
            let _ = std::fs::remove_file(socket.path());
        }
    }
}

/// What the pod had of the node: the joint in its network namespace, and its cgroup.
fn leave_host(described: &BundleConfig) {
    if let Some(namespace) = described.network_namespace()
        && let Err(error) = network::detach(namespace)
    {
        eprintln!("{error}");
    }
    // Taken over, to be removed. It is gone already, or the pod's whole cgroup is.
    if let Ok(cgroup) = Cgroup::create(&described.linux.cgroups_path)
        && let Err(error) = cgroup.remove()
    {
        eprintln!("{error}");
    }
}

/// Kills the shim of this bundle if it lives still. Its QEMU dies with it.
fn end_shim(bundle: &Path, id: &str) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(bundle.join(PID_FILE)).ok()?.trim().parse().ok()?;
    let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty()).ok()?;
    // The number may have been used anew: the pidfd holds it, so what is looked at is what is killed.
    let began = process_start(pid)?;
    if !is_shim(pid, id) {
        return Some(pid);
    }
    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    let deadline = std::time::Instant::now() + GONE;
    while process_start(pid) == Some(began) && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(pid)
}

/// Whether the process is the shim of this sandbox, by its arguments.
fn is_shim(pid: u32, id: &str) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.starts_with(b"containerd-shim-belljar") && {
        let words: Vec<_> = words.collect();
        words.windows(2).any(|pair| pair == [b"-id".as_slice(), id.as_bytes()])
    }
}
