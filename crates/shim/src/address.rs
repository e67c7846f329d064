//! The socket of a pod's shim: its path follows from containerd's address, namespace and the sandbox's id, so that everybody finds it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// Where sockets of shims lie unless containerd says otherwise.
pub const SOCKET_DIR: &str = "/run/containerd/s";

/// The socket of the shim of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimSocket {
    path: PathBuf,
}

impl ShimSocket {
    /// Of the sandbox `id`. The name is the lowercase hex of SHA-256 over `ADDRESS/NAMESPACE/ID`.
    pub fn of(folder: &Path, containerd: &str, namespace: &str, id: &str) -> Self {
        let named = digest(&SHA256, format!("{containerd}/{namespace}/{id}").as_bytes());
        Self { path: folder.join(hex::encode(named)) }
    }

    /// Of an address that [`ShimSocket::address`] gave.
    pub fn parse(address: &str) -> Option<Self> {
        let path = address.strip_prefix("unix://")?;
        path.starts_with('/').then(|| Self { path: path.into() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As containerd reads it.
    pub fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Whether a shim listens there.
    pub fn answers(&self) -> bool {
        UnixStream::connect(&self.path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_follows_from_address_namespace_and_id() {
        let socket = ShimSocket::of(Path::new(SOCKET_DIR), "/run/containerd/containerd.sock", "k8s.io", "abc");
        // printf '/run/containerd/containerd.sock/k8s.io/abc' | sha256sum
        let name = "a99a1752d3a0fadfb1f869026f16760475df03a572e20f4ccea9e6c1e5470b72";
        assert_eq!(socket.address(), format!("unix:///run/containerd/s/{name}"));
        assert_eq!(ShimSocket::parse(&socket.address()), Some(socket.clone()));
        assert_ne!(socket, ShimSocket::of(Path::new(SOCKET_DIR), "/run/containerd/containerd.sock", "k8s.io", "abd"));
        assert_eq!(ShimSocket::parse("vsock://3:4"), None);
        assert!(!socket.answers());
    }
}
