//! Contract to TOML: one byte string per contract, so that equal contracts have equal digests.
//!
//! Rules: keys in the order of [`crate::model`], but `debug` second; a key that has its default value is left out; tables are
//! `[broker]`, `[pod]`, `[pod.host_aliases]`, `[pod.sysctls]`, `[operator]`, `[volumes.NAME]`, `[volumes.NAME.files]`,
//! `[containers.NAME]`, `[containers.NAME.env]` and `[containers.NAME.env_from_host]`, in this order and only where something
//! stands in them, everything else is inline; names in byte order, addresses in numeric order; modes in octal;
//! basic strings that escape `"`, `\` and control characters; one `\n` at the end of each line; no comments.

mod pod;

use std::fmt::Write;

use crate::model::{
    Container, Contract, DEFAULT_PIDS, DEFAULT_SCRATCH, DEFAULT_SECRET_MODE, DEFAULT_TMPFS_MODE, Permission, Resources,
    Restart, Tmpfs, User,
};

impl Contract {
    /// The canonical form. For a contract that passes [`Contract::check`], `parse(to_toml(x)) == x`.
    pub fn to_toml(&self) -> String {
        let mut out = Lines(String::new());
        out.line("version", &self.version.to_string());
        if self.debug {
            out.line("debug", "true");
        }
        if let Some(broker) = &self.broker {
            out.table("broker");
            out.line("spki_sha256", &string(&broker.spki_sha256));
        }
        pod::settings(&self.pod, &mut out);
        if let Some(operator) = &self.operator {
            pod::operator(operator, &mut out);
        }
        for (name, volume) in &self.volumes {
            pod::volume(&key(name), volume, &mut out);
        }
        for (name, container) in &self.containers {
            let table = format!("containers.{}", key(name));
            out.table(&table);
            container.write(name, &mut out);
            out.entries(&format!("{table}.env"), container.env.iter().map(|(name, value)| (key(name), string(value))));
            let from_host = container.env_from_host.iter().map(|(name, kind)| (key(name), string(&kind.to_string())));
            out.entries(&format!("{table}.env_from_host"), from_host);
        }
        out.0
    }
}

impl Container {
    fn write(&self, name: &str, out: &mut Lines) {
        out.line("image", &string(&self.image));
        out.line("image_digest", &string(&self.image_digest));
        out.array(
            "layers",
            self.layers.iter().map(|layer| {
                let (root, salt) = (string(&layer.verity_root), string(&layer.salt));
                format!("{{ verity_root = {root}, salt = {salt}, data_blocks = {} }}", layer.data_blocks)
            }),
        );
        out.line("args", &strings(&self.args));
        if self.cwd != "/" {
            out.line("cwd", &string(&self.cwd));
        }
        if self.user != User::default() {
            out.line("user", &user(&self.user));
        }
        if !self.capabilities.is_empty() {
            out.line("capabilities", &strings(&self.capabilities));
        }
        if !self.no_new_privileges {
            out.line("no_new_privileges", "false");
        }
        if self.read_only_root {
            out.line("read_only_root", "true");
        }
        if !self.tmpfs.is_empty() {
            out.array("tmpfs", self.tmpfs.iter().map(tmpfs));
        }
        if self.scratch_bytes != DEFAULT_SCRATCH {
            out.line("scratch_bytes", &self.scratch_bytes.to_string());
        }
        if self.resources != Resources::default() {
            out.line("resources", &resources(&self.resources));
        }
        if !self.secrets.is_empty() {
            out.array(
                "secrets",
                self.secrets.iter().map(|secret| {
                    let mut fields = vec![
                        format!("name = {}", string(&secret.name)),
                        format!("resource = {}", string(&secret.resource)),
                        format!("path = {}", string(&secret.path)),
                    ];
                    if secret.mode != DEFAULT_SECRET_MODE {
                        fields.push(format!("mode = {:#o}", secret.mode));
                    }
                    inline(&fields)
                }),
            );
        }
        out.permission("logs", self.logs);
        out.permission("stdin", self.stdin);
        if !self.exec.is_empty() {
            out.array("exec", self.exec.iter().map(|args| strings(args)));
        }
        if self.secret_api {
            out.line("secret_api", "true");
        }
        if self.hostname != name {
            out.line("hostname", &string(&self.hostname));
        }
        if self.terminal {
            out.line("terminal", "true");
        }
        if self.init != 0 {
            out.line("init", &self.init.to_string());
        }
        match self.restart {
            Restart::Never => {}
            Restart::OnFailure => out.line("restart", "\"on-failure\""),
            Restart::Always => out.line("restart", "\"always\""),
        }
        if self.service_links {
            out.line("service_links", "true");
        }
        if !self.mounts.is_empty() {
            out.array("mounts", self.mounts.iter().map(pod::mount));
        }
    }
}

fn user(user: &User) -> String {
    let mut fields = match &user.name {
        Some(name) => vec![format!("name = {}", string(name))],
        None => vec![format!("uid = {}", user.uid), format!("gid = {}", user.gid)],
    };
    if !user.additional_gids.is_empty() {
        let gids: Vec<String> = user.additional_gids.iter().map(u32::to_string).collect();
        fields.push(format!("additional_gids = [{}]", gids.join(", ")));
    }
    inline(&fields)
}

fn tmpfs(tmpfs: &Tmpfs) -> String {
    let mut fields = vec![format!("path = {}", string(&tmpfs.path))];
    if tmpfs.size_bytes != DEFAULT_SCRATCH {
        fields.push(format!("size_bytes = {}", tmpfs.size_bytes));
    }
    if tmpfs.mode != DEFAULT_TMPFS_MODE {
        fields.push(format!("mode = {:#o}", tmpfs.mode));
    }
    inline(&fields)
}

fn resources(resources: &Resources) -> String {
    let mut fields = Vec::new();
    fields.extend(resources.memory_bytes.map(|bytes| format!("memory_bytes = {bytes}")));
    fields.extend(resources.cpu_millis.map(|millis| format!("cpu_millis = {millis}")));
    if resources.pids != DEFAULT_PIDS {
        fields.push(format!("pids = {}", resources.pids));
    }
    inline(&fields)
}

fn inline(fields: &[String]) -> String {
    format!("{{ {} }}", fields.join(", "))
}

fn strings(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| string(item)).collect();
    format!("[{}]", items.join(", "))
}

/// A bare key where TOML allows one, else a quoted one.
pub(crate) fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { name.to_owned() } else { string(name) }
}

/// A TOML basic string (TOML 1.0, section "String").
pub(crate) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Text under construction.
struct Lines(String);

impl Lines {
    fn line(&mut self, key: &str, value: &str) {
        for part in [key, " = ", value, "\n"] {
            self.0.push_str(part);
        }
    }

    fn permission(&mut self, key: &str, permission: Permission) {
        if permission.allowed() {
            self.line(key, "\"allow\"");
        }
    }

    /// A table with these keys and values, left out when there are none.
    fn entries(&mut self, name: &str, entries: impl ExactSizeIterator<Item = (String, String)>) {
        if entries.len() > 0 {
            self.table(name);
            for (key, value) in entries {
                self.line(&key, &value);
            }
        }
    }

    fn table(&mut self, name: &str) {
        for part in ["\n[", name, "]\n"] {
            self.0.push_str(part);
        }
    }

    fn array(&mut self, key: &str, items: impl Iterator<Item = String>) {
        for part in [key, " = [\n"] {
            self.0.push_str(part);
        }
        for item in items {
            for part in ["  ", &item, ",\n"] {
                self.0.push_str(part);
            }
        }
        self.0.push_str("]\n");
    }
}
