//! The container runtime interface, call by call: what `docs/cri.md` says.

use belljar_e2e::programs::root;
use belljar_kubernetes_tests::cluster::Cluster;
use belljar_kubernetes_tests::conformance::observe;
use belljar_kubernetes_tests::containerd::{Containerd, Version};

pub(crate) const SCENARIOS: &[super::Scenario] = &[("cri_of_runc", runc), ("cri_of_runc_containerd_2", runc_2)];

fn runc(cluster: &Cluster) {
    check(cluster, "runc", Version::System, 1);
}

fn runc_2(cluster: &Cluster) {
    check(cluster, "runc", Version::Two, 2);
}

/// Makes the calls and compares them with a column of the table.
fn check(cluster: &Cluster, handler: &str, version: Version, column: usize) {
    let containerd = Containerd::start(cluster, &format!("{handler}-{column}"), version);
    let seen = observe(&containerd.cri(), handler, &[], &containerd.logs());
    let seen: Vec<String> = seen.iter().map(|(call, what)| format!("{call}: {what}")).collect();
    let written = table(column);
    assert!(written.len() > 40, "{written:?}");
    let differences: Vec<String> = written
        .iter()
        .zip(&seen)
        .filter(|(written, seen)| written != seen)
        .map(|(written, seen)| format!("docs/cri.md has {written}\n  now it is {seen}"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(written.len(), seen.len());
}

/// A column of the table, empty cells filled from the left.
fn table(column: usize) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/cri.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    let rows = rows.map(|line| line.trim_matches('|').split(" |").map(str::trim).collect::<Vec<_>>());
    rows.map(|cells| {
        let what = cells[1..=column].iter().rev().find(|cell| !cell.is_empty()).unwrap();
        format!("{}: {what}", cells[0])
    })
    .collect()
}
