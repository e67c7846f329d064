//! Files that are replaced whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

/// Why a file of the node could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

/// Makes an error of the system into one that names the path.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |error| FileError { path, error }
}

/// The file's bytes, `None` when it is not there; more than `limit` bytes are an error.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(at(path))?,
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(at(path))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > limit) {
        return Err(at(path)(io::Error::other(format!("longer than {limit} bytes"))));
    }
    Ok(Some(bytes))
}

/// Puts `bytes` into the place of the file: complete and on disk, or not at all. Owner and permissions of a file that is there stay;
/// a new one gets `mode`. A link is followed, so that it stays a link.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let target = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        result => result.map_err(at(path))?,
    };
    let fresh = beside(&target);
    let former = fs::metadata(&target).ok();
    let write = || -> io::Result<()> {
        remove_if_there(&fresh)?;
        let mut file = File::create_new(&fresh)?;
        file.write_all(bytes)?;
        let mode = former.as_ref().map_or(mode, |former| former.mode() & 0o7777);
        if let Some(former) = &former {
            std::os::unix::fs::fchown(&file, Some(former.uid()), Some(former.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&fresh, &target)?;
        sync_folder(&target)
    };
    write().map_err(at(path))
}

/// Copies a file by way of a temporary name, unless the same bytes and mode are there. Returns whether it wrote.
pub(crate) fn copy(from: &Path, to: &Path, mode: u32) -> Result<bool, FileError> {
    let there = fs::metadata(to).ok().filter(|meta| meta.is_file() && meta.mode() & 0o7777 == mode);
    let length = fs::metadata(from).map_err(at(from))?.len();
    if there.is_some_and(|meta| meta.len() == length) && sha256(from)? == sha256(to)? {
        return Ok(false);
    }
    let fresh = beside(to);
    let mut source = File::open(from).map_err(at(from))?;
    let mut write = || -> io::Result<()> {
        remove_if_there(&fresh)?;
        let mut file = File::create_new(&fresh)?;
        io::copy(&mut source, &mut file)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&fresh, to)?;
        sync_folder(to)
    };
    write().map_err(at(to))?;
    Ok(true)
}

/// Makes `path` a link to `target`, by way of a temporary name. Returns whether it changed anything.
pub(crate) fn link(target: &Path, path: &Path) -> Result<bool, FileError> {
    if fs::read_link(path).ok().as_deref() == Some(target) {
        return Ok(false);
    }
    let fresh = beside(path);
    remove_if_there(&fresh)
        .and_then(|()| symlink(target, &fresh))
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| sync_folder(path))
        .map_err(at(path))?;
    Ok(true)
}

/// Removes a file; none there is as good.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    remove_if_there(path)
        .and_then(|()| if path.parent().is_some_and(Path::exists) { sync_folder(path) } else { Ok(()) })
        .map_err(at(path))
}

/// Removes a folder with all that is in it; none there is as good.
pub(crate) fn remove_tree(path: &Path) -> Result<bool, FileError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at(path)(error)),
    }
}

/// Makes a folder and those above it; returns those that were missing, the topmost first.
pub(crate) fn folder(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut missing: Vec<PathBuf> = path.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect();
    missing.reverse();
    fs::create_dir_all(path).map_err(at(path))?;
    Ok(missing)
}

/// SHA-256 of a file.
pub(crate) fn sha256(path: &Path) -> Result<[u8; 32], FileError> {
    let mut file = File::open(path).map_err(at(path))?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        let read = file.read(&mut buffer).map_err(at(path))?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
        context.update(piece);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}

/// A name beside `path` for a file that is not complete. One for each path: the installer holds a lock, so nobody else uses it, and
/// what a killed installer left is overwritten.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.belljar-new"))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_keeps_its_owner_mode_and_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link_path) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(link(Path::new("file"), &link_path).unwrap());
        assert!(!link(Path::new("file"), &link_path).unwrap());
        write(&link_path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_link(&link_path).unwrap(), Path::new("file"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_copy_of_the_same_bytes_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "program").unwrap();
        assert!(copy(&from, &to, 0o755).unwrap());
        let before = fs::metadata(&to).unwrap().ino();
        assert!(!copy(&from, &to, 0o755).unwrap());
        assert_eq!(fs::metadata(&to).unwrap().ino(), before);
        fs::write(&from, "PROGRAM").unwrap();
        assert!(copy(&from, &to, 0o755).unwrap());
    }

    #[test]
    fn reading_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(read(&path, 3).unwrap(), None);
        fs::write(&path, "abc").unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"abc");
        assert!(read(&path, 2).unwrap_err().to_string().ends_with("longer than 2 bytes"));
    }
}
