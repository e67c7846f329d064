//! TDX and SGX quotes.

use belljar_evidence::dcap::{
    Anchors, Collateral, Freshness, INTEL_ROOT, Missing, Options, Verifier, verify, verify_collateral,
};
use belljar_evidence::{Decision, Outcome, Verdict, dcap};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::index::{Index, der, seconds};

/// A quote with everything that belongs to it.
#[derive(Clone)]
pub struct Evidence {
    pub quote: Vec<u8>,
    pub pck_chain: Option<Vec<u8>>,
    pub collateral: Collateral,
    pub anchors: Anchors,
    pub at: u64,
}

impl Evidence {
    pub fn read(index: &Index, entry: &Value) -> Self {
        let file = |name: &Value| if name.is_null() { Vec::new() } else { index.file(name) };
        let of = |role: &str| file(&entry["files"]["collateral"][role]);
        let collateral = Collateral {
            tcb_info: of("tcb_info"),
            tcb_signing_chain: of("tcb_signing_chain"),
            qe_identity: of("qe_identity"),
            qe_signing_chain: of("qe_signing_chain"),
            pck_crl: of("pck_crl"),
            pck_crl_chain: of("pck_crl_chain"),
            root_crl: of("root_crl"),
        };
        Self {
            quote: file(&entry["files"]["evidence"]),
            pck_chain: entry["files"]["pck_chain"].as_str().map(|_| file(&entry["files"]["pck_chain"])),
            collateral,
            // The index names the one root to trust; Intel's stays Intel's.
            anchors: Anchors::none().with_test_root(&der(file(&entry["files"]["anchor"]))),
            at: seconds(entry["expect"]["at"].as_str().unwrap()),
        }
    }

    pub fn verify(&self, options: &Options) -> Verdict<dcap::Facts> {
        verify(&self.quote, self.pck_chain.as_deref(), &self.collateral, &self.anchors, self.at, options)
    }
}

/// As the index judges: by what an entry brings.
pub fn as_given() -> Options {
    Options { missing: Missing::Allowed, ..Options::default() }
}

/// Each entry of the index.
pub fn trials(index: &Index) -> Vec<Trial> {
    let entries: Vec<_> = index.of_kind("tdx").chain(index.of_kind("sgx")).collect();
    assert!(entries.len() > 150, "the index has TDX and SGX entries");
    entries.into_iter().map(|entry| index.trial(entry, judge)).collect()
}

fn judge(index: &Index, entry: &Value) -> Result<(), Failed> {
    let evidence = Evidence::read(index, entry);
    let expect = &entry["expect"];
    let verdict = evidence.verify(&as_given());
    let remembering = Verifier::new(&evidence.collateral, evidence.anchors.clone());
    for _ in 0..2 {
        let again = remembering.verify(&evidence.quote, evidence.pck_chain.as_deref(), evidence.at, &as_given());
        assert_eq!(again.checks, verdict.checks, "with and without a memory");
    }
    let json = serde_json::to_value(&verdict).unwrap();
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
    for (key, wanted) in expect["fields"].as_object().into_iter().flatten() {
        check(&format!("field {key} should be {wanted}, is {}", json["fields"][key]), &json["fields"][key] == wanted)?;
    }
    if expect["fields"].is_null() {
        check("a quote that does not parse has no fields", json["fields"].is_null())?;
    }
    if expect["verdict"] == "invalid" {
        return Ok(());
    }
    for (key, wanted) in expect["tcb"].as_object().into_iter().flatten() {
        check(&format!("tcb {key} should be {wanted}, is {}", json["tcb"][key]), &json["tcb"][key] == wanted)?;
    }
    let known = ["platform", "platform_tcb_date", "advisories", "tcb_eval_number", "tdx_module", "qe", "combined"];
    for key in known.iter().filter(|key| expect["tcb"][key].is_null()) {
        check(&format!("tcb {key} should be missing"), json["tcb"][key].is_null())?;
    }
    let mut flags: Vec<&str> =
        expect["flags"].as_array().into_iter().flatten().map(|flag| flag.as_str().unwrap()).collect();
    let mut found: Vec<&str> = verdict.flags.iter().map(String::as_str).collect();
    flags.sort_unstable();
    found.sort_unstable();
    check(&format!("flags {found:?}"), found == flags)?;
    check("software", verdict.software == flags.contains(&"test-root"))?;
    let is_intels = evidence.anchors.root(INTEL_ROOT).is_some();
    check("root", json["root"] == if is_intels { "intel" } else { "test" })?;
    for (key, found) in [("valid_from", verdict.facts.valid_from), ("valid_to", verdict.facts.valid_to)] {
        if let Some(wanted) = expect[key].as_str() {
            check(&format!("{key} is {found:?}"), Some(seconds(wanted)) == found)?;
        }
    }
    let alone = verify_collateral(&evidence.collateral, &evidence.anchors, evidence.at, &as_given());
    let documents_are_signed =
        ["tcb_signing_chain", "pck_crl_chain"].iter().zip(["tcb_info", "pck_crl"]).all(|(chain, of)| {
            entry["files"]["collateral"][of].is_null() || !entry["files"]["collateral"][chain].is_null()
        });
    if documents_are_signed {
        check(&format!("the collateral alone: {alone:?}"), alone.is_valid())?;
    }
    // The positive twin in time: the day after, nothing that has run out is taken, unless there is a grace for it.
    if let Some(next) = verdict.facts.valid_to.filter(|_| verdict.facts.freshness.is_some()) {
        let late = Evidence { at: next + 1, ..evidence.clone() };
        let refused = late.verify(&as_given());
        check("refused a second after its window", refused.verdict == Decision::Invalid)?;
        let reason = refused.first_failure.unwrap();
        check(&format!("refused for its time, not for {reason}"), reason.ends_with("-time"))?;
        let graceful = late.verify(&Options { grace: 60, accept: Freshness::InGrace, ..as_given() });
        let by_certificate = graceful.failure().is_some_and(|check| check.found.contains(" is valid from "));
        check("taken in grace", by_certificate || graceful.facts.freshness == Some(Freshness::InGrace))?;
    }
    Ok(())
}
