//! What a tenant's administrators do, and what workloads get by it: resources, rules, reference values, revocations, roles.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use belljar_rcar::{HashAlgorithm, InitData, TeeKey, jwe::Jwe, report_data, wire::Challenge};
use common::{ADMIN, Chip, DOCUMENT, MEASUREMENT, World, host_data};
use hyper::{Method, header};
use serde_json::{Value, json};

/// A broker that knows no workload, and whoever speaks with it.
struct Admin<'a> {
    world: &'a World,
    token: String,
    tenant: Option<&'a str>,
}

impl<'a> Admin<'a> {
    fn root(world: &'a World) -> Self {
        Self { world, token: ADMIN.into(), tenant: None }
    }

    fn of(world: &'a World, token: &str) -> Self {
        Self { world, token: token.into(), tenant: None }
    }

    async fn ask(&self, method: Method, path: &str, body: impl Into<Vec<u8>>) -> (u16, Vec<u8>) {
        let mut connection = self.world.connection().await;
        let mut headers = vec![(header::AUTHORIZATION, format!("Bearer {}", self.token))];
        if let Some(tenant) = self.tenant {
            headers.push((header::HeaderName::from_static("belljar-tenant"), tenant.to_owned()));
        }
        let body: Vec<u8> = body.into();
        let answer = connection.send(method, path, &headers, Some(body), 1 << 20).await.unwrap();
        (answer.status.as_u16(), answer.body.to_vec())
    }

    async fn json(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.ask(method, path, body.to_string()).await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.ask(Method::GET, path, "").await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

fn reference(set: &str, value: &[u8], expires: Option<u64>) -> Value {
    let mut value = json!({
        "name": "software_launch_measurement", "set": set, "value": hex::encode(value), "source": "admin", "owner": "measure",
    });
    if let Some(expires) = expires {
        value["expires"] = expires.into();
    }
    value
}

fn rules(contract: &str) -> String {
    format!(
        "[[set]]\nscope = \"team/*/*\"\n[[set.rule]]\nid = \"scorer\"\nresource = \"team/key/*\"\ncontract = [\"{contract}\"]\nmeasurement_set = [\"guest\"]\n"
    )
}

/// A guest that has attested: what it asks with.
struct Guest {
    key: TeeKey,
    cookie: String,
    token: String,
    prefix: String,
}

/// Attests as a guest of nobody's registration; the reason of a refusal.
async fn attest(world: &World, chip: &Chip, prefix: &str) -> Result<Guest, String> {
    let key = TeeKey::generate().unwrap();
    let mut connection = world.connection().await;
    let none: [(header::HeaderName, String); 0] = [];
    let body = json!({ "version": "0.4.0", "tee": "snp", "extra-params": "" }).to_string().into_bytes();
    let path = format!("{prefix}/kbs/v0/auth");
    let answer = connection.send(Method::POST, &path, &none, Some(body), 1 << 20).await.unwrap();
    let (challenge, _) = Challenge::parse(&answer.body).unwrap();
    let cookie = |answer: &belljar_rcar::connection::Answer| answer.cookies[0].split(';').next().unwrap().to_owned();
    let bound = report_data(&key.jwk(), &challenge.nonce, "", HashAlgorithm::Sha384);
    let body = json!({
        "init-data": InitData::toml(DOCUMENT),
        "runtime-data": { "nonce": challenge.nonce, "tee-pubkey": key.jwk() },
        "tee-evidence": { "primary_evidence": chip.evidence(bound, &|_| ()), "additional_evidence": "" },
    });
    let headers = [(header::COOKIE, cookie(&answer))];
    let path = format!("{prefix}/kbs/v0/attest");
    let body = Some(body.to_string().into_bytes());
    let answer = connection.send(Method::POST, &path, &headers, body, 1 << 20).await.unwrap();
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    if answer.status != 200 {
        return Err(told["detail"].as_str().unwrap().to_owned());
    }
    let token = told["token"].as_str().unwrap().to_owned();
    Ok(Guest { key, cookie: cookie(&answer), token, prefix: prefix.into() })
}

impl Guest {
    async fn ask(&self, world: &World, path: &str, headers: &[(header::HeaderName, String)]) -> (u16, Vec<u8>) {
        let mut connection = world.connection().await;
        let path = format!("{}/kbs/v0/resource/{path}", self.prefix);
        let answer = connection.send(Method::GET, &path, headers, None, 1 << 20).await.unwrap();
        if answer.status == 200 {
            return (200, Jwe::parse(&answer.body).unwrap().decrypt(&self.key).unwrap().to_vec());
        }
        (answer.status.as_u16(), answer.body.to_vec())
    }

    /// By its cookie.
    async fn get(&self, world: &World, path: &str) -> (u16, Vec<u8>) {
        self.ask(world, path, &[(header::COOKIE, self.cookie.clone())]).await
    }

    /// By its token.
    async fn show(&self, world: &World, path: &str) -> (u16, Vec<u8>) {
        self.ask(world, path, &[(header::AUTHORIZATION, format!("Bearer {}", self.token))]).await
    }
}

fn kind(answer: &(u16, Vec<u8>)) -> (u16, String) {
    let body: Value = serde_json::from_slice(&answer.1).unwrap();
    (answer.0, body["type"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
}

/// A tenant's reference value, rule and resource, as its operator writes them.
async fn prepare(admin: &Admin<'_>, content: &str) {
    let (status, _) = admin
        .json(
            Method::POST,
            "/belljar/v1/references",
            &json!({ "references": [reference("guest", &MEASUREMENT, None)] }),
        )
        .await;
    assert_eq!(status, 201);
    let rules = rules(&hex::encode(host_data(DOCUMENT)));
    assert_eq!(admin.ask(Method::PUT, "/belljar/v1/policies", rules).await.0, 204);
    assert_eq!(admin.ask(Method::PUT, "/belljar/v1/resources/team/key/1", content).await.0, 204);
    assert_eq!(admin.ask(Method::PUT, "/belljar/v1/resources/team/cert/1", "other").await.0, 204);
}

#[tokio::test]
async fn a_guest_of_no_registration_gets_what_rules_name() {
    let world = World::with(|config| config.workloads.clear()).await;
    let admin = Admin::root(&world);
    let refused = attest(&world, &world.chip, "").await.err().unwrap();
    assert!(refused.contains("host_data is not as expected"), "{refused}");
    prepare(&admin, "secret").await;
    let guest = attest(&world, &world.chip, "").await.unwrap();
    assert_eq!(guest.get(&world, "team/key/1").await, (200, b"secret".to_vec()));
    assert_eq!(guest.show(&world, "team/key/1").await, (200, b"secret".to_vec()));
    // Named by a rule, and not there; there, and named by no rule; neither.
    assert_eq!(kind(&guest.get(&world, "team/key/2").await), (404, "ResourceNotFound".into()));
    for path in ["team/cert/1", "team/cert/2"] {
        assert_eq!(kind(&guest.get(&world, path).await), (401, "PolicyDeny".into()), "{path}");
    }
    // The rule is for another contract.
    assert_eq!(admin.ask(Method::PUT, "/belljar/v1/policies", rules(&"0a".repeat(32))).await.0, 204);
    let denied = guest.get(&world, "team/key/1").await;
    assert_eq!(kind(&denied), (401, "PolicyDeny".into()));
    let record = world.last();
    let denial = record.releases.last().unwrap().denial.clone().unwrap();
    assert_eq!((denial.claim.as_str(), denial.expected), ("contract", "0a".repeat(32)));
    assert_eq!(denial.found, hex::encode(host_data(DOCUMENT)));
    // Its administrator is told all of it, by the id that the guest was told.
    let (status, told) = admin.get(&format!("/belljar/v1/handshakes/{}", denial.id)).await;
    assert_eq!((status, &told["id"]), (200, &json!(record.id)));
    assert!(String::from_utf8(denied.1).unwrap().contains(&denial.id));
    // The reference value goes, and with it what was admitted by it.
    assert_eq!(admin.ask(Method::PUT, "/belljar/v1/policies", rules(&hex::encode(host_data(DOCUMENT)))).await.0, 204);
    assert_eq!(guest.get(&world, "team/key/1").await.0, 200);
    assert_eq!(admin.json(Method::DELETE, "/belljar/v1/references?set=guest", &json!({})).await.1["removed"], 1);
    assert_eq!(kind(&guest.get(&world, "team/key/1").await), (401, "PolicyDeny".into()));
}

#[tokio::test]
async fn an_expired_reference_value_admits_nobody() {
    let world = World::with(|config| config.workloads.clear()).await;
    let admin = Admin::root(&world);
    prepare(&admin, "secret").await;
    assert_eq!(admin.json(Method::DELETE, "/belljar/v1/references?set=guest", &json!({})).await.0, 200);
    let now = belljar_broker::Clock::now(&*world.clock);
    let body = json!({ "references": [reference("guest", &MEASUREMENT, Some(now + 10))] });
    assert_eq!(admin.json(Method::POST, "/belljar/v1/references", &body).await.0, 201);
    let guest = attest(&world, &world.chip, "").await.unwrap();
    assert_eq!(guest.get(&world, "team/key/1").await.0, 200);
    world.clock.advance(11);
    assert_eq!(kind(&guest.get(&world, "team/key/1").await), (401, "PolicyDeny".into()));
    let refused = attest(&world, &world.chip, "").await.err().unwrap();
    assert!(refused.contains("measurement is not as expected"), "{refused}");
}

#[tokio::test]
async fn what_is_revoked_is_dead_at_once() {
    let chip = hex::encode(Chip::new().keys.chip_id());
    for (subject, value) in
        [("measurement", hex::encode(MEASUREMENT)), ("chip", chip), ("contract", hex::encode(host_data(DOCUMENT)))]
    {
        let world = World::with(|config| config.workloads.clear()).await;
        let admin = Admin::root(&world);
        prepare(&admin, "secret").await;
        let guest = attest(&world, &world.chip, "").await.unwrap();
        assert_eq!(guest.get(&world, "team/key/1").await.0, 200);
        let other = json!({ "subject": subject, "value": "00".repeat(32), "reason": "another" });
        assert_eq!(admin.json(Method::POST, "/belljar/v1/revocations", &other).await.0, 201);
        assert_eq!(guest.get(&world, "team/key/1").await.0, 200);
        let this = json!({ "subject": subject, "value": value, "reason": "stolen" });
        assert_eq!(admin.json(Method::POST, "/belljar/v1/revocations", &this).await.0, 201);
        for answer in [guest.get(&world, "team/key/1").await, guest.show(&world, "team/key/1").await] {
            assert_eq!(kind(&answer), (401, "TokenNotFound".into()), "{subject}");
        }
        let refused = attest(&world, &world.chip, "").await.err().unwrap();
        assert!(refused.contains("revocation-list is not as expected"), "{refused}");
        let path = format!("/belljar/v1/revocations?subject={subject}&value={value}");
        assert_eq!(admin.ask(Method::DELETE, &path, "").await.0, 204);
        assert_eq!(guest.get(&world, "team/key/1").await.0, 200);
    }
}

#[tokio::test]
async fn each_role_does_what_it_is_for() {
    let world = World::new().await;
    let admin = Admin::root(&world);
    prepare(&admin, "secret").await;
    for (role, expected) in [
        ("owner", [200, 200, 204, 201, 201]),
        ("operator", [200, 403, 204, 201, 403]),
        ("auditor", [200, 403, 403, 403, 403]),
        ("publisher", [403, 403, 403, 201, 403]),
    ] {
        let body = json!({ "name": role, "role": role });
        let (status, made) = admin.json(Method::POST, "/belljar/v1/principals", &body).await;
        assert_eq!(status, 201);
        assert_eq!(admin.json(Method::POST, "/belljar/v1/principals", &body).await.0, 409);
        let one = Admin::of(&world, made["token"].as_str().unwrap());
        let value = json!({ "references": [reference(role, &[1; 48], None)] });
        let found = [
            one.get("/belljar/v1/resources").await.0,
            one.ask(Method::GET, "/belljar/v1/resources/team/key/1", "").await.0,
            one.ask(Method::PUT, "/belljar/v1/resources/team/key/2", "x").await.0,
            one.json(Method::POST, "/belljar/v1/references", &value).await.0,
            one.json(Method::POST, "/belljar/v1/principals", &json!({ "name": format!("{role}2"), "role": "auditor" }))
                .await
                .0,
        ];
        assert_eq!(found, expected, "{role}");
        // Tenants are the broker's owner's; nobody else learns that there are any.
        assert_eq!(one.get("/belljar/v1/tenants").await.0, 404, "{role}");
        assert_eq!(admin.ask(Method::DELETE, &format!("/belljar/v1/principals/{role}"), "").await.0, 204);
        assert_eq!(one.get("/belljar/v1/resources").await.0, 401, "{role}");
    }
    assert_eq!(admin.get("/belljar/v1/tenants").await, (200, json!({ "tenants": ["default"] })));
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let world = World::with(|config| config.workloads.clear()).await;
    let root = Admin::root(&world);
    prepare(&root, "of default").await;
    let (status, made) = root.json(Method::POST, "/belljar/v1/tenants", &json!({ "name": "blue" })).await;
    assert_eq!(status, 201);
    let blue = Admin::of(&world, made["token"].as_str().unwrap());
    // Nothing of the other is there.
    assert_eq!(blue.get("/belljar/v1/resources").await, (200, json!({ "resources": [] })));
    assert_eq!(blue.get("/belljar/v1/references").await, (200, json!({ "references": [] })));
    assert_eq!(blue.ask(Method::GET, "/belljar/v1/resources/team/key/1", "").await.0, 404);
    // Asking for another tenant, whether it is there or not, is asking without a token.
    for tenant in ["default", "green"] {
        let asked = Admin { tenant: Some(tenant), ..Admin::of(&world, &blue.token) };
        assert_eq!(asked.get("/belljar/v1/resources").await.0, 401, "{tenant}");
    }
    assert_eq!(
        Admin { tenant: Some("blue"), ..Admin::of(&world, &blue.token) }.get("/belljar/v1/resources").await.0,
        200
    );
    // The guest of one tenant is nobody to the other, nor to one that is not there, which answers the same.
    let refused = attest(&world, &world.chip, "/t/blue").await.err().unwrap();
    let nobody = attest(&world, &world.chip, "/t/green").await.err().unwrap();
    let without_id = |text: &str| text.split("(denial").next().unwrap().to_owned();
    assert_eq!(without_id(&refused), without_id(&nobody));
    prepare(&blue, "of blue").await;
    let mut guest = attest(&world, &world.chip, "/t/blue").await.unwrap();
    assert_eq!(guest.get(&world, "team/key/1").await, (200, b"of blue".to_vec()));
    guest.prefix = String::new();
    for answer in [guest.get(&world, "team/key/1").await, guest.show(&world, "team/key/1").await] {
        assert_eq!(kind(&answer), (401, "TokenNotFound".into()));
    }
    // Their handshakes are their own.
    let (_, of_blue) = blue.get("/belljar/v1/handshakes").await;
    assert!(of_blue["handshakes"].as_array().unwrap().iter().all(|one| one["tenant"] == "blue"));
    assert!(!of_blue["handshakes"].as_array().unwrap().is_empty());
    assert_eq!(root.get("/belljar/v1/handshakes").await.1["handshakes"], json!([]));
}

#[tokio::test]
async fn each_fault_is_told() {
    let world = World::new().await;
    let admin = Admin::root(&world);
    let told = |answer: (u16, Value)| (answer.0, answer.1["detail"].as_str().unwrap_or_default().to_owned());
    let bad = [
        (
            Method::POST,
            "/belljar/v1/revocations",
            r#"{"subject":"chip","value":"xy"}"#,
            "value of a chip is not lowercase hex of 16 to 128 digits",
        ),
        (Method::POST, "/belljar/v1/references", r#"{"references":[]}"#, "there is no reference value in it"),
        (Method::PUT, "/belljar/v1/policies", "", "there is no [[set]] in it"),
        (
            Method::POST,
            "/belljar/v1/principals",
            r#"{"name":"A","role":"owner"}"#,
            "a principal's name is 1 to 64 of a-z, 0-9, '-', '_' and '.', the first a letter or digit",
        ),
        (
            Method::POST,
            "/belljar/v1/tenants",
            r#"{"name":"a/b"}"#,
            "a tenant's name is 1 to 64 of a-z, 0-9, '-', '_' and '.', the first a letter or digit",
        ),
    ];
    for (method, path, body, why) in bad {
        let (status, answer) = admin.ask(method, path, body).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(told((status, answer)), (400, why.to_owned()), "{path}");
    }
    let (status, _) = admin.ask(Method::PUT, "/belljar/v1/resources/a/b/%2e%2e", "x").await;
    assert_eq!(status, 400);
    let long = vec![0; belljar_rcar::jwe::MAX_PLAINTEXT + 1];
    assert_eq!(admin.ask(Method::PUT, "/belljar/v1/resources/a/b/c", long.clone()).await.0, 413);
    assert_eq!(admin.ask(Method::PUT, "/belljar/v1/resources/a/b/c", &long[1..]).await.0, 204);
}
