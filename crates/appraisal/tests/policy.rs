//! The default policy, one claim changed at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use belljar_appraisal::policy::{Judgement, Rung, Settings, judge};
use belljar_appraisal::reference::{ReferenceValue, References};
use belljar_appraisal::{Claims, Owner};
use belljar_rcar::ear::{Status, TrustVector};
use common::{AT, claims, hex, reference, references, settings, values, with};
use serde_json::{Value, json};

/// Claim of a TEE, its other value, the rule, the vector: hardware, configuration, executables, instance identity.
type Case = (&'static str, &'static [&'static str], Value, &'static str, [i8; 4]);

const TEES: [&str; 5] = ["snp", "tdx", "sgx", "az-snp-vtpm", "az-tdx-vtpm"];

fn of(claims: &Claims) -> Judgement {
    judge(claims, &references(), &settings(), AT)
}

/// Names of the rules that do not hold.
fn failed(judgement: &Judgement) -> Vec<&str> {
    judgement.findings.iter().filter(|finding| !finding.passed).map(|finding| finding.rule.as_str()).collect()
}

#[test]
fn good_evidence_of_each_tee_is_affirming() {
    for tee in TEES {
        let judgement = of(&claims(tee));
        assert_eq!(failed(&judgement), [""; 0], "{tee}");
        assert_eq!((judgement.status(), judgement.is_admitted()), (Status::Affirming, true), "{tee}");
        assert_eq!(judgement.sets, ["guest"], "{tee}");
        let expected = TrustVector { hardware: 2, configuration: 2, executables: 3, ..TrustVector::default() };
        assert_eq!(judgement.vector, expected, "{tee}");
    }
}

#[test]
fn one_changed_claim_fails_one_rule() {
    let cases: [Case; 24] = [
        ("snp", &["belljar", "session_bound"], json!(false), "session", [2, 2, 3, 99]),
        ("snp", &["belljar", "session_bound"], json!("true"), "session", [2, 2, 3, 99]),
        ("snp", &["belljar", "root"], json!("none"), "root", [97, 2, 3, 0]),
        ("snp", &["belljar", "revocation_checked"], json!(false), "revocation", [32, 2, 3, 0]),
        ("snp", &["belljar", "tcb", "reported", "snp"], json!(23), "tcb", [32, 2, 3, 0]),
        ("snp", &["belljar", "tcb", "committed", "microcode"], json!(218), "tcb", [32, 2, 3, 0]),
        ("snp", &["belljar", "tcb", "product"], json!("Genoa"), "tcb", [32, 2, 3, 0]),
        ("snp", &["belljar", "tcb"], json!(null), "tcb", [32, 2, 3, 0]),
        ("snp", &["snp", "measurement"], json!(hex(0xAB, 48)), "measurement", [2, 2, 33, 0]),
        ("snp", &["snp", "measurement"], json!(null), "measurement", [2, 2, 33, 0]),
        ("snp", &["belljar", "debug"], json!(true), "debug", [2, 96, 3, 0]),
        ("snp", &["belljar", "debug"], json!(null), "debug", [2, 36, 3, 0]),
        ("snp", &["belljar", "migratable"], json!(true), "migration", [2, 96, 3, 0]),
        ("snp", &["belljar", "flags"], json!(["vlek"]), "flags", [2, 36, 3, 0]),
        ("snp", &["belljar", "contract", "bound"], json!(false), "init-data", [2, 96, 3, 0]),
        ("snp", &["belljar", "contract", "sent"], json!(false), "init-data", [2, 36, 3, 0]),
        ("tdx", &["belljar", "tcb", "status"], json!("OutOfDate"), "tcb", [32, 2, 3, 0]),
        ("tdx", &["belljar", "tcb", "status"], json!("Revoked"), "tcb", [96, 2, 3, 0]),
        ("tdx", &["belljar", "tcb", "eval_number"], json!(0), "tcb-eval-number", [32, 2, 3, 0]),
        ("tdx", &["belljar", "tcb", "advisories"], json!(["INTEL-SA-00002"]), "advisories", [32, 2, 3, 0]),
        ("tdx", &["belljar", "freshness"], json!("in_grace"), "freshness", [32, 2, 3, 0]),
        ("tdx", &["tdx", "quote", "body", "rtmr_2"], json!(hex(1, 48)), "measurement", [2, 2, 33, 0]),
        ("tdx", &["tdx", "quote", "body", "xfam"], json!("00"), "measurement", [2, 2, 33, 0]),
        ("az-snp-vtpm", &["az-snp-vtpm", "tpm", "pcr11"], json!(hex(12, 32)), "measurement", [2, 2, 33, 0]),
    ];
    for (tee, path, value, rule, [hardware, configuration, executables, instance_identity]) in cases {
        let judgement = of(&with(&claims(tee), path, value.clone()));
        assert_eq!(failed(&judgement), [rule], "{path:?} {value}");
        assert!(!judgement.is_admitted());
        let expected =
            TrustVector { hardware, configuration, executables, instance_identity, ..TrustVector::default() };
        assert_eq!(judgement.vector, expected, "{path:?} {value}");
        let finding = judgement.first_failure().unwrap();
        assert!(!finding.expected.is_empty() && !finding.found.is_empty(), "{finding}");
    }
}

#[test]
fn evidence_that_is_not_authentic_is_worth_nothing() {
    let mut bad = with(&claims("snp"), &["belljar", "authentic"], json!(false));
    bad = with(&bad, &["belljar", "verdict"], json!("invalid"));
    let mut value = bad.value().clone();
    value["belljar"]["first_failure"] = json!("report-signature");
    let judgement = of(&Claims::from_json("cpu", "snp", value).unwrap());
    assert_eq!(judgement.vector, TrustVector { hardware: 99, ..TrustVector::default() });
    assert_eq!((judgement.status(), judgement.sets.len(), judgement.findings.len()), (Status::Contraindicated, 0, 1));
    let finding = &judgement.findings[0];
    assert_eq!((finding.rule.as_str(), finding.found.as_str()), ("evidence", "invalid (report-signature)"));
    assert_eq!(finding.owner, Owner::Attester);
}

#[test]
fn a_software_tee_is_contraindicated_whatever_is_allowed() {
    let software = claims("software");
    assert_eq!(software.tee_or_software(), "software-tee");
    for allow_software_tee in [false, true] {
        let settings = Settings { allow_software_tee, ..settings() };
        let judgement = judge(&software, &references(), &settings, AT);
        assert_eq!((judgement.status(), judgement.vector.hardware), (Status::Contraindicated, 96));
        assert_eq!(judgement.is_admitted(), allow_software_tee);
        let expected: &[&str] = if allow_software_tee { &[] } else { &["root"] };
        assert_eq!(failed(&judgement), expected);
        let root = judgement.findings.iter().find(|finding| finding.rule == "root").unwrap();
        assert_eq!(root.expected.contains("--allow-software-tee"), allow_software_tee);
        assert!(root.found.contains("protects nothing"), "{root}");
    }
}

#[test]
fn launch_digests_of_software_and_hardware_do_not_serve_for_each_other() {
    let only = |name: &str| References::new([reference(name, "guest", json!(hex(0xAA, 48)))]).unwrap();
    let settings = Settings { allow_software_tee: true, ..settings() };
    let measured = |tee: &str, name: &str| judge(&claims(tee), &only(name), &settings, AT).vector.executables;
    assert_eq!(measured("snp", "snp_launch_measurement"), 3);
    assert_eq!(measured("snp", "software_launch_measurement"), 33);
    assert_eq!(measured("software", "software_launch_measurement"), 3);
    assert_eq!(measured("software", "snp_launch_measurement"), 33);
}

#[test]
fn a_tpm_alone_is_no_tee() {
    let judgement = of(&claims("tpm"));
    assert_eq!(judgement.vector.executables, 3);
    assert_eq!(judgement.sets, ["guest"]);
    assert_eq!(failed(&judgement), ["root", "revocation", "tcb", "debug", "migration"]);
    assert_ne!(judgement.status(), Status::Affirming);
}

#[test]
fn values_of_two_sets_are_never_mixed() {
    let mut all = values();
    for value in &mut all {
        if value.name == "rtmr_2" {
            value.set = "other".into();
        }
    }
    let judgement = judge(&claims("tdx"), &References::new(all.clone()).unwrap(), &settings(), AT);
    assert_eq!((failed(&judgement), judgement.vector.executables), (vec!["measurement"], 33));
    let expected = "a value for rtmr_2 in set guest, which has none";
    assert_eq!(judgement.first_failure().unwrap().expected, expected);
    // The twin: the same values in one set.
    all.iter_mut().for_each(|value| value.set = "other".into());
    assert_eq!(judge(&claims("tdx"), &References::new(all).unwrap(), &settings(), AT).sets, ["other"]);
}

#[test]
fn an_expired_value_asks_no_less() {
    let with_expiry = |name: &str, expires: u64| {
        let change = |value: ReferenceValue| match value.name == name {
            true => ReferenceValue { expires: Some(expires), ..value },
            false => value,
        };
        judge(&claims("tdx"), &References::new(values().into_iter().map(change)).unwrap(), &settings(), AT)
    };
    for name in ["rtmr_1", "xfam"] {
        assert_eq!(failed(&with_expiry(name, AT)), [""; 0], "{name}");
        let judgement = with_expiry(name, AT - 1);
        assert_eq!(failed(&judgement), ["measurement"], "{name}");
        let expected = format!("a value for {name} in set guest, whose last one expired at 2026-11-23T12:14:12Z");
        assert_eq!(judgement.first_failure().unwrap().expected, expected);
    }
}

#[test]
fn a_refused_measurement_names_the_nearest_set_and_its_owner() {
    let other = ReferenceValue { owner: "others".into(), ..reference("mr_td", "another", json!(hex(9, 48))) };
    let all = values().into_iter().chain([other]);
    let claims = with(&claims("tdx"), &["tdx", "quote", "body", "rtmr_1"], json!(hex(7, 48)));
    let judgement = judge(&claims, &References::new(all).unwrap(), &settings(), AT);
    let finding = judgement.first_failure().unwrap();
    assert_eq!(finding.claim, "tdx.quote.body.rtmr_1");
    assert!(finding.expected.ends_with("(rtmr_1 of set guest)"), "{finding}");
    assert_eq!((finding.found.as_str(), &finding.owner), (hex(7, 48).as_str(), &Owner::Reference("ops".into())));
}

#[test]
fn nothing_registered_is_nothing_affirmed() {
    for tee in TEES {
        let judgement = judge(&claims(tee), &References::default(), &settings(), AT);
        assert_eq!(failed(&judgement), ["measurement"], "{tee}");
        assert_eq!((judgement.vector.executables, judgement.sets.len()), (33, 0));
    }
    let closed = judge(&claims("snp"), &references(), &Settings::default(), AT);
    assert_eq!(failed(&closed), ["tcb"]);
    assert_eq!(closed.first_failure().unwrap().owner, Owner::Policy);
}

#[test]
fn settings_open_one_rule_each() {
    let opened = |path: &[&str], tee: &str, value: Value, settings: Settings| {
        failed(&judge(&with(&claims(tee), path, value), &references(), &settings, AT)).len()
    };
    let base = settings;
    let revocation = Settings { require_revocation: false, ..base() };
    assert_eq!(opened(&["belljar", "revocation_checked"], "snp", json!(false), revocation), 0);
    let init_data = Settings { require_init_data: false, ..base() };
    assert_eq!(opened(&["belljar", "contract", "sent"], "snp", json!(false), init_data.clone()), 0);
    assert_eq!(opened(&["belljar", "contract", "bound"], "snp", json!(false), init_data), 1);
    let flags = Settings { flags: vec!["vlek".into()], ..base() };
    assert_eq!(opened(&["belljar", "flags"], "snp", json!(["vlek"]), flags.clone()), 0);
    assert_eq!(opened(&["belljar", "flags"], "snp", json!(["vlek", "vmpl-1"]), flags), 1);
    let ladder = Settings { tcb_status: vec!["UpToDate".into(), "SWHardeningNeeded".into()], ..base() };
    assert_eq!(opened(&["belljar", "tcb", "status"], "tdx", json!("SWHardeningNeeded"), ladder.clone()), 0);
    assert_eq!(opened(&["belljar", "tcb", "status"], "tdx", json!("OutOfDate"), ladder), 1);
    let grace = Settings { freshness: Rung::InGrace, ..base() };
    assert_eq!(opened(&["belljar", "freshness"], "tdx", json!("in_grace"), grace.clone()), 0);
    assert_eq!(opened(&["belljar", "freshness"], "tdx", json!("stale"), grace), 1);
    let any = Settings { advisories: None, ..base() };
    assert_eq!(opened(&["belljar", "tcb", "advisories"], "tdx", json!(["INTEL-SA-00002"]), any), 0);
}
