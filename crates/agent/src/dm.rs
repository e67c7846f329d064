//! The device mapper, as far as read-only dm-verity devices need it.
//!
//! Source: include/uapi/linux/dm-ioctl.h (interface 4.0.0 and later) and Documentation/admin-guide/device-mapper/verity.rst
//! of Linux 6.12. Each call is one buffer: a header of 312 bytes, then the call's data.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

/// Bytes of `struct dm_ioctl`.
const HEADER: usize = 312;
/// Bytes of `struct dm_target_spec`.
const TARGET: usize = 40;
/// Bytes of a call's buffer; a verity table with the longest salt fits many times.
const BUFFER: usize = 4096;
/// Longest device name with its NUL.
const NAME: usize = 128;

const DM_READONLY_FLAG: u32 = 1 << 0;
const DM_BUFFER_FULL_FLAG: u32 = 1 << 8;

const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;
const TABLE_STATUS: u8 = 12;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmError {
    /// The control device cannot be opened.
    #[error("device mapper is not there: {0}")]
    Control(io::Error),
    /// A name or table that does not fit its field.
    #[error("device mapper {what} is too long or holds a zero byte")]
    Field {
        /// `name` or `table`.
        what: &'static str,
    },
    /// The kernel refused a call.
    #[error("device mapper refused to {what}: {source}")]
    Call {
        /// What was asked.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// An answer that is not of the documented form.
    #[error("device mapper gave a malformed answer")]
    Answer,
}

/// A dm-verity target: data blocks of 4096 bytes, and behind them a hash tree without superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity<'a> {
    /// `major:minor` of the disk.
    pub device: &'a str,
    /// Root hash in hex.
    pub root: &'a str,
    /// Salt in hex; empty for none.
    pub salt: &'a str,
    /// Data blocks.
    pub data_blocks: u64,
}

impl Verity<'_> {
    /// The target's parameters: version, data and hash device, block sizes, data blocks, first hash block, hash, root, salt.
    fn table(&self) -> String {
        let Self { device, root, data_blocks, .. } = self;
        let salt = if self.salt.is_empty() { "-" } else { self.salt };
        format!("1 {device} {device} 4096 4096 {data_blocks} {data_blocks} sha256 {root} {salt}")
    }

    /// Length of the device in sectors of 512 bytes.
    fn sectors(&self) -> u64 {
        self.data_blocks.saturating_mul(8)
    }
}

/// Health of a dm-verity device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No block has failed verification so far.
    Valid,
    /// A block failed verification.
    Corrupted,
}

/// The control device.
#[derive(Debug)]
pub struct Mapper {
    control: File,
}

impl Mapper {
    /// Opens `/dev/mapper/control`.
    pub fn open() -> Result<Self, DmError> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control");
        Ok(Self { control: control.map_err(DmError::Control)? })
    }

    /// Makes and starts a read-only verity device. Its file is `/dev/dm-<minor>` with the minor that is returned.
    pub fn create(&self, name: &str, verity: &Verity<'_>) -> Result<u32, DmError> {
        let header = self.call("make a device", DEV_CREATE, &mut Buffer::new(name, DM_READONLY_FLAG)?)?;
        let started = self.start(name, verity);
        if started.is_err() {
            let _ = self.remove(name);
        }
        started.map(|()| rustix::fs::minor(header.device))
    }

    fn start(&self, name: &str, verity: &Verity<'_>) -> Result<(), DmError> {
        let mut load = Buffer::new(name, DM_READONLY_FLAG)?;
        load.push_target(verity.sectors(), "verity", &verity.table())?;
        self.call("load a verity table", TABLE_LOAD, &mut load)?;
        // Without the suspend flag this call resumes, which makes the table live.
        self.call("start a device", DEV_SUSPEND, &mut Buffer::new(name, 0)?)?;
        Ok(())
    }

    /// Health of the verity device `name`.
    pub fn health(&self, name: &str) -> Result<Health, DmError> {
        let mut buffer = Buffer::new(name, 0)?;
        let header = self.call("tell a device's status", TABLE_STATUS, &mut buffer)?;
        if header.flags & DM_BUFFER_FULL_FLAG != 0 {
            return Err(DmError::Answer);
        }
        match buffer.first_status(header.data_start).ok_or(DmError::Answer)? {
            b"V" => Ok(Health::Valid),
            b"C" => Ok(Health::Corrupted),
            _ => Err(DmError::Answer),
        }
    }

    /// Removes the device `name`.
    pub fn remove(&self, name: &str) -> Result<(), DmError> {
        self.call("remove a device", DEV_REMOVE, &mut Buffer::new(name, 0)?).map(drop)
    }

    fn call(&self, what: &'static str, number: u8, buffer: &mut Buffer) -> Result<Header, DmError> {
        // _IOWR(0xfd, number, struct dm_ioctl)
        let header = libc::Ioctl::try_from(HEADER).unwrap_or_default();
        let request = 3 << 30 | header << 16 | 0xfd << 8 | libc::Ioctl::from(number);
        // SAFETY: the kernel reads and writes at most `data_size` bytes from the pointer, and `Buffer::new` set that field
        // to the length of this allocation, which outlives the call and is aligned for the 64-bit fields of the header.
        let outcome = unsafe { libc::ioctl(self.control.as_raw_fd(), request, buffer.0.as_mut_ptr()) };
        if outcome < 0 {
            return Err(DmError::Call { what, source: io::Error::last_os_error() });
        }
        buffer.header().ok_or(DmError::Answer)
    }
}

/// The fields of an answered header that are used.
struct Header {
    data_start: usize,
    flags: u32,
    device: u64,
}

/// A call's buffer. Words of 64 bits give it the alignment that the kernel's structures want.
struct Buffer(Vec<u64>);

impl Buffer {
    fn new(name: &str, flags: u32) -> Result<Self, DmError> {
        let mut buffer = Self(vec![0; BUFFER / 8]);
        if name.len() >= NAME || name.is_empty() || name.contains('\0') {
            return Err(DmError::Field { what: "name" });
        }
        let size = u32::try_from(BUFFER).unwrap_or_default();
        let start = u32::try_from(HEADER).unwrap_or_default();
        // version[3], data_size, data_start, target_count, open_count, flags
        for (at, value) in [4, 0, 0, size, start, 0, 0, flags].into_iter().enumerate() {
            buffer.put(at * 4, &value.to_ne_bytes())?;
        }
        buffer.put(48, name.as_bytes())?;
        Ok(buffer)
    }

    /// Adds the one target that starts at sector 0.
    fn push_target(&mut self, sectors: u64, kind: &str, table: &str) -> Result<(), DmError> {
        if table.contains('\0') || HEADER + TARGET + table.len() >= BUFFER {
            return Err(DmError::Field { what: "table" });
        }
        let next = (TARGET + table.len() + 1).next_multiple_of(8);
        let next = u32::try_from(next).map_err(|_| DmError::Field { what: "table" })?;
        self.put(20, &1u32.to_ne_bytes())?;
        self.put(HEADER + 8, &sectors.to_ne_bytes())?;
        self.put(HEADER + 20, &next.to_ne_bytes())?;
        self.put(HEADER + 24, kind.as_bytes())?;
        self.put(HEADER + TARGET, table.as_bytes())
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> Result<(), DmError> {
        let field = self.bytes_mut().get_mut(at..at + bytes.len()).ok_or(DmError::Answer)?;
        field.copy_from_slice(bytes);
        Ok(())
    }

    fn header(&self) -> Option<Header> {
        let word = |at: usize| self.bytes().get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
        let device = self.bytes().get(40..)?.first_chunk().copied().map(u64::from_ne_bytes)?;
        Some(Header { data_start: usize::try_from(word(16)?).ok()?, flags: word(28)?, device })
    }

    /// Text of the first target's status; it starts behind the target's specification and ends with a NUL.
    fn first_status(&self, data_start: usize) -> Option<&[u8]> {
        self.bytes().get(data_start..)?.get(TARGET..)?.split(|byte| *byte == 0).next()
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: any initialised `u64`s are initialised bytes, eight for each, and `u8` has no alignment.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 8) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference, and any bytes are valid `u64`s.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "4f2a";

    #[test]
    fn a_verity_table_has_the_documented_words() {
        let mut verity = Verity { device: "254:16", root: ROOT, salt: "00ff", data_blocks: 3 };
        assert_eq!(verity.table(), "1 254:16 254:16 4096 4096 3 3 sha256 4f2a 00ff");
        assert_eq!(verity.sectors(), 24);
        verity.salt = "";
        assert_eq!(verity.table(), "1 254:16 254:16 4096 4096 3 3 sha256 4f2a -");
    }

    #[test]
    fn a_buffer_has_the_kernels_layout() {
        let mut buffer = Buffer::new("layer-0", DM_READONLY_FLAG).unwrap();
        buffer.push_target(24, "verity", "1 a b").unwrap();
        let bytes = buffer.bytes();
        let word = |at: usize| u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        assert_eq!([0, 4, 8, 12, 16, 20, 24, 28].map(word), [4, 0, 0, 4096, 312, 1, 0, 1]);
        assert_eq!(&bytes[48..56], b"layer-0\0");
        assert_eq!(bytes[312..320], [0; 8]);
        assert_eq!(u64::from_ne_bytes(*bytes[320..].first_chunk().unwrap()), 24);
        assert_eq!(word(332), 48);
        assert_eq!(&bytes[336..343], b"verity\0");
        assert_eq!(&bytes[352..358], b"1 a b\0");
        assert_eq!(bytes.as_ptr().align_offset(8), 0);
    }

    #[test]
    fn the_status_of_the_first_target_is_found() {
        let mut buffer = Buffer::new("layer-0", 0).unwrap();
        buffer.push_target(24, "verity", "C").unwrap();
        assert_eq!(buffer.first_status(HEADER), Some(b"C".as_slice()));
        assert_eq!(buffer.first_status(BUFFER), None);
    }

    #[test]
    fn fields_are_bounded() {
        assert!(matches!(Buffer::new(&"n".repeat(128), 0), Err(DmError::Field { what: "name" })));
        assert!(Buffer::new(&"n".repeat(127), 0).is_ok());
        assert!(matches!(Buffer::new("a\0b", 0), Err(DmError::Field { what: "name" })));
        let mut buffer = Buffer::new("n", 0).unwrap();
        let room = BUFFER - HEADER - TARGET;
        assert!(matches!(buffer.push_target(8, "verity", &"x".repeat(room)), Err(DmError::Field { what: "table" })));
        assert!(buffer.push_target(8, "verity", &"x".repeat(room - 1)).is_ok());
    }
}
