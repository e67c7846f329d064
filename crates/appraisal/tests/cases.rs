//! Tokens and stored cases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use belljar_appraisal::case::{Case, CaseError, MAX_CASE, Policy};
use belljar_appraisal::ear::{Device, annotated, status, submods, token};
use belljar_appraisal::policy::{DEFAULT_REGO, Settings, judge};
use belljar_appraisal::reference::References;
use belljar_appraisal::rego::{AttestationPolicy, Limits, RegoError};
use belljar_appraisal::release::Identity;
use belljar_appraisal::{Claims, Finding};
use belljar_rcar::ear::{Status, TokenKey, VerifierId, verify};
use common::{AT, claims, hex, reference, references, settings, values, with};
use serde_json::json;

fn compile(text: &str) -> AttestationPolicy {
    AttestationPolicy::compile(text, Limits { time: std::time::Duration::from_secs(20), ..Limits::default() }).unwrap()
}

#[test]
fn a_token_has_a_submodule_for_each_device() {
    let cpu = claims("snp");
    let gpu = |name: &str| Claims::from_json("gpu", "nvidia", json!({ "nvidia": { "uuid": name } })).unwrap();
    let (first, second) = (gpu("a"), gpu("b"));
    let judged = [&cpu, &first, &second].map(|claims| judge(claims, &references(), &settings(), AT));
    let identifiers = json!({ "validated": { "container_images": ["a"] } });
    let devices = [
        Device { claims: &cpu, judgement: &judged[0], identifiers: Some(&identifiers) },
        Device { claims: &first, judgement: &judged[1], identifiers: None },
        Device { claims: &second, judgement: &judged[2], identifiers: None },
    ];
    let all = submods(devices, "default");
    assert_eq!(all.keys().collect::<Vec<_>>(), ["cpu0", "gpu0", "gpu1"]);
    assert_eq!(all["gpu1"].annotated_evidence["nvidia"]["uuid"], "b");
    assert_eq!((all["cpu0"].status, all["gpu0"].status), (Status::Affirming, Status::Contraindicated));
    // One device that is not known is enough.
    assert_eq!((status(&all), status(&Default::default())), (Status::Contraindicated, Status::None));
    assert_eq!(all["cpu0"].identifiers, identifiers);
    assert_eq!(all["gpu0"].identifiers, json!({ "validated": {} }));

    let verifier = VerifierId { developer: "d".into(), build: "b".into() };
    let token = token(devices, "default", verifier, AT, 300);
    let key = TokenKey::generate().unwrap();
    let signed = key.sign(&token).unwrap();
    let read = verify(&signed, key.public(), AT + 299).unwrap();
    assert_eq!(read, token);
    let json = serde_json::to_value(&token).unwrap();
    let cpu = &json["submods"]["cpu0"];
    assert_eq!(
        (&cpu["ear.status"], &cpu["belljar.tee"], &json["exp"]),
        (&json!("affirming"), &json!("snp"), &json!(AT + 300))
    );
    assert_eq!(cpu["ear.veraison.annotated-evidence"]["snp"]["measurement"], json!(hex(0xAA, 48)));
    assert_eq!(cpu["ear.veraison.annotated-evidence"]["runtime_data_claims"]["nonce"], "n");
}

#[test]
fn a_token_says_that_a_tee_is_of_software() {
    let software = claims("software");
    let settings = Settings { allow_software_tee: true, ..settings() };
    let judgement = judge(&software, &references(), &settings, AT);
    let all = submods([Device { claims: &software, judgement: &judgement, identifiers: None }], "default");
    assert_eq!((all["cpu0"].status, all["cpu0"].tee.as_deref()), (Status::Contraindicated, Some("software-tee")));
}

#[test]
fn what_a_token_leaves_out_is_said() {
    let small = claims("tdx");
    assert_eq!(annotated(&small), *small.value());
    let with_events = |count: usize, text: usize| {
        let event = json!({ "type_name": "EV_SEPARATOR", "event": "x", "details": { "string": "a".repeat(text) } });
        let mut value = small.value().clone();
        value["tdx"]["uefi_event_logs"] = vec![event; count].into();
        value["runtime_data_claims"]["additional-evidence"] = json!("{\"nvidia\":{}}");
        annotated(&Claims::from_json("cpu", "tdx", value).unwrap())
    };
    let few = with_events(3, 10);
    assert_eq!(
        few["tdx"]["uefi_event_logs"][0],
        json!({ "type_name": "EV_SEPARATOR", "details": { "string": "aaaaaaaaaa" } })
    );
    assert_eq!(few["runtime_data_claims"].get("additional-evidence"), None);
    assert_eq!(
        few["belljar"]["left_out"],
        json!(["runtime_data_claims.additional-evidence", "tdx.uefi_event_logs[].event"])
    );
    let many = with_events(100, 2000);
    assert_eq!(many["tdx"].get("uefi_event_logs"), None);
    assert_eq!(many["belljar"]["left_out"], json!(["tdx.uefi_event_logs"]));
    assert_eq!(many["tdx"]["quote"], small.value()["tdx"]["quote"]);
}

#[test]
fn a_case_replays_to_what_it_was() {
    for tee in ["snp", "software", "tdx", "tpm"] {
        let claims = with(&claims(tee), &["belljar", "session_bound"], json!(tee != "tpm"));
        let judgement = judge(&claims, &references(), &settings(), AT);
        let case = Case::new(&claims, &references(), &settings(), &Policy::Default, AT).unwrap();
        let read = Case::from_json(&case.to_json().unwrap()).unwrap();
        assert_eq!(read, case);
        let explanation = read.replay(&Policy::Default).unwrap();
        assert_eq!((explanation.trust_vector, &explanation.findings), (judgement.vector, &judgement.findings), "{tee}");
        assert_eq!((explanation.status, explanation.admitted), (judgement.status(), judgement.is_admitted()));
        assert_eq!((explanation.same_policy, explanation.software_tee), (true, tee == "software"));
        assert_eq!(read.identity(&explanation).unwrap(), Identity::of(&claims, &judgement));
    }
}

#[test]
fn a_case_can_be_judged_by_another_policy() {
    let other = with(&claims("snp"), &["snp", "measurement"], json!(hex(0xAB, 48)));
    let case = Case::new(&other, &references(), &settings(), &Policy::Default, AT).unwrap();
    let refused = case.replay(&Policy::Default).unwrap();
    let why: Vec<&Finding> = refused.findings.iter().filter(|finding| !finding.passed).collect();
    assert_eq!(
        (why.len(), why[0].claim.as_str(), why[0].found.as_str()),
        (1, "snp.measurement", hex(0xAB, 48).as_str())
    );
    let twin = compile(DEFAULT_REGO);
    let again = case.replay(&Policy::Rego("twin", &twin)).unwrap();
    assert_eq!((again.trust_vector, again.same_policy, again.admitted), (refused.trust_vector, false, false));
    let open = compile(
        "package policy\nimport rego.v1\ntrust_claims := {\"hardware\": h, \"executables\": 3}\nh := 2 if query_reference_value(\"snp_launch_measurement\")\n",
    );
    let opened = case.replay(&Policy::Rego("open", &open)).unwrap();
    assert_eq!((opened.status, opened.admitted), (Status::Affirming, true));
    assert_eq!(opened.policy.sha256.as_deref(), Some(hex::encode(open.hash()).as_str()));
    assert_eq!(opened.lookups.len(), 1);
    assert_eq!(opened.lookups[0].value, json!([hex(0xBB, 48), hex(0xAA, 48)]));
    let case = Case::new(&other, &references(), &settings(), &Policy::Rego("open", &open), AT).unwrap();
    assert!(case.replay(&Policy::Rego("renamed", &open)).unwrap().same_policy);
    let broken = compile("package policy\ntrust_claims := 1\n");
    let expected =
        RegoError::Result { rule: "trust_claims".into(), found: "1".into(), expected: "an object of ar4si claims" };
    assert_eq!(case.replay(&Policy::Rego("broken", &broken)), Err(CaseError::Rego(expected)));
}

#[test]
fn a_case_replays_at_its_own_time() {
    let case = Case::new(&claims("snp"), &references(), &settings(), &Policy::Default, AT + 100).unwrap();
    assert!(case.replay(&Policy::Default).unwrap().admitted);
    let late = Case::new(&claims("snp"), &references(), &settings(), &Policy::Default, AT + 101).unwrap();
    assert!(!late.replay(&Policy::Default).unwrap().admitted);
}

#[test]
fn a_case_is_bounded_and_says_what_it_left_out() {
    let long = |n: usize| reference(&format!("other-{n}"), "a", json!(vec!["a".repeat(4000); 20]));
    let many = References::new(values().into_iter().chain((0..20).map(long))).unwrap();
    let case = Case::new(&claims("snp"), &many, &settings(), &Policy::Default, AT).unwrap();
    assert_eq!(case.references_left_out(), many.values().len() - 1);
    assert!(case.replay(&Policy::Default).unwrap().admitted);
    let mut value = claims("snp").value().clone();
    value["init_data_claims"] = json!("a".repeat(MAX_CASE));
    let huge = Claims::from_json("cpu", "snp", value).unwrap();
    assert!(matches!(Case::new(&huge, &many, &settings(), &Policy::Default, AT), Err(CaseError::Length(_))));
}

#[test]
fn what_is_no_case_is_refused() {
    let case = Case::new(&claims("snp"), &references(), &settings(), &Policy::Default, AT).unwrap();
    let good: serde_json::Value = serde_json::from_slice(&case.to_json().unwrap()).unwrap();
    let with = |path: &str, value: serde_json::Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(path).unwrap() = value;
        Case::from_json(bad.to_string().as_bytes()).unwrap_err()
    };
    assert!(Case::from_json(good.to_string().as_bytes()).is_ok());
    assert_eq!(with("/version", json!(2)), CaseError::Version(2));
    assert!(matches!(with("/tee", json!("tdx")), CaseError::Claims(_)));
    assert!(matches!(with("/class", json!("CPU")), CaseError::Claims(_)));
    assert!(matches!(with("/references/0/name", json!("")), CaseError::Reference(_)));
    assert!(matches!(with("/settings/allow_software_tee", json!("yes")), CaseError::Json(_)));
    let mut more = good.clone();
    more["more"] = json!(1);
    assert!(matches!(Case::from_json(more.to_string().as_bytes()), Err(CaseError::Json(_))));
    assert_eq!(Case::from_json(&vec![b' '; MAX_CASE + 1]), Err(CaseError::Length(MAX_CASE + 1)));
}
