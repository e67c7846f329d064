//! What containers share: network settings, sysctls and volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::env::check_type;
use super::{conflict, count, hex, malformed, range, relative, within};
use crate::error::ContractError;
use crate::host_value::{is_dns_name, is_search_domain};
use crate::model::{
    Container, Contract, Dns, MAX_BYTES, MAX_FILES, MAX_ID, MAX_NAMESERVERS, MAX_RESOLVER_LIST, MAX_VOLUMES, Network,
    PodSettings, RESERVED_PORTS, Resolver, SYSCTLS, Volume,
};

/// Most names of one address in `/etc/hosts`.
const MAX_ALIASES: usize = 16;

impl PodSettings {
    pub(super) fn check(&self) -> Result<(), ContractError> {
        if self.hostname_from_host && self.network == Network::None {
            let why = "the host tells its name with the network, and the pod has none";
            return Err(conflict("pod.hostname_from_host".into(), "pod.network".into(), why));
        }
        match &self.dns {
            Dns::None => {}
            Dns::Host if self.network == Network::None => {
                let why = "the host tells name servers with the network, and the pod has none";
                return Err(conflict("pod.dns".into(), "pod.network".into(), why));
            }
            Dns::Host => {}
            Dns::Fixed(resolver) => resolver.check("pod.dns")?,
        }
        check_aliases(&self.host_aliases)?;
        count("pod.ports", self.ports.len(), 0, MAX_VOLUMES)?;
        let mut seen = BTreeMap::new();
        for (index, port) in self.ports.iter().enumerate() {
            let key = format!("pod.ports[{index}]");
            range(&key, (*port).into(), 1, u16::MAX.into())?;
            if RESERVED_PORTS.contains(port) {
                let expected = "another port than 8006 (the interface for secrets) and 8007 (the attested service)";
                return malformed(&key, expected, &port.to_string());
            }
            if let Some(other) = seen.insert(port, index) {
                return Err(conflict(key, format!("pod.ports[{other}]"), "the ports are equal"));
            }
        }
        for (name, value) in &self.sysctls {
            if !SYSCTLS.contains(&name.as_str()) {
                return malformed("pod.sysctls", "only sysctls that Kubernetes calls safe", name);
            }
            check_sysctl(name, value)?;
        }
        Ok(())
    }
}

impl Resolver {
    /// Checks bounds and forms; `key` is where it stands, for messages.
    ///
    /// # Errors
    /// The first [`ContractError`] in field order.
    pub fn check(&self, key: &str) -> Result<(), ContractError> {
        let Self { nameservers, searches, options } = self;
        count(&format!("{key}.nameservers"), nameservers.len(), 1, MAX_NAMESERVERS)?;
        count(&format!("{key}.searches"), searches.len(), 0, MAX_RESOLVER_LIST)?;
        for (index, domain) in searches.iter().enumerate() {
            if !is_search_domain(domain) {
                return malformed(&format!("{key}.searches[{index}]"), "a DNS name in lowercase", domain);
            }
        }
        count(&format!("{key}.options"), options.len(), 0, MAX_RESOLVER_LIST)?;
        for (index, option) in options.iter().enumerate() {
            let (name, value) = option.split_once(':').unwrap_or((option, "0"));
            let good = (1..=32).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
                && (1..=5).contains(&value.len())
                && value.bytes().all(|b| b.is_ascii_digit());
            if !good {
                let expected = "a resolver option such as ndots:5 or rotate";
                return malformed(&format!("{key}.options[{index}]"), expected, option);
            }
        }
        Ok(())
    }
}

fn check_aliases(aliases: &BTreeMap<IpAddr, Vec<String>>) -> Result<(), ContractError> {
    count("pod.host_aliases", aliases.len(), 0, MAX_VOLUMES)?;
    for (address, names) in aliases {
        let key = format!("pod.host_aliases.{address}");
        count(&key, names.len(), 1, MAX_ALIASES)?;
        for (index, name) in names.iter().enumerate() {
            if !is_dns_name(name) {
                return malformed(&format!("{key}[{index}]"), "a DNS name in lowercase", name);
            }
        }
    }
    Ok(())
}

/// Values as the kernel reads them (`Documentation/admin-guide/sysctl/kernel.rst`, `Documentation/networking/ip-sysctl.rst`).
fn check_sysctl(name: &str, value: &str) -> Result<(), ContractError> {
    let key = format!("pod.sysctls.{name}");
    let numbers: Option<Vec<u64>> = value
        .split([' ', '\t'])
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok().filter(|_| part.len() <= 10 && !part.starts_with('+')))
        .collect();
    let numbers = numbers.filter(|_| value.len() <= 64).unwrap_or_default();
    let ports = 1..=u64::from(u16::MAX);
    let good = match (name, numbers.as_slice()) {
        ("kernel.shm_rmid_forced", [on]) => *on <= 1,
        ("net.ipv4.tcp_syncookies", [mode]) => *mode <= 2,
        ("net.ipv4.ip_unprivileged_port_start", [port]) => *port <= u64::from(u16::MAX),
        ("net.ipv4.ip_local_port_range", [low, high]) => ports.contains(low) && ports.contains(high) && low <= high,
        // `1 0` is the kernel's way to say "nobody".
        ("net.ipv4.ping_group_range", [low, high]) => {
            let ids = 0..=u64::from(MAX_ID);
            ids.contains(low) && ids.contains(high) && (low <= high || (*low, *high) == (1, 0))
        }
        _ => false,
    };
    let expected = match name {
        "kernel.shm_rmid_forced" => "0 or 1",
        "net.ipv4.tcp_syncookies" => "0, 1 or 2",
        "net.ipv4.ip_unprivileged_port_start" => "0 to 65535",
        "net.ipv4.ip_local_port_range" => "two ports with a blank between them, the lower first",
        _ => "two groups with a blank between them, the lower first, or 1 0",
    };
    if good { Ok(()) } else { malformed(&key, expected, value) }
}

impl Volume {
    pub(super) fn check(&self, key: &str) -> Result<(), ContractError> {
        match self {
            Self::Scratch { size_bytes } => range(&format!("{key}.size_bytes"), *size_bytes, 4096, MAX_BYTES),
            Self::Measured { files } => {
                check_paths(key, files.keys())?;
                files.iter().try_for_each(|(path, file)| {
                    let expected = "64 lowercase hex digits";
                    hex(&format!("{key}.files.{path}.sha256"), &file.sha256, 64, 64, expected)?;
                    range(&format!("{key}.files.{path}.mode"), file.mode.into(), 0, 0o777)
                })
            }
            Self::Host { files, others } => {
                check_paths(key, files.keys())?;
                if files.is_empty() && !others {
                    return malformed(key, "files, or others = true", "a volume that can never have a file");
                }
                files.iter().try_for_each(|(path, file)| {
                    check_type(&format!("{key}.files.{path}.type"), &file.kind)?;
                    range(&format!("{key}.files.{path}.mode"), file.mode.into(), 0, 0o777)
                })
            }
        }
    }

    /// Whether containers can write there.
    pub fn writable(&self) -> bool {
        matches!(self, Self::Scratch { .. })
    }

    /// Whether a file or directory of this path can be there.
    fn can_have(&self, sub_path: &str) -> bool {
        let mut files: Box<dyn Iterator<Item = &String>> = match self {
            Self::Scratch { .. } | Self::Host { others: true, .. } => return true,
            Self::Measured { files } => Box::new(files.keys()),
            Self::Host { files, .. } => Box::new(files.keys()),
        };
        files.any(|path| within(path, sub_path))
    }
}

/// Paths of files: each below the root, and none where another needs a directory.
fn check_paths<'a>(key: &str, paths: impl ExactSizeIterator<Item = &'a String> + Clone) -> Result<(), ContractError> {
    count(&format!("{key}.files"), paths.len(), 0, MAX_FILES)?;
    let all: BTreeSet<&str> = paths.clone().map(String::as_str).collect();
    for path in paths {
        relative(&format!("{key}.files"), path)?;
        for (at, _) in path.match_indices('/') {
            let above = path.get(..at).unwrap_or_default();
            if all.contains(above) {
                let other = format!("{key}.files.{above}");
                return Err(conflict(
                    format!("{key}.files.{path}"),
                    other,
                    "one is a file, the other needs a directory there",
                ));
            }
        }
    }
    Ok(())
}

impl Contract {
    /// What the mounts of a container ask of the pod's volumes.
    pub(super) fn check_volumes_of(&self, place: &str, container: &Container) -> Result<(), ContractError> {
        for (index, mount) in container.mounts.iter().enumerate() {
            let key = format!("{place}.mounts[{index}]");
            let Some(volume) = self.volumes.get(&mount.volume) else {
                return malformed(&format!("{key}.volume"), "the name of a volume in [volumes]", &mount.volume);
            };
            if let Some(sub_path) = mount.sub_path.as_deref().filter(|path| !volume.can_have(path)) {
                return malformed(&format!("{key}.sub_path"), "a file or directory that the volume has", sub_path);
            }
            let below = |path: &str| path != mount.path && within(path, &mount.path);
            if let Some(inner) =
                container.mounts.iter().position(|other| below(&other.path)).filter(|_| !volume.writable())
            {
                let why = "no mount point can be made in a volume that cannot be written";
                return Err(conflict(format!("{place}.mounts[{inner}].path"), format!("{key}.path"), why));
            }
        }
        Ok(())
    }
}
