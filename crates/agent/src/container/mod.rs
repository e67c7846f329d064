//! The container runtime: one OCI specification (built from the contract alone), verified layers and secrets in, one
//! process out.
//!
//! A short-lived thread of the agent gives itself a mount namespace of its own, builds the whole root file system there with
//! ordinary code, and then clones the container's first process, which has only a fixed list of system calls left to make. So
//! the agent's own mount namespace never sees the container's file system or its secrets, and when the container's
//! last process ends, its mounts, scratch memory and secret files are gone. `docs/adr/0004-container-runtime.md` has the reasons.

mod error;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use error::{ContainerError, Stage};
use zeroize::Zeroizing;

/// What a container is made of.
#[derive(Debug)]
pub struct Bundle {
    /// Name: a DNS label, unique among the running containers; names the cgroup.
    pub name: String,
    /// From [`belljar_contract::oci_spec`]; a field that the runtime does not honour is refused.
    pub spec: oci_spec::runtime::Spec,
    /// Directories with the mounted, verified layers, lowest first; at least one.
    pub layers: Vec<PathBuf>,
    /// Bound of the writable layer in bytes.
    pub scratch_bytes: u64,
    /// Secrets that appear as files.
    pub secrets: Vec<SecretFile>,
    /// Mount point of the cgroup v2 hierarchy, normally `/sys/fs/cgroup`.
    pub cgroup_root: PathBuf,
}

/// A secret and where it appears. Its content is not printable.
pub struct SecretFile {
    /// Absolute, normalised path in the container.
    pub path: PathBuf,
    /// Mode; the owner is the container's user.
    pub mode: u32,
    /// Content.
    pub content: Zeroizing<Vec<u8>>,
}

/// Standard streams of the process.
#[derive(Debug)]
pub enum Stdio {
    /// Three descriptors: stdin, stdout, stderr. The runtime closes its copies.
    Streams(OwnedFd, OwnedFd, OwnedFd),
    /// A new terminal of the container; needs `process.terminal` in the specification. The master is
    /// [`Running::terminal`].
    Terminal,
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretFile").field("path", &self.path).field("mode", &self.mode).finish_non_exhaustive()
    }
}
