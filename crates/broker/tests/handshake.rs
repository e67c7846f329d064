//! Whole handshakes over TLS: the one that succeeds, and each that differs from it in one thing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use belljar_broker::{Anchors, Broker, Config, Limits, Outcome, Reference, Trust, Workload};
use belljar_evidence::snp::builtin;
use belljar_rcar::{
    Attester, Client, ClientError, InitData, ResourceUri, Step, Tee,
    ear::{self, Status},
    snp::SnpEvidence,
};
use common::{Chip, DOCUMENT, MEASUREMENT, PATH, SECRET, URI, World, host_data, refusal, workload};
use proptest::prelude::*;
use std::time::Duration;

fn uri(text: &str) -> ResourceUri {
    text.parse().unwrap()
}

#[tokio::test]
async fn an_expected_workload_gets_its_secret() {
    let world = World::new().await;
    let mut events = world.broker.subscribe();
    let mut client = world.client().await;
    let report_data = client.auth(Tee::Snp).await.unwrap();
    assert_eq!(client.report_data(), Some(report_data));
    let evidence = world.chip.evidence(report_data, &|_| ());
    let token = client.attest(&evidence, Some(InitData::toml(DOCUMENT))).await.unwrap().token.clone();
    assert_eq!(client.resource(&uri(URI)).await.unwrap().as_slice(), SECRET);
    client.close().await;

    let record = world.last();
    assert!(record.admitted && record.denial.is_none());
    assert!(record.checks.iter().all(|check| check.outcome != Outcome::Failed));
    for name in ["report-signature", "chain-to-anchor", "tcb", "report_data", "init_data", "host_data", "measurement"] {
        assert_eq!(record.check(name).unwrap().outcome, Outcome::Passed, "{name}");
    }
    assert_eq!(record.check("measurement").unwrap().owner.as_deref(), Some("belljar measure (reference value)"));
    assert_eq!(record.check("host_data").unwrap().owner.as_deref(), Some("fraud team"));
    assert_eq!(record.workloads, ["scorer"]);
    assert_eq!(record.init_data.as_deref(), Some(DOCUMENT));
    assert_eq!(record.launch["software_launch_measurement"], hex::encode(MEASUREMENT));
    assert_eq!(record.evidence.as_ref().unwrap().len(), 2 * 1184);
    let kinds: Vec<_> = record.chain.iter().map(|c| c.kind.as_str()).collect();
    assert_eq!(kinds, ["VEK", "ASK"]);
    assert_eq!(STANDARD.decode(&record.chain[1].der).unwrap(), world.chip.keys.chain().ask);
    assert_eq!(record.token.as_deref(), Some(token.as_str()));
    let [release] = &record.releases[..] else { panic!("{:?}", record.releases) };
    assert_eq!((release.resource.as_str(), release.bytes, &release.denial), (PATH, Some(SECRET.len()), &None));

    // Told once when it was admitted, and once when the resource went out.
    assert_eq!(events.recv().await.unwrap().releases.len(), 0);
    assert_eq!(events.recv().await.unwrap(), record);
}

#[tokio::test]
async fn the_token_says_that_it_is_a_software_tee() {
    let world = World::new().await;
    let client = world.attest(&|_| ()).await.unwrap();
    let now = belljar_broker::Clock::now(&*world.clock);
    let claims = ear::verify(&client.token().unwrap().token, world.broker.token_key(), now).unwrap();
    assert_eq!((claims.iat, claims.exp), (now, now + 300));
    let cpu = &claims.submods["cpu0"];
    assert_eq!((cpu.status, cpu.tee.as_deref()), (Status::Contraindicated, Some("software-tee")));
    assert_eq!((cpu.trust_vector.hardware, cpu.trust_vector.executables, cpu.trust_vector.configuration), (96, 3, 2));
    let evidence = &cpu.annotated_evidence;
    assert_eq!(evidence["belljar"]["root"], "software");
    assert_eq!(evidence["snp"]["measurement"], hex::encode(MEASUREMENT));
    assert_eq!(evidence["init_data"], hex::encode(host_data(DOCUMENT)));
    assert_eq!(evidence["runtime_data_claims"]["tee-pubkey"]["kty"], "EC");
    let record = world.last();
    assert_eq!((record.status, record.tee.as_str(), record.admitted), (Status::Contraindicated, "software-tee", true));
}

/// Attests with one change, and gives the claim of the denial, checked to be the same in the client's reason, in the
/// record and in its one line.
async fn denied(world: &World, edit: &dyn Fn(&mut [u8; 1184]), document: Option<&str>) -> String {
    let error = world.attest_with(edit, document).await.unwrap_err();
    let (status, kind, detail) = refusal(error);
    assert_eq!((status, kind.as_str()), (401, "AttestationError"));
    let record = world.last();
    assert!(!record.admitted && record.token.is_none());
    let denial = record.denial.clone().unwrap();
    assert_eq!(
        detail,
        format!(
            "Attestation error: RCAR handshake Attest failed: {} is not as expected (denial {})",
            denial.claim, denial.id
        )
    );
    let check = record.check(&denial.claim).unwrap();
    assert_eq!((check.outcome, &check.expected, &check.found), (Outcome::Failed, &denial.expected, &denial.found));
    let line = denial.to_string();
    for part in [&denial.claim, &denial.expected, &denial.found, &denial.owner, &denial.id] {
        assert!(line.contains(part.as_str()) && !line.contains('\n'), "{line}");
    }
    denial.claim
}

#[tokio::test]
async fn a_wrong_measurement_is_refused_and_the_owner_named() {
    let world = World::new().await;
    assert!(world.attest(&|_| ()).await.is_ok());
    assert_eq!(denied(&world, &|report| report[0x90] ^= 1, Some(DOCUMENT)).await, "measurement");
    let denial = world.last().denial.clone().unwrap();
    let mut found = MEASUREMENT;
    found[0] ^= 1;
    assert_eq!(
        denial.expected,
        format!("{} (software_launch_measurement of set guest 0.1.0, 1 vCPU)", hex::encode(MEASUREMENT))
    );
    assert_eq!((denial.found, denial.owner.as_str()), (hex::encode(found), "belljar measure (reference value)"));
    assert_eq!(world.last().trust_vector.executables, 33);
}

#[tokio::test]
async fn a_changed_contract_is_refused() {
    let world = World::new().await;
    let changed = DOCUMENT.replace("version = 1", "version = 2");
    let bind =
        |document: String| move |report: &mut [u8; 1184]| report[0xc0..0xe0].copy_from_slice(&host_data(&document));
    assert!(world.attest_with(&bind(DOCUMENT.into()), Some(DOCUMENT)).await.is_ok());
    // The host binds and sends another contract.
    assert_eq!(denied(&world, &bind(changed.clone()), Some(&changed)).await, "host_data");
    let denial = world.last().denial.clone().unwrap();
    assert_eq!(denial.expected, format!("{} (scorer)", hex::encode(host_data(DOCUMENT))));
    assert_eq!((denial.found, denial.owner.as_str()), (hex::encode(host_data(&changed)), "fraud team"));
    assert_eq!(world.last().check("measurement").unwrap().outcome, Outcome::Failed);
    // It binds the right one and sends another, or binds another and sends the right one.
    assert_eq!(denied(&world, &|_| (), Some(&changed)).await, "init_data");
    assert_eq!(denied(&world, &bind(changed), Some(DOCUMENT)).await, "init_data");
}

#[tokio::test]
async fn init_data_must_be_sent_and_be_a_document() {
    let world = World::new().await;
    assert!(world.attest_with(&|_| (), Some(DOCUMENT)).await.is_ok());
    assert_eq!(denied(&world, &|_| (), None).await, "init_data");
    assert_eq!(world.last().denial.clone().unwrap().found, "no init-data document was sent");
    assert_eq!(denied(&world, &|_| (), Some("algorithm = \"md5\"")).await, "init_data");
    let found = world.last().denial.clone().unwrap().found;
    assert_eq!(found, "init-data algorithm is \"md5\"; sha256, sha384 and sha512 are known");
}

#[tokio::test]
async fn a_guest_that_can_be_read_is_refused() {
    let world = World::new().await;
    assert!(world.attest(&|report| report[0x0a] = 3).await.is_ok());
    assert_eq!(denied(&world, &|report| report[0x0a] = 3 | 1 << 3, Some(DOCUMENT)).await, "debug");
    assert_eq!(world.last().trust_vector.configuration, 96);
    assert_eq!(denied(&world, &|report| report[0x0a] = 3 | 1 << 2, Some(DOCUMENT)).await, "migration");
    assert_eq!(denied(&world, &|report| report[0x30] = 1, Some(DOCUMENT)).await, "flags");
}

#[tokio::test]
async fn a_software_tee_needs_leave() {
    let allowed = World::new().await;
    assert!(allowed.attest(&|_| ()).await.is_ok());
    let world = World::with(|config| config.allow_software_tee = false).await;
    assert_eq!(denied(&world, &|_| (), Some(DOCUMENT)).await, "root");
    let denial = world.last().denial.clone().unwrap();
    assert_eq!(denial.expected, "hardware");
    assert_eq!(denial.found, "a software tee, which protects nothing from its host");
    // Nothing else was wrong with it.
    let failed: Vec<_> = world.last().checks.iter().filter(|c| c.outcome == Outcome::Failed).cloned().collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
}

#[tokio::test]
async fn a_root_that_is_not_known_is_refused() {
    let world = World::with(|config| config.trust.amd = Anchors::amd()).await;
    assert_eq!(denied(&world, &|_| (), Some(DOCUMENT)).await, "chain-to-anchor");
    assert_eq!(world.last().trust_vector.hardware, 99);
    assert_eq!(world.last().denial.clone().unwrap().owner, "this broker's trust anchors");
}

#[tokio::test]
async fn evidence_of_another_chip_is_refused() {
    let world = World::new().await;
    let mut client = world.client().await;
    let report_data = client.auth(Tee::Snp).await.unwrap();
    let other = Chip::of("other-softtee-keys");
    // Signed by the other chip, with the chain of the trusted one.
    let raw = other.report(report_data, &|_| ());
    let evidence = SnpEvidence::with_chain(&raw, Some(world.chip.chain())).unwrap().into();
    refusal(client.attest(&evidence, Some(InitData::toml(DOCUMENT))).await.unwrap_err());
    assert_eq!(world.last().denial.clone().unwrap().claim, "report-signature");
    // A chain without its leaf cannot be judged.
    let report_data = client.auth(Tee::Snp).await.unwrap();
    let raw = world.chip.report(report_data, &|_| ());
    let chain = world.chip.chain().into_iter().skip(1).collect();
    let evidence = SnpEvidence::with_chain(&raw, Some(chain)).unwrap().into();
    refusal(client.attest(&evidence, Some(InitData::toml(DOCUMENT))).await.unwrap_err());
    assert_eq!(world.last().denial.clone().unwrap().claim, "report-signature");
    assert_eq!(world.last().check("report-signature").unwrap().outcome, Outcome::NotChecked);
    // And the same client with its own chip's evidence is admitted.
    let report_data = client.auth(Tee::Snp).await.unwrap();
    let evidence = Attester::evidence(&world.chip, report_data).await.unwrap();
    assert!(client.attest(&evidence, Some(InitData::toml(DOCUMENT))).await.is_ok());
}

#[tokio::test]
async fn evidence_over_another_challenge_is_refused() {
    let world = World::new().await;
    let mut other = world.client().await;
    let others = other.auth(Tee::Snp).await.unwrap();
    let mut client = world.client().await;
    let own = client.auth(Tee::Snp).await.unwrap();
    assert_ne!(others, own);
    let error = client.attest(&world.chip.evidence(others, &|_| ()), Some(InitData::toml(DOCUMENT))).await.unwrap_err();
    refusal(error);
    assert_eq!(world.last().denial.clone().unwrap().claim, "report_data");
    let evidence = world.chip.evidence(others, &|_| ());
    assert!(other.attest(&evidence, Some(InitData::toml(DOCUMENT))).await.is_ok());
}

#[tokio::test]
async fn resources_without_a_rule_are_refused() {
    let world = World::new().await;
    let mut client = world.attest(&|_| ()).await.unwrap();
    let (status, kind, detail) = refusal(client.resource(&uri("kbs:///default/key/unnamed")).await.unwrap_err());
    assert_eq!((status, kind.as_str()), (401, "PolicyDeny"));
    let denial = world.last().releases.last().unwrap().denial.clone().unwrap();
    assert_eq!(detail, format!("Access denied by policy: resource rule (denial {})", denial.id));
    assert_eq!(denial.refused, "resource default/key/unnamed");
    assert_eq!(denial.expected, "default/key/1, default/absent/*");
    assert_eq!(denial.owner, "fraud team");
    // One that does not exist answers the same, so that nobody learns which exist.
    let (status, kind, _) = refusal(client.resource(&uri("kbs:///default/key/nowhere")).await.unwrap_err());
    assert_eq!((status, kind.as_str()), (401, "PolicyDeny"));
    // Where a rule names it, its absence is told.
    let (status, kind, _) = refusal(client.resource(&uri("kbs:///default/absent/1")).await.unwrap_err());
    assert_eq!((status, kind.as_str()), (404, "ResourceNotFound"));
    assert_eq!(client.resource(&uri(URI)).await.unwrap().as_slice(), SECRET);
}

#[tokio::test]
async fn a_workload_gets_only_its_own_secrets() {
    let other = DOCUMENT.replace("version = 1", "version = 7");
    let mut second = Workload { name: "other".into(), initdata_digest: host_data(&other), ..workload() };
    second.resources[0].content = b"the other's".to_vec().into();
    second.resources.truncate(1);
    second.resources.push(belljar_broker::Resource { path: "other/key/1".into(), content: vec![9].into() });
    second.rules.push("other/key/1".parse().unwrap());
    let world = World::with(|config| config.workloads.push(second)).await;
    let bind = move |report: &mut [u8; 1184]| report[0xc0..0xe0].copy_from_slice(&host_data(&other));
    let document = DOCUMENT.replace("version = 1", "version = 7");

    let mut first = world.attest(&|_| ()).await.unwrap();
    let mut second = world.attest_with(&bind, Some(&document)).await.unwrap();
    assert_eq!(first.resource(&uri(URI)).await.unwrap().as_slice(), SECRET);
    assert_eq!(second.resource(&uri(URI)).await.unwrap().as_slice(), b"the other's");
    assert_eq!(second.resource(&uri("kbs:///other/key/1")).await.unwrap().as_slice(), [9]);
    assert_eq!(refusal(first.resource(&uri("kbs:///other/key/1")).await.unwrap_err()).1, "PolicyDeny");
}

#[tokio::test]
async fn a_withdrawn_or_expired_workload_gets_nothing() {
    let world = World::with(|config| config.workloads.clear()).await;
    let ttl = Some(Duration::from_secs(100));
    let id = world.broker.register(Workload { ttl, ..workload() }).unwrap();
    let mut client = world.attest(&|_| ()).await.unwrap();
    world.clock.advance(99);
    assert!(client.resource(&uri(URI)).await.is_ok());
    world.clock.advance(1);
    let denied = |world: &World| world.last().releases.last().unwrap().denial.clone().unwrap().claim;
    assert_eq!(refusal(client.resource(&uri(URI)).await.unwrap_err()).1, "PolicyDeny");
    assert_eq!(denied(&world), "host_data");

    let again = world.broker.register(workload()).unwrap();
    assert!(client.resource(&uri(URI)).await.is_ok());
    assert!(world.broker.withdraw(&again) && !world.broker.withdraw(&again) && !world.broker.withdraw(&id));
    assert_eq!(refusal(client.resource(&uri(URI)).await.unwrap_err()).1, "PolicyDeny");
    // Its measurement is withdrawn, and the workload is not.
    let mut other = workload();
    other.references[0] = Reference::software("guest", "measure", [1; 48]);
    world.broker.register(other).unwrap();
    assert_eq!(refusal(client.resource(&uri(URI)).await.unwrap_err()).1, "PolicyDeny");
    assert_eq!(denied(&world), "measurement");
}

#[tokio::test]
async fn sessions_and_tokens_expire() {
    let world = World::new().await;
    let mut client = world.attest(&|_| ()).await.unwrap();
    world.clock.advance(299);
    assert!(client.resource(&uri(URI)).await.is_ok());
    world.clock.advance(1);
    assert_eq!(refusal(client.resource(&uri(URI)).await.unwrap_err()).1, "TokenNotFound");

    // A token that ends before its session.
    let limits = Limits { token: Duration::from_secs(60), ..Limits::default() };
    let world = World::with(|config| config.limits = limits).await;
    let mut client = world.attest(&|_| ()).await.unwrap();
    world.clock.advance(59);
    assert!(client.resource(&uri(URI)).await.is_ok());
    world.clock.advance(1);
    assert_eq!(refusal(client.resource(&uri(URI)).await.unwrap_err()).1, "TokenNotFound");

    // A challenge that nobody answered in time.
    let mut client = world.client().await;
    let report_data = client.auth(Tee::Snp).await.unwrap();
    world.clock.advance(300);
    let evidence = world.chip.evidence(report_data, &|_| ());
    let (status, kind, detail) = refusal(client.attest(&evidence, Some(InitData::toml(DOCUMENT))).await.unwrap_err());
    assert_eq!((status, kind.as_str()), (401, "AttestationError"));
    assert_eq!(detail, "Attestation error: RCAR handshake Attest failed: session is unknown or expired");
}

#[tokio::test]
async fn nothing_registered_means_nothing_admitted() {
    let world = World::with(|config| config.workloads.clear()).await;
    assert_eq!(denied(&world, &|_| (), Some(DOCUMENT)).await, "host_data");
    let denial = world.last().denial.clone().unwrap();
    assert_eq!(denial.expected, "the digest of a registered workload; there is none");
    world.broker.register(workload()).unwrap();
    assert!(world.attest(&|_| ()).await.is_ok());
}

#[tokio::test]
async fn records_are_bounded() {
    let limits = Limits { records: 2, ..Limits::default() };
    let world = World::with(|config| config.limits = limits).await;
    for _ in 0..3 {
        let mut client = world.attest(&|_| ()).await.unwrap();
        client.resource(&uri(URI)).await.unwrap();
    }
    let records = world.broker.records();
    assert_eq!(records.iter().map(|record| record.releases.len()).collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn another_key_is_not_the_broker() {
    let world = World::new().await;
    let other = World::new().await;
    let error = Client::connect(world.stream().await, other.listening.pin()).await.unwrap_err();
    let (expected, found) = (other.listening.pin(), world.listening.pin());
    assert_eq!(error, ClientError::PinMismatch { expected, found });
    assert!(Client::connect(world.stream().await, world.listening.pin()).await.is_ok());
}

#[tokio::test]
async fn shutdown_answers_and_then_is_away() {
    let world = World::new().await;
    let mut client = world.attest(&|_| ()).await.unwrap();
    let address = world.listening.address();
    world.listening.shutdown().await;
    let error = client.resource(&uri(URI)).await.unwrap_err();
    assert!(matches!(error, ClientError::Transport { step: Step::Resource, .. }), "{error:?}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_stream_without_tcp_is_served() {
    let chip = Chip::new();
    let broker = Broker::new(Config {
        trust: Trust { amd: Anchors::none().with_software_root(chip.keys.ark()), ..Trust::default() },
        allow_software_tee: true,
        workloads: vec![workload()],
        ..Config::default()
    })
    .unwrap();
    let server = belljar_broker::TlsServer::new(&broker).unwrap();
    let (near, far) = tokio::io::duplex(4096);
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve_stream(far, stopped).await }
    });
    let mut client = Client::connect(near, server.pin()).await.unwrap();
    let report_data = client.auth(Tee::Snp).await.unwrap();
    client.attest(&chip.evidence(report_data, &|_| ()), Some(InitData::toml(DOCUMENT))).await.unwrap();
    assert_eq!(client.resource(&uri(URI)).await.unwrap().as_slice(), SECRET);
    client.close().await;
    serving.await.unwrap();
}

#[tokio::test]
async fn hardware_roots_stay_hardware() {
    // AMD's own root, given as a software root, does not become one.
    let anchors = Anchors::amd().with_software_root(builtin::AMD[0].ark);
    assert_eq!(anchors.root(builtin::AMD[0].ark), Anchors::amd().root(builtin::AMD[0].ark));
}

#[test]
fn no_altered_report_is_admitted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new());
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(offset in 0_usize..0x330, bit in 0_u8..8)| {
        runtime.block_on(async {
            let mut client = world.client().await;
            let report_data = client.auth(Tee::Snp).await.unwrap();
            let mut raw = world.chip.report(report_data, &|_| ());
            raw[offset] ^= 1 << bit;
            // What the JSON form cannot carry does not even leave the guest.
            if let Ok(evidence) = SnpEvidence::with_chain(&raw, Some(world.chip.chain())) {
                let error = client.attest(&evidence.into(), Some(InitData::toml(DOCUMENT))).await.unwrap_err();
                assert_eq!(refusal(error).1, "AttestationError", "offset {offset:#x}");
            }
        });
    });
}
