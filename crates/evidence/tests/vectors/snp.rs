//! SNP reports.

use belljar_evidence::snp::{Anchors, Chain, Options, Report, Verifier, builtin, verify};
use belljar_evidence::{Decision, Outcome};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::index::{Index, der, seconds};

/// Each entry of the index, and sweeps over the genuine ones.
pub fn trials(index: &Index) -> Vec<Trial> {
    let entries: Vec<_> = index.of_kind("snp").collect();
    assert!(!entries.is_empty(), "the index has SNP entries");
    let genuine = entries.iter().filter(|entry| entry["expect"]["verdict"] == "valid" && entry["synthetic"] != true);
    let sweeps: Vec<_> = genuine.flat_map(|entry| sweeps(index, entry)).collect();
    assert!(!sweeps.is_empty(), "the index has genuine reports");
    entries.into_iter().map(|entry| index.trial(entry, judge)).chain(sweeps).collect()
}

fn sweeps(index: &Index, entry: &Value) -> [Trial; 2] {
    let id = entry["id"].as_str().unwrap();
    let (peer, flips) = ((index.clone(), entry.clone()), (index.clone(), entry.clone()));
    [
        Trial::test(format!("sev_crate::{id}"), move || agrees_with_sev(&peer.0, &peer.1)),
        Trial::test(format!("bit_flips::{id}"), move || no_flipped_bit_is_valid(&flips.0, &flips.1)),
    ]
}

/// The `sev` crate takes the same genuine report, and refuses it with another measurement.
fn agrees_with_sev(index: &Index, entry: &Value) -> Result<(), Failed> {
    use sev::certs::snp::Verifiable;
    use sev::firmware::guest::AttestationReport;
    use sev::parser::ByteParser;

    let (report, chain) = evidence(index, entry);
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
fn no_flipped_bit_is_valid(index: &Index, entry: &Value) -> Result<(), Failed> {
    let step = if std::env::var_os("BELLJAR_FULL_SWEEP").is_some() { 1 } else { 23 };
    let (report, chain) = evidence(index, entry);
    let at = seconds(entry["expect"]["at"].as_str().unwrap());
    let anchors = Anchors::amd();
    if !verify(&report, &chain, &anchors, at, &Options::UNASKED).is_valid() {
        return Err("the evidence itself is not valid".into());
    }
    let mut flipped = 0;
    for place in 0..4 {
        let length = [&report, &chain.ark, &chain.ask, &chain.vek][place].len();
        for bit in (0..length * 8).step_by(step) {
            let (mut report, mut chain) = (report.clone(), chain.clone());
            let bytes = [&mut report, &mut chain.ark, &mut chain.ask, &mut chain.vek].into_iter().nth(place).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let verdict = verify(&report, &chain, &anchors, at, &Options::UNASKED);
            if verdict.verdict != Decision::Invalid {
                return Err(format!("bit {bit} of part {place} flipped: {:?}", verdict.verdict).into());
            }
            flipped += 1;
        }
    }
    if flipped < 1000 { Err(format!("only {flipped} bits flipped").into()) } else { Ok(()) }
}

/// The report and its chain.
fn evidence(index: &Index, entry: &Value) -> (Vec<u8>, Chain) {
    let file = |role: &str| index.file(&entry["files"][role]);
    // Only synthetic entries have a revocation list.
    let crl = if entry["files"]["crl"].is_null() { Vec::new() } else { der(file("crl")) };
    let chain = Chain { ark: der(file("anchor")), ask: der(file("intermediate")), vek: der(file("vek")), crl };
    (file("evidence"), chain)
}

fn judge(index: &Index, entry: &Value) -> Result<(), Failed> {
    let (report, chain) = evidence(index, entry);
    let expect = &entry["expect"];
    let flags: Vec<&str> =
        expect["flags"].as_array().into_iter().flatten().map(|flag| flag.as_str().unwrap()).collect();
    // A test root is trusted only where the index says that the vector needs one.
    let anchors = if flags.contains(&"test-root") { Anchors::amd().with_test_root(&chain.ark) } else { Anchors::amd() };
    let at = seconds(expect["at"].as_str().unwrap());
    let verdict = verify(&report, &chain, &anchors, at, &Options::UNASKED);
    let remembering = Verifier::new(anchors.clone());
    for _ in 0..2 {
        assert_eq!(
            remembering.verify(&report, &chain, at, &Options::UNASKED).checks,
            verdict.checks,
            "with and without a memory"
        );
    }

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
        let late = verify(&report, &chain, &anchors, verdict.facts.valid_to.unwrap() + 1, &Options::UNASKED);
        let in_time = |first: Option<&str>| matches!(first, Some("cert-validity" | "crl-time"));
        check("refused a second after its window", in_time(late.first_failure))?;
        let early = verify(&report, &chain, &anchors, verdict.facts.valid_from.unwrap() - 1, &Options::UNASKED);
        check("refused a second before its window", in_time(early.first_failure))?;
        if !verdict.software {
            let alone = Chain { vek: chain.vek.clone(), ..Chain::default() };
            check(
                "compiled-in certificates complete the chain",
                verify(&report, &alone, &anchors, at, &Options::UNASKED).is_valid(),
            )?;
            let without = verify(&report, &Chain::default(), &anchors, at, &Options::UNASKED);
            check("undecided without the endorsement key", without.verdict == Decision::Undecided)?;
            let untrusted = verify(&report, &chain, &Anchors::none(), at, &Options::UNASKED);
            check("refused without anchors", untrusted.first_failure == Some("chain-to-anchor"))?;
            check("an AMD root", builtin::AMD.iter().any(|authority| authority.ark == chain.ark))?;
        }
    }
    Ok(())
}
