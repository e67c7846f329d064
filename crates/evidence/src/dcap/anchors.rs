//! Trust anchors: Intel's root, compiled in, and whatever root the caller adds.

use std::sync::{Arc, OnceLock};

use super::cert::Certificate;

/// Intel SGX Root CA, DER, as Intel publishes it. Its SHA-256 is pinned by a test.
pub const INTEL_ROOT: &[u8] = include_bytes!("../../data/intel/sgx-root-ca.der");

/// Whose root a chain ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// Intel's, compiled in.
    Intel,
    /// That of a software TEE, added by the caller: protects nothing.
    Software,
    /// A root for tests, added by the caller.
    Test,
}

/// The roots that a verification trusts.
#[derive(Clone, Debug)]
pub struct Anchors {
    roots: Vec<Anchor>,
}

#[derive(Clone, Debug)]
struct Anchor {
    der: Vec<u8>,
    root: Root,
    /// Read when it is first asked for; clones share it.
    certificate: Arc<OnceLock<Option<Arc<Certificate>>>>,
}

impl Anchor {
    fn new(der: &[u8], root: Root) -> Self {
        Self { der: der.to_vec(), root, certificate: Arc::default() }
    }

    fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.certificate.get_or_init(|| Certificate::parse(&self.der).ok().map(Arc::new)).as_ref()
    }
}

impl Anchors {
    /// Intel's root alone: what production trusts.
    pub fn intel() -> Self {
        Self { roots: vec![Anchor::new(INTEL_ROOT, Root::Intel)] }
    }

    /// No root at all.
    pub fn none() -> Self {
        Self { roots: Vec::new() }
    }

    /// Trusts the root of a software TEE, too; verdicts under it have `software` and the flag `software-tee`.
    #[must_use]
    pub fn with_software_root(self, der: &[u8]) -> Self {
        self.with(der, Root::Software)
    }

    /// Trusts a root for tests, too; verdicts under it have `software` and the flag `test-root`.
    #[must_use]
    pub fn with_test_root(self, der: &[u8]) -> Self {
        self.with(der, Root::Test)
    }

    /// Whose root this certificate is; `None` when it is not trusted.
    pub fn root(&self, der: &[u8]) -> Option<Root> {
        self.roots.iter().find(|anchor| anchor.der == der).map(|anchor| anchor.root)
    }

    /// The anchors that are certificates of Intel's profile.
    pub(super) fn certificates(&self) -> impl Iterator<Item = (&Arc<Certificate>, Root)> {
        self.roots.iter().filter_map(|anchor| Some((anchor.certificate()?, anchor.root)))
    }

    /// The certificate with these bytes, when it is an anchor.
    pub(super) fn certificate(&self, der: &[u8]) -> Option<Arc<Certificate>> {
        self.roots.iter().find(|anchor| anchor.der == der)?.certificate().cloned()
    }

    fn with(mut self, der: &[u8], root: Root) -> Self {
        // Intel's root is Intel's, whatever the caller calls it.
        let root = if der == INTEL_ROOT { Root::Intel } else { root };
        if self.root(der).is_none() {
            self.roots.push(Anchor::new(der, root));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_root_is_the_pinned_one() {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, INTEL_ROOT);
        assert_eq!(hex::encode(digest), "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3");
    }

    #[test]
    fn intels_root_stays_intels() {
        assert_eq!(Anchors::none().with_test_root(INTEL_ROOT).root(INTEL_ROOT), Some(Root::Intel));
        assert_eq!(Anchors::none().with_test_root(b"another").root(b"another"), Some(Root::Test));
        assert_eq!(Anchors::intel().root(b"another"), None);
    }
}
