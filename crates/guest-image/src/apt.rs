//! Pinned packages from Debian's mirror, through apt with a configuration of its own, and out of their files.
//!
//! The system's package state is neither read nor changed. The mirror is the one that the system's own sources name, or
//! `BELLJAR_DEBIAN_MIRROR`. apt checks Debian's signature, and every use checks the pinned SHA-256.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::digest::sha256_file;
use crate::recipe::{Package, Recipe};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// No single file of a pinned package is larger.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// A program is missing.
    #[error("cannot run {tool}: {error}; install the Debian package {package}")]
    Tool {
        /// The program.
        tool: &'static str,
        /// The package that has it.
        package: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Debian's keys are missing.
    #[error("{KEYRING} is missing; install the Debian package debian-archive-keyring")]
    Keyring,
    /// The system's apt sources name no Debian mirror.
    #[error(
        "no Debian mirror among the system's apt sources; run `apt-get update`, or set BELLJAR_DEBIAN_MIRROR to a mirror's URI"
    )]
    NoMirror,
    /// A mirror with characters that have no place in a sources file.
    #[error("the mirror {0:?} is not a URI; correct BELLJAR_DEBIAN_MIRROR or the system's apt sources")]
    Mirror(String),
    /// apt could not read the mirror's lists.
    #[error("the lists of the Debian mirror {mirror} could not be fetched: {reason}")]
    Update {
        /// The mirror.
        mirror: String,
        /// apt's last words.
        reason: String,
    },
    /// The mirror has another version by now.
    #[error(
        "{package} {version} is no longer in {suite} and not in the cache; \
         put its .deb (sha256 {sha256}) into {cache} as {sha256}.deb, or move the pin in guest/pins.toml"
    )]
    VersionGone {
        /// The package.
        package: String,
        /// The pinned version.
        version: String,
        /// The suite.
        suite: String,
        /// The pinned digest.
        sha256: String,
        /// Where cached packages lie.
        cache: PathBuf,
    },
    /// apt could not download it.
    #[error("{package} {version} could not be downloaded: {reason}")]
    Download {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// apt's last words.
        reason: String,
    },
    /// What was downloaded is not what is pinned.
    #[error(
        "the SHA-256 of {package} {version} is {found}, expected {expected}; if the new one is right, correct guest/pins.toml"
    )]
    PinMismatch {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// The pinned digest.
        expected: String,
        /// The digest of the download.
        found: String,
    },
    /// The package file could not be unpacked.
    #[error("{package} could not be unpacked: {reason}")]
    Unpack {
        /// The package.
        package: String,
        /// What `dpkg-deb` or the reader said.
        reason: String,
    },
    /// The cache directory fails.
    #[error("{path}: {error}; correct the cache directory, or set BELLJAR_CACHE to another")]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

fn cache_error(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |error| FetchError::Cache { path, error }
}

/// The packages that were fetched before, by their digest. Held locked, so that two builds do not fetch at once.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    _lock: File,
}

impl Cache {
    pub(crate) fn open(cache: &Path, waiting: impl FnOnce()) -> Result<Self, FetchError> {
        let directory = cache.join("guest");
        let debs = directory.join("debs");
        fs::create_dir_all(&debs).map_err(cache_error(&debs))?;
        let path = directory.join("lock");
        let lock = File::create(&path).map_err(cache_error(&path))?;
        if lock.try_lock().is_err() {
            waiting();
            lock.lock().map_err(cache_error(&path))?;
        }
        Ok(Self { directory, _lock: lock })
    }

    /// Where the file of a package lies once it is fetched.
    fn deb(&self, package: &Package) -> PathBuf {
        self.directory.join("debs").join(format!("{}.deb", package.sha256))
    }

    /// Makes all packages present; `fetching` is told of each download. A damaged file in the cache is fetched again.
    pub(crate) fn ensure(&self, packages: &[Package], fetching: impl Fn(&Package)) -> Result<(), FetchError> {
        let mut missing = Vec::new();
        for package in packages {
            let path = self.deb(package);
            match sha256_file(&path) {
                Ok((found, _)) if found == package.sha256 => {}
                Ok((found, _)) => {
                    tracing::warn!(package = package.name, %found, "the cached package is damaged; fetching it again");
                    fs::remove_file(&path).map_err(cache_error(&path))?;
                    missing.push(package);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(package),
                Err(error) => return Err(FetchError::Cache { path, error }),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let apt = Apt::new(&self.directory.join("apt"), &Recipe::suites(&missing))?;
        apt.update()?;
        for package in missing {
            fetching(package);
            self.fetch(&apt, package)?;
        }
        Ok(())
    }

    fn fetch(&self, apt: &Apt, package: &Package) -> Result<(), FetchError> {
        let Package { name, version, suite, sha256, .. } = package.clone();
        let wanted = format!("{name}={version}");
        // `show` succeeds without a word when there is only another version
        let shown = apt.run("apt-cache", &["show", &wanted], &self.directory)?;
        if !shown.status.success() || shown.stdout.is_empty() {
            let cache = self.directory.join("debs");
            return Err(FetchError::VersionGone { package: name, version, suite, sha256, cache });
        }
        let incoming = self.directory.join("incoming");
        // what a build that was killed has left
        let _ = fs::remove_dir_all(&incoming);
        fs::create_dir(&incoming).map_err(cache_error(&incoming))?;
        let output = apt.run("apt-get", &["download", &wanted], &incoming)?;
        let download_error = |reason| FetchError::Download { package: name.clone(), version: version.clone(), reason };
        if !output.status.success() {
            return Err(download_error(last_words(&output)));
        }
        let downloaded = fs::read_dir(&incoming).map_err(cache_error(&incoming))?.flatten();
        let path = downloaded.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|ext| ext == "deb"));
        let path = path.ok_or_else(|| download_error("apt left no package file".to_owned()))?;
        let (found, _) = sha256_file(&path).map_err(cache_error(&path))?;
        if found != sha256 {
            return Err(FetchError::PinMismatch { package: name, version, expected: sha256, found });
        }
        fs::rename(&path, self.deb(package)).map_err(cache_error(&path))
    }

    /// The regular files of a package whose paths (`boot/vmlinuz-…`) are wanted, with their contents.
    pub(crate) fn files(
        &self,
        package: &Package,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Vec<u8>>, FetchError> {
        let fail = |reason: String| FetchError::Unpack { package: package.name.clone(), reason };
        let mut child = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(self.deb(package))
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| FetchError::Tool { tool: "dpkg-deb", package: "dpkg", error })?;
        let mut files = BTreeMap::new();
        let read = child.stdout.take().map_or(Ok(()), |stdout| read_tar(stdout, wanted, &mut files));
        let status = child.wait().map_err(|error| fail(error.to_string()))?;
        read.map_err(|error| fail(error.to_string()))?;
        if !status.success() {
            return Err(fail(format!("dpkg-deb ended with {status}")));
        }
        Ok(files)
    }
}

fn read_tar(
    mut stream: impl Read,
    wanted: impl Fn(&str) -> bool,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> io::Result<()> {
    let mut archive = tar::Archive::new(&mut stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if entry.header().entry_type().is_file() && wanted(&path) {
            if entry.size() > MAX_FILE {
                return Err(io::Error::other(format!("{path} is larger than {MAX_FILE} bytes")));
            }
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents)?;
            files.insert(path, contents);
        }
    }
    // what tar pads its end with, so that dpkg-deb can finish writing
    io::copy(&mut stream, &mut io::sink()).map(|_| ())
}

/// apt with sources, lists and cache of its own.
#[derive(Debug)]
struct Apt {
    configuration: PathBuf,
    mirror: String,
}

impl Apt {
    fn new(directory: &Path, suites: &std::collections::BTreeSet<&str>) -> Result<Self, FetchError> {
        if !Path::new(KEYRING).exists() {
            return Err(FetchError::Keyring);
        }
        let mirror = mirror()?;
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).map_err(cache_error(&path))?;
        }
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).map_err(cache_error(&path)).map(|()| path)
        };
        let suites = suites.iter().copied().collect::<Vec<_>>().join(" ");
        let sources = write(
            "belljar.sources",
            &format!(
                "Types: deb\nURIs: {mirror}\nSuites: {suites}\nComponents: main\nArchitectures: amd64\n\
                 Targets: Packages\nSigned-By: {KEYRING}\n"
            ),
        )?;
        let status = write("status", "")?;
        let root = directory.display();
        let configuration = format!(
            "{proxies}Dir::Etc::Main \"/dev/null\";\nDir::Etc::Parts \"/dev/null\";\n\
             Dir::Etc::SourceList \"{sources}\";\nDir::Etc::SourceParts \"-\";\n\
             Dir::Etc::Preferences \"/dev/null\";\nDir::Etc::PreferencesParts \"/dev/null\";\n\
             Dir::State \"{root}/state\";\nDir::State::Lists \"{root}/state/lists\";\nDir::State::Status \"{status}\";\n\
             Dir::Cache \"{root}/cache\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::Retries \"2\";\n",
            proxies = system_acquire()?,
            sources = sources.display(),
            status = status.display(),
        );
        Ok(Self { configuration: write("apt.conf", &configuration)?, mirror })
    }

    fn run(&self, tool: &'static str, arguments: &[&str], directory: &Path) -> Result<Output, FetchError> {
        Command::new(tool)
            .args(["--quiet=2"])
            .args(arguments)
            .env("APT_CONFIG", &self.configuration)
            .env("LC_ALL", "C")
            .current_dir(directory)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| FetchError::Tool { tool, package: "apt", error })
    }

    fn update(&self) -> Result<(), FetchError> {
        // `any`: a list that could not be fetched is an error, not a warning
        let output = self.run("apt-get", &["update", "--error-on=any"], Path::new("/"))?;
        if !output.status.success() {
            return Err(FetchError::Update { mirror: self.mirror.clone(), reason: last_words(&output) });
        }
        Ok(())
    }
}

fn system_apt(tool: &'static str, arguments: &[&str]) -> Result<String, FetchError> {
    let output = Command::new(tool).args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(|error| FetchError::Tool { tool, package: "apt", error })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The system's proxies and time-outs, as lines of an apt configuration.
fn system_acquire() -> Result<String, FetchError> {
    let dump = system_apt("apt-config", &["dump"])?;
    let wanted = |line: &&str| {
        let line = line.to_ascii_lowercase();
        line.starts_with("acquire::http") || line.starts_with("acquire::https") || line.starts_with("acquire::check-")
    };
    Ok(dump.lines().filter(wanted).map(|line| format!("{line}\n")).collect())
}

fn mirror() -> Result<String, FetchError> {
    let mirror = match std::env::var("BELLJAR_DEBIAN_MIRROR") {
        Ok(mirror) if !mirror.is_empty() => mirror,
        _ => {
            let format = "$(LABEL)\t$(RELEASE)\t$(REPO_URI)";
            let targets = system_apt("apt-get", &["indextargets", "--format", format, "Created-By: Packages"])?;
            let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
            let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or_default();
            mirror_among(&targets, codename).ok_or(FetchError::NoMirror)?
        }
    };
    if !mirror.contains(":/") || mirror.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"') {
        return Err(FetchError::Mirror(mirror));
    }
    Ok(mirror)
}

/// The mirror of the system's own suite; before the first `apt-get update` no target has a label, and the suite's name decides.
fn mirror_among(targets: &str, codename: &str) -> Option<String> {
    let rows = targets.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let labelled = rows.clone().find(|(label, _, _)| *label == "Debian");
    let named = || rows.clone().find(|(_, release, _)| !codename.is_empty() && *release == codename);
    labelled.or_else(named).map(|(_, _, uri)| uri.to_owned())
}

fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let told = text.lines().rfind(|line| line.starts_with("E: ")).or_else(|| text.lines().last());
    told.map_or_else(|| output.status.to_string(), |line| line.trim_start_matches("E: ").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_debian_itself() {
        let rows = "Other\tbookworm\thttp://other/\nDebian Backports\tbookworm-backports\thttp://b/\nDebian\tbookworm\thttp://m/\n";
        assert_eq!(mirror_among(rows, "bookworm").as_deref(), Some("http://m/"));
        let fresh = "\tbookworm-backports\thttp://b/\n\tbookworm\thttp://m/\n";
        assert_eq!(mirror_among(fresh, "bookworm").as_deref(), Some("http://m/"));
        assert_eq!(mirror_among(fresh, "trixie"), None);
        assert_eq!(mirror_among("", ""), None);
    }
}
