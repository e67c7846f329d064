//! From pinned packages and an agent to an image.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::apt::{Cache, FetchError};
use crate::digest::sha256_hex;
use crate::initrd::{InitrdError, first_program, initrd};
use crate::kernel::{KernelError, vmlinux_of};
use crate::manifest::{FORMAT, FileEntry, Manifest, ManifestError};
use crate::modules::ModuleTree;
use crate::recipe::{Package, Purpose, Recipe, RecipeError};
use crate::store::install;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A package could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The recipe is incomplete.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The kernel could not be unpacked.
    #[error("the kernel of {package}: {error}")]
    Kernel {
        /// The package.
        package: String,
        /// What is wrong with it.
        error: KernelError,
    },
    /// A package does not have the file that it is there for.
    #[error("{package} {version} has no {file}; correct guest/pins.toml")]
    NoFile {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// The file.
        file: String,
    },
    /// The initrd could not be made.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// The manifest could not be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The image could not be stored.
    #[error("{path}: {error}; correct the directory of guest images, or set BELLJAR_GUEST to another")]
    Store {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// What a build is doing; its `Display` is a line for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Another build holds the cache.
    Waiting,
    /// A package is missing from the cache and is being downloaded.
    Fetching {
        /// The package.
        package: String,
        /// Its version.
        version: String,
    },
    /// The kernel is being unpacked.
    Kernel,
    /// The initrd is being put together.
    Initrd,
    /// The image is being written.
    Storing,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for another build"),
            Self::Fetching { package, version } => write!(f, "fetching {package} {version}"),
            Self::Kernel => f.write_str("unpacking the kernel"),
            Self::Initrd => f.write_str("putting the initrd together"),
            Self::Storing => f.write_str("writing the image"),
        }
    }
}

/// Builds the image of `recipe` with `agent` as the guest's first program, into the directory of images `out`, and makes it the
/// current one. Fetched packages are kept in `cache`. The same recipe and agent give the same bytes on every machine.
///
/// Needs `apt-get`, `dpkg-deb` and `xz`, and the network for packages that are not in the cache. Blocks; other builds wait.
pub fn build(
    recipe: &Recipe,
    agent: &Path,
    cache: &Path,
    out: &Path,
    progress: &dyn Fn(Step),
) -> Result<Manifest, BuildError> {
    // the cheapest check first
    let agent = first_program(agent)?;
    let cache = Cache::open(cache, || progress(Step::Waiting))?;
    cache.ensure(&recipe.packages, |package| {
        progress(Step::Fetching { package: package.name.clone(), version: package.version.clone() });
    })?;

    let mut files: BTreeMap<&str, (Vec<u8>, &Package)> = BTreeMap::new();
    for package in &recipe.packages {
        let (name, path) = match package.purpose {
            Purpose::Kernel => continue,
            Purpose::Qboot => ("qboot.rom", "usr/share/qemu/qboot.rom"),
            Purpose::OvmfAmdsev => ("OVMF.amdsev.fd", "usr/share/ovmf/OVMF.amdsev.fd"),
            Purpose::OvmfInteltdx => ("OVMF.inteltdx.ms.fd", "usr/share/ovmf/OVMF.inteltdx.ms.fd"),
        };
        let contents =
            cache.files(package, |found| found == path)?.remove(path).ok_or_else(|| no_file(package, path))?;
        files.insert(name, (contents, package));
    }

    progress(Step::Kernel);
    let package = recipe.package(Purpose::Kernel)?;
    let mut tree = cache.files(package, |path| {
        path.starts_with("boot/vmlinuz-") || path.ends_with("/modules.builtin") || path.ends_with(".ko.xz")
    })?;
    let vmlinuz = tree.keys().find(|path| path.starts_with("boot/")).cloned().unwrap_or_default();
    let vmlinuz = tree.remove_entry(&vmlinuz).ok_or_else(|| no_file(package, "boot/vmlinuz-*"))?;
    let kernel_release = vmlinuz.0.trim_start_matches("boot/vmlinuz-").to_owned();
    let builtin = tree.iter().find(|(path, _)| path.ends_with("/modules.builtin"));
    let builtin = builtin.map(|(_, text)| String::from_utf8_lossy(text).into_owned());
    let builtin = builtin.ok_or_else(|| no_file(package, "modules.builtin"))?;
    let vmlinux =
        vmlinux_of(&vmlinuz.1).map_err(|error| BuildError::Kernel { package: package.name.clone(), error })?;
    files.insert("vmlinuz", (vmlinuz.1, package));
    files.insert("vmlinux", (vmlinux, package));

    progress(Step::Initrd);
    let agent_sha256 = sha256_hex(&agent);
    let modules = ModuleTree::new(tree.iter().map(|(path, contents)| (path.as_str(), contents.as_slice())), &builtin);
    let (initrd, modules) = initrd(recipe, agent, modules)?;

    let entry = |contents: &[u8], package: &str, source: &str, version: &str| FileEntry {
        sha256: sha256_hex(contents),
        size: u64::try_from(contents.len()).unwrap_or(u64::MAX),
        package: package.to_owned(),
        source: source.to_owned(),
        version: version.to_owned(),
    };
    let own = entry(&initrd, "belljar", "belljar", &recipe.agent_version);
    let packaged = files.iter().map(|(name, (contents, package))| {
        ((*name).to_owned(), entry(contents, &package.name, &package.source, &package.version))
    });
    let manifest = Manifest {
        format: FORMAT,
        kernel_release,
        agent_version: recipe.agent_version.clone(),
        agent_sha256,
        command_line: recipe.command_line.clone(),
        files: packaged.chain([("initrd".to_owned(), own)]).collect(),
        modules,
    };
    progress(Step::Storing);
    let packaged = files.iter().map(|(name, (contents, _))| (*name, contents.as_slice()));
    let contents: Vec<_> = packaged.chain([("initrd", initrd.as_slice())]).collect();
    install(&manifest, &contents, out)?;
    Ok(manifest)
}

fn no_file(package: &Package, file: &str) -> BuildError {
    BuildError::NoFile { package: package.name.clone(), version: package.version.clone(), file: file.to_owned() }
}
