//! What the registers hold after all events of a log.

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::parse::{Log, NO_ACTION};
use crate::tpm::{Hash, Pcrs};
use crate::verdict::{Check, Outcome};

/// Startup locality event: the first register does not begin with zeros.
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";
/// Registers of a PC's bank.
const REGISTERS: u32 = 24;

/// Values of the registers that a log extends.
///
/// Serialises to an object of the registers' numbers, lowercase hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The bank.
    pub hash: Hash,
    values: BTreeMap<u32, Vec<u8>>,
}

impl Registers {
    /// One value; `None` for a register that the log does not extend.
    pub fn get(&self, register: u32) -> Option<&[u8]> {
        self.values.get(&register).map(Vec::as_slice)
    }

    /// The values of a CC log: RTMR0 to RTMR3, zeros where the log extends nothing.
    pub fn rtmrs(&self) -> Vec<Vec<u8>> {
        (1..=4).map(|index| self.values.get(&index).cloned().unwrap_or_else(|| vec![0; self.hash.size()])).collect()
    }

    /// The values as those of a TPM's bank; registers above 23 are left out.
    pub fn pcrs(&self) -> Pcrs {
        let mut pcrs = Pcrs::none(self.hash);
        for (register, value) in self.values.range(..REGISTERS) {
            // The register is below 24 and the value is a digest of the bank.
            if let Ok(register) = u8::try_from(*register) {
                let _ = pcrs.set(register, value.clone());
            }
        }
        pcrs
    }
}

impl Serialize for Registers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (register, value) in &self.values {
            map.serialize_entry(&register.to_string(), &hex::encode(value))?;
        }
        map.end()
    }
}

/// Extends zeros by each event of the log: register = H(register ‖ digest).
pub fn replay(log: &Log, bank: Hash) -> Registers {
    let mut values: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for event in &log.events {
        let Some(digest) = event.digest(bank) else { continue };
        if event.kind == NO_ACTION {
            if event.register == 0
                && let Some([locality]) = event.data.strip_prefix(STARTUP_LOCALITY)
            {
                let mut first = vec![0; bank.size().saturating_sub(1)];
                first.push(*locality);
                values.entry(0).or_insert(first);
            }
            continue;
        }
        let value = values.entry(event.register).or_insert_with(|| vec![0; bank.size()]);
        *value = bank.digest(&[value, digest]);
    }
    Registers { hash: bank, values }
}

/// The check `event-log` of a CC log: it can be read, its replay gives RTMR0 to RTMR3, and it has no event of another
/// register (MRTD is extended by nothing once a TD runs), which would stand there unproved.
pub fn check_rtmrs(log: &[u8], rtmrs: &[[u8; 48]; 4]) -> Check {
    match Log::parse(log) {
        Err(error) => failed(shown(rtmrs), error.to_string()),
        Ok(log) => check_rtmrs_of(&log, rtmrs),
    }
}

/// The same of a log that was read already.
pub fn check_rtmrs_of(log: &Log, rtmrs: &[[u8; 48]; 4]) -> Check {
    if !log.algorithms.iter().any(|(algorithm, _)| *algorithm == Hash::Sha384.number()) {
        return failed(shown(rtmrs), "a log without digests of sha384".to_owned());
    }
    if let Some(register) = unquoted(log) {
        return failed(shown(rtmrs), format!("an event that extends register {register}, which is no RTMR"));
    }
    let found = replay(log, Hash::Sha384).rtmrs();
    let found = found.iter().map(hex::encode).collect::<Vec<_>>().join(" ");
    Check::same("event-log", shown(rtmrs), found)
}

fn shown(rtmrs: &[[u8; 48]; 4]) -> String {
    rtmrs.iter().map(hex::encode).collect::<Vec<_>>().join(" ")
}

/// The first register beyond RTMR0 to RTMR3 (1 to 4) that an event claims to extend.
fn unquoted(log: &Log) -> Option<u32> {
    let mut measured = log.events.iter().filter(|event| event.kind != NO_ACTION).map(|event| event.register);
    measured.find(|register| !(1..=4).contains(register))
}

/// The check `event-log` of a TPM's log: it can be read, and its replay gives each register that it extends and that
/// has a value here. It has to be about one of them at least.
pub fn check_pcrs(log: &[u8], pcrs: &Pcrs) -> Check {
    let log = match Log::parse(log) {
        Ok(log) => log,
        Err(error) => return failed("a log of these registers".to_owned(), error.to_string()),
    };
    let replayed = replay(&log, pcrs.hash);
    let both: Vec<(u8, &[u8], &[u8])> = pcrs
        .registers()
        .filter_map(|register| Some((register, pcrs.get(register)?, replayed.get(u32::from(register))?)))
        .collect();
    if both.is_empty() {
        return failed("a log of these registers".to_owned(), "it extends none of them".to_owned());
    }
    let named = |register: u8, value: &[u8]| format!("pcr{register:02} {}", hex::encode(value));
    let quoted: Vec<String> = both.iter().map(|(register, quoted, _)| named(*register, quoted)).collect();
    let replayed: Vec<String> = both.iter().map(|(register, _, replayed)| named(*register, replayed)).collect();
    Check::same("event-log", quoted.join(" "), replayed.join(" "))
}

fn failed(expected: String, found: String) -> Check {
    Check { name: "event-log", outcome: Outcome::Failed, expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that declares that bank, with one event for register 1.
    fn log(bank: Hash) -> Vec<u8> {
        let spec = [
            b"Spec ID Event03\0".to_vec(),
            vec![0; 8],
            1_u32.to_le_bytes().to_vec(),
            bank.number().to_le_bytes().to_vec(),
            u16::try_from(bank.size()).unwrap().to_le_bytes().to_vec(),
            vec![0],
        ]
        .concat();
        let first =
            [[0, 0, 0, 0, 3, 0, 0, 0].to_vec(), vec![0; 20], vec![u8::try_from(spec.len()).unwrap(), 0, 0, 0], spec];
        let event = [
            vec![1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0],
            bank.number().to_le_bytes().to_vec(),
            vec![7; bank.size()],
            vec![0; 4],
        ];
        [first.concat(), event.concat()].concat()
    }

    #[test]
    fn a_log_without_the_bank_of_the_registers_proves_nothing() {
        let mut rtmrs = [[0; 48]; 4];
        assert_eq!(check_rtmrs(&log(Hash::Sha256), &rtmrs).outcome, Outcome::Failed);
        rtmrs[0].copy_from_slice(&Hash::Sha384.digest(&[&[0; 48], &[7; 48]]));
        assert_eq!(check_rtmrs(&log(Hash::Sha384), &rtmrs).outcome, Outcome::Passed);
    }
}
