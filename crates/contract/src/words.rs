//! The contract as plain sentences, for somebody who has to answer for it and does not read TOML.

mod pod;
mod summary;
pub(crate) mod text;

use self::text::{command, cpus, kind, mount, restart, size, user, visible};
use crate::model::{Container, Contract, DEFAULT_PIDS, HostType, Permission};

/// Capabilities that lead out of a container into its pod VM: mounts, kernel modules, raw memory and disks, files by handle.
pub(crate) const REACHING: [&str; 7] =
    ["CAP_BPF", "CAP_DAC_READ_SEARCH", "CAP_MKNOD", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO"];

impl Contract {
    /// Sentences in a fixed order: first the pod, then each container. Plain text, without line breaks inside.
    pub fn plain_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let names: Vec<&str> = self.containers.keys().map(String::as_str).collect();
        words.push(match names.as_slice() {
            [name] => format!("This pod may run one container, {name}, and nothing else."),
            names => format!("This pod may run {} containers and nothing else: {}.", names.len(), names.join(", ")),
        });
        words.push(match &self.broker {
            Some(broker) => format!(
                "It may ask for secrets only at the broker whose TLS key has the SHA-256 fingerprint {}.",
                broker.spki_sha256
            ),
            None => "It may not ask anybody for secrets.".to_owned(),
        });
        if self.debug {
            words.push(
                "DEBUGGING IS ALLOWED: the host can read the guest's console. Do not use this for real data."
                    .to_owned(),
            );
        }
        pod::order(self, &mut words);
        pod::settings(&self.pod, &mut words);
        pod::operator(self.operator.as_ref(), &mut words);
        for (name, volume) in &self.volumes {
            pod::volume(name, volume, &mut words);
        }
        for (name, container) in &self.containers {
            self.words_of(name, container, &mut words);
        }
        words
    }

    fn words_of(&self, name: &str, container: &Container, out: &mut Vec<String>) {
        let mut say = |text: String| out.push(format!("{name}: {text}"));
        let layers = if container.layers.len() == 1 { "layer is" } else { "layers are" };
        say(format!(
            "runs image {} with exactly the content of {}; each block of its {} {layers} checked when it is read.",
            visible(&container.image),
            container.image_digest,
            container.layers.len()
        ));
        say(format!("runs the command {} in {}.", command(&container.args), visible(&container.cwd)));
        let root = if container.is_root() { " (root inside the container)" } else { "" };
        say(format!("runs as {}{root}.", user(&container.user)));
        if container.capabilities.is_empty() {
            say("has no special rights of the system administrator.".to_owned());
        } else {
            say(format!("has these rights of the system administrator: {}.", container.capabilities.join(", ")));
        }
        let reaching: Vec<&str> =
            container.capabilities.iter().map(String::as_str).filter(|c| REACHING.contains(c)).collect();
        if !reaching.is_empty() {
            say(format!("CAN TAKE OVER THE WHOLE POD, and read every secret in it, by {}.", reaching.join(", ")));
        }
        if !container.no_new_privileges {
            say("MAY GAIN RIGHTS by running set-user-id programs of its image.".to_owned());
        }
        let bound = size(container.scratch_bytes);
        say(if container.read_only_root {
            "cannot change its files.".to_owned()
        } else {
            format!("may change its files, up to {bound} in encrypted memory; changes are gone when it ends.")
        });
        for tmpfs in &container.tmpfs {
            say(format!("has {} of scratch memory at {}.", size(tmpfs.size_bytes), visible(&tmpfs.path)));
        }
        for secret in &container.secrets {
            say(format!(
                "gets the secret {} ({}) as the file {}, if the broker agrees.",
                secret.name,
                secret.resource,
                visible(&secret.path)
            ));
        }
        for entry in &container.mounts {
            say(format!("{}.", mount(entry, self.volumes.get(&entry.volume))));
        }
        if container.secret_api {
            say("every program of the pod can also read this container's secrets at http://127.0.0.1:8006.".to_owned());
        }
        say(match container.logs {
            Permission::Allow => "its output leaves the pod, so whoever runs the host can read it.".to_owned(),
            Permission::Deny => "its output does not leave the pod.".to_owned(),
        });
        if container.stdin.allowed() {
            say("reads input that the host gives it.".to_owned());
        }
        if container.terminal {
            say("its input and output are a terminal.".to_owned());
        }
        let operator = self.operator.as_ref().is_some_and(|operator| operator.exec.allowed());
        match (container.exec.is_empty(), operator) {
            (true, false) => say("nobody can start another command in it.".to_owned()),
            (true, true) => say("nobody but the operator can start another command in it.".to_owned()),
            (false, _) => {}
        }
        for args in &container.exec {
            say(format!("the host may also start {} in it.", command(args)));
        }
        if !container.env.is_empty() {
            let names: Vec<&str> = container.env.keys().map(String::as_str).collect();
            say(format!("its environment is fixed: {}.", names.join(", ")));
        }
        for (variable, type_) in &container.env_from_host {
            say(match type_ {
                HostType::Any => format!("THE HOST MAY PUT ANYTHING INTO ITS VARIABLE {variable}."),
                other => format!("the host chooses its variable {variable}: {}.", kind(other)),
            });
        }
        if container.service_links {
            say("the host may add the variables that Kubernetes makes for Services: addresses, ports and protocols."
                .to_owned());
        }
        say(format!("{}.", restart(container.restart)));
        let mut limits = Vec::new();
        limits.extend(container.resources.memory_bytes.map(|bytes| format!("{} of memory", size(bytes))));
        limits.extend(container.resources.cpu_millis.map(cpus));
        if container.resources.pids != DEFAULT_PIDS || limits.is_empty() {
            limits.push(format!("{} processes", container.resources.pids));
        }
        say(format!("is limited to {}.", limits.join(", ")));
    }
}

impl Container {
    /// Whether its process is known to run as root.
    pub(crate) fn is_root(&self) -> bool {
        match &self.user.name {
            None => self.user.uid == 0,
            Some(name) => matches!(name.split(':').next(), Some("root" | "0")),
        }
    }
}
