//! How it stands with each node, from the cluster's words.

use belljar_node::{State, Status, Tee};
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Failure, one_line};
use crate::k8s::manifests::NAMESPACE;
use crate::kubectl::Kubectl;

/// The annotation with a node's own words, see `belljar_node::Status`.
pub const STATUS: &str = "belljar.dev/status";
/// The annotation that names the installation which a node has carried out.
pub const GENERATION: &str = "belljar.dev/generation";

/// A node of the cluster.
#[derive(Debug, Clone, Serialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The installation that it has carried out.
    pub generation: Option<String>,
    /// What it says of itself.
    pub status: Option<Status>,
    /// Why the installer does not run there, in the cluster's words.
    pub installer: Option<String>,
    /// Whether an installer's pod is there.
    pub has_installer: bool,
}

impl Node {
    /// Whether pods can run.
    pub fn state(&self) -> State {
        self.status.as_ref().map_or(State::Absent, |status| status.state)
    }

    /// Whether it is done with that installation, well or not.
    pub fn settled(&self, generation: &str) -> bool {
        self.generation.as_deref() == Some(generation)
    }

    /// What is wrong, and the next step.
    pub fn problem(&self) -> Option<(String, String)> {
        if let Some(why) = &self.installer {
            let next = format!("kubectl -n {NAMESPACE} describe pods --field-selector spec.nodeName={}", self.name);
            return Some((format!("the installer does not run: {why}"), next));
        }
        match &self.status {
            None if self.has_installer => Some((
                "the installer has not said anything yet".into(),
                format!("kubectl -n {NAMESPACE} logs -l app.kubernetes.io/name=belljar-node"),
            )),
            None => Some(("no installer runs here".into(), "belljar k8s install".into())),
            Some(status) => Some((status.problem.clone()?, status.next.clone().unwrap_or_default())),
        }
    }

    /// Its row of the table of [`HEAD`].
    pub fn row(&self) -> Vec<String> {
        let status = self.status.as_ref();
        let text = |value: Option<&String>| value.cloned().unwrap_or_else(|| "-".to_owned());
        let state = match (self.state(), &self.installer) {
            (_, Some(_)) => "no installer",
            (State::Ready, _) => "ready",
            (State::Unsuited, _) => "no TEE",
            (State::Broken, _) => "not ready",
            (State::Absent, _) => "not installed",
        };
        vec![
            self.name.clone(),
            state.to_owned(),
            status.map_or(Tee::None, |status| status.tee).label().to_owned(),
            status.map_or("-", |status| if status.kvm { "yes" } else { "no" }).to_owned(),
            text(status.and_then(|status| status.containerd.as_ref())),
            text(status.and_then(|status| status.version.as_ref())),
            status
                .map(|status| status.handlers.join(","))
                .filter(|names| !names.is_empty())
                .unwrap_or_else(|| "-".to_owned()),
            self.problem().map_or_else(|| "-".to_owned(), |(_, next)| next),
        ]
    }
}

/// Columns of [`Node::row`].
pub const HEAD: [&str; 8] = ["NODE", "STATE", "TEE", "KVM", "CONTAINERD", "BELLJAR", "HANDLERS", "NEXT STEP"];

/// All nodes on which the installer may run (Linux on x86-64), by name.
pub fn of(kubectl: &Kubectl) -> Result<Vec<Node>, Failure> {
    let pods =
        kubectl.items(&["pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=belljar-node"])?;
    let mut nodes: Vec<Node> = kubectl
        .items(&["nodes", "--selector", "kubernetes.io/os=linux,kubernetes.io/arch=amd64"])?
        .iter()
        .map(|node| parse(node, &pods))
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

fn parse(node: &Value, pods: &[Value]) -> Node {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let name = text(node.pointer("/metadata/name")).unwrap_or_default();
    let annotation = |key: &str| text(node.pointer("/metadata/annotations").and_then(|all| all.get(key)));
    let here: Vec<&Value> =
        pods.iter().filter(|pod| text(pod.pointer("/spec/nodeName")).is_some_and(|node| node == name)).collect();
    Node {
        generation: annotation(GENERATION),
        status: annotation(STATUS).and_then(|told| serde_json::from_str(&told).ok()),
        // one that is being ended says nothing about the installation that comes
        installer: here
            .iter()
            .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
            .find_map(|pod| waiting(pod)),
        has_installer: !here.is_empty(),
        name,
    }
}

/// Why a pod's container does not run, when that does not pass by itself.
fn waiting(pod: &Value) -> Option<String> {
    let containers = pod.pointer("/status/containerStatuses")?.as_array()?;
    containers.iter().find_map(|container| {
        let waiting = container.pointer("/state/waiting")?;
        let reason = waiting.get("reason")?.as_str()?;
        if matches!(reason, "ContainerCreating" | "PodInitializing") {
            return None;
        }
        let message = waiting.get("message").and_then(Value::as_str).unwrap_or_default();
        Some(one_line(&format!("{reason} {message}")).trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(annotations: &Value, pods: &[Value]) -> Node {
        parse(&json!({"metadata": {"name": "n1", "annotations": annotations}}), pods)
    }

    fn pod(state: &Value) -> Value {
        json!({"spec": {"nodeName": "n1"}, "status": {"containerStatuses": [{"state": state}]}})
    }

    #[test]
    fn a_node_in_the_clusters_words() {
        let status = json!({
            "state": "unsuited", "version": "0.1.0", "tee": "none", "kvm": true, "qemu": "10.0.2", "containerd": "2.1.9",
            "handlers": ["belljar"], "serves": [], "problem": "cpu: no SNP", "next": "use an EPYC",
        });
        let annotations = json!({ STATUS: status.to_string(), GENERATION: "abc" });
        let ready = node(&annotations, &[pod(&json!({"running": {}}))]);
        assert!(ready.settled("abc") && !ready.settled("abd"));
        assert_eq!(ready.row(), ["n1", "no TEE", "none", "yes", "2.1.9", "0.1.0", "belljar", "use an EPYC"]);
        assert_eq!(ready.problem(), Some(("cpu: no SNP".into(), "use an EPYC".into())));
        let creating = node(&json!({}), &[pod(&json!({"waiting": {"reason": "ContainerCreating"}}))]);
        assert_eq!((creating.state(), creating.installer.as_deref()), (State::Absent, None));
        let pulling = node(&json!({}), &[pod(&json!({"waiting": {"reason": "ErrImagePull", "message": "no\nhost"}}))]);
        assert_eq!(pulling.problem().unwrap().0, "the installer does not run: ErrImagePull no host");
        let mut ending = pod(&json!({"waiting": {"reason": "ErrImagePull", "message": "no host"}}));
        ending["metadata"] = json!({"deletionTimestamp": "2026-11-26T08:00:00Z"});
        assert_eq!(node(&json!({}), &[ending]).installer, None);
        let garbled = node(&json!({ STATUS: "{}" }), &[]);
        assert_eq!(garbled.problem().unwrap().1, "belljar k8s install");
    }
}
