//! Trust anchors: the vendors' roots, which are compiled in, and whatever root the caller adds.

use std::sync::{Arc, OnceLock};

use crate::{dcap, snp};

/// Whose root a chain ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// AMD's, compiled in.
    Amd,
    /// Intel's, compiled in.
    Intel,
    /// That of a software TEE, added by the caller: protects nothing.
    Software,
    /// A root for tests, added by the caller.
    Test,
}

impl Root {
    /// Whether it is no vendor's: evidence under it says nothing about hardware.
    pub fn is_software(self) -> bool {
        self.flag().is_some()
    }

    /// The flag of verdicts under a root that is no vendor's.
    pub fn flag(self) -> Option<&'static str> {
        match self {
            Self::Amd | Self::Intel => None,
            Self::Software => Some("software-tee"),
            Self::Test => Some("test-root"),
        }
    }

    fn of_vendor(der: &[u8]) -> Option<Self> {
        if snp::builtin::AMD.iter().any(|authority| authority.ark == der) {
            return Some(Self::Amd);
        }
        (der == dcap::INTEL_ROOT).then_some(Self::Intel)
    }
}

/// A certificate of a vendor's profile, which an anchor may be.
pub trait Profile: Sized {
    /// Reads one; `None` when it is of another profile.
    fn read(der: &[u8]) -> Option<Self>;
}

/// The roots that a verification trusts; `C` is a certificate of the vendor's profile.
#[derive(Debug)]
pub struct Anchors<C> {
    roots: Vec<Arc<Anchor<C>>>,
}

#[derive(Debug)]
struct Anchor<C> {
    der: Vec<u8>,
    root: Root,
    /// Read when it is first asked for.
    certificate: OnceLock<Option<Arc<C>>>,
}

impl<C> Clone for Anchors<C> {
    fn clone(&self) -> Self {
        Self { roots: self.roots.clone() }
    }
}

impl<C> Anchors<C> {
    /// No root at all.
    pub fn none() -> Self {
        Self { roots: Vec::new() }
    }

    /// That root alone: a vendor's stays the vendor's, any other is a root for tests.
    pub fn only(der: &[u8]) -> Self {
        Self::none().with_test_root(der)
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

    pub(crate) fn with(mut self, der: &[u8], root: Root) -> Self {
        // A vendor's root is the vendor's, whatever the caller calls it.
        let root = Root::of_vendor(der).unwrap_or(root);
        if self.root(der).is_none() {
            self.roots.push(Arc::new(Anchor { der: der.to_vec(), root, certificate: OnceLock::new() }));
        }
        self
    }
}

impl<C: Profile> Anchors<C> {
    /// The anchors that are certificates of this profile, and whose they are.
    pub fn certificates(&self) -> impl Iterator<Item = (&Arc<C>, Root)> {
        self.roots.iter().filter_map(|anchor| Some((anchor.certificate()?, anchor.root)))
    }

    /// The certificate with these bytes, when it is an anchor.
    pub(crate) fn certificate(&self, der: &[u8]) -> Option<Arc<C>> {
        self.roots.iter().find(|anchor| anchor.der == der)?.certificate().cloned()
    }
}

impl<C: Profile> Anchor<C> {
    fn certificate(&self) -> Option<&Arc<C>> {
        self.certificate.get_or_init(|| C::read(&self.der).map(Arc::new)).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendors_root_is_the_vendors_whatever_it_is_called() {
        let (amd, intel) = (snp::builtin::AMD[0].ark, dcap::INTEL_ROOT);
        assert_eq!(snp::Anchors::amd().with_software_root(amd).root(amd), Some(Root::Amd));
        assert_eq!(snp::Anchors::none().with_software_root(amd).root(amd), Some(Root::Amd));
        assert_eq!(dcap::Anchors::none().with_test_root(intel).root(intel), Some(Root::Intel));
        assert_eq!(snp::Anchors::none().root(amd), None);
        assert_eq!(dcap::Anchors::intel().root(b"another"), None);
        assert_eq!(snp::Anchors::amd().with_software_root(b"another").root(b"another"), Some(Root::Software));
        let only = snp::Anchors::only(amd);
        assert_eq!((only.root(amd), only.root(snp::builtin::AMD[1].ark)), (Some(Root::Amd), None));
        assert_eq!(snp::Anchors::only(b"another").root(b"another"), Some(Root::Test));
    }

    #[test]
    fn an_anchor_of_another_profile_issues_nothing() {
        let anchors = snp::Anchors::none().with_test_root(dcap::INTEL_ROOT).with_test_root(snp::builtin::AMD[0].ark);
        let read: Vec<_> = anchors.certificates().map(|(one, root)| (one.der().to_vec(), root)).collect();
        assert_eq!(read, [(snp::builtin::AMD[0].ark.to_vec(), Root::Amd)]);
    }
}
