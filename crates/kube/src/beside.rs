//! ConfigMaps and Secrets that stand beside the workloads in a manifest.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::walk::{At, Report};
use crate::yaml::Node;

/// Where files or values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl Source {
    /// The kind in Kubernetes.
    pub fn kind(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// As `--host-provided` names it: `configmap/NAME`.
    pub fn flag(self, name: &str) -> String {
        format!("{}/{name}", self.kind().to_ascii_lowercase())
    }
}

/// One key of a ConfigMap or Secret.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    /// SHA-256 of the bytes in lowercase hex.
    pub(crate) sha256: String,
    /// The text of a ConfigMap; a Secret's is not kept.
    pub(crate) text: Option<String>,
}

/// Keys of a ConfigMap or Secret.
pub(crate) type Contents = BTreeMap<String, Content>;

/// What stands beside the workloads.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    objects: BTreeMap<(Source, Option<String>, String), Contents>,
    /// Service accounts that say `automountServiceAccountToken: false`.
    silent_accounts: Vec<(Option<String>, String)>,
}

impl Beside {
    pub(crate) fn find(&self, source: Source, namespace: Option<&str>, name: &str) -> Option<&Contents> {
        self.objects.get(&(source, namespace.map(str::to_owned), name.to_owned()))
    }

    pub(crate) fn is_silent_account(&self, namespace: Option<&str>, name: &str) -> bool {
        self.silent_accounts.iter().any(|(space, account)| space.as_deref() == namespace && account == name)
    }

    /// Takes note of an object; true when it is of a kind that counts here.
    pub(crate) fn add(
        &mut self,
        kind: &str,
        namespace: Option<String>,
        name: &str,
        object: &Node,
        report: &Report,
    ) -> bool {
        let source = match kind {
            "ConfigMap" => Source::ConfigMap,
            "Secret" => Source::Secret,
            "ServiceAccount" => {
                let silent = object.at(&["automountServiceAccountToken"]).map(|node| node.value.clone());
                if silent == Some(crate::yaml::Value::Bool(false)) {
                    self.silent_accounts.push((namespace, name.to_owned()));
                }
                return false;
            }
            _ => return false,
        };
        let at = At { report, path: String::new(), node: object };
        let mut contents = Contents::new();
        for (key, plain) in keys_of(source) {
            let Some(node) = object.at(&[key]) else { continue };
            if node.value == crate::yaml::Value::Null {
                continue;
            }
            let at = At { path: key.to_owned(), node, ..at.clone() };
            for (name, at) in at.entries() {
                let Some(text) = at.text() else { continue };
                let content = if plain { Some(text.clone().into_bytes()) } else { decode(&text) };
                let Some(bytes) = content else {
                    at.malformed("standard base64", "other text");
                    continue;
                };
                let text = (source == Source::ConfigMap && plain).then_some(text);
                contents.insert(name, Content { sha256: sha256(&bytes), text });
            }
        }
        self.objects.insert((source, namespace, name.to_owned()), contents);
        true
    }
}

/// Fields with content, and whether they hold plain text; the later ones win.
fn keys_of(source: Source) -> [(&'static str, bool); 2] {
    match source {
        Source::ConfigMap => [("binaryData", false), ("data", true)],
        Source::Secret => [("data", false), ("stringData", true)],
    }
}

/// Base64 as Go reads it: line breaks do not count.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    STANDARD.decode(text).ok()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}
