//! Reading a log within its bounds.

use crate::bytes::Bytes;
use crate::tpm::Hash;

/// Longest log that is read, in bytes; firmware sets 64 to 256 KiB aside.
pub const MAX_LOG: usize = 1024 * 1024;
/// Most events that are read.
const MAX_EVENTS: usize = 16 * 1024;
/// Most hash algorithms of a log.
const MAX_ALGORITHMS: u32 = 8;
/// EV_NO_ACTION: nothing is extended.
pub(super) const NO_ACTION: u32 = 3;
const SPEC_ID: &[u8] = b"Spec ID Event03\0";

/// Why bytes are not an event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Longer than any log.
    #[error("event log has {0} bytes, more than {MAX_LOG}: give one log")]
    Length(usize),
    /// It does not begin as a crypto agile log does.
    #[error("event log does not begin with a Spec ID event: it is no crypto agile log")]
    Beginning,
    /// It ends inside of that event.
    #[error("event log ends inside event {0}: it was cut")]
    Short(usize),
    /// Algorithms that no log has.
    #[error("event log declares {0} hash algorithms, 1 to {MAX_ALGORITHMS} are read")]
    Algorithms(u32),
    /// An event with a digest that the log's beginning does not declare.
    #[error("event {event} has a digest of algorithm {algorithm:#06x}, which the log does not declare: refuse it")]
    Undeclared {
        /// Number of the event, from 1.
        event: usize,
        /// The algorithm.
        algorithm: u16,
    },
    /// An event without a digest for each algorithm.
    #[error("event {event} has {found} digests instead of {expected}: refuse it")]
    Digests {
        /// Number of the event, from 1.
        event: usize,
        /// How many it has.
        found: u32,
        /// How many algorithms the log declares.
        expected: usize,
    },
    /// More events than are read.
    #[error("event log has more than {MAX_EVENTS} events: refuse it")]
    Events,
    /// Something other than padding behind the last event.
    #[error("event log has other bytes than padding behind event {0}: refuse it")]
    Rest(usize),
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The register: a PCR, or in a CC log 1 to 4 for RTMR0 to RTMR3.
    pub register: u32,
    /// Type of the event.
    pub kind: u32,
    /// What was extended, by the number of the algorithm.
    pub digests: Vec<(u16, Vec<u8>)>,
    /// What the event says; for most types not what was hashed.
    pub data: Vec<u8>,
}

impl Event {
    /// What was extended into the bank.
    pub fn digest(&self, bank: Hash) -> Option<&[u8]> {
        self.digests.iter().find(|(algorithm, _)| *algorithm == bank.number()).map(|(_, digest)| digest.as_slice())
    }
}

/// A log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The algorithms and the length of their digests in bytes.
    pub algorithms: Vec<(u16, usize)>,
    /// The events behind the first one.
    pub events: Vec<Event>,
}

impl Log {
    /// Reads a log. Behind the last event there may be padding: bytes that are all 0xFF or all zero.
    ///
    /// # Errors
    /// Any [`LogError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, LogError> {
        if bytes.len() > MAX_LOG {
            return Err(LogError::Length(bytes.len()));
        }
        let mut from = Bytes::new(bytes);
        let algorithms = beginning(&mut from)?;
        let mut events = Vec::new();
        while !is_padding(&from) {
            if events.len() == MAX_EVENTS {
                return Err(LogError::Events);
            }
            events.push(event(&mut from, &algorithms, events.len().saturating_add(1))?);
        }
        let rest = from.slice(from.len()).unwrap_or_default();
        let all = |value: u8| rest.iter().all(|&byte| byte == value);
        if all(0xFF) || all(0) { Ok(Self { algorithms, events }) } else { Err(LogError::Rest(events.len())) }
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        if let Ok(log) = Self::parse(data) {
            let banks: Vec<Hash> = log.algorithms.iter().filter_map(|(number, _)| Hash::of(*number)).collect();
            for bank in banks {
                let _ = (super::replay(&log, bank), super::boot_chain(&log, bank));
                for event in &log.events {
                    let _ = super::explain(event, bank);
                }
            }
        }
        let _ = acpi_table(data);
    }
}

/// TCG_PCClientPCREvent with a TCG_EfiSpecIdEvent.
fn beginning(from: &mut Bytes<'_>) -> Result<Vec<(u16, usize)>, LogError> {
    const WRONG: LogError = LogError::Beginning;
    from.u32_le().ok_or(WRONG)?;
    let kind = from.u32_le().ok_or(WRONG)?;
    let digest: [u8; 20] = from.array().ok_or(WRONG)?;
    let length = from.u32_le().and_then(|length| usize::try_from(length).ok()).ok_or(WRONG)?;
    let mut data = Bytes::new(from.slice(length).ok_or(WRONG)?);
    if kind != NO_ACTION || digest != [0; 20] || data.slice(SPEC_ID.len()) != Some(SPEC_ID) {
        return Err(WRONG);
    }
    // Platform class, minor, major, errata, size of a UINTN.
    data.slice(4 + 4).ok_or(WRONG)?;
    let count = data.u32_le().ok_or(WRONG)?;
    if count == 0 || count > MAX_ALGORITHMS {
        return Err(LogError::Algorithms(count));
    }
    let mut algorithms = Vec::new();
    for _ in 0..count {
        let (algorithm, length) = (data.u16_le().ok_or(WRONG)?, data.u16_le().ok_or(WRONG)?);
        let known = Hash::of(algorithm).is_none_or(|hash| hash.size() == usize::from(length));
        if !known || length > 64 || algorithms.iter().any(|(other, _)| *other == algorithm) {
            return Err(WRONG);
        }
        algorithms.push((algorithm, usize::from(length)));
    }
    let [vendor] = data.array().ok_or(WRONG)?;
    data.slice(usize::from(vendor)).ok_or(WRONG)?;
    if data.len() == 0 { Ok(algorithms) } else { Err(WRONG) }
}

/// No register has this number: firmware fills the log's memory with such bytes.
fn is_padding(from: &Bytes<'_>) -> bool {
    let mut ahead = *from;
    match (ahead.len(), ahead.u32_le(), ahead.u32_le(), ahead.u32_le()) {
        (0..=11, ..) | (_, Some(u32::MAX), ..) => true,
        // A log of zeros: an event of type 0 without any digest.
        (_, Some(0), Some(0), Some(0)) => true,
        _ => false,
    }
}

/// TCG_PCR_EVENT2.
fn event(from: &mut Bytes<'_>, algorithms: &[(u16, usize)], number: usize) -> Result<Event, LogError> {
    let short = LogError::Short(number);
    let (register, kind) = (from.u32_le().ok_or(short)?, from.u32_le().ok_or(short)?);
    let count = from.u32_le().ok_or(short)?;
    if usize::try_from(count) != Ok(algorithms.len()) {
        return Err(LogError::Digests { event: number, found: count, expected: algorithms.len() });
    }
    let mut digests: Vec<(u16, Vec<u8>)> = Vec::new();
    for _ in 0..count {
        let algorithm = from.u16_le().ok_or(short)?;
        let declared = algorithms.iter().find(|(known, _)| *known == algorithm);
        let Some((_, length)) = declared.filter(|_| digests.iter().all(|(other, _)| *other != algorithm)) else {
            return Err(LogError::Undeclared { event: number, algorithm });
        };
        digests.push((algorithm, from.slice(*length).ok_or(short)?.to_vec()));
    }
    let length = from.u32_le().and_then(|length| usize::try_from(length).ok()).ok_or(short)?;
    let data = from.slice(length).ok_or(short)?.to_vec();
    Ok(Event { register, kind, digests, data })
}

/// The ACPI table that says where a CC event log lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiTable {
    /// 1: AMD SEV, 2: Intel TDX.
    pub cc_type: u8,
    /// Subtype of it.
    pub cc_subtype: u8,
    /// Length of the log's memory in bytes.
    pub log_length: u64,
    /// Its address.
    pub log_address: u64,
}

/// Reads a CCEL table: 56 bytes, whose sum is zero. `None` when it is none.
pub fn acpi_table(bytes: &[u8]) -> Option<AcpiTable> {
    let mut from = Bytes::new(bytes);
    (from.slice(4)? == b"CCEL").then_some(())?;
    let length = usize::try_from(from.u32_le()?).ok()?;
    if length != 56 || bytes.len() != length || bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)) != 0 {
        return None;
    }
    // Revision, checksum, OEM id, table id and revision, creator and its revision.
    from.slice(1 + 1 + 6 + 8 + 4 + 4 + 4)?;
    let ([cc_type], [cc_subtype]) = (from.array()?, from.array()?);
    from.slice(2)?;
    let (log_length, log_address) = (from.array().map(u64::from_le_bytes)?, from.array().map(u64::from_le_bytes)?);
    Some(AcpiTable { cc_type, cc_subtype, log_length, log_address })
}
