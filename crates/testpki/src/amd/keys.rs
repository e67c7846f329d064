//! The keys of a chain.

use aws_lc_rs::agreement::{ECDH_P384, PrivateKey};
use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};

/// Keys of a chain, and of who signs an ID block.
#[derive(Debug)]
pub struct Keys {
    /// Of the root, the same for every seed.
    pub ark: RsaKeyPair,
    /// Of the intermediate, the same for every seed.
    pub ask: RsaKeyPair,
    /// With 2048 bits, which is too short; the same for every seed.
    pub small: RsaKeyPair,
    /// The endorsement key.
    pub vek: EcdsaKeyPair,
    /// The ID key.
    pub id: EcdsaKeyPair,
    /// The author's key.
    pub author: EcdsaKeyPair,
}

impl Keys {
    /// The keys of a seed.
    pub fn new(seed: u64) -> Self {
        let rsa = |pkcs8: &[u8]| RsaKeyPair::from_pkcs8(pkcs8).unwrap();
        Self {
            ark: rsa(include_bytes!("../../data/ark.pk8")),
            ask: rsa(include_bytes!("../../data/ask.pk8")),
            small: rsa(include_bytes!("../../data/small.pk8")),
            vek: p384(seed, "vek"),
            id: p384(seed, "id"),
            author: p384(seed, "author"),
        }
    }
}

fn p384(seed: u64, name: &str) -> EcdsaKeyPair {
    let mut scalar = [0; 48];
    scalar.copy_from_slice(digest(&SHA384, format!("belljar test key {seed} {name}").as_bytes()).as_ref());
    // Below the order of the curve, whatever the digest is.
    scalar[0] &= 0x7F;
    let public = PrivateKey::from_private_key(&ECDH_P384, &scalar).unwrap().compute_public_key().unwrap();
    EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P384_SHA384_FIXED_SIGNING, &scalar, public.as_ref()).unwrap()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::KeyPair;

    use super::*;

    #[test]
    fn keys_follow_from_the_seed_alone() {
        let public = |seed| {
            let keys = Keys::new(seed);
            [&keys.vek, &keys.id, &keys.author].map(|key| key.public_key().as_ref().to_vec())
        };
        assert_eq!(public(1), public(1));
        let (first, second) = (public(1), public(2));
        assert!(first.iter().all(|key| !second.contains(key)));
        assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
    }
}
