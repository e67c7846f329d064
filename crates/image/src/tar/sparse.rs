//! Sparse maps: GNU tar manual, "Storing Sparse Files" (old GNU format, PAX 0.0, 0.1, 1.0).

use std::io::Read;

use super::header::{self, Header};
use super::pax::{SparseKeys, decimal};
use super::{BLOCK, MAX_SPARSE_SEGMENTS, TarError, TarReader};

/// Data segments (offset, length) and the logical size of the file.
type Map = (Vec<(u64, u64)>, u64);

impl<R: Read> TarReader<R> {
    /// The map of an old GNU sparse entry, whose extension blocks stand between header and data.
    pub(super) fn gnu_sparse(&mut self, header: &Header, at: u64) -> Result<Map, TarError> {
        let (mut segments, mut more, real) = header.gnu_sparse(at)?;
        while more {
            let mut block = [0; BLOCK];
            self.exactly(&mut block, at)?;
            let (next, again) = header::gnu_extension(&block, at)?;
            segments.extend(next);
            if segments.len() > MAX_SPARSE_SEGMENTS {
                return Err(TarError::SparseMap { at });
            }
            more = again;
        }
        Ok((segments, real))
    }

    /// The map of a PAX sparse entry, if it is one. Format 1.0 keeps it at the start of the data.
    pub(super) fn pax_sparse(&mut self, keys: &SparseKeys, at: u64) -> Result<Option<Map>, TarError> {
        let bad = || TarError::SparseMap { at };
        let numbers = match (keys.version, &keys.map) {
            ((Some(1), Some(0)), None) => self.leading_map(at)?,
            ((None, None) | (Some(0), Some(0 | 1)), Some(map)) => map.clone(),
            ((None, None), None) if keys.name.is_none() && keys.real_size.is_none() => return Ok(None),
            _ => return Err(bad()),
        };
        let real = keys.real_size.ok_or_else(bad)?;
        let mut pairs = numbers.chunks_exact(2);
        let segments: Vec<(u64, u64)> =
            pairs.by_ref().filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect();
        if !pairs.remainder().is_empty() || segments.len() > MAX_SPARSE_SEGMENTS {
            return Err(bad());
        }
        Ok(Some((segments, real)))
    }

    /// Decimal lines: the number of segments, then offset and length of each, padded to a block.
    fn leading_map(&mut self, at: u64) -> Result<Vec<u64>, TarError> {
        let bad = || TarError::SparseMap { at };
        let mut numbers = Vec::new();
        let mut line = Vec::new();
        let mut wanted = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            if self.unread < BLOCK as u64 {
                return Err(bad());
            }
            let mut block = [0; BLOCK];
            self.exactly(&mut block, at)?;
            self.unread -= BLOCK as u64;
            for byte in block {
                if wanted.is_some_and(|wanted| numbers.len() >= wanted) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let number = decimal(&line).ok_or_else(bad)?;
                line.clear();
                if wanted.is_some() {
                    numbers.push(number);
                } else {
                    let count = usize::try_from(number).ok().filter(|n| *n <= MAX_SPARSE_SEGMENTS).ok_or_else(bad)?;
                    wanted = Some(count * 2);
                }
            }
            if line.len() > 20 {
                return Err(bad());
            }
        }
        Ok(numbers)
    }
}

/// Segments must be in order, apart, inside the file, and hold exactly the stored bytes.
pub(super) fn check(segments: &[(u64, u64)], real: u64, stored: u64, at: u64) -> Result<(), TarError> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for (start, len) in segments {
        let next = start.checked_add(*len).ok_or(TarError::SparseMap { at })?;
        if *start < end || next > real {
            return Err(TarError::SparseMap { at });
        }
        end = next;
        sum += len;
    }
    if sum == stored { Ok(()) } else { Err(TarError::SparseMap { at }) }
}
