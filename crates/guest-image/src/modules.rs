//! Kernel modules: which ones are needed, in which order they are loaded, and what a load can do without.
//!
//! Debian's package has no `modules.dep`; the order comes from the `depends=` strings in the modules' own `.modinfo`. The
//! signature at the end of a module (`Documentation/admin-guide/module-signing.rst`) costs an RSA verification at each load, a
//! fifth of a second for the modules of a start under emulation. The package is checked by its digest when the image is built,
//! and the initrd is measured with all the modules in it, so the signature adds nothing there: it is cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use crate::elf::{Elf, ElfError, hide_sections};

/// Sections that a load takes time over and that nobody in a pod VM uses: types for BPF, places to trace, tables to unwind stacks in
/// a crash report. See docs/adr/0005-guest-kernel-command-line.md.
const UNUSED: [&str; 5] = [".BTF", ".BTF.base", "__mcount_loc", ".orc_unwind", ".orc_unwind_ip"];
const SIGNATURE_MAGIC: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`: eight bytes, and the length of the signature, big-endian, in the last four.
const SIGNATURE_INFO: usize = 12;

/// Why a module could not be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// The kernel package has no such module, and it is not built in either.
    #[error("the kernel package has no module {name} (wanted by {wanted_by}); correct guest/recipe.toml")]
    Missing {
        /// The module.
        name: String,
        /// The recipe, or the module that depends on it.
        wanted_by: String,
    },
    /// Two modules need each other.
    #[error("the module {name} depends on itself")]
    Cycle {
        /// One of them.
        name: String,
    },
    /// It is no ELF file.
    #[error("the module {name} is damaged: {error}")]
    Elf {
        /// The module.
        name: String,
        /// What is wrong with it.
        error: ElfError,
    },
    /// `.modinfo` is missing, is no text, or has no `depends=`.
    #[error("the module {name} does not say what it depends on")]
    NoModinfo {
        /// The module.
        name: String,
    },
    /// The length of its signature does not fit.
    #[error("the signature of the module {name} is damaged")]
    Signature {
        /// The module.
        name: String,
    },
    /// `xz` failed.
    #[error("the module {name} cannot be unpacked: {reason}; is `xz` (package xz-utils) installed?")]
    Unpack {
        /// The module.
        name: String,
        /// What `xz` or the system said.
        reason: String,
    },
}

/// One module, ready for the initrd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// The name as the kernel says it: with underscores.
    pub(crate) name: String,
    /// The ELF file without its signature, and with [`UNUSED`] hidden.
    pub(crate) object: Vec<u8>,
    depends: Vec<String>,
}

impl Module {
    fn new(name: &str, mut object: Vec<u8>) -> Result<Self, ModuleError> {
        cut_signature(&mut object).ok_or(ModuleError::Signature { name: name.to_owned() })?;
        let elf_error = |error| ModuleError::Elf { name: name.to_owned(), error };
        hide_sections(&mut object, &UNUSED).map_err(elf_error)?;
        let modinfo = Elf::new(&object).and_then(|elf| elf.section(".modinfo")).map_err(elf_error)?;
        let depends = modinfo
            .and_then(|modinfo| std::str::from_utf8(modinfo).ok())
            .and_then(|modinfo| modinfo.split('\0').find_map(|entry| entry.strip_prefix("depends=")))
            .ok_or(ModuleError::NoModinfo { name: name.to_owned() })?;
        let depends = depends.split(',').filter(|name| !name.is_empty()).map(canonical).collect();
        Ok(Self { name: name.to_owned(), object, depends })
    }
}

/// Cuts the signature off, when there is one; `None` when its length does not fit.
fn cut_signature(object: &mut Vec<u8>) -> Option<()> {
    let Some(signed) = object.strip_suffix(SIGNATURE_MAGIC) else { return Some(()) };
    let length = usize::try_from(u32::from_be_bytes(*signed.last_chunk()?)).ok()?;
    let at = signed.len().checked_sub(SIGNATURE_INFO)?.checked_sub(length)?;
    object.truncate(at);
    Some(())
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The modules of a kernel package.
#[derive(Debug)]
pub(crate) struct ModuleTree<'a> {
    packed: BTreeMap<String, &'a [u8]>,
    builtin: BTreeSet<String>,
    taken: BTreeMap<String, Module>,
}

impl<'a> ModuleTree<'a> {
    /// From the package's files (path and contents) and the text of its `modules.builtin`.
    pub(crate) fn new(files: impl Iterator<Item = (&'a str, &'a [u8])>, builtin: &str) -> Self {
        let name = |path: &str, ending: &str| {
            let file = path.rsplit('/').next().unwrap_or(path);
            file.strip_suffix(ending).map(canonical)
        };
        Self {
            packed: files.filter_map(|(path, contents)| Some((name(path, ".ko.xz")?, contents))).collect(),
            builtin: builtin.lines().filter_map(|path| name(path, ".ko")).collect(),
            taken: BTreeMap::new(),
        }
    }

    /// The names of `wanted` and of all they depend on, each behind its dependencies; without those in `before`.
    pub(crate) fn order(&mut self, wanted: &[String], before: &[String]) -> Result<Vec<String>, ModuleError> {
        let mut order = before.to_vec();
        for name in wanted {
            self.visit(&canonical(name), "guest/recipe.toml", &mut order, &mut Vec::new())?;
        }
        Ok(order.split_off(before.len()))
    }

    /// All modules that some order named.
    pub(crate) fn into_modules(self) -> impl Iterator<Item = Module> {
        self.taken.into_values()
    }

    fn visit(
        &mut self,
        name: &str,
        wanted_by: &str,
        order: &mut Vec<String>,
        path: &mut Vec<String>,
    ) -> Result<(), ModuleError> {
        if order.iter().any(|done| done == name) || self.builtin.contains(name) {
            return Ok(());
        }
        if path.iter().any(|above| above == name) {
            return Err(ModuleError::Cycle { name: name.to_owned() });
        }
        let depends = self.take(name, wanted_by)?.depends.clone();
        path.push(name.to_owned());
        for dependency in &depends {
            self.visit(dependency, name, order, path)?;
        }
        path.pop();
        order.push(name.to_owned());
        Ok(())
    }

    fn take(&mut self, name: &str, wanted_by: &str) -> Result<&Module, ModuleError> {
        if !self.taken.contains_key(name) {
            let missing = ModuleError::Missing { name: name.to_owned(), wanted_by: wanted_by.to_owned() };
            let packed = self.packed.get(name).ok_or(missing)?;
            let unpack_error = |reason| ModuleError::Unpack { name: name.to_owned(), reason };
            let module = Module::new(name, unxz(packed).map_err(unpack_error)?)?;
            self.taken.insert(name.to_owned(), module);
        }
        self.taken.get(name).ok_or(ModuleError::NoModinfo { name: name.to_owned() })
    }
}

fn unxz(packed: &[u8]) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut child = Command::new("xz")
        .args(["--decompress", "--stdout", "--format=xz", "--memlimit=128MiB"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let input = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // a failed write shows as a failed `xz`, which says why
        let writer = scope.spawn(move || input.map(|mut input| input.write_all(packed)));
        let output = child.wait_with_output();
        let _ = writer.join();
        output
    })
    .map_err(text)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(output.stdout)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;

    /// An ELF object with a `.modinfo` that names the dependencies.
    fn object(depends: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0";
        let modinfo = format!("license=GPL\0depends={depends}\0name=x\0");
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        file[16] = 1;
        file[18] = 62;
        file.extend_from_slice(names);
        file.extend_from_slice(modinfo.as_bytes());
        let table = file.len() as u8;
        file[40] = table;
        file[58] = 64;
        file[60] = 2;
        for (name, at, size) in [(0u8, 64u8, names.len() as u8), (1, 64 + names.len() as u8, modinfo.len() as u8)] {
            let mut header = [0u8; 64];
            (header[0], header[4], header[24], header[32]) = (name, 1, at, size);
            file.extend_from_slice(&header);
        }
        file
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        std::fs::write(&path, bytes).unwrap();
        Command::new("xz").arg("-c").arg(&path).output().unwrap().stdout
    }

    fn order(files: &[(&str, &str)], wanted: &[&str]) -> Result<Vec<String>, ModuleError> {
        let packed: Vec<_> =
            files.iter().map(|(name, depends)| (format!("kernel/a/{name}.ko.xz"), xz(&object(depends)))).collect();
        let mut tree = ModuleTree::new(
            packed.iter().map(|(path, contents)| (path.as_str(), contents.as_slice())),
            "kernel/lib/crc32.ko\nkernel/x/built-in.ko\n",
        );
        tree.order(&wanted.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &["before".to_owned()])
    }

    #[test]
    fn dependencies_come_first_and_builtins_not_at_all() {
        let files =
            [("dm-verity", "dm-mod,dm-bufio,built_in"), ("dm-bufio", "dm-mod"), ("dm-mod", ""), ("z", "before")];
        let names = order(&files, &["dm_verity", "crc32", "z"]);
        assert_eq!(names.unwrap(), ["dm_mod", "dm_bufio", "dm_verity", "z"]);
        let missing = ModuleError::Missing { name: "dm_mod".into(), wanted_by: "dm_verity".into() };
        assert_eq!(order(&[files[0], files[1]], &["dm_verity"]), Err(missing));
        assert_eq!(order(&[("a", "b"), ("b", "a")], &["a"]), Err(ModuleError::Cycle { name: "a".into() }));
    }

    #[test]
    fn the_signature_is_cut_off() {
        let mut signed = object("");
        let plain = signed.clone();
        signed.extend_from_slice(b"SIGNATURE\0\0\0\0\0\0\0\0\0\0\0\x09");
        signed.extend_from_slice(SIGNATURE_MAGIC);
        assert_eq!(Module::new("x", signed.clone()).unwrap().object, plain);
        let length_at = signed.len() - SIGNATURE_MAGIC.len() - 4;
        signed[length_at] = 1;
        assert_eq!(Module::new("x", signed), Err(ModuleError::Signature { name: "x".into() }));
    }

    #[test]
    fn a_hidden_section_keeps_its_bytes_and_loses_its_name() {
        let plain = object("");
        let mut hidden = plain.clone();
        assert_eq!(hide_sections(&mut hidden, &[".nothing"]), Ok(0));
        assert_eq!(hidden, plain);
        assert_eq!(hide_sections(&mut hidden, &[".modinfo"]), Ok(1));
        assert_eq!(hidden.len(), plain.len());
        assert_eq!(Elf::new(&hidden).unwrap().section(".modinfo"), Ok(None));
        assert!(Elf::new(&plain).unwrap().section(".modinfo").unwrap().is_some());
    }

    #[test]
    fn a_module_that_is_none_is_refused() {
        let name = || "x".to_owned();
        let mut no_info = object("");
        assert!(Module::new("x", no_info.clone()).is_ok());
        no_info[66] = b'M';
        assert_eq!(Module::new("x", no_info), Err(ModuleError::NoModinfo { name: name() }));
        let text = Module::new("x", b"text".to_vec());
        assert_eq!(text, Err(ModuleError::Elf { name: name(), error: ElfError::NotElf }));
        assert!(unxz(&xz(b"text")).is_ok());
        assert!(unxz(b"not xz").unwrap_err().contains("format not recognized"));
    }
}
