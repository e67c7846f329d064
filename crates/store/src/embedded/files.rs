//! The file of a store: who may use it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use redb::DatabaseError;

use crate::error::OpenError;

/// Opens a file that only its owner may use, in a folder that only its owner may use; makes both where there are none.
pub(super) fn open_private(path: &Path) -> Result<File, OpenError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| OpenError::File { path, why: error.to_string() }
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    if !folder.try_exists().map_err(failed(&folder))? {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed(&folder))?;
    }
    let private = |path: &Path, expected| {
        let mode = std::fs::metadata(path).map_err(failed(path))?.mode() & 0o777;
        let open = mode & 0o077 != 0;
        if open { Err(OpenError::Open { path: path.display().to_string(), mode, expected }) } else { Ok(()) }
    };
    private(&folder, 0o700)?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(failed(path))?;
    private(path, 0o600)?;
    Ok(file)
}

pub(super) fn open_error(path: &str, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            OpenError::Foreign(path.to_owned())
        }
        other => OpenError::File { path: path.to_owned(), why: other.to_string() },
    }
}
