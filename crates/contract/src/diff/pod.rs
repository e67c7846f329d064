//! Differences in what containers share.

use std::net::IpAddr;

use super::Kind;
use super::values::{Out, below, flag, kind_of_types, list, map, other, permission, wider};
use crate::model::{Dns, HostFile, MeasuredFile, Network, Operator, PodSettings, Resolver, Volume};
use crate::words::text::{kind, resolver, size, visible};

pub(super) fn settings(out: &mut Out, old: &PodSettings, new: &PodSettings) {
    let PodSettings { network, hostname_from_host, dns, host_aliases, ports, sysctls } = new;
    let words = ["the pod has a network, which is in the host's hands", "the pod has no network"];
    flag(out, "pod.network", old.network == Network::Host, *network == Network::Host, words);
    let words = ["the host chooses the host name", "the host does not choose the host name"];
    flag(out, "pod.hostname_from_host", old.hostname_from_host, *hostname_from_host, words);
    self::dns(out, &old.dns, dns);
    let text = |aliases: &std::collections::BTreeMap<IpAddr, Vec<String>>| {
        aliases.iter().map(|(address, names)| (address.to_string(), names.clone())).collect()
    };
    map(out, "pod.host_aliases", &text(&old.host_aliases), &text(host_aliases), |out, key, address, old, new| {
        let names = |names: Option<&Vec<String>>| names.map_or("no names".to_owned(), |names| names.join(", "));
        out.changed(key, format!("the address {address} has {} instead of {}", names(new), names(old)));
    });
    list(out, "pod.ports", &old.ports, ports, |port, allowed| match allowed {
        true => format!("the host may connect to port {port} of the loopback interface"),
        false => format!("the host may not connect to port {port} of the loopback interface"),
    });
    map(out, "pod.sysctls", &old.sysctls, sysctls, |out, key, name, old, new| {
        let value = |value: Option<&String>| value.map_or("the kernel's default".to_owned(), |value| visible(value));
        out.changed(key, format!("{name} is {} instead of {}", value(new), value(old)));
    });
}

fn dns(out: &mut Out, old: &Dns, new: &Dns) {
    let text = |dns: &Dns| match dns {
        Dns::None => "nobody".to_owned(),
        Dns::Host => "the servers that the host chooses".to_owned(),
        Dns::Fixed(fixed) => resolver(fixed),
    };
    let kind = match (old, new) {
        (Dns::None, Dns::None) | (Dns::Host, Dns::Host) => return,
        (Dns::Fixed(old), Dns::Fixed(new)) => {
            let Resolver { nameservers, searches, options } = new;
            if old.nameservers == *nameservers && old.searches == *searches && old.options == *options {
                return;
            }
            Kind::Changed
        }
        (Dns::None, _) | (Dns::Fixed(_), Dns::Host) => Kind::Widened,
        (_, Dns::None) | (Dns::Host, Dns::Fixed(_)) => Kind::Narrowed,
    };
    out.push(kind, "pod.dns", format!("names are resolved by {} instead of {}", text(new), text(old)));
}

pub(super) fn operator(out: &mut Out, old: Option<&Operator>, new: Option<&Operator>) {
    const EXEC: [&str; 2] = ["the operator may run any command", "the operator may not run commands"];
    const LOGS: [&str; 2] = ["the operator may read all output", "the operator may not read output"];
    match (old, new) {
        (None, None) => {}
        (Some(old), None) => {
            out.narrowed("operator", format!("nobody is the operator, instead of the key {}", old.spki_sha256));
        }
        (None, Some(Operator { spki_sha256, exec, logs })) => {
            out.widened("operator", format!("there is an operator, who has the key {spki_sha256}"));
            flag(out, "operator.exec", false, exec.allowed(), EXEC);
            flag(out, "operator.logs", false, logs.allowed(), LOGS);
        }
        (Some(old), Some(Operator { spki_sha256, exec, logs })) => {
            other(out, "operator.spki_sha256", &old.spki_sha256, spki_sha256, |old, new| {
                format!("the operator is who has the key {new} instead of {old}")
            });
            permission(out, "operator.exec", old.exec, *exec, EXEC);
            permission(out, "operator.logs", old.logs, *logs, LOGS);
        }
    }
}

pub(super) fn volume(out: &mut Out, key: &str, name: &str, old: Option<&Volume>, new: Option<&Volume>) {
    match (old, new) {
        (Some(Volume::Scratch { size_bytes: old }), Some(Volume::Scratch { size_bytes: new })) => {
            wider(out, &below(key, "size_bytes"), old, new, |old, new| {
                format!("the volume {name} may take {} of memory instead of {}", size(*new), size(*old))
            });
        }
        (Some(Volume::Measured { files: old }), Some(Volume::Measured { files: new })) => {
            map(out, &below(key, "files"), old, new, |out, key, path, old, new| {
                measured(out, key, &format!("the file {} of the volume {name}", visible(path)), old, new);
            });
        }
        (Some(Volume::Host { files: old, others: old_others }), Some(Volume::Host { files: new, others })) => {
            map(out, &below(key, "files"), old, new, |out, key, path, old, new| {
                host(out, key, &format!("the file {} of the volume {name}", visible(path)), old, new);
            });
            let words = [
                format!("the host may put any further file into the volume {name}"),
                format!("the host may not put further files into the volume {name}"),
            ];
            flag(out, &below(key, "others"), *old_others, *others, [&words[0], &words[1]]);
        }
        (None, Some(new)) => out.widened(key, format!("there is a volume {name}: {}", in_words(new))),
        (Some(_), None) => out.narrowed(key, format!("there is no volume {name} any more")),
        (Some(old), Some(new)) => {
            let from_host = |volume: &Volume| matches!(volume, Volume::Host { .. });
            let kind = match (from_host(old), from_host(new)) {
                (false, true) => Kind::Widened,
                _ => Kind::Changed,
            };
            out.push(
                kind,
                below(key, "kind"),
                format!("the volume {name} is {} instead of {}", in_words(new), in_words(old)),
            );
        }
        (None, None) => {}
    }
}

fn in_words(volume: &Volume) -> String {
    match volume {
        Volume::Scratch { size_bytes } => format!("{} of shared memory", size(*size_bytes)),
        Volume::Measured { files } => format!("{} fixed files", files.len()),
        Volume::Host { files, others: false } => format!("{} files that the host chooses", files.len()),
        Volume::Host { files: _, others: true } => "ANY FILES that the host chooses".to_owned(),
    }
}

fn measured(out: &mut Out, key: &str, what: &str, old: Option<&MeasuredFile>, new: Option<&MeasuredFile>) {
    match (old, new) {
        (None, None) => {}
        (None, Some(_)) => out.changed(key, format!("{what} is there, with fixed content")),
        (Some(_), None) => out.changed(key, format!("{what} is not there any more")),
        (Some(old), Some(MeasuredFile { sha256, mode })) => {
            other(out, &below(key, "sha256"), &old.sha256, sha256, |old, new| {
                format!("{what} has the content with SHA-256 {new} instead of {old}")
            });
            self::mode(out, key, what, old.mode, *mode);
        }
    }
}

fn host(out: &mut Out, key: &str, what: &str, old: Option<&HostFile>, new: Option<&HostFile>) {
    match (old, new) {
        (None, None) => {}
        (None, Some(file)) => out.widened(key, format!("the host chooses {what}: {}", kind(&file.kind))),
        (Some(_), None) => out.narrowed(key, format!("the host does not give {what} any more")),
        (Some(old), Some(HostFile { kind: new, mode, optional })) => {
            if old.kind != *new {
                let words = format!("the host chooses {what}: {} instead of {}", kind(new), kind(&old.kind));
                out.push(kind_of_types(&old.kind, new), below(key, "type"), words);
            }
            self::mode(out, key, what, old.mode, *mode);
            let words = [format!("the host may leave out {what}"), format!("the host must give {what}")];
            flag(out, &below(key, "optional"), old.optional, *optional, [&words[0], &words[1]]);
        }
    }
}

fn mode(out: &mut Out, key: &str, what: &str, old: u32, new: u32) {
    other(out, &below(key, "mode"), &old, &new, |old, new| {
        format!("{what} has the mode {new:04o} instead of {old:04o}")
    });
}
