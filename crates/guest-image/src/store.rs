//! Where images and fetched packages lie.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::builder::BuildError;
use crate::image::GuestImage;
use crate::manifest::Manifest;

/// The link to the image that is used when none is named.
pub(crate) const CURRENT: &str = "current";
pub(crate) const MANIFEST: &str = "manifest.json";

/// Where images lie: `$BELLJAR_GUEST`, else `$XDG_DATA_HOME/belljar/guest`, else `~/.local/share/belljar/guest`.
pub fn default_dir() -> PathBuf {
    directory("BELLJAR_GUEST").unwrap_or_else(|| {
        directory("XDG_DATA_HOME").unwrap_or_else(|| home().join(".local/share")).join("belljar/guest")
    })
}

/// Where fetched packages lie: `$BELLJAR_CACHE`, else `~/.cache/belljar`.
pub fn cache_dir() -> PathBuf {
    directory("BELLJAR_CACHE").unwrap_or_else(|| home().join(".cache/belljar"))
}

fn directory(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Root's home when there is no `$HOME`, as in a service.
fn home() -> PathBuf {
    directory("HOME").unwrap_or_else(|| PathBuf::from("/root"))
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
        let incoming = tempfile::Builder::new().prefix(".incoming-").tempdir_in(out).map_err(store_error(out))?;
        let write = |name: &str, bytes: &[u8]| -> Result<(), BuildError> {
            let path = incoming.path().join(name);
            fs::write(&path, bytes).and_then(|()| File::open(&path)?.sync_all()).map_err(store_error(&path))
        };
        for (name, bytes) in files {
            write(name, bytes)?;
        }
        write(MANIFEST, &manifest.to_bytes()?)?;
        fs::set_permissions(incoming.path(), Permissions::from_mode(0o755)).map_err(store_error(incoming.path()))?;
        match fs::remove_dir_all(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(BuildError::Store { path: target, error });
            }
            _ => {}
        }
        fs::rename(incoming.path(), &target).map_err(store_error(&target))?;
        // the directory has moved away: there is nothing left to remove
        let _ = incoming.keep();
    }
    if fs::read_link(out.join(CURRENT)).ok().as_deref() != Some(Path::new(&id)) {
        let fresh = out.join(format!(".current-{}", std::process::id()));
        let _ = fs::remove_file(&fresh);
        symlink(&id, &fresh).and_then(|()| fs::rename(&fresh, out.join(CURRENT))).map_err(store_error(&fresh))?;
    }
    Ok(())
}
