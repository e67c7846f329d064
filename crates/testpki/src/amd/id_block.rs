//! ID blocks and their authentication information (AMD 56860, SNP_LAUNCH_FINISH).

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair};

use super::Report;
use super::report::{little, signature};

/// An ID block to be made.
#[derive(Clone, Debug)]
pub struct IdBlock {
    /// Launch digest.
    pub launch_digest: [u8; 48],
    /// Family of the guest.
    pub family_id: [u8; 16],
    /// Image of the guest.
    pub image_id: [u8; 16],
    /// Version of the block.
    pub version: u32,
    /// Security version of the guest.
    pub guest_svn: u32,
    /// Guest policy.
    pub policy: u64,
}

impl IdBlock {
    /// The block that a report's guest was launched with.
    pub fn of(report: &Report) -> Self {
        Self {
            launch_digest: report.measurement,
            family_id: report.family_id,
            image_id: report.image_id,
            version: 1,
            guest_svn: report.guest_svn,
            policy: report.policy,
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        [
            &self.launch_digest[..],
            &self.family_id,
            &self.image_id,
            &self.version.to_le_bytes(),
            &self.guest_svn.to_le_bytes(),
            &self.policy.to_le_bytes(),
        ]
        .concat()
    }

    /// Authentication information: signed by the ID key, and that one by the author where there is one.
    pub fn auth(&self, id: &EcdsaKeyPair, author: Option<&EcdsaKeyPair>) -> Vec<u8> {
        let mut auth = vec![0; 0x1000];
        let mut put = |offset: usize, bytes: &[u8]| auth[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0x0, &1_u32.to_le_bytes());
        put(0x4, &1_u32.to_le_bytes());
        put(0x40, &signature(&self.bytes(), id));
        put(0x240, &public_key(id));
        if let Some(author) = author {
            put(0x680, &signature(&public_key(id), author));
            put(0x880, &public_key(author));
        }
        auth
    }
}

/// SHA-384 of a key, as reports have it.
pub fn key_digest(key: &EcdsaKeyPair) -> [u8; 48] {
    digest(&SHA384, &public_key(key)).as_ref().try_into().unwrap()
}

/// Curve 2 (P-384), x and y of 72 bytes each, zeros.
fn public_key(key: &EcdsaKeyPair) -> Vec<u8> {
    let mut bytes = [&2_u32.to_le_bytes()[..], &little(&key.public_key().as_ref()[1..])].concat();
    bytes.resize(0x404, 0);
    bytes
}
