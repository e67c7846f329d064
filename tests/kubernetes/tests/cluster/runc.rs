//! The cluster itself, with runc: when these fail, the others say nothing about Belljar.

use std::time::Duration;

use belljar_kubernetes_tests::cluster::Cluster;
use belljar_kubernetes_tests::images::PROBE;
use belljar_kubernetes_tests::space::{Space, text_of};

pub(crate) const SCENARIOS: &[super::Scenario] =
    &[("runc_runs_a_pod", runs_a_pod), ("an_unknown_handler_is_named", unknown_handler)];

fn runs_a_pod(cluster: &Cluster) {
    let space = Space::new(cluster, "runc-pod");
    space.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: one}}\nspec:\n  runtimeClassName: runc\n  dnsPolicy: Default\n  \
         containers:\n  - {{name: main, image: {PROBE}, command: [probe, serve, '8080']}}\n"
    ));
    space.wait_ready("one");
    let ip = text_of(&space.get("pod/one")["status"]["podIP"]).to_owned();
    let answer = cluster.shell(&format!("curl -s --max-time 5 http://{ip}:8080/"));
    assert_eq!((answer.code, answer.stdout.as_str()), (0, "one\n"), "{}", answer.stderr);
    assert_eq!(space.must(&["logs", "one"]), "listening on 8080\n");
    let exec = space.run(&["exec", "one", "--", "sh", "-c", "echo out; exit 3"]);
    assert_eq!((exec.code, exec.stdout.as_str()), (3, "out\n"), "{}", exec.stderr);
    space.must(&["delete", "pod/one", "--grace-period=0", "--force"]);
    space.wait(Duration::from_secs(20), "end of the pod", || space.try_get("pod/one").is_none().then_some(()));
}

fn unknown_handler(cluster: &Cluster) {
    let space = Space::new(cluster, "unknown-handler");
    space.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: one}}\nspec:\n  runtimeClassName: missing\n  \
         containers:\n  - {{name: main, image: {PROBE}, command: [probe, serve, '8080']}}\n"
    ));
    space.wait_event("one", "no runtime for \"not-configured\" is configured");
}
