//! TPM 2.0: quotes, who signed them, and the platform configuration registers that they are about.
//!
//! | item | source |
//! |---|---|
//! | [`Quote`] | TPM 2.0 Library Specification, part 2 "Structures": TPMS_ATTEST, TPMS_QUOTE_INFO |
//! | [`Signature`] | the same: TPMT_SIGNATURE |
//! | [`PublicKey`] | the same: TPM2B_PUBLIC, TPMT_PUBLIC; RFC 5280 SubjectPublicKeyInfo; RFC 7517 JWK |
//! | [`certificate`] | TCG EK Credential Profile; RFC 5280 |
//! | [`credential`] | part 1 "Architecture", "Credential Protection"; part 3, TPM2_MakeCredential |

mod attest;
pub mod certificate;
pub mod credential;
mod key;
mod pcrs;
mod signature;
mod verify;

pub use attest::{ClockInfo, Quote, QuoteError, Selection};
pub use key::{KeyError, PublicKey};
pub use pcrs::{Pcrs, PcrsError};
pub use signature::{Scheme, Signature, SignatureError};
pub use verify::{AkTrust, Facts, Options, verify};
pub(crate) use verify::{Names, checks_of_quote};

/// Hash algorithm of a bank of registers (TCG Algorithm Registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hash {
    /// 0x0004; in event logs only, and in no verdict.
    Sha1,
    /// 0x000B
    Sha256,
    /// 0x000C
    Sha384,
    /// 0x000D
    Sha512,
}

impl Hash {
    /// The algorithm of that number; `None` when it is not one of these.
    pub fn of(algorithm: u16) -> Option<Self> {
        match algorithm {
            0x0004 => Some(Self::Sha1),
            0x000B => Some(Self::Sha256),
            0x000C => Some(Self::Sha384),
            0x000D => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Its number.
    pub fn number(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000B,
            Self::Sha384 => 0x000C,
            Self::Sha512 => 0x000D,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of a digest in bytes.
    pub fn size(self) -> usize {
        self.algorithm().output_len()
    }

    /// The digest of the parts, one after the other.
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = aws_lc_rs::digest::Context::new(self.algorithm());
        for part in parts {
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }

    fn algorithm(self) -> &'static aws_lc_rs::digest::Algorithm {
        match self {
            Self::Sha1 => &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &aws_lc_rs::digest::SHA256,
            Self::Sha384 => &aws_lc_rs::digest::SHA384,
            Self::Sha512 => &aws_lc_rs::digest::SHA512,
        }
    }
}
