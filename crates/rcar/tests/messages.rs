//! The messages on the wire: the recorded exchange, versions, bounds, and arbitrary bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use belljar_rcar::{
    HashAlgorithm, InitData, Jwk, Tee,
    snp::SnpEvidence,
    wire::{self, Attestation, Challenge, ErrorBody, Request, Token, WireError},
};
use proptest::prelude::*;
use serde_json::{Value, json};

const NONCE: &str = "Y8O3jGs4HQzU1tGYKJIhmY6cI2Jhk7KOvKJetN15+1U=";
const ATTEST: &str = r#"{"init-data":null,"runtime-data":{"nonce":"Y8O3jGs4HQzU1tGYKJIhmY6cI2Jhk7KOvKJetN15+1U=","tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"TgmmFC1bdOrI6lqbgkCDTzYjrITso-DKd31iDJTFJ2Q","y":"puRITfOx_Mhn9wtj50JUH1sK3hxMA_eZKMw9stn2laE"}},"tee-evidence":{"primary_evidence":{"svn":"1","report_data":"7Ps/GmGPblYOZ7SNg8rGZnIODEVPMY8NTarFR7dL2N4AN/zZEzbY5vrMtUx3ZSiV"},"additional_evidence":""}}"#;

#[test]
fn the_recorded_request_is_read_and_written() {
    let body = br#"{"version":"0.4.0","tee":"sample","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512"]}}"#;
    let request = Request::parse(body).unwrap();
    assert_eq!(request, Request::new(Tee::Sample));
    assert_eq!(serde_json::to_vec(&request).unwrap(), body);
}

#[test]
fn the_recorded_challenge_is_read_and_written() {
    let body = format!(r#"{{"nonce":"{NONCE}","extra-params":""}}"#);
    let (challenge, hash) = Challenge::parse(body.as_bytes()).unwrap();
    assert_eq!((challenge.nonce.as_str(), hash), (NONCE, HashAlgorithm::Sha384));
    assert_eq!(serde_json::to_string(&challenge).unwrap(), body);
}

#[test]
fn the_recorded_attestation_is_read_and_written() {
    let read = Attestation::<Value>::parse(ATTEST.as_bytes()).unwrap();
    assert_eq!(read.init_data, None);
    assert_eq!(read.runtime_data.nonce, NONCE);
    let written: Value = serde_json::to_value(&read).unwrap();
    assert_eq!(written, serde_json::from_str::<Value>(ATTEST).unwrap());
    let error = Attestation::<SnpEvidence>::parse(ATTEST.as_bytes()).unwrap_err();
    assert!(matches!(error, WireError::Json { message: "attestation", .. }), "{error}");
}

#[test]
fn init_data_may_be_absent_and_the_rest_may_not() {
    let whole: Value = serde_json::from_str(ATTEST).unwrap();
    let without = |path: &[&str]| {
        let mut value = whole.clone();
        let (last, parents) = path.split_last().unwrap();
        let parent = parents.iter().fold(&mut value, |v, name| &mut v[*name]);
        assert!(parent.as_object_mut().unwrap().remove(*last).is_some());
        Attestation::<Value>::parse(value.to_string().as_bytes())
    };
    assert_eq!(without(&["init-data"]).unwrap().init_data, None);
    for path in [
        &["runtime-data"][..],
        &["tee-evidence"],
        &["runtime-data", "nonce"],
        &["runtime-data", "tee-pubkey"],
        &["runtime-data", "tee-pubkey", "x"],
        &["tee-evidence", "primary_evidence"],
        &["tee-evidence", "additional_evidence"],
    ] {
        assert!(matches!(without(path), Err(WireError::Json { message: "attestation", .. })), "{path:?}");
    }
    let with_document: Attestation<Value> =
        Attestation { init_data: Some(InitData::toml("version = \"0.1.0\"\n")), ..without(&["init-data"]).unwrap() };
    let text = serde_json::to_string(&with_document).unwrap();
    assert!(
        text.starts_with(r#"{"init-data":{"format":"toml","body":"version = \"0.1.0\"\n"},"runtime-data":"#),
        "{text}"
    );
    assert_eq!(Attestation::<Value>::parse(text.as_bytes()).unwrap(), with_document);
}

#[test]
fn versions_from_0_1_1_to_0_4_x() {
    let body = |version: &str| json!({ "version": version, "tee": "snp", "extra-params": "" }).to_string();
    for version in ["0.1.1", "0.1.9", "0.2.0", "0.3.0", "0.4.0", "0.4.255"] {
        assert_eq!(Request::parse(body(version).as_bytes()).unwrap().version, version);
    }
    for version in ["0.1.0", "0.5.0", "1.0.0", "0.4", "0.4.0.0", "0.4.+1", "", "0.4.256", "v0.4.0"] {
        assert_eq!(Request::parse(body(version).as_bytes()), Err(WireError::Version(version.into())), "{version}");
    }
}

#[test]
fn every_tee_has_the_name_of_the_protocol() {
    let names = "az-snp-vtpm az-tdx-vtpm nvidia sgx snp tdx cca csv se hygondcu nvidia-dpu tpm sample sampledevice";
    for name in names.split(' ') {
        let tee: Tee = serde_json::from_value(json!(name)).unwrap();
        assert_eq!(tee.to_string(), name);
    }
    assert!(serde_json::from_value::<Tee>(json!("SNP")).is_err());
}

#[test]
fn leftovers_and_length_are_refused() {
    let good = r#"{"version":"0.4.0","tee":"snp","extra-params":""}"#;
    assert!(Request::parse(good.as_bytes()).is_ok());
    assert!(matches!(Request::parse(format!("{good}x").as_bytes()), Err(WireError::Json { .. })));
    let limit = wire::MAX_AUTH;
    let padded = |n: usize| format!("{good}{}", " ".repeat(n - good.len()));
    assert!(Request::parse(padded(limit).as_bytes()).is_ok());
    let message = "auth request";
    assert_eq!(
        Request::parse(padded(limit + 1).as_bytes()),
        Err(WireError::TooLong { message, found: limit + 1, limit })
    );
}

#[test]
fn a_challenge_with_a_bad_nonce_or_hash_is_refused() {
    let parse = |nonce: &str, extra: Value| {
        Challenge::parse(json!({ "nonce": nonce, "extra-params": extra }).to_string().as_bytes())
    };
    assert_eq!(parse(NONCE, json!({ "selected-hash-algorithm": "sha512" })).unwrap().1, HashAlgorithm::Sha512);
    assert_eq!(parse(NONCE, json!({ "selected-hash-algorithm": "sm3" })), Err(WireError::Hash("\"sm3\"".into())));
    assert_eq!(parse("AAAA", json!("")), Err(WireError::Nonce));
    assert_eq!(parse(&NONCE[1..], json!("")), Err(WireError::Nonce));
}

#[test]
fn recorded_errors_are_read() {
    let body = br#"{"type":"https://github.com/confidential-containers/kbs/errors/TokenNotFound","detail":"Attestation Token not found"}"#;
    let error: ErrorBody = wire::parse("error", body, wire::MAX_ANSWER).unwrap();
    assert_eq!(error.name(), "TokenNotFound");
    assert_eq!(serde_json::to_vec(&ErrorBody::new("TokenNotFound", "Attestation Token not found")).unwrap(), body);
}

#[test]
fn a_token_is_not_shown_by_debug() {
    let token: Token = wire::parse("token", br#"{"token":"eyJ0.e30.c2ln"}"#, 100).unwrap();
    assert_eq!(format!("{token:?}"), "Token(13 bytes)");
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(
                prop_oneof![
                    "[a-z_-]{1,12}",
                    Just("runtime-data".into()),
                    Just("tee-pubkey".into()),
                    Just("nonce".into())
                ],
                inner,
                0..6
            )
            .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        wire::fuzz(&data);
    }

    #[test]
    fn arbitrary_json_never_panics(value in json_value()) {
        wire::fuzz(value.to_string().as_bytes());
    }

    #[test]
    fn an_altered_attestation_never_panics(at in 0..ATTEST.len(), byte: u8) {
        let mut body = ATTEST.as_bytes().to_vec();
        body[at] = byte;
        wire::fuzz(&body);
    }

    #[test]
    fn unknown_members_are_skipped(name in "[a-z]{5,12}", value in json_value()) {
        let mut message: Value = serde_json::from_str(ATTEST).unwrap();
        for place in ["/runtime-data", "/runtime-data/tee-pubkey", "/tee-evidence"] {
            message.pointer_mut(place).unwrap()[&name] = value.clone();
        }
        let plain = Attestation::<Value>::parse(ATTEST.as_bytes()).unwrap();
        prop_assert_eq!(Attestation::<Value>::parse(message.to_string().as_bytes()).unwrap(), plain);
    }

    #[test]
    fn jwk_members_survive(x in "\\PC{0,20}", alg in proptest::option::of("\\PC{0,9}")) {
        let jwk = Jwk { kty: "EC".into(), crv: "P-256".into(), alg, x: x.clone(), y: x };
        prop_assert_eq!(&serde_json::from_str::<Jwk>(&serde_json::to_string(&jwk).unwrap()).unwrap(), &jwk);
    }
}
