//! One 512-byte tar header: field offsets of POSIX.1-2017 `pax`, "ustar Interchange Format", and of the GNU tar manual,
//! "Basic Tar Format" (`struct posix_header`, `struct oldgnu_header`).

use super::TarError;

/// Size of a header and of the unit that data is padded to, in bytes.
pub(super) const BLOCK: usize = 512;

/// Data segments (offset, length) of a sparse file.
pub(super) type Segments = Vec<(u64, u64)>;

/// A tar header block whose checksum holds.
#[derive(Debug)]
pub(super) struct Header([u8; BLOCK]);

impl Header {
    /// Accepts `block` when its checksum field is the sum of its bytes, as unsigned or (historic) signed numbers.
    pub(super) fn new(block: [u8; BLOCK], at: u64) -> Result<Self, TarError> {
        let header = Self(block);
        let stored = number(header.field(148, 8)).ok_or(TarError::Checksum { at })?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (i, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&i) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stored == unsigned || stored == signed { Ok(header) } else { Err(TarError::Checksum { at }) }
    }

    /// The `typeflag` byte.
    pub(super) fn kind(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or(0)
    }

    /// `prefix` and `name` joined for POSIX headers, `name` alone for GNU and v7 ones.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = if self.field(257, 6) == b"ustar\0" { text(self.field(345, 155)) } else { &[] };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(self.field(157, 100)).to_vec()
    }

    pub(super) fn mode(&self, at: u64) -> Result<u32, TarError> {
        self.small("mode", 100, 8, at)
    }

    pub(super) fn uid(&self, at: u64) -> Result<u32, TarError> {
        self.small("uid", 108, 8, at)
    }

    pub(super) fn gid(&self, at: u64) -> Result<u32, TarError> {
        self.small("gid", 116, 8, at)
    }

    pub(super) fn size(&self, at: u64) -> Result<u64, TarError> {
        self.unsigned("size", 124, 12, at)
    }

    /// Seconds since 1970, negative before.
    pub(super) fn mtime(&self, at: u64) -> Result<i64, TarError> {
        number(self.field(136, 12)).ok_or(TarError::Number { field: "mtime", at })
    }

    /// Device (major, minor).
    pub(super) fn device(&self, at: u64) -> Result<(u32, u32), TarError> {
        Ok((self.small("devmajor", 329, 8, at)?, self.small("devminor", 337, 8, at)?))
    }

    /// The four segments of an old GNU sparse header, whether extension blocks follow, and the real size.
    pub(super) fn gnu_sparse(&self, at: u64) -> Result<(Segments, bool, u64), TarError> {
        let extended = self.field(482, 1) != [0];
        Ok((segments(self.field(386, 96), at)?, extended, self.unsigned("realsize", 483, 12, at)?))
    }

    fn small(&self, field: &'static str, start: usize, len: usize, at: u64) -> Result<u32, TarError> {
        let value = number(self.field(start, len)).ok_or(TarError::Number { field, at })?;
        u32::try_from(value).map_err(|_| TarError::Number { field, at })
    }

    fn unsigned(&self, field: &'static str, start: usize, len: usize, at: u64) -> Result<u64, TarError> {
        let value = number(self.field(start, len)).ok_or(TarError::Number { field, at })?;
        u64::try_from(value).map_err(|_| TarError::Number { field, at })
    }

    fn field(&self, start: usize, len: usize) -> &[u8] {
        self.0.get(start..start + len).unwrap_or(&[])
    }
}

/// The 21 segments of a GNU sparse extension block, and whether another block follows.
pub(super) fn gnu_extension(block: &[u8; BLOCK], at: u64) -> Result<(Segments, bool), TarError> {
    let (table, rest) = block.split_at(21 * 24);
    Ok((segments(table, at)?, rest.first() != Some(&0)))
}

fn segments(table: &[u8], at: u64) -> Result<Segments, TarError> {
    let mut found = Vec::new();
    let value = |bytes: &[u8]| {
        number(bytes).and_then(|n| u64::try_from(n).ok()).ok_or(TarError::Number { field: "sparse map", at })
    };
    for pair in table.chunks_exact(24) {
        if pair.first() == Some(&0) {
            break;
        }
        let (offset, len) = pair.split_at(12);
        found.push((value(offset)?, value(len)?));
    }
    Ok(found)
}

/// Bytes up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(&[])
}

/// Octal digits between spaces or NULs, or base 256 when the first byte has its high bit set (GNU tar manual, "Extensions").
/// An empty field is zero. `None` for anything else, or a number beyond 63 bits.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let start = if first & 0x40 != 0 { -1_i64 << 6 } else { 0 };
        let mut value = start | i64::from(first & 0x3f);
        for byte in rest {
            value = value.checked_mul(256)?.checked_add(i64::from(*byte))?;
        }
        return Some(value);
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]), Some(258));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
        assert_eq!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
