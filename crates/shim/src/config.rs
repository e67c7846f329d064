//! `/etc/belljar/shim.toml`: what the administrator of a node decides. Every key has a default, so that the file may be missing; an
//! unknown key is refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use belljar_launch::BrokerAddress;
use belljar_vmm::TeeKind;
use serde::Deserialize;

/// The file, unless [`VARIABLE`] names another.
pub const FILE: &str = "/etc/belljar/shim.toml";
/// Environment variable with the path of the file.
pub const VARIABLE: &str = "BELLJAR_SHIM_CONFIG";

/// The settings of a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Folder with the guest image (`guest/`), the layer store (`store/`) and the keys of software TEEs (`softtee/`).
    pub data: PathBuf,
    /// Folder with one folder per running pod.
    pub state: PathBuf,
    /// Folder of things that can be made again.
    pub cache: PathBuf,
    /// Whether `containerd-shim-belljar-v2` may take a software TEE, which protects nothing, when the node has no hardware TEE.
    pub software: bool,
    /// QEMU, instead of the one in `PATH`.
    pub qemu: Option<PathBuf>,
    /// containerd's content store, where image layers are looked for first.
    pub content: PathBuf,
    /// Whether a layer that is not on this node may be fetched from the image's registry.
    pub pull: bool,
    /// docker's `config.json` with logins of registries; without it, registries are asked anonymously.
    pub docker_config: Option<PathBuf>,
    /// The broker's address for pods without the annotation `belljar.dev/broker`: `https://host:port`.
    pub broker: Option<String>,
    /// Longest wait for a VM's agent in seconds.
    pub boot_seconds: u64,
    /// How often files of volumes are looked at for changes, in seconds.
    pub volume_seconds: u64,
    /// What is logged, as `tracing-subscriber` filters it: `warn`, `info`, `debug`, `belljar_vmm=debug`.
    pub log: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "/var/lib/belljar".into(),
            state: "/run/belljar/pods".into(),
            cache: "/var/cache/belljar".into(),
            software: false,
            qemu: None,
            content: "/var/lib/containerd/io.containerd.content.v1.content".into(),
            pull: true,
            docker_config: None,
            broker: None,
            boot_seconds: 60,
            volume_seconds: 5,
            log: "info".into(),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        error: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of another type.
    #[error("{path}: {message}; docs/shim.md lists the keys")]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A value out of its bounds.
    #[error("{path}: {key} {why}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Config {
    /// Reads the file that [`VARIABLE`] names, else [`FILE`], which may be missing.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load() -> Result<Self, ConfigError> {
        match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => Self::read(Path::new(&path)),
            None => match Self::read(Path::new(FILE)) {
                Err(ConfigError::Read { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                    Ok(Self::default())
                }
                other => other,
            },
        }
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    /// Reads the text of the file `path`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|error| ConfigError::Toml { path: path.to_owned(), message: error.message().to_owned() })?;
        let value = |key, why: String| ConfigError::Value { path: path.to_owned(), key, why };
        for (key, folder) in [("data", &config.data), ("state", &config.state), ("cache", &config.cache)] {
            if !folder.is_absolute() {
                return Err(value(key, format!("is {}, expected an absolute path", folder.display())));
            }
        }
        for (key, seconds) in [("boot-seconds", config.boot_seconds), ("volume-seconds", config.volume_seconds)] {
            if !(1..=600).contains(&seconds) {
                return Err(value(key, format!("is {seconds}, expected 1 to 600")));
            }
        }
        if let Some(broker) = &config.broker {
            broker.parse::<BrokerAddress>().map_err(|error| value("broker", format!("is {error}")))?;
        }
        Ok(config)
    }

    /// The guest image, or the folder of images of which the current one is taken.
    pub fn guest(&self) -> PathBuf {
        self.data.join("guest")
    }

    /// The layer store.
    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// Keys of software TEEs.
    pub fn softtee(&self) -> PathBuf {
        self.data.join("softtee")
    }

    /// Longest wait for a VM's agent.
    pub fn boot_timeout(&self) -> Duration {
        Duration::from_secs(self.boot_seconds)
    }
}

/// Which TEE a pod is to have: by the name under which the shim was called, which containerd makes from `runtime_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TeeChoice {
    /// The hardware that this node has.
    Hardware,
    /// This one.
    Only(TeeKind),
}

/// The name says no TEE that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the shim is called as {found:?}, which names no TEE; expected containerd-shim-belljar-v2, -belljar-snp-v2, -belljar-tdx-v2 or -belljar-software-v2"
)]
pub struct NameError {
    /// The name.
    pub found: String,
}

impl TeeChoice {
    /// By the last part of `argv[0]`.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn of_program(program: &Path) -> Result<Self, NameError> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        match name.as_ref() {
            "containerd-shim-belljar-v2" => Ok(Self::Hardware),
            "containerd-shim-belljar-snp-v2" => Ok(Self::Only(TeeKind::Snp)),
            "containerd-shim-belljar-tdx-v2" => Ok(Self::Only(TeeKind::Tdx)),
            "containerd-shim-belljar-software-v2" => Ok(Self::Only(TeeKind::Software)),
            _ => Err(NameError { found: name.into_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("shim.toml"))
    }

    #[test]
    fn every_key_is_read_and_every_other_is_refused() {
        assert_eq!(parse("").unwrap(), Config::default());
        let text = "data = '/d'\nstate = '/s'\ncache = '/c'\nsoftware = true\nqemu = '/q'\ncontent = '/b'\npull = false\ndocker-config = '/j'\n\
            broker = 'https://b:1'\nboot-seconds = 9\nvolume-seconds = 1\nlog = 'debug'\n";
        let expected = Config {
            data: "/d".into(),
            state: "/s".into(),
            cache: "/c".into(),
            software: true,
            qemu: Some("/q".into()),
            content: "/b".into(),
            pull: false,
            docker_config: Some("/j".into()),
            broker: Some("https://b:1".into()),
            boot_seconds: 9,
            volume_seconds: 1,
            log: "debug".into(),
        };
        assert_eq!(parse(text).unwrap(), expected);
        let unknown = parse("sofware = true").unwrap_err().to_string();
        assert!(unknown.contains("sofware"), "{unknown}");
        assert_eq!(parse("data = 'd'").unwrap_err().to_string(), "shim.toml: data is d, expected an absolute path");
        assert_eq!(
            parse("boot-seconds = 0").unwrap_err().to_string(),
            "shim.toml: boot-seconds is 0, expected 1 to 600"
        );
        assert!(parse("broker = 'http://b:1'").is_err());
    }

    #[test]
    fn the_name_says_which_tee() {
        let of = |name: &str| TeeChoice::of_program(Path::new(name));
        assert_eq!(of("/usr/bin/containerd-shim-belljar-v2"), Ok(TeeChoice::Hardware));
        assert_eq!(of("containerd-shim-belljar-snp-v2"), Ok(TeeChoice::Only(TeeKind::Snp)));
        assert_eq!(of("containerd-shim-belljar-tdx-v2"), Ok(TeeChoice::Only(TeeKind::Tdx)));
        assert_eq!(of("containerd-shim-belljar-software-v2"), Ok(TeeChoice::Only(TeeKind::Software)));
        assert_eq!(
            of("containerd-shim-belljar-sgx-v2"),
            Err(NameError { found: "containerd-shim-belljar-sgx-v2".into() })
        );
    }
}
