//! TPM quotes, and those of Azure's virtual TPMs.

use belljar_evidence::azure::{self, verify_snp, verify_tdx};
use belljar_evidence::dcap::{self, Collateral, Missing, Verifier};
use belljar_evidence::tpm::{self, AkTrust, Hash, Options, Pcrs, PublicKey, Signature};
use belljar_evidence::{Check, Decision, Outcome, snp};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::index::{Index, der, seconds};

/// Each entry of the index, and sweeps over the genuine ones.
pub fn trials(index: &Index) -> Vec<Trial> {
    let azure: Vec<_> = index.of_kind("az-snp-vtpm").chain(index.of_kind("az-tdx-vtpm")).collect();
    let tpm: Vec<_> = index.of_kind("tpm").collect();
    assert!(azure.len() > 20 && tpm.len() > 5, "the index has entries of virtual and of real TPMs");
    let genuine = azure.iter().chain(&tpm).filter(|entry| entry["expect"]["verdict"] == "valid");
    let sweeps: Vec<Trial> = genuine
        .map(|entry| {
            let (index, entry) = (index.clone(), (*entry).clone());
            let name = format!("bit_flips::{}", entry["id"].as_str().unwrap());
            Trial::test(name, move || no_flipped_bit_is_valid(&Evidence::read(&index, &entry)))
        })
        .collect();
    azure.into_iter().chain(tpm).map(|entry| index.trial(entry, judge)).chain(sweeps).collect()
}

/// What a verdict of any kind comes to.
struct Answer {
    verdict: Decision,
    first_failure: Option<&'static str>,
    flags: Vec<String>,
    checks: Vec<Check>,
    fields: Value,
}

impl Answer {
    fn new<F: serde::Serialize>(verdict: &belljar_evidence::Verdict<F>) -> Self {
        Self {
            verdict: verdict.verdict,
            first_failure: verdict.first_failure,
            flags: verdict.flags.clone(),
            checks: verdict.checks.clone(),
            fields: serde_json::to_value(&verdict.facts).unwrap()["fields"].clone(),
        }
    }
}

/// Everything of an entry.
#[derive(Clone)]
struct Evidence {
    kind: String,
    hcl: Vec<u8>,
    quote: Vec<u8>,
    signature: Vec<u8>,
    ak: Vec<u8>,
    pcrs: Option<Pcrs>,
    td_quote: Vec<u8>,
    chain: snp::Chain,
    root: Vec<u8>,
    at: u64,
    options: Options,
}

impl Evidence {
    fn read(index: &Index, entry: &Value) -> Self {
        let file = |role: &str| match &entry["files"][role] {
            Value::Null => Vec::new(),
            name => index.file(name),
        };
        let pcrs: Vec<String> = serde_json::from_slice(&file("pcrs_sha256")).unwrap();
        let pcrs = Pcrs::from_first(Hash::Sha256, pcrs.iter().map(|value| hex::decode(value).unwrap())).unwrap();
        let expect = &entry["expect"];
        let quote = if entry["kind"] == "tpm" { file("evidence") } else { file("tpm_quote_message") };
        let signature = if entry["kind"] == "tpm" { file("signature") } else { file("tpm_quote_signature") };
        Self {
            kind: entry["kind"].as_str().unwrap().to_owned(),
            hcl: file("hcl_report"),
            quote,
            signature,
            ak: file("ak_public"),
            pcrs: Some(pcrs),
            td_quote: file("td_quote"),
            chain: snp::Chain {
                ark: Vec::new(),
                ask: der(file("intermediate")),
                vek: der(file("vek")),
                ..snp::Chain::default()
            },
            root: der(file("anchor")),
            at: expect["at"].as_str().map_or(0, seconds),
            options: Options {
                ak_trust: AkTrust::Unknown,
                missing: Missing::Allowed,
                required: (0..24).collect(),
                nonce: expect["expected_nonce"].as_str().map(|nonce| hex::decode(nonce).unwrap()),
            },
        }
    }

    fn judge(&self) -> Answer {
        let signature = Ok(Signature::raw_rsa(&self.signature));
        let evidence =
            azure::Evidence { hcl_report: &self.hcl, quote: &self.quote, signature, pcrs: self.pcrs.as_ref() };
        match self.kind.as_str() {
            "tpm" => {
                let key = PublicKey::from_spki(&self.ak).unwrap();
                let verdict = tpm::verify(&self.quote, &evidence.signature, &key, self.pcrs.as_ref(), &self.options);
                Answer::new(&verdict)
            }
            "az-snp-vtpm" => {
                let anchors = snp::Anchors::only(&self.root);
                Answer::new(&verify_snp(
                    &evidence,
                    &self.chain,
                    &anchors,
                    self.at,
                    &snp::Options::UNASKED,
                    &self.options,
                ))
            }
            _ => {
                let anchors = dcap::Anchors::none().with_test_root(&self.root);
                let verifier = Verifier::new(&Collateral::default(), anchors);
                let strictness = dcap::Options { missing: Missing::Allowed, ..dcap::Options::default() };
                let verdict = verify_tdx(&evidence, &self.td_quote, &verifier, self.at, &strictness, &self.options);
                Answer::new(&verdict)
            }
        }
    }
}

fn judge(index: &Index, entry: &Value) -> Result<(), Failed> {
    let evidence = Evidence::read(index, entry);
    let answer = evidence.judge();
    let expect = &entry["expect"];
    let shown = answer.checks.iter().map(|check| format!("{check:?}\n")).collect::<String>();
    let check = |what: &str, holds: bool| if holds { Ok(()) } else { Err(Failed::from(format!("{what}\n{shown}"))) };
    match expect["verdict"].as_str().unwrap() {
        "valid" => check("should be valid", answer.verdict == Decision::Valid)?,
        "invalid" => check("should be invalid", answer.verdict == Decision::Invalid)?,
        "either" => check("should be decided", answer.verdict != Decision::Undecided)?,
        other => return Err(format!("unknown verdict {other}").into()),
    }
    if let Some(first_failure) = expect["first_failure"].as_str() {
        check(&format!("should fail at {first_failure}"), answer.first_failure == Some(first_failure))?;
        let failed = answer.checks.iter().find(|check| check.outcome == Outcome::Failed);
        check("the failed check is listed", failed.is_some_and(|check| check.name == first_failure))?;
    }
    for (key, wanted) in expect["fields"].as_object().into_iter().flatten() {
        check(&format!("field {key} should be {wanted}, is {}", answer.fields[key]), &answer.fields[key] == wanted)?;
    }
    check("no flags", answer.flags.is_empty() && expect["flags"].is_null())?;
    if expect["verdict"] != "valid" {
        return Ok(());
    }
    // Positive twins that differ in one field.
    let mut other = evidence.clone();
    other.options.nonce = Some(vec![1, 2, 3]);
    check("refused with another nonce", other.judge().first_failure == Some("nonce"))?;
    let mut fewer = evidence.clone();
    let mut values = Pcrs::none(Hash::Sha256);
    values.set(0, vec![0; 32]).unwrap();
    fewer.pcrs = Some(values);
    let answer = fewer.judge();
    check(
        "refused without a value for each register",
        answer.first_failure.is_some_and(|name| name.ends_with("pcr-digest")),
    )?;
    if entry["kind"] == "tpm" {
        let key = PublicKey::from_spki(&evidence.ak).unwrap();
        let trusting = |list: Vec<[u8; 32]>| {
            let mut trusting = evidence.clone();
            trusting.options.ak_trust = AkTrust::List(list);
            trusting.judge().first_failure
        };
        check("taken with a trusted key", trusting(vec![key.fingerprint()]).is_none())?;
        check("refused with another trusted key", trusting(vec![[0; 32]]) == Some("ak-trust"))?;
        let mut strict = evidence.clone();
        strict.options.missing = Missing::Undecided;
        check("undecided without trust", strict.judge().verdict == Decision::Undecided)?;
    }
    Ok(())
}

/// Single bits of everything that is signed or hashed. The paravisor's header and the time of its report are not.
fn no_flipped_bit_is_valid(genuine: &Evidence) -> Result<(), Failed> {
    let step = if std::env::var_os("BELLJAR_FULL_SWEEP").is_some() { 1 } else { 61 };
    if genuine.judge().verdict != Decision::Valid {
        return Err("the evidence itself is not valid".into());
    }
    let mut flipped = 0;
    for place in 0..3 {
        let mut changed = genuine.clone();
        for bit in (0..part(&mut changed, place).len() * 8).step_by(step) {
            let unsigned = place == 0 && ((0x40..0x100).contains(&bit) || genuine.kind != "az-snp-vtpm");
            if unsigned {
                continue;
            }
            part(&mut changed, place)[bit / 8] ^= 1 << (bit % 8);
            let verdict = changed.judge().verdict;
            part(&mut changed, place)[bit / 8] ^= 1 << (bit % 8);
            flipped += 1;
            if verdict != Decision::Invalid {
                return Err(format!("bit {bit} of part {place} flipped: {verdict:?}").into());
            }
        }
    }
    if flipped < 40 { Err(format!("only {flipped} bits flipped").into()) } else { Ok(()) }
}

fn part(evidence: &mut Evidence, place: usize) -> &mut Vec<u8> {
    match place {
        0 => &mut evidence.hcl,
        1 => &mut evidence.quote,
        _ => &mut evidence.signature,
    }
}
