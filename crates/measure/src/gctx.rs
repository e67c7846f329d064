//! The launch digest as SNP firmware extends it, page by page.
//!
//! Source: SEV Secure Nested Paging Firmware ABI Specification (AMD 56860), SNP_LAUNCH_UPDATE, structure PAGE_INFO:
//! the new digest is the SHA-384 over the old one, the page's digest, and what the page is.

use aws_lc_rs::digest::{SHA384, digest};

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Guest physical address under which firmware records every VMSA page: all ones, page aligned, below bit 52 of the
/// address space less the four bits that the RMP does not hold.
const VMSA_GPA: u64 = 0xFFFF_FFFF_F000;
/// Length of PAGE_INFO in bytes.
const PAGE_INFO_LEN: u16 = 0x70;

/// Page types that we measure, with their numbers in PAGE_INFO.
#[derive(Clone, Copy, Debug)]
enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Secrets = 5,
    Cpuid = 6,
}

/// A launch digest that is being extended.
#[derive(Clone, Debug)]
pub(crate) struct Gctx([u8; 48]);

impl Gctx {
    /// The digest of a guest without pages: zeros.
    pub(crate) fn new() -> Self {
        Self([0; 48])
    }

    /// Measures consecutive pages of memory; the caller has checked that there are only whole ones.
    pub(crate) fn normal_pages(&mut self, mut gpa: u64, bytes: &[u8]) {
        for page in bytes.chunks_exact(PAGE) {
            self.extend(PageType::Normal, gpa, &sha384(page));
            gpa += 4096;
        }
    }

    /// Measures consecutive zero pages; firmware does not hash what they hold.
    pub(crate) fn zero_pages(&mut self, gpa: u64, bytes: u64) {
        for offset in (0..bytes).step_by(PAGE) {
            self.extend(PageType::Zero, gpa + offset, &[0; 48]);
        }
    }

    /// Measures that firmware puts the guest's secrets here.
    pub(crate) fn secrets_page(&mut self, gpa: u64) {
        self.extend(PageType::Secrets, gpa, &[0; 48]);
    }

    /// Measures that firmware puts the CPUID table here.
    pub(crate) fn cpuid_page(&mut self, gpa: u64) {
        self.extend(PageType::Cpuid, gpa, &[0; 48]);
    }

    /// Measures the state of a vCPU.
    pub(crate) fn vmsa_page(&mut self, page: &[u8]) {
        self.extend(PageType::Vmsa, VMSA_GPA, &sha384(page));
    }

    /// The digest.
    pub(crate) fn finish(self) -> [u8; 48] {
        self.0
    }

    fn extend(&mut self, page_type: PageType, gpa: u64, contents: &[u8; 48]) {
        let mut info = Vec::with_capacity(usize::from(PAGE_INFO_LEN));
        info.extend_from_slice(&self.0);
        info.extend_from_slice(contents);
        info.extend_from_slice(&PAGE_INFO_LEN.to_le_bytes());
        // Page type, no initial migration image, no permissions for VMPL 3, 2 and 1, a reserved byte.
        info.extend_from_slice(&[page_type as u8, 0, 0, 0, 0, 0]);
        info.extend_from_slice(&gpa.to_le_bytes());
        self.0.copy_from_slice(digest(&SHA384, &info).as_ref());
    }
}

fn sha384(page: &[u8]) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes.copy_from_slice(digest(&SHA384, page).as_ref());
    bytes
}
