//! The contract in few lines.

use super::REACHING;
use super::pod::init_order;
use super::text::{command, cpus, few, size, visible};
use crate::model::{Container, Contract, Dns, HostType, Network, Restart, Volume};

/// Most things of one kind that a line names.
const MOST: usize = 4;
/// Longest command or image in a line, in characters.
const LONGEST: usize = 60;

impl Contract {
    /// The whole pod in about ten lines, each a topic and what the contract says about it. Long lists are cut; warnings are not.
    /// [`Contract::plain_words`] says everything.
    pub fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |topic: &str, text: String| lines.push(format!("{topic}: {text}"));
        say("runs", self.say_containers());
        say("as", few(self.containers.iter().map(|(name, container)| say_user(name, container)), MOST));
        say("secrets", self.say_secrets());
        say("network", self.say_network());
        let files = self.say_files();
        if !files.is_empty() {
            say("files", files);
        }
        say("the host chooses", self.say_delegated());
        say("output", self.say_output());
        say("commands from outside", self.say_exec());
        say("limits", self.say_limits());
        for warning in self.say_warnings() {
            say("WARNING", warning);
        }
        lines
    }

    fn say_containers(&self) -> String {
        let init = init_order(self);
        let one = |name: &str, container: &Container| {
            format!("{name} ({}: {})", shorten(&visible(&container.image)), shorten(&command(&container.args)))
        };
        let others = self.containers.iter().filter(|(_, container)| container.init == 0);
        let mut text = few(others.map(|(name, container)| one(name, container)), MOST);
        if !init.is_empty() {
            let init = init.iter().filter_map(|name| Some(one(name, self.containers.get(*name)?)));
            text.push_str(&format!("; before, in order: {}", few(init, MOST)));
        }
        text
    }

    fn say_secrets(&self) -> String {
        let secrets = self.containers.iter().flat_map(|(name, container)| {
            container.secrets.iter().map(move |secret| format!("{} to {name}", secret.resource))
        });
        let secrets: Vec<String> = secrets.collect();
        match &self.broker {
            Some(broker) if secrets.is_empty() => format!("none in files; broker {}", fingerprint(&broker.spki_sha256)),
            Some(broker) => {
                format!("{}; only from the broker {}", few(secrets, MOST), fingerprint(&broker.spki_sha256))
            }
            None => "none".to_owned(),
        }
    }

    fn say_network(&self) -> String {
        let mut parts = vec![match self.pod.network {
            Network::None => "none".to_owned(),
            Network::Host => "the host's: it can read, change and drop what is not encrypted".to_owned(),
        }];
        match &self.pod.dns {
            Dns::None => {}
            Dns::Host => parts.push("name servers from the host".to_owned()),
            Dns::Fixed(fixed) => {
                parts.push(format!(
                    "fixed name servers {}",
                    few(fixed.nameservers.iter().map(ToString::to_string), MOST)
                ));
            }
        }
        if !self.pod.ports.is_empty() {
            parts.push(format!("the host may connect to {}", few(self.pod.ports.iter().map(u16::to_string), MOST)));
        }
        parts.join("; ")
    }

    fn say_files(&self) -> String {
        let volumes = self.volumes.iter().map(|(name, volume)| match volume {
            Volume::Scratch { size_bytes } => format!("{name} (shared memory, {})", size(*size_bytes)),
            Volume::Measured { files } => format!("{name} ({} fixed files)", files.len()),
            Volume::Host { files, others: false } => format!("{name} ({} files from the host)", files.len()),
            Volume::Host { others: true, .. } => format!("{name} (any files from the host)"),
        });
        few(volumes, MOST)
    }

    /// All that the host may choose a value of.
    fn say_delegated(&self) -> String {
        let mut parts = Vec::new();
        if self.pod.hostname_from_host {
            parts.push("the host name".to_owned());
        }
        for (name, container) in &self.containers {
            let typed = container.env_from_host.iter().map(|(variable, kind)| format!("{variable} of {name} ({kind})"));
            parts.extend(typed);
            if container.service_links {
                parts.push(format!("Service variables of {name}"));
            }
        }
        for (name, volume) in &self.volumes {
            if let Volume::Host { files, .. } = volume {
                parts.extend(files.iter().map(|(path, file)| format!("{name}/{} ({})", visible(path), file.kind)));
            }
        }
        if parts.is_empty() { "nothing".to_owned() } else { few(parts, 2 * MOST) }
    }

    fn say_output(&self) -> String {
        let of = |allowed: bool| {
            let names = self.containers.iter().filter(move |(_, container)| container.logs.allowed() == allowed);
            few(names.map(|(name, _)| name.clone()), MOST)
        };
        let mut parts = Vec::new();
        for (names, text) in [(of(true), "can be read by the host"), (of(false), "does not leave")] {
            if !names.is_empty() {
                parts.push(format!("that of {names} {text}"));
            }
        }
        if self.operator.as_ref().is_some_and(|operator| operator.logs.allowed()) {
            parts.push("the operator reads all of it".to_owned());
        }
        parts.join("; ")
    }

    fn say_exec(&self) -> String {
        let listed = self.containers.iter().flat_map(|(name, container)| {
            container.exec.iter().map(move |args| format!("{} in {name}", shorten(&command(args))))
        });
        let mut parts: Vec<String> = vec![few(listed, MOST)];
        parts.retain(|part| !part.is_empty());
        if let Some(operator) = self.operator.as_ref().filter(|operator| operator.exec.allowed()) {
            parts.push(format!("ANY by the operator {}", fingerprint(&operator.spki_sha256)));
        }
        let input = self.containers.iter().filter(|(_, container)| container.stdin.allowed());
        let input = few(input.map(|(name, _)| name.clone()), MOST);
        if !input.is_empty() {
            parts.push(format!("input of {input} comes from the host"));
        }
        if parts.is_empty() { "none".to_owned() } else { parts.join("; ") }
    }

    fn say_limits(&self) -> String {
        let needs = self.needs();
        let again = |wanted: Restart| {
            let names = self.containers.iter().filter(move |(_, container)| container.restart == wanted);
            few(names.map(|(name, _)| name.clone()), MOST)
        };
        let mut text = format!("needs {} of memory and {}", size(needs.memory_bytes), cpus(needs.cpu_millis));
        for (restart, when) in [(Restart::Always, "always"), (Restart::OnFailure, "when failed")] {
            let names = again(restart);
            if !names.is_empty() {
                text.push_str(&format!("; started again {when}: {names}"));
            }
        }
        text
    }

    fn say_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.debug {
            warnings.push("DEBUGGING IS ALLOWED, the host can read the guest's console".to_owned());
        }
        for (name, container) in &self.containers {
            let held: Vec<String> =
                container.capabilities.iter().filter(|c| REACHING.contains(&c.as_str())).cloned().collect();
            if !held.is_empty() {
                warnings.push(format!("{name} CAN TAKE OVER THE WHOLE POD by {}", held.join(", ")));
            }
            if container.secret_api {
                warnings
                    .push(format!("every program of the pod can read the secrets of {name} at http://127.0.0.1:8006"));
            }
        }
        let of_env = self.containers.iter().flat_map(|(name, container)| {
            let any = container.env_from_host.iter().filter(|(_, kind)| **kind == HostType::Any);
            any.map(move |(variable, _)| format!("the variable {variable} of {name}"))
        });
        let of_files = self.volumes.iter().flat_map(|(name, volume)| {
            let (files, others) = match volume {
                Volume::Host { files, others } => (Some(files), *others),
                _ => (None, false),
            };
            let any = files.into_iter().flatten().filter(|(_, file)| file.kind == HostType::Any);
            any.map(move |(path, _)| format!("the file {name}/{}", visible(path)))
                .chain(others.then(|| format!("any file of {name}")))
        });
        let any: Vec<String> = of_env.chain(of_files).collect();
        if !any.is_empty() {
            warnings.push(format!("THE HOST MAY PUT ANYTHING INTO {}", any.join(", ")));
        }
        warnings
    }
}

fn say_user(name: &str, container: &Container) -> String {
    let user = match (&container.user.name, container.is_root()) {
        (_, true) => "root".to_owned(),
        (Some(user), false) => format!("user {user}"),
        (None, false) => format!("user {}:{}", container.user.uid, container.user.gid),
    };
    let mut parts = vec![user];
    if !container.capabilities.is_empty() {
        let rights = container.capabilities.iter().map(|c| c.strip_prefix("CAP_").unwrap_or(c).to_lowercase());
        parts.push(format!("with {}", few(rights, MOST)));
    }
    if container.read_only_root {
        parts.push("read-only".to_owned());
    }
    if !container.no_new_privileges {
        parts.push("MAY GAIN RIGHTS".to_owned());
    }
    format!("{name} {}", parts.join(" "))
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(LONGEST).collect();
    out.push('…');
    out
}

/// The first digits of a key's fingerprint, to be recognised; the sentences have all of it.
fn fingerprint(digits: &str) -> String {
    format!("{}…", digits.get(..16).unwrap_or(digits))
}
