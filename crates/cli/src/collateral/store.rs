//! Collateral that is stored: a cache, a directory of plain files, or a bundle.

use std::path::Path;

use belljar_collateral::{Bundle, Cache, CacheError, Collection, Directory, Document, MAX_BUNDLE, PublicKey};

use crate::evidence::file;
use crate::failure::Failure;

/// The documents of a bundle, opened with its key, or of a directory.
pub fn open(path: &Path, key: Option<&Path>) -> Result<Vec<Document>, Failure> {
    let here = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    if path.is_dir() {
        if key.is_some() {
            return Err(Failure::usage(format!(
                "{} is a directory, which no key signs: leave --key out",
                path.display()
            )));
        }
        let directory = Directory::open(path).map_err(Failure::undecided)?;
        let plain = directory.documents().map_err(Failure::refused)?;
        return if plain.is_empty() { cached(&Cache::new(path)) } else { Ok(plain) };
    }
    let Some(key) = key else {
        return Err(Failure::usage(format!("{} is a file: give --key, the public key of its maker", path.display())));
    };
    let public = PublicKey::from_pem(&file::read(key)?)
        .map_err(|error| Failure::usage(format!("{}: {error}", key.display())))?;
    let bytes = file::read_most(path, MAX_BUNDLE)?;
    Ok(Bundle::open(&bytes, &public).map_err(|error| Failure::refused(here(&error)))?.documents)
}

/// The same, to choose from.
pub fn collection(path: &Path, key: Option<&Path>) -> Result<Collection, Failure> {
    open(path, key).map(Collection::new)
}

/// The documents of a cache; damaged ones are an error here.
pub fn cached(cache: &Cache) -> Result<Vec<Document>, Failure> {
    let all = cache.list().map_err(Failure::undecided)?;
    all.into_iter().collect::<Result<_, CacheError>>().map_err(Failure::refused)
}
