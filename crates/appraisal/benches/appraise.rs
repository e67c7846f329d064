//! One appraisal, by the default policy in code and in Rego, and by a policy of upstream's form: what it adds to a handshake.
//! `cargo bench -p belljar-appraisal --bench appraise`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use belljar_appraisal::claims::{Claims, Evidence};
use belljar_appraisal::policy::{DEFAULT_REGO, judge};
use belljar_appraisal::reference::References;
use belljar_appraisal::rego::{AttestationPolicy, Limits, ResourcePolicy, ResourceRequest, token_input};
use belljar_appraisal::release::{Identity, Policies, Request, ScopedRules, parse};
use common::{AT, claims, context, hex, reference, references, settings, snp_verdict, values};
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;

/// Upstream's policies as files, which are not part of the repository.
const UPSTREAM: &str = "BELLJAR_TRUSTEE_POLICIES";

fn appraise(criterion: &mut Criterion) {
    let (settings, context, verdict) = (settings(), context(), snp_verdict());
    let references = Arc::new(references());
    criterion.bench_function("claims/snp", |b| b.iter(|| Claims::of(Evidence::Snp(black_box(&verdict)), &context)));
    for tee in ["snp", "tdx"] {
        let claims = claims(tee);
        criterion.bench_function(&format!("default/code/{tee}"), |b| {
            b.iter(|| judge(black_box(&claims), &references, &settings, AT));
        });
        let twin = AttestationPolicy::compile(DEFAULT_REGO, Limits::default()).unwrap();
        criterion.bench_function(&format!("default/rego/{tee}"), |b| {
            b.iter(|| twin.appraise(black_box(&claims), &references, &settings, AT).unwrap());
        });
    }
    let many = (0..999).map(|n| reference("snp_launch_measurement", &format!("guest-{n}"), json!(hex(1, 48))));
    let many = References::new(values().into_iter().chain(many)).unwrap();
    let claims = claims("snp");
    criterion.bench_function("default/code/snp in 1000 sets", |b| {
        b.iter(|| judge(black_box(&claims), &many, &settings, AT));
    });
    let upstream = std::env::var_os(UPSTREAM).map(|folder| std::path::PathBuf::from(folder).join("cpu-new.rego"));
    match upstream.and_then(|path| std::fs::read_to_string(path).ok()) {
        Some(text) => {
            let policy = AttestationPolicy::compile(&text, Limits::default()).unwrap();
            criterion.bench_function("upstream/snp", |b| {
                b.iter(|| policy.appraise(black_box(&claims), &references, &settings, AT).unwrap());
            });
            criterion.bench_function("upstream/compile", |b| {
                b.iter(|| AttestationPolicy::compile(black_box(&text), Limits::default()).unwrap());
            });
        }
        None => eprintln!("{UPSTREAM} names no folder with cpu-new.rego: upstream's policy is not measured"),
    }
}

fn release(criterion: &mut Criterion) {
    let claims = claims("snp");
    let judgement = judge(&claims, &references(), &settings(), AT);
    let identity = Identity::of(&claims, &judgement);
    let rule = |n: usize| {
        let contract = if n == 99 { hex(0xC0, 32) } else { hex(1, 32) };
        format!("[[set.rule]]\nid = \"{n}\"\nresource = \"default/key/*\"\ncontract = [\"{contract}\"]\n")
    };
    let text = format!("[[set]]\nscope = \"default/*/*\"\n{}", (0..100).map(rule).collect::<String>());
    let scoped = parse(&text).unwrap().into_iter().map(|set| ScopedRules { set, rego: None });
    let policies = Policies::new(scoped).unwrap();
    let path = "default/key/1".parse().unwrap();
    let request = Request { path: &path, identity: &identity };
    assert!(policies.decide(&request, |_| panic!("no rego")).is_allowed());
    criterion.bench_function("release/the last of 100 rules", |b| {
        b.iter(|| policies.decide(black_box(&request), |_| panic!("no rego")));
    });
    let text = "package policy\nimport rego.v1\ndefault allow := false\nallow if {\n\tdata.plugin == \"resource\"\n\tdata[\"resource-path\"][0] == \"a\"\n\tinput.submods.cpu0[\"ear.status\"] == \"affirming\"\n}\n";
    let policy = ResourcePolicy::compile(text, Limits::default()).unwrap();
    let token = json!({ "submods": { "cpu0": { "ear.status": "affirming", "ear.veraison.annotated-evidence": claims.value() } } });
    let (input, query) = (token_input(&token), BTreeMap::new());
    let paths = [["a", "b", "c"], ["a", "b", "d"]].map(|path| path.map(str::to_owned));
    let mut turn = 0_usize;
    criterion.bench_function("release/rego, another path each time", |b| {
        b.iter(|| {
            turn += 1;
            let request = ResourceRequest { plugin: "resource", path: &paths[turn % 2], query: &query };
            policy.allows(black_box(&input), &request, &Arc::default(), AT).unwrap()
        });
    });
}

criterion_group!(benches, appraise, release);
criterion_main!(benches);
