//! Collateral that is stored: a cache, a directory of plain files, or a bundle.

use std::path::Path;

use belljar_collateral::{Bundle, Cache, CacheError, Collection, Directory, Document, MAX_BUNDLE, PublicKey};

use crate::evidence::file;
use crate::failure::Failure;

/// The documents of a bundle, opened with its key, or of a directory; `option` gives the key.
pub fn open(path: &Path, key: Option<&Path>, option: &str) -> Result<Vec<Document>, Failure> {
    let here = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    if is_directory(path, key, option)? {
        let directory = Directory::open(path).map_err(Failure::undecided)?;
        let plain = directory.documents().map_err(Failure::refused)?;
        return if plain.is_empty() { cached(&Cache::new(path)) } else { Ok(plain) };
    }
    let Some(key) = key else {
        let why = format!("{} is a file: give {option}, the public key of its maker", path.display());
        return Err(Failure::usage(why));
    };
    let public = PublicKey::from_pem(&file::read(key)?)
        .map_err(|error| Failure::usage(format!("{}: {error}", key.display())))?;
    let bytes = file::read_most(path, MAX_BUNDLE)?;
    Ok(Bundle::open(&bytes, &public).map_err(|error| Failure::refused(here(&error)))?.documents)
}

/// The same, to choose from.
pub fn collection(path: &Path, key: Option<&Path>, option: &str) -> Result<Collection, Failure> {
    open(path, key, option).map(Collection::new)
}

/// Whether there is a directory; that is signed by nobody, so that no key belongs to it.
pub fn is_directory(path: &Path, key: Option<&Path>, option: &str) -> Result<bool, Failure> {
    let found =
        std::fs::metadata(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    if found.is_dir() && key.is_some() {
        let why = format!("{} is a directory, which no key signs: leave {option} out", path.display());
        return Err(Failure::usage(why));
    }
    Ok(found.is_dir())
}

/// The documents of a cache; damaged ones are an error here.
pub fn cached(cache: &Cache) -> Result<Vec<Document>, Failure> {
    let all = cache.list().map_err(Failure::undecided)?;
    all.into_iter().collect::<Result<_, CacheError>>().map_err(Failure::refused)
}
