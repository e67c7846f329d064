//! Where things lie on a node.

use std::path::{Path, PathBuf};

/// Folder of the programs, as containerd sees it.
pub(crate) const BIN: &str = "/opt/belljar/bin";

/// The paths of a node, below a root folder: `/`, or the root of a disk image or of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The node whose file system is seen at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where an absolute path of the node is seen.
    #[must_use]
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// The programs: `/opt/belljar/bin`.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.path(BIN)
    }

    /// What the shim keeps: guest images, layers, keys of the software TEE. `/var/lib/belljar`.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path("/var/lib/belljar")
    }

    /// Guest images, and the link `current`.
    #[must_use]
    pub fn guest(&self) -> PathBuf {
        self.data().join("guest")
    }

    /// What the installer remembers.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.data().join("node")
    }

    /// What the shim can make again: `/var/cache/belljar`.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.path("/var/cache/belljar")
    }

    /// What the shim keeps of running pods: `/run/belljar`.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.path("/run/belljar")
    }

    /// The shim's configuration: `/etc/belljar/shim.toml`.
    #[must_use]
    pub fn shim_config(&self) -> PathBuf {
        self.path("/etc/belljar/shim.toml")
    }

    /// containerd's configuration where nothing else is said.
    #[must_use]
    pub fn containerd_config(&self) -> PathBuf {
        self.path("/etc/containerd/config.toml")
    }

    /// containerd's socket where nothing else is said.
    #[must_use]
    pub fn containerd_socket(&self) -> PathBuf {
        self.path("/run/containerd/containerd.sock")
    }
}
