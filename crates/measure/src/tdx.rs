//! MRTD: what the TDX module measures of a TD before it first runs.
//!
//! Sources: Intel TDX Virtual Firmware Design Guide, "TDVF Descriptor" (where it is: edk2, `OvmfPkg/ResetVector`, the
//! GUIDed table); Intel TDX Module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND: each adds a block of 128 bytes with its name
//! and the guest physical address to a SHA-384, the second one 256 bytes of the page, too.

use std::path::Path;

use aws_lc_rs::digest::{Context, SHA384};

use crate::file::{FileError, read_bounded};
use crate::ovmf::{entries, u32_at};

/// Longest firmware that is read, in bytes.
const MAX_FIRMWARE: u64 = 64 * 1024 * 1024;
/// Most sections that are read; firmware has about six.
const MAX_SECTIONS: u32 = 64;
/// Most memory that all sections may cover, in bytes.
const MAX_SECTION_BYTES: u64 = 256 * 1024 * 1024;
/// Where the descriptor is, counted from the end of the image.
const METADATA_OFFSET: u128 = 0xe47a6535_984a_4798_865e_4685a7bf8ec2;
const PAGE: usize = 4096;
const CHUNK: usize = 256;
/// Attribute of a section: its content is measured.
const MR_EXTEND: u32 = 1;
/// Attribute of a section: its pages are added while the TD runs.
const PAGE_AUG: u32 = 2;

/// In which order the host adds and measures pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each page is added and measured, then the next: Linux from 6.16 on (`KVM_TDX_INIT_MEM_REGION`).
    PageByPage,
    /// All pages of a section are added, then all are measured: hosts with Intel's older patches.
    SectionBySection,
}

/// Why an MRTD cannot be predicted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TdxError {
    /// The firmware cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The firmware is none for TDX.
    #[error("firmware is not usable for tdx: {0}; use Debian's ovmf-inteltdx, or another TDVF")]
    Firmware(&'static str),
}

/// The MRTD of a TD that begins with this firmware. The number of vCPUs, the memory and the kernel are not part of it.
///
/// # Errors
/// Any [`TdxError`].
pub fn mrtd(firmware: &Path, order: Order) -> Result<[u8; 48], TdxError> {
    mrtd_of(&read_bounded(firmware, MAX_FIRMWARE)?, order)
}

/// The same, of the firmware's bytes.
///
/// # Errors
/// [`TdxError::Firmware`].
pub fn mrtd_of(image: &[u8], order: Order) -> Result<[u8; 48], TdxError> {
    let sections = sections(image).map_err(TdxError::Firmware)?;
    let mut digest = Context::new(&SHA384);
    for section in sections.iter().filter(|section| section.attributes & PAGE_AUG == 0) {
        let add = |digest: &mut Context, page: u64| digest.update(&block(b"MEM.PAGE.ADD", section.gpa + page));
        let extend = |digest: &mut Context, page: u64| {
            if section.attributes & MR_EXTEND == 0 {
                return;
            }
            for chunk in (0..PAGE).step_by(CHUNK) {
                let at = page + u64::try_from(chunk).unwrap_or(0);
                digest.update(&block(b"MR.EXTEND", section.gpa + at));
                digest.update(&chunk_of(section.data, at));
            }
        };
        let pages = (0..section.size).step_by(PAGE);
        match order {
            Order::PageByPage => pages.for_each(|page| {
                add(&mut digest, page);
                extend(&mut digest, page);
            }),
            Order::SectionBySection => {
                pages.clone().for_each(|page| add(&mut digest, page));
                pages.for_each(|page| extend(&mut digest, page));
            }
        }
    }
    let mut mrtd = [0; 48];
    mrtd.copy_from_slice(digest.finish().as_ref());
    Ok(mrtd)
}

/// Memory that the firmware wants in the TD.
struct Section<'a> {
    /// Its content, shorter than the memory or empty; zeros follow.
    data: &'a [u8],
    gpa: u64,
    /// Length in bytes, whole pages.
    size: u64,
    attributes: u32,
}

fn sections(image: &[u8]) -> Result<Vec<Section<'_>>, &'static str> {
    let malformed = "its tdx metadata is malformed";
    let entries = entries(image)?;
    let from_end = entries.iter().find(|(guid, _)| *guid == METADATA_OFFSET).ok_or("it has no tdx metadata")?.1;
    let from_end = u32_at(from_end, 0).and_then(|number| usize::try_from(number).ok()).ok_or(malformed)?;
    let descriptor = image.len().checked_sub(from_end).and_then(|start| image.get(start..)).ok_or(malformed)?;
    let [signature, length, version, count] = [0, 4, 8, 12].map(|offset| u32_at(descriptor, offset));
    let count = count.filter(|count| *count <= MAX_SECTIONS).ok_or(malformed)?;
    // "TDVF"; signature, length, version and count take 16 bytes, each section 32.
    if signature != Some(0x4656_4454) || version != Some(1) || length != Some(16 + 32 * count) {
        return Err(malformed);
    }
    let mut total = 0_u64;
    let mut items = descriptor.get(16..).ok_or(malformed)?.chunks_exact(32);
    let mut sections = Vec::new();
    for _ in 0..count {
        let item = items.next().ok_or(malformed)?;
        let word = |offset| u32_at(item, offset).ok_or(malformed);
        let long = |offset| Ok::<u64, &'static str>(u64::from(word(offset)?) | u64::from(word(offset + 4)?) << 32);
        let (data, raw_size) = (usize::try_from(word(0)?), usize::try_from(word(4)?));
        let (Ok(data), Ok(raw_size)) = (data, raw_size) else { return Err(malformed) };
        let (gpa, size) = (long(8)?, long(16)?);
        let end = data.checked_add(raw_size).ok_or(malformed)?;
        let data = image.get(data..end).ok_or("a section of its tdx metadata lies outside of it")?;
        total =
            total.checked_add(size).filter(|total| *total <= MAX_SECTION_BYTES).ok_or("its sections are too long")?;
        let pages = size.is_multiple_of(4096) && gpa.is_multiple_of(4096) && gpa.checked_add(size).is_some();
        if !pages || u64::try_from(raw_size).unwrap_or(u64::MAX) > size {
            return Err("its tdx metadata has a section that is not whole pages, or longer than its memory");
        }
        sections.push(Section { data, gpa, size, attributes: word(28)? });
    }
    Ok(sections)
}

/// The block of 128 bytes: a name of up to 16 bytes, an address, zeros.
fn block(name: &[u8], gpa: u64) -> [u8; 128] {
    let mut block = [0; 128];
    block.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
    block.iter_mut().skip(16).zip(gpa.to_le_bytes()).for_each(|(to, from)| *to = from);
    block
}

/// The 256 bytes of a section's memory at that place.
fn chunk_of(data: &[u8], at: u64) -> [u8; CHUNK] {
    let mut chunk = [0; CHUNK];
    let rest = usize::try_from(at).ok().and_then(|at| data.get(at..)).unwrap_or_default();
    chunk.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    chunk
}

/// Reads arbitrary bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = sections(data);
}
