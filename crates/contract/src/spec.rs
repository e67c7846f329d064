//! The OCI runtime specification of a container, from the contract and from the values that it leaves to the host (OCI
//! runtime-spec 1.2).
//!
//! The agent's container runtime refuses any field that it does not honour, so what is set here is what happens.
//! Network namespace: shared with the VM, which is the pod's sandbox.

mod host;
mod mounts;
mod seccomp;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, PosixRlimitBuilder, PosixRlimitType,
    Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::error::{ContractError, cut};
use crate::model::{Container, Contract};

pub use seccomp::ALLOWED_SYSCALLS;

/// Paths that read as empty: they tell about, or reach into, the guest kernel.
pub const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that cannot be written.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Period over which CPU time is shared out, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Open files of a process: soft and hard limit.
const NOFILE: (u64, u64) = (1024, 65_536);

/// Where the guest keeps the pod's volumes: a directory of the volume's name. It is the source of a volume's `bind` mount, followed
/// by the mount's `sub_path`, which must be resolved without following symbolic links: containers write to scratch volumes.
pub const VOLUMES: &str = "/run/belljar/volumes";

/// What the host gives when a container starts: only what the contract leaves to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostValues {
    /// Values of environment variables.
    pub env: BTreeMap<String, String>,
    /// The pod's host name.
    pub hostname: Option<String>,
}

/// Builds the specification of container `name` from the contract and the host's values, each of which is checked: the contract
/// must leave it to the host, it must be of the type that the contract says, and none may be missing, except those that
/// Kubernetes makes for Services.
///
/// # Errors
/// [`ContractError`]: no such container; a value of the host that is missing, unknown or of another type; or a contract out of
/// bounds (it is normally checked already).
pub fn oci_spec(contract: &Contract, name: &str, host: &HostValues) -> Result<Spec, ContractError> {
    contract.check()?;
    let Some(container) = contract.containers.get(name) else {
        let known = contract.containers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(ContractError::NoContainer { name: cut(name), known });
    };
    let (env, hostname) = host::apply(contract, name, container, host)?;
    build(contract, name, container, &env, hostname).map_err(|error| ContractError::Spec { message: error.to_string() })
}

fn build(
    contract: &Contract,
    name: &str,
    container: &Container,
    env: &BTreeMap<&str, &str>,
    hostname: &str,
) -> Result<Spec, OciSpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Pid, Uts};
    let namespaces = [Pid, Mount, Ipc, Uts, Cgroup]
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
        .collect::<Result<Vec<_>, _>>()?;
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(PathBuf::from(format!("/{name}")))
        .resources(resources(container)?)
        .seccomp(seccomp::profile(&container.capabilities)?)
        .masked_paths(MASKED_PATHS.map(str::to_owned).to_vec())
        .readonly_paths(READONLY_PATHS.map(str::to_owned).to_vec())
        .build()?;
    SpecBuilder::default()
        .version("1.2.0")
        .root(RootBuilder::default().path("rootfs").readonly(container.read_only_root).build()?)
        .hostname(hostname)
        .mounts(mounts::all(contract, container)?)
        .process(process(container, env)?)
        .linux(linux)
        .build()
}

fn process(container: &Container, env: &BTreeMap<&str, &str>) -> Result<Process, OciSpecError> {
    let capabilities = container
        .capabilities
        .iter()
        .map(|name| {
            let short = name.strip_prefix("CAP_").unwrap_or(name);
            Capability::from_str(short).map_err(|error| OciSpecError::Other(format!("{name}: {error}")))
        })
        .collect::<Result<HashSet<_>, _>>()?;
    // No inheritable and no ambient ones: a process of another user than root holds none, as with Docker.
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(capabilities.clone())
        .effective(capabilities.clone())
        .permitted(capabilities)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?;
    let mut user = UserBuilder::default()
        .uid(container.user.uid)
        .gid(container.user.gid)
        .umask(0o022_u32)
        .additional_gids(container.user.additional_gids.clone());
    if let Some(name) = &container.user.name {
        user = user.username(name.clone());
    }
    let limit =
        |kind, (soft, hard)| PosixRlimitBuilder::default().typ(kind).soft::<u64>(soft).hard::<u64>(hard).build();
    let rlimits = vec![limit(PosixRlimitType::RlimitNofile, NOFILE)?, limit(PosixRlimitType::RlimitCore, (0, 0))?];
    ProcessBuilder::default()
        .terminal(container.terminal)
        .user(user.build()?)
        .args(container.args.clone())
        .env(env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())
        .cwd(PathBuf::from(&container.cwd))
        .capabilities(capabilities)
        .rlimits(rlimits)
        .no_new_privileges(container.no_new_privileges)
        .build()
}

fn resources(container: &Container) -> Result<LinuxResources, OciSpecError> {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let pids = LinuxPidsBuilder::default().limit(signed(container.resources.pids)).build()?;
    let mut resources = LinuxResourcesBuilder::default().pids(pids);
    if let Some(bytes) = container.resources.memory_bytes {
        // `swap` counts memory and swap together, so this means no swap.
        let memory = LinuxMemoryBuilder::default().limit(signed(bytes)).swap(signed(bytes)).build()?;
        resources = resources.memory(memory);
    }
    if let Some(millis) = container.resources.cpu_millis {
        let quota = signed(millis.saturating_mul(CPU_PERIOD) / 1000);
        resources = resources.cpu(LinuxCpuBuilder::default().quota(quota).period(CPU_PERIOD).build()?);
    }
    let mut resources = resources.build()?;
    // The library's default allows no device; rights to devices come from the absence of their nodes and CAP_MKNOD.
    resources.set_devices(None);
    Ok(resources)
}
