//! The quote: what a TPM says about its registers.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::bytes::Bytes;

/// Longest quote that is read, in bytes; real ones have 140 to 200.
const MAX_QUOTE: usize = 2048;
/// Registers of a bank.
const REGISTERS: u8 = 24;
/// Most banks that a selection names.
const MAX_BANKS: u32 = 8;
const TPM_GENERATED: u32 = 0xFF54_4347;
const ATTEST_QUOTE: u16 = 0x8018;

/// Why bytes are not a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// Longer than any quote.
    #[error("tpm quote has {0} bytes, more than {MAX_QUOTE}: give the message alone")]
    Length(usize),
    /// It does not begin with TPM_GENERATED_VALUE: no TPM made it.
    #[error("tpm quote begins with {0:#010x} instead of 0xff544347: no tpm made it, refuse it")]
    Magic(u32),
    /// It ends inside of that part.
    #[error("tpm quote ends inside its {0}: it was cut")]
    Short(&'static str),
    /// A list of banks that no TPM has.
    #[error("tpm quote selects {0} banks, more than {MAX_BANKS}: refuse it")]
    Banks(u32),
    /// A register that no TPM of a PC has.
    #[error("tpm quote selects a register above 23: refuse it")]
    Register,
}

/// The TPM's clock at the time of the quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds that the TPM was powered.
    pub clock: u64,
    /// Resets of the TPM.
    pub reset_count: u32,
    /// Resumes since the last reset.
    pub restart_count: u32,
    /// Whether the clock cannot have gone back.
    pub safe: u8,
}

/// Registers of one bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Number of the bank's hash algorithm.
    pub algorithm: u16,
    /// The registers, ascending.
    pub registers: Vec<u8>,
}

/// An attestation of a TPM; a quote when [`Quote::is_quote`].
///
/// Serialises to an object; bytes are lowercase hex, the type and the firmware version hex numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// 0x8018 for a quote.
    pub kind: u16,
    /// Name of the key that signed it.
    pub qualified_signer: Vec<u8>,
    /// What the caller had included: the nonce.
    pub extra_data: Vec<u8>,
    /// The TPM's clock.
    pub clock: ClockInfo,
    /// The TPM's firmware.
    pub firmware_version: u64,
    /// Which registers it is about; empty when it is no quote.
    pub selection: Vec<Selection>,
    /// Digest of these registers.
    pub pcr_digest: Vec<u8>,
    /// How many bytes follow; a verified quote has none.
    pub trailing: usize,
    raw: Vec<u8>,
}

impl Quote {
    /// Reads an attestation. One of another type than a quote is read up to what it is about.
    ///
    /// # Errors
    /// Any [`QuoteError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE {
            return Err(QuoteError::Length(bytes.len()));
        }
        let mut from = Bytes::new(bytes);
        let magic = from.u32_be().ok_or(QuoteError::Short("magic"))?;
        if magic != TPM_GENERATED {
            return Err(QuoteError::Magic(magic));
        }
        let kind = from.u16_be().ok_or(QuoteError::Short("type"))?;
        let qualified_signer = sized(&mut from).ok_or(QuoteError::Short("signer"))?;
        let extra_data = sized(&mut from).ok_or(QuoteError::Short("qualifying data"))?;
        let clock = clock(&mut from).ok_or(QuoteError::Short("clock"))?;
        let firmware_version = from.u64_be().ok_or(QuoteError::Short("firmware version"))?;
        let (mut selection, mut pcr_digest) = (Vec::new(), Vec::new());
        if kind == ATTEST_QUOTE {
            selection = selections(&mut from)?;
            pcr_digest = sized(&mut from).ok_or(QuoteError::Short("digest"))?;
        }
        let trailing = if kind == ATTEST_QUOTE { from.len() } else { 0 };
        Ok(Self {
            kind,
            qualified_signer,
            extra_data,
            clock,
            firmware_version,
            selection,
            pcr_digest,
            trailing,
            raw: bytes.to_vec(),
        })
    }

    /// Whether it is a quote and no other attestation.
    pub fn is_quote(&self) -> bool {
        self.kind == ATTEST_QUOTE
    }

    /// The bytes that are signed: all of them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.raw
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::parse(data);
    }
}

impl Serialize for Quote {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("magic", &hex::encode(TPM_GENERATED.to_be_bytes()))?;
        map.serialize_entry("type", &format!("{:#06x}", self.kind))?;
        map.serialize_entry("qualified_signer", &hex::encode(&self.qualified_signer))?;
        map.serialize_entry("extra_data", &hex::encode(&self.extra_data))?;
        map.serialize_entry("clock", &self.clock.clock)?;
        map.serialize_entry("reset_count", &self.clock.reset_count)?;
        map.serialize_entry("restart_count", &self.clock.restart_count)?;
        map.serialize_entry("safe", &self.clock.safe)?;
        map.serialize_entry("firmware_version", &format!("{:#018x}", self.firmware_version))?;
        if self.is_quote() {
            map.serialize_entry("pcr_select", &self.selection)?;
            map.serialize_entry("pcr_digest", &hex::encode(&self.pcr_digest))?;
            map.serialize_entry("trailing", &self.trailing)?;
        }
        map.end()
    }
}

impl Serialize for Selection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("alg", &format!("{:#06x}", self.algorithm))?;
        map.serialize_entry("pcrs", &self.registers)?;
        map.end()
    }
}

/// A TPM2B: a length of two bytes, and as many bytes.
pub(super) fn sized(from: &mut Bytes<'_>) -> Option<Vec<u8>> {
    let length = from.u16_be()?;
    from.slice(usize::from(length)).map(<[u8]>::to_vec)
}

fn clock(from: &mut Bytes<'_>) -> Option<ClockInfo> {
    let (clock, reset_count, restart_count) = (from.u64_be()?, from.u32_be()?, from.u32_be()?);
    let [safe] = from.array()?;
    Some(ClockInfo { clock, reset_count, restart_count, safe })
}

fn selections(from: &mut Bytes<'_>) -> Result<Vec<Selection>, QuoteError> {
    const PART: QuoteError = QuoteError::Short("selection of registers");
    let count = from.u32_be().ok_or(PART)?;
    if count > MAX_BANKS {
        return Err(QuoteError::Banks(count));
    }
    let mut all = Vec::new();
    for _ in 0..count {
        let algorithm = from.u16_be().ok_or(PART)?;
        let [length] = from.array().ok_or(PART)?;
        let bitmap = from.slice(usize::from(length)).ok_or(PART)?;
        let mut registers = Vec::new();
        for (byte, first) in bitmap.iter().zip((0..=u8::MAX).step_by(8)) {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                let register = first.saturating_add(bit);
                if register >= REGISTERS {
                    return Err(QuoteError::Register);
                }
                registers.push(register);
            }
        }
        // A bitmap longer than 256 registers would be cut by the zip above.
        if bitmap.iter().skip(32).any(|&byte| byte != 0) {
            return Err(QuoteError::Register);
        }
        all.push(Selection { algorithm, registers });
    }
    Ok(all)
}
