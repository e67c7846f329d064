//! AMD's shape: ARK, ASK or ASVK with RSA-4096, VCEK or VLEK on P-384, revocation lists, reports, ID blocks.

mod cert;
mod id_block;
mod keys;
mod list;
mod report;

pub use cert::{Cert, Padding, amd, extension};
pub use id_block::{IdBlock, key_digest};
pub use keys::Keys;
pub use list::List;
pub use report::{Report, sign};

pub use crate::NOW;

/// TCB of Milan's VEK and reports.
pub const TCB: [u8; 8] = [4, 1, 0, 0, 0, 0, 24, 219];
/// Chip of VCEKs and of reports; Turin has the first 8 bytes.
pub const CHIP: [u8; 64] = [0xC4; 64];

/// A product line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004, and what has certificates of that line.
    Genoa,
    /// EPYC 9005: another layout of the TCB, and a chip id of 8 bytes.
    Turin,
}

impl Product {
    /// TCB of endorsement keys and of reports, in the line's layout.
    pub fn tcb(self) -> [u8; 8] {
        match self {
            Self::Milan | Self::Genoa => TCB,
            Self::Turin => [7, 4, 1, 24, 0, 0, 0, 219],
        }
    }

    /// Family, model and stepping of a processor.
    pub fn cpuid(self) -> [u8; 3] {
        match self {
            Self::Milan => [0x19, 0x01, 0x01],
            Self::Genoa => [0x19, 0x11, 0x01],
            Self::Turin => [0x1A, 0x02, 0x01],
        }
    }

    /// Product name of endorsement keys' certificates.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan-B0",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// Chip id as certificates have it.
    pub fn hw_id(self) -> &'static [u8] {
        if self == Self::Turin { &CHIP[..8] } else { &CHIP }
    }
}
