//! Boots the agent with a software TEE and talks to its attested service as its users do. Needs what `boot.rs` needs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

#[path = "boot/harness.rs"]
mod harness;

use std::{fs, path::Path};

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use belljar_attested::{
    Client, ClientError, Frame, Kind, report_data,
    tls::Key,
    wire::{EvidenceReply, ExecExit, ExecStart, LogsQuery},
};
use belljar_contract::{Contract, Initdata, Operator, Permission};
use belljar_evidence::snp::{self, Anchors, Chain, Report};
use belljar_guest_api::{api, limits::MAX_CHUNK};
use belljar_rcar::snp::{CertType, SnpEvidence};
use belljar_softtee::Keys;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use harness::{Image, Vm, greeted, host_with, main_container, settled, sign, wait};

fn keys() -> (Keys, EcdsaKeyPair) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agent-softtee-keys");
    let keys = Keys::load_or_create(&folder).unwrap();
    let key = fs::read(folder.join("v1/vcek.key")).unwrap();
    (keys, EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key).unwrap())
}

async fn boot(dir: &Path, image: &Image, contract: &Contract) -> (Vm, api::AgentClient) {
    let (keys, signer) = keys();
    let vm = Vm::start(&host_with(dir, image, contract, None, move |report| sign(&keys, &signer, report))).unwrap();
    let agent = greeted(&vm).await;
    let status = settled(&agent).await;
    assert_eq!((status.state.unwrap(), status.refusal.as_str()), (api::State::READY, ""));
    (vm, agent)
}

/// Carries a tunnel to the attested service, as the host does.
async fn tunnel(agent: &api::AgentClient) -> DuplexStream {
    let request = api::TunnelOpenRequest { target: "attested".into(), ..Default::default() };
    let id = agent.tunnel_open(wait(), &request).await.unwrap().id;
    let (ours, theirs) = tokio::io::duplex(MAX_CHUNK);
    let (mut from, mut to) = tokio::io::split(theirs);
    let (up, down) = (agent.clone(), agent.clone());
    tokio::spawn(async move {
        loop {
            let request = api::TunnelReadRequest { id, ..Default::default() };
            let Ok(reply) = up.tunnel_read(wait(), &request).await else { return };
            if reply.eof || to.write_all(&reply.data).await.is_err() {
                let _ = to.shutdown().await;
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut data = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut data).await {
            let request = api::TunnelWriteRequest { id, data: data[..count].to_vec(), ..Default::default() };
            if down.tunnel_write(wait(), &request).await.is_err() {
                return;
            }
        }
        let _ = down.tunnel_close(wait(), &api::TunnelCloseRequest { id, ..Default::default() }).await;
    });
    ours
}

async fn connect(agent: &api::AgentClient, key: Option<&Key>) -> Client {
    Client::connect(tunnel(agent).await, key).await.unwrap()
}

fn report(reply: &EvidenceReply) -> (Report, SnpEvidence) {
    let evidence: SnpEvidence = serde_json::from_value(reply.evidence.clone()).unwrap();
    (Report::parse(&evidence.report_bytes().unwrap()).unwrap(), evidence)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn evidence_is_fresh_and_of_this_connection() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let contract = image.contract(&["/bin/program"], "");
    let (_vm, agent) = boot(dir.path(), &image, &contract).await;
    let mut client = connect(&agent, None).await;
    let reply = client.evidence(&[1; 32]).await.unwrap();
    let (found, evidence) = report(&reply);
    assert_eq!(found.report_data, report_data(&[1; 32], client.spki()));
    assert_ne!(found.report_data, report_data(&[2; 32], client.spki()), "the nonce of another challenge");
    let document = Initdata::with_contract(&contract).to_toml();
    assert_eq!(reply.initdata, document);
    assert_eq!(found.host_data, belljar_contract::digest(document.as_bytes()).unwrap().host_data());
    // The chain is the software TEE's, and nobody else's.
    let of = |kind| evidence.certificate(&kind).unwrap().to_vec();
    let chain = Chain { ark: of(CertType::ARK), ask: of(CertType::ASK), vek: of(CertType::VCEK), ..Chain::default() };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let judge = |anchors: &Anchors| {
        snp::verify(&evidence.report_bytes().unwrap(), &chain, anchors, now, &snp::Options::UNASKED)
    };
    let verdict = judge(&Anchors::amd().with_software_root(keys().0.ark()));
    assert!(verdict.is_valid() && verdict.software, "{verdict:?}");
    assert_eq!(judge(&Anchors::amd()).first_failure, Some("chain-to-anchor"));
    // Each report is made for its nonce; the key stays the same for all connections of this guest.
    let mut again = connect(&agent, None).await;
    assert_eq!(again.spki(), client.spki());
    let second = again.evidence(&[2; 64]).await.unwrap();
    assert_eq!(report(&second).0.report_data, report_data(&[2; 64], again.spki()));
    let short = again.evidence(&[2; 16]).await.unwrap_err().to_string();
    assert_eq!(short, "the pod refused (400): nonce expected 32 to 64 bytes in base64, found 16 bytes");
    client.close().await;
}

async fn all(mut frames: belljar_attested::client::Frames) -> Vec<(Kind, Vec<u8>)> {
    let mut found: Vec<(Kind, Vec<u8>)> = Vec::new();
    while let Some(frame) = Frame::read(&mut frames).await.unwrap() {
        match found.iter_mut().find(|(kind, _)| *kind == frame.kind) {
            Some((_, content)) => content.extend(frame.content),
            None => found.push((frame.kind, frame.content)),
        }
    }
    found.sort_by_key(|(kind, _)| *kind as u8);
    found
}

fn refused(outcome: Result<belljar_attested::client::Frames, ClientError>) -> (u16, String) {
    match outcome {
        Err(ClientError::Refused { status, message }) => (status, message),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn the_operator_reads_what_the_host_may_not_and_starts_commands() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let (key, _) = Key::generate().unwrap();
    let (other, _) = Key::generate().unwrap();
    // Neither output nor stdin is the host's.
    let mut contract = image.contract(&["/bin/program", "serve"], "");
    let spki_sha256 = key.spki_sha256();
    contract.operator = Some(Operator { spki_sha256, exec: Permission::Allow, logs: Permission::Allow });
    let (_vm, agent) = boot(dir.path(), &image, &contract).await;
    agent.start_container(wait(), &main_container()).await.unwrap();
    let host = api::ReadOutputRequest { name: "main".into(), ..Default::default() };
    assert!(agent.read_output(wait(), &host).await.is_err());

    let exec = |args: &[&str]| ExecStart {
        container: "main".into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        terminal: false,
    };
    let mut frames = connect(&agent, Some(&key)).await.exec(&exec(&["/bin/program", "cat"])).await.unwrap();
    for input in [b"one\n".as_slice(), b"two\n", b""] {
        Frame::new(Kind::Stdin, input).write(&mut frames).await.unwrap();
    }
    let found = all(frames).await;
    let exit = serde_json::to_vec(&ExecExit { code: 7 }).unwrap();
    let expected = [
        (Kind::Stdout, b"hello from 2 args, uid 0\ngot one\ngot two\n".to_vec()),
        (Kind::Stderr, b"to stderr\n".to_vec()),
        (Kind::Exit, exit),
    ];
    assert_eq!(found, expected);
    let missing = connect(&agent, Some(&key)).await.exec(&exec(&["/bin/missing"])).await.unwrap();
    let missing = all(missing).await;
    assert!(matches!(missing.as_slice(), [(Kind::Error, _)]), "{missing:?}");

    let query = |container: &str| LogsQuery { container: container.into(), follow: false };
    let logs = all(connect(&agent, Some(&key)).await.logs(&query("main")).await.unwrap()).await;
    let expected = [
        (Kind::Stdout, b"hello from 2 args, uid 0\nlistening\n".to_vec()),
        (Kind::Stderr, b"to stderr\n".to_vec()),
        (Kind::End, Vec::new()),
    ];
    assert_eq!(logs, expected);
    let unknown = refused(connect(&agent, Some(&key)).await.logs(&query("other")).await);
    assert_eq!(unknown, (404, "the contract has no container \"other\"".into()));

    // The twins: another key, and none.
    let (expected, found) = (key.spki_sha256(), other.spki_sha256());
    let denied = refused(connect(&agent, Some(&other)).await.logs(&query("main")).await);
    assert_eq!(denied, (403, format!("operator expected key {expected} by the contract, found {found}")));
    let denied = refused(connect(&agent, Some(&other)).await.exec(&exec(&["/bin/program"])).await);
    assert_eq!(denied, (403, format!("operator expected key {expected} by the contract, found {found}")));
    let denied = refused(connect(&agent, None).await.exec(&exec(&["/bin/program"])).await);
    assert_eq!(denied.0, 401);
}

/// The twin of `the_operator_reads_what_the_host_may_not_and_starts_commands`: the same key, nothing allowed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn an_operator_without_permissions_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let (key, _) = Key::generate().unwrap();
    let mut contract = image.contract(&["/bin/program", "serve"], "");
    let spki_sha256 = key.spki_sha256();
    contract.operator = Some(Operator { spki_sha256, exec: Permission::Deny, logs: Permission::Deny });
    let (_vm, agent) = boot(dir.path(), &image, &contract).await;
    agent.start_container(wait(), &main_container()).await.unwrap();
    let start = ExecStart { container: "main".into(), args: vec!["/bin/program".into()], terminal: false };
    let denied = refused(connect(&agent, Some(&key)).await.exec(&start).await);
    assert_eq!(denied, (403, "operator.exec expected allow by the contract, found deny".into()));
    let query = LogsQuery { container: "main".into(), follow: false };
    let denied = refused(connect(&agent, Some(&key)).await.logs(&query).await);
    assert_eq!(denied, (403, "operator.logs expected allow by the contract, found deny".into()));
}
