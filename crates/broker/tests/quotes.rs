//! Handshakes with Intel's evidence, of a PKI in Intel's shape: a trust domain and an enclave, and each thing that a broker
//! refuses them for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use aws_lc_rs::digest::{SHA384, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use belljar_broker::{Launch, Reference, Trust, Workload};
use belljar_collateral::{Collection, Document, Item};
use belljar_evidence::dcap::Anchors;
use belljar_rcar::{HashAlgorithm, Jwk, TeeKey, report_data, wire::Challenge};
use belljar_testpki::intel;
use common::{PATH, SECRET, World, workload};
use hyper::{Method, header};
use serde_json::{Value, json};

const FMSPC: &str = "00906ed50000";
const INITDATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"contract.toml\" = \"version = 1\"\n";

/// What stands in a TD's or an enclave's register, and what names the workload.
fn bound(document: &str) -> ([u8; 48], [u8; 32]) {
    let digest: [u8; 48] = digest(&SHA384, document.as_bytes()).as_ref().try_into().unwrap();
    (digest, digest[..32].try_into().unwrap())
}

fn collection(made: &intel::Made, tee: &str) -> Collection {
    let document = |item: &str, chain: &[u8], body: &[u8]| Document {
        item: item.parse::<Item>().unwrap(),
        source: "the test".into(),
        fetched: belljar_testpki::NOW,
        chain: chain.to_vec(),
        body: body.to_vec(),
    };
    let of = &made.collateral;
    Collection::new(vec![
        document(&format!("intel/{tee}/tcb-info/{FMSPC}/standard"), &of.tcb_signing_chain, &of.tcb_info),
        document(&format!("intel/{tee}/qe-identity/standard"), &of.qe_signing_chain, &of.qe_identity),
        document("intel/pck-crl/platform", &of.pck_crl_chain, &of.pck_crl),
        document("intel/root-crl", &[], &of.root_crl),
    ])
}

fn td_reference() -> Reference {
    let launch = Launch::from([
        ("mr_td".to_owned(), hex::encode([0x7D; 48])),
        ("rtmr_1".to_owned(), hex::encode([1; 48])),
        ("rtmr_2".to_owned(), hex::encode([2; 48])),
    ]);
    Reference { name: "guest, tdx".into(), owner: "belljar measure".into(), launch }
}

/// What a handshake ended in: the claim of the denial, or the resource.
async fn handshake(world: &World, tee: &str, quote: impl FnOnce([u8; 64]) -> Vec<u8>) -> Result<Vec<u8>, String> {
    let key = TeeKey::generate().unwrap();
    let jwk: Jwk = key.jwk();
    let mut connection = world.connection().await;
    let body = json!({ "version": "0.4.0", "tee": tee, "extra-params": "" }).to_string().into_bytes();
    let none: [(header::HeaderName, String); 0] = [];
    let answer = connection.send(Method::POST, "/kbs/v0/auth", &none, Some(body), 1 << 20).await.unwrap();
    let (challenge, _) = Challenge::parse(&answer.body).unwrap();
    let cookie = |answer: &belljar_rcar::connection::Answer| {
        [(header::COOKIE, answer.cookies[0].split(';').next().unwrap().to_owned())]
    };
    let quote = quote(report_data(&jwk, &challenge.nonce, "", HashAlgorithm::Sha384));
    let body = json!({
        "init-data": { "format": "toml", "body": INITDATA },
        "runtime-data": { "nonce": challenge.nonce, "tee-pubkey": jwk },
        "tee-evidence": { "primary_evidence": { "quote": STANDARD.encode(quote) }, "additional_evidence": "" },
    });
    let body = Some(body.to_string().into_bytes());
    let answer = connection.send(Method::POST, "/kbs/v0/attest", &cookie(&answer), body, 1 << 20).await.unwrap();
    if answer.status != 200 {
        let denial = world.last().denial.clone().unwrap();
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(told["detail"].as_str().unwrap().contains(&denial.id), "{told}");
        return Err(denial.claim);
    }
    let path = format!("/kbs/v0/resource/{PATH}");
    let answer = connection.send(Method::GET, &path, &cookie(&answer), None, 1 << 20).await.unwrap();
    assert_eq!(answer.status, 200);
    Ok(belljar_rcar::jwe::Jwe::parse(&answer.body).unwrap().decrypt(&key).unwrap().to_vec())
}

/// A broker that trusts this PKI as a software root, and knows the workload as this launch.
async fn world(made: &intel::Made, collateral: Collection, reference: Reference) -> World {
    let root = made.root.clone();
    let world = World::with(|config| {
        config.trust = Trust { intel: Anchors::none().with_software_root(&root), ..Trust::default() };
        config.collateral = collateral;
        config.workloads =
            vec![Workload { initdata_digest: bound(INITDATA).1, references: vec![reference], ..workload() }];
    })
    .await;
    world.clock.set(belljar_testpki::NOW);
    world
}

type Change = fn(&mut intel::World);

/// Attests with a TD's quote under what was made.
async fn attest(
    world: &World,
    tee: &str,
    intel: &intel::World,
    made: &intel::Made,
    change: Change,
) -> Result<Vec<u8>, String> {
    let mut intel = intel.clone();
    handshake(world, tee, |report_data| {
        intel.td().mr_config_id = bound(INITDATA).0;
        intel.td().report_data = report_data;
        change(&mut intel);
        intel.quote_under(made)
    })
    .await
}

fn refused(claim: &str) -> Result<Vec<u8>, String> {
    Err(claim.to_owned())
}

#[tokio::test]
async fn a_trust_domain_gets_its_secret_and_each_change_is_refused() {
    let intel = intel::World::tdx4(1);
    let made = intel.make();
    let world = world(&made, collection(&made, "tdx"), td_reference()).await;
    assert_eq!(attest(&world, "tdx", &intel, &made, |_| ()).await.unwrap(), SECRET);
    let record = world.last();
    let found = (record.tee.as_str(), record.tcb.as_deref(), record.freshness.as_deref());
    assert_eq!(found, ("software-tee", Some("UpToDate"), Some("fresh")));
    assert_eq!(record.launch["rtmr_1"], hex::encode([1; 48]));

    let changes: [(&str, Change); 4] = [
        ("report_data", |w| w.td().report_data[0] ^= 1),
        ("init_data", |w| w.td().mr_config_id[0] ^= 1),
        // Also a bit of the digest that does not name the workload.
        ("init_data", |w| w.td().mr_config_id[47] ^= 1),
        ("debug", |w| w.td().td_attributes[0] |= 1),
    ];
    for (claim, change) in changes {
        assert_eq!(attest(&world, "tdx", &intel, &made, change).await, refused(claim));
    }
    // A quote of a TD does not answer an enclave's challenge.
    assert_eq!(attest(&world, "sgx", &intel, &made, |_| ()).await, refused("message"));
}

#[tokio::test]
async fn a_platform_that_nothing_is_known_of_and_another_kernel_are_refused() {
    let intel = intel::World::tdx4(2);
    let made = intel.make();
    let fresh = world(&made, collection(&made, "tdx"), td_reference()).await;
    assert_eq!(attest(&fresh, "tdx", &intel, &made, |_| ()).await.unwrap(), SECRET);
    // Without collateral there is no decision, and that is a no.
    let without = world(&made, Collection::default(), td_reference()).await;
    assert_eq!(attest(&without, "tdx", &intel, &made, |_| ()).await, refused("pck-crl-signature"));
    // Another kernel than the reference's.
    let mut reference = td_reference();
    reference.launch.insert("rtmr_1".into(), hex::encode([9; 48]));
    let other = world(&made, collection(&made, "tdx"), reference).await;
    assert_eq!(attest(&other, "tdx", &intel, &made, |_| ()).await, refused("measurement"));
}
