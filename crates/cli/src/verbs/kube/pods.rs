//! The pods of a workload, as the API server tells of them: which there are, and how each of them is.

use belljar_contract::disk::ANNOTATION;
use serde::Serialize;
use serde_json::Value;

use crate::failure::one_line;

/// How a pod is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum State {
    /// All its containers run, or have ended well.
    Up,
    /// On its way; what it waits for.
    Waiting(String),
    /// It does not come up by itself.
    Failing(String),
    /// It has ended, and not well.
    Failed(String),
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its UID, which tells it from former pods of the same name.
    pub uid: String,
    /// Its node.
    pub node: Option<String>,
    /// How it is.
    pub state: State,
}

/// What a container waits for when it will not start by itself.
const FAILING: [&str; 8] = [
    "CrashLoopBackOff",
    "RunContainerError",
    "CreateContainerError",
    "CreateContainerConfigError",
    "ErrImagePull",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// The pods of a workload in an answer of `kubectl get pods`: they carry its initdata and are named after it, since two workloads can have the
/// same contract. Pods that are being deleted do not count.
pub fn of(list: &Value, kind: &str, workload: &str, annotation: &str) -> Vec<Pod> {
    let is_named = |name: &str| match kind {
        "Pod" => name == workload,
        _ => name.strip_prefix(workload).is_some_and(|rest| rest.starts_with('-')),
    };
    let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
    let ours = items.filter(|pod| {
        let found = pod.pointer("/metadata/annotations").and_then(|map| map.get(ANNOTATION)).and_then(Value::as_str);
        found == Some(annotation) && pod.pointer("/metadata/deletionTimestamp").is_none()
    });
    ours.map(Pod::read).filter(|pod| is_named(&pod.name)).collect()
}

impl Pod {
    fn read(pod: &Value) -> Self {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).map(one_line);
        Self {
            name: text("/metadata/name").unwrap_or_default(),
            uid: text("/metadata/uid").unwrap_or_default(),
            node: text("/spec/nodeName"),
            state: State::read(pod),
        }
    }
}

impl State {
    fn read(pod: &Value) -> Self {
        let text = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(one_line);
        let phase = text(pod, "/status/phase").unwrap_or_default();
        let statuses =
            |key: &str| pod.pointer(&format!("/status/{key}")).and_then(Value::as_array).cloned().unwrap_or_default();
        let (init, main) = (statuses("initContainerStatuses"), statuses("containerStatuses"));
        let all = || init.iter().chain(&main);
        let why = |status: &Value, place: &str| {
            let name = text(status, "/name").unwrap_or_default();
            let reason = text(status, &format!("{place}/reason"))?;
            let message = text(status, &format!("{place}/message")).map(|message| format!(": {message}"));
            Some(format!("container {name}: {reason}{}", message.unwrap_or_default()))
        };
        if phase == "Failed" {
            let reason = text(pod, "/status/reason").unwrap_or_default();
            let message = text(pod, "/status/message").unwrap_or_default();
            let ended =
                all().filter(|status| status.pointer("/state/terminated/exitCode").and_then(Value::as_i64) != Some(0));
            let said = ended.filter_map(|status| why(status, "/state/terminated")).collect::<Vec<_>>().join("; ");
            return Self::Failed(one_line(&format!("{reason} {message} {said}")));
        }
        for status in all() {
            let reason = text(status, "/state/waiting/reason").unwrap_or_default();
            if FAILING.contains(&reason.as_str()) {
                let before = why(status, "/lastState/terminated").map(|before| format!(" (before: {before})"));
                let now = why(status, "/state/waiting").unwrap_or_default();
                return Self::Failing(format!("{now}{}", before.unwrap_or_default()));
            }
        }
        if phase == "Succeeded" {
            return Self::Up;
        }
        let is_up = |status: &Value| {
            status.pointer("/state/running").is_some()
                || status.pointer("/state/terminated/exitCode").and_then(Value::as_i64) == Some(0)
        };
        if phase == "Running" && !main.is_empty() && main.iter().all(is_up) {
            return Self::Up;
        }
        let waiting = all().filter(|status| !is_up(status));
        let waiting =
            waiting.filter_map(|status| why(status, "/state/waiting").or_else(|| why(status, "/state/terminated")));
        let unscheduled = || {
            let conditions = pod.pointer("/status/conditions").and_then(Value::as_array)?;
            let condition =
                conditions.iter().find(|condition| text(condition, "/type").as_deref() == Some("PodScheduled"))?;
            (text(condition, "/status").as_deref() == Some("False")).then(|| text(condition, "/message"))?
        };
        let said = waiting.into_iter().next().or_else(unscheduled).unwrap_or_else(|| phase.clone());
        Self::Waiting(said)
    }
}

/// The latest warning among a pod's events, with its reason. `FailedScheduling` goes away by itself and does not count.
pub fn warning(events: &Value) -> Option<String> {
    let items = events.get("items").and_then(Value::as_array)?;
    let text = |event: &Value, key: &str| event.get(key).and_then(Value::as_str).map(one_line).unwrap_or_default();
    let warnings =
        items.iter().filter(|event| text(event, "type") == "Warning" && text(event, "reason") != "FailedScheduling");
    let latest = warnings.max_by_key(|event| text(event, "lastTimestamp"))?;
    Some(format!("{}: {}", text(latest, "reason"), text(latest, "message")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(status: Value) -> State {
        State::read(&json!({ "status": status }))
    }

    #[test]
    fn pods_are_found_by_their_contract() {
        let pod = |name: &str, annotation: &str| json!({ "metadata": { "name": name, "annotations": { ANNOTATION: annotation } }, "spec": { "nodeName": "n" } });
        let mut going = pod("going", "ours");
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let nameless = json!({ "metadata": { "name": "c" } });
        let list = json!({ "items": [pod("a", "ours"), pod("b", "other"), going, nameless, pod("a-1", "ours"), pod("ab-1", "ours")] });
        let names = |kind| of(&list, kind, "a", "ours").into_iter().map(|pod| pod.name).collect::<Vec<_>>();
        assert_eq!(names("Pod"), ["a"]);
        assert_eq!(names("Deployment"), ["a-1"]);
        assert_eq!(of(&json!({}), "Pod", "a", "ours"), []);
    }

    #[test]
    fn states_are_told_apart() {
        let running = json!({ "name": "main", "state": { "running": {} } });
        let done = json!({ "name": "main", "state": { "terminated": { "exitCode": 0, "reason": "Completed" } } });
        let died = json!({ "name": "main", "state": { "terminated": { "exitCode": 3, "reason": "Error" } } });
        let creating = json!({ "name": "main", "state": { "waiting": { "reason": "ContainerCreating" } } });
        let crash = json!({
            "name": "main", "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off" } },
            "lastState": { "terminated": { "reason": "StartError", "message": "refused" } },
        });
        assert_eq!(state(json!({ "phase": "Running", "containerStatuses": [running, done] })), State::Up);
        assert_eq!(state(json!({ "phase": "Succeeded" })), State::Up);
        assert_eq!(
            state(json!({ "phase": "Running", "containerStatuses": [running, died] })),
            State::Waiting("container main: Error".into())
        );
        assert_eq!(
            state(json!({ "phase": "Pending", "containerStatuses": [creating] })),
            State::Waiting("container main: ContainerCreating".into())
        );
        assert_eq!(
            state(json!({ "phase": "Running", "containerStatuses": [crash] })),
            State::Failing(
                "container main: CrashLoopBackOff: back-off (before: container main: StartError: refused)".into()
            )
        );
        assert_eq!(
            state(json!({ "phase": "Failed", "containerStatuses": [died, done] })),
            State::Failed("container main: Error".into())
        );
        assert_eq!(
            state(json!({ "phase": "Pending", "conditions": [
                { "type": "PodScheduled", "status": "False", "message": "0/1 nodes" } ] })),
            State::Waiting("0/1 nodes".into())
        );
        assert_eq!(state(json!({})), State::Waiting(String::new()));
    }

    #[test]
    fn the_latest_warning_is_told() {
        let event = |kind: &str, reason: &str, at: &str| json!({ "type": kind, "reason": reason, "message": "m\nx", "lastTimestamp": at });
        let events = json!({ "items": [
            event("Normal", "Pulled", "2026-01-03T00:00:00Z"),
            event("Warning", "FailedScheduling", "2026-01-04T00:00:00Z"),
            event("Warning", "FailedCreatePodSandBox", "2026-01-02T00:00:00Z"),
            event("Warning", "Failed", "2026-01-01T00:00:00Z"),
        ] });
        assert_eq!(warning(&events).as_deref(), Some("FailedCreatePodSandBox: m x"));
        assert_eq!(warning(&json!({ "items": [] })), None);
    }
}
