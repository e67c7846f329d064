//! `belljar k8s` against a script that answers as kubectl does and notes what it was asked.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

struct Cluster(tempfile::TempDir);

impl Cluster {
    /// A cluster of one node that says `state`, with all of Belljar's objects.
    fn new(state: &str, problem: &Value) -> Self {
        let cluster = Self(tempfile::tempdir().unwrap());
        let status = json!({
            "state": state, "version": "0.1.0", "tee": "snp", "kvm": true, "qemu": "10.0.2", "containerd": "2.1.9",
            "handlers": ["belljar"], "serves": [], "problem": problem, "next": problem.as_str().map(|_| "mend it"),
        });
        cluster.has("daemonset", &json!({"metadata": {"name": "belljar-node"}}));
        cluster.has(
            "nodes",
            &json!({"items": [{"metadata": {"name": "n1", "annotations": {"belljar.dev/status": status.to_string()}}}]}),
        );
        cluster.has("pods", &json!({"items": []}));
        let classes =
            ["belljar", "belljar-snp", "belljar-tdx", "belljar-software"].map(|name| json!({"handler": name}));
        cluster.has("runtimeclasses", &json!({ "items": classes }));
        let folder = cluster.0.path().display();
        let script = format!(
            "#!/bin/sh\nwhile [ \"${{1#--}}\" != \"$1\" ]; do shift; done\necho \"$*\" >> {folder}/asked\n[ \"$1\" = get ] || exit 0\n[ \"$2\" != --raw=/version ] || exec echo '{{}}'\n\
             [ ! -e {folder}/\"$2\" ] || exec cat {folder}/\"$2\"\n"
        );
        let kubectl = cluster.0.path().join("kubectl");
        fs::write(&kubectl, script).unwrap();
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
        cluster
    }

    fn has(&self, kind: &str, answer: &Value) {
        fs::write(self.0.path().join(kind), answer.to_string()).unwrap();
    }

    fn belljar(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_belljar"));
        let output =
            command.arg("k8s").args(args).env("BELLJAR_KUBECTL", self.0.path().join("kubectl")).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// What was asked beside questions.
    fn changes(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.0.path().join("asked")).unwrap();
        asked.lines().filter(|line| !line.starts_with("get ")).map(str::to_owned).collect()
    }
}

fn status(cluster: &Cluster) -> (i32, Value) {
    let (code, out, err) = cluster.belljar(&["status", "--format", "json"]);
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}")))
}

#[test]
fn status_is_good_when_all_is_there_and_names_what_is_not() {
    let (code, good) = status(&Cluster::new("ready", &Value::Null));
    assert_eq!((code, &good["good"], &good["nodes"][0]["name"]), (0, &json!(true), &json!("n1")));

    let broken = Cluster::new("broken", &json!("containerd is away"));
    let (code, answer) = status(&broken);
    assert_eq!((code, &answer["good"]), (1, &json!(false)));
    let (code, out, _) = broken.belljar(&["status"]);
    assert_eq!(code, 1);
    assert!(out.contains("containerd is away") && out.contains("mend it"), "{out}");

    let lacking = Cluster::new("ready", &Value::Null);
    lacking.has("runtimeclasses", &json!({"items": [{"handler": "belljar"}]}));
    let (code, answer) = status(&lacking);
    assert_eq!(code, 1);
    assert_eq!(answer["missing_runtime_classes"], json!(["belljar-snp", "belljar-tdx", "belljar-software"]));

    let absent = Cluster::new("ready", &Value::Null);
    fs::remove_file(absent.0.path().join("daemonset")).unwrap();
    let (code, out, _) = absent.belljar(&["status"]);
    assert_eq!(code, 1);
    assert!(out.contains("Belljar is not installed on this cluster; next: belljar k8s install"), "{out}");
}

#[test]
fn uninstall_leaves_pods_that_run_alone_and_the_cluster_as_it_is() {
    let pod = |phase: &str| {
        json!({"items": [{
            "metadata": {"namespace": "shop", "name": "web-0"}, "spec": {"runtimeClassName": "belljar"}, "status": {"phase": phase},
        }]})
    };
    let cluster = Cluster::new("ready", &Value::Null);
    cluster.has("pods", &pod("Running"));
    let (code, _, err) = cluster.belljar(&["uninstall"]);
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("1 pods use belljar; delete them first, or take --force") && err.contains("shop/web-0"),
        "{err}"
    );
    assert_eq!(cluster.changes(), Vec::<String>::new());
    // The same pod, ended, keeps nobody from it.
    cluster.has("pods", &pod("Succeeded"));
    let (_, _, err) = cluster.belljar(&["uninstall", "--wait", "1"]);
    assert!(!err.contains("pods use belljar"), "{err}");
    assert!(cluster.changes().iter().any(|asked| asked.starts_with("delete ")), "{:?}", cluster.changes());
}

#[test]
fn a_cluster_that_is_away_is_no_verdict() {
    let cluster = Cluster::new("ready", &Value::Null);
    let kubectl = cluster.0.path().join("kubectl");
    fs::write(&kubectl, "#!/bin/sh\necho 'connection refused' >&2\nexit 1\n").unwrap();
    let (code, _, err) = cluster.belljar(&["status"]);
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("cannot reach the cluster: connection refused; kubectl cluster-info tells more"), "{err}");
}
