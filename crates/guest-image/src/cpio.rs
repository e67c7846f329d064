//! The newc archive that the kernel unpacks into its first root.
//!
//! Source: `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux: magic `070701`, thirteen fields of eight
//! hexadecimal digits, name and contents each padded to four bytes, closed by an entry named `TRAILER!!!`.
//!
//! The writer leaves nothing to chance: entries sorted by path, times zero, owner zero, inode numbers counted from one.

use std::collections::BTreeMap;

const MAGIC: &[u8; 6] = b"070701";
const HEADER: usize = 6 + 13 * 8;
const TRAILER: &str = "TRAILER!!!";

const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A file with its contents.
    File(Vec<u8>),
    /// A character device.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// One entry of an archive; its path is the key beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// The permission bits.
    pub mode: u32,
}

/// Why bytes are not an archive of the kind that we write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpioError {
    /// The archive ends inside an entry, or before its trailer.
    #[error("the archive ends at byte {at}, inside an entry")]
    Truncated {
        /// Offset of the entry.
        at: usize,
    },
    /// No `070701`.
    #[error("no newc header at byte {at}")]
    BadMagic {
        /// Offset of the entry.
        at: usize,
    },
    /// A field is not eight hexadecimal digits, or the name has no closing zero, or is not UTF-8.
    #[error("the header at byte {at} is damaged")]
    BadHeader {
        /// Offset of the entry.
        at: usize,
    },
    /// An entry of another type, or the same path twice.
    #[error("the entry {path} is none that we write")]
    Unexpected {
        /// Its path.
        path: String,
    },
    /// Bytes behind the trailer.
    #[error("{0} bytes follow the trailer")]
    Leftover(usize),
    /// A file or a path is too long for the format.
    #[error("{path} is too large for a newc archive (4 GiB)")]
    TooLarge {
        /// Its path.
        path: String,
    },
}

/// Writes the entries (absolute paths) as an archive. Directories above an entry must be entries themselves.
pub(crate) fn write_newc(entries: &BTreeMap<String, Entry>) -> Result<Vec<u8>, CpioError> {
    let mut archive = Vec::new();
    for (sequence, (path, entry)) in (1u32..).zip(entries) {
        // names in an archive are relative to the root that it is unpacked into
        let name = path.trim_start_matches('/');
        let nothing = Vec::new();
        let (kind, contents, device) = match &entry.kind {
            EntryKind::Directory => (S_IFDIR, &nothing, (0, 0)),
            EntryKind::File(contents) => (S_IFREG, contents, (0, 0)),
            EntryKind::Device { major, minor } => (S_IFCHR, &nothing, (*major, *minor)),
        };
        let links = if kind == S_IFDIR { 2 } else { 1 };
        put(&mut archive, sequence, kind | entry.mode, links, device, name, contents)?;
    }
    put(&mut archive, 0, 0, 1, (0, 0), TRAILER, &[])?;
    Ok(archive)
}

fn put(
    archive: &mut Vec<u8>,
    inode: u32,
    mode: u32,
    links: u32,
    device: (u32, u32),
    name: &str,
    contents: &[u8],
) -> Result<(), CpioError> {
    let too_large = |_| CpioError::TooLarge { path: name.to_owned() };
    let size = u32::try_from(contents.len()).map_err(too_large)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
    archive.extend_from_slice(MAGIC);
    // inode, mode, owner, group, links, time, size, device of the file (2), device that it is (2), size of the name, checksum
    for field in [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0] {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(contents);
    pad(archive);
    Ok(())
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// Reads an archive that [`build`](crate::build) wrote, by absolute path. Anything that we would not write is refused.
pub fn read_newc(archive: &[u8]) -> Result<BTreeMap<String, Entry>, CpioError> {
    let mut entries = BTreeMap::new();
    let mut at = 0usize;
    loop {
        let truncated = CpioError::Truncated { at };
        let bad = || CpioError::BadHeader { at };
        let header = archive.get(at..).and_then(|rest| rest.get(..HEADER)).ok_or(truncated.clone())?;
        let digits = header.strip_prefix(MAGIC).ok_or(CpioError::BadMagic { at })?;
        let mut fields = [0u32; 13];
        for (field, digits) in fields.iter_mut().zip(digits.chunks_exact(8)) {
            let digits =
                std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()));
            *field = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or_else(bad)?;
        }
        let [_, mode, _, _, _, _, size, _, _, major, minor, name_size, _] = fields;
        let length = |field: u32| usize::try_from(field).map_err(|_| bad());
        let name_at = at + HEADER;
        let data_at = name_at.checked_add(length(name_size)?).ok_or(truncated.clone())?.next_multiple_of(4);
        let data_end = data_at.checked_add(length(size)?).ok_or(truncated.clone())?;
        let name = archive.get(name_at..name_at + length(name_size)?).ok_or(truncated.clone())?;
        let name = name.strip_suffix(b"\0").and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(bad)?;
        let contents = archive.get(data_at..data_end).ok_or(truncated)?;
        at = data_end.next_multiple_of(4);
        if name == TRAILER {
            let rest = archive.len().saturating_sub(at);
            return if rest == 0 { Ok(entries) } else { Err(CpioError::Leftover(rest)) };
        }
        let path = format!("/{name}");
        let kind = match mode & !0o7777 {
            S_IFDIR if size == 0 => EntryKind::Directory,
            S_IFREG => EntryKind::File(contents.to_vec()),
            S_IFCHR if size == 0 => EntryKind::Device { major, minor },
            _ => return Err(CpioError::Unexpected { path }),
        };
        let entry = Entry { kind, mode: mode & 0o7777 };
        if entries.insert(path.clone(), entry).is_some() {
            return Err(CpioError::Unexpected { path });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> BTreeMap<String, Entry> {
        BTreeMap::from([
            ("/dev".to_owned(), Entry { kind: EntryKind::Directory, mode: 0o755 }),
            ("/dev/console".to_owned(), Entry { kind: EntryKind::Device { major: 5, minor: 1 }, mode: 0o600 }),
            ("/init".to_owned(), Entry { kind: EntryKind::File(b"program".to_vec()), mode: 0o755 }),
        ])
    }

    #[test]
    fn an_archive_reads_back_as_written() {
        let archive = write_newc(&entries()).unwrap();
        assert_eq!(read_newc(&archive).unwrap(), entries());
        // the second entry: inode 2, a character device 5:1, one link, no owner, no time
        let second = archive.windows(6).enumerate().filter(|(_, window)| window == MAGIC).nth(1).unwrap().0;
        let expected = "0000000200002180000000000000000000000001000000000000000000000000000000000000000500000001\
                        0000000c00000000dev/console\0";
        assert_eq!(&archive[second + 6..second + 6 + expected.len()], expected.as_bytes());
    }

    #[test]
    fn each_damage_has_its_own_error() {
        let archive = write_newc(&entries()).unwrap();
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut archive = archive.clone();
            change(&mut archive);
            read_newc(&archive).map(|entries| entries.len())
        };
        assert_eq!(changed(&|_| ()), Ok(3));
        assert_eq!(changed(&|archive| archive[5] = b'2'), Err(CpioError::BadMagic { at: 0 }));
        assert_eq!(changed(&|archive| archive[6] = b'+'), Err(CpioError::BadHeader { at: 0 }));
        assert_eq!(changed(&|archive| archive.push(0)), Err(CpioError::Leftover(1)));
        assert_eq!(
            changed(&|archive| archive.truncate(archive.len() - 4)),
            Err(CpioError::Truncated { at: archive.len() - 124 })
        );
        // 0x41ed (a directory) becomes 0x11ed (a pipe)
        assert_eq!(changed(&|archive| archive[18] = b'1'), Err(CpioError::Unexpected { path: "/dev".into() }));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(data: Vec<u8>, at in 0usize..400, value: u8) {
            let _ = read_newc(&data);
            let mut archive = write_newc(&entries()).unwrap();
            if let Some(byte) = archive.get_mut(at) { *byte = value; }
            let _ = read_newc(&archive);
        }
    }
}
