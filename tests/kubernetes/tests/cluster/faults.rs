//! A node on which things die, and what is left of pods.

use std::time::{Duration, Instant};

use belljar_kubernetes_tests::cluster::Cluster;
use belljar_kubernetes_tests::images::PROBE;
use belljar_kubernetes_tests::node::{self, Traces};
use belljar_kubernetes_tests::space::{CLASS, Space, is_ready, text_of};
use serde_json::Value;

pub(crate) const SCENARIOS: &[super::Scenario] = &[
    ("thirty_pods_leave_nothing", thirty),
    ("killed_qemu_is_seen_within_5_s", killed_qemu),
    ("killed_shim_is_a_failed_pod", killed_shim),
];

/// These stop what all pods of the node need, so they run by themselves.
pub(crate) const ALONE: &[super::Scenario] = &[
    ("alone_containerd_is_restarted", restarted_containerd),
    ("alone_kubelet_is_restarted", restarted_kubelet),
    ("alone_full_disk_is_an_event", full_disk),
];

const LONG: Duration = Duration::from_secs(120);

fn server(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  annotations: {{belljar.dev/exec.main: "echo alive"}}
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {PROBE}
    command: [probe, serve, "8080"]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"#
    )
}

/// One Deployment with one pod.
fn deployment() -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      runtimeClassName: {CLASS}
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {PROBE}
        command: [probe, serve, "8080"]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"#
    )
}

/// Pods created and deleted, one after the other, and then no process, mount, interface, cgroup or file that knows of them.
fn thirty(cluster: &Cluster) {
    let space = Space::new(cluster, "thirty");
    let mut sandboxes = Vec::new();
    for n in 0..30 {
        let name = format!("pod-{n}");
        space.deploy(&server(&name));
        space.wait_ready(&name);
        sandboxes.extend(node::sandboxes(cluster, "thirty", &name));
        space.must(&["delete", "pod", &name, "--grace-period=1", "--wait=false"]);
    }
    assert!(sandboxes.len() >= 30, "{sandboxes:?}");
    space.wait(LONG, "end of all pods", || {
        let left = space.must(&["get", "pods", "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
    // The kubelet removes the sandboxes themselves a little later.
    let mut left = Traces::default();
    let deadline = Instant::now() + LONG;
    while Instant::now() < deadline {
        left = Traces::of(cluster, &sandboxes);
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    panic!("left over: {left:#?}");
}

/// The pod of the Deployment, its container's id, and its sandbox.
fn only(space: &Space<'_>) -> (Value, String, String) {
    let pod = space.wait(LONG, "ready pod", || space.list("pods", "app=web").into_iter().find(is_ready));
    let id = text_of(&pod["status"]["containerStatuses"][0]["containerID"]).to_owned();
    let name = text_of(&pod["metadata"]["name"]).to_owned();
    let sandbox = node::sandboxes(space.cluster, &space.name, &name).pop().expect("its sandbox");
    (pod, id, sandbox)
}

/// Waits until the container that had this id is known to have ended, and a successor is ready.
fn replaced(space: &Space<'_>, id: &str, limit: Duration) -> Duration {
    let began = Instant::now();
    let noticed = space.wait(limit, "end of the container in the pod's status", || {
        let pods = space.list("pods", "app=web");
        let running = |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            status["containerID"] == id && !status["state"]["running"].is_null()
        };
        (!pods.iter().any(running)).then(|| began.elapsed())
    });
    space.wait(LONG, "ready successor", || {
        let pods = space.list("pods", "app=web");
        pods.iter().any(|pod| is_ready(pod) && pod["status"]["containerStatuses"][0]["containerID"] != id).then_some(())
    });
    noticed
}

fn killed_qemu(cluster: &Cluster) {
    let space = Space::new(cluster, "killed-qemu");
    space.deploy(&deployment());
    let (_, id, sandbox) = only(&space);
    let qemu = node::processes(cluster, &sandbox, "qemu-system");
    assert_eq!(qemu.len(), 1, "{qemu:?}");
    let began = Instant::now();
    cluster.shell(&format!("kill -9 {}", qemu[0]));
    // The shim tells containerd; the kubelet looks once a second.
    space.wait(Duration::from_secs(10), "exit in containerd", || node::has_exited(cluster, &id).then_some(()));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    replaced(&space, &id, LONG);
}

fn killed_shim(cluster: &Cluster) {
    let space = Space::new(cluster, "killed-shim");
    space.deploy(&deployment());
    let (_, id, sandbox) = only(&space);
    let shim = node::processes(cluster, &sandbox, "containerd-shim");
    assert_eq!(shim.len(), 1, "{shim:?}");
    let qemu = node::processes(cluster, &sandbox, "qemu-system");
    assert_eq!(qemu.len(), 1, "{qemu:?}");
    cluster.shell(&format!("kill -9 {}", shim[0]));
    replaced(&space, &id, LONG);
    // The VM did not outlive its shim.
    assert!(node::processes(cluster, &sandbox, "qemu-system").is_empty());
}

/// No room for the pod's folder: the event says so, and with room again the same pod starts.
fn full_disk(cluster: &Cluster) {
    let space = Space::new(cluster, "full-disk");
    // The pod's own image, which has to be prepared on this node, where no byte is free.
    let full = node::FullStore::new(cluster);
    space.deploy(&server("cramped"));
    space.wait_event("cramped", "no space left for layer images in /var/lib/belljar/store");
    drop(full);
    space.wait_ready("cramped");
}

/// Running pods live through containerd's end, and it finds them again.
fn restarted_containerd(cluster: &Cluster) {
    survives(cluster, "containerd");
}

fn restarted_kubelet(cluster: &Cluster) {
    survives(cluster, "kubelet");
}

fn survives(cluster: &Cluster, component: &str) {
    let space = Space::new(cluster, &format!("restarted-{component}"));
    space.deploy(&server("steady"));
    space.wait_ready("steady");
    let before = space.get("pod/steady")["status"]["containerStatuses"][0].clone();
    cluster.restart(component);
    space.wait(LONG, "exec after the restart", || {
        let exec = space.run(&["exec", "steady", "--", "echo", "alive"]);
        (exec.stdout == "alive\n").then_some(())
    });
    // The kubelet has looked at it again.
    std::thread::sleep(Duration::from_secs(5));
    space.wait_ready("steady");
    let after = space.get("pod/steady")["status"]["containerStatuses"][0].clone();
    assert_eq!((&before["containerID"], &before["restartCount"]), (&after["containerID"], &after["restartCount"]));
    space.deploy(&server("later"));
    space.wait_ready("later");
    space.must(&["delete", "pod", "steady", "later", "--grace-period=1", "--wait=false"]);
    space.wait(LONG, "end of both pods", || {
        let left = space.must(&["get", "pods", "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
}
