//! Files that a configuration imports, as containerd finds them: absolute or relative to the importing file, with `*` and `?` in
//! the last part, in the order of their names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::containerd::edit::ConfigError;
use crate::files::{FileError, at};

/// An entry of `imports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Import {
    folder: PathBuf,
    pattern: String,
}

impl Import {
    /// `written` in the configuration at `config`.
    pub(crate) fn of(written: &str, config: &Path) -> Result<Self, ConfigError> {
        let path = config.parent().unwrap_or(Path::new("/")).join(written);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ConfigError::Import(written.to_owned()));
        };
        let special = |text: &str| text.contains(['*', '?', '[', '\\']);
        let pattern = name.to_string_lossy().into_owned();
        if special(&folder.to_string_lossy()) || pattern.contains(['[', '\\']) {
            return Err(ConfigError::Import(written.to_owned()));
        }
        Ok(Self { folder: folder.to_owned(), pattern })
    }

    /// The path of a file with that name, when it would be imported.
    pub(crate) fn place_for(&self, name: &str) -> Option<PathBuf> {
        (self.pattern.contains(['*', '?']) && matches(self.pattern.as_bytes(), name.as_bytes()))
            .then(|| self.folder.join(name))
    }

    /// The files that are there.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, FileError> {
        if !self.pattern.contains(['*', '?']) {
            let path = self.folder.join(&self.pattern);
            return Ok(if path.exists() { vec![path] } else { Vec::new() });
        }
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(at(&self.folder))?,
        };
        let mut files: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| matches(self.pattern.as_bytes(), entry.file_name().as_encoded_bytes()))
            .map(|entry| entry.path())
            .collect();
        files.sort();
        Ok(files)
    }
}

/// `*` is any text, `?` any byte.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            matches(rest, name) || name.split_first().is_some_and(|(_, tail)| matches(pattern, tail))
        }
        (Some((b'?', rest)), Some((_, tail))) => matches(rest, tail),
        (Some((wanted, rest)), Some((found, tail))) => wanted == found && matches(rest, tail),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, yes) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.tom", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), yes, "{pattern} {name}");
        }
    }

    #[test]
    fn files_in_order_and_a_place_for_ours() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        for name in ["b.toml", "a.toml", "c.txt"] {
            fs::write(dir.path().join("conf.d").join(name), "").unwrap();
        }
        let config = dir.path().join("config.toml");
        let import = Import::of("conf.d/*.toml", &config).unwrap();
        let names: Vec<_> = import.files().unwrap().iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.toml", "b.toml"]);
        assert_eq!(import.place_for("belljar.toml"), Some(dir.path().join("conf.d/belljar.toml")));
        let one = Import::of("/x/y.toml", &config).unwrap();
        assert_eq!((one.place_for("y.toml"), one.files().unwrap().len()), (None, 0));
        assert_eq!(Import::of("conf.*/a.toml", &config), Err(ConfigError::Import("conf.*/a.toml".into())));
    }
}
