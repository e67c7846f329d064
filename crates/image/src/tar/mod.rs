//! A streaming tar reader for untrusted layers.
//!
//! Formats: POSIX ustar and pax, GNU tar (long names, base-256 numbers, old sparse files), v7. Everything that is held in
//! memory has a bound (see the constants), which is why this is not the `tar` crate: that one reads an extended header of any
//! length into memory. One pass, nothing is sought.

mod header;
mod pax;
mod sparse;

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use header::{BLOCK, Header};
use pax::Pax;

/// Longest extended header (pax records or GNU long name) that is read, in bytes.
pub const MAX_EXTENDED_HEADER: u64 = 1 << 20;
/// Most segments of one sparse file.
pub const MAX_SPARSE_SEGMENTS: usize = 1 << 17;

/// Why a tar stream was refused. `at` is the offset of the entry's header in the uncompressed stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The stream under the tar could not be read.
    #[error("cannot read the layer's tar stream: {0}")]
    Read(#[from] io::Error),
    /// The stream ends inside a header or a file.
    #[error("the tar stream ends inside the entry at offset {at}; fetch the layer again")]
    Truncated {
        /// Offset of the entry's header.
        at: u64,
    },
    /// A header's checksum does not hold: not a tar, or a damaged one.
    #[error("no tar header at offset {at}: its checksum does not match")]
    Checksum {
        /// Offset of the header.
        at: u64,
    },
    /// A numeric field does not parse or is out of range.
    #[error("tar header at offset {at}: field {field} is not a number in range")]
    Number {
        /// Field name in the format's specification.
        field: &'static str,
        /// Offset of the entry's header.
        at: u64,
    },
    /// An extended header is longer than [`MAX_EXTENDED_HEADER`].
    #[error("tar extended header at offset {at} has {size} bytes, more than the {MAX_EXTENDED_HEADER} allowed")]
    ExtendedHeader {
        /// Offset of the header.
        at: u64,
        /// Its claimed size in bytes.
        size: u64,
    },
    /// A pax record is malformed.
    #[error("tar extended header before offset {at} has a malformed record")]
    PaxRecord {
        /// Offset behind the header.
        at: u64,
    },
    /// A global pax header sets a property of entries; readers differ on its meaning.
    #[error(
        "tar global header at offset {at} sets properties of entries, which tools read differently; repack the layer"
    )]
    GlobalHeader {
        /// Offset of the header.
        at: u64,
    },
    /// A sparse map is malformed, overlaps, or has more than [`MAX_SPARSE_SEGMENTS`] segments.
    #[error("tar entry at offset {at} has a malformed or oversized sparse map")]
    SparseMap {
        /// Offset of the entry's header.
        at: u64,
    },
    /// An entry type that this reader does not know.
    #[error("tar entry at offset {at} has the unknown type {kind:?}")]
    EntryType {
        /// Offset of the entry's header.
        at: u64,
        /// The `typeflag` byte.
        kind: char,
    },
    /// Bytes other than zero behind the end-of-archive marker.
    #[error("the tar stream goes on after its end marker at offset {at}")]
    Leftover {
        /// Offset of the end marker.
        at: u64,
    },
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Hard link to an earlier entry; `Entry::link` names it.
    HardLink,
    /// Symbolic link to `Entry::link`.
    Symlink,
    /// Character device (major, minor).
    Char(u32, u32),
    /// Block device (major, minor).
    Block(u32, u32),
    /// Directory.
    Directory,
    /// FIFO.
    Fifo,
}

/// One tar entry with all its extended headers applied.
#[derive(Debug)]
pub struct Entry {
    /// Offset of the header in the stream.
    pub at: u64,
    /// What it is.
    pub kind: Kind,
    /// Path as stored.
    pub path: Vec<u8>,
    /// Link target as stored.
    pub link: Vec<u8>,
    /// Permission bits (12).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Logical size in bytes of a regular file, holes included; 0 for all else.
    pub size: u64,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Data segments (offset, length) of a sparse file.
    sparse: Option<Vec<(u64, u64)>>,
}

/// A piece of a file's content.
#[derive(Debug)]
pub enum Piece<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// This many zero bytes of a hole.
    Hole(u64),
}

/// Reads entries one after the other.
#[derive(Debug)]
pub struct TarReader<R> {
    inner: R,
    /// Moves over data that nobody reads, when the stream can be sought.
    seek: Option<fn(&mut R, i64) -> io::Result<()>>,
    /// Bytes read so far.
    offset: u64,
    /// Stored data bytes of the current entry that were not read, and the padding behind them.
    unread: u64,
    padding: u64,
    buffer: Vec<u8>,
}

impl<R: Read + Seek> TarReader<R> {
    /// A reader that seeks over data instead of reading it.
    pub fn seeking(inner: R) -> Self {
        let seek = |inner: &mut R, distance: i64| inner.seek(SeekFrom::Current(distance)).map(drop);
        Self { seek: Some(seek), ..Self::new(inner) }
    }
}

impl<R: Read> TarReader<R> {
    /// A reader over an uncompressed tar stream.
    pub fn new(inner: R) -> Self {
        Self { inner, seek: None, offset: 0, unread: 0, padding: 0, buffer: vec![0; 128 * 1024] }
    }

    /// Offset and length of the stored data of the current entry, while nothing of it was read.
    pub fn data_range(&self) -> Option<(u64, u64)> {
        (self.unread > 0).then_some((self.offset, self.unread))
    }

    /// Gives the stream back.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry, or `None` behind the last, after the whole stream was read and found to end in zeros.
    ///
    /// # Errors
    /// Any [`TarError`]; the reader must not be used after one.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_rest()?;
        let mut pax = Pax::default();
        let (mut long_path, mut long_link) = (None, None);
        let mut extended = false;
        loop {
            let at = self.offset;
            let Some(block) = self.block(at)? else {
                return if extended { Err(TarError::Truncated { at }) } else { Ok(None) };
            };
            if block.iter().all(|b| *b == 0) {
                if extended {
                    return Err(TarError::Truncated { at });
                }
                self.drain_zeros(at)?;
                return Ok(None);
            }
            let header = Header::new(block, at)?;
            match header.kind() {
                b'x' => pax.apply(&self.extended(&header, at)?, at)?,
                b'g' => {
                    if pax::global_changes_entries(&self.extended(&header, at)?, at)? {
                        return Err(TarError::GlobalHeader { at });
                    }
                    continue;
                }
                b'L' => long_path = Some(until_nul(self.extended(&header, at)?)),
                b'K' => long_link = Some(until_nul(self.extended(&header, at)?)),
                _ => return self.entry(&header, pax, long_path, long_link, at).map(Some),
            }
            extended = true;
        }
    }

    /// Hands the content of `entry`, which must be the one returned last, to `sink` piece by piece.
    ///
    /// # Errors
    /// [`TarError`] of the stream, or what `sink` returns.
    pub fn content<E: From<TarError>>(
        &mut self,
        entry: &Entry,
        mut sink: impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let whole = [(0, entry.size)];
        let segments: &[(u64, u64)] = entry.sparse.as_deref().unwrap_or(&whole);
        let mut position = 0;
        for (start, len) in segments {
            if *start > position {
                sink(Piece::Hole(start - position))?;
            }
            let mut left = *len;
            while left > 0 {
                let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                let target = self.buffer.get_mut(..want).unwrap_or_default();
                let got = read_some(&mut self.inner, target).map_err(TarError::from)?;
                if got == 0 {
                    return Err(TarError::Truncated { at: entry.at }.into());
                }
                self.offset += got as u64;
                self.unread = self.unread.saturating_sub(got as u64);
                left -= got as u64;
                sink(Piece::Data(self.buffer.get(..got).unwrap_or_default()))?;
            }
            position = start + len;
        }
        if entry.size > position {
            sink(Piece::Hole(entry.size - position))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        at: u64,
    ) -> Result<Entry, TarError> {
        let path = pax.sparse.name.clone().or(pax.path).or(long_path).unwrap_or_else(|| header.path());
        let kind = match header.kind() {
            // Tar of the seventh edition marks a directory by the slash at its end.
            b'\0' | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'\0' | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => header.device(at).map(|(major, minor)| Kind::Char(major, minor))?,
            b'4' => header.device(at).map(|(major, minor)| Kind::Block(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::EntryType { at, kind: char::from(other) }),
        };
        let mut size = 0;
        let mut sparse = None;
        if kind == Kind::File {
            let stored = pax.size.map_or_else(|| header.size(at), Ok)?;
            self.expect_data(stored);
            size = stored;
            let map = if header.kind() == b'S' {
                Some(self.gnu_sparse(header, at)?)
            } else {
                self.pax_sparse(&pax.sparse, at)?
            };
            if let Some((segments, real)) = map {
                sparse::check(&segments, real, self.unread, at)?;
                size = real;
                sparse = Some(segments);
            }
        }
        let mode = u16::try_from(header.mode(at)? & 0o7777).map_err(|_| TarError::Number { field: "mode", at })?;
        Ok(Entry {
            at,
            kind,
            path,
            link: pax.link.or(long_link).unwrap_or_else(|| header.link()),
            mode,
            uid: pax.uid.map_or_else(|| header.uid(at), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(at), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime(at).map(|seconds| (seconds, 0)), Ok)?,
            size,
            xattrs: pax.xattrs,
            sparse,
        })
    }

    fn expect_data(&mut self, stored: u64) {
        self.unread = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
    }

    /// Reads the body of an extended header, bounded, with its padding.
    fn extended(&mut self, header: &Header, at: u64) -> Result<Vec<u8>, TarError> {
        let size = header.size(at)?;
        if size > MAX_EXTENDED_HEADER {
            return Err(TarError::ExtendedHeader { at, size });
        }
        let mut body = vec![0; usize::try_from(size).map_err(|_| TarError::ExtendedHeader { at, size })?];
        self.exactly(&mut body, at)?;
        self.expect_data(size);
        self.unread = 0;
        self.skip_rest()?;
        Ok(body)
    }

    fn block(&mut self, at: u64) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match read_some(&mut self.inner, rest)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(TarError::Truncated { at }),
                got => filled += got,
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    fn exactly(&mut self, target: &mut [u8], at: u64) -> Result<(), TarError> {
        self.inner.read_exact(target).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof if error.get_ref().is_none() => TarError::Truncated { at },
            _ => TarError::Read(error),
        })?;
        self.offset += target.len() as u64;
        Ok(())
    }

    /// Reads or seeks over what is left of the current entry.
    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut left = self.unread.saturating_add(self.padding);
        let at = self.offset;
        (self.unread, self.padding) = (0, 0);
        if let (Some(seek), Some(distance)) = (self.seek, left.checked_sub(1)) {
            // The last byte is read, so that a stream that ends before it is noticed.
            seek(&mut self.inner, i64::try_from(distance).map_err(|_| TarError::Truncated { at })?)?;
            self.offset += distance;
            left = 1;
        }
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            match read_some(&mut self.inner, self.buffer.get_mut(..want).unwrap_or_default())? {
                0 => return Err(TarError::Truncated { at }),
                got => {
                    self.offset += got as u64;
                    left -= got as u64;
                }
            }
        }
        Ok(())
    }

    fn drain_zeros(&mut self, at: u64) -> Result<(), TarError> {
        loop {
            let got = read_some(&mut self.inner, &mut self.buffer)?;
            if got == 0 {
                return Ok(());
            }
            self.offset += got as u64;
            if self.buffer.iter().take(got).any(|b| *b != 0) {
                return Err(TarError::Leftover { at });
            }
        }
    }
}

fn read_some(reader: &mut impl Read, target: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(target) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}
