//! The index of the vectors: a list of entries, whose files lie beside it.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

/// The entries and the folder that their paths are relative to.
#[derive(Clone)]
pub struct Index {
    folder: PathBuf,
    entries: Arc<Vec<Value>>,
}

impl Index {
    /// Reads the index; an error when it is not there.
    pub fn read(folder: &Path) -> std::io::Result<Self> {
        let bytes = std::fs::read(folder.join("vectors.json"))?;
        let entries = serde_json::from_slice(&bytes).expect("the index is a list");
        Ok(Self { folder: folder.to_owned(), entries: Arc::new(entries) })
    }

    /// The entries of one kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.entries.iter().filter(move |entry| entry["kind"] == kind)
    }

    /// The bytes of a file that an entry names.
    pub fn file(&self, name: &Value) -> Vec<u8> {
        std::fs::read(self.folder.join(name.as_str().unwrap())).unwrap()
    }

    /// One entry as a trial; ignored when a file of it is missing.
    pub fn trial(&self, entry: &Value, judge: fn(&Self, &Value) -> Result<(), Failed>) -> Trial {
        let name = format!("{}::{}", entry["kind"].as_str().unwrap(), entry["id"].as_str().unwrap());
        let missing = !self.has(&entry["files"]);
        let (index, entry) = (self.clone(), entry.clone());
        Trial::test(name, move || judge(&index, &entry)).with_ignored_flag(missing)
    }

    fn has(&self, files: &Value) -> bool {
        match files {
            Value::Object(roles) => roles.values().all(|file| self.has(file)),
            file => file.as_str().is_some_and(|file| self.folder.join(file).is_file()),
        }
    }
}

/// DER of a certificate in PEM or DER.
pub fn der(bytes: Vec<u8>) -> Vec<u8> {
    use base64::Engine;
    let Ok(text) = std::str::from_utf8(&bytes) else { return bytes };
    let body: String = text
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"))
        .collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SSZ`.
pub fn seconds(time: &str) -> u64 {
    x509_cert::der::DateTime::from_str(time).unwrap().unix_duration().as_secs()
}
