//! A namespace of the cluster for one test: objects in it, waiting with a limit, and what happened when a wait was in vain.

use std::process::Command;
use std::time::{Duration, Instant};

use belljar_e2e::programs::{Finished, finish};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::images::{OTHER, PROBE};

/// The RuntimeClass of pods in tests.
pub const CLASS: &str = "belljar-software";

/// `BELLJAR_K8S_CLASS=runc` runs the same scenarios with runc, to see whether a failure is Belljar's.
pub fn class() -> String {
    std::env::var("BELLJAR_K8S_CLASS").unwrap_or_else(|_| CLASS.to_owned())
}

/// A namespace, deleted with everything in it at the end.
#[derive(Debug)]
pub struct Space<'a> {
    /// Where it is.
    pub cluster: &'a Cluster,
    /// Its name.
    pub name: String,
}

impl<'a> Space<'a> {
    /// A new one. The service account, without which no pod can be made, is there when this returns.
    pub fn new(cluster: &'a Cluster, name: &str) -> Self {
        let space = Self { cluster, name: name.to_owned() };
        let made = finish(&mut cluster.kubectl(&["create", "namespace", name]));
        assert_eq!(made.code, 0, "{}", made.stderr);
        space.wait(Duration::from_secs(30), "the default service account", || {
            let account = space.try_get("serviceaccount/default")?;
            account["secrets"].as_array().is_some_and(|secrets| !secrets.is_empty()).then_some(())
        });
        space
    }

    /// `kubectl` in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = self.cluster.kubectl(&["--namespace", &self.name]);
        command.args(arguments);
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        finish(&mut self.kubectl(arguments))
    }

    /// Runs it, and it must succeed. Returns its stdout.
    pub fn must(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.code, 0, "kubectl {arguments:?}: {}\n{}", done.stderr, self.report());
        done.stdout
    }

    /// Applies YAML.
    pub fn apply(&self, yaml: &str) {
        let done = self.cluster.feed(&mut self.kubectl(&["apply", "-f", "-"]), yaml);
        assert_eq!(done.code, 0, "kubectl apply: {}\n{yaml}", done.stderr);
    }

    /// What a user does: `belljar apply`. The broker knows the contracts then. Returns the manifest as it was applied.
    pub fn deploy(&self, yaml: &str) -> String {
        self.deploy_with(yaml, &[])
    }

    /// The same with more options.
    pub fn deploy_with(&self, yaml: &str, options: &[&str]) -> String {
        let sealed = self.seal(yaml, options);
        self.apply(&sealed);
        sealed
    }

    /// The manifest with contracts in it, which the broker knows; it is not applied. Every pod has the RuntimeClass of these tests.
    pub fn seal(&self, yaml: &str, options: &[&str]) -> String {
        if class() != CLASS {
            return yaml.replace(&format!("runtimeClassName: {CLASS}"), &format!("runtimeClassName: {}", class()));
        }
        // In the place of kubectl: what `belljar apply` would apply.
        let place = tempfile::tempdir().expect("a directory");
        let (kubectl, sealed) = (place.path().join("kubectl"), place.path().join("sealed.yaml"));
        let script = format!("#!/bin/sh\ncase \" $* \" in *' apply '*) cat >{} ;; esac\n", sealed.display());
        std::fs::write(&kubectl, script).expect("a file");
        std::fs::set_permissions(&kubectl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        let mut apply = self.cluster.belljar();
        apply.env("BELLJAR_KUBECTL", &kubectl).args(["apply", "-f", "-", "--no-wait", "--allow-software-tee"]);
        apply.arg("--broker-token").arg(self.cluster.path("broker.token"));
        self.manifest_options(&mut apply, yaml, options);
        let done = self.cluster.feed(&mut apply, yaml);
        assert_eq!(done.code, 0, "belljar apply: {}\n{yaml}", done.stderr);
        std::fs::read_to_string(&sealed).unwrap_or_else(|e| panic!("nothing was applied: {e}\n{}", done.stderr))
    }

    /// The annotations of a pod, given as JSON, with its contract, which the broker knows.
    pub fn annotations(&self, pod: &Value) -> Vec<(String, String)> {
        let sealed = self.seal(&pod.to_string(), &[]);
        let mut json = self.kubectl(&["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-"]);
        let json = self.cluster.feed(&mut json, &sealed);
        assert_eq!(json.code, 0, "{}", json.stderr);
        let pod: Value = serde_json::from_str(&json.stdout).expect("kubectl prints JSON");
        let all = pod["metadata"]["annotations"].as_object().expect("the contract is an annotation");
        all.iter().map(|(name, value)| (name.clone(), text_of(value).to_owned())).collect()
    }

    /// `belljar contract generate` with this manifest.
    pub fn generate(&self, yaml: &str, options: &[&str]) -> Finished {
        let mut generate = self.cluster.belljar();
        generate.args(["contract", "generate", "-f", "-"]);
        self.manifest_options(&mut generate, yaml, options);
        self.cluster.feed(&mut generate, yaml)
    }

    fn manifest_options(&self, command: &mut Command, yaml: &str, options: &[&str]) {
        command.args(["--keep-image-names", "--broker", &self.cluster.broker_url()]);
        command.args(["--namespace", &self.name, "--runtime-class", CLASS]).args(options);
        for image in [PROBE, OTHER].iter().filter(|image| yaml.contains(**image)) {
            command.arg("--image").arg(format!("{image}=oci-archive:{}", self.cluster.archive(image).display()));
        }
    }

    /// An object, or nothing when there is none.
    pub fn try_get(&self, object: &str) -> Option<Value> {
        let done = self.run(&["get", object, "-o", "json"]);
        (done.code == 0).then(|| serde_json::from_str(&done.stdout).expect("kubectl prints JSON"))
    }

    /// An object.
    pub fn get(&self, object: &str) -> Value {
        self.try_get(object).unwrap_or_else(|| panic!("there is no {object}\n{}", self.report()))
    }

    /// The objects of a kind that a label selects.
    pub fn list(&self, kind: &str, label: &str) -> Vec<Value> {
        let text = self.must(&["get", kind, "-l", label, "-o", "json"]);
        let mut list: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        match list["items"].take() {
            Value::Array(items) => items,
            other => panic!("no list of items: {other}"),
        }
    }

    /// Waits until `ready` has a value.
    pub fn wait<T>(&self, limit: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = ready() {
                return value;
            }
            assert!(Instant::now() < deadline, "no {what} within {limit:?}\n{}", self.report());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until a pod is ready.
    pub fn wait_ready(&self, pod: &str) {
        self.wait(Duration::from_secs(90), &format!("ready pod {pod}"), || {
            let object = self.get(&format!("pod/{pod}"));
            is_ready(&object).then_some(())
        });
    }

    /// Waits until a pod is in a phase, and returns it.
    pub fn wait_phase(&self, pod: &str, phase: &str) -> Value {
        self.wait(Duration::from_secs(90), &format!("pod {pod} in phase {phase}"), || {
            let object = self.get(&format!("pod/{pod}"));
            (object["status"]["phase"] == phase).then_some(object)
        })
    }

    /// Waits for an event about a pod whose message holds `text`, and returns the message.
    pub fn wait_event(&self, pod: &str, text: &str) -> String {
        self.wait(Duration::from_secs(90), &format!("event of {pod} with {text:?}"), || {
            self.events(pod).into_iter().find(|message| message.contains(text))
        })
    }

    /// Messages of all events about a pod.
    pub fn events(&self, pod: &str) -> Vec<String> {
        let selector = format!("involvedObject.name={pod}");
        let text = self.must(&["get", "events", "--field-selector", &selector, "-o", "json"]);
        let list: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|event| format!("{}: {}", text_of(&event["reason"]), text_of(&event["message"]))).collect()
    }

    /// What to look at when something did not happen.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for arguments in [
            &["get", "all", "-o", "wide"][..],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["describe", "pods"],
            &["logs", "--tail=20", "--all-containers", "--prefix", "-l", "!none"],
        ] {
            let done = self.run(arguments);
            text.push_str(&format!("--- kubectl {}\n{}{}\n", arguments.join(" "), done.stdout, done.stderr));
        }
        text.push_str(&format!("--- containerd\n{}\n", self.cluster.log("containerd", 30)));
        text
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        let _ = self.run(&[
            "delete",
            "deployment,replicaset,job,cronjob,pod",
            "--all",
            "--force",
            "--grace-period=0",
            "--wait=false",
        ]);
        let _ = finish(&mut self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]));
    }
}

/// Whether a pod has the condition Ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// A JSON string, or an empty text.
pub fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
