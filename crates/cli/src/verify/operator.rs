//! The operator's key: by it a pod knows who may read its logs and start commands past the host.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use belljar_attested::tls::Key;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// Largest key file in bytes.
const MAX_KEY: u64 = 4096;

/// Where the key is: `BELLJAR_OPERATOR_KEY`, or `operator.key` in the user's configuration directory.
pub fn path() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = set("BELLJAR_OPERATOR_KEY") {
        return file;
    }
    let home = || set("HOME").unwrap_or_else(|| "/root".into()).join(".config");
    set("XDG_CONFIG_HOME").unwrap_or_else(home).join("belljar/operator.key")
}

/// The key in `file`; made when there is none yet.
pub fn load_or_create(file: &Path) -> Result<Key, Failure> {
    if !file.exists() {
        create(file)?;
    }
    let broken = |why: &dyn std::fmt::Display| Failure::usage(format!("operator key {}: {why}", file.display()));
    let meta = std::fs::metadata(file).map_err(|error| broken(&error))?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(broken(&format!("mode {mode:o}: others may use it"))
            .hint(format!("chmod 600 {}, or remove it and give contracts a new one", file.display())));
    }
    if meta.len() > MAX_KEY {
        return Err(broken(&format!("{} bytes, at most {MAX_KEY}", meta.len())));
    }
    let pkcs8 = Zeroizing::new(std::fs::read(file).map_err(|error| broken(&error))?);
    Key::from_pkcs8(&pkcs8).map_err(|error| broken(&error))
}

fn create(file: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::undecided(format!("cannot make {}: {error}", file.display()));
    if let Some(directory) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let (_, pkcs8) = Key::generate().map_err(Failure::undecided)?;
    // Whole or not at all: another process may look at the same time.
    let making = file.with_extension(format!("new-{}", std::process::id()));
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&making).map_err(failed)?;
    let written = made.write_all(&pkcs8).and_then(|()| made.sync_all());
    let linked = written.and_then(|()| match std::fs::hard_link(&making, file) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    });
    let _ = std::fs::remove_file(&making);
    linked.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_must_be_the_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config/operator.key");
        let first = load_or_create(&file).unwrap().spki_sha256();
        assert_eq!(load_or_create(&file).unwrap().spki_sha256(), first);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = load_or_create(&file).unwrap_err();
        assert!(refused.cause.ends_with("mode 640: others may use it"), "{}", refused.cause);
    }
}
