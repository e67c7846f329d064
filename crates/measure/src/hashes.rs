//! The page that holds the digests of kernel, initrd and command line.
//!
//! Layout: QEMU, `target/i386/sev.c` (kernel hashes), which OVMF's AmdSev build reads. GUIDs are least significant byte
//! first in their first three parts, numbers likewise.

use aws_lc_rs::digest::{SHA256, digest};

use crate::file::sha256;
use crate::gctx::PAGE;

/// Guest physical address of the page, where OVMF's AmdSev build has it.
pub(crate) const PAGE_GPA: u64 = 0x80_F000;
/// Where the table begins in the page, there.
pub(crate) const TABLE_OFFSET: usize = 0xC00;
/// Bytes of a table entry: GUID, length, digest.
const ENTRY_LEN: u16 = 16 + 2 + 32;
/// Bytes of the table: GUID, length, three entries.
const TABLE_LEN: u16 = 16 + 2 + 3 * ENTRY_LEN;

/// Bytes that the table takes in its page, padded to 16.
pub(crate) const TABLE_ROOM: usize = 176;

const TABLE_GUID: u128 = 0x9438d606_4f22_4cc9_b479_a793d411fd21;
const CMDLINE_GUID: u128 = 0x97d02dd8_bd20_4c94_aa78_e7714d36ab2a;
const INITRD_GUID: u128 = 0x44baf731_3a2f_4bd7_9af1_41e29169781d;
const KERNEL_GUID: u128 = 0x4de79437_abd2_427f_b835_d5b172d2045b;

/// Digest of a command line as QEMU takes it: with its closing NUL.
pub(crate) fn cmdline(cmdline: &str) -> [u8; 32] {
    sha256(&digest(&SHA256, &[cmdline.as_bytes(), &[0]].concat()))
}

/// The page, with the table at an offset.
pub(crate) fn page(offset: usize, kernel: &[u8; 32], initrd: &[u8; 32], cmdline: &[u8; 32]) -> [u8; PAGE] {
    let mut table = Vec::with_capacity(usize::from(TABLE_LEN));
    table.extend_from_slice(&guid_le(TABLE_GUID));
    table.extend_from_slice(&TABLE_LEN.to_le_bytes());
    for (guid, digest) in [(CMDLINE_GUID, cmdline), (INITRD_GUID, initrd), (KERNEL_GUID, kernel)] {
        table.extend_from_slice(&guid_le(guid));
        table.extend_from_slice(&ENTRY_LEN.to_le_bytes());
        table.extend_from_slice(digest);
    }
    let mut page = [0; PAGE];
    for (to, from) in page.iter_mut().skip(offset).zip(table) {
        *to = from;
    }
    page
}

/// A GUID in the byte order of UEFI.
pub(crate) fn guid_le(guid: u128) -> [u8; 16] {
    let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = guid.to_be_bytes();
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip([a3, a2, a1, a0, b1, b0, c1, c0].into_iter().chain(rest)) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_the_one_of_the_sev_crate() {
        let folder = tempfile::tempdir().unwrap();
        let (kernel, initrd) = (folder.path().join("kernel"), folder.path().join("initrd"));
        std::fs::write(&kernel, b"a kernel").unwrap();
        std::fs::write(&initrd, b"an initrd").unwrap();
        let line = "console=hvc0 quiet";
        let ours = page(
            TABLE_OFFSET,
            &crate::digest_file(&kernel).unwrap(),
            &crate::digest_file(&initrd).unwrap(),
            &cmdline(line),
        );
        let theirs = sev::measurement::sev_hashes::SevHashes::new(kernel, Some(initrd), Some(line)).unwrap();
        assert_eq!(ours.as_slice(), theirs.construct_page(TABLE_OFFSET).unwrap());
    }
}
