//! Where images and fetched packages lie.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::builder::BuildError;
use crate::digest::sha256_file;
use crate::image::GuestImage;
use crate::manifest::Manifest;

/// The link to the image that is used when none is named.
pub(crate) const CURRENT: &str = "current";
pub(crate) const MANIFEST: &str = "manifest.json";

/// Where images lie: `$BELLJAR_GUEST`, else `$XDG_DATA_HOME/belljar/guest`, else `~/.local/share/belljar/guest`.
pub fn default_dir() -> PathBuf {
    default_dir_by(&|name| std::env::var_os(name))
}

/// Where fetched packages lie: `$BELLJAR_CACHE`, else `~/.cache/belljar`.
pub fn cache_dir() -> PathBuf {
    cache_dir_by(&|name| std::env::var_os(name))
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn default_dir_by(lookup: Lookup<'_>) -> PathBuf {
    directory(lookup, "BELLJAR_GUEST").unwrap_or_else(|| {
        directory(lookup, "XDG_DATA_HOME").unwrap_or_else(|| home(lookup).join(".local/share")).join("belljar/guest")
    })
}

fn cache_dir_by(lookup: Lookup<'_>) -> PathBuf {
    directory(lookup, "BELLJAR_CACHE").unwrap_or_else(|| home(lookup).join(".cache/belljar"))
}

fn directory(lookup: Lookup<'_>, variable: &str) -> Option<PathBuf> {
    lookup(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Root's home when there is no `$HOME`, as in a service.
fn home(lookup: Lookup<'_>) -> PathBuf {
    directory(lookup, "HOME").unwrap_or_else(|| PathBuf::from("/root"))
}

/// Puts an image into `out` and makes it the current one. An image that is there already, and whole, stays untouched.
pub(crate) fn install(manifest: &Manifest, files: &[(&str, &[u8])], out: &Path) -> Result<(), BuildError> {
    let store_error = |path: &Path| {
        let path = path.to_owned();
        move |error| BuildError::Store { path, error }
    };
    let id = manifest.id()?;
    fs::create_dir_all(out).map_err(store_error(out))?;
    let lock_path = out.join(".lock");
    let lock = File::create(&lock_path).map_err(store_error(&lock_path))?;
    lock.lock().map_err(store_error(&lock_path))?;

    let target = out.join(&id);
    if GuestImage::open(&target).and_then(|image| image.verify()).is_err() {
        let incoming = out.join(".incoming");
        for left_over in [&incoming, &target] {
            match fs::remove_dir_all(left_over) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(store_error(left_over)(error)),
                _ => {}
            }
        }
        fs::create_dir(&incoming).map_err(store_error(&incoming))?;
        let current = GuestImage::open(out).ok();
        for (name, bytes) in files {
            let path = incoming.join(name);
            let same = current.as_ref().and_then(|current| same_file(current, manifest, name));
            if same.is_none_or(|same| fs::hard_link(same, &path).is_err()) {
                write(&path, bytes).map_err(store_error(&path))?;
            }
        }
        let path = incoming.join(MANIFEST);
        write(&path, &manifest.to_bytes()?).map_err(store_error(&path))?;
        fs::rename(&incoming, &target).map_err(store_error(&target))?;
    }
    if fs::read_link(out.join(CURRENT)).ok().as_deref() != Some(Path::new(&id)) {
        let fresh = out.join(format!(".current-{}", std::process::id()));
        let _ = fs::remove_file(&fresh);
        symlink(&id, &fresh).and_then(|()| fs::rename(&fresh, out.join(CURRENT))).map_err(store_error(&fresh))?;
    }
    Ok(())
}

/// The file of another image when it has the wanted contents, so that an image with another agent costs megabytes and not
/// another kernel.
fn same_file(other: &GuestImage, manifest: &Manifest, name: &str) -> Option<PathBuf> {
    let wanted = &manifest.files.get(name)?.sha256;
    let path = other.directory().join(name);
    let told = other.manifest().files.get(name).is_some_and(|entry| entry.sha256 == *wanted);
    (told && sha256_file(&path).is_ok_and(|(found, _)| found == *wanted)).then_some(path)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_variable_decides() {
        let set = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            move |name: &str| names.iter().any(|set| set == name).then(|| OsString::from(format!("/{name}")))
        };
        let guest = |names: &[&str]| default_dir_by(&set(names)).display().to_string();
        assert_eq!(guest(&["BELLJAR_GUEST", "XDG_DATA_HOME", "HOME"]), "/BELLJAR_GUEST");
        assert_eq!(guest(&["XDG_DATA_HOME", "HOME"]), "/XDG_DATA_HOME/belljar/guest");
        assert_eq!(guest(&["HOME"]), "/HOME/.local/share/belljar/guest");
        assert_eq!(guest(&[]), "/root/.local/share/belljar/guest");
        let cache = |names: &[&str]| cache_dir_by(&set(names)).display().to_string();
        assert_eq!(cache(&["BELLJAR_CACHE", "HOME"]), "/BELLJAR_CACHE");
        assert_eq!(cache(&["HOME"]), "/HOME/.cache/belljar");
    }
}
