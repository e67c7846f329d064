//! The byte patterns of the memory probe (`StartProbe`).
//!
//! Host and guest derive both patterns from one fresh seed, so that no file on the host (initrd, disk, log) holds them by
//! accident, and the search tells private from shared memory.

use aws_lc_rs::hkdf;

/// Bytes of a canary.
pub const CANARY_LEN: usize = 64;
/// Label of the canary that the guest keeps in private memory.
pub const PRIVATE: &str = "private";
/// Label of the canary that the guest keeps in memory that it shares with the host.
pub const SHARED: &str = "shared";

/// The 64-byte canary for `label` ([`PRIVATE`] or [`SHARED`]).
///
/// HKDF-SHA256 (RFC 5869) with an empty salt (32 zero bytes), `seed` as input keying material and the info
/// `"belljar memory probe v1 " ‖ label`.
pub fn canary(seed: &[u8; crate::limits::PROBE_SEED], label: &str) -> [u8; CANARY_LEN] {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(seed);
    let info = [b"belljar memory probe v1 ".as_slice(), label.as_bytes()];
    let mut canary = [0; CANARY_LEN];
    if let Ok(okm) = prk.expand(&info, CanaryLen) {
        // Fails only for a length other than the one that was asked for, see the known-answer test.
        let _ = okm.fill(&mut canary);
    }
    canary
}

struct CanaryLen;

impl hkdf::KeyType for CanaryLen {
    fn len(&self) -> usize {
        CANARY_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::hmac;

    /// RFC 5869 written out with HMAC alone.
    fn by_hand(seed: &[u8; 32], label: &str) -> Vec<u8> {
        let prk = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]), seed);
        let key = hmac::Key::new(hmac::HMAC_SHA256, prk.as_ref());
        let info = [b"belljar memory probe v1 ", label.as_bytes()].concat();
        let first = hmac::sign(&key, &[info.as_slice(), &[1]].concat());
        let second = hmac::sign(&key, &[first.as_ref(), &info, &[2]].concat());
        [first.as_ref(), second.as_ref()].concat()
    }

    #[test]
    fn canary_is_hkdf_sha256() {
        for label in [PRIVATE, SHARED] {
            assert_eq!(canary(&[7; 32], label).as_slice(), by_hand(&[7; 32], label));
        }
    }

    #[test]
    fn seed_and_label_both_count() {
        assert_ne!(canary(&[7; 32], PRIVATE), canary(&[7; 32], SHARED));
        assert_ne!(canary(&[7; 32], PRIVATE), canary(&[8; 32], PRIVATE));
    }
}
