//! The bundle that containerd prepares: of its `config.json` only what names a container, and the values that a contract may delegate.
//! Command, user, capabilities, limits and everything else that stands there describe a container, and are not read.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Largest `config.json`, in bytes.
pub const MAX_CONFIG: u64 = 4 << 20;

/// The parts of `config.json` that are read (OCI runtime specification 1.0).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct BundleConfig {
    /// Labels of the container manager; see [`crate::annotations`].
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The pod's host name.
    #[serde(default)]
    pub hostname: String,
    /// Values of environment variables.
    #[serde(default)]
    pub process: Process,
    /// Where the files of volumes lie.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// The pod's network namespace and cgroup.
    #[serde(default)]
    pub linux: Linux,
}

/// Of `process`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Process {
    /// `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
}

/// Of `mounts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Mount {
    /// Path in the container.
    pub destination: String,
    /// Path on this host.
    #[serde(default)]
    pub source: String,
    /// `bind` for files of this host.
    #[serde(default, rename = "type")]
    pub kind: String,
}

/// Of `linux`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Linux {
    /// Namespaces.
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    /// The container's cgroup.
    #[serde(default, rename = "cgroupsPath")]
    pub cgroups_path: String,
}

/// Of `linux.namespaces`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// `network` and others.
    #[serde(rename = "type")]
    pub kind: String,
    /// A namespace that is there already.
    #[serde(default)]
    pub path: String,
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        error: std::io::Error,
    },
    /// It is longer than [`MAX_CONFIG`].
    #[error("{path} is longer than {MAX_CONFIG} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no OCI configuration.
    #[error("{path}: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: serde_json::Error,
    },
}

impl BundleConfig {
    /// Reads `BUNDLE/config.json`.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn read(bundle: &Path) -> Result<Self, BundleError> {
        let path = bundle.join("config.json");
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path).and_then(|file| file.take(MAX_CONFIG + 1).read_to_end(&mut bytes));
        match read {
            Err(error) => Err(BundleError::Read { path, error }),
            Ok(length) if length as u64 > MAX_CONFIG => Err(BundleError::TooLarge { path }),
            Ok(_) => Self::parse(&bytes).map_err(|error| BundleError::Json { path, error }),
        }
    }

    /// Reads the bytes of a `config.json`.
    ///
    /// # Errors
    /// Not JSON, or a field of another type.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Path of the pod's network namespace, where it has one of its own.
    pub fn network_namespace(&self) -> Option<&Path> {
        let found = self.linux.namespaces.iter().find(|namespace| namespace.kind == "network")?;
        Some(Path::new(&found.path)).filter(|path| !path.as_os_str().is_empty())
    }

    /// The host's path that is mounted at `destination`.
    pub fn mount_source(&self, destination: &str) -> Option<&Path> {
        let found = self.mounts.iter().find(|mount| mount.kind == "bind" && mount.destination == destination)?;
        Some(Path::new(&found.source))
    }
}

/// Any bytes as a `config.json`, for fuzzing: what is taken from it must lead nowhere.
pub fn fuzz(data: &[u8]) {
    if let Ok(config) = BundleConfig::parse(data) {
        let _ = config.network_namespace();
        let _ = config.mount_source("/etc/resolv.conf");
        let _ = crate::annotations::Role::of(&config.annotations);
        if let Ok(value) = crate::annotations::initdata(&config.annotations) {
            let _ = crate::vm::Bound::from_annotation(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_delegated_values_are_read() {
        let json = br#"{"ociVersion":"1.0.2","process":{"args":["sh"],"env":["A=1"],"user":{"uid":7},"cwd":"/"},
            "hostname":"web-0","mounts":[{"destination":"/c","type":"bind","source":"/var/lib/kubelet/x"},{"destination":"/proc","type":"proc"}],
            "annotations":{"io.kubernetes.cri.container-type":"sandbox"},
            "linux":{"cgroupsPath":"/kubepods/pod1/abc","namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"}]}}"#;
        let config = BundleConfig::parse(json).unwrap();
        assert_eq!(config.network_namespace(), Some(Path::new("/run/netns/x")));
        assert_eq!(config.mount_source("/c"), Some(Path::new("/var/lib/kubelet/x")));
        assert_eq!(config.mount_source("/proc"), None);
        assert_eq!((config.hostname.as_str(), config.process.env.as_slice()), ("web-0", ["A=1".to_owned()].as_slice()));
        assert_eq!(config.linux.cgroups_path, "/kubepods/pod1/abc");
        assert_eq!(BundleConfig::parse(b"{}").unwrap().network_namespace(), None);
        assert!(BundleConfig::parse(b"{\"hostname\":7}").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            fuzz(&data);
        }
    }

    #[test]
    fn a_config_that_is_missing_or_too_long_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = BundleConfig::read(folder.path()).unwrap_err();
        assert!(matches!(missing, BundleError::Read { .. }), "{missing}");
        let path = folder.path().join("config.json");
        let padding = usize::try_from(MAX_CONFIG).unwrap();
        std::fs::write(&path, format!("{{}}{}", " ".repeat(padding - 2))).unwrap();
        assert_eq!(BundleConfig::read(folder.path()).unwrap(), BundleConfig::default());
        std::fs::write(&path, format!("{{}}{}", " ".repeat(padding - 1))).unwrap();
        assert!(matches!(BundleConfig::read(folder.path()).unwrap_err(), BundleError::TooLarge { .. }));
    }
}
