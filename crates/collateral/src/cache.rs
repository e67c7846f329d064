//! The cache on disk: one file for each item, replaced as a whole, shared by processes.
//!
//! An item is `NAME.json` below the cache's folder ([`crate::Item`] has the names), with a lock `NAME.lock` beside it,
//! and where a service said that there is no such item, `NAME.absent` for a while. `hosts/` holds the pace of requests.
//! Nobody needs to trust the folder: an item is verified whenever it is read.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::document::{Document, DocumentError, MAX_DOCUMENT};
use crate::item::Item;
use crate::lock;

/// Most items that a listing reads.
const MAX_ITEMS: usize = 65_536;
/// Deepest folder below the cache's that can hold an item.
const MAX_DEPTH: usize = 5;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The file system says no.
    #[error("{} cannot be used: {error}", .path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file that is not a stored item; the next fetch replaces it.
    #[error("{} is damaged ({error}): remove it, or fetch the item again", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: DocumentError,
    },
    /// A file that holds another item than its name says.
    #[error("{} holds {found}: remove it, or fetch the item again", .path.display())]
    Misplaced {
        /// Which file.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
}

/// A folder with items.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The cache in a folder, which is made at the first write.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Its folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn hosts(&self) -> PathBuf {
        self.directory.join("hosts")
    }

    /// The stored item, not yet verified; `None` when there is none.
    ///
    /// # Errors
    /// Any [`CacheError`].
    pub fn load(&self, item: &Item) -> Result<Option<Document>, CacheError> {
        let path = self.file(item, "json");
        let Some(document) = read(&path)? else { return Ok(None) };
        if document.item != *item {
            return Err(CacheError::Misplaced { path, found: document.item.to_string() });
        }
        Ok(Some(document))
    }

    /// Every stored item, by name; what is damaged is told apart.
    ///
    /// # Errors
    /// [`CacheError::Io`] when a folder cannot be read.
    pub fn list(&self) -> Result<Vec<Result<Document, CacheError>>, CacheError> {
        let mut files = Vec::new();
        walk(&self.directory, 0, &mut files)?;
        files.sort();
        let mut all = Vec::new();
        for path in files.into_iter().take(MAX_ITEMS) {
            match read(&path) {
                Ok(Some(document)) if self.file(&document.item, "json") == path => all.push(Ok(document)),
                Ok(Some(document)) => all.push(Err(CacheError::Misplaced { path, found: document.item.to_string() })),
                Ok(None) => {}
                Err(error) => all.push(Err(error)),
            }
        }
        Ok(all)
    }

    /// Stores an item that was verified, whole or not at all.
    pub(crate) fn store(&self, document: &Document) -> Result<(), CacheError> {
        let path = self.file(&document.item, "json");
        self.replace(&path, document.to_json().as_bytes())?;
        let absent = self.file(&document.item, "absent");
        remove(&absent)
    }

    /// Until when (seconds since 1970) a service's word that there is no such item counts, and its status.
    pub(crate) fn absent(&self, item: &Item, now: u64, longest: u64) -> Result<Option<(u64, u16)>, CacheError> {
        let path = self.file(item, "absent");
        let Some(text) = read_bounded(&path, 64)? else { return Ok(None) };
        let read = || {
            let text = String::from_utf8(text).ok()?;
            let (until, status) = text.trim_end().split_once(' ')?;
            Some((until.parse().ok()?, status.parse().ok()?))
        };
        // One that is further away than we ever write comes from another clock, and does not count.
        Ok(read().filter(|(until, _): &(u64, u16)| now < *until && *until <= now.saturating_add(longest)))
    }

    /// Remembers that a service knows no such item.
    pub(crate) fn remember_absent(&self, item: &Item, until: u64, status: u16) -> Result<(), CacheError> {
        self.replace(&self.file(item, "absent"), format!("{until} {status}\n").as_bytes())
    }

    /// Takes the lock under which an item is fetched; `None` when another process held it for the whole time.
    pub(crate) async fn lock(&self, item: &Item, patience: Duration) -> Result<Option<File>, CacheError> {
        let path = self.file(item, "lock");
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        lock::exclusive(&path, patience).await.map_err(|error| CacheError::Io { path, error })
    }

    fn file(&self, item: &Item, kind: &str) -> PathBuf {
        self.directory.join(format!("{item}.{kind}"))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
        make_folder(path.parent().unwrap_or(&self.directory))?;
        write_whole(path, bytes, 0o600)
    }
}

/// Writes a file into a folder that is there: readers see the former one or the new one, and no part of it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CacheError> {
    let io = |error| CacheError::Io { path: path.to_owned(), error };
    let folder = path.parent().unwrap_or(Path::new("."));
    let permissions = Permissions::from_mode(mode);
    let mut making = tempfile::Builder::new().permissions(permissions).tempfile_in(folder).map_err(io)?;
    making.write_all(bytes).and_then(|()| making.as_file().sync_all()).map_err(io)?;
    making.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), CacheError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| CacheError::Io { path: folder.to_owned(), error })
}

fn remove(path: &Path) -> Result<(), CacheError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::Io { path: path.to_owned(), error }),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<Document>, CacheError> {
    let Some(bytes) = read_bounded(path, MAX_DOCUMENT)? else { return Ok(None) };
    let document = Document::from_json(&bytes);
    document.map(Some).map_err(|error| CacheError::Damaged { path: path.to_owned(), error })
}

/// A file's bytes, at most one more than `most`; `None` when there is no such file.
pub(crate) fn read_bounded(path: &Path, most: usize) -> Result<Option<Vec<u8>>, CacheError> {
    let io = |error| CacheError::Io { path: path.to_owned(), error };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => lock::regular(file.into()).map_err(io)?,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(io(error.into())),
    };
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(io)?;
    Ok(Some(bytes))
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), CacheError> {
    let io = |error| CacheError::Io { path: folder.to_owned(), error };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io)?;
        let kind = entry.file_type().map_err(io)?;
        let path = entry.path();
        let is_hosts = depth == 0 && entry.file_name() == "hosts";
        if kind.is_dir() && depth < MAX_DEPTH && !is_hosts {
            walk(&path, depth.saturating_add(1), files)?;
        } else if kind.is_file()
            && path.extension().is_some_and(|extension| extension == "json")
            && files.len() < MAX_ITEMS
        {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        std::fs::create_dir(folder.path().join("intel")).unwrap();
        let path = folder.path().join("intel/root-crl.json");
        assert!(matches!(cache.load(&Item::RootCrl), Ok(None)));
        // Reading a pipe would last until somebody writes into it.
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(cache.load(&Item::RootCrl), Err(CacheError::Io { .. })));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(cache.load(&Item::RootCrl), Err(CacheError::Damaged { .. })));
    }
}
