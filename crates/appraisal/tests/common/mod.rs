//! Claims of every TEE, as a verification of good evidence would give them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, dead_code)]

use belljar_appraisal::claims::{Claims, Context, Contract, Evidence, InitData};
use belljar_appraisal::policy::{Settings, SnpFloor};
use belljar_appraisal::reference::{ReferenceValue, References, SourceKind};
use belljar_evidence::tpm::Hash;
use belljar_evidence::{Check, Decision, Outcome, Verdict, azure, dcap, snp, tpm};
use belljar_testpki::amd::{Product, Report};
use belljar_testpki::intel::World;
use serde_json::{Value, json};

/// When the tests judge.
pub const AT: u64 = 1_795_436_053;

pub fn hex(byte: u8, length: usize) -> String {
    format!("{byte:02x}").repeat(length)
}

pub fn context() -> Context {
    Context {
        session_bound: true,
        runtime_data: json!({ "nonce": "n", "tee-pubkey": {} }),
        init_data: InitData::Bound { claims: json!({ "aa.toml": {} }) },
        contract: Some(Contract {
            digest: hex(0xC0, 32),
            signer: Some("key".into()),
            namespace: Some("payments".into()),
            name: Some("scorer".into()),
        }),
    }
}

pub fn verdict<F>(facts: F, revocation: &'static str) -> Verdict<F> {
    let listed =
        Check { name: revocation, outcome: Outcome::Passed, expected: "not listed".into(), found: "not listed".into() };
    Verdict {
        verdict: Decision::Valid,
        first_failure: None,
        software: false,
        flags: vec![],
        checks: vec![listed],
        facts,
    }
}

pub fn snp_report() -> snp::Report {
    let mut report = Report::of(Product::Milan);
    report.measurement = [0xAA; 48];
    report.host_data = [0xC0; 32];
    report.report_data = [0xDA; 64];
    snp::Report::parse(&report.bytes()).unwrap()
}

pub fn snp_verdict() -> Verdict<snp::Facts> {
    let facts = snp::Facts { report: Some(snp_report()), root: Some(snp::Root::Amd), ..snp::Facts::default() };
    verdict(facts, "crl-revoked")
}

/// A verdict of a quote of the test PKI, as if its root were Intel's.
pub fn quote_verdict(world: &World) -> Verdict<dcap::Facts> {
    let made = world.make();
    let now = belljar_testpki::NOW;
    let mut verdict =
        dcap::verify(&made.quote, None, &made.collateral, &made.anchors(), now, &dcap::Options::default());
    assert!(verdict.is_valid(), "{:?}", verdict.failure());
    verdict.software = false;
    verdict.flags.retain(|flag| flag != "test-root");
    verdict.facts.root = Some(dcap::Root::Intel);
    verdict
}

pub fn pcrs() -> tpm::Pcrs {
    let values = (0..24).map(|register| vec![register; 32]);
    tpm::Pcrs::from_first(Hash::Sha256, values).unwrap()
}

pub fn azure_verdict(snp: Option<snp::Report>, td: Option<&World>) -> Verdict<azure::Facts> {
    let quoted = td.map(quote_verdict);
    let (td_quote, tcb, freshness) = match quoted {
        Some(quoted) => (quoted.facts.fields, quoted.facts.tcb, quoted.facts.freshness),
        None => (None, None, None),
    };
    let facts = azure::Facts {
        fields: azure::Fields { snp, ..azure::Fields::default() },
        tcb,
        td_quote,
        vek: None,
        registers: Some(pcrs()),
        freshness,
        valid_from: None,
        valid_to: None,
    };
    verdict(facts, if td.is_some() { "td-quote:pck-revoked" } else { "snp:crl-revoked" })
}

pub fn tpm_verdict() -> Verdict<tpm::Facts> {
    verdict(tpm::Facts { fields: None, registers: Some(pcrs()), ak: Some(hex(1, 32)) }, "ak-trust")
}

/// Good claims of a TEE by its name; `software` is SNP's of a software TEE.
pub fn claims(tee: &str) -> Claims {
    let context = context();
    match tee {
        "snp" => Claims::of(Evidence::Snp(&snp_verdict()), &context),
        "software" => {
            let mut verdict = snp_verdict();
            verdict.software = true;
            verdict.flags.push("software-tee".into());
            verdict.facts.root = Some(snp::Root::Software);
            Claims::of(Evidence::Snp(&verdict), &context)
        }
        "tdx" => Claims::of(Evidence::Tdx { verdict: &quote_verdict(&World::tdx4(1)), log: None }, &context),
        "sgx" => Claims::of(Evidence::Sgx(&quote_verdict(&World::sgx3(1))), &context),
        "az-snp-vtpm" => Claims::of(Evidence::AzSnpVtpm(&azure_verdict(Some(snp_report()), None)), &context),
        "az-tdx-vtpm" => Claims::of(Evidence::AzTdxVtpm(&azure_verdict(None, Some(&World::tdx4(1)))), &context),
        "tpm" => Claims::of(Evidence::Tpm { verdict: &tpm_verdict(), ak_public: b"key" }, &context),
        other => panic!("no claims of {other}"),
    }
}

/// The same claims with one of them changed; `Value::Null` takes it away.
pub fn with(claims: &Claims, path: &[&str], value: Value) -> Claims {
    let mut all = claims.value().clone();
    let (last, before) = path.split_last().unwrap();
    let parent = before.iter().fold(&mut all, |parent, name| &mut parent[*name]);
    if value.is_null() {
        parent.as_object_mut().unwrap().remove(*last).expect("the claim that is taken away is there");
    } else {
        parent[*last] = value;
    }
    Claims::from_json(claims.class(), claims.tee(), all).unwrap()
}

pub fn reference(name: &str, set: &str, value: Value) -> ReferenceValue {
    ReferenceValue {
        name: name.into(),
        set: set.into(),
        value,
        expires: Some(AT + 100),
        source: SourceKind::Admin,
        owner: "ops".into(),
        signer: None,
    }
}

/// One set that the good claims of every TEE agree with.
pub fn references() -> References {
    References::new(values()).unwrap()
}

pub fn values() -> Vec<ReferenceValue> {
    let at = |tee: &str, path: &[&str]| claims(tee).at(path).cloned().unwrap();
    let body = ["tdx", "quote", "body"];
    let td = |name: &'static str| at("tdx", &[body[0], body[1], body[2], name]);
    vec![
        reference("snp_launch_measurement", "guest", json!([hex(0xBB, 48), hex(0xAA, 48)])),
        reference("software_launch_measurement", "guest", json!(hex(0xAA, 48))),
        reference("mr_td", "guest", json!([td("mr_td")])),
        reference("rtmr_1", "guest", json!([td("rtmr_1")])),
        reference("rtmr_2", "guest", json!([td("rtmr_2")])),
        reference("xfam", "guest", json!([td("xfam")])),
        reference("mr_enclave", "guest", json!([at("sgx", &["sgx", "body", "mr_enclave"])])),
        reference("measurement", "guest", json!([at("az-snp-vtpm", &["az-snp-vtpm", "measurement"])])),
        reference("snp_pcr11", "guest", json!([hex(11, 32)])),
        reference("tdx_pcr11", "guest", json!([hex(11, 32)])),
        reference("tpm_pcr11", "guest", json!([hex(11, 32)])),
        reference("trusted_aks", "guest", json!([at("tpm", &["tpm", "ak_public"])])),
    ]
}

pub fn settings() -> Settings {
    let floor = SnpFloor { bootloader: 4, tee: 1, snp: 24, microcode: 219, fmc: 0 };
    Settings {
        min_snp_tcb: [("Milan".to_owned(), floor)].into(),
        min_tcb_eval_number: Some(1),
        advisories: Some(vec!["INTEL-SA-00001".into()]),
        ..Settings::default()
    }
}
