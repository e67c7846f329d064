//! A TDX quote, as far as the guest looks into it.
//!
//! Layout: Intel TDX DCAP Quoting Library API, appendix 3 ("TD quote format"): header of 48 bytes; version 4 continues with
//! the TD report body of 584 bytes; version 5 with u16 body type, u32 body size, and the body (type 2: 584 bytes, type 3:
//! 648 bytes with the same first 584). Both end with u32 length and signature data. Integers are little-endian.

use thiserror::Error;

const HEADER: usize = 48;
const BODY_10: usize = 584;
const BODY_15: usize = 648;
/// Largest quote that is read.
pub const MAX_QUOTE: usize = 64 * 1024;

/// Why bytes are no TD quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// Ends early, or is larger than 64 KiB, or has bytes behind the signature.
    #[error("quote of {found} bytes has no sound length")]
    Length {
        /// Length of the input.
        found: usize,
    },
    /// Neither version 4 nor 5.
    #[error("quote version {found} is not supported, expected 4 or 5")]
    Version {
        /// Its version.
        found: u16,
    },
    /// A quote of another TEE (TDX is 0x81).
    #[error("quote is of tee type {found:#x}, expected 0x81 (tdx)")]
    TeeType {
        /// Its TEE type.
        found: u32,
    },
    /// A body that is no TD report of 1.0 or 1.5, or has another size than its type.
    #[error("quote body of type {kind} and {size} bytes is not a td report")]
    Body {
        /// Its type.
        kind: u16,
        /// Its size.
        size: u32,
    },
}

/// The fields that the guest compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// MRCONFIGID, offset 184 of the body: set by the host at launch, here the digest of the initdata.
    pub mrconfigid: [u8; 48],
    /// REPORTDATA, offset 520 of the body.
    pub report_data: [u8; 64],
}

impl Quote {
    /// Reads a quote. Zeros behind the signature data are allowed: quoting services pad to their buffer.
    pub fn parse(quote: &[u8]) -> Result<Self, QuoteError> {
        let length = QuoteError::Length { found: quote.len() };
        if quote.len() > MAX_QUOTE {
            return Err(length);
        }
        let (header, rest) = quote.split_at_checked(HEADER).ok_or(length)?;
        let [v0, v1, _, _, t0, t1, t2, t3, ..] = *header else { return Err(length) };
        let version = u16::from_le_bytes([v0, v1]);
        let tee_type = u32::from_le_bytes([t0, t1, t2, t3]);
        if !(4..=5).contains(&version) {
            return Err(QuoteError::Version { found: version });
        }
        if tee_type != 0x81 {
            return Err(QuoteError::TeeType { found: tee_type });
        }
        let (size, rest) = match version {
            4 => (BODY_10, rest),
            _ => {
                let ([k0, k1, s0, s1, s2, s3], rest) = rest.split_first_chunk::<6>().ok_or(length)?;
                let (kind, size) = (u16::from_le_bytes([*k0, *k1]), u32::from_le_bytes([*s0, *s1, *s2, *s3]));
                match (kind, usize::try_from(size)) {
                    (2, Ok(BODY_10)) => (BODY_10, rest),
                    (3, Ok(BODY_15)) => (BODY_15, rest),
                    _ => return Err(QuoteError::Body { kind, size }),
                }
            }
        };
        let (body, rest) = rest.split_at_checked(size).ok_or(length)?;
        let (signature_len, rest) = rest.split_first_chunk::<4>().ok_or(length)?;
        let signature_len = usize::try_from(u32::from_le_bytes(*signature_len)).unwrap_or(usize::MAX);
        let (_, padding) = rest.split_at_checked(signature_len).ok_or(length)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(length);
        }
        let mrconfigid = body.get(184..).and_then(<[u8]>::first_chunk);
        let report_data = body.get(520..).and_then(<[u8]>::first_chunk);
        Ok(Self { mrconfigid: *mrconfigid.ok_or(length)?, report_data: *report_data.ok_or(length)? })
    }
}

/// Entry for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = Quote::parse(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quote(version: u8, kind: u16, size: usize) -> Vec<u8> {
        let mut quote = vec![0; HEADER];
        quote[0] = version;
        quote[4] = 0x81;
        if version == 5 {
            quote.extend(kind.to_le_bytes());
            quote.extend(u32::try_from(size).unwrap().to_le_bytes());
        }
        let mut body = vec![1; size];
        body[184..232].fill(0xC1);
        body[520..584].fill(0xDA);
        quote.extend(body);
        quote.extend(10u32.to_le_bytes());
        quote.extend([5; 10]);
        quote
    }

    #[test]
    fn both_versions_have_the_fields_at_the_same_place_of_the_body() {
        let expected = Quote { mrconfigid: [0xC1; 48], report_data: [0xDA; 64] };
        assert_eq!(Quote::parse(&quote(4, 0, BODY_10)), Ok(expected));
        assert_eq!(Quote::parse(&quote(5, 2, BODY_10)), Ok(expected));
        assert_eq!(Quote::parse(&quote(5, 3, BODY_15)), Ok(expected));
        assert_eq!(Quote::parse(&[quote(4, 0, BODY_10), vec![0; 30]].concat()), Ok(expected));
    }

    #[test]
    fn each_wrong_field_is_named() {
        assert_eq!(Quote::parse(&quote(3, 0, BODY_10)), Err(QuoteError::Version { found: 3 }));
        assert_eq!(Quote::parse(&quote(5, 1, BODY_10)), Err(QuoteError::Body { kind: 1, size: 584 }));
        assert_eq!(Quote::parse(&quote(5, 3, BODY_10)), Err(QuoteError::Body { kind: 3, size: 584 }));
        let mut sgx = quote(4, 0, BODY_10);
        sgx[4] = 0;
        assert_eq!(Quote::parse(&sgx), Err(QuoteError::TeeType { found: 0 }));
        let whole = quote(4, 0, BODY_10);
        let found = whole.len() - 1;
        assert_eq!(Quote::parse(&whole[..found]), Err(QuoteError::Length { found }));
        let found = whole.len() + 1;
        assert_eq!(Quote::parse(&[whole, vec![1]].concat()), Err(QuoteError::Length { found }));
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(data in proptest::collection::vec(any::<u8>(), 0..800), cut in 0usize..700) {
            fuzz(&data);
            let mut whole = quote(5, 3, BODY_15);
            whole.truncate(cut);
            prop_assert!(Quote::parse(&whole).is_err());
        }
    }
}
