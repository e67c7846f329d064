//! The certificate table of the extended guest request: entries of `GUID[16] ‖ u32 LE offset ‖ u32 LE length`, closed by
//! a zero GUID, then the certificates. GHCB specification (AMD 56421), §4.1.8.1.

use super::{CertEntry, CertType, MAX_CERTIFICATE, MAX_CERTIFICATES};

/// Longest table, in bytes.
pub const MAX_TABLE: usize = 64 * 1024;
const ENTRY: usize = 24;

/// Why a certificate table is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Longer than 64 KiB.
    #[error("{0} bytes are longer than {MAX_TABLE}")]
    TooLong(usize),
    /// No closing entry.
    #[error("no closing entry")]
    NotClosed,
    /// More entries than a chain may have.
    #[error("more than {MAX_CERTIFICATES} entries")]
    TooManyEntries,
    /// An entry points outside of the table, or into its entries, or is too long.
    #[error("entry {0} lies outside of the table or is longer than {MAX_CERTIFICATE} bytes")]
    Outside(usize),
}

/// Reads a table; nothing at all is an empty one. Padding behind the certificates (the kernel gives whole pages) is
/// allowed.
pub fn parse(table: &[u8]) -> Result<Vec<CertEntry>, TableError> {
    if table.is_empty() {
        return Ok(Vec::new());
    }
    if table.len() > MAX_TABLE {
        return Err(TableError::TooLong(table.len()));
    }
    let closing = |entry: &[u8]| entry.iter().take(16).all(|byte| *byte == 0);
    let entries: Vec<&[u8]> = table.chunks_exact(ENTRY).take_while(|entry| !closing(entry)).collect();
    let header = (entries.len() + 1) * ENTRY;
    if header > table.len() {
        return Err(TableError::NotClosed);
    }
    if entries.len() > MAX_CERTIFICATES {
        return Err(TableError::TooManyEntries);
    }
    let one = |(index, entry): (usize, &&[u8])| {
        let outside = TableError::Outside(index);
        let (guid, rest) = entry.split_first_chunk::<16>().ok_or(TableError::NotClosed)?;
        let (offset, rest) = rest.split_first_chunk::<4>().ok_or(TableError::NotClosed)?;
        let (length, _) = rest.split_first_chunk::<4>().ok_or(TableError::NotClosed)?;
        let number = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).unwrap_or(usize::MAX);
        let (offset, length) = (number(offset), number(length));
        if offset < header || length > MAX_CERTIFICATE {
            return Err(outside);
        }
        let data = offset.checked_add(length).and_then(|end| table.get(offset..end)).ok_or(outside)?;
        Ok(CertEntry { cert_type: cert_type(guid), data: data.to_vec() })
    };
    entries.iter().enumerate().map(one).collect()
}

fn cert_type(guid: &[u8; 16]) -> CertType {
    let text = hex::encode(guid);
    match text.as_str() {
        "c0b406a4a803495297433fb6014cd0ae" => CertType::ARK,
        "4ab7b379bbac4fe4a02f05aef327c782" => CertType::ASK,
        "63da758de6644564adc5f4b93be8accd" => CertType::VCEK,
        "a8074bc2a25a483eaae639c045a0b8a1" => CertType::VLEK,
        "92f81bc358114d3d97ffd19f88dc67ea" => CertType::CRL,
        _ => {
            let mut dashed = String::with_capacity(36);
            for (index, c) in text.chars().enumerate() {
                if matches!(index, 8 | 12 | 16 | 20) {
                    dashed.push('-');
                }
                dashed.push(c);
            }
            CertType::OTHER(dashed)
        }
    }
}
