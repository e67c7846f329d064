//! `belljar collateral bundle`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use belljar_collateral::{Bundle as Signed, BundleKey, Document, Item, MAX_KEY};
use clap::Args;
use zeroize::Zeroizing;

use super::{CacheOption, Terms};
use crate::collateral::listing::Row;
use crate::collateral::store;
use crate::evidence::file;
use crate::failure::Failure;
use crate::output::{Format, json, print};
use crate::paths::Paths;

/// What to bundle.
#[derive(Debug, Args)]
pub struct Bundle {
    /// Private key that signs: Ed25519 or P-256, PKCS#8 in PEM, readable by its owner alone
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Make that key, and its public half in FILE.pub
    #[arg(long)]
    new_key: bool,
    /// The bundle
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// This item alone, by its name; may be given several times (default: all of the cache that is not stale)
    #[arg(long, value_name = "NAME")]
    item: Vec<Item>,
    /// Take a directory of plain files in place of the cache
    #[arg(long, value_name = "DIR", conflicts_with = "cache")]
    from: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheOption,
    #[command(flatten)]
    terms: Terms,
}

impl Bundle {
    /// Carries the verb out.
    pub fn execute(&self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let all = match &self.from {
            Some(directory) => store::open(directory, None, "--key")?,
            None => store::cached(&self.cache.open(paths))?,
        };
        let (chosen, left_out) = self.choose(all)?;
        let key = if self.new_key { make_key(&self.key)? } else { read_key(&self.key)? };
        let bundle = Signed::new(chosen);
        let bytes = bundle.sign(&key).map_err(Failure::usage)?;
        write(&self.out, &bytes)?;
        let id = key.public().map_err(Failure::undecided)?.id();
        match format {
            Format::Json => json(&serde_json::json!({
                "file": self.out, "key_id": id, "left_out": left_out,
                "items": bundle.documents.iter().map(|document| document.item.to_string()).collect::<Vec<_>>(),
            }))?,
            Format::Text => {
                print(&format!("{}: {} items, signed by key {id}\n", self.out.display(), bundle.documents.len()))?;
                for reason in &left_out {
                    eprintln!("belljar: left out {reason}");
                }
            }
        }
        Ok(0)
    }

    /// What goes in, and what does not. What was named must go in.
    fn choose(&self, all: Vec<Document>) -> Result<(Vec<Document>, Vec<String>), Failure> {
        let (anchors, at, grace) = (self.terms.anchors()?, self.terms.at()?, self.terms.grace());
        let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
        for item in &self.item {
            if !all.iter().any(|document| document.item == *item) {
                return Err(Failure::undecided(format!("{item} is not stored"))
                    .hint(format!("run `belljar collateral fetch --item {item}`")));
            }
        }
        for document in all {
            if !self.item.is_empty() && !self.item.contains(&document.item) {
                continue;
            }
            let row = Row::of(&document, &anchors, at, grace);
            if row.is_good() {
                chosen.push(document);
                continue;
            }
            let why = row.error.unwrap_or_else(|| "it is stale".to_owned());
            if !self.item.is_empty() {
                return Err(
                    Failure::refused(format!("{}: {why}", document.item)).hint("fetch it again, or leave it out")
                );
            }
            left_out.push(format!("{}: {why}", document.item));
        }
        if chosen.is_empty() {
            return Err(Failure::undecided("nothing to bundle")
                .hint("run `belljar collateral fetch`")
                .details(left_out));
        }
        Ok((chosen, left_out))
    }
}

fn make_key(path: &Path) -> Result<BundleKey, Failure> {
    let failed =
        |path: &Path, error: &std::io::Error| Failure::usage(format!("cannot make {}: {error}", path.display()));
    let (key, text) = BundleKey::generate().map_err(Failure::undecided)?;
    let public = key.public().map_err(Failure::undecided)?.to_pem();
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    for (path, text, mode) in [(path, text.as_str(), 0o600), (Path::new(&name), public.as_str(), 0o644)] {
        // An older key is never replaced: bundles that it signed could not be opened any more.
        let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let written = made.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| failed(path, &error))?;
    }
    Ok(key)
}

fn read_key(path: &Path) -> Result<BundleKey, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let mode = std::fs::metadata(path).map_err(|error| wrong(&error))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(wrong(&format!("mode {mode:o}: others may use the key")).hint("chmod 600 it"));
    }
    let text = Zeroizing::new(file::read_most(path, MAX_KEY)?);
    BundleKey::from_pem(&text).map_err(|error| wrong(&error))
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| Failure::usage(format!("cannot write {}: {error}", path.display()));
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let making = PathBuf::from(name);
    let made = OpenOptions::new().write(true).create_new(true).open(&making);
    let written = made.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    let moved = written.and_then(|()| std::fs::rename(&making, path));
    if moved.is_err() {
        let _ = std::fs::remove_file(&making);
    }
    moved.map_err(|error| failed(&error))
}
