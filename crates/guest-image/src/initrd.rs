//! The first and only root of a pod VM.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cpio::{CpioError, Entry, EntryKind, write_newc};
use crate::elf::{Elf, ElfError};
use crate::manifest::ModuleEntry;
use crate::modules::{Module, ModuleError, ModuleTree};
use crate::recipe::Recipe;

/// Where the modules lie in the guest.
const MODULES: &str = "/lib/modules";

/// Why there is no initrd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitrdError {
    /// The first program cannot be read.
    #[error("{path} cannot be read: {error}; build it with `cargo build --release -p belljar-agent`")]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The first program cannot run in a guest without a libc.
    #[error("{path} cannot be the first program of a guest: {error}")]
    NotStatic {
        /// Its path.
        path: PathBuf,
        /// Why not.
        error: ElfError,
    },
    /// A module.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] CpioError),
    /// The archive is larger than SPECIFICATION.md promises.
    #[error(
        "the initrd has {compressed} bytes after compression, {limit} are allowed; remove modules or make the agent smaller"
    )]
    TooLarge {
        /// Bytes after zstd at level 19.
        compressed: u64,
        /// What guest/recipe.toml allows.
        limit: u64,
    },
    /// zstd failed.
    #[error("the initrd cannot be compressed for the check of its size: {0}")]
    Compress(io::Error),
}

/// An archive of nothing but `/dev/console` and `init`: what a pod's start is compared with.
pub fn bare_initrd(init: &Path) -> Result<Vec<u8>, InitrdError> {
    let mut tree = Tree::default();
    tree.console();
    tree.file("/init", 0o755, first_program(init)?);
    Ok(write_newc(&tree.entries)?)
}

/// The bytes of a program that can be PID 1 of the guest.
pub(crate) fn first_program(path: &Path) -> Result<Vec<u8>, InitrdError> {
    let bytes = fs::read(path).map_err(|error| InitrdError::Unreadable { path: path.to_owned(), error })?;
    let checked = Elf::new(&bytes).and_then(|elf| elf.check_static_program());
    checked.map_err(|error| InitrdError::NotStatic { path: path.to_owned(), error })?;
    Ok(bytes)
}

/// The archive, and what the manifest says of its modules.
pub(crate) fn initrd(
    recipe: &Recipe,
    agent: Vec<u8>,
    mut modules: ModuleTree<'_>,
) -> Result<(Vec<u8>, Vec<ModuleEntry>), InitrdError> {
    let lists = &recipe.modules;
    let boot = modules.order(&lists.boot, &[])?;
    let extra = |modules: &mut ModuleTree<'_>, wanted: &[String]| modules.order(wanted, &boot);
    let (snp, tdx) = (extra(&mut modules, &lists.snp)?, extra(&mut modules, &lists.tdx)?);
    let (vsock, net) = (extra(&mut modules, &lists.vsock)?, extra(&mut modules, &lists.net)?);

    let mut tree = Tree::default();
    tree.console();
    tree.file("/init", 0o755, agent);
    for directory in &recipe.initrd.directories {
        tree.directory(directory);
    }
    let lists = [("order", boot), ("order.snp", snp), ("order.tdx", tdx), ("order.vsock", vsock), ("order.net", net)];
    for (name, order) in &lists {
        let lines: String = order.iter().map(|module| format!("{module}.ko\n")).collect();
        tree.file(&format!("{MODULES}/{name}"), 0o644, lines.into_bytes());
    }
    let mut entries = Vec::new();
    for Module { name, object, .. } in modules.into_modules() {
        let named_by = lists.iter().filter(|(_, order)| order.contains(&name)).map(|(list, _)| (*list).to_owned());
        entries.push(ModuleEntry {
            sha256: crate::digest::sha256_hex(&object),
            size: u64::try_from(object.len()).unwrap_or(u64::MAX),
            lists: named_by.collect(),
            name: name.clone(),
        });
        tree.file(&format!("{MODULES}/{name}.ko"), 0o644, object);
    }
    let archive = write_newc(&tree.entries)?;
    check_size(&archive, recipe.initrd.max_compressed_bytes)?;
    Ok((archive, entries))
}

/// The archive stays uncompressed, because unpacking it costs time at each start. What is promised is the size of its contents
/// after compression; an archive that is small enough without needs no trial.
fn check_size(archive: &[u8], limit: u64) -> Result<(), InitrdError> {
    let size = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size(archive) <= limit {
        return Ok(());
    }
    let compressed = size(&zstd::encode_all(archive, 19).map_err(InitrdError::Compress)?);
    if compressed > limit {
        return Err(InitrdError::TooLarge { compressed, limit });
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    fn directory(&mut self, path: &str) {
        for (at, _) in path.match_indices('/').skip(1) {
            self.directory_entry(path.get(..at).unwrap_or(path));
        }
        self.directory_entry(path);
    }

    fn directory_entry(&mut self, path: &str) {
        let mode = if path == "/tmp" { 0o1777 } else { 0o755 };
        self.entries.entry(path.to_owned()).or_insert(Entry { kind: EntryKind::Directory, mode });
    }

    fn file(&mut self, path: &str, mode: u32, contents: Vec<u8>) {
        if let Some((directory, _)) = path.rsplit_once('/').filter(|(directory, _)| !directory.is_empty()) {
            self.directory(directory);
        }
        self.entries.insert(path.to_owned(), Entry { kind: EntryKind::File(contents), mode });
    }

    /// The kernel opens it for the first program before anything is mounted.
    fn console(&mut self) {
        self.directory("/dev");
        let console = Entry { kind: EntryKind::Device { major: 5, minor: 1 }, mode: 0o600 };
        self.entries.insert("/dev/console".to_owned(), console);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::read_newc;

    #[test]
    fn a_bare_initrd_holds_the_console_and_the_program() {
        // the test itself is a static program
        let own = std::env::current_exe().unwrap();
        let entries = read_newc(&bare_initrd(&own).unwrap()).unwrap();
        let paths: Vec<_> = entries.iter().map(|(path, entry)| (path.as_str(), entry.mode)).collect();
        assert_eq!(paths, [("/dev", 0o755), ("/dev/console", 0o600), ("/init", 0o755)]);
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(&script, "#!/bin/sh\n").unwrap();
        let refused = bare_initrd(script.path());
        assert!(matches!(refused, Err(InitrdError::NotStatic { error: ElfError::NotElf, .. })), "{refused:?}");
        let missing = bare_initrd(Path::new("/nonexistent/init"));
        assert!(matches!(missing, Err(InitrdError::Unreadable { .. })), "{missing:?}");
    }

    #[test]
    fn the_size_is_judged_after_compression() {
        let zeros = vec![0u8; 100_000];
        assert!(check_size(&zeros, 100_000).is_ok());
        assert!(check_size(&zeros, 1_000).is_ok());
        assert!(matches!(check_size(&zeros, 10), Err(InitrdError::TooLarge { limit: 10, compressed: 11.. })));
    }
}
