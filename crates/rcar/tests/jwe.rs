//! Encrypted replies: vectors of an independent implementation, ours opened by it, and every alteration refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use belljar_rcar::{
    TeeKey,
    jwe::{Jwe, JweError, MAX_PLAINTEXT},
    key::KeyError,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{
    io::Write,
    process::{Command, Stdio},
};

/// `reference/rcar-transcript.md`: the reply of an upstream server.
const RECORDED: &str = r#"{"protected":"eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngiOiJZMGIzQWtKNE5KSk9VNmR5cXNHVWhWdnFfM1pFRFdoLWVSQWpxS2JRalBFIiwieSI6InlmSmx0YVRHNUZoeUU1NjFqemg5OEc1YS1PbjdieUJxbXdybEplUnM4Z1kifX0","encrypted_key":"Y2z6ywPpDtZZq6PFYEcv3gXkU7VfUj_3MnKW07aAp_duLi-_odC1uQ","iv":"E8gcSZLJnaRlIUlF","ciphertext":"R86RVCq9Ec3dtAb4rX6QjtfTkkHHYHT17CTQAV18yjk","tag":"csRC_DPdMp0YWBhGaDiFNQ"}"#;

fn scalar(jwk: &Value) -> [u8; 32] {
    B64.decode(jwk["d"].as_str().unwrap()).unwrap().try_into().unwrap()
}

#[test]
fn opens_what_jwcrypto_encrypted() {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("vectors/jwe.json")).unwrap();
    assert_eq!(vectors.len(), 3);
    for vector in vectors {
        let key = TeeKey::from_scalar(&scalar(&vector["jwk"])).unwrap();
        assert_eq!(key.jwk().x, vector["jwk"]["x"]);
        let jwe = Jwe::parse(vector["jwe"].to_string().as_bytes()).unwrap();
        assert_eq!(hex::encode(jwe.decrypt(&key).unwrap().as_slice()), vector["plaintext"]);
    }
}

#[test]
#[ignore = "needs python3 with jwcrypto from PyPI: BELLJAR_PYTHON=…/python cargo nextest run --run-ignored all"]
fn jwcrypto_opens_what_we_encrypt() {
    let python = std::env::var("BELLJAR_PYTHON").unwrap_or_else(|_| "python3".into());
    let scalar = [0x42; 32];
    let key = TeeKey::from_scalar(&scalar).unwrap();
    for plaintext in [&b""[..], b"model key", &[0xa5; 5000]] {
        let mut jwk = serde_json::to_value(key.jwk()).unwrap();
        jwk["d"] = json!(B64.encode(scalar));
        let request = json!({ "jwk": jwk, "jwe": Jwe::encrypt(&key.jwk(), plaintext).unwrap() });
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/independent.py");
        let mut child =
            Command::new(&python).args([script, "open"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), hex::encode(plaintext));
    }
}

#[test]
fn the_recorded_reply_has_our_form() {
    let recorded = Jwe::parse(RECORDED.as_bytes()).unwrap();
    let ours = Jwe::encrypt(&TeeKey::generate().unwrap().jwk(), &[0; 32]).unwrap();
    let shape = |jwe: &Jwe| {
        let header = String::from_utf8(B64.decode(&jwe.protected).unwrap()).unwrap();
        let mut parts: Vec<String> = header.split('"').map(str::to_owned).collect();
        for coordinate in ["x", "y"] {
            let at = parts.iter().position(|p| p == coordinate).unwrap() + 2;
            parts[at] = parts[at].len().to_string();
        }
        (parts, jwe.encrypted_key.len(), jwe.iv.len(), jwe.ciphertext.len(), jwe.tag.len())
    };
    assert_eq!(shape(&ours), shape(&recorded));
    assert_eq!(recorded.decrypt(&TeeKey::generate().unwrap()), Err(JweError::Unwrap));
}

#[test]
fn each_altered_member_has_its_error() {
    let key = TeeKey::generate().unwrap();
    let good = Jwe::encrypt(&key.jwk(), b"secret").unwrap();
    assert_eq!(good.decrypt(&key).unwrap().as_slice(), b"secret");
    let flip = |text: &mut String| {
        let first = if text.starts_with('A') { "B" } else { "A" };
        text.replace_range(..1, first);
    };
    let with = |change: &dyn Fn(&mut Jwe)| {
        let mut jwe = good.clone();
        change(&mut jwe);
        jwe.decrypt(&key).unwrap_err()
    };
    assert_eq!(with(&|j| flip(&mut j.encrypted_key)), JweError::Unwrap);
    assert_eq!(with(&|j| flip(&mut j.iv)), JweError::Open);
    assert_eq!(with(&|j| flip(&mut j.tag)), JweError::Open);
    assert_eq!(with(&|j| flip(&mut j.ciphertext)), JweError::Open);
    assert_eq!(with(&|j| j.tag.truncate(20)), JweError::Member("tag"));
    assert_eq!(with(&|j| j.iv.push('=')), JweError::Member("iv"));
    assert_eq!(with(&|j| j.ciphertext.push('*')), JweError::Member("ciphertext"));
    let header = |text: &'static str| move |j: &mut Jwe| j.protected = B64.encode(text);
    assert!(matches!(with(&header(r#"{"alg":"dir","enc":"A256GCM"}"#)), JweError::Header(_)));
    let epk = serde_json::to_value(key.jwk()).unwrap();
    let other = |alg: &str, enc: &str, extra: &str| {
        let (x, y) = (epk["x"].as_str().unwrap(), epk["y"].as_str().unwrap());
        B64.encode(format!(
            r#"{{"alg":"{alg}","enc":"{enc}","epk":{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}{extra}}}"#
        ))
    };
    assert_eq!(with(&|j| j.protected = other("ECDH-ES+A256KW", "A256GCM", "")), JweError::Unwrap);
    assert_eq!(
        with(&|j| j.protected = other("ECDH-ES", "A256GCM", "")),
        JweError::Algorithm { member: "alg", expected: "ECDH-ES+A256KW", found: "ECDH-ES".into() }
    );
    assert_eq!(
        with(&|j| j.protected = other("ECDH-ES+A256KW", "A128GCM", "")),
        JweError::Algorithm { member: "enc", expected: "A256GCM", found: "A128GCM".into() }
    );
    let zipped = with(&|j| j.protected = other("ECDH-ES+A256KW", "A256GCM", r#","zip":"DEF""#));
    assert!(matches!(zipped, JweError::Header(_)), "{zipped:?}");
}

#[test]
fn a_header_with_the_same_meaning_but_other_bytes_does_not_authenticate() {
    let key = TeeKey::generate().unwrap();
    let good = Jwe::encrypt(&key.jwk(), b"secret").unwrap();
    let mut spaced = good.clone();
    let header: Value = serde_json::from_slice(&B64.decode(&good.protected).unwrap()).unwrap();
    spaced.protected = B64.encode(serde_json::to_string_pretty(&header).unwrap());
    assert_eq!(spaced.decrypt(&key), Err(JweError::Open));
    assert!(good.decrypt(&key).is_ok());
}

#[test]
fn the_recipient_key_and_the_length_are_checked() {
    let good = TeeKey::generate().unwrap().jwk();
    assert!(Jwe::encrypt(&good, &[]).is_ok());
    let mut off = good.clone();
    off.y = good.x.clone();
    assert_eq!(Jwe::encrypt(&off, &[]), Err(JweError::Key(KeyError::NotOnCurve)));
    let longest = Jwe::encrypt(&good, &vec![0; MAX_PLAINTEXT]);
    assert!(longest.is_ok());
    assert_eq!(Jwe::encrypt(&good, &vec![0; MAX_PLAINTEXT + 1]), Err(JweError::TooLong(MAX_PLAINTEXT + 1)));
}

#[test]
fn the_longest_plaintext_comes_back() {
    let key = TeeKey::generate().unwrap();
    let plaintext = vec![0x5a; MAX_PLAINTEXT];
    assert_eq!(*Jwe::encrypt(&key.jwk(), &plaintext).unwrap().decrypt(&key).unwrap(), plaintext);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(plaintext in proptest::collection::vec(any::<u8>(), 0..300)) {
        let key = TeeKey::generate().unwrap();
        let body = serde_json::to_vec(&Jwe::encrypt(&key.jwk(), &plaintext).unwrap()).unwrap();
        prop_assert_eq!(&*Jwe::parse(&body).unwrap().decrypt(&key).unwrap(), &plaintext);
    }

    #[test]
    fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..400, byte: u8) {
        belljar_rcar::jwe::fuzz(&data);
        let mut recorded = RECORDED.as_bytes().to_vec();
        recorded[at] = byte;
        belljar_rcar::jwe::fuzz(&recorded);
    }
}
