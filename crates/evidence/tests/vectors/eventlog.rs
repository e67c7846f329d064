//! The CC event log of a real boot.

use belljar_evidence::Outcome;
use belljar_evidence::dcap::{Body, Quote, TdReport};
use belljar_evidence::eventlog::{Log, LogError, acpi_table, boot_chain, check_pcrs, check_rtmrs, explain, replay};
use belljar_evidence::tpm::{Hash, Pcrs};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::index::Index;

/// Each entry that brings a log.
pub fn trials(index: &Index) -> Vec<Trial> {
    let with_log: Vec<_> = index.of_kind("tdx").filter(|entry| !entry["files"]["ccel_data"].is_null()).collect();
    assert!(!with_log.is_empty(), "the index has an event log");
    let of = |entry: &&Value, name: &str, judge: fn(&Evidence) -> Result<(), Failed>| {
        let (index, entry) = (index.clone(), (*entry).clone());
        let name = format!("event_log::{name}::{}", entry["id"].as_str().unwrap());
        Trial::test(name, move || judge(&Evidence::read(&index, &entry)))
    };
    with_log
        .iter()
        .flat_map(|entry| {
            [
                of(entry, "replay", replay_gives_the_rtmrs),
                of(entry, "words", the_boot_is_explained),
                of(entry, "altered", an_altered_log_is_refused),
                of(entry, "pcrs", a_log_of_pcrs),
            ]
        })
        .collect()
}

struct Evidence {
    log: Vec<u8>,
    table: Vec<u8>,
    nonce: Vec<u8>,
    td: TdReport,
}

impl Evidence {
    fn read(index: &Index, entry: &Value) -> Self {
        let file = |role: &str| index.file(&entry["files"][role]);
        let Body::Td(td) = Quote::parse(&file("evidence")).unwrap().body else { panic!("a quote of a td") };
        Self { log: file("ccel_data"), table: file("ccel_table"), nonce: file("nonce"), td: *td }
    }
}

fn ensure(what: &str, holds: bool) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn replay_gives_the_rtmrs(evidence: &Evidence) -> Result<(), Failed> {
    let check = check_rtmrs(&evidence.log, &evidence.td.rtmr);
    ensure(&format!("{check:?}"), check.outcome == Outcome::Passed)?;
    ensure("the nonce is the report data", evidence.nonce == evidence.td.report_data)?;
    let table = acpi_table(&evidence.table).ok_or("the acpi table can be read")?;
    ensure("intel tdx", (table.cc_type, table.cc_subtype) == (2, 0))?;
    ensure("the log's memory", table.log_length == u64::try_from(evidence.log.len()).unwrap())?;
    let mut other = evidence.table.clone();
    other[20] ^= 1;
    ensure("a table with another sum is none", acpi_table(&other).is_none())
}

fn the_boot_is_explained(evidence: &Evidence) -> Result<(), Failed> {
    let log = Log::parse(&evidence.log).unwrap();
    let explained: Vec<_> = log.events.iter().map(|event| explain(event, Hash::Sha384)).collect();
    let unnamed = explained.iter().find(|event| event.event.starts_with("0x"));
    ensure(&format!("every type has a name: {unnamed:?}"), unnamed.is_none())?;
    // What GRUB and shim measure as text is in the log, and is what was hashed. shim measures the values of variables
    // under their names alone, GRUB the contents of files under theirs.
    let texts = explained.iter().filter(|event| event.event == "EV_IPL" && !event.what.starts_with("file "));
    let unproved: Vec<_> = texts.filter(|event| event.hashed.is_none() && !event.what.starts_with("MokList")).collect();
    ensure(&format!("text that does not hash to its digest: {unproved:?}"), unproved.is_empty())?;
    let chain = boot_chain(&log, Hash::Sha384);
    let line = chain.command_line.ok_or("the command line is found")?;
    ensure("the command line is proved", line.proved && line.what.contains("init=/usr/lib/systemd/systemd"))?;
    ensure("the kernel is found", chain.kernel.is_some_and(|kernel| kernel.what.contains("vmlinuz")))?;
    ensure("shim and grub", chain.programs.iter().any(|program| program.what.contains("grub")))?;
    let secure_boot = explained.iter().find(|event| event.what.starts_with("variable SecureBoot"));
    ensure(&format!("{secure_boot:?}"), secure_boot.is_some_and(|event| event.hashed == Some("the event's data")))
}

fn an_altered_log_is_refused(evidence: &Evidence) -> Result<(), Failed> {
    let log = Log::parse(&evidence.log).unwrap();
    let outcome = |bytes: &[u8]| check_rtmrs(bytes, &evidence.td.rtmr).outcome;
    // The log without its padding is the same log.
    let length = evidence.log.iter().rposition(|&byte| byte != 0xFF).unwrap() + 1;
    let bare = &evidence.log[..length];
    ensure("without padding", outcome(bare) == Outcome::Passed)?;
    ensure("cut", Log::parse(&bare[..length - 1]) == Err(LogError::Short(log.events.len())))?;
    let mut other = evidence.log.clone();
    *other.last_mut().unwrap() = 0;
    ensure("padding that ends otherwise", Log::parse(&other) == Err(LogError::Rest(log.events.len())))?;
    // Digests of the first and the last event: the header ends at 32 + 33 bytes, then register, type, count, algorithm.
    let first = 32 + 33 + 14;
    for at in [first, length - log.events.last().unwrap().data.len() - 4 - 48] {
        let mut other = bare.to_vec();
        other[at] ^= 1;
        ensure("another digest", Log::parse(&other).is_ok() && outcome(&other) == Outcome::Failed)?;
    }
    let mut other = bare.to_vec();
    other[first - 2] = 0x0B;
    let undeclared = LogError::Undeclared { event: 1, algorithm: 0x0B };
    ensure("a digest of another algorithm", Log::parse(&other) == Err(undeclared))?;
    let mut other = bare.to_vec();
    other[first - 6] = 2;
    let digests = LogError::Digests { event: 1, found: 2, expected: 1 };
    ensure("two digests", Log::parse(&other) == Err(digests))?;
    // An event of a register that the quote does not have: nothing would hold it to what it says.
    let with = |register: u32, kind: u32| {
        let mut event = [register, kind, 1].map(u32::to_le_bytes).concat();
        event.extend(Hash::Sha384.number().to_le_bytes());
        event.extend([7; 48]);
        event.extend([0; 4]);
        outcome(&[bare, &event].concat())
    };
    const NO_ACTION: u32 = 3;
    const EVENT_TAG: u32 = 6;
    for register in [0, 1, 5, 17] {
        ensure(&format!("nothing is extended into {register}"), with(register, NO_ACTION) == Outcome::Passed)?;
        ensure(&format!("an event of register {register}"), with(register, EVENT_TAG) == Outcome::Failed)?;
    }
    ensure("no log", Log::parse(b"hello") == Err(LogError::Beginning))
}

fn a_log_of_pcrs(evidence: &Evidence) -> Result<(), Failed> {
    // The same events as a TPM's log would hold them, in a bank of SHA-384.
    let replayed = replay(&Log::parse(&evidence.log).unwrap(), Hash::Sha384).pcrs();
    ensure("the same values", check_pcrs(&evidence.log, &replayed).outcome == Outcome::Passed)?;
    let mut other = replayed.clone();
    other.set(2, vec![7; 48]).unwrap();
    ensure("another value", check_pcrs(&evidence.log, &other).outcome == Outcome::Failed)?;
    let mut unrelated = Pcrs::none(Hash::Sha384);
    unrelated.set(23, vec![0; 48]).unwrap();
    ensure("no register of the log", check_pcrs(&evidence.log, &unrelated).outcome == Outcome::Failed)
}
