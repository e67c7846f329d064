//! A node that lies. Each attack has a twin without it, and is refused with a reason, or changes nothing.

use std::time::Duration;

use belljar_e2e::programs::finish;
use belljar_kubernetes_tests::cluster::Cluster;
use belljar_kubernetes_tests::images::{OTHER, PROBE};
use belljar_kubernetes_tests::space::{CLASS, Space, text_of};

pub(crate) const SCENARIOS: &[super::Scenario] = &[
    ("hostile_config_json_changes_nothing", config_json),
    ("hostile_extra_container", extra_container),
    ("hostile_second_start", second_start),
    ("hostile_order_of_init_containers", order),
    ("hostile_exec", exec),
    ("hostile_value_outside_its_type", value),
    ("hostile_configmap", configmap),
    ("hostile_layer", layer),
    ("hostile_image_under_the_same_name", image),
    ("hostile_swap_of_contracts", swap),
];

const HOSTILE: &str = "belljar-hostile";
const LONG: Duration = Duration::from_secs(120);

/// What the node does to the bundle of a container: a jq program.
fn lie(cluster: &Cluster, pod: &str, container: &str, program: &str) {
    let directory = cluster.path("m/etc/belljar/hostile");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(format!("{pod}.{container}.jq")), program).unwrap();
}

/// Seals for the honest class and runs under the lying node.
fn deploy(space: &Space<'_>, yaml: &str) {
    let sealed = space.seal(yaml, &[]).replace(CLASS, HOSTILE);
    space.apply(&sealed);
}

fn logs(space: &Space<'_>, pod: &str, wanted: &str) -> String {
    space.wait(LONG, &format!("{wanted:?} in the log"), || {
        let log = space.run(&["logs", pod]).stdout;
        log.contains(wanted).then_some(log)
    })
}

/// Command, environment, user, capabilities and mounts of config.json are not what runs.
fn config_json(cluster: &Cluster) {
    let space = Space::new(cluster, "hostile-config");
    let pod = |name: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {PROBE}
    command: [sh, -c, "echo evil=$EVIL word=$WORD user=$(id -u) $(grep CapEff /proc/self/status) $(ls /host); exec sleep 300"]
    env: [{{name: WORD, value: honest}}]
    securityContext: {{runAsUser: 1000, capabilities: {{drop: [ALL]}}}}
"#
        )
    };
    let honest = "evil= word=honest user=1000 CapEff: 0000000000000000";
    deploy(&space, &pod("honest"));
    let log = logs(&space, "honest", "evil=");
    assert!(log.contains(honest), "{log}");
    lie(
        cluster,
        "changed",
        "main",
        r#".process.args = ["sh", "-c", "echo evil=stolen; sleep 300"] | .process.env += ["EVIL=1", "WORD=changed"]
           | .process.user = {uid: 0, gid: 0} | .process.capabilities.effective = ["CAP_SYS_ADMIN"]
           | .process.capabilities.bounding = ["CAP_SYS_ADMIN"] | .process.capabilities.permitted = ["CAP_SYS_ADMIN"]
           | .mounts += [{destination: "/host", type: "bind", source: "/etc", options: ["rbind"]}]
           | .root.readonly = false | .linux.maskedPaths = [] | .process.noNewPrivileges = false"#,
    );
    deploy(&space, &pod("changed"));
    let log = logs(&space, "changed", "evil=");
    assert!(log.contains(honest), "{log}");
    // The lie was told: containerd's bundle has it.
    let told =
        cluster.shell("grep -l 'evil=stolen' /run/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json");
    assert_eq!(told.code, 0, "{}", told.stderr);
}

fn simple(name: &str, more: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: {PROBE}, command: [sh, -c, "echo main; exec sleep 300"]}}
{more}"#
    )
}

/// A container that the contract does not have.
fn extra_container(cluster: &Cluster) {
    let space = Space::new(cluster, "hostile-extra");
    let extra = format!("  - {{name: extra, image: {PROBE}, command: [sh, -c, \"echo extra; exec sleep 300\"]}}\n");
    let twin = space.seal(&simple("twin", &extra), &[]);
    space.apply(&twin);
    space.wait_ready("twin");
    // Sealed without it, and then added by whoever runs the cluster.
    let sealed = space.seal(&simple("more", ""), &[]);
    let (before, rest) = sealed.split_once("containers:\n").expect("a list of containers");
    let indent = rest.len() - rest.trim_start().len();
    let added = format!("{}- {{name: extra, image: {PROBE}, command: [sh]}}\n", " ".repeat(indent));
    space.apply(&format!("{before}containers:\n{added}{rest}"));
    space.wait_event("more", "container extra is not in the pod's contract, which has main");
    space.wait(LONG, "output of the other", || {
        (space.run(&["logs", "more", "-c", "main"]).stdout == "main\n").then_some(())
    });
}

/// Two containers of the pod, and the node starts one of them twice.
fn second_start(cluster: &Cluster) {
    let space = Space::new(cluster, "hostile-second");
    let other = format!("  - {{name: other, image: {PROBE}, command: [sh, -c, \"echo other; exec sleep 300\"]}}\n");
    deploy(&space, &simple("once", &other));
    space.wait_ready("once");
    lie(cluster, "twice", "other", r#".annotations["io.kubernetes.cri.container-name"] = "main""#);
    deploy(&space, &simple("twice", &other));
    space.wait_event("twice", "container \"main\" was started already");
}

/// The node starts the main container before the init container has run.
fn order(cluster: &Cluster) {
    let space = Space::new(cluster, "hostile-order");
    let init = format!("  initContainers: [{{name: first, image: {PROBE}, command: [\"true\"]}}]\n");
    deploy(&space, &simple("ordered", &init));
    space.wait_ready("ordered");
    lie(cluster, "early", "first", r#".annotations["io.kubernetes.cri.container-name"] = "main""#);
    deploy(&space, &simple("early", &init));
    space.wait_event("early", "first");
    assert_ne!(space.get("pod/early")["status"]["phase"], "Running");
}

/// A command that the contract does not list, and one that it does.
fn exec(cluster: &Cluster) {
    let space = Space::new(cluster, "hostile-exec");
    let yaml = simple("shell", "").replace(
        "metadata: {name: shell}",
        "metadata: {name: shell, annotations: {belljar.dev/exec.main: \"echo listed\"}}",
    );
    space.deploy(&yaml);
    space.wait_ready("shell");
    assert_eq!(space.must(&["exec", "shell", "--", "echo", "listed"]), "listed\n");
    let other = space.run(&["exec", "shell", "--", "echo", "unlisted"]);
    assert_ne!(other.code, 0);
    assert!(other.stdout.is_empty() && other.stderr.contains("contract"), "{}", other.stderr);
}

/// A value that the contract leaves to the host has a type.
fn value(cluster: &Cluster) {
    let space = Space::new(cluster, "hostile-value");
    let pod = |name: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {PROBE}
    command: [sh, -c, "echo address=$ADDRESS; exec sleep 300"]
    env: [{{name: ADDRESS, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}]
"#
        )
    };
    deploy(&space, &pod("typed"));
    let log = logs(&space, "typed", "address=");
    assert_eq!(log.trim(), format!("address={}", text_of(&space.get("pod/typed")["status"]["podIP"])));
    lie(
        cluster,
        "untyped",
        "main",
        r#".process.env |= map(if startswith("ADDRESS=") then "ADDRESS=10.0.0.1; rm -rf /" else . end)"#,
    );
    deploy(&space, &pod("untyped"));
    let message = space.wait_event("untyped", "ADDRESS");
    assert!(message.contains("Failed"), "{message}");
    assert_eq!(space.run(&["logs", "untyped"]).stdout, "");
}

/// A ConfigMap whose content the contract has measured, changed by whoever runs the cluster.
fn configmap(cluster: &Cluster) {
    let space = Space::new(cluster, "hostile-configmap");
    let settings =
        |word: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{word: {word}}}\n");
    let pod = |name: &str| {
        format!(
            r#"---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  runtimeClassName: {CLASS}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {PROBE}
    command: [sh, -c, "echo word=$(cat /etc/settings/word); exec sleep 300"]
    volumeMounts: [{{name: settings, mountPath: /etc/settings}}]
  volumes: [{{name: settings, configMap: {{name: settings}}}}]
"#
        )
    };
    space.deploy(&(settings("honest") + &pod("measured")));
    assert_eq!(logs(&space, "measured", "word=").trim(), "word=honest");
    let sealed = space.seal(&(settings("honest") + &pod("swapped")), &[]);
    // The word in the sealed manifest's ConfigMap; the pod's contract has a digest.
    space.apply(&sealed.replace("word: honest", "word: changed"));
    space.wait_event("swapped", "settings");
    assert_eq!(space.run(&["logs", "swapped"]).stdout, "");
}

/// A layer's file on the node, changed in one bit.
fn layer(cluster: &Cluster) {
    let space = Space::new(cluster, "hostile-layer");
    let image = "registry.local/own:1";
    let archive = cluster.add_image(image, "/data/own", b"of this image only\n");
    let option = format!("{image}=oci-archive:{}", archive.display());
    let pod = |name: &str| simple(name, "").replace(PROBE, image).replace("echo main", "cat /data/own");
    space.deploy_with(&pod("whole"), &["--image", &option]);
    assert_eq!(logs(&space, "whole", "of this").trim(), "of this image only");
    space.must(&["delete", "pod", "whole", "--grace-period=0", "--force"]);
    let changed = cluster.shell(
        "for f in $(grep -rlF 'of this image only' /var/lib/belljar/store); do \
           at=$(grep -abF 'of this image only' $f | head -n 1 | cut -d: -f1); chmod u+w $f; \
           printf X | dd of=$f bs=1 seek=$at conv=notrunc 2>/dev/null && echo $f; done",
    );
    assert_eq!(changed.stdout.lines().count(), 1, "{}{}", changed.stdout, changed.stderr);
    space.deploy_with(&pod("changed"), &["--image", &option]);
    space.wait(LONG, "reason in the pod's events or its status", || {
        let said = space.events("changed").join("\n") + &space.get("pod/changed")["status"].to_string();
        (said.contains("layer") || said.contains("verity")).then_some(())
    });
    assert_eq!(space.run(&["logs", "changed"]).stdout.matches("of this image only").count(), 0);
}

/// The name points to another image on this node.
fn image(cluster: &Cluster) {
    let space = Space::new(cluster, "hostile-image");
    let name = "registry.local/renamed:1";
    let archive = cluster.add_image(name, "/data/mine", b"mine\n");
    let option = format!("{name}=oci-archive:{}", archive.display());
    let pod = |pod: &str| simple(pod, "").replace(PROBE, name).replace("echo main", "cat /data/mine; echo end");
    space.deploy_with(&pod("before"), &["--image", &option]);
    assert_eq!(logs(&space, "before", "end"), "mine\nend\n");
    let tagged = cluster.shell(&format!("ctr image tag --force {OTHER} {name}"));
    assert_eq!(tagged.code, 0, "{}", tagged.stderr);
    // What runs is what the contract's digests say, or nothing; never the other image.
    space.deploy_with(&pod("after"), &["--image", &option]);
    assert_eq!(logs(&space, "after", "end"), "mine\nend\n");
}

/// Two pods of one user; the cluster gives each the other's contract.
fn swap(cluster: &Cluster) {
    let space = Space::new(cluster, "hostile-swap");
    let (first, second) = (simple("first", ""), simple("second", "").replace("echo main", "echo other"));
    let (first, second) = (space.seal(&first, &[]), space.seal(&second, &[]));
    space.apply(&first);
    // The second pod's name and labels with the first one's contract.
    let value = |sealed: &str| {
        let lines: Vec<&str> = sealed.lines().filter(|line| line.contains("cc_init_data")).collect();
        assert_eq!(lines.len(), 1, "{sealed}");
        lines[0].split_once(": ").expect("a value").1.to_owned()
    };
    space.apply(&second.replace(&value(&second), &value(&first)));
    for pod in ["first", "second"] {
        space.wait_ready(pod);
    }
    let place = tempfile::tempdir().unwrap();
    let verify = |pod: &str, sealed: &str| {
        let file = place.path().join(format!("{pod}.yaml"));
        std::fs::write(&file, sealed).unwrap();
        let root = belljar_e2e::workplace::shared_data().join("softtee/v1/ark.der");
        let mut verify = cluster.belljar();
        verify.args(["verify", &format!("pod/{pod}"), "--namespace", &space.name, "--allow-software-tee", "--file"]);
        finish(verify.arg(&file).arg("--software-root").arg(root))
    };
    let honest = verify("first", &first);
    assert_eq!(honest.code, 0, "{}{}", honest.stdout, honest.stderr);
    let swapped = verify("second", &second);
    assert_eq!(swapped.code, 1, "{}{}", swapped.stdout, swapped.stderr);
    assert!(swapped.stdout.contains("echo other"), "{}{}", swapped.stdout, swapped.stderr);
}
