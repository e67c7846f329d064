//! The HTTP messages: the shapes of the recorded exchange, each of its error answers, and hostile clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use belljar_broker::Limits;
use belljar_rcar::{
    Connection, HashAlgorithm, InitData, TeeKey,
    connection::Answer,
    jwe::{Jwe, JweError},
    report_data,
    wire::{self, Attestation, Challenge, ErrorBody, RuntimeData, TeeEvidence},
};
use common::{DOCUMENT, SECRET, World};
use hyper::{Method, header};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const AUTH: &str = r#"{"version":"0.4.0","tee":"snp","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}"#;
const ATTEST_FAILED: &str = "Attestation error: RCAR handshake Attest failed";

async fn send(
    connection: &mut Connection,
    method: Method,
    path: &str,
    cookie: Option<&str>,
    body: Option<&str>,
) -> Answer {
    let headers: Vec<_> = cookie.map(|c| (header::COOKIE, format!("kbs-session-id={c}"))).into_iter().collect();
    let body = body.map(|body| body.as_bytes().to_vec());
    connection.send(method, path, &headers, body, 2 * 1024 * 1024).await.unwrap()
}

async fn post(connection: &mut Connection, path: &str, cookie: Option<&str>, body: &str) -> Answer {
    send(connection, Method::POST, path, cookie, Some(body)).await
}

async fn get(connection: &mut Connection, path: &str, cookie: Option<&str>) -> Answer {
    send(connection, Method::GET, path, cookie, None).await
}

/// Status, kind and reason of an error answer, whose body must have nothing else.
fn error(answer: &Answer) -> (u16, String, String) {
    let value: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(value.as_object().unwrap().len(), 2);
    let body: ErrorBody = serde_json::from_value(value).unwrap();
    let kind = body.kind.strip_prefix("https://github.com/confidential-containers/kbs/errors/").unwrap().to_owned();
    (answer.status.as_u16(), kind, body.detail)
}

fn cookie(answer: &Answer) -> String {
    let [cookie] = &answer.cookies[..] else { panic!("{:?}", answer.cookies) };
    let (value, expires) = cookie.strip_prefix("kbs-session-id=").unwrap().split_once("; Expires=").unwrap();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    assert!(value.len() > 32 && value.bytes().all(plain), "{cookie}");
    assert!(expires.len() == 29 && expires.ends_with(" GMT"), "{cookie}");
    value.to_owned()
}

/// A challenge and its cookie.
async fn challenge(connection: &mut Connection) -> (String, String) {
    let answer = post(connection, "/kbs/v0/auth", None, AUTH).await;
    assert_eq!(answer.status, 200);
    let (challenge, hash) = Challenge::parse(&answer.body).unwrap();
    assert_eq!(hash, HashAlgorithm::Sha384);
    (challenge.nonce, cookie(&answer))
}

/// An attestation that the broker would admit for this nonce and key.
fn attestation(world: &World, nonce: &str, key: &TeeKey) -> Value {
    let bound = report_data(&key.jwk(), nonce, "", HashAlgorithm::Sha384);
    serde_json::to_value(Attestation {
        init_data: Some(InitData::toml(DOCUMENT)),
        runtime_data: RuntimeData { nonce: nonce.into(), tee_pubkey: key.jwk() },
        tee_evidence: TeeEvidence {
            primary_evidence: world.chip.evidence(bound, &|_| ()),
            additional_evidence: String::new(),
        },
    })
    .unwrap()
}

#[tokio::test]
async fn the_recorded_exchange_step_by_step() {
    let world = World::new().await;
    let mut connection = world.connection().await;
    // As upstream's client: the resource first, without a session.
    let answer = get(&mut connection, "/kbs/v0/resource/default/key/1", None).await;
    let expected = r#"{"type":"https://github.com/confidential-containers/kbs/errors/TokenNotFound","detail":"Attestation Token not found"}"#;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (401, expected.as_bytes()));

    let answer = post(&mut connection, "/kbs/v0/auth", None, AUTH).await;
    let challenge: Value = serde_json::from_slice(&answer.body).unwrap();
    let nonce = challenge["nonce"].as_str().unwrap();
    // 74 bytes, as recorded: 32 bytes in standard base64, and `extra-params` an empty string.
    assert_eq!(answer.body.len(), 74);
    assert_eq!(answer.body, format!(r#"{{"nonce":"{nonce}","extra-params":""}}"#));
    let id = cookie(&answer);

    let key = TeeKey::generate().unwrap();
    let message = attestation(&world, nonce, &key).to_string();
    let answer = post(&mut connection, "/kbs/v0/attest", Some(&id), &message).await;
    let attested = cookie(&answer);
    assert_eq!(answer.status.as_u16(), 200);
    let token: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(token.as_object().unwrap().len(), 1);
    assert_eq!(token["token"].as_str().unwrap().split('.').count(), 3);

    // A client keeps the cookie that `attest` sets; one that goes on with that of its challenge is served as well.
    for id in [attested, id] {
        let answer = get(&mut connection, "/kbs/v0/resource/default/key/1", Some(&id)).await;
        // 434 bytes, as recorded for a resource of 32 bytes.
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 434));
        assert_eq!(Jwe::parse(&answer.body).unwrap().decrypt(&key).unwrap().as_slice(), SECRET);
    }
    // Or the token by itself.
    let bearer = |token: &str| [(header::AUTHORIZATION, format!("Bearer {token}"))];
    let token = token["token"].as_str().unwrap();
    let path = "/kbs/v0/resource/default/key/1";
    let answer = connection.send(Method::GET, path, &bearer(token), None, 1 << 20).await.unwrap();
    assert_eq!(Jwe::parse(&answer.body).unwrap().decrypt(&key).unwrap().as_slice(), SECRET);
    // Its twin differs in one character of the claims.
    let (head, rest) = token.split_once('.').unwrap();
    let at = rest.len() / 3;
    let other = if &rest[at..=at] == "A" { "B" } else { "A" };
    let altered = format!("{head}.{}{other}{}", &rest[..at], &rest[at + 1..]);
    let answer = connection.send(Method::GET, path, &bearer(&altered), None, 1 << 20).await.unwrap();
    assert_eq!(error(&answer), (401, "TokenNotFound".into(), "Attestation Token not found".into()));
    // And it ends.
    world.clock.advance(300);
    let answer = connection.send(Method::GET, path, &bearer(token), None, 1 << 20).await.unwrap();
    assert_eq!(error(&answer).1, "TokenNotFound");
}

#[tokio::test]
async fn the_keys_of_tokens_are_published() {
    let world = World::new().await;
    let token = world.attest(&|_| ()).await.unwrap().token().unwrap().token.clone();
    let mut c = world.connection().await;
    let answer = get(&mut c, "/.well-known/jwks.json", None).await;
    let keys: Value = serde_json::from_slice(&answer.body).unwrap();
    let header =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token.split('.').next().unwrap());
    let header: Value = serde_json::from_slice(&header.unwrap()).unwrap();
    for member in ["kty", "crv", "x", "y", "alg"] {
        assert_eq!(keys["keys"][0][member], header["jwk"][member], "{member}");
    }
    assert_eq!((keys["keys"][0]["use"].as_str(), keys["keys"].as_array().unwrap().len()), (Some("sig"), 1));
}

#[tokio::test]
async fn each_recorded_error_of_auth_and_attest() {
    let world = World::new().await;
    let mut c = world.connection().await;
    let old = AUTH.replace("0.4.0", "0.1.0");
    let (status, kind, detail) = error(&post(&mut c, "/kbs/v0/auth", None, &old).await);
    assert_eq!((status, kind.as_str()), (401, "AttestationError"));
    assert_eq!(
        detail,
        "Attestation error: RCAR handshake Auth failed: KBS Client Protocol Version Mismatch: \
         expect >=0.1.1, <0.5.0 while the request is 0.1.0"
    );
    let key = TeeKey::generate().unwrap();
    let (nonce, id) = challenge(&mut c).await;
    let message = attestation(&world, &nonce, &key).to_string();
    let refused = |answer: &Answer, why: &str| {
        assert_eq!(error(answer), (401, "AttestationError".into(), format!("{ATTEST_FAILED}: {why}")));
    };
    refused(&post(&mut c, "/kbs/v0/attest", None, &message).await, "no session cookie");
    let unknown = "38eda05f16da4749ad9ee04120123cb1";
    refused(&post(&mut c, "/kbs/v0/attest", Some(unknown), &message).await, "session is unknown or expired");
    // None of these used up the challenge.
    assert_eq!(post(&mut c, "/kbs/v0/attest", Some(&id), &message).await.status, 200);

    let (expected, id) = challenge(&mut c).await;
    let answer = post(&mut c, "/kbs/v0/attest", Some(&id), &message).await;
    let denial = world.last().denial.clone().unwrap();
    refused(&answer, &format!("the nonce is not this session's (denial {})", denial.id));
    assert_eq!((denial.claim.as_str(), denial.expected, denial.found), ("nonce", expected, nonce));

    let (nonce, id) = challenge(&mut c).await;
    let mut message = attestation(&world, &nonce, &key);
    message["runtime-data"]["tee-pubkey"]["kty"] = "RSA".into();
    let answer = post(&mut c, "/kbs/v0/attest", Some(&id), &message.to_string()).await;
    let denial = world.last().denial.clone().unwrap();
    let why = "key of type \"RSA\" on curve \"P-256\" is not supported; use EC on P-256";
    refused(&answer, &format!("{why} (denial {})", denial.id));
    assert_eq!(denial.claim, "tee-pubkey");

    let (_, id) = challenge(&mut c).await;
    let answer = post(&mut c, "/kbs/v0/attest", Some(&id), "{}").await;
    let denial = world.last().denial.clone().unwrap();
    assert_eq!((error(&answer).0, denial.claim.as_str()), (401, "message"));
    assert!(error(&answer).2.ends_with(&format!("(denial {})", denial.id)));
    // Wrong report data, and the shipped default policy (which knows no workload): in `handshake.rs`.
}

#[tokio::test]
async fn a_challenge_is_good_for_one_try() {
    let world = World::new().await;
    let mut c = world.connection().await;
    let key = TeeKey::generate().unwrap();
    let used = format!("{ATTEST_FAILED}: the challenge was used before; ask for a new one");
    // After a success.
    let (nonce, id) = challenge(&mut c).await;
    let message = attestation(&world, &nonce, &key).to_string();
    assert_eq!(post(&mut c, "/kbs/v0/attest", Some(&id), &message).await.status, 200);
    let replay = error(&post(&mut c, "/kbs/v0/attest", Some(&id), &message).await);
    assert_eq!(replay, (401, "AttestationError".into(), used.clone()));
    // The replay did not take the first one's session away.
    assert_eq!(get(&mut c, "/kbs/v0/resource/default/key/1", Some(&id)).await.status, 200);
    // After a failure.
    let (nonce, id) = challenge(&mut c).await;
    assert_eq!(post(&mut c, "/kbs/v0/attest", Some(&id), "{}").await.status, 401);
    let message = attestation(&world, &nonce, &key).to_string();
    assert_eq!(error(&post(&mut c, "/kbs/v0/attest", Some(&id), &message).await).2, used);
    let answer = get(&mut c, "/kbs/v0/resource/default/key/1", Some(&id)).await;
    assert_eq!(error(&answer).1, "TokenNotFound");
}

#[tokio::test]
async fn a_swapped_tee_key_is_refused() {
    let world = World::new().await;
    let mut c = world.connection().await;
    let (guest, thief) = (TeeKey::generate().unwrap(), TeeKey::generate().unwrap());
    let (nonce, id) = challenge(&mut c).await;
    let mut message = attestation(&world, &nonce, &guest);
    message["runtime-data"]["tee-pubkey"] = serde_json::to_value(thief.jwk()).unwrap();
    let answer = post(&mut c, "/kbs/v0/attest", Some(&id), &message.to_string()).await;
    assert_eq!(error(&answer).0, 401);
    assert_eq!(world.last().denial.clone().unwrap().claim, "report_data");

    let (nonce, id) = challenge(&mut c).await;
    let mut message = attestation(&world, &nonce, &guest);
    message["runtime-data"]["tee-pubkey"] = serde_json::to_value(guest.jwk()).unwrap();
    assert_eq!(post(&mut c, "/kbs/v0/attest", Some(&id), &message.to_string()).await.status, 200);
}

#[tokio::test]
async fn a_stolen_cookie_gives_nothing_readable() {
    let world = World::new().await;
    let mut c = world.connection().await;
    let guest = TeeKey::generate().unwrap();
    let (nonce, id) = challenge(&mut c).await;
    let message = attestation(&world, &nonce, &guest).to_string();
    assert_eq!(post(&mut c, "/kbs/v0/attest", Some(&id), &message).await.status, 200);

    let mut thief = world.connection().await;
    let answer = get(&mut thief, "/kbs/v0/resource/default/key/1", Some(&id)).await;
    let stolen = Jwe::parse(&answer.body).unwrap();
    assert_eq!(stolen.decrypt(&TeeKey::generate().unwrap()), Err(JweError::Unwrap));
    assert_eq!(stolen.decrypt(&guest).unwrap().as_slice(), SECRET);
    // Nor does a challenge of one's own help to attest into another's session.
    let (own_nonce, _) = challenge(&mut thief).await;
    let (_, victim) = challenge(&mut c).await;
    let message = attestation(&world, &own_nonce, &TeeKey::generate().unwrap()).to_string();
    let answer = post(&mut thief, "/kbs/v0/attest", Some(&victim), &message).await;
    let detail = error(&answer).2;
    assert!(detail.starts_with(&format!("{ATTEST_FAILED}: the nonce is not this session's (denial ")), "{detail}");
}

#[tokio::test]
async fn further_devices_are_refused_rather_than_ignored() {
    let world = World::new().await;
    let mut c = world.connection().await;
    let key = TeeKey::generate().unwrap();
    let (nonce, id) = challenge(&mut c).await;
    let devices = r#"{"nvidia":{}}"#;
    let bound = report_data(&key.jwk(), &nonce, devices, HashAlgorithm::Sha384);
    let mut message = attestation(&world, &nonce, &key);
    message["tee-evidence"] = json!({
        "primary_evidence": world.chip.evidence(bound, &|_| ()), "additional_evidence": devices });
    assert_eq!(post(&mut c, "/kbs/v0/attest", Some(&id), &message.to_string()).await.status, 401);
    assert_eq!(world.last().denial.clone().unwrap().claim, "additional_evidence");
}

#[tokio::test]
async fn bodies_are_bounded() {
    let world = World::new().await;
    let mut c = world.connection().await;
    let padded = |body: &str, length: usize| format!("{body}{}", " ".repeat(length - body.len()));
    let fits = padded(AUTH, wire::MAX_AUTH);
    assert_eq!(post(&mut c, "/kbs/v0/auth", None, &fits).await.status, 200);
    let answer = post(&mut c, "/kbs/v0/auth", None, &padded(AUTH, wire::MAX_AUTH + 1)).await;
    assert_eq!((error(&answer).0, error(&answer).1.as_str()), (413, "PayloadTooLarge"));

    let mut c = world.connection().await;
    let key = TeeKey::generate().unwrap();
    let (nonce, id) = challenge(&mut c).await;
    let message = attestation(&world, &nonce, &key).to_string();
    let answer = post(&mut c, "/kbs/v0/attest", Some(&id), &padded(&message, wire::MAX_ATTEST + 1)).await;
    assert_eq!((error(&answer).0, error(&answer).1.as_str()), (413, "PayloadTooLarge"));
    let mut c = world.connection().await;
    assert_eq!(post(&mut c, "/kbs/v0/attest", Some(&id), &padded(&message, wire::MAX_ATTEST)).await.status, 200);
}

#[tokio::test]
async fn sessions_are_bounded_and_come_back() {
    let limits = Limits { sessions: 2, ..Limits::default() };
    let world = World::with(|config| config.limits = limits).await;
    let mut c = world.connection().await;
    // Challenges cost the broker nothing; answers do.
    let mut challenges = Vec::new();
    for _ in 0..4 {
        challenges.push(challenge(&mut c).await);
    }
    let key = TeeKey::generate().unwrap();
    let mut answer = Vec::new();
    for (nonce, id) in &challenges[..3] {
        let message = attestation(&world, nonce, &key).to_string();
        answer.push(post(&mut c, "/kbs/v0/attest", Some(id), &message).await);
    }
    assert_eq!((answer[0].status, answer[1].status), (200.try_into().unwrap(), 200.try_into().unwrap()));
    assert_eq!(error(&answer[2]), (429, "TooManySessions".into(), "too many sessions; try later".into()));
    world.clock.advance(300);
    let (nonce, id) = challenge(&mut c).await;
    let message = attestation(&world, &nonce, &key).to_string();
    assert_eq!(post(&mut c, "/kbs/v0/attest", Some(&id), &message).await.status, 200);
}

#[tokio::test]
async fn what_the_broker_does_not_verify_is_refused_at_once() {
    let world = World::new().await;
    let mut c = world.connection().await;
    let (status, _, detail) = error(&post(&mut c, "/kbs/v0/auth", None, &AUTH.replace("snp", "sample")).await);
    assert_eq!(status, 401);
    assert_eq!(
        detail,
        "Attestation error: RCAR handshake Auth failed: tee sample is not verified by this broker; \
         snp, tdx, sgx, az-snp-vtpm, az-tdx-vtpm, tpm are"
    );
    for body in ["", "{}", "null", "[]", "\u{0}"] {
        assert_eq!(error(&post(&mut c, "/kbs/v0/auth", None, body).await).0, 401, "{body}");
    }
}

#[tokio::test]
async fn path_tricks_lead_nowhere() {
    let world = World::new().await;
    let mut c = world.connection().await;
    let (nonce, id) = challenge(&mut c).await;
    let message = attestation(&world, &nonce, &TeeKey::generate().unwrap()).to_string();
    assert_eq!(post(&mut c, "/kbs/v0/attest", Some(&id), &message).await.status, 200);
    assert_eq!(get(&mut c, "/kbs/v0/resource/default/key/1", Some(&id)).await.status, 200);
    for (path, status) in [
        ("/kbs/v0/resource/default/key/%2e%2e", 400),
        ("/kbs/v0/resource/default/key/..", 400),
        ("/kbs/v0/resource/default/key/1%2f..%2f2", 400),
        ("/kbs/v0/resource/default/key/%00", 400),
        ("/kbs/v0/resource/default/key/", 404),
        ("/kbs/v0/resource/default/key/1/", 404),
        ("/kbs/v0/resource//default/key/1", 404),
        ("/kbs/v0/../kbs/v0/resource/default/key/1", 404),
        ("/kbs/v0/resource/default/key", 404),
    ] {
        assert_eq!(get(&mut c, path, Some(&id)).await.status.as_u16(), status, "{path}");
    }
    let answer = send(&mut c, Method::POST, "/kbs/v0/resource/default/key/1", Some(&id), Some("x")).await;
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn cookies_among_others_are_found() {
    let world = World::new().await;
    let mut c = world.connection().await;
    let (nonce, id) = challenge(&mut c).await;
    let message = attestation(&world, &nonce, &TeeKey::generate().unwrap()).to_string();
    let headers = [(header::COOKIE, format!("a=b; kbs-session-id={id}; c=d"))];
    let body = Some(message.into_bytes());
    let answer = c.send(Method::POST, "/kbs/v0/attest", &headers, body, 1 << 20).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let short = Duration::from_millis(200);
    let limits = Limits { tls: short, request: short, idle: short, ..Limits::default() };
    let world = World::with(|config| config.limits = limits).await;
    // No TLS handshake.
    let mut stream = world.stream().await;
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    // No further request.
    let mut c = world.connection().await;
    challenge(&mut c).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let headers: [(header::HeaderName, String); 0] = [];
    assert!(c.send(Method::GET, "/", &headers, None, 1000).await.is_err());
    // A request whose body does not come, over plain streams of the same server.
    let server = belljar_broker::TlsServer::new(&world.broker).unwrap();
    let (near, far) = tokio::io::duplex(4096);
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let pin = server.pin();
    tokio::spawn(async move { server.serve_stream(far, stopped).await });
    let mut tls = common_tls(near, pin).await;
    tls.write_all(b"POST /kbs/v0/auth HTTP/1.1\r\nhost: b\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
}

/// TLS without HTTP on it; the key is not checked.
async fn common_tls(
    stream: tokio::io::DuplexStream,
    pin: belljar_rcar::SpkiPin,
) -> tokio_rustls::client::TlsStream<tokio::io::DuplexStream> {
    let connector = common::connector(rustls::crypto::aws_lc_rs::default_provider(), pin);
    connector.connect(rustls::pki_types::ServerName::try_from("x").unwrap(), stream).await.unwrap()
}

#[test]
fn arbitrary_bodies_are_answered_and_never_admitted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new());
    let key = TeeKey::generate().unwrap();
    let template = attestation(&world, "x", &key).to_string();
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(noise in "\\PC{0,60}", at in 0_usize..700, byte in any::<u8>())| {
        runtime.block_on(async {
            let mut c = world.connection().await;
            let answer = post(&mut c, "/kbs/v0/auth", None, &noise).await;
            assert_eq!(error(&answer).0, 401);
            let (_, id) = challenge(&mut c).await;
            assert_eq!(error(&post(&mut c, "/kbs/v0/attest", Some(&id), &noise).await).0, 401);
            let (_, id) = challenge(&mut c).await;
            let mut altered = template.clone().into_bytes();
            altered[at] = byte;
            let headers = [(header::COOKIE, format!("kbs-session-id={id}"))];
            let answer = c.send(Method::POST, "/kbs/v0/attest", &headers, Some(altered), 1 << 20).await.unwrap();
            assert_eq!(error(&answer).0, 401);
        });
    });
}
