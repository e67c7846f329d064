//! Append-only storage outside memory: the image itself and what is set aside until its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Storage with positioned reads and writes.
pub trait Medium {
    /// Fills `target` from `offset`.
    ///
    /// # Errors
    /// Of the storage, and `UnexpectedEof` behind its end.
    fn read_exact_at(&self, target: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`; what is skipped is zero.
    ///
    /// # Errors
    /// Of the storage.
    fn write_all_at(&mut self, data: &[u8], offset: u64) -> io::Result<()>;
}

impl Medium for File {
    fn read_exact_at(&self, target: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, target, offset)
    }

    fn write_all_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, data, offset)
    }
}

impl Medium for Vec<u8> {
    fn read_exact_at(&self, target: &mut [u8], offset: u64) -> io::Result<()> {
        let source = usize::try_from(offset).ok().and_then(|start| self.get(start..start.checked_add(target.len())?));
        target.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let end = start.checked_add(data.len()).ok_or(io::ErrorKind::OutOfMemory)?;
        if self.len() < end {
            self.resize(end, 0);
        }
        self.get_mut(start..end).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }
}

/// A [`Medium`] that grows at its end through a buffer, and can be read and patched anywhere.
#[derive(Debug)]
pub(crate) struct Spool<M> {
    medium: M,
    flushed: u64,
    tail: Vec<u8>,
    capacity: usize,
}

impl<M: Medium> Spool<M> {
    pub(crate) fn new(medium: M, capacity: usize) -> Self {
        Self { medium, flushed: 0, tail: Vec::with_capacity(capacity), capacity }
    }

    pub(crate) fn len(&self) -> u64 {
        self.flushed + self.tail.len() as u64
    }

    pub(crate) fn append(&mut self, data: &[u8]) -> io::Result<()> {
        if self.tail.len() + data.len() > self.capacity {
            self.flush()?;
            if data.len() >= self.capacity {
                self.medium.write_all_at(data, self.flushed)?;
                self.flushed += data.len() as u64;
                return Ok(());
            }
        }
        self.tail.extend_from_slice(data);
        Ok(())
    }

    pub(crate) fn append_zeros(&mut self, mut count: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while count > 0 {
            let now = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
            self.append(ZEROS.get(..now).unwrap_or_default())?;
            count -= now as u64;
        }
        Ok(())
    }

    pub(crate) fn align(&mut self, unit: u64) -> io::Result<()> {
        self.append_zeros(self.len().next_multiple_of(unit) - self.len())
    }

    pub(crate) fn read_at(&self, target: &mut [u8], offset: u64) -> io::Result<()> {
        let in_medium = usize::try_from(self.flushed.saturating_sub(offset)).unwrap_or(usize::MAX).min(target.len());
        let (stored, buffered) = target.split_at_mut(in_medium);
        if !stored.is_empty() {
            self.medium.read_exact_at(stored, offset)?;
        }
        if !buffered.is_empty() {
            let start =
                usize::try_from(offset.saturating_sub(self.flushed)).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            let source = start.checked_add(buffered.len()).and_then(|end| self.tail.get(start..end));
            buffered.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        Ok(())
    }

    /// Overwrites bytes that were appended before.
    pub(crate) fn patch(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        if offset < self.flushed {
            self.flush()?;
            return self.medium.write_all_at(data, offset);
        }
        let start = usize::try_from(offset - self.flushed).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let target = start.checked_add(data.len()).and_then(|end| self.tail.get_mut(start..end));
        target.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }

    /// Appends all of `other`.
    pub(crate) fn append_all<N: Medium>(&mut self, other: &Spool<N>) -> io::Result<()> {
        let mut buffer = vec![0; 128 * 1024];
        let mut offset = 0;
        while offset < other.len() {
            let now = usize::try_from(other.len() - offset).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..now).unwrap_or_default();
            other.read_at(piece, offset)?;
            self.append(piece)?;
            offset += now as u64;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<M> {
        self.flush()?;
        Ok(self.medium)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.tail.is_empty() {
            self.medium.write_all_at(&self.tail, self.flushed)?;
            self.flushed += self.tail.len() as u64;
            self.tail.clear();
        }
        Ok(())
    }
}
