//! A broker by itself: what it makes, what it keeps over a restart, what its audit log says, and how it refuses to start.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use belljar_broker::{
    AdminToken, Method, RemoteBroker, Settings, Standalone, StartError,
    audit::{self, Checkpoint, Entry},
};
use belljar_rcar::{PublicKey, ear::ES256};
use common::workload;
use serde_json::{Value, json};
use std::{os::unix::fs::PermissionsExt, path::Path};
use zeroize::Zeroizing;

async fn start(data: &Path) -> (Standalone, RemoteBroker) {
    let broker = Standalone::start(&Settings::default(), data, None).await.unwrap();
    let token = std::fs::read_to_string(broker.token_file()).unwrap();
    let token = AdminToken::new(Zeroizing::new(token.trim().into())).unwrap();
    let remote = RemoteBroker::new(broker.urls().remove(0), token);
    (broker, remote)
}

async fn get(remote: &RemoteBroker, path: &str) -> Value {
    serde_json::from_slice(&remote.call(Method::GET, path, Vec::new()).await.unwrap()).unwrap()
}

#[tokio::test]
async fn what_it_was_told_is_there_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("broker");
    let (first, remote) = start(&data).await;
    let made: Vec<&str> = first.made().iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(made, ["admin.token", "store.key", "tls.key"]);
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    for file in first.made() {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    remote.call(Method::PUT, "/belljar/v1/resources/team/key/1", b"secret of the team".to_vec()).await.unwrap();
    let id = remote.register(&workload()).await.unwrap();
    let reference =
        json!({ "references": [{ "name": "mr_td", "set": "s", "value": "ab", "source": "admin", "owner": "o" }] });
    remote.call(Method::POST, "/belljar/v1/references", reference.to_string().into_bytes()).await.unwrap();
    let url = remote.url().clone();
    // The same directory serves one broker.
    let again = Standalone::start(&Settings::default(), &data, None).await.unwrap_err();
    assert!(matches!(&again, StartError::Keep(_)), "{again}");
    first.shutdown().await;

    let (second, remote) = start(&data).await;
    assert!(second.made().is_empty());
    assert_eq!(remote.url().pin, url.pin, "the key that clients pin is the same");
    let content = remote.call(Method::GET, "/belljar/v1/resources/team/key/1", Vec::new()).await.unwrap();
    assert_eq!(content.as_slice(), b"secret of the team");
    let known = remote.known(&workload().name).await.unwrap();
    assert_eq!((known.len(), &known[0].id), (1, &id));
    assert_eq!(get(&remote, "/belljar/v1/references").await["references"][0]["name"], "mr_td");

    // All of it is in the log, in order, over both starts; and no secret is anywhere in the directory.
    let log = get(&remote, "/belljar/v1/audit").await;
    let entries: Vec<Entry> = serde_json::from_value(log["entries"].clone()).unwrap();
    let checkpoints: Vec<Checkpoint> = serde_json::from_value(log["checkpoints"].clone()).unwrap();
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["resource.put", "workload.register", "reference.add", "resource.reveal"]);
    let key = PublicKey::from_jwk(&serde_json::from_value(log["key"].clone()).unwrap(), ES256).unwrap();
    assert_eq!(audit::verify("default", &entries, &checkpoints, &key).unwrap().0, 4);
    assert_eq!(checkpoints.last().unwrap().sequence, 3, "signed when the first one stopped");
    second.shutdown().await;
    for file in std::fs::read_dir(&data).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }
}

/// Posts without an administrator's token, as a workload does: status, body, cookie.
async fn post(remote: &RemoteBroker, path: &str, cookie: Option<&str>, body: &str) -> (u16, Value, Option<String>) {
    let url = remote.url();
    let stream = tokio::net::TcpStream::connect((url.host.as_str(), url.port)).await.unwrap();
    let mut connection = belljar_rcar::Connection::open(stream, url.pin).await.unwrap();
    let headers: Vec<_> = cookie.map(|cookie| (hyper::header::COOKIE, cookie.to_owned())).into_iter().collect();
    let answer = connection.send(Method::POST, path, &headers, Some(body.as_bytes().to_vec()), 1 << 20).await.unwrap();
    let cookie = answer.cookies.first().map(|cookie| cookie.split(';').next().unwrap().to_owned());
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap(), cookie)
}

const AUTH: &str = r#"{"version":"0.4.0","tee":"snp","extra-params":""}"#;

#[tokio::test]
async fn a_challenge_of_an_earlier_start_is_none() {
    let place = tempfile::tempdir().unwrap();
    let (first, remote) = start(place.path()).await;
    let (_, _, cookie) = post(&remote, "/kbs/v0/auth", None, AUTH).await;
    let (_, _, other) = post(&remote, "/kbs/v0/auth", None, AUTH).await;
    // Here it is one, of which a message that is none makes nothing.
    let (_, told, _) = post(&remote, "/kbs/v0/attest", other.as_deref(), "{}").await;
    assert!(told["detail"].as_str().unwrap().contains("attestation is not understood"), "{told}");
    first.shutdown().await;
    let (second, remote) = start(place.path()).await;
    let (status, told, _) = post(&remote, "/kbs/v0/attest", cookie.as_deref(), "{}").await;
    let expected = "Attestation error: RCAR handshake Attest failed: session is unknown or expired";
    assert_eq!((status, told["detail"].as_str()), (401, Some(expected)));
    second.shutdown().await;
}

#[tokio::test]
async fn what_anybody_can_send_is_not_in_the_audit_log() {
    use belljar_rcar::{HashAlgorithm, InitData, TeeKey, report_data};
    let place = tempfile::tempdir().unwrap();
    let chip = common::Chip::new();
    // Of the two brokers one knows the chip's root.
    for (known, actions) in [(false, vec![]), (true, vec!["attest"])] {
        let settings = Settings { allow_software_tee: true, ..Settings::default() };
        let root = known.then(|| chip.keys.ark());
        let broker = Standalone::start(&settings, &place.path().join(known.to_string()), root).await.unwrap();
        let token = std::fs::read_to_string(broker.token_file()).unwrap();
        let token = AdminToken::new(Zeroizing::new(token.trim().into())).unwrap();
        let remote = RemoteBroker::new(broker.urls().remove(0), token);
        let (_, challenge, cookie) = post(&remote, "/kbs/v0/auth", None, AUTH).await;
        let (key, nonce) = (TeeKey::generate().unwrap(), challenge["nonce"].as_str().unwrap());
        let bound = report_data(&key.jwk(), nonce, "", HashAlgorithm::Sha384);
        let message = json!({
            "init-data": InitData::toml(common::DOCUMENT),
            "runtime-data": { "nonce": nonce, "tee-pubkey": key.jwk() },
            "tee-evidence": { "primary_evidence": chip.evidence(bound, &|_| ()), "additional_evidence": "" },
        });
        assert_eq!(post(&remote, "/kbs/v0/attest", cookie.as_deref(), &message.to_string()).await.0, 401);
        remote.call(Method::PUT, "/belljar/v1/resources/a/b/c", vec![1]).await.unwrap();
        let log = get(&remote, "/belljar/v1/audit").await;
        let entries: Vec<Entry> = serde_json::from_value(log["entries"].clone()).unwrap();
        let mut found: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
        assert_eq!(found.pop(), Some("resource.put"));
        assert_eq!(found, actions);
        // The length of a secret is told without opening it.
        assert_eq!(get(&remote, "/belljar/v1/resources").await["resources"][0]["bytes"], 1);
        broker.shutdown().await;
    }
}

#[tokio::test]
async fn another_key_or_readable_secrets_stop_it() {
    let place = tempfile::tempdir().unwrap();
    let (first, _) = start(place.path()).await;
    first.shutdown().await;
    let told = async || match Standalone::start(&Settings::default(), place.path(), None).await {
        Ok(broker) => {
            broker.shutdown().await;
            None
        }
        Err(e) => Some(e.to_string()),
    };
    assert_eq!(told().await, None);
    let key = place.path().join("store.key");
    let right = std::fs::read(&key).unwrap();
    std::fs::write(&key, "ab".repeat(32)).unwrap();
    let other = told().await.unwrap();
    assert!(other.ends_with("it is sealed under another key than the given one"), "{other}");
    std::fs::write(&key, "ab").unwrap();
    let short = told().await.unwrap();
    assert!(short.ends_with("not a key of 32 bytes, raw or in hexadecimal digits"), "{short}");
    std::fs::write(&key, right).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = told().await.unwrap();
    assert!(open.ends_with("others may read it; chmod 600 it, and think of its content as known"), "{open}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(told().await, None);
}

#[tokio::test]
async fn a_key_exchange_is_safe_from_quantum_computers_where_the_client_can() {
    use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
    let place = tempfile::tempdir().unwrap();
    let (broker, remote) = start(place.path()).await;
    let url = remote.url();
    for (offered, expected) in [
        (vec![provider::kx_group::X25519MLKEM768, provider::kx_group::X25519], rustls::NamedGroup::X25519MLKEM768),
        (vec![provider::kx_group::X25519], rustls::NamedGroup::X25519),
    ] {
        let crypto = CryptoProvider { kx_groups: offered, ..provider::default_provider() };
        let connector = common::connector(crypto, url.pin);
        let stream = tokio::net::TcpStream::connect((url.host.as_str(), url.port)).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("broker.belljar.internal").unwrap();
        let tls = connector.connect(name, stream).await.unwrap();
        let (_, session) = tls.get_ref();
        assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), expected);
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
    broker.shutdown().await;
}
