//! The types of the contract, their defaults and bounds. Field order is the order of the canonical form.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

/// The version of the contract format that this crate reads and writes.
pub const VERSION: u32 = 1;
/// Most containers in one pod.
pub const MAX_CONTAINERS: usize = 64;
/// Most layers of one image (overlayfs itself allows 500).
pub const MAX_LAYERS: usize = 128;
/// Largest layer, in 4096-byte blocks (1 TiB).
pub const MAX_DATA_BLOCKS: u64 = 1 << 28;
/// Most arguments of a command.
pub const MAX_ARGS: usize = 1024;
/// Longest argument, environment value or path text in bytes (the kernel's `MAX_ARG_STRLEN` is 128 KiB).
pub const MAX_TEXT: usize = 64 * 1024;
/// Most environment variables.
pub const MAX_ENV: usize = 1024;
/// Most secrets, tmpfs mounts, additional groups, or exec commands.
pub const MAX_LIST: usize = 64;
/// Largest memory or tmpfs size in bytes (1 TiB).
pub const MAX_BYTES: u64 = 1 << 40;
/// Largest user or group id: the kernel reads 2^32-1 as "leave as it is", and many tools stop at 2^31-1.
pub const MAX_ID: u32 = 0x7fff_ffff;
/// Longest path (the kernel's `PATH_MAX` without its NUL).
pub const MAX_PATH: usize = 4095;

/// Default bound of a container's writable layer and of a tmpfs without a size, in bytes.
pub const DEFAULT_SCRATCH: u64 = 64 << 20;
/// Default bound on processes and threads of a container.
pub const DEFAULT_PIDS: u64 = 1024;
/// Default mode of a secret's file: its owner, the container's user, reads it.
pub const DEFAULT_SECRET_MODE: u32 = 0o400;
/// Default mode of a tmpfs mount.
pub const DEFAULT_TMPFS_MODE: u32 = 0o1777;

/// Capabilities of a container made by [`Contract::from_image`] when nobody asks for others: what images need that
/// start as root, prepare their files and then become another user. Docker's default without `AUDIT_WRITE`, `MKNOD`,
/// `NET_RAW`, `SETFCAP`, `SETPCAP` and `SYS_CHROOT`.
pub const DEFAULT_CAPABILITIES: [&str; 8] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
];

/// Every capability of Linux, by number (`include/uapi/linux/capability.h`, 6.12).
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What one pod VM may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contract {
    /// Format version, [`VERSION`].
    pub version: u32,
    /// The broker that may be asked for secrets; needed as soon as a container asks for one.
    pub broker: Option<BrokerPin>,
    /// What all containers of the pod share: network, name, time of life. Default: a pod without a network.
    pub pod: PodSettings,
    /// Whoever may talk to the guest past the host: `belljar exec` and `belljar logs`, end to end encrypted.
    pub operator: Option<Operator>,
    /// Volumes by name (a DNS label), for [`Container::mounts`].
    pub volumes: BTreeMap<String, Volume>,
    /// Containers by name (a DNS label); at least one.
    pub containers: BTreeMap<String, Container>,
    /// Whether the VM may run with debugging on (guest console, debug messages). Default: false.
    pub debug: bool,
}

/// Identity of the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokerPin {
    /// Lowercase hex of SHA-256 over the DER `SubjectPublicKeyInfo` of the broker's TLS key.
    pub spki_sha256: String,
}

/// What all containers of the pod share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PodSettings {
    /// Network of the pod. Default: none.
    pub network: Network,
    /// Whether the host gives the pod's host name, a DNS label ([`HostType::DnsLabel`]); it then replaces [`Container::hostname`], and the
    /// variable `HOSTNAME` follows where `env` does not fix it. For pods that a controller names. Default: false.
    pub hostname_from_host: bool,
    /// Name resolution (`/etc/resolv.conf`). Default: none.
    pub dns: Dns,
    /// More lines of `/etc/hosts`: names by address.
    pub host_aliases: BTreeMap<IpAddr, Vec<String>>,
    /// TCP ports on the guest's loopback that the host may connect to for `kubectl port-forward`; none of [`RESERVED_PORTS`].
    pub ports: Vec<u16>,
    /// Sysctls of the guest, by name with dots; only the names of [`SYSCTLS`].
    pub sysctls: BTreeMap<String, String>,
}

/// Sysctls that a contract may set: those that Kubernetes calls safe.
pub const SYSCTLS: [&str; 5] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_syncookies",
];

/// Network of a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The loopback interface only.
    #[default]
    None,
    /// Interface, addresses and routes are what the host says; everything that passes there is in the host's hands.
    Host,
}

/// Name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dns {
    /// No `/etc/resolv.conf`.
    #[default]
    None,
    /// Servers, search domains and options are what the host says, each checked for its type.
    Host,
    /// Fixed.
    Fixed(Resolver),
}

/// Most name servers (the C library's `MAXNS`).
pub const MAX_NAMESERVERS: usize = 3;
/// Most search domains, or resolver options.
pub const MAX_RESOLVER_LIST: usize = 32;

/// A fixed `/etc/resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Resolver {
    /// Addresses of name servers, 1 to [`MAX_NAMESERVERS`].
    pub nameservers: Vec<IpAddr>,
    /// Search domains, at most [`MAX_RESOLVER_LIST`]: DNS names, which may have underscores and a dot at the end, or `.` alone.
    pub searches: Vec<String>,
    /// Options, such as `ndots:5`, at most [`MAX_RESOLVER_LIST`].
    pub options: Vec<String>,
}

/// Whoever may talk to the guest past the host. They prove who they are by TLS client authentication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operator {
    /// Lowercase hex of SHA-256 over the DER `SubjectPublicKeyInfo` of their TLS key.
    pub spki_sha256: String,
    /// Whether they may start any command in any container. Default: deny.
    pub exec: Permission,
    /// Whether they may read the containers' output. Default: deny.
    pub logs: Permission,
}

/// A volume of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Volume {
    /// An empty file system in guest memory that the pod's containers share (`emptyDir`).
    Scratch {
        /// Bound in bytes. Default: [`DEFAULT_SCRATCH`].
        size_bytes: u64,
    },
    /// Files whose content is fixed: the host brings them, and the guest refuses any other content, a missing or a further file.
    Measured {
        /// Files by path relative to the volume's root.
        files: BTreeMap<String, MeasuredFile>,
    },
    /// Files whose content is what the host says, now and later.
    Host {
        /// Files that must be there (unless optional), each checked for its type; by path relative to the volume's root.
        files: BTreeMap<String, HostFile>,
        /// Whether the host may add other files, of any content. Default: false.
        others: bool,
    },
}

/// A file of a measured volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeasuredFile {
    /// SHA-256 of its content, 64 lowercase hex digits.
    pub sha256: String,
    /// Mode. Default: 0644.
    pub mode: u32,
}

/// A file that the host gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostFile {
    /// What its content must look like; `type` in TOML and JSON.
    #[serde(rename = "type")]
    pub kind: HostType,
    /// Mode. Default: 0644.
    pub mode: u32,
    /// Whether it may be missing. Default: false.
    pub optional: bool,
}

/// What a value that comes from the host must look like. The host chooses the value; the type bounds what it can do with it.
/// In TOML and JSON it is its [`Display`](std::fmt::Display) text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum HostType {
    /// An IPv4 or IPv6 address.
    Ip,
    /// Addresses, separated by commas.
    IpList,
    /// A port, 1 to 65535.
    Port,
    /// `tcp://IP:PORT`, `udp://IP:PORT` or `sctp://IP:PORT`; an IPv6 address stands in brackets.
    Endpoint,
    /// `tcp`, `udp` or `sctp`.
    Protocol,
    /// A DNS name.
    DnsName,
    /// A DNS label.
    DnsLabel,
    /// A UUID.
    Uuid,
    /// An integer in decimal digits.
    Integer,
    /// A JSON web token: three parts of base64url (its signature is not checked).
    Token,
    /// PEM certificates and nothing else.
    Certificates,
    /// Any text or bytes up to [`MAX_HOST_VALUE`]. The contract's words warn of it.
    Any,
    /// Exactly the content with this SHA-256, 64 lowercase hex digits (`sha256:…` in TOML).
    Sha256(String),
}

/// Longest value of [`HostType::Any`] in bytes, and largest file of a volume.
pub const MAX_HOST_VALUE: usize = 1 << 20;
/// Most volumes of a pod, mounts of a container, values from the host, host aliases, or ports.
pub const MAX_VOLUMES: usize = 64;
/// Most files of one volume that the contract names.
pub const MAX_FILES: usize = 256;
/// Most bytes of all files of one volume that the host brings; the guest's bound of one `PutVolume` call.
pub const MAX_VOLUME_BYTES: u64 = 3 << 20;
/// Ports that [`PodSettings::ports`] cannot list: the interface for secrets on the guest's loopback, which would give them to the
/// host, and the port where the host's side offers the guest's attested service.
pub const RESERVED_PORTS: [u16; 2] = [8006, 8007];
/// Default mode of a volume's file.
pub const DEFAULT_FILE_MODE: u32 = 0o644;

/// A place in a container where a volume appears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeMount {
    /// Name of the volume.
    pub volume: String,
    /// Mount point: absolute, normalised, not under `/proc`, `/sys` or `/dev`.
    pub path: String,
    /// File or directory of the volume, relative to its root, that appears instead of the root. Default: the root.
    pub sub_path: Option<String>,
    /// Whether the container cannot write there. Volumes of other kinds than scratch never can be written. Default: false.
    pub read_only: bool,
}

/// Whether a container is started again after its end, at the host's wish.
/// A later one allows more than an earlier one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// When it failed: it ended with another code than 0.
    OnFailure,
    /// However it ended.
    Always,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Container {
    /// Image reference as the user wrote it; informative, the digest decides.
    pub image: String,
    /// Manifest digest, `sha256:` and 64 lowercase hex digits (or `sha512:` and 128).
    pub image_digest: String,
    /// Layers, lowest first; at least one.
    pub layers: Vec<Layer>,
    /// Command and its arguments; at least one.
    pub args: Vec<String>,
    /// The whole environment. `HOME` is added from the image's `/etc/passwd` when it is not here.
    pub env: BTreeMap<String, String>,
    /// Working directory: absolute, normalised. Default: `/`.
    pub cwd: String,
    /// User and groups. Default: 0:0.
    pub user: User,
    /// Capabilities of a process of user 0, for example `CAP_CHOWN`. Default: none.
    pub capabilities: Vec<String>,
    /// Whether executing a set-user-id file gives nothing. Default: true.
    pub no_new_privileges: bool,
    /// Whether the root file system cannot be written. Default: false.
    pub read_only_root: bool,
    /// Memory file systems, each with its own bound.
    pub tmpfs: Vec<Tmpfs>,
    /// Bound of the writable layer, which lives in VM memory, in bytes. Default: [`DEFAULT_SCRATCH`].
    pub scratch_bytes: u64,
    /// Limits.
    pub resources: Resources,
    /// Secrets that appear as files.
    pub secrets: Vec<Secret>,
    /// Whether stdout and stderr may leave the VM, and so be read by the host. Default: deny.
    pub logs: Permission,
    /// Whether the host may write to stdin. Default: deny.
    pub stdin: Permission,
    /// Commands that the host may start beside the container's own, each in full.
    pub exec: Vec<Vec<String>>,
    /// Whether the REST interface for secrets on 127.0.0.1:8006 is there. Default: false.
    pub secret_api: bool,
    /// Host name, a DNS label. Default: the container's name.
    pub hostname: String,
    /// Whether stdin and stdout are a terminal. Default: false.
    pub terminal: bool,
    /// Place among the init containers, from 1 on: each must have ended with 0 before the next, and all of them before the
    /// other containers. Default: 0, no init container.
    pub init: u32,
    /// Whether it may be started again. Default: never.
    pub restart: Restart,
    /// Environment variables whose values the host gives, by name with their type. None of them is in `env`, and none of them is one
    /// that changes what a program loads or runs ([`crate::check`] lists these).
    pub env_from_host: BTreeMap<String, HostType>,
    /// Whether the host may add the environment variables that Kubernetes makes for each Service (`X_SERVICE_HOST`, `X_SERVICE_PORT`, `X_PORT`,
    /// `X_PORT_80_TCP` and the like), each with the type that its name implies. Default: false.
    pub service_links: bool,
    /// Volumes that appear in it.
    pub mounts: Vec<VolumeMount>,
}

/// One read-only image layer: a block image with a dm-verity tree behind its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// dm-verity root hash: SHA-256, 64 lowercase hex digits.
    pub verity_root: String,
    /// dm-verity salt, lowercase hex, 0 to 256 bytes.
    pub salt: String,
    /// Data size in 4096-byte blocks; the hash tree starts right behind.
    pub data_blocks: u64,
}

/// Whom the container's process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// User id; 0 when `name` is set.
    pub uid: u32,
    /// Group id; 0 when `name` is set.
    pub gid: u32,
    /// Supplementary groups (added to those of a name).
    pub additional_gids: Vec<u32>,
    /// `USER[:GROUP]` as an image configuration writes it, when it is not purely numeric with both parts: resolved in the guest from
    /// the verified root file system's `/etc/passwd` and `/etc/group`, see [`crate::user`].
    pub name: Option<String>,
}

/// A memory file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tmpfs {
    /// Mount point: absolute, normalised, not under `/proc`, `/sys` or `/dev`.
    pub path: String,
    /// Bound in bytes. Default: [`DEFAULT_SCRATCH`].
    pub size_bytes: u64,
    /// Mode of its root directory. Default: [`DEFAULT_TMPFS_MODE`].
    pub mode: u32,
}

/// Limits of a container inside its VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// Memory in bytes; none: what the VM has.
    pub memory_bytes: Option<u64>,
    /// CPU time in thousandths of a CPU; none: what the VM has.
    pub cpu_millis: Option<u64>,
    /// Processes and threads. Default: [`DEFAULT_PIDS`].
    pub pids: u64,
}

impl Default for Resources {
    fn default() -> Self {
        Self { memory_bytes: None, cpu_millis: None, pids: DEFAULT_PIDS }
    }
}

/// A secret that the broker may release to this container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// Name within the container.
    pub name: String,
    /// `kbs:///repository/type/tag`.
    pub resource: String,
    /// Path of its file in the container, on a memory file system of its own.
    pub path: String,
    /// Mode of the file. Default: [`DEFAULT_SECRET_MODE`].
    pub mode: u32,
}

/// Whether something may happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// It may.
    Allow,
    /// It may not.
    #[default]
    Deny,
}

impl Permission {
    /// Whether it is [`Permission::Allow`].
    pub fn allowed(self) -> bool {
        self == Self::Allow
    }
}
