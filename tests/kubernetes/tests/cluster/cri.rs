//! The container runtime interface, call by call: what `docs/cri.md` says.

use belljar_e2e::programs::root;
use belljar_kubernetes_tests::cluster::Cluster;
use belljar_kubernetes_tests::conformance::{DEAF, EXECS, MAIN, QUICK, observe};
use belljar_kubernetes_tests::containerd::{Containerd, Version};
use belljar_kubernetes_tests::images::PROBE;
use belljar_kubernetes_tests::space::{CLASS, Space};
use serde_json::json;

pub(crate) const SCENARIOS: &[super::Scenario] = &[
    ("cri_of_runc", |cluster| check(cluster, "runc", Version::System)),
    ("cri_of_belljar", |cluster| check(cluster, CLASS, Version::System)),
    ("cri_of_runc_containerd_2", |cluster| check(cluster, "runc", Version::Two)),
    ("cri_of_belljar_containerd_2", |cluster| check(cluster, CLASS, Version::Two)),
];

/// Makes the calls and compares them with a column of the table.
fn check(cluster: &Cluster, handler: &str, version: Version) {
    let number = if version == Version::System { 1 } else { 2 };
    let containerd = Containerd::start(cluster, &format!("{handler}-{number}"), version);
    let annotations = if handler == CLASS { annotations(cluster, number) } else { Vec::new() };
    let seen = observe(&containerd.cri(), handler, &annotations, &containerd.logs());
    let seen: Vec<String> = seen.iter().map(|(call, what)| format!("{call}: {what}")).collect();
    // Columns that a cell may be empty for, the nearest first.
    let columns: &[usize] = match (handler == CLASS, version) {
        (false, Version::System) => &[1],
        (true, Version::System) => &[2, 1],
        (false, Version::Two) => &[3, 1],
        (true, Version::Two) => &[4, 3, 1],
    };
    let written = table(columns);
    assert!(written.len() > 40, "{written:?}");
    let both = written.iter().zip(&seen).filter(|(written, seen)| written != seen);
    let differences: Vec<String> =
        both.map(|(written, seen)| format!("docs/cri.md has {written}\n  now it is {seen}")).collect();
    assert!(differences.is_empty(), "{}\n{}", differences.join("\n"), containerd.log());
    assert_eq!(written.len(), seen.len());
}

/// The annotations of a pod whose contract allows what the calls do.
fn annotations(cluster: &Cluster, number: u32) -> Vec<(String, String)> {
    let space = Space::new(cluster, &format!("conformance-{number}"));
    let commands: Vec<String> = EXECS
        .iter()
        .map(|command| command.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "))
        .collect();
    let container = |name: &str, command: &[&str]| json!({"name": name, "image": PROBE, "command": command});
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "conformance", "annotations": {"belljar.dev/exec.main": commands.join("\n")}},
        "spec": {
            "runtimeClassName": CLASS,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "containers": [container("main", &MAIN), container("quick", &QUICK), container("deaf", &DEAF)],
        },
    });
    space.annotations(&pod)
}

/// A column of the table; an empty cell is filled from the next of these columns.
fn table(columns: &[usize]) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/cri.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    let rows = rows.map(|line| line.trim_matches('|').split(" |").map(str::trim).collect::<Vec<_>>());
    rows.map(|cells| {
        let what = columns.iter().map(|column| cells[*column]).find(|cell| !cell.is_empty()).unwrap();
        format!("{}: {what}", cells[0])
    })
    .collect()
}
