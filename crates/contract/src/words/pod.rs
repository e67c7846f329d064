//! Sentences about what containers share.

use super::text::{kind, resolver, size, visible};
use crate::model::{Contract, Dns, HostType, Network, Operator, PodSettings, Volume};

/// Init containers, and what comes after them; nothing when there are none.
pub(super) fn order(contract: &Contract, out: &mut Vec<String>) {
    let init = init_order(contract);
    if !init.is_empty() {
        let others = contract.containers.iter().filter(|(_, container)| container.init == 0);
        let others: Vec<&str> = others.map(|(name, _)| name.as_str()).collect();
        out.push(format!(
            "First it runs, one after the other and each to a good end: {}. Only then: {}.",
            init.join(", "),
            others.join(", ")
        ));
    }
}

/// Names of the init containers in their order.
pub(super) fn init_order(contract: &Contract) -> Vec<&str> {
    let init = contract.containers.iter().filter(|(_, container)| container.init != 0);
    let mut init: Vec<(u32, &str)> = init.map(|(name, container)| (container.init, name.as_str())).collect();
    init.sort_unstable();
    init.into_iter().map(|(_, name)| name).collect()
}

pub(super) fn settings(pod: &PodSettings, out: &mut Vec<String>) {
    let PodSettings { network, hostname_from_host, dns, host_aliases, ports, sysctls } = pod;
    let mut say = |text: String| out.push(text);
    say(match network {
        Network::None => "It has no network.".to_owned(),
        Network::Host => {
            "Its network is in the host's hands: the host chooses its addresses and routes, and can read, change \
                          and drop all that is not encrypted by the programs themselves."
                .to_owned()
        }
    });
    if *hostname_from_host {
        say("The host chooses its host name, a DNS label.".to_owned());
    }
    match dns {
        Dns::None => {}
        Dns::Host => say("The host chooses its name servers, so names lead where the host wants.".to_owned()),
        Dns::Fixed(fixed) => say(format!("It asks these name servers: {}.", resolver(fixed))),
    }
    for (address, names) in host_aliases {
        say(format!("The names {} always mean {address}.", names.join(", ")));
    }
    if !ports.is_empty() {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        say(format!("The host may connect to the ports {} of its loopback interface.", ports.join(", ")));
    }
    for (name, value) in sysctls {
        say(format!("Its kernel runs with {name} = {}.", visible(value)));
    }
}

pub(super) fn operator(operator: Option<&Operator>, out: &mut Vec<String>) {
    let Some(Operator { spki_sha256, exec, logs }) = operator else { return };
    let who = format!("whoever holds the operator's TLS key with the SHA-256 fingerprint {spki_sha256}");
    out.push(match (exec.allowed(), logs.allowed()) {
        (true, true) => {
            format!("ANY COMMAND in any container may be run, and all output read, past the host, by {who}.")
        }
        (true, false) => format!("ANY COMMAND in any container may be run, past the host, by {who}."),
        (false, true) => format!("All output of its containers may be read, past the host, by {who}."),
        (false, false) => format!("An operator is named, and may neither run commands nor read output: {who}."),
    });
}

pub(super) fn volume(name: &str, volume: &Volume, out: &mut Vec<String>) {
    match volume {
        Volume::Scratch { size_bytes } => out.push(format!(
            "The volume {name} is empty at first: up to {} of encrypted memory that its containers share.",
            size(*size_bytes)
        )),
        Volume::Measured { files } => {
            let files: Vec<String> = files.keys().map(|path| visible(path)).collect();
            let list = if files.is_empty() { "none".to_owned() } else { files.join(", ") };
            out.push(format!(
                "The volume {name} holds exactly these files, and the guest refuses any other content: {list}."
            ));
        }
        Volume::Host { files, others } => {
            for (path, file) in files {
                let missing = if file.optional { ", or leaves it out" } else { "" };
                let path = visible(path);
                out.push(match &file.kind {
                    HostType::Any => {
                        format!("THE HOST MAY PUT ANYTHING INTO THE FILE {path} of the volume {name}, now and later{missing}.")
                    }
                    other => format!(
                        "The host chooses the file {path} of the volume {name}, now and later: {}{missing}.",
                        kind(other)
                    ),
                });
            }
            if *others {
                out.push(format!(
                    "THE HOST MAY PUT FILES OF ANY NAME AND CONTENT into the volume {name}, now and later."
                ));
            }
        }
    }
}
