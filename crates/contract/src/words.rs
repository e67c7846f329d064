//! The contract as plain sentences, for somebody who has to answer for it and does not read TOML.

use crate::model::{Container, Contract, DEFAULT_PIDS, Permission, User};

/// Capabilities that lead out of a container into its pod VM: mounts, kernel modules, raw memory and disks, files by handle.
const REACHING: [&str; 7] =
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
        for (name, container) in &self.containers {
            container.words(name, &mut words);
        }
        words
    }
}

impl Container {
    fn words(&self, name: &str, out: &mut Vec<String>) {
        let mut say = |text: String| out.push(format!("{name}: {text}"));
        let layers = if self.layers.len() == 1 { "layer is" } else { "layers are" };
        say(format!(
            "runs image {} with exactly the content of {}; each block of its {} {layers} checked when it is read.",
            visible(&self.image),
            self.image_digest,
            self.layers.len()
        ));
        say(format!("runs the command {} in {}.", command(&self.args), visible(&self.cwd)));
        let root = if self.is_root() { " (root inside the container)" } else { "" };
        say(format!("runs as {}{root}.", user(&self.user)));
        if self.capabilities.is_empty() {
            say("has no special rights of the system administrator.".to_owned());
        } else {
            say(format!("has these rights of the system administrator: {}.", self.capabilities.join(", ")));
        }
        let reaching: Vec<&str> =
            self.capabilities.iter().map(String::as_str).filter(|c| REACHING.contains(c)).collect();
        if !reaching.is_empty() {
            say(format!("CAN TAKE OVER THE WHOLE POD, and read every secret in it, by {}.", reaching.join(", ")));
        }
        if !self.no_new_privileges {
            say("MAY GAIN RIGHTS by running set-user-id programs of its image.".to_owned());
        }
        let bound = size(self.scratch_bytes);
        say(if self.read_only_root {
            "cannot change its files.".to_owned()
        } else {
            format!("may change its files, up to {bound} in encrypted memory; changes are gone when it ends.")
        });
        for tmpfs in &self.tmpfs {
            say(format!("has {} of scratch memory at {}.", size(tmpfs.size_bytes), visible(&tmpfs.path)));
        }
        for secret in &self.secrets {
            say(format!(
                "gets the secret {} ({}) as the file {}, if the broker agrees.",
                secret.name,
                secret.resource,
                visible(&secret.path)
            ));
        }
        if self.secret_api {
            say("every program of the pod can also read this container's secrets at http://127.0.0.1:8006.".to_owned());
        }
        say(match self.logs {
            Permission::Allow => "its output leaves the pod, so whoever runs the host can read it.".to_owned(),
            Permission::Deny => "its output does not leave the pod.".to_owned(),
        });
        if self.stdin.allowed() {
            say("reads input that the host gives it.".to_owned());
        }
        if self.exec.is_empty() {
            say("nobody can start another command in it.".to_owned());
        }
        for args in &self.exec {
            say(format!("the host may also start {} in it.", command(args)));
        }
        if !self.env.is_empty() {
            let names: Vec<&str> = self.env.keys().map(String::as_str).collect();
            say(format!("its environment is fixed: {}.", names.join(", ")));
        }
        let mut limits = Vec::new();
        limits.extend(self.resources.memory_bytes.map(|bytes| format!("{} of memory", size(bytes))));
        limits.extend(self.resources.cpu_millis.map(cpus));
        if self.resources.pids != DEFAULT_PIDS || limits.is_empty() {
            limits.push(format!("{} processes", self.resources.pids));
        }
        say(format!("is limited to {}.", limits.join(", ")));
    }

    fn is_root(&self) -> bool {
        match &self.user.name {
            None => self.user.uid == 0,
            Some(name) => matches!(name.split(':').next(), Some("root" | "0")),
        }
    }
}

fn user(user: &User) -> String {
    let mut text = match &user.name {
        Some(name) => format!("user {name}, as the image's own user list defines it"),
        None => format!("user {}, group {}", user.uid, user.gid),
    };
    if !user.additional_gids.is_empty() {
        let gids: Vec<String> = user.additional_gids.iter().map(u32::to_string).collect();
        text.push_str(&format!(" and also groups {}", gids.join(", ")));
    }
    text
}

/// A command so that a person can read it and a shell would split it the same way.
fn command(args: &[String]) -> String {
    let plain =
        |arg: &str| !arg.is_empty() && arg.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b));
    let quote = |arg: &String| {
        if plain(arg) { arg.clone() } else { format!("'{}'", visible(arg).replace('\'', "'\\''")) }
    };
    args.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Text without control characters, and without characters that change the order in which it is read.
fn visible(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().flat_map(|c| if hidden(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// `1 CPU`, `0.5 CPUs`, `2.25 CPUs`.
fn cpus(millis: u64) -> String {
    let fraction = format!("{:03}", millis % 1000);
    match (millis, fraction.trim_end_matches('0')) {
        (1000, _) => "1 CPU".to_owned(),
        (_, "") => format!("{} CPUs", millis / 1000),
        (_, fraction) => format!("{}.{fraction} CPUs", millis / 1000),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes.is_multiple_of(*unit) && bytes > 0) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_said_as_people_say_them() {
        assert_eq!(cpus(1000), "1 CPU");
        assert_eq!(cpus(500), "0.5 CPUs");
        assert_eq!(cpus(2250), "2.25 CPUs");
        assert_eq!(cpus(16_000), "16 CPUs");
    }
}
