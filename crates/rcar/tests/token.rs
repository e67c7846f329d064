//! Attestation tokens: signed, verified, and every way to cheat.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use belljar_rcar::ear::{
    Appraisal, Claims, ISSUER, MAX_TOKEN, PROFILE, Status, TokenError, TokenKey, TrustVector, VerifierId, verify,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NOW: u64 = 1_795_436_053;

fn claims() -> Claims {
    let trust_vector = TrustVector { configuration: 2, executables: 33, hardware: 97, ..TrustVector::default() };
    let appraisal = Appraisal {
        status: trust_vector.status(),
        trust_vector,
        policy_id: "default".into(),
        annotated_evidence: json!({ "report_data": "00", "snp": { "measurement": "ab" } }),
        identifiers: json!({ "validated": {} }),
        tee: None,
    };
    Claims {
        eat_profile: PROFILE.into(),
        iat: NOW,
        exp: NOW + 300,
        iss: ISSUER.into(),
        verifier_id: VerifierId { developer: "https://example.org".into(), build: "test 1".into() },
        submods: BTreeMap::from([("cpu0".into(), appraisal)]),
    }
}

/// The same layout as the recorded token of `reference/rcar-transcript.md`.
#[test]
fn layout_of_the_recorded_token() {
    let key = TokenKey::generate().unwrap();
    let token = key.sign(&claims()).unwrap();
    let parts: Vec<Value> =
        token.split('.').take(2).map(|part| serde_json::from_slice(&B64.decode(part).unwrap()).unwrap()).collect();
    let jwk = key.public().to_jwk(Some("ES256"));
    assert_eq!(parts[0], json!({ "typ": "JWT", "alg": "ES256", "jwk": jwk }));
    assert_eq!(
        parts[1],
        json!({
            "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
            "iat": NOW, "exp": NOW + 300, "iss": "CoCo-Attestation-Service",
            "ear.verifier-id": { "developer": "https://example.org", "build": "test 1" },
            "submods": { "cpu0": {
                "ear.status": "contraindicated",
                "ear.trustworthiness-vector": {
                    "instance-identity": 0, "configuration": 2, "executables": 33, "file-system": 0,
                    "hardware": 97, "runtime-opaque": 0, "storage-opaque": 0, "sourced-data": 0
                },
                "ear.appraisal-policy-id": "default",
                "ear.veraison.annotated-evidence": { "report_data": "00", "snp": { "measurement": "ab" } },
                "ear.trustee.identifiers": { "validated": {} }
            } }
        })
    );
    assert_eq!(verify(&token, key.public(), NOW).unwrap(), claims());
}

#[test]
#[ignore = "needs python3 with jwcrypto from PyPI: BELLJAR_PYTHON=…/python cargo nextest run --run-ignored all"]
fn jwcrypto_verifies_our_token() {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let python = std::env::var("BELLJAR_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/independent.py");
    let (key, other) = (TokenKey::generate().unwrap(), TokenKey::generate().unwrap());
    let token = key.sign(&claims()).unwrap();
    let ask = |key: &TokenKey| {
        let request = json!({ "jwk": key.public().to_jwk(Some("ES256")), "token": token }).to_string();
        let mut command = Command::new(&python);
        let command =
            command.args([script, "token"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let found: Claims = serde_json::from_slice(&ask(&key).stdout).unwrap();
    assert_eq!(found, claims());
    let refused = ask(&other);
    assert!(!refused.status.success() && refused.stdout.is_empty());
}

#[test]
fn time_is_checked_on_both_ends() {
    let key = TokenKey::generate().unwrap();
    let token = key.sign(&claims()).unwrap();
    assert!(verify(&token, key.public(), NOW + 299).is_ok());
    assert_eq!(
        verify(&token, key.public(), NOW + 300),
        Err(TokenError::Expired { expired: NOW + 300, now: NOW + 300 })
    );
    assert!(verify(&token, key.public(), NOW - 60).is_ok());
    assert_eq!(verify(&token, key.public(), NOW - 61), Err(TokenError::NotYet { issued: NOW, now: NOW - 61 }));
}

#[test]
fn only_the_expected_key_and_algorithm_count() {
    let key = TokenKey::generate().unwrap();
    let token = key.sign(&claims()).unwrap();
    let [header, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("not three parts") };
    assert!(verify(&format!("{header}.{body}.{signature}"), key.public(), NOW).is_ok());

    let other = TokenKey::generate().unwrap();
    assert_eq!(verify(&other.sign(&claims()).unwrap(), key.public(), NOW), Err(TokenError::OtherKey));
    // The header names our key, and another key signed.
    let forged = other.sign(&claims()).unwrap();
    let forged = forged.rsplit_once('.').unwrap().1;
    assert_eq!(verify(&format!("{header}.{body}.{forged}"), key.public(), NOW), Err(TokenError::Signature));
    let mut changed = claims();
    changed.exp += 1;
    let changed = B64.encode(serde_json::to_vec(&changed).unwrap());
    assert_eq!(verify(&format!("{header}.{changed}.{signature}"), key.public(), NOW), Err(TokenError::Signature));
    for algorithm in ["none", "HS256", "RS256", "es256", ""] {
        let header = B64.encode(json!({ "typ": "JWT", "alg": algorithm }).to_string());
        let error = verify(&format!("{header}.{body}.{signature}"), key.public(), NOW);
        assert_eq!(error, Err(TokenError::Algorithm(algorithm.into())));
    }
    assert_eq!(
        verify(&format!("{header}.{body}"), key.public(), NOW).unwrap_err(),
        TokenError::Form("no claims".into())
    );
}

#[test]
fn profile_and_issuer_are_checked() {
    let key = TokenKey::generate().unwrap();
    let with = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        verify(&key.sign(&claims).unwrap(), key.public(), NOW)
    };
    assert!(with(|_| ()).is_ok());
    let claim = "iss";
    assert_eq!(with(|c| c.iss = "x".into()), Err(TokenError::Claim { claim, expected: ISSUER, found: "x".into() }));
    let claim = "eat_profile";
    assert_eq!(
        with(|c| c.eat_profile = "y".into()),
        Err(TokenError::Claim { claim, expected: PROFILE, found: "y".into() })
    );
}

#[test]
fn the_status_is_the_worst_tier() {
    let status = |hardware: i8| TrustVector { hardware, configuration: 2, ..TrustVector::default() }.status();
    assert_eq!(TrustVector::default().status(), Status::None);
    assert_eq!([2, 31, 32, 95, 96, 127].map(status), {
        use Status::{Affirming, Contraindicated, Warning};
        [Affirming, Affirming, Warning, Warning, Contraindicated, Contraindicated]
    });
}

#[test]
fn pkcs8_keys_are_read_and_others_are_not() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let key = TokenKey::from_pkcs8(&pair.serialize_der()).unwrap();
    assert_eq!(key.public().point()[..], *pair.public_key_raw());
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(matches!(TokenKey::from_pkcs8(&pair.serialize_der()), Err(TokenError::Library(_))));
}

#[test]
fn length_is_bounded() {
    let key = TokenKey::generate().unwrap();
    let long = "a".repeat(MAX_TOKEN + 1);
    assert_eq!(verify(&long, key.public(), NOW), Err(TokenError::TooLong(MAX_TOKEN + 1)));
    assert_eq!(verify(&long[1..], key.public(), NOW), Err(TokenError::Form("no signature".into())));
}

proptest! {
    #[test]
    fn arbitrary_tokens_never_panic(token in "[A-Za-z0-9._-]{0,200}", header in "\\PC{0,60}") {
        let key = TokenKey::generate().unwrap();
        prop_assert!(verify(&token, key.public(), NOW).is_err());
        let token = [B64.encode(header), token].join(".");
        prop_assert!(verify(&token, key.public(), NOW).is_err());
    }
}
