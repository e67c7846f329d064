//! Programs, guest image and the shim's configuration on the node. Each is complete under its name, or not there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use belljar_guest_image::{GuestImage, ImageError};
use toml::Table;

use crate::files::{self, FileError, at};
use crate::handlers::HANDLERS;
use crate::install::Step;
use crate::layout::Layout;

/// First line of the shim's configuration when it is ours.
const OURS: &str =
    "# Written by `belljar node install`, which overwrites it. Delete this line to keep the file as it is.";
const MANIFEST: &str = "manifest.json";
const CURRENT: &str = "current";
const MAX_CONFIG: u64 = 256 << 10;

/// Where the programs and the guest image come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A folder with `belljar` and `containerd-shim-belljar-v2`.
    pub bin: PathBuf,
    /// A folder with guest images and the link `current`, or one guest image.
    pub guest: PathBuf,
}

/// Why something could not be put in place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// A program is not there.
    #[error("{0} is missing; build it (cargo build --release), or name the programs' folder with --bin")]
    NoProgram(PathBuf),
    /// The guest image is none.
    #[error(transparent)]
    Guest(#[from] ImageError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The shim's configuration of somebody else is none.
    #[error("{path} is not ours and cannot be read: {why}; correct it")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// What the shim is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ShimConfig {
    /// Whether handler `belljar` may take the software TEE.
    pub software: bool,
    /// Broker of pods that name none.
    pub broker: Option<String>,
    /// containerd's content store, where it is not the usual one.
    pub content: Option<String>,
    /// QEMU, where it is not the one in `PATH`.
    pub qemu: Option<PathBuf>,
}

/// Puts all of it in place. Returns what changed, in words.
pub(crate) fn place(
    layout: &Layout,
    source: &Source,
    shim: &ShimConfig,
    moment: &dyn Fn(Step),
) -> Result<Vec<String>, PayloadError> {
    let mut changed = Vec::new();
    let bin = layout.bin();
    files::folder(&bin)?;
    let first = HANDLERS.first().map_or("", |handler| handler.shim);
    for name in ["belljar", first] {
        let (from, to) = (source.bin.join(name), bin.join(name));
        if !from.is_file() {
            return Err(PayloadError::NoProgram(from));
        }
        let same = fs::canonicalize(&from).ok() == fs::canonicalize(&to).ok();
        if !same && files::copy(&from, &to, 0o755)? {
            changed.push(to.display().to_string());
        }
    }
    moment(Step::Programs);
    for handler in HANDLERS.iter().skip(1) {
        let path = bin.join(handler.shim);
        if files::link(Path::new(first), &path)? {
            changed.push(path.display().to_string());
        }
    }
    moment(Step::Links);
    if let Some(id) = guest(layout, &source.guest)? {
        changed.push(format!("{} (guest image {id})", layout.guest().display()));
    }
    moment(Step::Guest);
    if shim_config(layout, shim)? {
        changed.push(layout.shim_config().display().to_string());
    }
    moment(Step::ShimConfig);
    Ok(changed)
}

/// Whether all of it is there. The sentence says what is missing.
pub(crate) fn check(layout: &Layout) -> Result<(), String> {
    for name in ["belljar"].into_iter().chain(HANDLERS.iter().map(|handler| handler.shim)) {
        let path = layout.bin().join(name);
        rustix::fs::access(&path, rustix::fs::Access::EXEC_OK)
            .map_err(|error| format!("{} is not executable: {error}", path.display()))?;
    }
    GuestImage::open(&layout.guest()).map(|_| ()).map_err(|error| error.to_string())
}

/// What the shim is told now; nothing where there is no file.
pub(crate) fn told(layout: &Layout) -> Result<ShimConfig, PayloadError> {
    let path = layout.shim_config();
    let Some(text) = read(&path)? else { return Ok(ShimConfig::default()) };
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| PayloadError::Config { path, why: error.message().to_owned() })?;
    let text = |key: &str| table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    Ok(ShimConfig {
        software: table.get("software").and_then(toml::Value::as_bool).unwrap_or(false),
        broker: text("broker"),
        content: text("content"),
        qemu: text("qemu").map(PathBuf::from),
    })
}

fn read(path: &Path) -> Result<Option<String>, PayloadError> {
    let Some(bytes) = files::read(path, MAX_CONFIG)? else { return Ok(None) };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| PayloadError::Config { path: path.to_owned(), why: "it is not UTF-8 text".to_owned() })
}

fn shim_config(layout: &Layout, shim: &ShimConfig) -> Result<bool, PayloadError> {
    let path = layout.shim_config();
    let there = read(&path)?;
    if there.as_ref().is_some_and(|text| !text.starts_with(OURS)) {
        told(layout)?;
        return Ok(false);
    }
    let mut table = Table::from_iter([("software".to_owned(), toml::Value::Boolean(shim.software))]);
    let qemu = shim.qemu.as_ref().map(|path| path.to_string_lossy().into_owned());
    for (key, value) in [("broker", &shim.broker), ("content", &shim.content), ("qemu", &qemu)] {
        if let Some(value) = value {
            table.insert(key.to_owned(), toml::Value::String(value.clone()));
        }
    }
    let text = format!("{OURS}\n{table}");
    if there.as_deref() == Some(text.as_str()) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        files::folder(folder)?;
    }
    files::write(&path, text.as_bytes(), 0o644)?;
    Ok(true)
}

/// Removes the shim's configuration when it is ours. Returns whether it was.
pub(crate) fn remove_shim_config(layout: &Layout) -> Result<bool, PayloadError> {
    let path = layout.shim_config();
    let ours = read(&path)?.is_some_and(|text| text.starts_with(OURS));
    if ours {
        files::remove(&path)?;
    }
    Ok(ours)
}

/// Copies the guest image and makes it the current one. Images of before stay: running pods may have them open.
fn guest(layout: &Layout, source: &Path) -> Result<Option<String>, PayloadError> {
    let image = GuestImage::open(source)?;
    image.verify()?;
    let out = layout.guest();
    files::folder(&out)?;
    let target = out.join(image.id());
    let mut changed = false;
    if GuestImage::open(&target).and_then(|there| there.verify()).is_err() {
        let incoming = out.join(".incoming");
        files::remove_tree(&incoming)?;
        files::remove_tree(&target)?;
        files::folder(&incoming)?;
        for name in image.manifest().files.keys().map(String::as_str).chain([MANIFEST]) {
            files::copy(&image.directory().join(name), &incoming.join(name), 0o644)?;
        }
        GuestImage::open(&incoming)?.verify()?;
        fs::rename(&incoming, &target).map_err(at(&target))?;
        File::open(&out).and_then(|folder| folder.sync_all()).map_err(at(&out))?;
        changed = true;
    }
    changed |= files::link(Path::new(image.id()), &out.join(CURRENT))?;
    Ok(changed.then(|| image.id().chars().take(12).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_somebody_else_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let ours = ShimConfig { software: true, broker: Some("https://10.0.0.1:8443".into()), ..ShimConfig::default() };
        assert!(shim_config(&layout, &ours).unwrap());
        assert!(!shim_config(&layout, &ours).unwrap());
        assert_eq!(told(&layout).unwrap(), ours);
        let text = fs::read_to_string(layout.shim_config()).unwrap();
        fs::write(layout.shim_config(), text.replacen("# Written", "# Kept: written", 1)).unwrap();
        assert!(!shim_config(&layout, &ShimConfig::default()).unwrap());
        assert!(told(&layout).unwrap().software);
        assert!(!remove_shim_config(&layout).unwrap());
        fs::write(layout.shim_config(), &text).unwrap();
        assert!(remove_shim_config(&layout).unwrap());
        assert_eq!(told(&layout).unwrap(), ShimConfig::default());
        fs::write(layout.shim_config(), "software =").unwrap();
        assert!(matches!(shim_config(&layout, &ours), Err(PayloadError::Config { .. })));
    }
}
