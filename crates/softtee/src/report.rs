//! Writes attestation reports: version 3, in the layout of AMD 56860, table ATTESTATION_REPORT.

use belljar_evidence::snp::{REPORT_LEN, SIGNED_LEN};

use crate::keys::Keys;

/// Version of the reports.
const VERSION: u32 = 3;
/// Guest policy: reserved bit 17, which must be one, and SMT allowed; no debugging, no migration.
const POLICY: u64 = 0x3_0000;
/// ECDSA P-384 with SHA-384.
const SIGNATURE_ALGO: u32 = 1;
/// Platform information: SMT is on.
const PLATFORM_INFO: u64 = 1;
/// CPU family, model and stepping of Milan.
const CPUID: [u8; 3] = [0x19, 0x01, 0x01];
/// Firmware 1.55 build 1, the first with reports of version 3; build, minor, major.
const FIRMWARE: [u8; 3] = [1, 55, 1];
/// TCB of the software TEE in Milan's layout: boot loader 1, TEE 1, four reserved, SNP 1, microcode 1.
pub(crate) const TCB: [u8; 8] = [1, 1, 0, 0, 0, 0, 1, 1];

/// What differs from report to report.
pub(crate) struct Content<'a> {
    pub(crate) report_data: &'a [u8; 64],
    pub(crate) measurement: &'a [u8; 48],
    pub(crate) host_data: &'a [u8; 32],
    pub(crate) report_id: &'a [u8; 32],
    pub(crate) chip_id: &'a [u8; 64],
}

/// A signed report; `None` when signing fails.
pub(crate) fn sign(content: &Content<'_>, keys: &Keys) -> Option<[u8; REPORT_LEN]> {
    let mut report = [0; REPORT_LEN];
    let fields: [(usize, &[u8]); 19] = [
        (0x00, &VERSION.to_le_bytes()),
        (0x08, &POLICY.to_le_bytes()),
        (0x34, &SIGNATURE_ALGO.to_le_bytes()),
        (0x38, &TCB),
        (0x40, &PLATFORM_INFO.to_le_bytes()),
        (0x50, content.report_data),
        (0x90, content.measurement),
        (0xC0, content.host_data),
        (0x140, content.report_id),
        // No migration agent: all ones.
        (0x160, &[0xFF; 32]),
        (0x180, &TCB),
        (0x188, &CPUID),
        (0x1A0, content.chip_id),
        (0x1E0, &TCB),
        (0x1E8, &FIRMWARE),
        (0x1EC, &FIRMWARE),
        (0x1F0, &TCB),
        // VMPL and the key information (signed by the VCEK, no author key, chip not masked) are zero.
        (0x30, &[0; 4]),
        (0x48, &[0; 4]),
    ];
    for (offset, bytes) in fields {
        report.get_mut(offset..offset + bytes.len())?.copy_from_slice(bytes);
    }
    let signature = keys.sign(report.get(..SIGNED_LEN)?)?;
    let (r, s) = signature.split_at(48);
    for (number, offset) in [(r, SIGNED_LEN), (s, SIGNED_LEN + 72)] {
        // Least significant byte first, in 72 bytes.
        for (to, from) in report.get_mut(offset..offset + 48)?.iter_mut().zip(number.iter().rev()) {
            *to = *from;
        }
    }
    Some(report)
}
