//! Ordinary workloads, each in pod VMs: what a user of Kubernetes expects of any runtime.

use std::time::Duration;

use belljar_kubernetes_tests::cluster::Cluster;
use belljar_kubernetes_tests::images::{OTHER, PROBE};
use belljar_kubernetes_tests::space::{CLASS, Space, text_of};
use serde_json::Value;

pub(crate) const SCENARIOS: &[super::Scenario] = &[
    ("pod_is_what_its_manifest_says", manifest),
    ("init_containers_and_a_shared_volume", shared_volume),
    ("probes_of_three_kinds", probes),
    ("restart_on_failure", restart),
    ("out_of_memory_is_oomkilled", oom),
    ("job_completes", job),
    ("cronjob_runs_once", cronjob),
    ("deployment_rolls", deployment),
    ("volume_of_the_host_is_updated", updated_volume),
];

const LONG: Duration = Duration::from_secs(120);

/// Environment, files from ConfigMap and Secret, the downward API, user, host name, arguments: one pod, many facts.
fn manifest(cluster: &Cluster) {
    let space = Space::new(cluster, "manifest");
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{colour: green, app.conf: "a = 1\nb = 2\n"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: login}}
stringData: {{password: quiet}}
---
apiVersion: v1
kind: Pod
metadata:
  name: facts
  labels: {{app: facts}}
  annotations: {{belljar.dev/exec.main: "cat /etc/settings/app.conf\nsh -c 'exit 7'\nid -u"}}
spec:
  runtimeClassName: {CLASS}
  restartPolicy: Never
  containers:
  - name: main
    image: {PROBE}
    command: [sh, -c]
    args:
    - |
      echo "greeting=$GREETING colour=$COLOUR password=$PASSWORD name=$NAME"
      echo "file=$(cat /etc/login/password) labels=$(cat /etc/about/labels)"
      echo "user=$(id -u):$(id -g) host=$(hostname) pwd=$(pwd)"
      echo "address=$ADDRESS"
      touch /etc/settings/x 2>/dev/null || echo sealed
      exec sleep 300
    workingDir: /tmp
    env:
    - {{name: GREETING, value: good day}}
    - {{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: colour}}}}}}
    - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: login, key: password}}}}}}
    - {{name: NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: ADDRESS, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    securityContext: {{runAsUser: 1000, runAsGroup: 1000}}
    volumeMounts:
    - {{name: settings, mountPath: /etc/settings}}
    - {{name: login, mountPath: /etc/login}}
    - {{name: about, mountPath: /etc/about}}
  volumes:
  - {{name: settings, configMap: {{name: settings}}}}
  - {{name: login, secret: {{secretName: login}}}}
  - {{name: about, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
"#
    ));
    space.wait_ready("facts");
    let address = text_of(&space.get("pod/facts")["status"]["podIP"]).to_owned();
    let log = space.wait(LONG, "the last line", || {
        let log = space.must(&["logs", "facts"]);
        log.contains("sealed").then_some(log)
    });
    for line in [
        "greeting=good day colour=green password=quiet name=facts",
        "file=quiet labels=app=\"facts\"",
        "user=1000:1000 host=facts pwd=/tmp",
        &format!("address={address}"),
    ] {
        assert!(log.lines().any(|found| found == line), "{line:?} is not in {log}");
    }
    assert_eq!(space.must(&["exec", "facts", "--", "cat", "/etc/settings/app.conf"]), "a = 1\nb = 2\n");
    assert_eq!(space.must(&["exec", "facts", "--", "id", "-u"]), "1000\n");
    assert_eq!(space.run(&["exec", "facts", "--", "sh", "-c", "exit 7"]).code, 7);
}

fn shared_volume(cluster: &Cluster) {
    let space = Space::new(cluster, "shared-volume");
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: both}}
spec:
  runtimeClassName: {CLASS}
  restartPolicy: Never
  initContainers:
  - {{name: first, image: {PROBE}, command: [sh, -c, "echo first > /work/log"], volumeMounts: [{{name: work, mountPath: /work}}]}}
  - {{name: second, image: {PROBE}, command: [sh, -c, "echo second >> /work/log"], volumeMounts: [{{name: work, mountPath: /work}}]}}
  containers:
  - name: writer
    image: {PROBE}
    command: [sh, -c, "echo third >> /work/log; touch /work/ready; while [ ! -e /work/read ]; do sleep 0.2; done"]
    volumeMounts: [{{name: work, mountPath: /work}}]
  - name: reader
    image: {PROBE}
    command: [sh, -c, "while [ ! -e /data/ready ]; do sleep 0.2; done; cat /data/log; touch /data/read"]
    volumeMounts: [{{name: work, mountPath: /data}}]
  volumes: [{{name: work, emptyDir: {{}}}}]
"#
    ));
    let pod = space.wait_phase("both", "Succeeded");
    assert_eq!(space.must(&["logs", "both", "-c", "reader"]), "first\nsecond\nthird\n");
    for status in pod["status"]["initContainerStatuses"].as_array().unwrap() {
        assert_eq!(status["state"]["terminated"]["reason"], "Completed", "{status}");
    }
}

/// The kubelet's own requests (HTTP, TCP) and a command in the container; each of them may also fail.
fn probes(cluster: &Cluster) {
    let space = Space::new(cluster, "probes");
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: probed
  annotations: {{belljar.dev/exec.main: "touch /tmp/ready\nrm /tmp/alive"}}
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {PROBE}
    command: [sh, -c, "sleep 1; touch /tmp/started /tmp/alive; exec probe serve 8080"]
    startupProbe: {{exec: {{command: [cat, /tmp/started]}}, periodSeconds: 1, failureThreshold: 60}}
    readinessProbe: {{httpGet: {{path: /exists/tmp/ready, port: 8080}}, periodSeconds: 1}}
    livenessProbe: {{exec: {{command: [cat, /tmp/alive]}}, periodSeconds: 1, failureThreshold: 2}}
  - name: other
    image: {PROBE}
    command: [probe, echo, "9000"]
    livenessProbe: {{tcpSocket: {{port: 9000}}, periodSeconds: 1}}
"#
    ));
    let status = |name: &str| {
        let pod = space.get("pod/probed");
        let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|status| status["name"] == name)
    };
    space.wait(LONG, "a started container that is not ready", || status("main").filter(|s| s["started"] == true));
    let not_ready = status("main").unwrap();
    assert_eq!(not_ready["ready"], false, "{not_ready}");
    space.must(&["exec", "probed", "-c", "main", "--", "touch", "/tmp/ready"]);
    space.wait_ready("probed");
    assert_eq!(status("other").unwrap()["restartCount"], 0);
    space.must(&["exec", "probed", "-c", "main", "--", "rm", "/tmp/alive"]);
    space.wait(LONG, "restart by the liveness probe", || status("main").filter(|s| s["restartCount"] == 1));
    space.wait_event("probed", "Liveness probe failed");
    assert_eq!(status("other").unwrap()["restartCount"], 0, "{}", space.report());
}

/// A container that failed is started again in the same VM: the volume remembers the first time.
fn restart(cluster: &Cluster) {
    let space = Space::new(cluster, "restart");
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: twice}}
spec:
  runtimeClassName: {CLASS}
  restartPolicy: OnFailure
  containers:
  - name: main
    image: {PROBE}
    command: [sh, -c, "if [ -e /work/before ]; then echo again; exit 0; fi; touch /work/before; echo fails; exit 3"]
    volumeMounts: [{{name: work, mountPath: /work}}]
  volumes: [{{name: work, emptyDir: {{}}}}]
"#
    ));
    let pod = space.wait_phase("twice", "Succeeded");
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["restartCount"], 1, "{status}");
    assert_eq!(status["state"]["terminated"]["exitCode"], 0, "{status}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{status}");
    assert_eq!(space.must(&["logs", "twice"]), "again\n");
}

fn oom(cluster: &Cluster) {
    let space = Space::new(cluster, "oom");
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: greedy}}
spec:
  runtimeClassName: {CLASS}
  restartPolicy: Never
  containers:
  - {{name: main, image: {PROBE}, command: [probe, allocate, "200"], resources: {{limits: {{memory: 64Mi}}}}}}
"#
    ));
    let pod = space.wait_phase("greedy", "Failed");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&"OOMKilled".into(), &137.into()), "{ended}");
    // The twin that needs less.
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: modest}}
spec:
  runtimeClassName: {CLASS}
  containers:
  - {{name: main, image: {PROBE}, command: [probe, allocate, "20"], resources: {{limits: {{memory: 64Mi}}}}}}
"#
    ));
    space
        .wait(LONG, "all of its memory", || space.run(&["logs", "modest"]).stdout.contains("all 20 MiB").then_some(()));
}

fn job(cluster: &Cluster) {
    let space = Space::new(cluster, "job");
    space.deploy(&format!(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {{name: sum}}
spec:
  backoffLimit: 1
  template:
    spec:
      runtimeClassName: {CLASS}
      restartPolicy: Never
      containers: [{{name: main, image: {PROBE}, command: [sh, -c, "echo $((6 * 7))"]}}]
"#
    ));
    space.must(&["wait", "--for=condition=complete", "job/sum", "--timeout=110s"]);
    assert_eq!(space.must(&["logs", "job/sum"]), "42\n");
}

fn cronjob(cluster: &Cluster) {
    let space = Space::new(cluster, "cronjob");
    // Never by itself within this test: a person starts it.
    space.deploy(&format!(
        r#"
apiVersion: batch/v1beta1
kind: CronJob
metadata: {{name: nightly}}
spec:
  schedule: "0 0 29 2 *"
  jobTemplate:
    spec:
      template:
        spec:
          runtimeClassName: {CLASS}
          restartPolicy: Never
          containers: [{{name: main, image: {PROBE}, command: [echo, ran]}}]
"#
    ));
    space.must(&["create", "job", "--from=cronjob/nightly", "now"]);
    space.must(&["wait", "--for=condition=complete", "job/now", "--timeout=110s"]);
    assert_eq!(space.must(&["logs", "job/now"]), "ran\n");
}

/// Three replicas; a new image rolls through, and old pods go only when new ones are ready.
fn deployment(cluster: &Cluster) {
    let space = Space::new(cluster, "deployment");
    let manifest = |image: &str| {
        format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 1}}}}
  template:
    metadata:
      labels: {{app: web}}
      annotations: {{belljar.dev/exec.main: "cat /data/version"}}
    spec:
      runtimeClassName: {CLASS}
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {image}
        command: [probe, serve, "8080"]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"#
        )
    };
    space.deploy(&manifest(PROBE));
    space.must(&["rollout", "status", "deployment/web", "--timeout=110s"]);
    let pods = space.list("pods", "app=web");
    assert_eq!(pods.len(), 3, "{}", space.report());
    assert_ne!(space.run(&["exec", name(&pods[0]), "--", "cat", "/data/version"]).code, 0);

    space.deploy(&manifest(OTHER));
    space.must(&["rollout", "status", "deployment/web", "--timeout=110s"]);
    let running = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
    let pods: Vec<Value> = space.list("pods", "app=web").into_iter().filter(running).collect();
    assert_eq!(pods.len(), 3, "{}", space.report());
    for pod in &pods {
        assert_eq!(space.must(&["exec", name(pod), "--", "cat", "/data/version"]), "2\n");
    }
}

/// A ConfigMap that its author left to the host is read again when it changes.
fn updated_volume(cluster: &Cluster) {
    let space = Space::new(cluster, "updated-volume");
    let settings = |colour: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{colour: {colour}}}\n")
    };
    space.apply(&settings("green"));
    let pod = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: watcher}}
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {PROBE}
    command: [sh, -c, "while :; do cat /etc/settings/colour; echo; sleep 1; done"]
    volumeMounts: [{{name: settings, mountPath: /etc/settings}}]
  volumes: [{{name: settings, configMap: {{name: settings, items: [{{key: colour, path: colour}}]}}}}]
"#
    );
    space.deploy_with(&pod, &["--host-provided", "configmap/settings"]);
    space.wait(LONG, "first value", || space.run(&["logs", "watcher"]).stdout.contains("green").then_some(()));
    space.apply(&settings("blue"));
    space.wait(LONG, "second value", || space.run(&["logs", "watcher"]).stdout.contains("blue").then_some(()));
}

fn name(object: &Value) -> &str {
    text_of(&object["metadata"]["name"])
}
