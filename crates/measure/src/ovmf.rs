//! What an OVMF image says about its SEV launch: a table of GUIDs at its end, and the sections it wants measured.
//!
//! Layout: edk2, `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm` (the table, read backwards from 32 bytes before the end
//! of the image) and `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm` (the sections).

use crate::gctx::PAGE;

/// Bytes of the image behind the table.
const TAIL: usize = 32;
/// Bytes of an entry's trailer: 16-bit length of the whole entry, GUID.
const TRAILER: usize = 18;
/// Most sections that are read; images have about eight.
const MAX_SECTIONS: u32 = 64;
/// Most memory that all sections may cover, in bytes.
const MAX_SECTION_BYTES: u64 = 64 * 1024 * 1024;

const TABLE: u128 = 0x96b582de_1fb2_45f7_baea_a366c55a082d;
const HASH_TABLE: u128 = 0x7255371f_3a3b_4b04_927b_1da6efa8d454;
const RESET_BLOCK: u128 = 0x00f771de_1a7e_4fcb_890e_68c77e2fb44e;
const METADATA: u128 = 0xdc886566_984a_4798_a75e_5585a7bf67cc;

/// What is measured for a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Zero pages.
    Zero,
    /// The secrets page.
    Secrets,
    /// The CPUID page.
    Cpuid,
    /// The page with the hashes of kernel, initrd and command line.
    Hashes,
}

/// Memory that the image wants measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) kind: Kind,
    pub(crate) gpa: u64,
    /// Length in bytes, whole pages.
    pub(crate) size: u64,
}

/// What an image says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ovmf {
    /// First instruction of vCPUs other than the first.
    pub(crate) reset_eip: u32,
    /// Where in its page the hash table lies.
    pub(crate) hashes_offset: usize,
    /// Sections in the order in which they are measured; one of them is [`Kind::Hashes`].
    pub(crate) sections: Vec<Section>,
}

impl Ovmf {
    /// Reads an image; on failure, says what is wrong with it.
    pub(crate) fn parse(image: &[u8]) -> Result<Self, &'static str> {
        let mut reset_eip = None;
        let mut hash_table = None;
        let mut metadata = None;
        for (guid, data) in entries(image)? {
            let number = || u32_at(data, 0).ok_or("an entry of its table is too short");
            match guid {
                HASH_TABLE => hash_table = Some(number()?),
                RESET_BLOCK => reset_eip = Some(number()?),
                METADATA => metadata = Some(number()?),
                _ => {}
            }
        }
        let sections = sections(image, metadata.ok_or("it has no SEV metadata")?)?;
        let hashes: Vec<_> = sections.iter().filter(|section| section.kind == Kind::Hashes).collect();
        let [page] = hashes.as_slice() else {
            return Err("it has no section for kernel hashes");
        };
        let table = u64::from(hash_table.ok_or("it has no place for the hash table")?);
        let offset = table.checked_sub(page.gpa).and_then(|offset| usize::try_from(offset).ok());
        Ok(Self {
            reset_eip: reset_eip.ok_or("it has no SEV-ES reset block")?,
            hashes_offset: offset
                .filter(|offset| page.size == 4096 && offset + crate::hashes::TABLE_ROOM <= PAGE)
                .ok_or("its hash table lies outside the section for kernel hashes")?,
            sections,
        })
    }
}

/// GUID and data of every entry of the table.
pub(crate) fn entries(image: &[u8]) -> Result<Vec<(u128, &[u8])>, &'static str> {
    let malformed = "its table of GUIDs is malformed";
    let (before, _) = image.split_at_checked(image.len().saturating_sub(TAIL)).ok_or(malformed)?;
    let (guid, table) = entry(before).ok_or("it has no table of GUIDs")?;
    if guid != TABLE {
        return Err("it has no table of GUIDs");
    }
    let mut rest = table;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (guid, data) = entry(rest).ok_or(malformed)?;
        rest = rest.get(..rest.len() - data.len() - TRAILER).ok_or(malformed)?;
        entries.push((guid, data));
    }
    Ok(entries)
}

/// The entry that ends where the bytes end: its GUID, and its data before the trailer.
fn entry(bytes: &[u8]) -> Option<(u128, &[u8])> {
    let (bytes, trailer) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER)?)?;
    let (length, guid) = trailer.split_first_chunk::<2>()?;
    let data = usize::from(u16::from_le_bytes(*length)).checked_sub(TRAILER)?;
    let [a3, a2, a1, a0, b1, b0, c1, c0, rest @ ..] = *guid.first_chunk::<16>()?;
    let [d0, d1, d2, d3, d4, d5, d6, d7] = rest;
    let guid = u128::from_be_bytes([a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7]);
    Some((guid, bytes.get(bytes.len().checked_sub(data)?..)?))
}

fn sections(image: &[u8], from_end: u32) -> Result<Vec<Section>, &'static str> {
    let malformed = "its SEV metadata is malformed";
    let start =
        usize::try_from(from_end).ok().and_then(|from_end| image.len().checked_sub(from_end)).ok_or(malformed)?;
    let metadata = image.get(start..).ok_or(malformed)?;
    let (signature, header) = metadata.split_first_chunk::<4>().ok_or(malformed)?;
    let [size, version, count] = [0, 4, 8].map(|offset| u32_at(header, offset));
    let count = count.filter(|count| *count <= MAX_SECTIONS).ok_or(malformed)?;
    // Signature, size, version and count take 16 bytes, each section 12.
    if signature != b"ASEV" || version != Some(1) || size != Some(16 + 12 * count) {
        return Err(malformed);
    }
    let mut total = 0;
    let mut items = header.get(12..).ok_or(malformed)?.chunks_exact(12);
    let mut sections = Vec::new();
    for _ in 0..count {
        let item = items.next().ok_or(malformed)?;
        let [gpa, size, kind] = [0, 4, 8].map(|offset| u32_at(item, offset));
        let kind = match kind {
            Some(1 | 4) => Kind::Zero,
            Some(2) => Kind::Secrets,
            Some(3) => Kind::Cpuid,
            Some(0x10) => Kind::Hashes,
            _ => return Err("its SEV metadata has a section that is not known"),
        };
        let section = Section { kind, gpa: gpa.ok_or(malformed)?.into(), size: size.ok_or(malformed)?.into() };
        total += section.size;
        if !section.size.is_multiple_of(4096) || !section.gpa.is_multiple_of(4096) || total > MAX_SECTION_BYTES {
            return Err("its SEV metadata has a section that is not whole pages or too long");
        }
        sections.push(section);
    }
    Ok(sections)
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk::<4>().map(|number| u32::from_le_bytes(*number))
}

/// Reads arbitrary bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = Ovmf::parse(data);
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn guid_le(guid: u128) -> [u8; 16] {
        crate::hashes::guid_le(guid)
    }

    /// The smallest image that has everything: one page of sections, then the table.
    pub(crate) fn image() -> Vec<u8> {
        let sections = [
            (0x80_0000_u32, 0x2000_u32, 1_u32),
            (0x80_D000, 0x1000, 2),
            (0x80_E000, 0x1000, 3),
            (0x80_F000, 0x1000, 0x10),
        ];
        let mut image = vec![0; 4096];
        let mut metadata = b"ASEV".to_vec();
        for number in [16 + 12 * 4_u32, 1, 4] {
            metadata.extend(number.to_le_bytes());
        }
        for (gpa, size, kind) in sections {
            for number in [gpa, size, kind] {
                metadata.extend(number.to_le_bytes());
            }
        }
        let mut table = Vec::new();
        for (guid, data) in [(HASH_TABLE, 0x80_FC00_u64 | 0x400 << 32), (RESET_BLOCK, 0x80_B004), (METADATA, 4096)] {
            let data = if guid == HASH_TABLE { data.to_le_bytes().to_vec() } else { data.to_le_bytes()[..4].to_vec() };
            let length = u16::try_from(data.len() + TRAILER).unwrap();
            table.extend(data);
            table.extend(length.to_le_bytes());
            table.extend(guid_le(guid));
        }
        table.extend(u16::try_from(table.len() + TRAILER).unwrap().to_le_bytes());
        table.extend(guid_le(TABLE));
        image[..metadata.len()].copy_from_slice(&metadata);
        let end = image.len() - TAIL;
        image[end - table.len()..end].copy_from_slice(&table);
        image
    }

    #[test]
    fn a_small_image_says_what_was_written() {
        let ovmf = Ovmf::parse(&image()).unwrap();
        assert_eq!((ovmf.reset_eip, ovmf.hashes_offset), (0x80_B004, 0xC00));
        let kinds: Vec<_> = ovmf.sections.iter().map(|section| (section.kind, section.gpa, section.size)).collect();
        let expected = [
            (Kind::Zero, 0x80_0000, 0x2000),
            (Kind::Secrets, 0x80_D000, 0x1000),
            (Kind::Cpuid, 0x80_E000, 0x1000),
            (Kind::Hashes, 0x80_F000, 0x1000),
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn a_broken_image_is_refused_for_its_reason() {
        let change = |offset: usize, byte: u8| {
            let mut image = image();
            image[offset] = byte;
            Ovmf::parse(&image)
        };
        assert!(change(2000, 1).is_ok());
        assert_eq!(change(0, b'B'), Err("its SEV metadata is malformed"));
        assert_eq!(change(8, 2), Err("its SEV metadata is malformed"));
        assert_eq!(change(12, 65), Err("its SEV metadata is malformed"));
        assert_eq!(change(12, 3), Err("its SEV metadata is malformed"));
        assert_eq!(change(4, 16), Err("its SEV metadata is malformed"));
        assert_eq!(change(24, 9), Err("its SEV metadata has a section that is not known"));
        assert_eq!(change(24, 0x10), Err("it has no section for kernel hashes"));
        assert_eq!(change(20, 1), Err("its SEV metadata has a section that is not whole pages or too long"));
        assert_eq!(change(23, 0x7F), Err("its SEV metadata has a section that is not whole pages or too long"));
        assert_eq!(change(53, 0xE0), Err("its hash table lies outside the section for kernel hashes"));
        assert_eq!(change(4096 - TAIL - 1, 0), Err("it has no table of GUIDs"));
        assert_eq!(change(4096 - TAIL - TRAILER, 17), Err("it has no table of GUIDs"));
        assert_eq!(change(4096 - TAIL - TRAILER, 20), Err("its table of GUIDs is malformed"));
        for guid in [HASH_TABLE, RESET_BLOCK, METADATA] {
            let mut image = image();
            let at = image.windows(16).position(|window| window == guid_le(guid)).unwrap();
            image[at] ^= 1;
            assert!(Ovmf::parse(&image).is_err_and(|reason| reason.starts_with("it has no ")));
        }
        assert_eq!(Ovmf::parse(&[]), Err("it has no table of GUIDs"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&data);
        }

        #[test]
        fn no_changed_image_makes_it_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut image = image();
            for (index, byte) in changes {
                let index = index.index(image.len());
                image[index] = byte;
            }
            fuzz(&image);
        }
    }
}
