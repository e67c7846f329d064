//! Policies in Rego: the default policy's twin, policies of upstream's form, and policies that mean no good.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use belljar_appraisal::Claims;
use belljar_appraisal::policy::{DEFAULT_REGO, Rung, Settings, SnpFloor, judge};
use belljar_appraisal::reference::{ReferenceValue, References};
use belljar_appraisal::rego::{AttestationPolicy, Limits, RegoError, ResourcePolicy, ResourceRequest, token_input};
use belljar_rcar::ear::{Status, TrustVector};
use common::{AT, claims, hex, reference, settings, values, with};
use proptest::prelude::*;
use serde_json::{Value, json};

static TWIN: LazyLock<AttestationPolicy> = LazyLock::new(|| compile(DEFAULT_REGO));
static GOOD: LazyLock<BTreeMap<&'static str, Claims>> =
    LazyLock::new(|| ALL.map(|tee| (tee, claims(tee))).into_iter().collect());
const ALL: [&str; 7] = ["snp", "software", "tdx", "sgx", "az-snp-vtpm", "az-tdx-vtpm", "tpm"];

fn references() -> Arc<References> {
    Arc::new(common::references())
}

fn compile(text: &str) -> AttestationPolicy {
    // A slow machine must not change an answer of these tests.
    AttestationPolicy::compile(text, Limits { time: Duration::from_secs(20), ..Limits::default() }).unwrap()
}

fn vector(policy: &AttestationPolicy, claims: &Claims, references: &Arc<References>) -> TrustVector {
    policy.appraise(claims, references, &settings(), AT).unwrap().judgement.vector
}

/// The vector of an error, to compare errors as well as answers.
fn error(policy: &AttestationPolicy, claims: &Claims) -> RegoError {
    policy.appraise(claims, &references(), &settings(), AT).unwrap_err()
}

#[test]
fn the_twin_affirms_what_the_default_policy_affirms() {
    for tee in ALL {
        let native = judge(&GOOD[tee], &references(), &settings(), AT);
        let twin = TWIN.appraise(&GOOD[tee], &references(), &settings(), AT).unwrap();
        assert_eq!(twin.judgement.vector, native.vector, "{tee}");
        assert_eq!(twin.judgement.sets, native.sets, "{tee}");
    }
}

/// One change of claims: a path and another value, null to take it away.
fn change() -> impl Strategy<Value = (Vec<&'static str>, Value)> {
    let paths = prop::sample::select(vec![
        vec!["belljar", "authentic"],
        vec!["belljar", "session_bound"],
        vec!["belljar", "root"],
        vec!["belljar", "revocation_checked"],
        vec!["belljar", "tcb"],
        vec!["belljar", "tcb", "status"],
        vec!["belljar", "tcb", "product"],
        vec!["belljar", "tcb", "reported"],
        vec!["belljar", "tcb", "reported", "snp"],
        vec!["belljar", "tcb", "committed", "microcode"],
        vec!["belljar", "tcb", "eval_number"],
        vec!["belljar", "tcb", "advisories"],
        vec!["belljar", "freshness"],
        vec!["belljar", "debug"],
        vec!["belljar", "migratable"],
        vec!["belljar", "flags"],
        vec!["belljar", "contract"],
        vec!["belljar", "contract", "bound"],
        vec!["belljar", "contract", "sent"],
        vec!["snp", "measurement"],
        vec!["tdx", "quote", "body", "rtmr_1"],
        vec!["tdx", "quote", "body", "xfam"],
        vec!["sgx", "body", "mr_enclave"],
        vec!["az-snp-vtpm", "tpm", "pcr11"],
        vec!["az-tdx-vtpm", "tpm", "pcr11"],
        vec!["tpm", "ak_public"],
    ]);
    let values = prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(24),
        json!(23.5),
        json!("hardware"),
        json!("software"),
        json!("none"),
        json!("Milan"),
        json!("UpToDate"),
        json!("Revoked"),
        json!("SWHardeningNeeded"),
        json!("in_grace"),
        json!("stale"),
        json!([]),
        json!(["vlek"]),
        json!(["INTEL-SA-00001"]),
        json!(["debug-policy", "td-debug"]),
        json!({}),
        json!({ "snp": 24 }),
        json!("aa".repeat(48)),
    ]);
    (paths, values)
}

fn changed(claims: &Claims, changes: &[(Vec<&'static str>, Value)]) -> Claims {
    let mut value = claims.value().clone();
    for (path, new) in changes {
        let (last, before) = path.split_last().unwrap();
        let parent = before.iter().try_fold(&mut value, |parent, name| parent.get_mut(*name));
        if let Some(Value::Object(parent)) = parent
            && parent.contains_key(*last)
        {
            match new {
                Value::Null => drop(parent.remove(*last)),
                new => drop(parent.insert((*last).to_owned(), new.clone())),
            }
        }
    }
    Claims::from_json("cpu", claims.tee(), value).unwrap()
}

fn some_settings() -> impl Strategy<Value = Settings> {
    let floor = prop::option::of((0_u8..30, 0_u8..2, 0_u8..=255));
    let rung = prop::sample::select(vec![Rung::Fresh, Rung::InGrace, Rung::Stale]);
    let statuses = prop::sample::subsequence(vec!["UpToDate", "SWHardeningNeeded", "Revoked"], 0..=3);
    let advisories = prop::option::of(prop::sample::subsequence(vec!["INTEL-SA-00001", "INTEL-SA-00615"], 0..=2));
    let flags = prop::sample::subsequence(vec!["vlek", "vmpl-1"], 0..=2);
    let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<String>>();
    (any::<[bool; 3]>(), floor, rung, statuses, advisories, flags, prop::option::of(0_u32..30)).prop_map(
        move |([allow, revocation, init_data], floor, freshness, statuses, advisories, flags, number)| Settings {
            allow_software_tee: allow,
            tcb_status: owned(statuses),
            advisories: advisories.map(owned),
            min_tcb_eval_number: number,
            freshness,
            min_snp_tcb: floor
                .map(|(snp, tee, microcode)| {
                    ("Milan".to_owned(), SnpFloor { snp, tee, microcode, ..SnpFloor::default() })
                })
                .into_iter()
                .collect(),
            require_revocation: revocation,
            require_init_data: init_data,
            flags: owned(flags),
        },
    )
}

/// Values with other sets and other expiries.
fn some_references() -> impl Strategy<Value = Arc<References>> {
    let each = (prop::sample::select(vec!["guest", "other"]), prop::sample::select(vec![AT - 1, AT, AT + 1]), 0..8_u8);
    prop::collection::vec(each, values().len()).prop_map(|choices| {
        let all = values().into_iter().zip(choices).filter_map(|(value, (set, expires, keep))| {
            // Mostly as it was, so that whole sets agree now and then.
            let (set, expires) = if keep < 6 { ("guest", AT + 1) } else { (set, expires) };
            (keep != 7).then(|| ReferenceValue { set: set.to_owned(), expires: Some(expires), ..value })
        });
        Arc::new(References::new(all).unwrap())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_twin_judges_as_the_default_policy_does(
        tee in prop::sample::select(ALL.to_vec()),
        changes in prop::collection::vec(change(), 0..4),
        references in some_references(),
        settings in some_settings(),
    ) {
        let claims = changed(&GOOD[tee], &changes);
        let native = judge(&claims, &references, &settings, AT);
        let twin = TWIN.appraise(&claims, &references, &settings, AT).unwrap();
        if claims.is_authentic() && claims.ours("session_bound") == Some(&json!(true)) {
            prop_assert_eq!(twin.judgement.vector, native.vector);
        } else {
            // The policy is not even asked.
            prop_assert_eq!(twin.judgement.status(), Status::Contraindicated);
            prop_assert_eq!(native.status(), Status::Contraindicated);
        }
        if claims.ours("session_bound") == Some(&json!(true)) {
            prop_assert_eq!(&twin.judgement.sets, &native.sets);
        }
        // The names of the rules, and which hold, are the same, too.
        let mut rules: BTreeMap<String, bool> = BTreeMap::new();
        for finding in &native.findings {
            *rules.entry(finding.rule.clone()).or_insert(true) &= finding.passed;
        }
        let found = RULES.appraise(&claims, &references, &settings, AT);
        if let (Ok(found), true) = (found, claims.is_authentic() && claims.ours("session_bound") == Some(&json!(true))) {
            let expected: Value = rules.into_iter().map(|(rule, holds)| (rule, Value::Bool(holds))).collect::<serde_json::Map<_, _>>().into();
            prop_assert_eq!(found.identifiers, Some(expected));
        }
    }
}

/// The twin, with its `rules` given as the identifiers: the one object that a policy can give beside its claims.
static RULES: LazyLock<AttestationPolicy> = LazyLock::new(|| {
    let text = format!(
        "{DEFAULT_REGO}\nextensions := [{{\"name\": \"ear.trustee.identifiers\", \"key\": -18, \"value\": rules}}]\n"
    );
    compile(&text)
});

/// A policy of upstream's form: defaults, `else`, reference values by name, iteration over an event log, identifiers.
const FORM: &str = r#"
package policy

import rego.v1

default hardware := 97

default executables := 33

default configuration := 36

default file_system := 0

trust_claims := {
	"hardware": hardware,
	"executables": executables,
	"configuration": configuration,
	"file-system": file_system,
}

hardware := 2 if {
	input.snp
	input.snp.reported_tcb_snp in query_reference_value("svn")
	input.snp.evidence.reported_tcb.microcode >= query_reference_value("least_microcode")
}

executables := 3 if {
	input.snp
	input.snp.measurement in query_reference_value("snp_launch_measurement")
}

executables := 4 if kernel_is_known

kernel_is_known if {
	event := input.tdx.uefi_event_logs[_]
	event.type_name == "EV_EFI_BOOT_SERVICES_APPLICATION"
	"File(kernel)" in event.details.device_paths
	some digest in event.digests
	digest.digest == query_reference_value("kernel")
}

configuration := 2 if {
	input.snp
	input.snp.policy_debug_allowed == false
	input.snp.platform_smt_enabled == query_reference_value("smt")
}

else := 3 if {
	input.snp
	input.snp.policy_debug_allowed == false
}

extensions := [{"name": "ear.trustee.identifiers", "key": -18, "value": {"validated": object.union_n([images])}}]

names := [name |
	container := input["init_data_claims"]["agent_policy_claims"]["containers"][_]
	name := container["OCI"]["Annotations"]["io.kubernetes.cri.image-name"]
]

images := {"container_images": names} if count(names) > 0

else := {}
"#;

fn form_references(more: impl IntoIterator<Item = ReferenceValue>) -> Arc<References> {
    let base = [
        reference("svn", "a", json!([24])),
        reference("least_microcode", "a", json!(200)),
        reference("snp_launch_measurement", "a", json!([hex(0xAA, 48)])),
    ];
    Arc::new(References::new(base.into_iter().chain(more)).unwrap())
}

#[test]
fn a_policy_of_upstreams_form_runs() {
    let policy = compile(FORM);
    let snp = claims("snp");
    let expected = TrustVector { hardware: 2, executables: 3, configuration: 3, ..TrustVector::default() };
    assert_eq!(vector(&policy, &snp, &form_references([])), expected);
    let known = form_references([reference("smt", "a", json!(false))]);
    assert_eq!(vector(&policy, &snp, &known), TrustVector { configuration: 2, ..expected });
    let debug = with(&snp, &["snp", "policy_debug_allowed"], json!(true));
    assert_eq!(vector(&policy, &debug, &known), TrustVector { configuration: 36, ..expected });
    let other = with(&snp, &["snp", "measurement"], json!(hex(0xAB, 48)));
    assert_eq!(vector(&policy, &other, &known), TrustVector { configuration: 2, executables: 33, ..expected });
    let appraised = policy.appraise(&other, &known, &settings(), AT).unwrap();
    assert_eq!(appraised.identifiers, Some(json!({ "validated": {} })));
    let asked: Vec<&str> = appraised.lookups.iter().map(|lookup| lookup.name.as_str()).collect();
    assert_eq!(asked, ["svn", "least_microcode", "snp_launch_measurement", "smt"].map(|name| name).to_vec().as_slice());
    let refused: Vec<_> = appraised.judgement.findings.iter().filter(|finding| !finding.passed).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].claim.as_str(), refused[0].found.as_str()), ("trust_claims.executables", "warning (33)"));
}

#[test]
fn events_of_a_log_and_identifiers_reach_a_policy() {
    let policy = compile(FORM);
    let mut value = claims("tdx").value().clone();
    let digest = json!([{ "alg": "SHA-384", "digest": hex(7, 48) }]);
    value["tdx"]["uefi_event_logs"] = json!([
        { "type_name": "EV_SEPARATOR", "details": {}, "digests": [] },
        { "type_name": "EV_EFI_BOOT_SERVICES_APPLICATION", "details": { "device_paths": ["File(kernel)"] }, "digests": digest },
    ]);
    value["init_data_claims"] = json!({ "agent_policy_claims": { "containers": [
        { "OCI": { "Annotations": { "io.kubernetes.cri.image-name": "a" } } },
        { "OCI": {} },
    ] } });
    let tdx = Claims::from_json("cpu", "tdx", value).unwrap();
    let kernel = |byte| form_references([reference("kernel", "a", json!(hex(byte, 48)))]);
    assert_eq!(vector(&policy, &tdx, &kernel(7)).executables, 4);
    assert_eq!(vector(&policy, &tdx, &kernel(8)).executables, 33);
    let appraised = policy.appraise(&tdx, &kernel(7), &settings(), AT).unwrap();
    assert_eq!(appraised.identifiers, Some(json!({ "validated": { "container_images": ["a"] } })));
}

#[test]
fn older_forms_of_policies_run() {
    let older = "package policy\nimport rego.v1\nresult := {\"hardware\": h}\ndefault h := 97\nh := 2 if input.snp.measurement in data.reference.snp_launch_measurement\n";
    assert_eq!(vector(&compile(older), &claims("snp"), &form_references([])).hardware, 2);
    assert_eq!(vector(&compile(older), &claims("snp"), &Arc::default()).hardware, 97);
    let oldest = "package policy\nimport rego.v1\ndefault hardware := 97\nhardware := 2 if input.snp.measurement in data.reference.snp_launch_measurement\nexecutables := 3 if input.tdx\n";
    let found = vector(&compile(oldest), &claims("snp"), &form_references([]));
    assert_eq!((found.hardware, found.executables), (2, 0));
    // A missing value is null to the newer ones, as it is upstream.
    let missing = "package policy\nimport rego.v1\ndefault hardware := 97\nhardware := 2 if query_reference_value(\"none\") == null\n";
    assert_eq!(vector(&compile(missing), &claims("snp"), &references()).hardware, 2);
}

#[test]
fn a_policy_cannot_affirm_what_is_not_its_to_affirm() {
    let all = compile("package policy\ntrust_claims := {\"hardware\": 2, \"executables\": 3, \"configuration\": 2}\n");
    let good = claims("snp");
    assert_eq!(all.appraise(&good, &references(), &settings(), AT).unwrap().judgement.status(), Status::Affirming);
    for path in [["belljar", "authentic"], ["belljar", "session_bound"]] {
        let bad = with(&good, &path, json!(false));
        let judgement = all.appraise(&bad, &references(), &settings(), AT).unwrap().judgement;
        assert_eq!((judgement.status(), judgement.is_admitted()), (Status::Contraindicated, false), "{path:?}");
    }
    for allow_software_tee in [false, true] {
        let settings = Settings { allow_software_tee, ..settings() };
        let judgement = all.appraise(&claims("software"), &references(), &settings, AT).unwrap().judgement;
        assert_eq!((judgement.status(), judgement.vector.hardware), (Status::Contraindicated, 96));
        assert_eq!(judgement.is_admitted(), allow_software_tee);
    }
}

#[test]
fn a_result_of_another_form_is_an_error() {
    let with_result =
        |body: &str| error(&compile(&format!("package policy\nimport rego.v1\n{body}\n")), &claims("snp"));
    let result =
        |rule: &str, found: &str, expected| RegoError::Result { rule: rule.into(), found: found.into(), expected };
    let whole = "a whole number from -128 to 127";
    assert_eq!(with_result("trust_claims := {\"hardware\": 128}"), result("hardware", "128", whole));
    assert_eq!(with_result("trust_claims := {\"hardware\": \"2\"}"), result("hardware", "2", whole));
    assert_eq!(with_result("trust_claims := {\"hardware\": 2.5}"), result("hardware", "2.5", whole));
    assert_eq!(
        with_result("trust_claims := {\"software\": 2}"),
        result("software", "2", "one of the eight claims of ar4si")
    );
    assert_eq!(with_result("trust_claims := 2"), result("trust_claims", "2", "an object of ar4si claims"));
    assert_eq!(with_result("trust_claims := {}"), result("trust_claims", "undefined", "one ar4si claim at least"));
    assert_eq!(
        with_result("trust_claims := {\"hardware\": 2} if false"),
        result("trust_claims", "undefined", "an object of ar4si claims")
    );
    assert_eq!(with_result("hardware := 2 if false"), result("every claim", "undefined", "one ar4si claim at least"));
    let other = "trust_claims := {\"hardware\": 2}\nextensions := [{\"name\": \"other\", \"key\": 1, \"value\": {}}]";
    assert!(matches!(with_result(other), RegoError::Result { rule, .. } if rule == "extensions"));
}

#[test]
fn a_text_that_is_no_policy_is_refused() {
    let refused = |text: &str| AttestationPolicy::compile(text, Limits::default()).unwrap_err();
    assert!(matches!(refused("package policy\nhardware := "), RegoError::Compile(_)));
    assert_eq!(refused("package other\nhardware := 2\n"), RegoError::Package("other".into()));
    assert!(matches!(refused("package policy\nallow := true\n"), RegoError::NoRule(_)));
    assert!(matches!(refused("package policy\nextensions := []\n"), RegoError::NoRule(_)));
    let limits = Limits { text: 30, ..Limits::default() };
    assert!(AttestationPolicy::compile("package policy\nhardware := 2\n", limits).is_ok());
    let long = "package policy\n\nhardware := 2\n";
    assert_eq!(
        AttestationPolicy::compile(long, Limits { text: 29, ..limits }).unwrap_err(),
        RegoError::Length { found: 30, limit: 29 }
    );
    for missing in
        ["http.send({})", "opa.runtime()", "uuid.rfc4122(\"\")", "net.lookup_ip_addr(\"a\")", "time.clock(1)"]
    {
        let error = refused(&format!("package policy\nhardware := {missing}\n"));
        assert!(
            matches!(&error, RegoError::Compile(why) if why.contains(missing.split('(').next().unwrap())),
            "{error}"
        );
    }
}

#[test]
fn policies_that_mean_no_good_are_stopped() {
    let stopped_within = |body: &str, time| {
        let text = format!("package policy\nimport rego.v1\n{body}\n");
        let policy = AttestationPolicy::compile(&text, Limits { time, ..Limits::default() });
        policy.and_then(|policy| policy.appraise(&claims("snp"), &references(), &settings(), AT)).unwrap_err()
    };
    let stopped = |body: &str| stopped_within(body, Duration::from_secs(20));
    let itself =
        |name: &str| RegoError::Compile(format!("rule {name} needs itself, or has a variable of a rule's name"));
    assert_eq!(stopped("f(x) := f(x + 1)\nhardware := f(1)"), itself("f"));
    assert_eq!(stopped("f(x) := g(x)\ng(x) := f(x)\nhardware := f(1)"), itself("f"));
    assert_eq!(stopped("f(x) := data.policy.f(x)\nhardware := f(1)"), itself("f"));
    assert_eq!(stopped("f(x) := data[\"policy\"].f(x)\nhardware := f(1)"), itself("f"));
    assert_eq!(stopped("hardware := x if { x := a with b as hardware }\na := b\nb := 1"), itself("hardware"));
    let computed = RegoError::Compile("rule hardware refers to data by a computed name".into());
    assert_eq!(stopped("x := \"hardware\"\nhardware := data.policy[x]"), computed);
    assert_eq!(stopped("x := \"policy\"\nhardware := data[x].hardware"), computed);
    assert!(matches!(stopped("import data.policy.hardware as g\nhardware := g"), RegoError::Compile(_)));
    let chain = |length: usize| -> String {
        let line = |n: usize| format!("x{n} := x{} + 1", n - 1);
        format!("x0 := 1\n{}\nhardware := x{length}", (1..=length).map(line).collect::<Vec<_>>().join("\n"))
    };
    let deep = RegoError::Compile("rules need each other too deeply".into());
    assert_eq!(stopped(&chain(1000)), deep);
    let short = compile(&format!("package policy\nimport rego.v1\n{}\n", chain(30)));
    assert_eq!(vector(&short, &claims("snp"), &references()).hardware, 31);
    let brackets = RegoError::Compile("its brackets are nested too deeply".into());
    for (open, close) in [("[", "]"), ("{", "}"), ("{1: [", "]}"), ("f([", "])"), ("[", "")] {
        let nested = |depth: usize| format!("hardware := {}1{}", open.repeat(depth), close.repeat(depth));
        assert_eq!(stopped(&nested(31)), brackets, "{open}");
        assert_ne!(stopped(&nested(3)), brackets, "{open}");
    }
    // Brackets in strings and comments are none.
    let many = "[".repeat(60);
    let text = format!("# {many}\nx := \"\\\"{many}\"\ny := `{many}`\nhardware := count(x) + count(y)");
    assert_eq!(vector(&compile(&format!("package policy\n{text}\n")), &claims("snp"), &references()).hardware, 121);
    for unclosed in ["\"[", "`[", "\"\\\""] {
        let error = RegoError::Compile("it has a string without an end".into());
        assert_eq!(stopped(&format!("hardware := {unclosed}")), error, "{unclosed}");
    }
    let ten = "a := [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]";
    let endless = format!(
        "{ten}\nhardware := count([1 | a[_]; a[_]; a[_]; a[_]; a[_]; a[_]; a[_]; a[_]; a[_]; a[_]; a[_]; a[_]])"
    );
    assert_eq!(stopped_within(&endless, Duration::from_millis(20)), RegoError::Time(20));
    let builtin = |name: &str, why| RegoError::Builtin { name: name.into(), why };
    let more = "would give more than a policy may have";
    assert_eq!(stopped("hardware := count(numbers.range(1, 1000000000))"), builtin("numbers.range", more));
    assert_eq!(stopped("hardware := bits.lsh(1, 100000000000)"), builtin("bits.lsh", more));
    assert_eq!(stopped("hardware := count(sprintf(\"%1000000000d\", [1]))"), builtin("sprintf", more));
    let doubled = |first: &str, step: &str, result: &str| {
        let line = |n: usize| format!("x{n} := {}", step.replace('@', &format!("x{}", n - 1)));
        let lines: Vec<String> = (1..40).map(line).collect();
        format!(
            "y := {result} if {{\n\tx0 := {first}\n\t{}\n}}\ntrust_claims := {{\"hardware\": y}}",
            lines.join("\n\t")
        )
    };
    let text = doubled("\"aaaaaaaa\"", "concat(\"\", [@, @])", "count(x39)");
    assert_eq!(stopped(&text), builtin("concat", more));
    assert_eq!(stopped(&doubled("[1]", "array.concat(@, @)", "count(x39)")), builtin("array.concat", more));
    assert_eq!(stopped(&doubled("[1]", "[@, @]", "count(json.marshal(x39))")), builtin("json.marshal", more));
    let long = "has a value that is longer than a policy may give";
    assert_eq!(stopped(&doubled("[1]", "[@, @]", "x39")), builtin("trust_claims", long));
    let squared = doubled("1000000007", "@ * @", "2").replace("x39 :=", "x39 := 1 #");
    assert_eq!(stopped_within(&squared, Duration::from_millis(20)), RegoError::Time(20));
    for unknown in ["rand.intn(\"a\", 3)", "walk(input)", "print(1)", "trace(\"a\")", "json.patch({}, [])"] {
        let name = unknown.split('(').next().unwrap();
        assert_eq!(
            stopped(&format!("hardware := {unknown}")),
            RegoError::Compile(format!("it calls {name}, which is not offered"))
        );
    }
}

/// The longest chains that are accepted, of rules of several shapes, fit on the stack of a thread.
#[test]
fn the_deepest_policies_that_are_accepted_run() {
    let nested = |depth: usize| format!("{}@{}", "[y | y := ".repeat(depth), "]".repeat(depth));
    let shapes = [
        "@ + 1".to_owned(),
        "g(@)".to_owned(),
        nested(1),
        nested(4),
        nested(9),
        "object.get({\"a\": @}, \"a\", 0)".to_owned(),
    ];
    for shape in shapes {
        let text = |length: usize| -> String {
            let line = |n: usize| format!("x{n} := {}", shape.replace('@', &format!("x{}", n - 1)));
            let lines: Vec<String> = (1..=length).map(line).collect();
            let end = format!("default hardware := 2\nhardware := 3 if x{length} == 0");
            format!("package policy\nimport rego.v1\ng(a) := a\nx0 := 1\n{}\n{end}\n", lines.join("\n"))
        };
        let accepted = |length: &usize| AttestationPolicy::compile(&text(*length), Limits::default()).is_ok();
        let longest = (1..200).take_while(accepted).last().unwrap();
        assert!(longest < 199, "{shape}");
        assert_eq!(vector(&compile(&text(longest)), &claims("snp"), &references()).hardware, 2, "{shape} {longest}");
    }
}

#[test]
fn time_is_the_time_of_the_appraisal() {
    let policy = compile(
        "package policy\nimport rego.v1\ndefault hardware := 97\nhardware := 2 if time.now_ns() < time.parse_rfc3339_ns(\"2026-11-23T12:14:14Z\")\n",
    );
    let at = |at| policy.appraise(&claims("snp"), &references(), &settings(), at).unwrap().judgement.vector.hardware;
    assert_eq!((at(AT), at(AT + 1)), (2, 97));
}

fn resource(text: &str) -> ResourcePolicy {
    ResourcePolicy::compile(text, Limits { time: Duration::from_secs(20), ..Limits::default() }).unwrap()
}

fn ask(policy: &ResourcePolicy, status: &str, path: [&str; 3]) -> Result<bool, RegoError> {
    let token = json!({ "iss": "us", "submods": { "cpu0": {
        "ear.status": status,
        "ear.appraisal-policy-id": "default",
        "ear.veraison.annotated-evidence": {
            "snp": { "measurement": "aa" },
            "belljar": { "kind": "snp" },
            "runtime_data_claims": { "tee-pubkey": { "kty": "EC" } },
        },
    } } });
    let path = path.map(str::to_owned);
    let query = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let request = ResourceRequest { plugin: "resource", path: &path, query: &query };
    policy.allows(&token_input(&token), &request, &Arc::default(), AT)
}

#[test]
fn resource_policies_of_upstreams_forms_run() {
    let by_path = resource(
        "package policy\nimport rego.v1\ndefault allow := false\nallow if {\n\tdata.plugin == \"resource\"\n\tdata[\"resource-path\"] == [\"a\", \"b\", \"c\"]\n\tdata.query.a == \"b\"\n\tinput.submods.cpu0[\"ear.veraison.annotated-evidence\"].snp.measurement == \"aa\"\n}\n",
    );
    assert_eq!(ask(&by_path, "affirming", ["a", "b", "c"]), Ok(true));
    assert_eq!(ask(&by_path, "affirming", ["a", "b", "d"]), Ok(false));
    let by_context = resource(
        "package policy\n\ndefault allow = false\n\nallow if {\n\tdata.plugin == \"resource\"\n\tinput.trust_context.attestation_summary.verification_result == true\n\tinput.trust_context.attestation_summary.tee_type == [\"snp\"]\n\tinput.trust_context.tee_pubkey.kty == \"EC\"\n}\n",
    );
    assert_eq!(ask(&by_context, "affirming", ["a", "b", "c"]), Ok(true));
    assert_eq!(ask(&by_context, "warning", ["a", "b", "c"]), Ok(false));
    let every = resource(
        "package policy\nimport rego.v1\ndefault allow := false\nallow if {\n\tnot refused\n\tcount(input.submods) > 0\n}\nrefused if {\n\tsome _, submod in input.submods\n\tsubmod[\"ear.status\"] != \"affirming\"\n}\n",
    );
    assert_eq!(ask(&every, "affirming", ["a", "b", "c"]), Ok(true));
    assert_eq!(ask(&every, "contraindicated", ["a", "b", "c"]), Ok(false));
}

#[test]
fn only_true_allows() {
    let body = |body: &str| resource(&format!("package policy\nimport rego.v1\n{body}\n"));
    assert_eq!(ask(&body("allow := true"), "affirming", ["a", "b", "c"]), Ok(true));
    assert_eq!(ask(&body("allow if input.nothing"), "affirming", ["a", "b", "c"]), Ok(false));
    let wrong = ask(&body("allow := 1"), "affirming", ["a", "b", "c"]);
    assert_eq!(wrong, Err(RegoError::Result { rule: "allow".into(), found: "1".into(), expected: "true or false" }));
    assert_eq!(
        ResourcePolicy::compile("package policy\nhardware := 2\n", Limits::default()).unwrap_err(),
        RegoError::NoRule("allow")
    );
}
