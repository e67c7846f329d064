//! The canonical form of what containers share.

use super::{Lines, inline, key, string, strings};
use crate::model::{
    DEFAULT_FILE_MODE, DEFAULT_SCRATCH, Dns, Network, Operator, PodSettings, Resolver, Volume, VolumeMount,
};

pub(super) fn settings(pod: &PodSettings, out: &mut Lines) {
    let PodSettings { network, hostname_from_host, dns, host_aliases, ports, sysctls } = pod;
    let mut lines = Vec::new();
    match network {
        Network::None => {}
        Network::Host => lines.push(("network", "\"host\"".to_owned())),
    }
    if *hostname_from_host {
        lines.push(("hostname_from_host", "true".to_owned()));
    }
    match dns {
        Dns::None => {}
        Dns::Host => lines.push(("dns", "\"host\"".to_owned())),
        Dns::Fixed(fixed) => lines.push(("dns", resolver(fixed))),
    }
    if !ports.is_empty() {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        lines.push(("ports", format!("[{}]", ports.join(", "))));
    }
    if !lines.is_empty() {
        out.table("pod");
    }
    for (key, value) in lines {
        out.line(key, &value);
    }
    let aliases = host_aliases.iter().map(|(address, names)| (key(&address.to_string()), strings(names)));
    out.entries("pod.host_aliases", aliases);
    out.entries("pod.sysctls", sysctls.iter().map(|(name, value)| (key(name), string(value))));
}

fn resolver(resolver: &Resolver) -> String {
    let Resolver { nameservers, searches, options } = resolver;
    let nameservers: Vec<String> = nameservers.iter().map(ToString::to_string).collect();
    let mut fields = vec![format!("nameservers = {}", strings(&nameservers))];
    for (name, values) in [("searches", searches), ("options", options)] {
        if !values.is_empty() {
            fields.push(format!("{name} = {}", strings(values)));
        }
    }
    inline(&fields)
}

pub(super) fn operator(operator: &Operator, out: &mut Lines) {
    let Operator { spki_sha256, exec, logs } = operator;
    out.table("operator");
    out.line("spki_sha256", &string(spki_sha256));
    out.permission("exec", *exec);
    out.permission("logs", *logs);
}

/// `name` is a key already.
pub(super) fn volume(name: &str, volume: &Volume, out: &mut Lines) {
    let table = format!("volumes.{name}");
    out.table(&table);
    match volume {
        Volume::Scratch { size_bytes } => {
            out.line("kind", "\"scratch\"");
            if *size_bytes != DEFAULT_SCRATCH {
                out.line("size_bytes", &size_bytes.to_string());
            }
        }
        Volume::Measured { files } => {
            out.line("kind", "\"measured\"");
            let files = files.iter().map(|(path, file)| {
                let mut fields = vec![format!("sha256 = {}", string(&file.sha256))];
                fields.extend(mode(file.mode));
                (key(path), inline(&fields))
            });
            out.entries(&format!("{table}.files"), files);
        }
        Volume::Host { files, others } => {
            out.line("kind", "\"host\"");
            if *others {
                out.line("others", "true");
            }
            let files = files.iter().map(|(path, file)| {
                let mut fields = vec![format!("type = {}", string(&file.kind.to_string()))];
                fields.extend(mode(file.mode));
                if file.optional {
                    fields.push("optional = true".to_owned());
                }
                (key(path), inline(&fields))
            });
            out.entries(&format!("{table}.files"), files);
        }
    }
}

fn mode(mode: u32) -> Option<String> {
    (mode != DEFAULT_FILE_MODE).then(|| format!("mode = {mode:#o}"))
}

pub(super) fn mount(mount: &VolumeMount) -> String {
    let VolumeMount { volume, path, sub_path, read_only } = mount;
    let mut fields = vec![format!("volume = {}", string(volume)), format!("path = {}", string(path))];
    fields.extend(sub_path.as_ref().map(|path| format!("sub_path = {}", string(path))));
    if *read_only {
        fields.push("read_only = true".to_owned());
    }
    inline(&fields)
}
