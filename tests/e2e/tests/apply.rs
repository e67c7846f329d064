//! `belljar apply` with a real broker and a `kubectl` that says what a test wants: what is registered and applied, and in which exit code
//! a pod's state ends. The same against a real cluster is in tests/kubernetes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use belljar_e2e::images;
use belljar_e2e::programs::{Finished, finish, wait};
use belljar_e2e::workplace::Workplace;
use serde_json::{Value, json};

const POD: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {greeting: hello}
---
apiVersion: v1
kind: Pod
metadata:
  name: demo
  annotations:
    belljar.dev/secret.main: key=kbs:///default/key/1
spec:
  automountServiceAccountToken: false
  containers:
  - name: main
    image: registry.local/busybox:1
    command: [cat, /etc/conf/greeting]
    volumeMounts: [{name: conf, mountPath: /etc/conf}]
  volumes:
  - {name: conf, configMap: {name: conf}}
";

/// What stands in for kubectl: it writes down how it was called, and answers from files.
const KUBECTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >> calls
for word; do case "$word" in
  apply) cat > applied.yaml; cat refuses >&2 2>/dev/null && exit 1; echo "pod/demo created"; exit 0 ;;
  pods) cat pods.json; exit 0 ;;
  pod) cat pod.json 2>/dev/null; exit 0 ;;
  events) cat events.json; exit 0 ;;
esac; done
exit 9
"#;

struct Bench {
    place: Workplace,
    broker: Child,
    url: String,
    image: String,
}

impl Bench {
    fn new() -> Self {
        let place = Workplace::new();
        let image = format!("registry.local/busybox:1={}", images::busybox(&place));
        let token = place.path("token");
        let mut broker = place
            .belljar()
            .args(["broker", "serve", "--data"])
            .arg(place.path("broker"))
            .arg("--token-file")
            .arg(&token)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(broker.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
        let bench = Self { place, broker, url: url.trim().to_owned(), image };
        bench.write("pod.yaml", POD);
        bench.write("secret", "hunter2");
        bench.write("pods.json", r#"{"items": []}"#);
        bench.write("events.json", r#"{"items": []}"#);
        bench.write("kubectl", KUBECTL);
        std::fs::set_permissions(bench.place.path("kubectl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        bench
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.place.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.place.path(name)).unwrap_or_default()
    }

    fn path(&self, name: &str) -> String {
        self.place.path(name).display().to_string()
    }

    fn command(&self, verb: &[&str]) -> Command {
        let mut command = self.place.belljar();
        command.args(verb).args(["-f", &self.path("pod.yaml"), "--image", &self.image, "--broker", &self.url]);
        command.env("BELLJAR_KUBECTL", self.path("kubectl"));
        command
    }

    fn apply(&self, options: &[&str]) -> Finished {
        let token = self.path("token");
        finish(self.command(&["apply", "--broker-token", &token]).args(["--timeout", "3"]).args(options))
    }

    fn secret(&self) -> String {
        format!("kbs:///default/key/1={}", self.path("secret"))
    }

    /// The initdata annotation that generation gives.
    fn annotation(&self) -> String {
        let generated = finish(&mut self.command(&["--format", "json", "contract", "generate"]));
        assert_eq!(generated.code, 0, "{}", generated.stderr);
        let document: Value = serde_json::from_str(&generated.stdout).unwrap();
        let yaml = document["yaml"].as_str().unwrap();
        let (_, rest) = yaml.split_once("cc_init_data: \"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }

    /// `kubectl get pods` from now on: one pod with this annotation and status.
    fn pod(&self, annotation: &str, status: Value) -> Value {
        let key = "io.katacontainers.config.hypervisor.cc_init_data";
        let pod = json!({
            "metadata": { "name": "demo", "annotations": { key: annotation } }, "spec": { "nodeName": "n1" },
            "status": status,
        });
        self.write("pods.json", &json!({ "items": [pod.clone()] }).to_string());
        pod
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.broker);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        wait(&mut self.broker, Duration::from_secs(10));
    }
}

fn up() -> Value {
    json!({ "phase": "Running", "containerStatuses": [{ "name": "main", "state": { "running": {} } }] })
}

#[test]
fn a_pod_that_runs_and_never_attested_is_not_decided() {
    let bench = Bench::new();
    let annotation = bench.annotation();
    bench.pod(&annotation, up());
    let secret = bench.secret();
    let first = bench.apply(&["--secret", &secret, "--context", "c", "-n", "team"]);
    assert_eq!(first.code, 3, "{}", first.stderr);
    let expected = "Pod demo: the pods run, but the broker has seen no attestation of them; kubectl describe pods";
    assert!(first.stderr.contains(expected), "{}", first.stderr);
    assert!(first.stderr.contains("the broker knows now Pod demo: it may run as guest image "), "{}", first.stderr);
    assert!(!first.stderr.contains("software TEE"), "{}", first.stderr);
    assert!(!first.stderr.contains("hunter2"));
    let calls = bench.read("calls");
    assert!(calls.contains("--context=c --namespace=team apply -f -\n"), "{calls}");
    let applied = bench.read("applied.yaml");
    assert!(
        applied.contains("runtimeClassName: belljar\n") && applied.contains("belljar.dev/broker: https://127.0.0.1:"),
        "{applied}"
    );
    // Again, without the secret: the broker has it already for this contract.
    let again = bench.apply(&["-n", "team"]);
    assert_eq!(again.code, 3, "{}", again.stderr);
    assert!(again.stderr.contains("the broker knows already Pod demo"), "{}", again.stderr);
    // And with the software TEE, which is another set of measurements: now the secret is needed.
    let more = bench.apply(&["-n", "team", "--allow-software-tee"]);
    assert_eq!(more.code, 2, "{}", more.stderr);
    let more = bench.apply(&["-n", "team", "--allow-software-tee", "--secret", &secret]);
    assert_eq!(more.code, 3, "{}", more.stderr);
    assert!(more.stderr.contains("--allow-software-tee: software TEE: it protects nothing"), "{}", more.stderr);
    assert!(more.stderr.contains(", software TEE ("), "{}", more.stderr);
}

#[test]
fn a_pod_that_failed_is_refused_with_its_event() {
    let bench = Bench::new();
    let annotation = bench.annotation();
    bench.write(
        "events.json",
        r#"{"items": [{"type": "Warning", "reason": "Failed", "message": "layer is not what the contract says"}]}"#,
    );
    let ended = json!({ "exitCode": 128, "reason": "StartError" });
    let status =
        json!({ "phase": "Failed", "containerStatuses": [{ "name": "main", "state": { "terminated": ended } }] });
    bench.pod(&annotation, status);
    let refused = bench.apply(&["--secret", &bench.secret()]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    let why = "Pod demo: pod demo: failed: container main: StartError; Failed: layer is not what the contract says";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    assert!(refused.stdout.contains("n1") && refused.stdout.contains("REFUSED"), "{}", refused.stdout);
}

#[test]
fn a_pod_that_does_not_come_is_not_decided() {
    let bench = Bench::new();
    let late = bench.apply(&["--secret", &bench.secret()]);
    assert_eq!(late.code, 3, "{}", late.stderr);
    assert!(late.stderr.contains("Pod demo: 0 of 1 pods run after 3 s"), "{}", late.stderr);
}

#[test]
fn a_pod_with_another_contract_stays_as_it_is() {
    let bench = Bench::new();
    let annotation = bench.annotation();
    let pod = bench.pod("another", up());
    bench.write("pod.json", &pod.to_string());
    let refused = bench.apply(&["--secret", &bench.secret()]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("pod demo runs already, with another contract or none; kubectl delete pod demo"),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("the broker knows"), "{}", refused.stderr);
    assert_eq!(bench.read("applied.yaml"), "");
    let pod = bench.pod(&annotation, up());
    bench.write("pod.json", &pod.to_string());
    assert_eq!(bench.apply(&["--secret", &bench.secret()]).code, 3);
    assert_ne!(bench.read("applied.yaml"), "");
}

#[test]
fn what_is_missing_is_said_before_anything_is_applied() {
    let bench = Bench::new();
    let says = |finished: Finished, code: i32, text: &str| {
        assert_eq!(finished.code, code, "{}", finished.stderr);
        assert!(finished.stderr.contains(text), "{}", finished.stderr);
        assert_eq!(bench.read("applied.yaml"), "");
    };
    says(
        bench.apply(&[]),
        2,
        "Pod demo asks for the secret kbs:///default/key/1, which the broker does not have for it; give it by --secret",
    );
    let other = format!("kbs:///default/key/2={}", bench.path("secret"));
    says(
        bench.apply(&["--secret", &other]),
        2,
        "--secret kbs:///default/key/2: no contract of the manifest asks for it",
    );
    let secret = bench.secret();
    let token = bench.path("token");
    let mut without = bench.command(&["apply", "--broker-token", &token, "--secret", &secret]);
    says(finish(without.env("BELLJAR_KUBECTL", "/nowhere/kubectl")), 3, "cannot run /nowhere/kubectl");
    let dry = finish(&mut bench.command(&["apply", "--dry-run"]));
    let generated = finish(&mut bench.command(&["contract", "generate"]));
    assert_eq!((dry.code, &dry.stdout), (0, &generated.stdout), "{}", dry.stderr);
    assert_eq!(bench.read("applied.yaml"), "");
    let mut strict = bench.command(&["apply", "--dry-run"]);
    bench.write("pod.yaml", &POD.replace("  containers:", "  hostNetwork: true\n  hostPID: true\n  containers:"));
    says(
        finish(&mut strict),
        2,
        "belljar: 2 problems in the manifest\n  line 14: Pod demo: spec.hostNetwork is not honoured: ",
    );
}

#[test]
fn what_kubectl_refuses_is_told_in_its_words() {
    let bench = Bench::new();
    bench.write("refuses", "error: the server says no\n");
    let refused = bench.apply(&["--secret", &bench.secret(), "--no-wait"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("apply failed (exit status: 1)\n  error: the server says no"),
        "{}",
        refused.stderr
    );
    std::fs::remove_file(PathBuf::from(bench.path("refuses"))).unwrap();
    let applied = bench.apply(&["--no-wait"]);
    assert_eq!(applied.code, 0, "{}", applied.stderr);
    assert!(applied.stderr.contains("pod/demo created"), "{}", applied.stderr);
}
