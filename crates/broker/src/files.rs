//! Files of a standalone broker: secrets that are made once, and read by nobody else.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};
use zeroize::Zeroizing;

/// Longest file that is read, in bytes.
const MAX_FILE: usize = 256 * 1024;

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system says no.
    #[error("{path}: {cause}")]
    Io {
        /// Which file.
        path: String,
        /// What the system says.
        cause: String,
    },
    /// It is another user's.
    #[error("{path} belongs to user {owner}, and this is user {user}: give a file of its own, or chown it")]
    Owner {
        /// Which file.
        path: String,
        /// Its owner.
        owner: u32,
        /// Who reads it.
        user: u32,
    },
    /// Others may read it.
    #[error("{path} has mode {mode:o}: others may read it; chmod 600 it, and think of its content as known")]
    Mode {
        /// Which file.
        path: String,
        /// Its mode.
        mode: u32,
    },
}

fn failed(path: &Path) -> impl Fn(io::Error) -> FileError + '_ {
    |cause| FileError::Io { path: path.display().to_string(), cause: cause.to_string() }
}

/// Makes a directory that only its owner enters.
pub(crate) fn directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))
}

/// A secret of a file that only its owner may read.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = fs::File::open(path).map_err(failed(path))?;
    let metadata = file.metadata().map_err(failed(path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::Mode { path: path.display().to_string(), mode });
    }
    // Another user's file is another user's secret: they know it, and can change it.
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user && owner != 0 {
        return Err(FileError::Owner { path: path.display().to_string(), owner, user });
    }
    let mut content = Zeroizing::new(Vec::new());
    file.take(limit(MAX_FILE)).read_to_end(&mut content).map_err(failed(path))?;
    if content.len() > MAX_FILE {
        return Err(failed(path)(io::Error::other(format!("longer than {MAX_FILE} bytes"))));
    }
    Ok(content)
}

/// The content of a file that anybody may read.
pub(crate) fn read_public(path: &Path) -> Result<Vec<u8>, FileError> {
    read_most(path, MAX_FILE)
}

/// The same of a file that may have so many bytes.
pub(crate) fn read_most(path: &Path, most: usize) -> Result<Vec<u8>, FileError> {
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(failed(path))?;
    file.take(limit(most)).read_to_end(&mut content).map_err(failed(path))?;
    if content.len() > most {
        return Err(failed(path)(io::Error::other(format!("longer than {most} bytes"))));
    }
    Ok(content)
}

/// One byte more, which tells a file that is too long.
fn limit(most: usize) -> u64 {
    u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)
}

/// Replaces a file that anybody may read, as a whole.
pub(crate) fn write_public(path: &Path, content: &str) -> Result<(), FileError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = Path::new(&draft);
    fs::write(draft, content).and_then(|()| fs::rename(draft, path)).map_err(failed(path))
}

/// The secret of a file; made by `make` where there is none. Of two processes that make it at once, both get one and the same.
/// The flag says whether it was made.
pub(crate) fn secret_or_new<E: From<FileError>>(
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, E>,
) -> Result<(Zeroizing<Vec<u8>>, bool), E> {
    match read_secret(path) {
        Err(FileError::Io { .. }) if !path.exists() => {}
        found => return Ok((found?, false)),
    }
    let content = make()?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        directory(parent)?;
    }
    // Written under another name first, so that nobody ever reads half of it.
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = Path::new(&draft);
    let _ = fs::remove_file(draft);
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
        file.write_all(&content)?;
        file.sync_all()
    };
    written().map_err(failed(draft))?;
    let linked = fs::hard_link(draft, path);
    let _ = fs::remove_file(draft);
    match linked {
        Ok(()) => Ok((content, true)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok((read_secret(path)?, false)),
        Err(e) => Err(failed(path)(e).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_users_secret_is_not_read() {
        if !rustix::process::geteuid().is_root() {
            println!("IGNORED: only root can give a file away");
            return;
        }
        let file = std::env::temp_dir().join(format!("belljar-owner-{}", std::process::id()));
        fs::write(&file, "secret").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_secret(&file).is_ok());
        std::os::unix::fs::chown(&file, Some(12345), None).unwrap();
        let told = read_secret(&file).unwrap_err();
        fs::remove_file(&file).unwrap();
        assert_eq!(told, FileError::Owner { path: file.display().to_string(), owner: 12345, user: 0 });
    }

    #[test]
    fn a_secret_is_made_once_and_not_read_when_others_may() {
        let folder = std::env::temp_dir().join(format!("belljar-files-{}", std::process::id()));
        let file = folder.join("deep/secret");
        let make = |text: &str| {
            let text = Zeroizing::new(text.as_bytes().to_vec());
            secret_or_new::<FileError>(&file, || Ok(text))
        };
        assert_eq!(make("one").unwrap(), (Zeroizing::new(b"one".to_vec()), true));
        assert_eq!(make("two").unwrap(), (Zeroizing::new(b"one".to_vec()), false));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.join("deep")).unwrap().count(), 1, "no draft is left");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let told = make("three").unwrap_err();
        assert_eq!(told, FileError::Mode { path: file.display().to_string(), mode: 0o640 });
        fs::remove_dir_all(&folder).unwrap();
    }
}
