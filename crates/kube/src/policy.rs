//! A NetworkPolicy for a workload: nothing goes in or out but what its manifest says.

use crate::manifest::Workload;
use crate::yaml::{Map, Node, Value};

/// Ports on which API servers listen.
const API_SERVER: [u16; 2] = [443, 6443];

/// Denies all traffic of the workload's pods, but for: in, the ports of its containers, from anywhere; out, DNS, and the API server when
/// the pod holds a token for it. None when the pods have no labels to be found by.
///
/// The CNI plugin of the untrusted host enforces it, so it keeps other tenants out and not the host.
pub fn network_policy(workload: &Workload) -> Option<Node> {
    if workload.labels.is_empty() {
        return None;
    }
    let labels = workload.labels.iter().map(|(key, value)| (key.as_str(), text(value)));
    let mut metadata = vec![("name", text(&format!("{}-belljar", workload.name)))];
    metadata.extend(workload.namespace.as_ref().map(|namespace| ("namespace", text(namespace))));
    let port =
        |protocol: &str, number: u16| map([("protocol", text(protocol)), ("port", Value::Integer(number.into()))]);
    let ingress: Vec<Value> = workload.ports.iter().map(|(protocol, number)| port(protocol, *number)).collect();
    let mut egress = vec![port("UDP", 53), port("TCP", 53)];
    if workload.has_token {
        egress.extend(API_SERVER.map(|number| port("TCP", number)));
    }
    let rules = |ports: Vec<Value>| {
        // A rule without ports would mean every port.
        let rule = (!ports.is_empty()).then(|| map([("ports", list(ports))]));
        list(rule.into_iter().collect())
    };
    let spec = map([
        ("podSelector", map([("matchLabels", map(labels))])),
        ("policyTypes", list(vec![text("Ingress"), text("Egress")])),
        ("ingress", rules(ingress)),
        ("egress", rules(egress)),
    ]);
    let value = map([
        ("apiVersion", text("networking.k8s.io/v1")),
        ("kind", text("NetworkPolicy")),
        ("metadata", map(metadata)),
        ("spec", spec),
    ]);
    Some(Node { line: 0, value })
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn list(values: Vec<Value>) -> Value {
    Value::List(values.into_iter().map(|value| Node { line: 0, value }).collect())
}

fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), Node { line: 0, value }));
    Value::Map(Map(pairs.collect()))
}
