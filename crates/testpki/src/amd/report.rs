//! Attestation reports (AMD 56860, table ATTESTATION_REPORT).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use belljar_evidence::snp::{REPORT_LEN, SIGNED_LEN};

use super::Product;

/// A report to be made; what has no field here is set in its bytes, before or after it is signed.
#[derive(Clone, Debug)]
pub struct Report {
    /// Version, 2 to 5.
    pub version: u32,
    /// Security version of the guest.
    pub guest_svn: u32,
    /// Guest policy.
    pub policy: u64,
    /// Family of the guest, from its ID block.
    pub family_id: [u8; 16],
    /// Image of the guest, from its ID block.
    pub image_id: [u8; 16],
    /// Privilege level.
    pub vmpl: u32,
    /// Author key, masked chip and the kind of signing key.
    pub key_info: u32,
    /// What the guest had included.
    pub report_data: [u8; 64],
    /// Launch digest.
    pub measurement: [u8; 48],
    /// What the host set.
    pub host_data: [u8; 32],
    /// Digest of the ID key.
    pub id_key_digest: [u8; 48],
    /// Digest of the author's key.
    pub author_key_digest: [u8; 48],
    /// Current, reported, committed and launch TCB alike.
    pub tcb: [u8; 8],
    /// Family, model and stepping; not there in version 2.
    pub cpuid: [u8; 3],
    /// Chip.
    pub chip_id: [u8; 64],
}

impl Report {
    /// A report of version 3, of the chip that certificates are for.
    pub fn of(product: Product) -> Self {
        let mut chip_id = [0; 64];
        chip_id[..product.hw_id().len()].copy_from_slice(product.hw_id());
        Self {
            version: 3,
            guest_svn: 0,
            policy: 0x3_0000,
            family_id: [0; 16],
            image_id: [0; 16],
            vmpl: 0,
            key_info: 0,
            report_data: [0; 64],
            measurement: [0; 48],
            host_data: [0; 32],
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
            tcb: product.tcb(),
            cpuid: product.cpuid(),
            chip_id,
        }
    }

    /// The bytes, unsigned.
    pub fn bytes(&self) -> [u8; REPORT_LEN] {
        let mut report = [0; REPORT_LEN];
        let cpuid: &[u8] = if self.version >= 3 { &self.cpuid } else { &[] };
        let fields: [(usize, &[u8]); 20] = [
            (0x00, &self.version.to_le_bytes()),
            (0x04, &self.guest_svn.to_le_bytes()),
            (0x08, &self.policy.to_le_bytes()),
            (0x10, &self.family_id),
            (0x20, &self.image_id),
            (0x30, &self.vmpl.to_le_bytes()),
            (0x34, &1_u32.to_le_bytes()),
            (0x38, &self.tcb),
            (0x48, &self.key_info.to_le_bytes()),
            (0x50, &self.report_data),
            (0x90, &self.measurement),
            (0xC0, &self.host_data),
            (0xE0, &self.id_key_digest),
            (0x110, &self.author_key_digest),
            (0x160, &[0xFF; 32]),
            (0x180, &self.tcb),
            (0x188, cpuid),
            (0x1A0, &self.chip_id),
            (0x1E0, &self.tcb),
            (0x1F0, &self.tcb),
        ];
        for (offset, bytes) in fields {
            report[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        report
    }
}

/// Signs a report as firmware does.
pub fn sign(report: &mut [u8; REPORT_LEN], key: &EcdsaKeyPair) {
    let signature = signature(&report[..SIGNED_LEN], key);
    report[SIGNED_LEN..SIGNED_LEN + 144].copy_from_slice(&signature);
}

/// r and s, 72 bytes each, least significant byte first.
pub(super) fn signature(message: &[u8], key: &EcdsaKeyPair) -> [u8; 144] {
    let signature = key.sign(&SystemRandom::new(), message).unwrap();
    little(signature.as_ref())
}

/// Two numbers of 48 bytes, most significant byte first, as firmware has them.
pub(super) fn little(numbers: &[u8]) -> [u8; 144] {
    let mut fields = [0; 144];
    for (number, field) in numbers.chunks_exact(48).zip(fields.chunks_exact_mut(72)) {
        field[..48].copy_from_slice(number);
        field[..48].reverse();
    }
    fields
}
