//! The admin API, from another process's side.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use belljar_broker::{
    AdminToken, Broker, BrokerUrl, Config, ConfigError, Limits, RemoteBroker, RemoteError, ServeError, Trust, Workload,
    WorkloadError, serve_standalone,
};
use belljar_rcar::Tee;
use common::{ADMIN, DOCUMENT, SECRET, URI, World, host_data, refusal, workload};
use hyper::{Method, header};
use serde_json::{Value, json};
use std::time::Duration;
use zeroize::Zeroizing;

fn token(text: &str) -> AdminToken {
    AdminToken::new(Zeroizing::new(text.into())).unwrap()
}

fn remote(world: &World) -> RemoteBroker {
    RemoteBroker::new(world.listening.url(), token(ADMIN))
}

#[tokio::test]
async fn a_workload_is_registered_watched_and_withdrawn() {
    let world = World::with(|config| config.workloads.clear()).await;
    let remote = remote(&world);
    let digest = host_data(DOCUMENT);
    refusal(world.attest(&|_| ()).await.unwrap_err());
    let ttl = Some(Duration::from_secs(600));
    let id = remote.register(&Workload { ttl, ..workload() }).await.unwrap();
    let mut client = world.attest(&|_| ()).await.unwrap();
    assert_eq!(client.resource(&URI.parse().unwrap()).await.unwrap().as_slice(), SECRET);

    let handshakes = remote.handshakes(&digest).await.unwrap();
    let local: Vec<_> = world.broker.records().iter().map(|r| (**r).clone()).collect();
    assert_eq!(handshakes, local);
    assert_eq!(handshakes.iter().map(|record| record.admitted).collect::<Vec<_>>(), [false, true]);
    assert_eq!(handshakes[0].denial.as_ref().unwrap().claim, "host_data");
    assert_eq!(remote.handshakes(&[0; 32]).await.unwrap(), []);

    remote.withdraw(&id).await.unwrap();
    assert_eq!(refusal(client.resource(&URI.parse().unwrap()).await.unwrap_err()).1, "PolicyDeny");
    let error = remote.withdraw(&id).await.unwrap_err();
    let detail = "no such workload".to_owned();
    assert_eq!(error, RemoteError::Refused { status: 404, kind: "NotFound".into(), detail });
}

#[tokio::test]
async fn known_workloads_are_listed_by_name_without_their_secrets() {
    let world = World::with(|config| config.workloads.clear()).await;
    let remote = remote(&world);
    let named = |name: &str| Workload { name: name.into(), ..workload() };
    let name = "team a/Deployment/web & co";
    let first = remote.register(&named(name)).await.unwrap();
    let second = remote.register(&named(name)).await.unwrap();
    remote.register(&named("other")).await.unwrap();
    let known = remote.known(name).await.unwrap();
    assert_eq!(known.iter().map(|known| known.id.clone()).collect::<Vec<_>>(), [first.clone(), second.clone()]);
    let expected = workload();
    assert_eq!(known[0].name, name);
    assert_eq!(known[0].owner, expected.owner);
    assert_eq!(known[0].initdata_digest, expected.initdata_digest);
    assert_eq!(known[0].launches, expected.references.iter().map(|r| r.launch.clone()).collect::<Vec<_>>());
    assert_eq!(known[0].resources, expected.resources.iter().map(|r| r.path.clone()).collect::<Vec<_>>());
    remote.withdraw(&first).await.unwrap();
    assert_eq!(remote.known(name).await.unwrap().iter().map(|known| known.id.clone()).collect::<Vec<_>>(), [second]);
    assert_eq!(remote.known("nobody").await.unwrap(), []);
    let stranger = RemoteBroker::new(world.listening.url(), token(&ADMIN.replace("admin", "edmin")));
    assert!(matches!(stranger.known(name).await, Err(RemoteError::Refused { status: 401, .. })));
}

#[tokio::test]
async fn another_token_opens_nothing() {
    let world = World::new().await;
    assert!(remote(&world).register(&workload()).await.is_ok());
    let other = token(&ADMIN.replace("admin", "edmin"));
    let stranger = RemoteBroker::new(world.listening.url(), other);
    let refused =
        RemoteError::Refused { status: 401, kind: "AdminToken".into(), detail: "no or another admin token".into() };
    assert_eq!(stranger.register(&workload()).await.unwrap_err(), refused);
    assert_eq!(stranger.handshakes(&[0; 32]).await.unwrap_err(), refused);
    let id = remote(&world).register(&workload()).await.unwrap();
    assert_eq!(stranger.withdraw(&id).await.unwrap_err(), refused);
    assert!(remote(&world).withdraw(&id).await.is_ok());
    for value in
        [None, Some(String::new()), Some(ADMIN.into()), Some(format!("bearer {ADMIN}")), Some("Bearer ".into())]
    {
        let headers: Vec<_> = value.map(|value| (header::AUTHORIZATION, value)).into_iter().collect();
        let mut c = world.connection().await;
        let answer = c.send(Method::GET, "/belljar/v1/handshakes", &headers, None, 10_000).await.unwrap();
        assert_eq!(answer.status, 401, "{headers:?}");
    }
}

#[tokio::test]
async fn without_an_admin_token_there_is_no_such_api() {
    let world = World::with(|config| config.admin_token = None).await;
    let error = remote(&world).register(&workload()).await.unwrap_err();
    assert!(matches!(error, RemoteError::Refused { status: 404, .. }), "{error:?}");
    assert!(matches!(serve_standalone(&world.broker, ([127, 0, 0, 1], 0)).await, Err(ServeError::NoAdminToken)));
}

/// A registration's body, with one change.
fn body(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut body = json!({
        "name": "scorer", "owner": "team", "initdata_digest": "ab".repeat(32),
        "references": [{ "name": "guest", "owner": "measure", "launch": { "snp_launch_measurement": "cd".repeat(48) } }],
        "resources": [{ "path": "default/key/1", "content": "c2VjcmV0" }],
        "rules": ["default/key/1"], "ttl_seconds": 60
    });
    change(&mut body);
    body.to_string().into_bytes()
}

#[tokio::test]
async fn each_fault_of_a_registration_is_told() {
    let world = World::new().await;
    let ask = async |body: Vec<u8>| {
        let headers = [(header::AUTHORIZATION, format!("Bearer {ADMIN}"))];
        let mut c = world.connection().await;
        let answer = c.send(Method::POST, "/belljar/v1/workloads", &headers, Some(body), 10_000).await.unwrap();
        let value: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status.as_u16(), value["detail"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask(body(|_| ())).await, (201, String::new()));
    let without_ttl = body(|b| drop(b.as_object_mut().unwrap().remove("ttl_seconds")));
    assert_eq!(ask(without_ttl).await.0, 201);
    let told = async |body: Vec<u8>, why: &str| {
        let (status, detail) = ask(body).await;
        assert!(status == 400 && detail.contains(why), "{status} {detail:?}, expected {why:?}");
    };
    told(body(|b| b["extra"] = 1.into()), "unknown field `extra`").await;
    told(body(|b| b["initdata_digest"] = "ab".into()), "initdata_digest is not hexadecimal").await;
    told(
        body(|b| b["references"][0]["launch"]["snp_launch_measurement"] = "zz".repeat(48).into()),
        "launch value \"snp_launch_measurement\" has not the form",
    )
    .await;
    told(body(|b| b["references"] = json!([])), "no reference measurement").await;
    told(body(|b| b["resources"][0]["content"] = "*".into()), "is not base64").await;
    told(body(|b| b["resources"][0]["path"] = "a/../b".into()), "is not repository/type/tag").await;
    told(body(|b| b["rules"] = json!(["*"])), "is none of repository/type/tag").await;
    told(body(|b| b["ttl_seconds"] = 0.into()), "ttl_seconds is 0 or more than").await;
    told(body(|b| b["ttl_seconds"] = (366 * 24 * 3600 + 1).into()), "ttl_seconds is 0 or more than").await;
    told(b"not json".to_vec(), "expected").await;
    let (status, detail) = ask(vec![b' '; 8 * 1024 * 1024 + 1]).await;
    assert_eq!((status, detail.as_str()), (413, "the registration is too long"));
}

#[tokio::test]
async fn workloads_are_bounded() {
    let limits = Limits { workloads: 2, ..Limits::default() };
    let world = World::with(|config| config.limits = limits).await;
    let short = Workload { ttl: Some(Duration::from_secs(10)), ..workload() };
    remote(&world).register(&short).await.unwrap();
    let error = remote(&world).register(&workload()).await.unwrap_err();
    let detail = WorkloadError::Full(2).to_string();
    assert_eq!(error, RemoteError::Refused { status: 429, kind: "TooManyWorkloads".into(), detail });
    world.clock.advance(10);
    assert!(remote(&world).register(&workload()).await.is_ok());
}

#[tokio::test]
async fn a_broker_that_is_away_or_another_is_told_apart() {
    let world = World::new().await;
    let url = world.listening.url();
    assert_eq!(url.to_string().parse::<BrokerUrl>().unwrap(), url);
    let other = BrokerUrl { pin: belljar_rcar::SpkiPin([0; 32]), ..url.clone() };
    let error = RemoteBroker::new(other, token(ADMIN)).handshakes(&[0; 32]).await.unwrap_err();
    assert!(
        matches!(error, RemoteError::Connection(belljar_rcar::connection::ConnectionError::PinMismatch { .. })),
        "{error:?}"
    );
    assert!(remote(&world).handshakes(&[0; 32]).await.is_ok());
    let remote = remote(&world);
    world.listening.shutdown().await;
    assert!(matches!(remote.handshakes(&[0; 32]).await, Err(RemoteError::Unreachable { .. })));
}

#[tokio::test]
async fn a_standalone_broker_serves_both() {
    let chip = common::Chip::new();
    let config = Config {
        trust: Trust { amd: chip.keys.anchors(), ..Trust::default() },
        allow_software_tee: true,
        admin_token: Some(token(ADMIN)),
        ..Config::default()
    };
    let listening = serve_standalone(&Broker::new(config).unwrap(), ([127, 0, 0, 1], 0)).await.unwrap();
    let remote = RemoteBroker::new(listening.url(), token(ADMIN));
    remote.register(&workload()).await.unwrap();
    // Names are resolved by the C library, which is linked statically: `files` and `dns` are built into it.
    let named: BrokerUrl = remote.url().to_string().replace("127.0.0.1", "localhost").parse().unwrap();
    let stream = named.connect().await.unwrap();
    let mut client = belljar_rcar::Client::connect(stream, remote.url().pin).await.unwrap();
    let report_data = client.auth(Tee::Snp).await.unwrap();
    let document = Some(belljar_rcar::InitData::toml(DOCUMENT));
    client.attest(&chip.evidence(report_data, &|_| ()), document).await.unwrap();
    assert_eq!(client.resource(&URI.parse().unwrap()).await.unwrap().as_slice(), SECRET);
    listening.shutdown().await;
}

#[test]
fn admin_tokens_are_long_and_not_shown() {
    let short = AdminToken::new(Zeroizing::new("a".repeat(31)));
    assert_eq!(short.unwrap_err(), ConfigError::AdminToken(31));
    let long = token(&"a".repeat(32));
    assert_eq!(format!("{long:?}"), "AdminToken(…)");
    let fresh = AdminToken::generate().unwrap();
    assert!(fresh.reveal().len() == 64 && fresh.reveal() != AdminToken::generate().unwrap().reveal());
}

#[test]
fn limits_of_zero_are_refused() {
    let with = |limits: Limits| Broker::new(Config { limits, ..Config::default() }).map(|_| ()).unwrap_err();
    assert!(Broker::new(Config::default()).is_ok());
    assert_eq!(with(Limits { sessions: 0, ..Limits::default() }), ConfigError::Limit("sessions"));
    assert_eq!(with(Limits { records: 0, ..Limits::default() }), ConfigError::Limit("records"));
    assert_eq!(with(Limits { workloads: 0, ..Limits::default() }), ConfigError::Limit("workloads"));
    assert_eq!(with(Limits { connections: 0, ..Limits::default() }), ConfigError::Limit("connections"));
}
