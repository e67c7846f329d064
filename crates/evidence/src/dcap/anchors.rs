//! Trust anchors: Intel's root, compiled in.

use super::cert::Certificate;
use crate::anchors::Root;

/// Intel SGX Root CA, DER, as Intel publishes it. Its SHA-256 is pinned by a test.
pub const INTEL_ROOT: &[u8] = include_bytes!("../../data/intel/sgx-root-ca.der");

/// The roots that a verification trusts.
pub type Anchors = crate::anchors::Anchors<Certificate>;

impl Anchors {
    /// Intel's root alone: what production trusts.
    pub fn intel() -> Self {
        Self::none().with(INTEL_ROOT, Root::Intel)
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
}
