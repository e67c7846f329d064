//! Talking to pods: Services, port-forward, the API server from inside, exec, logs, cp, and the end of a pod.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{Duration, Instant};

use belljar_e2e::programs::{finish, wait};
use belljar_kubernetes_tests::cluster::Cluster;
use belljar_kubernetes_tests::images::PROBE;
use belljar_kubernetes_tests::space::{CLASS, Space, class, text_of};

pub(crate) const SCENARIOS: &[super::Scenario] = &[
    ("service_between_two_pods", service),
    ("token_speaks_to_the_api_server", token),
    ("port_forward", port_forward),
    ("exec_and_cp", exec),
    ("logs_follow", logs),
    ("delete_with_grace", delete),
];

const LONG: Duration = Duration::from_secs(120);

fn service(cluster: &Cluster) {
    let space = Space::new(cluster, "service");
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: web}}}}
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {PROBE}
    command: [probe, serve, "8080"]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"#
    ));
    space.wait_ready("server");
    let ip = text_of(&space.get("service/web")["spec"]["clusterIP"]).to_owned();
    // The service's address stands in the client's environment, as Kubernetes puts it there.
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  runtimeClassName: {CLASS}
  restartPolicy: OnFailure
  enableServiceLinks: true
  containers: [{{name: main, image: {PROBE}, command: [sh, -c, "echo $WEB_SERVICE_HOST; exec probe get http://$WEB_SERVICE_HOST:$WEB_SERVICE_PORT/"]}}]
"#
    ));
    space.wait_phase("client", "Succeeded");
    let log = space.must(&["logs", "client"]);
    for line in [&ip, "status 200", "server"] {
        assert!(log.lines().any(|found| found == line), "{line:?} is not in {log}");
    }
    let from_node = cluster.shell(&format!("curl -s --max-time 5 http://{ip}/"));
    assert_eq!(from_node.stdout, "server\n", "{}", from_node.stderr);
}

/// The service account's token and the cluster's certificate, used from inside the guest over TLS.
fn token(cluster: &Cluster) {
    let space = Space::new(cluster, "token");
    space.must(&["create", "role", "reader", "--verb=get", "--resource=configmaps"]);
    space.must(&["create", "rolebinding", "reader", "--role=reader", "--serviceaccount=token:default"]);
    space.must(&["create", "configmap", "seen", "--from-literal=word=from-the-api-server"]);
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: caller}}
spec:
  runtimeClassName: {CLASS}
  restartPolicy: Never
  automountServiceAccountToken: true
  containers:
  - name: main
    image: {PROBE}
    command: [probe, get, "https://10.96.0.1:443/api/v1/namespaces/token/configmaps/seen", --ca, {account}/ca.crt, --token, {account}/token]
"#
    ));
    space.wait(LONG, "end of the call", || {
        let pod = space.get("pod/caller");
        ["Succeeded", "Failed"].contains(&text_of(&pod["status"]["phase"])).then_some(())
    });
    let log = space.must(&["logs", "caller"]);
    assert!(log.contains("from-the-api-server") && log.contains("status 200"), "{log}\n{}", space.report());
}

fn port_forward(cluster: &Cluster) {
    let space = Space::new(cluster, "port-forward");
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: server}}
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {PROBE}
    command: [probe, serve, "8080"]
    ports: [{{containerPort: 8080}}]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"#
    ));
    space.wait_ready("server");
    let mut forward = space
        .kubectl(&["port-forward", "pod/server", ":8080"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(forward.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    // Forwarding from 127.0.0.1:41234 -> 8080
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned();
    let answers: Vec<_> = (0..3)
        .map(|_| finish(cluster.net("curl").args(["-s", "--max-time", "20", &format!("http://127.0.0.1:{port}/")])))
        .collect();
    forward.kill().unwrap();
    let mut errors = String::new();
    forward.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    forward.wait().unwrap();
    for answer in answers {
        assert_eq!(answer.stdout, "server\n", "{line}{}{errors}\n{}", answer.stderr, space.report());
    }
}

/// Exec with and without a terminal, stdin, exit codes, and `kubectl cp`, which is exec of tar.
fn exec(cluster: &Cluster) {
    let space = Space::new(cluster, "exec");
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: shell
  annotations:
    belljar.dev/exec.screen: |
      sh -c 'test -t 0 && echo terminal; until stty size 2>/dev/null | grep 24; do sleep 0.1; done; exit 5'
    belljar.dev/exec.main: |
      sh -c 'test -t 0 || echo pipe; exit 6'
      cat
      tar cf - /tmp/copied
      tar -xmf - -C /tmp
    belljar.dev/exec.closed: cat
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: {PROBE}, command: [sleep, "300"], stdin: true}}
  - {{name: screen, image: {PROBE}, command: [sleep, "300"], stdin: true, tty: true}}
  - {{name: closed, image: {PROBE}, command: [sleep, "300"]}}
"#
    ));
    space.wait_ready("shell");
    // util-linux's script gives kubectl a terminal of 24 lines and 80 columns.
    let kubectl = cluster.path("kubectl").display().to_string();
    let line = format!(
        "stty rows 24 cols 80; {kubectl} -n exec exec -it shell -c screen -- sh -c 'test -t 0 && echo terminal; until stty size 2>/dev/null | grep 24; do sleep 0.1; done; exit 5'"
    );
    let terminal = finish(std::process::Command::new("script").args(["-qec", &line, "/dev/null"]));
    assert_eq!(terminal.code, 5, "{}", terminal.stdout);
    assert!(terminal.stdout.contains("terminal") && terminal.stdout.contains("24 80\r\n"), "{:?}", terminal.stdout);
    let pipe = space.run(&["exec", "shell", "-c", "main", "--", "sh", "-c", "test -t 0 || echo pipe; exit 6"]);
    assert_eq!((pipe.code, pipe.stdout.as_str()), (6, "pipe\n"), "{}", pipe.stderr);
    let much = "line of text\n".repeat(50_000);
    let echoed = cluster.feed(&mut space.kubectl(&["exec", "-i", "shell", "-c", "main", "--", "cat"]), &much);
    assert!(echoed.code == 0 && echoed.stdout == much, "{} bytes came back: {}", echoed.stdout.len(), echoed.stderr);

    if class() == CLASS {
        // Only `tty: true` gives a container terminals.
        let line = format!("{kubectl} -n exec exec -it shell -c main -- cat");
        let refused = finish(std::process::Command::new("script").args(["-qec", &line, "/dev/null"]));
        assert!(
            refused.code != 0 && refused.stdout.contains("exec with a terminal in container"),
            "{}",
            refused.stdout
        );
        // A pipe that stays open and empty: bytes on their way when the kubelet ends the connection would reset it, and its reason with it;
        // kubectl says 0 then.
        let (stdin, typist) = std::io::pipe().unwrap();
        let closed = finish(space.kubectl(&["exec", "-i", "shell", "-c", "closed", "--", "cat"]).stdin(stdin));
        drop(typist);
        assert!(
            closed.code != 0 && closed.stderr.contains("stdin of container closed is closed by the contract"),
            "{closed:?}"
        );
    }

    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("copied");
    std::fs::write(&file, &much).unwrap();
    space.must(&["cp", "-c", "main", &file.display().to_string(), "shell:/tmp/copied"]);
    let back = place.path().join("back");
    space.must(&["cp", "-c", "main", "shell:/tmp/copied", &back.display().to_string()]);
    assert!(std::fs::read_to_string(&back).unwrap() == much);
}

/// `logs -f` shows lines as they come, and ends with the container.
fn logs(cluster: &Cluster) {
    let space = Space::new(cluster, "logs");
    space.deploy(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: counter}}
spec:
  runtimeClassName: {CLASS}
  restartPolicy: Never
  containers: [{{name: main, image: {PROBE}, command: [sh, -c, "for n in 1 2 3 4 5; do echo $n; sleep 1; done; echo end >&2"]}}]
"#
    ));
    space.wait(LONG, "a running pod", || {
        let phase = space.get("pod/counter")["status"]["phase"].clone();
        ["Running", "Succeeded"].contains(&text_of(&phase)).then_some(())
    });
    let mut follow = space.kubectl(&["logs", "-f", "counter"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = Vec::new();
    for line in BufReader::new(follow.stdout.as_mut().unwrap()).lines() {
        seen.push((line.unwrap(), Instant::now()));
    }
    assert_eq!(wait(&mut follow, Duration::from_secs(20)), 0);
    let lines: Vec<&str> = seen.iter().map(|(line, _)| line.as_str()).collect();
    assert_eq!(lines, ["1", "2", "3", "4", "5", "end"]);
    // Not all at the end.
    assert!(seen[5].1 - seen[2].1 > Duration::from_secs(1));
}

/// SIGTERM first, and what the container says then still reaches the log; SIGKILL for one that does not listen.
fn delete(cluster: &Cluster) {
    let space = Space::new(cluster, "delete");
    let pod = |name: &str, trap: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 30
  containers: [{{name: main, image: {PROBE}, command: [sh, -c, "trap '{trap}' TERM; echo up; while :; do sleep 0.2; done"]}}]
"#
        )
    };
    space.deploy(&pod("polite", "echo goodbye; exit 0"));
    space.deploy(&pod("deaf", ""));
    for name in ["polite", "deaf"] {
        space.wait(LONG, "start", || space.run(&["logs", name]).stdout.contains("up").then_some(()));
    }
    let mut follow = space.kubectl(&["logs", "-f", "polite"]).stdout(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    space.must(&["delete", "pod/polite", "--wait=false"]);
    space.must(&["delete", "pod/deaf", "--wait=false", "--grace-period=3"]);
    let mut said = String::new();
    follow.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    wait(&mut follow, Duration::from_secs(20));
    // Old kubelets add why there is no more.
    assert!(said.starts_with("up\ngoodbye\n"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(20), "it waited for the whole grace: {:?}", began.elapsed());
    for name in ["polite", "deaf"] {
        space.wait(LONG, "end of the pod", || space.try_get(&format!("pod/{name}")).is_none().then_some(()));
    }
}
