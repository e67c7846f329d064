//! containerd's program: its version, and what it makes of a configuration.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use toml::Table;

use crate::containerd::edit::{self, ConfigError};
use crate::layout::Layout;
use crate::process;

const LIMIT: Duration = Duration::from_secs(30);
const USUAL_ROOT: &str = "/var/lib/containerd";
/// The content store's folder below containerd's root.
const CONTENT: &str = "io.containerd.content.v1.content";
const NAME: &str = "containerd";
const FOLDERS: [&str; 7] =
    ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/opt/bin", "/opt/containerd/bin"];
/// The first that hands a shim the sandbox as it needs it.
const OLDEST: (u32, u32) = (1, 6);

/// Why containerd's program gives no answer, or refuses a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It is nowhere.
    #[error("there is no containerd in {looked_in}; install it (apt install containerd), or name it with --containerd")]
    Missing {
        /// Where it was looked for.
        looked_in: String,
    },
    /// It does not run.
    #[error("{0}")]
    Fails(String),
    /// It tells no version.
    #[error("{path} --version says {said:?}; name containerd with --containerd")]
    NoVersion {
        /// The program.
        path: PathBuf,
        /// Its words.
        said: String,
    },
    /// It is too old.
    #[error("containerd {found} is too old, 1.6 or newer is needed")]
    TooOld {
        /// Its version.
        found: String,
    },
    /// It refuses the configuration.
    #[error("containerd does not accept {path}: {why}")]
    Refuses {
        /// The configuration.
        path: PathBuf,
        /// Its last words.
        why: String,
    },
    /// What it makes of the configuration is not TOML.
    #[error("containerd's own account of {path} cannot be read: {why}")]
    Dump {
        /// The configuration.
        path: PathBuf,
        /// Why.
        why: ConfigError,
    },
}

/// containerd's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containerd {
    /// Where it is.
    pub program: PathBuf,
    /// Its version, as it says it.
    pub version: String,
    /// Major and minor version.
    pub release: (u32, u32),
}

impl Containerd {
    /// The program at `named`, else in the usual folders of the node.
    ///
    /// # Errors
    /// [`ProgramError`]: none, or none that is new enough.
    pub fn find(layout: &Layout, named: Option<&Path>) -> Result<Self, ProgramError> {
        let program = match named {
            Some(path) if path.is_file() => path.to_owned(),
            Some(path) => return Err(ProgramError::Missing { looked_in: path.display().to_string() }),
            None => FOLDERS
                .iter()
                .map(|folder| layout.path(folder).join(NAME))
                .find(|path| path.is_file())
                .ok_or_else(|| ProgramError::Missing { looked_in: FOLDERS.join(", ") })?,
        };
        let answer = process::run(Command::new(&program).arg("--version"), LIMIT).map_err(ProgramError::Fails)?;
        let (version, release) = version(&answer.stdout).ok_or_else(|| ProgramError::NoVersion {
            path: program.clone(),
            said: answer.stdout.chars().take(100).collect(),
        })?;
        if release < OLDEST {
            return Err(ProgramError::TooOld { found: version });
        }
        Ok(Self { program, version, release })
    }

    /// Its content store by that configuration, where it is not the usual one.
    pub(crate) fn content_store(&self, config: &Path) -> Option<String> {
        let dump = self.dump(config).ok()?;
        let root = dump.get("root").and_then(toml::Value::as_str)?;
        (root != USUAL_ROOT).then(|| format!("{}/{CONTENT}", root.trim_end_matches('/')))
    }

    /// What it makes of a configuration: defaults, imports and migration included. An absent file gives the defaults.
    pub(crate) fn dump(&self, config: &Path) -> Result<Table, ProgramError> {
        let mut command = Command::new(&self.program);
        if config.exists() {
            command.arg("--config").arg(config).args(["config", "dump"]);
        } else {
            command.args(["config", "default"]);
        }
        // its answer must not depend on who asks
        command.env_remove("CONTAINERD_CONFIG");
        let answer = process::run(&mut command, LIMIT).map_err(ProgramError::Fails)?;
        if !answer.status.success() {
            return Err(ProgramError::Refuses { path: config.to_owned(), why: answer.complaint() });
        }
        edit::table(&answer.stdout).map_err(|why| ProgramError::Dump { path: config.to_owned(), why })
    }
}

/// `containerd github.com/containerd/containerd 1.6.20~ds1 …` or `… v2.1.9 abc`.
fn version(text: &str) -> Option<(String, (u32, u32))> {
    text.split_ascii_whitespace().find_map(|word| {
        let number = word.trim_start_matches('v');
        let mut parts = number.split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
        Some((number.get(..end)?.to_owned(), (major, minor)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let debian = "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3";
        assert_eq!(version(debian), Some(("1.6.20".into(), (1, 6))));
        assert_eq!(version("containerd github.com/containerd/containerd/v2 v2.1.9 a"), Some(("2.1.9".into(), (2, 1))));
        assert_eq!(version("containerd"), None);
    }
}
