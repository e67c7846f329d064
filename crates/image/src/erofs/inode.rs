//! On-disk records. Source: the Linux kernel's documentation, "EROFS - Enhanced Read-Only File System" (Documentation/filesystems/erofs.rst)
//! and the field offsets of its `erofs_fs.h` (superblock 128 bytes, extended inode 64 bytes, directory entry 12 bytes).

use std::collections::BTreeMap;

/// Block size: 4 KiB, the only one used here.
pub(crate) const BLOCK: u64 = 4096;
/// Unit of inode numbers.
pub(crate) const SLOT: u64 = 32;
/// Size of an extended inode.
pub(crate) const INODE: u64 = 64;
/// Longest tail of a file that is kept behind its inode.
pub(crate) const INLINE_MAX: u64 = 2048;
/// Address of a hole in a chunk map.
pub(crate) const HOLE: u32 = u32::MAX;

const NLINK_OFFSET: u64 = 44;

/// What an inode is; the discriminant is the `file_type` of directory entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FileType {
    Regular = 1,
    Directory = 2,
    Char = 3,
    Block = 4,
    Fifo = 5,
    Symlink = 7,
}

impl FileType {
    /// The `S_IFMT` bits.
    pub(crate) fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Char => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }

    pub(crate) fn from_raw(raw: u8) -> Option<Self> {
        [Self::Regular, Self::Directory, Self::Char, Self::Block, Self::Fifo, Self::Symlink]
            .into_iter()
            .find(|t| *t as u8 == raw)
    }
}

/// Where the content of an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Whole blocks from this block on.
    Plain(u32),
    /// Whole blocks from this block on, then a tail behind the inode.
    Inline(u32),
    /// A map of chunks of `4096 << bits` bytes behind the inode.
    Chunks(u16),
    /// No content, but a device number.
    Device(u32),
}

/// Ownership, times and attributes of an inode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits (12).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes by full name. Names outside the namespaces of [`xattr_is_storable`] must not be here.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Inode and inline attributes as bytes.
pub(crate) fn encode(
    kind: FileType,
    meta: &Metadata,
    layout: Layout,
    size: u64,
    nlink: u32,
    number: u32,
) -> Option<Vec<u8>> {
    let (code, raw): (u16, u32) = match layout {
        Layout::Plain(block) => (0, block),
        Layout::Inline(block) => (2, block),
        Layout::Chunks(bits) => (4, u32::from(bits)),
        Layout::Device(number) => (0, number),
    };
    let xattrs = encode_xattrs(&meta.xattrs)?;
    let units = if xattrs.is_empty() { 0 } else { u16::try_from((xattrs.len() - 12) / 4 + 1).ok()? };
    let mut out = Vec::with_capacity(64 + xattrs.len());
    out.extend((code << 1 | 1).to_le_bytes());
    out.extend(units.to_le_bytes());
    out.extend((kind.mode_bits() | meta.mode).to_le_bytes());
    out.extend([0; 2]);
    out.extend(size.to_le_bytes());
    out.extend(raw.to_le_bytes());
    out.extend(number.to_le_bytes());
    out.extend(meta.uid.to_le_bytes());
    out.extend(meta.gid.to_le_bytes());
    out.extend(meta.mtime.0.to_le_bytes());
    out.extend(meta.mtime.1.to_le_bytes());
    out.extend(nlink.to_le_bytes());
    out.extend([0; 16]);
    out.extend(xattrs);
    Some(out)
}

/// Offset of the link count in an inode.
pub(crate) fn nlink_at(inode: u64) -> u64 {
    inode + NLINK_OFFSET
}

/// `new_encode_dev` of the kernel: 12 bits of major, 20 bits of minor.
pub(crate) fn device_number(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// Whether an attribute's name lies in a namespace that Linux and this format have: `user.`, `trusted.`, `security.` and the
/// two POSIX ACLs.
#[must_use]
pub fn xattr_is_storable(name: &[u8]) -> bool {
    split_name(name).is_some_and(|(index, rest)| (rest.is_empty() == matches!(index, 2 | 3)) && rest.len() <= 255)
}

fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    let prefixes: [(u8, &[u8]); 5] = [
        (1, b"user."),
        (2, b"system.posix_acl_access"),
        (3, b"system.posix_acl_default"),
        (4, b"trusted."),
        (6, b"security."),
    ];
    prefixes.into_iter().find_map(|(index, prefix)| Some((index, name.strip_prefix(prefix)?)))
}

fn encode_xattrs(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Option<Vec<u8>> {
    if xattrs.is_empty() {
        return Some(Vec::new());
    }
    let mut out = vec![0; 12];
    for (name, value) in xattrs {
        let (index, rest) = split_name(name)?;
        out.push(u8::try_from(rest.len()).ok()?);
        out.push(index);
        out.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
        out.extend(rest);
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    Some(out)
}

/// The attribute `trusted.overlay.opaque` = `y` as an entry: lengths, namespace, name, value, padding.
pub(crate) const OPAQUE_ENTRY: [u8; 20] = *b"\x0e\x04\x01\0overlay.opaquey\0";

/// What the superblock says that differs from image to image.
#[derive(Debug)]
pub(crate) struct Super {
    pub(crate) root_nid: u16,
    pub(crate) inodes: u64,
    pub(crate) blocks: u32,
    pub(crate) meta_block: u32,
}

/// Block 0: 1024 zero bytes, the superblock, zeros.
pub(crate) fn encode_super(sb: &Super) -> Vec<u8> {
    const CHECKSUM_AND_MTIME: u32 = 1 | 2;
    const CHUNKED_FILES: u32 = 4;
    let mut body = Vec::with_capacity(3072);
    body.extend(0xe0f5_e1e2_u32.to_le_bytes());
    body.extend([0; 4]);
    body.extend(CHECKSUM_AND_MTIME.to_le_bytes());
    body.extend([12, 0]);
    body.extend(sb.root_nid.to_le_bytes());
    body.extend(sb.inodes.to_le_bytes());
    body.extend([0; 12]);
    body.extend(sb.blocks.to_le_bytes());
    body.extend(sb.meta_block.to_le_bytes());
    body.extend([0; 4]);
    body.extend(*b"belljar-layer-v1");
    body.extend([0; 16]);
    body.extend(CHUNKED_FILES.to_le_bytes());
    body.resize(3072, 0);
    let checksum = crc32c(&body).to_le_bytes();
    let mut block = vec![0; 1024];
    block.extend(body.iter().take(4));
    block.extend(checksum);
    block.extend(body.iter().skip(8));
    block
}

/// CRC-32C (RFC 3720, appendix B.4) from all ones, without the final inversion, as the kernel's `crc32c(~0, …)`.
fn crc32c(data: &[u8]) -> u32 {
    data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::{crc32c, device_number, xattr_is_storable};

    #[test]
    fn checksum_matches_the_rfc_vector() {
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn device_numbers() {
        assert_eq!(device_number(1, 3), Some(0x103));
        assert_eq!(device_number(8, 0x12345), Some(0x1230_0845));
        assert_eq!(device_number(1 << 12, 0), None);
        assert_eq!(device_number(0, 1 << 20), None);
    }

    #[test]
    fn attribute_names() {
        assert!(xattr_is_storable(b"user.a"));
        assert!(xattr_is_storable(b"system.posix_acl_access"));
        assert!(!xattr_is_storable(b"user."));
        assert!(!xattr_is_storable(b"system.posix_acl_accessx"));
        assert!(!xattr_is_storable(b"com.apple.provenance"));
    }
}
