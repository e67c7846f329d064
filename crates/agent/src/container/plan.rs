//! From the OCI specification to what the runtime does. A field that is set and not named here is refused.

use std::collections::HashSet;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use belljar_contract::model::CAPABILITIES;
use oci_spec::runtime::{Capability, LinuxNamespaceType, LinuxResources, Mount, Process, Spec};
use rustix::mount::MountAttrFlags;
use serde_json::Value;

use super::error::ContainerError;
use super::seccomp::Filters;

/// Every field that is honoured; `[]` stands for each element of a list.
const HONOURED: [&str; 39] = [
    "ociVersion",
    "hostname",
    "root.path",
    "root.readonly",
    "mounts[].destination",
    "mounts[].type",
    "mounts[].source",
    "mounts[].options[]",
    "process.terminal",
    "process.user.uid",
    "process.user.gid",
    "process.user.umask",
    "process.user.additionalGids[]",
    "process.user.username",
    "process.args[]",
    "process.env[]",
    "process.cwd",
    "process.capabilities.bounding[]",
    "process.capabilities.effective[]",
    "process.capabilities.inheritable[]",
    "process.capabilities.permitted[]",
    "process.capabilities.ambient[]",
    "process.rlimits[].type",
    "process.rlimits[].hard",
    "process.rlimits[].soft",
    "process.noNewPrivileges",
    "linux.namespaces[].type",
    "linux.cgroupsPath",
    "linux.maskedPaths[]",
    "linux.readonlyPaths[]",
    "linux.resources.memory.limit",
    "linux.resources.memory.swap",
    "linux.resources.cpu.quota",
    "linux.resources.cpu.period",
    "linux.resources.pids.limit",
    "linux.seccomp.defaultAction",
    "linux.seccomp.defaultErrnoRet",
    "linux.seccomp.architectures[]",
    "linux.seccomp.syscalls[]",
];

/// All that the runtime does for one container.
#[derive(Debug)]
pub(super) struct Plan {
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: PathBuf,
    pub user: belljar_contract::User,
    pub umask: u32,
    pub terminal: bool,
    pub no_new_privileges: bool,
    pub capabilities: Sets,
    pub rlimits: Vec<Rlimit>,
    pub hostname: String,
    pub read_only_root: bool,
    pub mounts: Vec<PlannedMount>,
    pub masked: Vec<CString>,
    pub read_only: Vec<CString>,
    pub limits: Limits,
    pub filters: Filters,
}

/// Capability sets as bit masks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

#[derive(Debug)]
pub(super) struct Rlimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// Limits of the cgroup; what is `None` is not limited.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    pub memory: Option<u64>,
    pub cpu: Option<(u64, u64)>,
    pub pids: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Proc,
    Sysfs,
    Tmpfs,
    Devpts,
    Mqueue,
    Cgroup,
    /// What the agent gives for this destination; the source is only a name.
    Bind,
}

#[derive(Debug)]
pub(super) struct PlannedMount {
    pub destination: PathBuf,
    pub kind: Kind,
    pub flags: MountAttrFlags,
    /// Keys and values for the file system; a key without value is a flag.
    pub data: Vec<(String, Option<String>)>,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Sysfs => "sysfs",
            Self::Tmpfs => "tmpfs",
            Self::Devpts => "devpts",
            Self::Mqueue => "mqueue",
            Self::Cgroup => "cgroup2",
            Self::Bind => "bind",
        }
    }

    /// Whether it shows the namespaces of the process that mounts it, so that only the container's own can.
    pub fn in_child(self) -> bool {
        matches!(self, Self::Proc | Self::Cgroup)
    }
}

impl Plan {
    pub fn new(name: &str, spec: &Spec) -> Result<Self, ContainerError> {
        let json = serde_json::to_value(spec).map_err(|error| malformed("", "a specification", &error))?;
        honoured("", "", &json)?;
        let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
        let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
        if root.path() != Path::new("rootfs") {
            return Err(malformed("root.path", "rootfs", &root.path().display()));
        }
        let cgroup = linux.cgroups_path().clone().unwrap_or_default();
        if cgroup != Path::new(&format!("/{name}")) {
            return Err(malformed("linux.cgroupsPath", "a slash and the container's name", &cgroup.display()));
        }
        namespaces(linux.namespaces().iter().flatten().map(|namespace| namespace.typ()))?;
        let mounts = spec.mounts().iter().flatten().enumerate();
        let mounts = mounts.map(|(index, mount)| planned(index, mount)).collect::<Result<Vec<_>, _>>()?;
        if !mounts.iter().any(|mount| mount.destination == Path::new("/dev") && mount.kind == Kind::Tmpfs) {
            return Err(malformed("mounts", "a tmpfs at /dev among them", &"without one"));
        }
        let seccomp = linux.seccomp().as_ref().ok_or_else(|| missing("linux.seccomp"))?;
        let (user, umask) = user(process)?;
        Ok(Self {
            args: strings("process.args", process.args().as_deref().unwrap_or_default())?,
            env: strings("process.env", process.env().as_deref().unwrap_or_default())?,
            cwd: process.cwd().clone(),
            user,
            umask,
            terminal: process.terminal().unwrap_or(false),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            capabilities: sets(process)?,
            rlimits: rlimits(process)?,
            hostname: spec.hostname().clone().ok_or_else(|| missing("hostname"))?,
            read_only_root: root.readonly().unwrap_or(false),
            mounts,
            masked: strings("linux.maskedPaths", linux.masked_paths().as_deref().unwrap_or_default())?,
            read_only: strings("linux.readonlyPaths", linux.readonly_paths().as_deref().unwrap_or_default())?,
            limits: linux.resources().as_ref().map(limits).transpose()?.unwrap_or_default(),
            filters: Filters::new(seccomp)?,
        })
    }
}

/// Compares every field that is set with [`HONOURED`]. `pattern` is `path` with its indices left out.
fn honoured(path: &str, pattern: &str, value: &Value) -> Result<(), ContainerError> {
    if HONOURED.contains(&pattern) {
        return Ok(());
    }
    match value {
        Value::Null => Ok(()),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            let join = |above: &str| if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
            honoured(&join(path), &join(pattern), value)
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, value)| honoured(&format!("{path}[{index}]"), &format!("{pattern}[]"), value)),
        _ => Err(ContainerError::NotHonoured { field: path.to_owned() }),
    }
}

/// The runtime makes exactly these namespaces, so the specification must ask for exactly these.
fn namespaces(found: impl Iterator<Item = LinuxNamespaceType>) -> Result<(), ContainerError> {
    let found: Vec<LinuxNamespaceType> = found.collect();
    let wanted = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ];
    if found.len() == wanted.len() && wanted.iter().all(|kind| found.contains(kind)) {
        return Ok(());
    }
    Err(malformed("linux.namespaces", "pid, mount, ipc, uts and cgroup", &format!("{found:?}")))
}

fn planned(index: usize, mount: &Mount) -> Result<PlannedMount, ContainerError> {
    let field = format!("mounts[{index}]");
    let kind = match mount.typ().as_deref() {
        Some("proc") => Kind::Proc,
        Some("sysfs") => Kind::Sysfs,
        Some("tmpfs") => Kind::Tmpfs,
        Some("devpts") => Kind::Devpts,
        Some("mqueue") => Kind::Mqueue,
        Some("cgroup2") => Kind::Cgroup,
        Some("bind") => Kind::Bind,
        other => return Err(ContainerError::NotHonoured { field: format!("{field}.type = {other:?}") }),
    };
    let mut flags = MountAttrFlags::empty();
    let mut data = Vec::new();
    for option in mount.options().iter().flatten() {
        let (key, value) = option.split_once('=').map_or((option.as_str(), None), |(key, value)| (key, Some(value)));
        match (kind, key, value) {
            (_, "ro", None) => flags |= MountAttrFlags::MOUNT_ATTR_RDONLY,
            (_, "nosuid", None) => flags |= MountAttrFlags::MOUNT_ATTR_NOSUID,
            (_, "nodev", None) => flags |= MountAttrFlags::MOUNT_ATTR_NODEV,
            (_, "noexec", None) => flags |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            (Kind::Bind, "rbind" | "rw", None) => {}
            (Kind::Tmpfs, "mode" | "size", Some(_))
            | (Kind::Devpts, "mode" | "ptmxmode" | "gid", Some(_))
            | (Kind::Devpts, "newinstance", None) => data.push((key.to_owned(), value.map(str::to_owned))),
            _ => return Err(ContainerError::NotHonoured { field: format!("{field}.options: {option}") }),
        }
    }
    if kind == Kind::Tmpfs && !data.iter().any(|(key, _)| key == "size") {
        return Err(malformed(&field, "a size, so that it cannot take all memory", &"without one"));
    }
    Ok(PlannedMount { destination: mount.destination().clone(), kind, flags, data })
}

fn user(process: &Process) -> Result<(belljar_contract::User, u32), ContainerError> {
    let user = process.user();
    let additional_gids = user.additional_gids().clone().unwrap_or_default();
    let umask = user.umask().unwrap_or(0o022);
    if umask > 0o777 {
        return Err(malformed("process.user.umask", "at most 0777", &format!("{umask:#o}")));
    }
    let name = user.username().clone();
    Ok((belljar_contract::User { uid: user.uid(), gid: user.gid(), additional_gids, name }, umask))
}

fn sets(process: &Process) -> Result<Sets, ContainerError> {
    let capabilities = process.capabilities().as_ref().ok_or_else(|| missing("process.capabilities"))?;
    let mask = |set: &Option<HashSet<Capability>>| {
        set.iter().flatten().try_fold(0_u64, |mask, capability| {
            let name = format!("CAP_{capability}");
            let number = CAPABILITIES.iter().position(|known| *known == name);
            number.map(|number| mask | 1 << number).ok_or(ContainerError::NotHonoured { field: name })
        })
    };
    Ok(Sets {
        bounding: mask(capabilities.bounding())?,
        effective: mask(capabilities.effective())?,
        inheritable: mask(capabilities.inheritable())?,
        permitted: mask(capabilities.permitted())?,
        ambient: mask(capabilities.ambient())?,
    })
}

fn rlimits(process: &Process) -> Result<Vec<Rlimit>, ContainerError> {
    use oci_spec::runtime::PosixRlimitType as T;
    let limits = process.rlimits().iter().flatten();
    let limits = limits.map(|limit| {
        let resource = match limit.typ() {
            T::RlimitCpu => libc::RLIMIT_CPU,
            T::RlimitFsize => libc::RLIMIT_FSIZE,
            T::RlimitData => libc::RLIMIT_DATA,
            T::RlimitStack => libc::RLIMIT_STACK,
            T::RlimitCore => libc::RLIMIT_CORE,
            T::RlimitNproc => libc::RLIMIT_NPROC,
            T::RlimitNofile => libc::RLIMIT_NOFILE,
            T::RlimitMemlock => libc::RLIMIT_MEMLOCK,
            T::RlimitAs => libc::RLIMIT_AS,
            other => {
                return Err(ContainerError::NotHonoured { field: format!("process.rlimits: {other:?}") });
            }
        };
        Ok(Rlimit { resource, soft: limit.soft(), hard: limit.hard() })
    });
    limits.collect()
}

fn limits(resources: &LinuxResources) -> Result<Limits, ContainerError> {
    let positive = |field: &str, value: i64| {
        u64::try_from(value)
            .ok()
            .filter(|value| *value > 0)
            .ok_or_else(|| malformed(field, "a positive number", &value))
    };
    let memory = resources.memory().as_ref();
    let limit = memory.and_then(|memory| memory.limit());
    // Swap is always off; `swap` counts memory and swap together, so only equality says so.
    if memory.is_some_and(|memory| memory.swap() != limit) {
        return Err(ContainerError::NotHonoured { field: "linux.resources.memory.swap other than the limit".into() });
    }
    let cpu = match resources.cpu().as_ref().map(|cpu| (cpu.quota(), cpu.period())) {
        None | Some((None, None)) => None,
        Some((Some(quota), Some(period))) => Some((positive("linux.resources.cpu.quota", quota)?, period)),
        Some(_) => return Err(missing("linux.resources.cpu.quota and period, both")),
    };
    let pids =
        resources.pids().as_ref().map(|pids| positive("linux.resources.pids.limit", pids.limit())).transpose()?;
    let memory = limit.map(|limit| positive("linux.resources.memory.limit", limit)).transpose()?;
    Ok(Limits { memory, cpu, pids })
}

pub(super) fn strings(field: &str, texts: &[String]) -> Result<Vec<CString>, ContainerError> {
    let text = |text: &String| CString::new(text.as_str()).map_err(|_| malformed(field, "text without NUL", text));
    texts.iter().map(text).collect()
}

fn missing(field: &str) -> ContainerError {
    malformed(field, "to be set", &"missing")
}

pub(super) fn malformed(field: &str, expected: &'static str, found: &dyn std::fmt::Display) -> ContainerError {
    ContainerError::Malformed { field: field.to_owned(), expected, found: found.to_string() }
}
