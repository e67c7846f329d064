//! The client against servers that are away, are another, say no, or answer something else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use belljar_rcar::{
    Client, ClientError, Evidence, SpkiPin, Step, Tee, connection::ConnectionError, jwe::JweError, snp::SnpEvidence,
    tdx::TdxEvidence, wire::Attestation,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

const CHALLENGE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 74\r\nset-cookie: kbs-session-id=38eda05f16da4749ad9ee04120123cb1; Expires=Mon, 23 Nov 2026 12:19:13 GMT\r\ncontent-type: application/json\r\n\r\n{\"nonce\":\"Y8O3jGs4HQzU1tGYKJIhmY6cI2Jhk7KOvKJetN15+1U=\",\"extra-params\":\"\"}";
const TOKEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"token\":\"abc\"}";

struct Identity {
    config: Arc<ServerConfig>,
    pin: SpkiPin,
}

fn identity() -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let cert = rcgen::CertificateParams::new(vec!["test".into()]).unwrap().self_signed(&key).unwrap();
    let pin = SpkiPin::of_certificate(cert.der()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    Identity { config: Arc::new(config), pin }
}

/// A server that answers each request with the next text, and then closes. Gives what it was sent.
fn serve(identity: &Identity, answers: Vec<String>) -> (DuplexStream, JoinHandle<Vec<String>>) {
    let (near, far) = duplex(64 * 1024);
    let acceptor = TlsAcceptor::from(identity.config.clone());
    let task = tokio::spawn(async move {
        let mut requests = Vec::new();
        let Ok(mut tls) = acceptor.accept(far).await else { return requests };
        for answer in answers {
            let mut request = Vec::new();
            let whole = |request: &[u8]| {
                let text = String::from_utf8_lossy(request);
                let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
                let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
                body.len() >= length.unwrap_or(0)
            };
            while !whole(&request) {
                if tls.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    return requests;
                }
            }
            requests.push(String::from_utf8(request).unwrap());
            tls.write_all(answer.as_bytes()).await.unwrap();
        }
        let _ = tls.shutdown().await;
        requests
    });
    (near, task)
}

async fn client(answers: &[&str]) -> (Client, JoinHandle<Vec<String>>) {
    let identity = identity();
    let (stream, task) = serve(&identity, answers.iter().map(|a| (*a).to_owned()).collect());
    (Client::connect(stream, identity.pin).await.unwrap(), task)
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn evidence() -> Evidence {
    let mut report = [0; 1184];
    report[..4].copy_from_slice(&3_u32.to_le_bytes());
    report[0x188] = 0x19;
    SnpEvidence::new(&report, &[]).unwrap().into()
}

#[tokio::test]
async fn the_requests_are_those_of_the_protocol() {
    let error = answer("401 Unauthorized", r#"{"type":"https://x/errors/PolicyDeny","detail":"no"}"#);
    let (mut client, server) = client(&[CHALLENGE, TOKEN, &error]).await;
    client.auth(Tee::Snp).await.unwrap();
    assert_eq!(client.attest(&evidence(), None).await.unwrap().token, "abc");
    let uri = "kbs:///default/key/1".parse().unwrap();
    let refused = client.resource(&uri).await.unwrap_err();
    let (step, status, kind, detail) = (Step::Resource, 401, "PolicyDeny".into(), "no".into());
    assert_eq!(refused, ClientError::Refused { step, status, kind, detail });
    client.close().await;

    let requests = server.await.unwrap();
    assert!(requests[0].starts_with("POST /kbs/v0/auth HTTP/1.1\r\n"));
    assert!(requests[0].ends_with(
        r#"{"version":"0.4.0","tee":"snp","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512"]}}"#
    ));
    assert!(requests[1].starts_with("POST /kbs/v0/attest HTTP/1.1\r\n"));
    assert!(requests[1].contains("\r\ncookie: kbs-session-id=38eda05f16da4749ad9ee04120123cb1\r\n"));
    let body = requests[1].split_once("\r\n\r\n").unwrap().1;
    assert!(body.starts_with(r#"{"init-data":null,"runtime-data":{"nonce":"Y8O3jGs4"#), "{body}");
    let read = Attestation::<SnpEvidence>::parse(body.as_bytes()).unwrap();
    assert_eq!(Evidence::from(read.tee_evidence.primary_evidence), evidence());
    assert_eq!(read.tee_evidence.additional_evidence, "");
    assert!(requests[2].starts_with("GET /kbs/v0/resource/default/key/1 HTTP/1.1\r\n"));
    assert!(requests[2].contains("\r\ncookie: kbs-session-id=38eda05f16da4749ad9ee04120123cb1\r\n"));
}

#[tokio::test]
async fn another_key_is_told_from_an_absent_broker() {
    let (mine, other) = (identity(), identity());
    let (stream, _) = serve(&mine, vec![]);
    assert!(Client::connect(stream, mine.pin).await.is_ok());
    let (stream, _) = serve(&mine, vec![]);
    let error = Client::connect(stream, other.pin).await.unwrap_err();
    assert_eq!(error, ClientError::PinMismatch { expected: other.pin, found: mine.pin });

    let (stream, gone) = duplex(64);
    drop(gone);
    let error = Client::connect(stream, mine.pin).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Transport { step: Step::Connect, cause: ConnectionError::Lost(_) }),
        "{error:?}"
    );

    let (stream, mut plain) = duplex(4096);
    plain.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = Client::connect(stream, mine.pin).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Transport { step: Step::Connect, cause: ConnectionError::Tls(_) }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_broker_that_goes_away_between_steps() {
    let (mut client, _) = client(&[CHALLENGE]).await;
    client.auth(Tee::Snp).await.unwrap();
    let error = client.attest(&evidence(), None).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Transport { step: Step::Attest, cause: ConnectionError::Lost(_) }),
        "{error:?}"
    );
}

#[tokio::test]
async fn silence_ends_after_the_time_limit() {
    let limit = Duration::from_millis(50);
    let timeout = |step| ClientError::Transport { step, cause: ConnectionError::Timeout(limit) };
    let identity = identity();
    let (stream, _silent) = duplex(64 * 1024);
    assert_eq!(Client::connect_within(stream, identity.pin, limit).await.unwrap_err(), timeout(Step::Connect));
    // A server that begins an answer and does not end it, but waits for another request.
    let limit = Duration::from_millis(300);
    let timeout = |step| ClientError::Transport { step, cause: ConnectionError::Timeout(limit) };
    let half = CHALLENGE.split_at(CHALLENGE.len() - 1).0;
    let (stream, _server) = serve(&identity, vec![half.to_owned(), String::new()]);
    let mut client = Client::connect_within(stream, identity.pin, limit).await.unwrap();
    assert_eq!(client.auth(Tee::Snp).await.unwrap_err(), timeout(Step::Auth));
    let (stream, _server) = serve(&identity, vec![CHALLENGE.to_owned(), String::new()]);
    let mut client = Client::connect_within(stream, identity.pin, limit).await.unwrap();
    assert!(client.auth(Tee::Snp).await.is_ok());
}

#[tokio::test]
async fn reasons_are_bounded_and_made_printable() {
    let detail = format!("no\\u001b[31m\\n{}", "x".repeat(2000));
    let body = format!(r#"{{"type":"https://x/errors/Policy\u0007Deny","detail":"{detail}"}}"#);
    let (mut client, _) = client(&[&answer("403 Forbidden", &body)]).await;
    let ClientError::Refused { status, kind, detail, step } = client.auth(Tee::Snp).await.unwrap_err() else {
        panic!("not refused")
    };
    assert_eq!((step, status, kind.as_str()), (Step::Auth, 403, "Policy Deny"));
    assert!(detail.starts_with("no [31m xxx") && detail.ends_with("x…"), "{detail:?}");
    assert_eq!(detail.chars().count(), Client::MAX_DETAIL + 1);
}

#[tokio::test]
async fn answers_that_are_not_the_protocol() {
    let first = async |text: &str| client(&[text]).await.0.auth(Tee::Snp).await.unwrap_err();
    let protocol = |error: ClientError| match error {
        ClientError::Protocol { step: Step::Auth, problem } => problem,
        other => panic!("{other:?}"),
    };
    assert!(client(&[CHALLENGE]).await.0.auth(Tee::Snp).await.is_ok());
    assert_eq!(first(&answer("503 Busy", "")).await, ClientError::Broker { step: Step::Auth, status: 503 });
    assert_eq!(protocol(first(&answer("302 Found", "")).await), "status 302");
    assert_eq!(protocol(first(&CHALLENGE.replace("set-cookie", "x-cookie")).await), "no session cookie");
    assert_eq!(protocol(first(&CHALLENGE.replace("kbs-session-id=", "kbs-session-id= ;")).await), "no session cookie");
    assert_eq!(protocol(first(&CHALLENGE.replace("=38eda0", "=38\"da0")).await), "no session cookie");
    assert_eq!(protocol(first(&CHALLENGE.replace("Y8O3", "????")).await), "nonce is not base64 of 32 bytes");
    assert!(protocol(first(&answer("200 OK", "<html>")).await).starts_with("challenge is not understood"));
    assert!(protocol(first("BJTR garbage\r\n\r\n").await).starts_with("http: "));
    let long = answer("200 OK", &" ".repeat(1024 * 1024 + 1));
    assert_eq!(protocol(first(&long).await), "http: answer is longer than 1048576 bytes".replace("http: ", ""));
    let ClientError::Refused { kind, detail, .. } = first(&answer("404 Not Found", "<html>")).await else {
        panic!("not refused")
    };
    assert_eq!((kind.as_str(), detail.as_str()), ("Unknown", "the broker gave no reason in the form of the protocol"));
}

#[tokio::test]
async fn a_resource_for_another_key_is_not_opened() {
    let other = belljar_rcar::TeeKey::generate().unwrap();
    let jwe = serde_json::to_string(&belljar_rcar::jwe::Jwe::encrypt(&other.jwk(), b"x").unwrap()).unwrap();
    let (mut client, _) = client(&[CHALLENGE, TOKEN, &answer("200 OK", &jwe), &answer("200 OK", "plain")]).await;
    client.auth(Tee::Snp).await.unwrap();
    client.attest(&evidence(), None).await.unwrap();
    let uri = "kbs:///default/key/1".parse().unwrap();
    assert_eq!(client.resource(&uri).await.unwrap_err(), ClientError::Decrypt(JweError::Unwrap));
    assert!(matches!(client.resource(&uri).await.unwrap_err(), ClientError::Decrypt(JweError::Form(_))));
}

#[tokio::test]
async fn the_key_exchange_is_post_quantum() {
    let identity = identity();
    let (near, far) = duplex(64 * 1024);
    let server = TlsAcceptor::from(identity.config.clone()).accept(far);
    let (client, server) = tokio::join!(Client::connect(near, identity.pin), server);
    client.unwrap();
    let server = server.unwrap();
    let (_, tls) = server.get_ref();
    assert_eq!(tls.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(tls.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(tls.server_name(), None);
}

#[tokio::test]
async fn steps_have_an_order() {
    let (mut client, _) = client(&[CHALLENGE]).await;
    let uri = "kbs:///default/key/1".parse().unwrap();
    let order = |step, needs| ClientError::Order { step, needs };
    assert_eq!(client.attest(&evidence(), None).await.unwrap_err(), order(Step::Attest, Step::Auth));
    assert_eq!(client.resource(&uri).await.unwrap_err(), order(Step::Resource, Step::Attest));
    client.auth(Tee::Snp).await.unwrap();
    assert_eq!(client.resource(&uri).await.unwrap_err(), order(Step::Resource, Step::Attest));
    let tdx = Evidence::from(TdxEvidence::new(&[1], None));
    let problem = "evidence of tdx for a challenge to snp".to_owned();
    assert_eq!(client.attest(&tdx, None).await.unwrap_err(), ClientError::Protocol { step: Step::Attest, problem });
}

#[tokio::test]
async fn each_challenge_has_its_own_key() {
    let (mut client, _) = client(&[CHALLENGE, CHALLENGE]).await;
    let first = client.auth(Tee::Snp).await.unwrap();
    assert_eq!(client.report_data(), Some(first));
    // The nonce is the same in both, so the key differs.
    assert_ne!(client.auth(Tee::Snp).await.unwrap(), first);
}

#[test]
fn pins_are_64_hexadecimal_digits() {
    let text = "0123456789abcdef".repeat(4);
    assert_eq!(text.parse::<SpkiPin>().unwrap().to_string(), text);
    for bad in ["", &text[1..], &text.replace('f', "g")] {
        assert_eq!(bad.parse::<SpkiPin>(), Err(ConnectionError::BadPin));
    }
    assert_eq!(SpkiPin::of_certificate(&b"no certificate".to_vec().into()), None);
}
