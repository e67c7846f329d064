//! Manifests that another implementation made (`corim/make.py`), and copies of them with one thing changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use belljar_appraisal::reference::corim::{CorimError, CorimKey, KeyError, read};
use belljar_appraisal::reference::rvps::Target;
use belljar_appraisal::reference::{ReferenceError, ReferenceValue, SourceKind};
use coset::cbor::value::Value;
use proptest::prelude::*;
use serde_json::json;

const TDX: &[u8] = include_bytes!("corim/tdx.cbor");
const AMD: &[u8] = include_bytes!("corim/amd.cbor");
const ES256: &[u8] = include_bytes!("corim/es256.cbor");
const ES384: &[u8] = include_bytes!("corim/es384.cbor");
const P256: &[u8] = include_bytes!("corim/p256.der");
const P384: &[u8] = include_bytes!("corim/p384.der");
const TARGET: Target<'static> = Target { set: None, owner: "ops", expires: None };
const NOT_BEFORE: u64 = 1_790_000_000;
const NOT_AFTER: u64 = 1_800_000_000;
const AT: u64 = 1_795_000_000;

fn keys(all: &[&[u8]]) -> Vec<CorimKey> {
    all.iter().map(|der| CorimKey::from_spki(der).unwrap()).collect()
}

fn plain(message: &[u8]) -> Result<Vec<ReferenceValue>, CorimError> {
    read(message, &[], &TARGET, AT)
}

fn shown(values: &[ReferenceValue]) -> Vec<(&str, serde_json::Value)> {
    values.iter().map(|value| (value.name.as_str(), value.value.clone())).collect()
}

fn tdx_values() -> Vec<(&'static str, serde_json::Value)> {
    vec![
        ("mr_td", json!(["01".repeat(48), "02".repeat(48)])),
        ("rtmr_1", json!(["03".repeat(48)])),
        ("rtmr_2", json!(["04".repeat(48)])),
        ("xfam", json!(["e702060000000000"])),
        ("snp_snp_svn", json!([24])),
    ]
}

#[test]
fn a_manifest_becomes_a_set() {
    let values = plain(TDX).unwrap();
    assert_eq!(shown(&values), tdx_values());
    for value in &values {
        assert_eq!((value.set.as_str(), value.owner.as_str(), value.source), ("guest-0.1.0", "ops", SourceKind::Corim));
        assert_eq!((value.expires, &value.signer), (Some(NOT_AFTER), &None));
    }
    let named = Target { set: Some("mine"), expires: Some(AT + 5), ..TARGET };
    let values = read(TDX, &[], &named, AT).unwrap();
    assert_eq!((values[0].set.as_str(), values[0].expires), ("mine", Some(AT + 5)));
}

#[test]
fn a_manifest_of_amds_profile_is_read() {
    let expected =
        vec![("snp_launch_measurement", json!(["aa".repeat(48)])), ("snp_id_key_digest", json!(["bb".repeat(48)]))];
    assert_eq!(shown(&plain(AMD).unwrap()), expected);
}

#[test]
fn the_one_name_of_a_base64_claim_has_base64_values() {
    let mut value = decode(TDX);
    let bytes = untag(&mut at(untag(&mut value), 1).as_array_mut().unwrap()[0]);
    let mut comid = decode(bytes.as_bytes().unwrap());
    let triple = &mut at(at(&mut comid, 4), 0).as_array_mut().unwrap()[0];
    put(&mut triple.as_array_mut().unwrap()[1].as_array_mut().unwrap()[0], 0, Value::from("measurement"));
    *bytes = Value::Bytes(encode(&comid));
    let found = plain(&encode(&value)).unwrap();
    let of = |byte: u8| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [byte; 48]);
    assert_eq!((found[0].name.as_str(), &found[0].value), ("measurement", &json!([of(1), of(2)])));
}

#[test]
fn a_signed_manifest_names_its_signer() {
    for (message, der, until) in [(ES256, P256, 1_797_000_000), (ES384, P384, 1_798_000_000)] {
        let values = read(message, &keys(&[der]), &TARGET, AT).unwrap();
        assert_eq!(shown(&values), tdx_values());
        let signer = keys(&[der])[0].fingerprint().to_owned();
        assert!(values.iter().all(|value| value.signer.as_deref() == Some(&signer) && value.expires == Some(until)));
        // Among others, too.
        assert!(read(message, &keys(&[P256, P384]), &TARGET, AT).is_ok());
    }
}

#[test]
fn a_signature_is_asked_for_as_the_caller_says() {
    assert_eq!(read(TDX, &keys(&[P256]), &TARGET, AT), Err(CorimError::NotSigned));
    assert_eq!(plain(ES256), Err(CorimError::NoKey));
    assert_eq!(read(ES256, &keys(&[P384]), &TARGET, AT), Err(CorimError::Algorithm("es256".into())));
    assert_eq!(read(ES384, &keys(&[P256]), &TARGET, AT), Err(CorimError::Algorithm("es384".into())));
}

#[test]
fn every_changed_byte_of_a_signed_manifest_is_refused_or_changes_nothing() {
    let key = keys(&[P256]);
    let good = read(ES256, &key, &TARGET, AT).unwrap();
    let mut refused = 0;
    for index in 0..ES256.len() {
        let mut changed = ES256.to_vec();
        changed[index] ^= 1;
        match read(&changed, &key, &TARGET, AT) {
            Ok(values) => assert_eq!(values, good, "byte {index}"),
            Err(_) => refused += 1,
        }
    }
    // The key id, three bytes, is a hint that nobody signed.
    assert!(refused >= ES256.len() - 4, "{refused}");
    for length in 0..ES256.len() {
        assert!(read(&ES256[..length], &key, &TARGET, AT).is_err(), "{length}");
    }
}

#[test]
fn a_window_is_kept_to_the_second() {
    let at = |at| read(TDX, &[], &TARGET, at).map(|values| values.len());
    assert_eq!((at(NOT_BEFORE), at(NOT_AFTER)), (Ok(5), Ok(5)));
    assert_eq!(at(NOT_BEFORE - 1), Err(CorimError::NotYet("2026-09-21T14:13:20Z".into())));
    assert_eq!(at(NOT_AFTER + 1), Err(CorimError::Expired("2027-01-15T08:00:00Z".into())));
    let signed = |at| read(ES256, &keys(&[P256]), &TARGET, at).map(|values| values.len());
    assert_eq!(signed(1_797_000_000), Ok(5));
    assert_eq!(signed(1_797_000_001), Err(CorimError::Expired("2026-12-11T14:40:00Z".into())));
    let claims = |at| read(ES384, &keys(&[P384]), &TARGET, at).map(|values| values.len());
    assert_eq!(claims(1_798_000_000), Ok(5));
    assert!(matches!(claims(1_798_000_001), Err(CorimError::Expired(_))));
}

fn decode(bytes: &[u8]) -> Value {
    coset::cbor::de::from_reader(bytes).unwrap()
}

fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    coset::cbor::ser::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn at(map: &mut Value, label: i64) -> &mut Value {
    let entries = map.as_map_mut().unwrap();
    &mut entries.iter_mut().find(|(key, _)| *key == Value::from(label)).expect("the label is there").1
}

fn put(map: &mut Value, label: i64, value: Value) {
    let entries = map.as_map_mut().unwrap();
    entries.retain(|(key, _)| *key != Value::from(label));
    entries.push((Value::from(label), value));
}

fn untag(value: &mut Value) -> &mut Value {
    match value {
        Value::Tag(_, inner) => inner,
        other => panic!("no tag: {other:?}"),
    }
}

/// The manifest with its corim-map changed.
fn with_corim(change: impl FnOnce(&mut Value)) -> Result<usize, CorimError> {
    let mut value = decode(TDX);
    change(untag(&mut value));
    plain(&encode(&value)).map(|values| values.len())
}

/// With its comid changed.
fn with_comid(change: impl FnOnce(&mut Value)) -> Result<usize, CorimError> {
    with_corim(|corim| {
        let bytes = untag(&mut at(corim, 1).as_array_mut().unwrap()[0]);
        let mut comid = decode(bytes.as_bytes().unwrap());
        change(&mut comid);
        *bytes = Value::Bytes(encode(&comid));
    })
}

/// With its reference triple changed: environment, and the first measurement.
fn with_triple(change: impl FnOnce(&mut Value, &mut Value)) -> Result<usize, CorimError> {
    with_comid(|comid| {
        let triple = at(at(comid, 4), 0).as_array_mut().unwrap()[0].as_array_mut().unwrap();
        let (environment, claims) = triple.split_at_mut(1);
        change(&mut environment[0], &mut claims[0].as_array_mut().unwrap()[0]);
    })
}

fn map(entries: &[(i64, Value)]) -> Value {
    Value::Map(entries.iter().map(|(label, value)| (Value::from(*label), value.clone())).collect())
}

fn unsupported(what: &str) -> Result<usize, CorimError> {
    Err(CorimError::Unsupported(what.into()))
}

#[test]
fn what_is_not_read_is_refused_by_its_name() {
    assert_eq!(with_corim(|_| ()), Ok(5));
    let list = || Value::Array(vec![]);
    assert_eq!(with_corim(|c| put(c, 2, list())), unsupported("dependent-rims"));
    assert_eq!(with_corim(|c| put(c, 9, list())), unsupported("label 9 in its corim-map"));
    let profile = |name: &str| Value::Tag(32, Box::new(Value::from(name)));
    assert_eq!(with_corim(|c| put(c, 3, profile("http://amd.com/please-permalink-me"))), Ok(5));
    assert_eq!(with_corim(|c| put(c, 3, profile("other"))), unsupported("the profile \"other\""));
    let swid = || Value::Tag(505, Box::new(Value::Bytes(vec![])));
    assert_eq!(with_corim(|c| at(c, 1).as_array_mut().unwrap().push(swid())), unsupported("a coswid (tag 505)"));
    assert_eq!(with_comid(|c| put(c, 3, list())), unsupported("linked-tags"));
    assert_eq!(with_comid(|c| put(at(c, 4), 1, list())), unsupported("endorsed-triples"));
    let conditional = "conditional-endorsement-series-triples";
    assert_eq!(with_comid(|c| put(at(c, 4), 8, list())), unsupported(conditional));
    assert_eq!(with_comid(|c| put(at(c, 4), 11, list())), unsupported("label 11 in its triples-map"));
    let bytes = || Value::Bytes(vec![1]);
    assert_eq!(with_triple(|e, _| put(e, 1, bytes())), unsupported("an instance in its environment-map"));
    assert_eq!(with_triple(|e, _| put(e, 2, bytes())), unsupported("a group in its environment-map"));
    assert_eq!(with_triple(|e, _| put(at(e, 0), 3, Value::from(1))), unsupported("a layer in its class-map"));
    assert_eq!(with_triple(|_, m| put(m, 2, list())), unsupported("authorized-by"));
    assert_eq!(with_triple(|_, m| put(at(m, 1), 3, map(&[]))), unsupported("flags"));
    assert_eq!(with_triple(|_, m| put(at(m, 1), 14, map(&[]))), unsupported("integrity registers"));
    assert_eq!(
        with_triple(|_, m| put(at(m, 1), 16, Value::from(true))),
        unsupported("label 16 in its measurement-values-map")
    );
    assert_eq!(
        with_triple(|_, m| put(at(m, 1), 1, Value::from(1))),
        unsupported("a measurement with values of two kinds")
    );
    let least = || Value::Tag(553, Box::new(Value::from(1)));
    assert_eq!(with_triple(|_, m| put(m, 1, map(&[(1, least())]))), unsupported("a least svn (tag 553)"));
    let masked = || Value::Tag(563, Box::new(Value::Array(vec![bytes(), bytes()])));
    assert_eq!(with_triple(|_, m| put(m, 1, map(&[(4, masked())]))), unsupported("a masked raw value (tag 563)"));
    let digest = |algorithm: Value, length| {
        map(&[(2, Value::Array(vec![Value::Array(vec![algorithm, Value::Bytes(vec![1; length])])]))])
    };
    assert_eq!(with_triple(|_, m| put(m, 1, digest(Value::from(1), 32))), Ok(5));
    assert_eq!(with_triple(|_, m| put(m, 1, digest(Value::from(2), 16))), unsupported("a digest of algorithm 2"));
    let other = with_triple(|_, m| put(m, 1, digest(Value::from("sha3-256"), 32)));
    assert_eq!(other, unsupported("a digest of algorithm \"sha3-256\""));
    assert_eq!(
        with_triple(|_, m| put(m, 0, Value::from(7))),
        unsupported("an mkey of another type than its class has")
    );
    let text = with_corim(|c| c.as_map_mut().unwrap().push((Value::from("x"), Value::from(1))));
    assert_eq!(text, unsupported("\"x\" in its corim-map"));
}

#[test]
fn what_is_not_well_formed_is_refused() {
    let shape = |what| Err(CorimError::Shape(what));
    assert_eq!(with_corim(|c| *at(c, 1) = Value::Array(vec![])), shape("corim-map's tags"));
    assert_eq!(with_corim(|c| *at(c, 0) = Value::from(1)), shape("id"));
    assert_eq!(with_comid(|c| put(at(c, 4), 0, Value::from(1))), shape("reference-triples"));
    assert_eq!(with_triple(|_, m| put(m, 1, map(&[]))), shape("measurement value"));
    assert_eq!(with_triple(|e, _| *e = map(&[])), shape("environment-map's class"));
    let short = Value::Array(vec![Value::Array(vec![Value::from(7), Value::Bytes(vec![1; 47])])]);
    assert_eq!(with_triple(|_, m| put(m, 1, map(&[(2, short)]))), shape("digest of its algorithm's length"));
    let twice = with_corim(|c| {
        let entry = c.as_map_mut().unwrap()[0].clone();
        c.as_map_mut().unwrap().push(entry);
    });
    assert_eq!(twice, Err(CorimError::Twice { label: 0, map: "corim-map" }));
    let kinds = with_triple(|_, m| put(m, 0, Value::from("snp_snp_svn")));
    assert_eq!(kinds, Err(CorimError::TwoKinds("snp_snp_svn".into())));
    let named = with_triple(|_, m| put(m, 0, Value::from("")));
    assert_eq!(named, Err(ReferenceError::Name("name").into()));
    assert_eq!(with_corim(|c| *at(c, 0) = Value::from("")), Err(ReferenceError::Name("set").into()));

    let mut behind = TDX.to_vec();
    behind.push(0);
    assert_eq!(plain(&behind), Err(CorimError::Cbor("1 bytes behind it".into())));
    assert!(matches!(plain(&[]), Err(CorimError::Cbor(_))));
    assert!(matches!(plain(&[0x9F; 4000]), Err(CorimError::Cbor(_))));
    assert_eq!(plain(&[0xC1, 0x01]), Err(CorimError::Unsupported("tag 1".into())));
    assert_eq!(plain(&[0x01]), Err(CorimError::Shape("tag 501 (corim-map) or 18 (cose_sign1)")));
    let long = vec![0; 1024 * 1024 + 1];
    assert_eq!(plain(&long), Err(ReferenceError::Length(long.len()).into()));
}

#[test]
fn keys_are_on_p256_or_p384() {
    assert_eq!(CorimKey::from_spki(&P256[1..]), Err(KeyError::Form));
    assert_eq!(CorimKey::from_spki(b""), Err(KeyError::Form));
    let mut other = P256.to_vec();
    // The curve's last number: 1.2.840.10045.3.1.7 becomes 1.2.840.10045.3.1.6.
    let curve = other.windows(8).position(|bytes| bytes == [0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7]).unwrap();
    other[curve + 7] = 6;
    assert_eq!(CorimKey::from_spki(&other), Err(KeyError::Curve));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>()) {
        belljar_appraisal::reference::corim::fuzz(&bytes);
        let mut changed = TDX.to_vec();
        let at = at.index(changed.len());
        changed.splice(at..(at + cut.index(20)).min(TDX.len()), bytes.drain(..));
        belljar_appraisal::reference::corim::fuzz(&changed);
    }
}
