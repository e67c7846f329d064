//! Recorded evidence through verification, claims and policies, and upstream's own policies over them.
//!
//! Neither is part of the repository. Where the vectors are missing (`BELLJAR_VECTORS`, else `../shared/vectors`), or
//! upstream's policies (`BELLJAR_TRUSTEE_POLICIES`, a folder with the files that [`UPSTREAM`] lists), the trials that need
//! them are listed as ignored and never as passed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use belljar_appraisal::claims::{Claims, Context, Evidence, InitData};
use belljar_appraisal::policy::{Settings, SnpFloor, judge};
use belljar_appraisal::reference::{ReferenceValue, References, SourceKind};
use belljar_appraisal::rego::{AttestationPolicy, Limits, ResourcePolicy, ResourceRequest, token_input};
use belljar_evidence::dcap::{self, Collateral};
use belljar_evidence::eventlog::Log;
use belljar_evidence::tpm::{AkTrust, Hash, Options, Pcrs, Signature};
use belljar_evidence::{azure, pem, snp};
use belljar_rcar::ear::{Status, TrustVector};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

/// Upstream's policies (confidential-containers/trustee, Apache-2.0): name of the file here, path there, commit, and
/// SHA-256 of the text, which must be unchanged.
const UPSTREAM: [(&str, &str, &str, &str); 4] = [
    (
        "cpu-old.rego",
        "attestation-service/src/ear_token/ear_default_policy_cpu.rego",
        "ea8cad283fa03364e5bf6b3b0fe228c1420aae51",
        "b78606f1086aab9908f8fc0a6ea95e70ad42326fbef8ba35de54c68181d8ceea",
    ),
    (
        "cpu-new.rego",
        "attestation-service/src/ear_token/ear_default_policy_cpu.rego",
        "238497d476845d9e9191224154138435d5235ceb",
        "3e5e5baabaea12aac0badf5363943e3ae3ce04c90071d58611a680d38c77f039",
    ),
    (
        "gpu.rego",
        "attestation-service/src/ear_token/ear_default_policy_gpu.rego",
        "94c3958250837420aea266623fe24ac990c7e5bf",
        "257932b7d2c7f80f84dd156764b8aa9405ecb04c0d69f745a3533cffcdbb539d",
    ),
    (
        "affirming.rego",
        "kbs/sample_policies/affirming.rego",
        "0e2b48697a40820d754c4fea40fa2d90f63399fb",
        "e9955f0ee9d9fc0b07e88d1aa0be6c553f0be470e25b02f637bb42406f6fd02a",
    ),
];

/// What a trial takes that needs both.
type OfBoth = fn(&Vectors, &Path);
/// A trial with its name.
type Named<F> = (&'static str, F);

fn main() {
    let vectors = std::env::var_os("BELLJAR_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let vectors = Vectors::read(&vectors).map_or_else(
        |error| {
            eprintln!("no vectors at {} ({error}): what needs them is ignored", vectors.display());
            None
        },
        Some,
    );
    let policies = std::env::var_os("BELLJAR_TRUSTEE_POLICIES").map(PathBuf::from).filter(|folder| {
        let missing = UPSTREAM.iter().find(|(name, ..)| !folder.join(name).is_file());
        if let Some((name, path, commit, _)) = missing {
            eprintln!("no {name} in {}: it is {path} of confidential-containers/trustee at {commit}", folder.display());
        }
        missing.is_none()
    });
    if policies.is_none() {
        eprintln!("BELLJAR_TRUSTEE_POLICIES names no folder with upstream's policies: what needs them is ignored");
    }
    let with_vectors: [Named<fn(&Vectors)>; 4] = [
        ("claims::snp", claims_of_snp),
        ("claims::tdx_with_event_log", claims_of_tdx),
        ("claims::sgx", claims_of_sgx),
        ("claims::az_snp_vtpm", claims_of_azure),
    ];
    let with_policies: [Named<fn(&Path)>; 2] =
        [("upstream::gpu", upstream_gpu), ("upstream::affirming", upstream_affirming)];
    let with_both: [Named<OfBoth>; 2] = [("upstream::cpu_snp", upstream_snp), ("upstream::cpu_tdx", upstream_tdx)];
    let mut trials = Vec::new();
    for (name, judge) in with_vectors {
        let vectors = vectors.clone();
        let ignored = vectors.is_none();
        trials.push(Trial::test(name, move || done(vectors.map(|vectors| judge(&vectors)))).with_ignored_flag(ignored));
    }
    for (name, judge) in with_policies {
        let policies = policies.clone();
        let ignored = policies.is_none();
        trials.push(
            Trial::test(name, move || done(policies.map(|policies| judge(&policies)))).with_ignored_flag(ignored),
        );
    }
    for (name, judge) in with_both {
        let both = vectors.clone().zip(policies.clone());
        let ignored = both.is_none();
        trials.push(
            Trial::test(name, move || done(both.map(|(vectors, policies)| judge(&vectors, &policies))))
                .with_ignored_flag(ignored),
        );
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn done(ran: Option<()>) -> Result<(), Failed> {
    ran.ok_or_else(|| "not run: what it needs is missing".into())
}

#[derive(Clone)]
struct Vectors {
    folder: PathBuf,
    entries: Arc<Vec<Value>>,
}

impl Vectors {
    fn read(folder: &Path) -> std::io::Result<Self> {
        let entries = serde_json::from_slice(&std::fs::read(folder.join("vectors.json"))?)?;
        Ok(Self { folder: folder.to_owned(), entries: Arc::new(entries) })
    }

    fn entry(&self, id: &str) -> &Value {
        self.entries.iter().find(|entry| entry["id"] == id).unwrap()
    }

    fn file(&self, name: &Value) -> Vec<u8> {
        std::fs::read(self.folder.join(name.as_str().unwrap())).unwrap()
    }

    fn der(&self, name: &Value) -> Vec<u8> {
        let bytes = self.file(name);
        pem::certificates(&bytes, 1).ok().and_then(|list| list.into_iter().next()).unwrap_or(bytes)
    }

    fn chain(&self, entry: &Value) -> snp::Chain {
        let of = |role: &str| self.der(&entry["files"][role]);
        snp::Chain { ark: of("anchor"), ask: of("intermediate"), vek: of("vek"), ..snp::Chain::default() }
    }

    fn snp(&self, id: &str) -> (Claims, Value) {
        let entry = self.entry(id);
        let report = self.file(&entry["files"]["evidence"]);
        let verdict = snp::verify(&report, &self.chain(entry), &snp::Anchors::amd(), at(entry), &snp::Options::UNASKED);
        assert!(verdict.is_valid());
        (Claims::of(Evidence::Snp(&verdict), &context()), entry["expect"]["fields"].clone())
    }

    fn dcap(&self, id: &str) -> (belljar_evidence::Verdict<dcap::Facts>, Value) {
        let entry = self.entry(id);
        let of = |role: &str| self.file(&entry["files"]["collateral"][role]);
        let collateral = Collateral {
            tcb_info: of("tcb_info"),
            tcb_signing_chain: of("tcb_signing_chain"),
            qe_identity: of("qe_identity"),
            qe_signing_chain: of("qe_signing_chain"),
            pck_crl: of("pck_crl"),
            pck_crl_chain: of("pck_crl_chain"),
            root_crl: of("root_crl"),
        };
        let quote = self.file(&entry["files"]["evidence"]);
        let anchors = dcap::Anchors::intel();
        let verdict = dcap::verify(&quote, None, &collateral, &anchors, at(entry), &dcap::Options::default());
        assert!(verdict.is_valid(), "{:?}", verdict.failure());
        (verdict, entry["expect"]["fields"].clone())
    }
}

fn at(entry: &Value) -> u64 {
    let time = entry["expect"]["at"].as_str().unwrap();
    x509_cert::der::DateTime::from_str(time).unwrap().unix_duration().as_secs()
}

fn context() -> Context {
    Context { session_bound: true, runtime_data: json!({ "nonce": "n" }), init_data: InitData::Absent, contract: None }
}

fn references(values: &[(&str, Value)]) -> Arc<References> {
    let value = |(name, value): &(&str, Value)| ReferenceValue {
        name: (*name).to_owned(),
        set: "guest".to_owned(),
        value: value.clone(),
        expires: None,
        source: SourceKind::Admin,
        owner: "ops".to_owned(),
        signer: None,
    };
    Arc::new(References::new(values.iter().map(value)).unwrap())
}

fn claims_of_snp(vectors: &Vectors) {
    let (claims, fields) = vectors.snp("snp-milan-v5-gcp");
    let own = &claims.value()["snp"];
    assert_eq!(own["measurement"], fields["measurement"]);
    assert_eq!(own["chip_id"], fields["chip_id"]);
    let tcb = ["reported_tcb_bootloader", "reported_tcb_tee", "reported_tcb_snp", "reported_tcb_microcode"];
    assert_eq!(tcb.map(|name| own[name].as_u64().unwrap()), [4, 0, 27, 222]);
    assert_eq!((&own["policy_smt_allowed"], &own["policy_debug_allowed"]), (&json!(true), &json!(false)));
    // PLATFORM_INFO is 0x25: SMT, not TSME.
    assert_eq!((&own["platform_smt_enabled"], &own["platform_tsme_enabled"]), (&json!(true), &json!(false)));
    let nested = &own["evidence"];
    assert_eq!(nested["reported_tcb"], json!({ "bootloader": 4, "tee": 0, "snp": 27, "microcode": 222 }));
    assert_eq!(nested["policy"]["smt_allowed"], json!(true));
    let ours = &claims.value()["belljar"];
    assert_eq!(
        (&ours["root"], &ours["tcb"]["product"], &ours["authentic"]),
        (&json!("hardware"), &json!("Milan"), &json!(true))
    );

    // AMD's real root, without a revocation list and init-data: what is missing is named, and nothing else.
    let known = references(&[("snp_launch_measurement", json!([fields["measurement"]]))]);
    let floor = SnpFloor { bootloader: 4, snp: 27, microcode: 222, ..SnpFloor::default() };
    let settings = Settings { min_snp_tcb: [("Milan".to_owned(), floor)].into(), ..Settings::default() };
    let judgement = judge(&claims, &known, &settings, 0);
    let failed: Vec<_> = judgement.findings.iter().filter(|f| !f.passed).map(|f| f.rule.as_str()).collect();
    assert_eq!(failed, ["revocation", "init-data"]);
    let open = Settings { require_revocation: false, require_init_data: false, ..settings };
    assert_eq!(judge(&claims, &known, &open, 0).status(), Status::Affirming);
    let higher = SnpFloor { microcode: 223, ..floor };
    let higher = Settings { min_snp_tcb: [("Milan".to_owned(), higher)].into(), ..open };
    assert_eq!(judge(&claims, &known, &higher, 0).first_failure().unwrap().rule, "tcb");
}

fn tdx(vectors: &Vectors) -> (Claims, Value) {
    let (verdict, fields) = vectors.dcap("tdx-v4-gcp-ccel");
    let raw = vectors.file(&vectors.entry("tdx-v4-gcp-ccel")["files"]["ccel_data"]);
    let log = Log::parse(&raw).unwrap();
    (Claims::of(Evidence::Tdx { verdict: &verdict, log: Some(&log) }, &context()), fields)
}

fn claims_of_tdx(vectors: &Vectors) {
    let (claims, fields) = tdx(vectors);
    let own = &claims.value()["tdx"];
    let body = &own["quote"]["body"];
    for (name, field) in [
        ("mr_td", "mrtd"),
        ("rtmr_0", "rtmr0"),
        ("rtmr_3", "rtmr3"),
        ("xfam", "xfam"),
        ("mr_seam", "mr_seam"),
        ("tcb_svn", "tee_tcb_svn"),
    ] {
        assert_eq!(body[name], fields[field], "{name}");
    }
    let header = &own["quote"]["header"];
    assert_eq!(
        (&header["version"], &header["tee_type"], &header["att_key_type"]),
        (&json!("0400"), &json!("81000000"), &json!("0200"))
    );
    assert_eq!(header["vendor_id"], fields["qe_vendor_id"]);
    assert_eq!((&own["tcb_status"], &own["collateral_expiration_status"]), (&json!("UpToDate"), &json!("0")));
    assert_eq!(own["td_attributes"]["debug"], json!(false));
    let ours = &claims.value()["belljar"];
    assert_eq!(
        (&ours["event_log"], &ours["freshness"], &ours["root"]),
        (&json!("replayed"), &json!("fresh"), &json!("hardware"))
    );
    let events = own["uefi_event_logs"].as_array().unwrap();
    assert_eq!(json!(events.len()), ours["event_log_events"]);
    let programs = events.iter().filter(|event| event["type_name"] == "EV_EFI_BOOT_SERVICES_APPLICATION");
    let paths: Vec<&Value> = programs.map(|event| &event["details"]["device_paths"]).collect();
    assert!(paths.iter().any(|path| path.to_string().contains("File(")), "{paths:?}");
    // A log that does not replay gives no events.
    let (verdict, _) = vectors.dcap("tdx-v4-gcp-ccel");
    let raw = vectors.file(&vectors.entry("tdx-v4-gcp-ccel")["files"]["ccel_data"]);
    let mut log = Log::parse(&raw).unwrap();
    log.events.pop();
    let other = Claims::of(Evidence::Tdx { verdict: &verdict, log: Some(&log) }, &context());
    assert_eq!(other.value()["tdx"].get("uefi_event_logs"), None);
    assert_eq!(other.value()["belljar"]["event_log"], "does not replay to the registers");

    let (newer, fields) = vectors.dcap("tdx-v5-google");
    let newer = Claims::of(Evidence::Tdx { verdict: &newer, log: None }, &context());
    let quote = &newer.value()["tdx"]["quote"];
    assert_eq!((&quote["type"], &quote["size"]), (&json!("0300"), &json!("88020000")));
    assert_eq!(quote["body"]["tee_tcb_svn2"], fields["tee_tcb_svn2"]);
}

fn claims_of_sgx(vectors: &Vectors) {
    let (verdict, fields) = vectors.dcap("sgx-v3-automata-00606a");
    let claims = Claims::of(Evidence::Sgx(&verdict), &context());
    let own = &claims.value()["sgx"];
    assert_eq!((&own["body"]["mr_enclave"], &own["body"]["mr_signer"]), (&fields["mrenclave"], &fields["mrsigner"]));
    assert_eq!((&own["body"]["cpu_svn"], &own["body"]["report_data"]), (&fields["cpu_svn"], &fields["report_data"]));
    assert_eq!(
        (&own["header"]["version"], &own["header"]["qe_svn"], &own["header"]["pce_svn"]),
        (&json!("0300"), &json!("0900"), &json!("0e00"))
    );
    let svn = format!("{:04x}", u16::try_from(fields["isv_svn"].as_u64().unwrap()).unwrap().swap_bytes());
    assert_eq!(own["body"]["isv_svn"], json!(svn));
    assert_eq!(claims.value()["belljar"]["tcb"]["status"], "SWHardeningNeeded");
    let known = references(&[("mr_enclave", fields["mrenclave"].clone())]);
    let settings = Settings { require_init_data: false, ..Settings::default() };
    assert_eq!(judge(&claims, &known, &settings, 0).first_failure().unwrap().rule, "tcb");
    let ladder = Settings { tcb_status: vec!["UpToDate".into(), "SWHardeningNeeded".into()], ..settings };
    assert_eq!(judge(&claims, &known, &ladder, 0).status(), Status::Affirming);
    // An enclave's quote is no TD's, whatever the message calls it.
    let wrong = Claims::of(Evidence::Tdx { verdict: &verdict, log: None }, &context());
    assert!(!wrong.is_authentic());
}

fn claims_of_azure(vectors: &Vectors) {
    let entry = vectors.entry("az-snp-genoa");
    let of = |role: &str| vectors.file(&entry["files"][role]);
    let values: Vec<String> = serde_json::from_slice(&of("pcrs_sha256")).unwrap();
    let pcrs = Pcrs::from_first(Hash::Sha256, values.iter().map(|value| hex::decode(value).unwrap())).unwrap();
    let (hcl, quote) = (of("hcl_report"), of("tpm_quote_message"));
    let evidence = azure::Evidence {
        hcl_report: &hcl,
        quote: &quote,
        signature: Ok(Signature::raw_rsa(&of("tpm_quote_signature"))),
        pcrs: Some(&pcrs),
    };
    let options =
        Options { ak_trust: AkTrust::Unknown, missing: dcap::Missing::Undecided, required: vec![8], nonce: None };
    let verdict = azure::verify_snp(
        &evidence,
        &vectors.chain(entry),
        &snp::Anchors::amd(),
        at(entry),
        &snp::Options::UNASKED,
        &options,
    );
    assert!(verdict.is_valid(), "{:?}", verdict.failure());
    let claims = Claims::of(Evidence::AzSnpVtpm(&verdict), &context());
    let own = &claims.value()["az-snp-vtpm"];
    let report = verdict.facts.fields.snp.as_ref().unwrap();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, report.measurement);
    assert_eq!(own["measurement"], json!(base64));
    assert_eq!(own["reported_tcb_snp"], json!(report.reported_tcb.snp().to_string()));
    assert_eq!(own["policy_debug_allowed"], json!("false"));
    assert_eq!((&own["tpm"]["pcr11"], own.get("chip_id"), own.get("evidence")), (&json!(values[11]), None, None));
    assert_eq!(claims.value()["init_data"], json!(values[8]));
    assert_eq!(claims.value()["belljar"]["measurement"], json!(hex::encode(report.measurement)));
    let known = references(&[("measurement", json!([base64])), ("snp_pcr11", json!([values[11]]))]);
    assert_eq!(judge(&claims, &known, &Settings::default(), 0).vector.executables, 3);
    let other = references(&[("measurement", json!([base64])), ("snp_pcr11", json!([values[12]]))]);
    assert_eq!(judge(&claims, &other, &Settings::default(), 0).vector.executables, 33);
}

/// The text of one of upstream's policies, unchanged.
fn text(folder: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    let (.., expected) = UPSTREAM.iter().find(|(known, ..)| *known == name).unwrap();
    assert_eq!(hex::encode(digest(&SHA256, text.as_bytes())), *expected, "{name} is not the recorded text");
    text
}

fn attestation(folder: &Path, name: &str) -> AttestationPolicy {
    let limits = Limits { time: std::time::Duration::from_secs(20), ..Limits::default() };
    AttestationPolicy::compile(&text(folder, name), limits).unwrap()
}

fn vector(policy: &AttestationPolicy, claims: &Claims, references: &Arc<References>) -> TrustVector {
    policy.appraise(claims, references, &Settings::default(), 0).unwrap().judgement.vector
}

fn upstream_snp(vectors: &Vectors, folder: &Path) {
    let (claims, fields) = vectors.snp("snp-milan-v5-gcp");
    let measurement = ("snp_launch_measurement", json!([fields["measurement"]]));
    let tcb = [
        ("snp_bootloader", json!([4])),
        ("snp_microcode", json!([222])),
        ("snp_snp_svn", json!([27])),
        ("snp_tee_svn", json!([0])),
    ];
    let configuration = [
        ("snp_smt_enabled", json!(true)),
        ("snp_tsme_enabled", json!(false)),
        ("snp_guest_abi_major", json!(0)),
        ("snp_guest_abi_minor", json!(0)),
        ("snp_single_socket", json!(false)),
        ("snp_smt_allowed", json!(true)),
    ];
    for name in ["cpu-old.rego", "cpu-new.rego"] {
        let policy = attestation(folder, name);
        let all = [std::slice::from_ref(&measurement), &tcb[..], &configuration[..]].concat();
        let affirmed = TrustVector { hardware: 2, executables: 3, configuration: 2, ..TrustVector::default() };
        assert_eq!(vector(&policy, &claims, &references(&all)), affirmed, "{name}");
        let nothing = TrustVector { hardware: 97, executables: 33, configuration: 3, ..TrustVector::default() };
        assert_eq!(vector(&policy, &claims, &Arc::default()), nothing, "{name}");
        for (index, expected) in [
            (0, TrustVector { executables: 33, ..affirmed }),
            (3, TrustVector { hardware: 97, ..affirmed }),
            (5, TrustVector { configuration: 3, ..affirmed }),
        ] {
            let mut other = all.clone();
            other[index].1 = json!(["other"]);
            assert_eq!(vector(&policy, &claims, &references(&other)), expected, "{name} {}", other[index].0);
        }
        let appraised = policy.appraise(&claims, &references(&all), &Settings::default(), 0).unwrap();
        assert_eq!(appraised.identifiers, Some(json!({ "validated": {} })), "{name}");
    }
}

fn upstream_tdx(vectors: &Vectors, folder: &Path) {
    let (claims, _) = tdx(vectors);
    let body = |name: &str| claims.value()["tdx"]["quote"]["body"][name].clone();
    let all: Vec<(&str, Value)> =
        ["mr_td", "mr_seam", "tcb_svn", "rtmr_1", "rtmr_2", "xfam"].map(|name| (name, json!([body(name)]))).to_vec();
    for name in ["cpu-old.rego", "cpu-new.rego"] {
        let policy = attestation(folder, name);
        // Booted by GRUB: the kernel's own events are not there.
        let affirmed = TrustVector { hardware: 2, executables: 4, configuration: 2, ..TrustVector::default() };
        assert_eq!(vector(&policy, &claims, &references(&all)), affirmed, "{name}");
        for (index, expected) in [
            (0, TrustVector { hardware: 97, ..affirmed }),
            (3, TrustVector { executables: 33, ..affirmed }),
            (5, TrustVector { configuration: 36, ..affirmed }),
        ] {
            let mut other = all.clone();
            other[index].1 = json!(["other"]);
            assert_eq!(vector(&policy, &claims, &references(&other)), expected, "{name} {}", other[index].0);
        }
    }
}

fn upstream_gpu(folder: &Path) {
    let policy = attestation(folder, "gpu.rego");
    let mut device = json!({
        "x-nvidia-gpu-attestation-report-cert-chain": { "x-nvidia-cert-ocsp-status": "good", "x-nvidia-cert-status": "valid" },
        "x-nvidia-gpu-vbios-rim-cert-chain": { "x-nvidia-cert-ocsp-status": "good", "x-nvidia-cert-status": "valid" },
        "secboot": true,
        "dbgstat": "disabled",
        "measres": "success",
        "x-nvidia-gpu-vbios-version": "96",
        "x-nvidia-gpu-driver-version": "550",
        "x-nvidia-gpu-arch-check": true,
    });
    for name in ["cert-chain-fwid-match", "parsed", "signature-verified"] {
        device[format!("x-nvidia-gpu-attestation-report-{name}")] = json!(true);
    }
    for name in ["fetched", "measurements-available", "schema-validated", "signature-verified", "version-match"] {
        device[format!("x-nvidia-gpu-driver-rim-{name}")] = json!(true);
        device[format!("x-nvidia-gpu-vbios-rim-{name}")] = json!(true);
    }
    let ours = json!({ "authentic": true, "session_bound": true, "root": "hardware" });
    let claims =
        |device: &Value| Claims::from_json("gpu", "nvidia", json!({ "nvidia": device, "belljar": ours })).unwrap();
    let versions =
        references(&[("allowed_vbios_versions", json!(["96"])), ("allowed_driver_versions", json!(["550"]))]);
    let affirmed = TrustVector { hardware: 2, executables: 3, configuration: 2, ..TrustVector::default() };
    assert_eq!(vector(&policy, &claims(&device), &versions), affirmed);
    assert_eq!(vector(&policy, &claims(&device), &Arc::default()), TrustVector { configuration: 3, ..affirmed });
    device["measres"] = json!("failure");
    assert_eq!(vector(&policy, &claims(&device), &versions), TrustVector { executables: 33, ..affirmed });
}

fn upstream_affirming(folder: &Path) {
    let policy = ResourcePolicy::compile(&text(folder, "affirming.rego"), Limits::default()).unwrap();
    let ask = |submods: Value| {
        let path = ["a", "b", "c"].map(str::to_owned);
        let request = ResourceRequest { plugin: "resource", path: &path, query: &Default::default() };
        policy.allows(&token_input(&json!({ "submods": submods })), &request, &Arc::default(), 0)
    };
    let device = |status: &str| json!({ "ear.status": status });
    assert_eq!(ask(json!({ "cpu0": device("affirming") })), Ok(true));
    assert_eq!(ask(json!({ "cpu0": device("affirming"), "gpu0": device("warning") })), Ok(false));
    assert_eq!(ask(json!({})), Ok(false));
}
