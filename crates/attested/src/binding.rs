//! `report_data` of the attested service.

use aws_lc_rs::digest::{Context, SHA256, SHA512, digest};

/// Fewest bytes of a nonce.
pub const MIN_NONCE: usize = 32;
/// Most bytes of a nonce.
pub const MAX_NONCE: usize = 64;
/// Separates this use of the hash from every other, with its NUL.
const DOMAIN: &[u8] = b"belljar-verify-v1\0";

/// SHA-512 over the domain, the nonce, and SHA-256 of the TLS key's DER `SubjectPublicKeyInfo`. The parts before and behind the nonce have
/// fixed lengths, so the text has one reading.
pub fn report_data(nonce: &[u8], spki: &[u8]) -> [u8; 64] {
    let mut context = Context::new(&SHA512);
    context.update(DOMAIN);
    context.update(nonce);
    context.update(digest(&SHA256, spki).as_ref());
    let mut out = [0; 64];
    out.copy_from_slice(context.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'belljar-verify-v1\0' ; 32 bytes 01 ; sha256("key")`, through `sha512sum` of coreutils.
    #[test]
    fn the_format_is_fixed() {
        assert_eq!(hex::encode(report_data(&[1; 32], b"key")), include_str!("../tests/report_data.hex").trim());
        assert_ne!(report_data(&[1; 32], b"key"), report_data(&[1; 33], b"key"));
        assert_ne!(report_data(&[1; 32], b"key"), report_data(&[1; 32], b"kez"));
    }
}
