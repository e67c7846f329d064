//! Real attestation reports, and altered copies of them, against the verdicts of the vectors' index.
//!
//! Each `snp` entry of the index is one trial. Where the files are missing (they are not part of the repository), the
//! trials are listed as ignored and never as passed. `BELLJAR_VECTORS` names another folder than `../shared/vectors`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::str::FromStr;

use belljar_evidence::snp::{Anchors, Chain, Report, builtin, verify};
use belljar_evidence::{Decision, Outcome};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

fn main() {
    let folder = std::env::var_os("BELLJAR_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let trials = match std::fs::read(folder.join("vectors.json")) {
        Ok(index) => trials(&folder, &index).into_iter().chain(sweeps(&folder, &index)).collect(),
        Err(error) => {
            eprintln!("no vectors at {} ({error}): every SNP vector is ignored", folder.display());
            vec![Trial::test("snp::index_of_vectors", || Err("not run".into())).with_ignored_flag(true)]
        }
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn trials(folder: &Path, index: &[u8]) -> Vec<Trial> {
    let index: Vec<Value> = serde_json::from_slice(index).expect("the index is a list");
    let entries = index.into_iter().filter(|entry| entry["kind"] == "snp");
    let trials: Vec<_> = entries
        .map(|entry| {
            let folder = folder.to_owned();
            let name = format!("snp::{}", entry["id"].as_str().unwrap());
            let missing = ["evidence", "vek", "intermediate", "anchor"]
                .iter()
                .any(|role| !folder.join(entry["files"][role].as_str().unwrap()).is_file());
            Trial::test(name, move || judge(&folder, &entry)).with_ignored_flag(missing)
        })
        .collect();
    assert!(!trials.is_empty(), "the index has SNP entries");
    trials
}

/// Trials over all genuine reports at once.
fn sweeps(folder: &Path, index: &[u8]) -> Vec<Trial> {
    let index: Vec<Value> = serde_json::from_slice(index).expect("the index is a list");
    let genuine = index.into_iter().filter(|entry| entry["kind"] == "snp" && entry["expect"]["verdict"] == "valid");
    let genuine: Vec<Value> = genuine.filter(|entry| entry["synthetic"] != true).collect();
    assert!(!genuine.is_empty(), "the index has genuine reports");
    genuine
        .into_iter()
        .flat_map(|entry| {
            let id = entry["id"].as_str().unwrap().to_owned();
            let (peers, flips) = ((folder.to_owned(), entry.clone()), (folder.to_owned(), entry));
            [
                Trial::test(format!("sev_crate::{id}"), move || agrees_with_sev(&peers.0, &peers.1)),
                Trial::test(format!("bit_flips::{id}"), move || no_flipped_bit_is_valid(&flips.0, &flips.1)),
            ]
        })
        .collect()
}

/// The `sev` crate takes the same genuine report, and refuses it with another measurement.
fn agrees_with_sev(folder: &Path, entry: &Value) -> Result<(), Failed> {
    use sev::certs::snp::Verifiable;
    use sev::firmware::guest::AttestationReport;
    use sev::parser::ByteParser;

    let (report, chain) = evidence(folder, entry);
    let peer = sev::certs::snp::Chain::from_der(&chain.ark, &chain.ask, &chain.vek)?;
    (&peer, &AttestationReport::from_bytes(&report)?).verify()?;
    let mut changed = report;
    changed[0x90] ^= 1;
    match (&peer, &AttestationReport::from_bytes(&changed)?).verify() {
        Err(_) => Ok(()),
        Ok(()) => Err("the peer takes another measurement".into()),
    }
}

/// Flips bits of the report and of every certificate, one at a time. Each must be refused: all bytes are covered by a
/// signature, or by a rule of encoding, or are the anchor. The full sweep (every bit) belongs to `make fuzz`; here the
/// step is a prime, so that all bit positions and all fields of more than one byte are met.
fn no_flipped_bit_is_valid(folder: &Path, entry: &Value) -> Result<(), Failed> {
    let step = if std::env::var_os("BELLJAR_FULL_SWEEP").is_some() { 1 } else { 23 };
    let (report, chain) = evidence(folder, entry);
    let at = seconds(entry["expect"]["at"].as_str().unwrap());
    let anchors = Anchors::amd();
    if !verify(&report, &chain, &anchors, at).is_valid() {
        return Err("the evidence itself is not valid".into());
    }
    let mut flipped = 0;
    for place in 0..4 {
        let length = [&report, &chain.ark, &chain.ask, &chain.vek][place].len();
        for bit in (0..length * 8).step_by(step) {
            let (mut report, mut chain) = (report.clone(), chain.clone());
            let bytes = [&mut report, &mut chain.ark, &mut chain.ask, &mut chain.vek].into_iter().nth(place).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let verdict = verify(&report, &chain, &anchors, at);
            if verdict.verdict != Decision::Invalid {
                return Err(format!("bit {bit} of part {place} flipped: {:?}", verdict.verdict).into());
            }
            flipped += 1;
        }
    }
    if flipped < 1000 { Err(format!("only {flipped} bits flipped").into()) } else { Ok(()) }
}

/// The report and its chain.
fn evidence(folder: &Path, entry: &Value) -> (Vec<u8>, Chain) {
    let file = |role: &str| std::fs::read(folder.join(entry["files"][role].as_str().unwrap())).unwrap();
    let chain = Chain { ark: der(file("anchor")), ask: der(file("intermediate")), vek: der(file("vek")) };
    (file("evidence"), chain)
}

fn judge(folder: &Path, entry: &Value) -> Result<(), Failed> {
    let (report, chain) = evidence(folder, entry);
    let expect = &entry["expect"];
    let flags: Vec<&str> =
        expect["flags"].as_array().into_iter().flatten().map(|flag| flag.as_str().unwrap()).collect();
    // A test root is trusted only where the index says that the vector needs one.
    let anchors = if flags.contains(&"test-root") { Anchors::amd().with_test_root(&chain.ark) } else { Anchors::amd() };
    let at = seconds(expect["at"].as_str().unwrap());
    let verdict = verify(&report, &chain, &anchors, at);

    let shown = verdict.checks.iter().map(|check| format!("{check:?}\n")).collect::<String>();
    let check = |what: &str, holds: bool| if holds { Ok(()) } else { Err(Failed::from(format!("{what}\n{shown}"))) };
    match expect["verdict"].as_str().unwrap() {
        "valid" => check("should be valid", verdict.verdict == Decision::Valid)?,
        "invalid" => check("should be invalid", verdict.verdict == Decision::Invalid)?,
        "either" => check("should be decided", verdict.verdict != Decision::Undecided)?,
        other => return Err(format!("unknown verdict {other}").into()),
    }
    if let Some(first_failure) = expect["first_failure"].as_str() {
        check(&format!("should fail at {first_failure}"), verdict.first_failure == Some(first_failure))?;
        check("the failed check is listed", verdict.failure().is_some_and(|check| check.outcome == Outcome::Failed))?;
    }
    let json = serde_json::to_value(&verdict).unwrap();
    for (key, wanted) in expect["fields"].as_object().into_iter().flatten() {
        check(&format!("field {key} should be {wanted}"), &json["fields"][key] == wanted)?;
    }
    if expect["fields"].is_null() {
        check("a report of another length has no fields", json["fields"].is_null() && Report::read(&report).is_err())?;
    }
    if expect["verdict"] == "valid" {
        check("flags", verdict.flags == flags)?;
        check("software", verdict.software == flags.contains(&"test-root"))?;
        check("vek", expect["vek"].is_null() || json["vek"] == expect["vek"])?;
        for (key, found) in [("valid_from", verdict.facts.valid_from), ("valid_to", verdict.facts.valid_to)] {
            check(key, expect[key].as_str().map(seconds) == found)?;
        }
        // The positive twin in time: the same evidence outside its window is refused, and for that reason alone.
        let late = verify(&report, &chain, &anchors, verdict.facts.valid_to.unwrap() + 1);
        check("refused a second after its window", late.first_failure == Some("cert-validity"))?;
        let early = verify(&report, &chain, &anchors, verdict.facts.valid_from.unwrap() - 1);
        check("refused a second before its window", early.first_failure == Some("cert-validity"))?;
        if !verdict.software {
            let alone = Chain { vek: chain.vek.clone(), ..Chain::default() };
            check("compiled-in certificates complete the chain", verify(&report, &alone, &anchors, at).is_valid())?;
            let without = verify(&report, &Chain::default(), &anchors, at);
            check("undecided without the endorsement key", without.verdict == Decision::Undecided)?;
            let untrusted = verify(&report, &chain, &Anchors::none(), at);
            check("refused without anchors", untrusted.first_failure == Some("chain-to-anchor"))?;
            check("an AMD root", builtin::AMD.iter().any(|authority| authority.ark == chain.ark))?;
        }
    }
    Ok(())
}

/// DER of a certificate in PEM or DER.
fn der(bytes: Vec<u8>) -> Vec<u8> {
    use base64::Engine;
    let Ok(text) = std::str::from_utf8(&bytes) else { return bytes };
    let body: String = text
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"))
        .collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SSZ`.
fn seconds(time: &str) -> u64 {
    x509_cert::der::DateTime::from_str(time).unwrap().unix_duration().as_secs()
}
