//! Belljar's own annotations in a pod template: what Kubernetes has no field for.

use std::collections::BTreeMap;

use belljar_contract::model::DEFAULT_SECRET_MODE;
use belljar_contract::{Operator, Permission, Secret};

use crate::error::Reason;
use crate::shell;
use crate::walk::At;

/// Prefix of Belljar's annotations.
pub const PREFIX: &str = "belljar.dev/";
/// The broker's address, `https://host:port`: a hint for the host. Written by `belljar apply`.
pub const BROKER: &str = "belljar.dev/broker";

/// Prefixes of annotations that ask another runtime for something; nobody here honours them.
const FOREIGN: [(&str, &str); 4] = [
    ("io.katacontainers.", "it configures Kata Containers; remove it"),
    ("seccomp.security.alpha.kubernetes.io/", "use securityContext.seccompProfile instead"),
    ("container.seccomp.security.alpha.kubernetes.io/", "use securityContext.seccompProfile instead"),
    ("container.apparmor.security.beta.kubernetes.io/", "the guest has no AppArmor; remove it"),
];

/// What the annotations say.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) logs: Option<Permission>,
    pub(crate) operator: Option<Operator>,
    pub(crate) containers: BTreeMap<String, ContainerWishes>,
    /// Annotations as they are, without those that generation writes.
    pub(crate) all: BTreeMap<String, String>,
}

/// What the annotations say of one container.
#[derive(Debug, Default)]
pub(crate) struct ContainerWishes {
    pub(crate) logs: Option<Permission>,
    pub(crate) exec: Vec<Vec<String>>,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) secret_api: bool,
}

impl Wishes {
    /// Reads the template's annotations.
    pub(crate) fn read(annotations: Option<At<'_>>, containers: &[String]) -> Self {
        let mut wishes = Self::default();
        for (key, at) in annotations.iter().flat_map(At::entries) {
            let Some(text) = at.text() else { continue };
            if key == belljar_contract::disk::ANNOTATION || key == BROKER {
                continue;
            }
            if let Some((_, why)) = FOREIGN.iter().find(|(prefix, _)| key.starts_with(prefix)) {
                at.refuse(*why);
            }
            if let Some(name) = key.strip_prefix(PREFIX) {
                wishes.own(name, &text, &at, containers);
            }
            wishes.all.insert(key, text);
        }
        wishes
    }

    fn own(&mut self, name: &str, text: &str, at: &At<'_>, containers: &[String]) {
        let (verb, container) = name.split_once('.').map_or((name, None), |(verb, rest)| (verb, Some(rest)));
        match (verb, container) {
            ("logs", None) => self.logs = permission(text, at),
            ("operator", None) => self.operator = operator(text, at),
            ("logs" | "exec" | "secret" | "secret-api", Some(name)) => {
                if !containers.iter().any(|known| known == name) {
                    at.malformed(format!("one of the pod's containers ({}) in its name", containers.join(", ")), name);
                    return;
                }
                let wishes = self.containers.entry(name.to_owned()).or_default();
                match verb {
                    "logs" => wishes.logs = permission(text, at),
                    "exec" => wishes.exec = commands(text, at),
                    "secret" => wishes.secrets = secrets(text, at),
                    _ => match text.trim() {
                        "true" => wishes.secret_api = true,
                        "false" => {}
                        other => at.malformed("\"true\" or \"false\"", other),
                    },
                }
            }
            _ => at.problem(Reason::Unknown),
        }
    }
}

fn permission(text: &str, at: &At<'_>) -> Option<Permission> {
    match text.trim() {
        "allow" => Some(Permission::Allow),
        "deny" => Some(Permission::Deny),
        other => {
            at.malformed("\"allow\" or \"deny\"", other);
            None
        }
    }
}

/// `SHA256HEX [exec] [logs]`.
fn operator(text: &str, at: &At<'_>) -> Option<Operator> {
    let mut words = text.split_whitespace();
    let spki_sha256 = words.next().unwrap_or_default().to_owned();
    let mut operator = Operator { spki_sha256, exec: Permission::Deny, logs: Permission::Deny };
    let is_key = operator.spki_sha256.len() == 64
        && operator.spki_sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    for word in words.by_ref() {
        match word {
            "exec" => operator.exec = Permission::Allow,
            "logs" => operator.logs = Permission::Allow,
            _ => {
                at.malformed("the key's SHA-256 in 64 lowercase hex digits, then `exec`, `logs` or both", text);
                return None;
            }
        }
    }
    let may_something = operator.exec.allowed() || operator.logs.allowed();
    if !is_key || !may_something {
        at.malformed("the key's SHA-256 in 64 lowercase hex digits, then `exec`, `logs` or both", text);
        return None;
    }
    Some(operator)
}

/// One command a line, split as a shell splits it.
fn commands(text: &str, at: &At<'_>) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match shell::split(line) {
            Some(command) if !command.is_empty() => commands.push(command),
            _ => at.malformed("one command a line, quoted for a shell, without expansions", line),
        }
    }
    commands
}

/// `NAME=kbs:///repository/type/tag [PATH]` a line.
fn secrets(text: &str, at: &At<'_>) -> Vec<Secret> {
    let mut secrets = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let (path, rest) = (words.next(), words.next());
        match (first.split_once('='), rest) {
            (Some((name, resource)), None) if !name.is_empty() && resource.starts_with("kbs:///") => {
                let path = path.map_or_else(|| format!("/run/secrets/{name}"), str::to_owned);
                let (name, resource) = (name.to_owned(), resource.to_owned());
                secrets.push(Secret { name, resource, path, mode: DEFAULT_SECRET_MODE });
            }
            _ => at.malformed("NAME=kbs:///repository/type/tag, and perhaps a path, one a line", line),
        }
    }
    secrets
}

/// For documentation and its test: what each annotation does.
pub const OWN: [(&str, &str); 6] = [
    ("belljar.dev/logs", "allow or deny: whether stdout and stderr of the containers may leave the pod"),
    ("belljar.dev/logs.NAME", "the same for container NAME"),
    ("belljar.dev/exec.NAME", "commands that may be started in container NAME, one a line"),
    ("belljar.dev/secret.NAME", "secrets of container NAME, one a line: NAME=kbs:///repository/type/tag [PATH]"),
    ("belljar.dev/secret-api.NAME", "\"true\": the REST interface for secrets on 127.0.0.1:8006"),
    (
        "belljar.dev/operator",
        "SHA-256 of the key of whoever may use `belljar exec` and `belljar logs`, then exec, logs",
    ),
];
