//! How initdata travels: as a small read-only block device (`"initdata"` ‖ u64 little-endian length ‖ gzip, then zeros
//! up to a sector), and as the pod annotation `io.katacontainers.config.hypervisor.cc_init_data` (standard base64 of
//! gzip). Both are untrusted transport; the digest decides.

use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder, bufread::GzDecoder};

use crate::error::{InitdataError, one_line};
use crate::initdata::MAX_INITDATA;

/// The pod annotation that carries initdata.
pub const ANNOTATION: &str = "io.katacontainers.config.hypervisor.cc_init_data";
const MAGIC: &[u8; 8] = b"initdata";
const HEADER: usize = 16;
const SECTOR: usize = 512;
/// Largest compressed form in bytes: incompressible data grows by a few bytes per block.
pub const MAX_COMPRESSED: usize = MAX_INITDATA + 4096;
/// Largest disk in bytes.
pub const MAX_DISK: usize = HEADER + MAX_COMPRESSED + SECTOR;

/// The content of an initdata disk, a multiple of 512 bytes. The same document gives the same bytes.
pub fn encode_disk(raw: &[u8]) -> Vec<u8> {
    let compressed = gzip(raw);
    let length = u64::try_from(compressed.len()).unwrap_or(u64::MAX);
    let mut disk = Vec::with_capacity(HEADER + compressed.len() + SECTOR);
    disk.extend_from_slice(MAGIC);
    disk.extend_from_slice(&length.to_le_bytes());
    disk.extend_from_slice(&compressed);
    disk.resize(disk.len().next_multiple_of(SECTOR), 0);
    disk
}

/// The raw document on an initdata disk.
///
/// # Errors
/// [`InitdataError`]: no magic, cut short, anything but zeros behind the content, damaged gzip, or a document above
/// [`MAX_INITDATA`] bytes (decompression stops there).
pub fn decode_disk(disk: &[u8]) -> Result<Vec<u8>, InitdataError> {
    let (magic, rest) = disk.split_first_chunk::<8>().ok_or(InitdataError::NoMagic)?;
    if magic != MAGIC {
        return Err(InitdataError::NoMagic);
    }
    let found = u64::try_from(disk.len()).unwrap_or(u64::MAX);
    let (length, rest) = rest.split_first_chunk::<8>().ok_or(InitdataError::Truncated { needed: 16, found })?;
    let declared = u64::from_le_bytes(*length);
    let length = usize::try_from(declared).ok().filter(|length| *length <= MAX_COMPRESSED);
    let length = length.ok_or(InitdataError::TooLarge { limit: MAX_COMPRESSED })?;
    let (compressed, padding) =
        rest.split_at_checked(length).ok_or(InitdataError::Truncated { needed: declared.saturating_add(16), found })?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(InitdataError::Trailing);
    }
    gunzip(compressed)
}

/// The value of the pod annotation [`ANNOTATION`].
pub fn to_annotation(raw: &[u8]) -> String {
    STANDARD.encode(gzip(raw))
}

/// The raw document in a pod annotation.
///
/// # Errors
/// [`InitdataError`]: not base64, damaged gzip, or too large.
pub fn from_annotation(value: &str) -> Result<Vec<u8>, InitdataError> {
    if value.len() > MAX_COMPRESSED.div_ceil(3) * 4 {
        return Err(InitdataError::TooLarge { limit: MAX_COMPRESSED });
    }
    let compressed =
        STANDARD.decode(value).map_err(|error| InitdataError::Base64 { message: one_line(&error.to_string()) })?;
    gunzip(&compressed)
}

/// Decodes any bytes as a disk and as an annotation; for fuzzing.
pub fn fuzz(data: &[u8]) {
    for raw in [decode_disk(data).ok(), std::str::from_utf8(data).ok().and_then(|text| from_annotation(text).ok())] {
        let Some(raw) = raw else { continue };
        assert_eq!(decode_disk(&encode_disk(&raw)).as_ref(), Ok(&raw), "a disk changes its document");
    }
}

/// One gzip member without time, name or system, so that equal input gives equal bytes.
fn gzip(raw: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    // Writing into a Vec cannot fail; were it to, the reader would refuse the cut stream.
    let _ = encoder.write_all(raw);
    encoder.finish().unwrap_or_default()
}

fn gunzip(compressed: &[u8]) -> Result<Vec<u8>, InitdataError> {
    let bound = u64::try_from(MAX_INITDATA).unwrap_or(u64::MAX);
    let mut decoder = GzDecoder::new(compressed).take(bound.saturating_add(1));
    let mut raw = Vec::new();
    decoder.read_to_end(&mut raw).map_err(|error| InitdataError::Gzip { message: one_line(&error.to_string()) })?;
    if raw.len() > MAX_INITDATA {
        return Err(InitdataError::TooLarge { limit: MAX_INITDATA });
    }
    if !decoder.into_inner().into_inner().is_empty() {
        return Err(InitdataError::Trailing);
    }
    Ok(raw)
}
