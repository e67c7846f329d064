//! Files in `/etc` of every container that say who and where the pod is.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use belljar_contract::{Container, Contract, Dns, Resolver};

use super::settings::Settings;
use crate::container::GeneratedFile;

/// The files for the container `container`, which the contract calls `name`. A file where the container has something else of its own
/// (a volume, a secret) is left out. Without a contract's word about name resolution there is no `/etc/resolv.conf` of ours.
pub fn of(contract: &Contract, container: &Container, settings: Option<&Settings>) -> Vec<GeneratedFile> {
    let hostname = settings.and_then(|settings| settings.hostname.as_deref()).unwrap_or(&container.hostname);
    let addresses = settings.map(|settings| settings.addresses.as_slice()).unwrap_or_default();
    let addresses: Vec<IpAddr> = addresses.iter().map(|prefix| prefix.address).collect();
    let resolv_conf = match &contract.pod.dns {
        Dns::None => None,
        Dns::Fixed(resolver) => Some(resolv_conf(resolver)),
        Dns::Host => settings.and_then(|settings| settings.resolver.as_ref()).map(resolv_conf),
    };
    let files = [
        Some(("/etc/hosts", hosts(hostname, &addresses, &contract.pod.host_aliases))),
        Some(("/etc/hostname", format!("{hostname}\n"))),
        resolv_conf.map(|content| ("/etc/resolv.conf", content)),
    ];
    let own = |path: &str| {
        container.mounts.iter().any(|mount| mount.path == path)
            || container.secrets.iter().any(|secret| secret.path == path)
    };
    files
        .into_iter()
        .flatten()
        .filter(|(path, _)| !own(path))
        .map(|(path, content)| GeneratedFile { path: path.into(), content: content.into_bytes() })
        .collect()
}

/// hosts(5), with the lines that a kubelet writes.
fn hosts(hostname: &str, addresses: &[IpAddr], aliases: &BTreeMap<IpAddr, Vec<String>>) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    if addresses.is_empty() {
        let _ = writeln!(text, "127.0.0.1\t{hostname}");
    }
    for address in addresses {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    for (address, names) in aliases {
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    text
}

/// resolv.conf(5).
pub(super) fn resolv_conf(resolver: &Resolver) -> String {
    let mut text = String::new();
    if !resolver.searches.is_empty() {
        let _ = writeln!(text, "search {}", resolver.searches.join(" "));
    }
    for nameserver in &resolver.nameservers {
        let _ = writeln!(text, "nameserver {nameserver}");
    }
    if !resolver.options.is_empty() {
        let _ = writeln!(text, "options {}", resolver.options.join(" "));
    }
    text
}
