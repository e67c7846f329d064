//! Whole manifests: which objects are workloads, what is written, and that nothing is ignored in silence.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use belljar_contract::Initdata;
use belljar_kube::yaml::{Node, Value, read, write};
use belljar_kube::{Generated, Manifest, Options};
use common::{BESIDE, generate, images, options, pod};
use proptest::prelude::*;

fn broker() -> Options {
    Options {
        broker: Some(belljar_contract::BrokerPin { spki_sha256: "ab".repeat(32) }),
        broker_address: Some("https://broker.example:8443".to_owned()),
        ..options()
    }
}

fn with(yaml: &str, options: &Options) -> Generated {
    Manifest::parse(yaml).unwrap().generate(&images(), options).unwrap()
}

/// Files beside this one; `BELLJAR_BLESS=1` writes them anew.
fn golden(name: &str, found: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BELLJAR_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "{path} differs; look at the change, then run the tests with BELLJAR_BLESS=1");
}

#[test]
fn a_deployment_gives_the_golden_contract_and_manifest() {
    let yaml = include_str!("golden/web.yaml");
    let generated = with(yaml, &Options { network_policy: true, ..broker() });
    assert_eq!(generated.workloads.len(), 1);
    let workload = &generated.workloads[0];
    assert_eq!(workload.title(), "Deployment web");
    assert_eq!(workload.replicas, Some(3));
    assert_eq!(generated.unprotected, ["Service web"]);
    golden("web.contract.toml", &workload.contract.to_toml());
    golden("web.out.yaml", &generated.yaml);
    golden("web.notes.txt", &workload.notes.iter().map(|note| format!("{note}\n")).collect::<String>());
    // What the annotation says is the contract.
    let annotated = Manifest::parse(&generated.yaml).unwrap().annotated();
    assert_eq!(annotated.len(), 1);
    assert_eq!(annotated[0].0, "Deployment web");
    let raw = belljar_contract::from_annotation(&annotated[0].1).unwrap();
    assert_eq!(raw, workload.initdata.as_bytes());
    assert_eq!(Initdata::parse(&raw).unwrap().contract().unwrap(), workload.contract);
    assert_eq!(belljar_contract::digest(&raw).unwrap(), workload.digest);
    // Again, from what was written: the same.
    let again = with(&generated.yaml, &Options { network_policy: true, ..broker() });
    assert_eq!(again.yaml, generated.yaml);
    assert_eq!(again.workloads[0].digest, workload.digest);
}

#[test]
fn every_kind_of_workload_is_found() {
    let template = "template: {metadata: {labels: {a: b}}, spec: {automountServiceAccountToken: false, enableServiceLinks: false, \
                    restartPolicy: POLICY, containers: [{name: main, image: 'img:1'}]}}";
    for (api, kind, spec, policy, restart) in [
        ("apps/v1", "Deployment", "spec: {TEMPLATE}", "Always", "always"),
        ("apps/v1", "StatefulSet", "spec: {TEMPLATE}", "Always", "always"),
        ("apps/v1", "DaemonSet", "spec: {TEMPLATE}", "Always", "always"),
        ("apps/v1", "ReplicaSet", "spec: {TEMPLATE}", "Always", "always"),
        ("v1", "ReplicationController", "spec: {TEMPLATE}", "Always", "always"),
        ("batch/v1", "Job", "spec: {TEMPLATE}", "OnFailure", "on-failure"),
        (
            "batch/v1beta1",
            "CronJob",
            "spec: {schedule: '* * * * *', jobTemplate: {spec: {TEMPLATE}}}",
            "OnFailure",
            "on-failure",
        ),
    ] {
        let body = spec.replace("TEMPLATE", &template.replace("POLICY", policy));
        let yaml = format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: w}}\n{body}\n");
        let generated = generate(&yaml).unwrap_or_else(|problems| panic!("{kind}: {problems:?}"));
        let toml = generated.workloads[0].contract.to_toml();
        assert!(toml.contains("hostname_from_host = true") && !toml.contains("HOSTNAME ="), "{kind}: {toml}");
        assert!(toml.contains(&format!("restart = \"{restart}\"")), "{kind}: {toml}");
        assert!(generated.yaml.contains("runtimeClassName: belljar\n"), "{kind}");
        // The same inside of a List.
        let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}", yaml.trim_end().replace('\n', "\n  "));
        let of_list = generate(&list).unwrap();
        assert_eq!(of_list.workloads[0].digest, generated.workloads[0].digest, "{kind}");
        assert_eq!(Manifest::parse(&of_list.yaml).unwrap().annotated().len(), 1, "{kind}");
        // A kind of the same name in another group is none of ours.
        let other = yaml.replace(api, "example.com/v1");
        let generated = generate(&other).unwrap();
        assert_eq!((generated.workloads.len(), generated.unprotected), (0, vec![format!("{kind} w")]));
        let wrong = yaml.replace(policy, "Sometimes");
        assert!(generate(&wrong).is_err(), "{kind}");
    }
}

#[test]
fn what_a_controller_adds_is_known() {
    let job = |mode: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: j}}\nspec:\n  completionMode: {mode}\n  completions: 2\n  \
             template: {{spec: {{restartPolicy: Never, hostname: fixed, containers: [{{name: main, image: 'img:1'}}]}}}}\n"
        )
    };
    let indexed = generate(&job("Indexed")).unwrap().workloads[0].contract.to_toml();
    assert!(
        indexed.contains("JOB_COMPLETION_INDEX = \"integer\"") && indexed.contains("hostname_from_host = true"),
        "{indexed}"
    );
    let plain = generate(&job("NonIndexed")).unwrap().workloads[0].contract.to_toml();
    assert!(!plain.contains("JOB_COMPLETION_INDEX") && plain.contains("hostname = \"fixed\""), "{plain}");
    let set = |claims: &str| {
        format!(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: s}}\nspec:\n  volumeClaimTemplates: {claims}\n  \
             template: {{spec: {{containers: [{{name: main, image: 'img:1'}}]}}}}\n"
        )
    };
    assert!(generate(&set("[]")).is_ok());
    assert_eq!(
        generate(&set("[{metadata: {name: c}}]")).unwrap_err(),
        [
            "line 5: StatefulSet s: spec.volumeClaimTemplates is not honoured: its volumes' data would lie in the host's hands; use \
          emptyDir, or an encrypted store over the network"
        ]
    );
    let missing = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 1}\n";
    assert_eq!(
        generate(missing).unwrap_err(),
        ["line 1: Deployment d: spec.template is missing: it says what its pods run"]
    );
    assert_eq!(generate("metadata: {name: x}\n").unwrap_err().len(), 1);
}

#[test]
fn annotations_of_ours() {
    let with = |annotation: &str| {
        let yaml = pod("", "").replace("belljar.dev/logs: allow", annotation);
        let manifest = Manifest::parse(&yaml).unwrap();
        match manifest.generate(&images(), &broker()) {
            Ok(generated) => Ok(generated.workloads[0].contract.to_toml()),
            Err(belljar_kube::KubeError::Problems(problems)) => Err(problems[0].to_string()),
            Err(error) => panic!("{error}"),
        }
    };
    let key = "cd".repeat(32);
    for (annotation, line) in [
        ("belljar.dev/logs.main: allow".to_owned(), "logs = \"allow\""),
        (
            "belljar.dev/exec.main: \"sh -c 'a b'\\n\\ncat x\"".to_owned(),
            "  [\"sh\", \"-c\", \"a b\"],\n  [\"cat\", \"x\"],",
        ),
        (
            "belljar.dev/secret.main: a=kbs:///d/k/1".to_owned(),
            "{ name = \"a\", resource = \"kbs:///d/k/1\", path = \"/run/secrets/a\" },",
        ),
        ("belljar.dev/secret.main: a=kbs:///d/k/1 /etc/a".to_owned(), "path = \"/etc/a\" },"),
        ("belljar.dev/secret-api.main: 'true'".to_owned(), "secret_api = true"),
        (format!("belljar.dev/operator: {key} exec logs"), "exec = \"allow\"\nlogs = \"allow\""),
    ] {
        let toml = with(&annotation).unwrap_or_else(|problem| panic!("{problem}"));
        assert!(toml.contains(line), "{annotation}: {toml}");
    }
    assert!(!with("belljar.dev/logs: deny").unwrap().contains("logs = "));
    let at = "line 3: Pod demo: metadata.annotations";
    for (annotation, problem) in [
        ("belljar.dev/logs: maybe", "['belljar.dev/logs'] is \"maybe\", expected \"allow\" or \"deny\""),
        (
            "belljar.dev/log: allow",
            "['belljar.dev/log'] is not honoured: this Belljar does not know such a field; remove it",
        ),
        (
            "belljar.dev/logs.other: deny",
            "['belljar.dev/logs.other'] is \"other\", expected one of the pod's containers (main) in its name",
        ),
        (
            "belljar.dev/exec.main: ls *",
            "['belljar.dev/exec.main'] is \"ls *\", expected one command a line, quoted for a shell, without expansions",
        ),
        (
            "belljar.dev/secret.main: a=vault://x",
            "['belljar.dev/secret.main'] is \"a=vault://x\", expected NAME=kbs:///repository/type/tag, and perhaps a path, one a line",
        ),
        (
            "belljar.dev/operator: abc exec",
            "['belljar.dev/operator'] is \"abc exec\", expected the key's SHA-256 in 64 lowercase hex digits, then `exec`, `logs` or both",
        ),
        (
            "io.katacontainers.config.hypervisor.default_vcpus: '4'",
            "['io.katacontainers.config.hypervisor.default_vcpus'] is not honoured: it configures Kata Containers; remove it",
        ),
    ] {
        assert_eq!(with(annotation), Err(format!("{at}{problem}")));
    }
    // Secrets need a broker.
    let yaml = pod("", "").replace("belljar.dev/logs: allow", "belljar.dev/secret.main: a=kbs:///d/k/1");
    assert!(generate(&yaml).unwrap_err()[0].contains("needs a broker"));
}

#[test]
fn notes_say_what_the_user_should_know() {
    let notes = |yaml: &str| generate(yaml).unwrap().workloads[0].notes.clone();
    assert_eq!(notes(&pod("", "")), Vec::<String>::new());
    assert!(
        notes(&pod("enableServiceLinks: null", ""))[0].starts_with("addresses of Services are not in the environment")
    );
    assert!(
        notes(&pod("", "").replace("belljar.dev/logs: allow", "x: z"))[0]
            .starts_with("output of containers leaves the pod")
    );
    let volume = |kind: &str| {
        pod(&format!("volumes: [{{name: v, {kind}}}]"), "volumeMounts: [{name: v, mountPath: /v}]") + BESIDE
    };
    assert!(
        notes(&volume("secret: {secretName: keys}"))[0]
            .starts_with("Secret keys is fixed, but no secret from the host")
    );
    assert!(
        notes(&volume("secret: {secretName: hosts}"))[0].starts_with("WHOEVER RUNS THE HOST OR THE CLUSTER CHOOSES")
    );
    assert!(notes(&volume("configMap: {name: conf}")).is_empty());
}

#[test]
fn names_of_images_stay_when_asked() {
    let kept = with(&pod("", ""), &Options { keep_image_names: true, ..options() });
    assert!(kept.yaml.contains("image: img:1\n"), "{}", kept.yaml);
    assert!(kept.workloads[0].contract.to_toml().contains("image = \"img:1\""));
    let pinned = with(&pod("", ""), &options());
    assert!(pinned.yaml.contains(&format!("image: img:1@{}\n", common::DIGEST)), "{}", pinned.yaml);
    assert_eq!(Manifest::parse(&pod("", "")).unwrap().images(), ["img:1".to_owned()].into());
}

#[test]
fn a_network_policy_opens_only_what_the_manifest_says() {
    let options = Options { network_policy: true, ..options() };
    let policy = |yaml: &str| {
        let generated = with(yaml, &options);
        let policy = generated.yaml.rsplit("---\n").next().unwrap().to_owned();
        assert!(policy.contains("kind: NetworkPolicy"), "{}", generated.yaml);
        policy
    };
    let closed = policy(&pod("", ""));
    assert!(closed.contains("  ingress: []\n"), "{closed}");
    assert!(closed.contains("port: 53") && !closed.contains("6443"), "{closed}");
    let open = policy(&pod(
        "automountServiceAccountToken: true",
        "ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]",
    ));
    assert!(
        open.contains(
            "  ingress:\n  - ports:\n    - protocol: TCP\n      port: 80\n    - protocol: UDP\n      port: 53\n"
        ),
        "{open}"
    );
    assert!(open.contains("6443"), "{open}");
    let nameless = with(&pod("", "").replace("labels: {app: web}, ", ""), &options);
    assert!(!nameless.yaml.contains("NetworkPolicy"));
    assert_eq!(nameless.workloads[0].notes, ["has no labels, so no NetworkPolicy can name its pods"]);
}

/// A pod that uses nearly every field.
const RICH: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: demo, namespace: team, labels: {app: web}}
spec:
  hostname: h
  dnsPolicy: None
  dnsConfig: {nameservers: [1.1.1.1], options: [{name: ndots, value: "2"}]}
  hostAliases: [{ip: 10.0.0.1, hostnames: [a]}]
  os: {name: linux}
  securityContext: {runAsUser: 1, fsGroup: 2, seccompProfile: {type: RuntimeDefault}, sysctls: [{name: net.ipv4.tcp_syncookies, value: "1"}]}
  initContainers: [{name: init, image: 'img:1', env: [{name: A, value: b}], resources: {limits: {cpu: 1}}}]
  containers:
  - name: main
    image: img:1
    env:
    - {name: A, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: status.podIP}}}
    - {name: B, valueFrom: {configMapKeyRef: {name: conf, key: greeting}}}
    - {name: C, valueFrom: {secretKeyRef: {name: keys, key: key}}}
    - {name: D, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    envFrom: [{configMapRef: {name: conf}}, {secretRef: {name: keys}}]
    ports: [{containerPort: 80, name: http, protocol: TCP}]
    resources: {limits: {cpu: 1, memory: 64Mi}, requests: {cpu: 1}}
    livenessProbe: {exec: {command: [a]}, periodSeconds: 1}
    readinessProbe: {httpGet: {port: 80, httpHeaders: [{name: a, value: b}]}}
    startupProbe: {tcpSocket: {port: 80}}
    lifecycle: {postStart: {exec: {command: [a]}}, preStop: {sleep: {seconds: 1}}}
    securityContext: {capabilities: {drop: [ALL], add: [CHOWN]}, seccompProfile: {type: RuntimeDefault}}
    volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}, {name: c, mountPath: /c}, {name: d, mountPath: /d}, {name: e, mountPath: /e}]
  volumes:
  - {name: a, emptyDir: {sizeLimit: 1Mi}}
  - {name: b, configMap: {name: conf, items: [{key: greeting, path: g}]}}
  - {name: c, secret: {secretName: keys, items: [{key: key, path: g}]}}
  - {name: d, downwardAPI: {items: [{path: g, fieldRef: {fieldPath: status.podIP}}, {path: h, resourceFieldRef: {containerName: main, resource: limits.cpu}}]}}
  - name: e
    projected:
      sources:
      - serviceAccountToken: {path: token}
      - configMap: {name: conf, items: [{key: greeting, path: g}]}
      - secret: {name: keys}
      - downwardAPI: {items: [{path: x, fieldRef: {fieldPath: metadata.uid}}]}
"#;

/// Puts an unknown key into the `target`-th mapping; gives its path, or none when there are fewer.
fn spoil(node: &mut Node, path: &str, left: &mut usize) -> Option<String> {
    match &mut node.value {
        Value::Map(map) => {
            if *left == 0 {
                map.set("zzUnknown", Value::Integer(1));
                return Some(format!("{path}.zzUnknown").trim_start_matches('.').to_owned());
            }
            *left -= 1;
            let keys: Vec<String> = map.iter().map(|(key, _)| key.to_owned()).collect();
            keys.into_iter().find_map(|key| {
                // What the user names is no field.
                if matches!(key.as_str(), "labels" | "annotations") {
                    return None;
                }
                let path = format!("{path}.{key}").trim_start_matches('.').to_owned();
                spoil(map.get_mut(&key)?, &path, left)
            })
        }
        Value::List(list) => {
            list.iter_mut().enumerate().find_map(|(index, node)| spoil(node, &format!("{path}[{index}]"), left))
        }
        _ => None,
    }
}

#[test]
fn an_unknown_key_anywhere_is_refused_by_its_path() {
    let documents = read(&(RICH.to_owned() + BESIDE)).unwrap();
    generate(&write(&documents)).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let mut places = 0;
    loop {
        let mut spoiled = documents.clone();
        let Some(path) = spoil(&mut spoiled[0], "", &mut { places }) else { break };
        let found = generate(&write(&spoiled)).err().unwrap_or_else(|| panic!("{path} is ignored"));
        assert!(
            found.iter().any(|problem| problem.contains(&format!(": {path} is not honoured: "))),
            "{path}: {found:?}"
        );
        places += 1;
    }
    assert!(places > 60, "{places}");
}

proptest! {
    #[test]
    fn any_unknown_key_is_refused(name in "[a-zA-Z][a-zA-Z0-9.-]{0,12}", spec: bool) {
        let documents = read(RICH).unwrap();
        let known = |path: &[&str]| documents[0].at(path).unwrap().map().unwrap().get(&name).is_some();
        let (in_spec, in_container) = if spec { (format!("zz{name}: 1"), String::new()) } else { (String::new(), format!("zz{name}: 1")) };
        prop_assume!(!known(&["spec"]));
        let found = generate(&pod(&in_spec, &in_container)).err().unwrap();
        prop_assert!(found.len() == 1 && found[0].ends_with("is not honoured: this Belljar does not know such a field; remove it"), "{:?}", found);
        prop_assert!(found[0].contains(&format!("zz{name}")), "{:?}", found);
    }

    #[test]
    fn values_of_any_type_never_panic(key in 0..200_usize, value in "(1|true|x|'x'|\\[\\]|\\{\\}|\\[1\\]|\\{a: b\\}|-1|0[.]5|null)") {
        let mut documents = read(&(RICH.to_owned() + BESIDE)).unwrap();
        replace(&mut documents[0], &read(&format!("v: {value}")).unwrap()[0].at(&["v"]).unwrap().value, &mut { key });
        let _ = generate(&write(&documents));
        belljar_kube::fuzz(write(&documents).as_bytes());
    }
}

#[test]
fn the_book_names_every_field() {
    let book = include_str!("../../../docs/kubernetes.md");
    let tables = [
        belljar_kube::plan::CLUSTER.as_slice(),
        &belljar_kube::plan::REFUSED,
        &belljar_kube::container::CLUSTER,
        &belljar_kube::container::REFUSED,
        &belljar_kube::security::REFUSED,
        &belljar_kube::volumes::REFUSED_VOLUMES,
        &belljar_kube::annotations::OWN,
    ];
    for (field, _) in tables.into_iter().flatten() {
        assert!(book.contains(&format!("`{field}`")), "{field} is not in docs/kubernetes.md");
    }
}

/// Replaces the `left`-th value by another.
fn replace(node: &mut Node, value: &Value, left: &mut usize) -> bool {
    if *left == 0 {
        node.value = value.clone();
        return true;
    }
    *left -= 1;
    match &mut node.value {
        Value::Map(map) => {
            let keys: Vec<String> = map.iter().map(|(key, _)| key.to_owned()).collect();
            keys.into_iter().any(|key| map.get_mut(&key).is_some_and(|node| replace(node, value, left)))
        }
        Value::List(list) => list.iter_mut().any(|node| replace(node, value, left)),
        _ => false,
    }
}
