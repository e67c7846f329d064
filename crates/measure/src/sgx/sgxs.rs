//! The measurement of an enclave from the records of its loading.

use aws_lc_rs::digest::{Context, SHA256};

use crate::file::sha256;

const RECORD: usize = 64;
const PAGE: u64 = 4096;
const CHUNK: usize = 256;

/// Why bytes are not the records of an enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SgxsError {
    /// It does not begin with ECREATE.
    #[error("not a .sgxs file: it does not begin with ECREATE")]
    Beginning,
    /// It ends inside of a record.
    #[error("record {0} of the .sgxs file is cut")]
    Short(usize),
    /// A record of no known kind.
    #[error("record {0} of the .sgxs file is neither EADD nor EEXTEND nor UNMEASRD")]
    Kind(usize),
    /// A record that the processor would not take.
    #[error("record {number} of the .sgxs file has {what}: the processor refuses such an enclave")]
    Refused {
        /// Number of the record, from 1.
        number: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// MRENCLAVE of an enclave in the SGXS format: SHA-256 over its records as the processor measures them. Records
/// `UNMEASRD` (data that is loaded and not measured) are left out.
///
/// # Errors
/// Any [`SgxsError`].
pub fn enclave_hash(bytes: &[u8]) -> Result<[u8; 32], SgxsError> {
    let mut context = Context::new(&SHA256);
    let mut rest = bytes;
    let mut size = None;
    let mut number = 0_usize;
    while !rest.is_empty() {
        number = number.saturating_add(1);
        let (record, after) = rest.split_first_chunk::<RECORD>().ok_or(SgxsError::Short(number))?;
        rest = after;
        let refused = |what| SgxsError::Refused { number, what };
        let (tag, offset) = (record.first_chunk::<8>().copied().unwrap_or_default(), word(record, 8));
        match (&tag, size) {
            (b"ECREATE\0", None) => {
                let claimed = word(record, 12);
                if claimed < 2 * PAGE || !claimed.is_power_of_two() {
                    return Err(refused("a size that is no power of two of pages"));
                }
                size = Some(claimed);
                context.update(record);
            }
            (_, None) => return Err(SgxsError::Beginning),
            (b"EADD\0\0\0\0", Some(size)) => {
                if offset % PAGE != 0 || offset >= size {
                    return Err(refused("an offset that is no page of the enclave"));
                }
                context.update(record);
            }
            (b"EEXTEND\0" | b"UNMEASRD", Some(size)) => {
                if offset % 256 != 0 || offset >= size {
                    return Err(refused("an offset that is no chunk of the enclave"));
                }
                let (data, after) = rest.split_first_chunk::<CHUNK>().ok_or(SgxsError::Short(number))?;
                rest = after;
                if &tag == b"EEXTEND\0" {
                    context.update(record);
                    context.update(data);
                }
            }
            _ => return Err(SgxsError::Kind(number)),
        }
    }
    if size.is_none() { Err(SgxsError::Beginning) } else { Ok(sha256(&context.finish())) }
}

fn word(record: &[u8; RECORD], at: usize) -> u64 {
    let bytes = record.get(at..).and_then(|bytes| bytes.first_chunk::<8>()).copied().unwrap_or_default();
    u64::from_le_bytes(bytes)
}
