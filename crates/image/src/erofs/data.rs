//! File content on its way into the image: whole blocks as they come, runs of zeros as holes, small tails behind the inode.

use std::io;

use super::inode::{BLOCK, HOLE, INLINE_MAX, Layout};
use super::spool::{Medium, Spool};

/// Holes are kept in units of at least this many bytes, so that a program with a zero page stays one extent.
const MIN_CHUNK: u64 = 64 * 1024;
/// Most entries of a chunk map (4 bytes each).
const MAX_CHUNKS: u64 = 1 << 16;

/// Writes the content of one regular file of a known size.
#[derive(Debug)]
pub(crate) struct Content {
    size: u64,
    position: u64,
    first_block: u32,
    chunk: u64,
    /// Zero bytes at the start of the current chunk that were not written.
    pending: u64,
    /// Whether the current chunk has written bytes.
    written: bool,
    chunk_block: u32,
    map: Vec<u32>,
    tail: Vec<u8>,
}

/// Content that is in the image: its layout, and what stands behind the inode.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) layout: Layout,
    pub(crate) behind: Behind,
}

/// Bytes behind an inode and its attributes.
#[derive(Debug)]
pub(crate) enum Behind {
    Nothing,
    Tail(Vec<u8>),
    Map(Vec<u8>),
}

impl Content {
    pub(crate) fn new<M: Medium>(size: u64, image: &Spool<M>) -> io::Result<Self> {
        let first_block = block_number(image.len())?;
        let chunk = size.div_ceil(MAX_CHUNKS).next_power_of_two().max(MIN_CHUNK);
        Ok(Self {
            size,
            position: 0,
            first_block,
            chunk,
            pending: 0,
            written: false,
            chunk_block: first_block,
            map: Vec::new(),
            tail: Vec::new(),
        })
    }

    pub(crate) fn data<M: Medium>(&mut self, mut bytes: &[u8], image: &mut Spool<M>) -> io::Result<()> {
        while !bytes.is_empty() {
            let now = usize::try_from(self.to_boundary()).unwrap_or(usize::MAX).min(bytes.len());
            if now == 0 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let (piece, rest) = bytes.split_at(now);
            if self.position >= self.body() {
                self.tail.extend_from_slice(piece);
            } else if !self.written && is_zero(piece) {
                self.pending += now as u64;
            } else {
                self.start_chunk(image)?;
                image.append(piece)?;
            }
            self.advance(now as u64, image)?;
            bytes = rest;
        }
        Ok(())
    }

    pub(crate) fn hole<M: Medium>(&mut self, mut count: u64, image: &mut Spool<M>) -> io::Result<()> {
        while count > 0 {
            let now = self.to_boundary().min(count);
            if now == 0 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            if self.position >= self.body() {
                let len = self.tail.len() + usize::try_from(now).map_err(|_| io::ErrorKind::InvalidInput)?;
                self.tail.resize(len, 0);
            } else if self.written {
                image.append_zeros(now)?;
            } else {
                self.pending += now;
            }
            self.advance(now, image)?;
            count -= now;
        }
        Ok(())
    }

    /// `head` is the length of inode and attributes.
    pub(crate) fn finish<M: Medium>(self, head: u64, image: &mut Spool<M>) -> io::Result<Placed> {
        if self.position != self.size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let has_holes = self.map.contains(&HOLE);
        let tail = self.tail.len() as u64;
        if tail > 0 && !has_holes && tail <= INLINE_MAX && head + tail <= BLOCK {
            return Ok(Placed { layout: Layout::Inline(self.first_block), behind: Behind::Tail(self.tail) });
        }
        image.append(&self.tail)?;
        image.align(BLOCK)?;
        if !has_holes {
            return Ok(Placed { layout: Layout::Plain(self.first_block), behind: Behind::Nothing });
        }
        let bits = u16::try_from((self.chunk / BLOCK).trailing_zeros()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let map = self.map.iter().flat_map(|block| block.to_le_bytes()).collect();
        Ok(Placed { layout: Layout::Chunks(bits), behind: Behind::Map(map) })
    }

    /// Bytes of whole blocks; what is behind is the tail.
    fn body(&self) -> u64 {
        self.size - self.size % BLOCK
    }

    /// Bytes to the end of the chunk, the body or the file, whichever is first.
    fn to_boundary(&self) -> u64 {
        let end = if self.position < self.body() { self.body() } else { self.size };
        (self.chunk - self.position % self.chunk).min(end - self.position)
    }

    fn start_chunk<M: Medium>(&mut self, image: &mut Spool<M>) -> io::Result<()> {
        if !self.written {
            self.chunk_block = block_number(image.len())?;
            image.append_zeros(self.pending)?;
            self.pending = 0;
            self.written = true;
        }
        Ok(())
    }

    fn advance<M: Medium>(&mut self, count: u64, image: &mut Spool<M>) -> io::Result<()> {
        self.position += count;
        let at_end = self.position == self.size;
        if !at_end && !self.position.is_multiple_of(self.chunk) {
            return Ok(());
        }
        let zero = !self.written && is_zero(&self.tail);
        if zero && self.size >= MIN_CHUNK {
            self.tail.clear();
            self.map.push(HOLE);
        } else {
            // Zeros of a chunk that has a tail which is not zero; or a chunk that is only a tail, which `finish` writes here.
            self.start_chunk(image)?;
            self.map.push(self.chunk_block);
        }
        self.pending = 0;
        self.written = false;
        Ok(())
    }
}

pub(crate) fn block_number(offset: u64) -> io::Result<u32> {
    // 2^32 - 1 is the address of a hole.
    u32::try_from(offset / BLOCK).ok().filter(|block| *block < HOLE).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}
