//! Probes and lifecycle hooks. Requests over the network are the kubelet's own; commands must stand in the contract.

use crate::env::Env;
use crate::error::Reason;
use crate::walk::{At, Fields};

/// Fields of a probe that only tell the kubelet when to ask.
const TIMES: [&str; 6] = [
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "terminationGracePeriodSeconds",
];

/// Takes probes and hooks out of a container; the result is the commands that they start.
pub(crate) fn read(container: &mut Fields<'_>, env: &Env) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for key in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let Some(at) = container.take(key) else { continue };
        let mut probe = at.fields();
        probe.pass(&TIMES);
        let command = action(&mut probe);
        commands.extend(command.map(|command| command.iter().map(|word| env.expand_raw(word)).collect::<Vec<_>>()));
    }
    if let Some(at) = container.take("lifecycle") {
        let mut lifecycle = at.fields();
        for key in ["postStart", "preStop"] {
            let Some(at) = lifecycle.take(key) else { continue };
            let mut hook = at.fields();
            hook.refuse(&[("tcpSocket", "Kubernetes does nothing for it; remove it")]);
            if let Some(at) = hook.take("sleep") {
                at.fields().pass(&["seconds"]);
                continue;
            }
            // The kubelet expands nothing in a hook's command.
            commands.extend(action(&mut hook));
        }
        if let Some(at) = lifecycle.take("stopSignal") {
            at.refuse("a container ends with the signal that the kubelet sends, TERM; remove it");
        }
    }
    let mut unique: Vec<Vec<String>> = Vec::new();
    for command in commands {
        if !unique.contains(&command) {
            unique.push(command);
        }
    }
    unique
}

/// The one action of a probe or hook; its command when it is one.
fn action(fields: &mut Fields<'_>) -> Option<Vec<String>> {
    let mut actions = 0;
    if let Some(at) = fields.take("httpGet") {
        actions += 1;
        let mut request = at.fields();
        request.pass(&["path", "port", "host", "scheme"]);
        for at in request.take("httpHeaders").iter().flat_map(At::list) {
            at.fields().pass(&["name", "value"]);
        }
    }
    for (key, known) in [("tcpSocket", ["port", "host"]), ("grpc", ["port", "service"])] {
        if let Some(at) = fields.take(key) {
            actions += 1;
            at.fields().pass(&known);
        }
    }
    let command = fields.take("exec").map(|at| {
        actions += 1;
        at.fields().need("command", "say what to run").map(|at| at.texts()).unwrap_or_default()
    });
    match actions {
        0 => fields.missing("exec", "say what to do: httpGet, tcpSocket, grpc or exec"),
        1 => {}
        _ => fields.at.problem(Reason::Needs("does more than one thing: leave one of them".to_owned())),
    }
    command.filter(|command| !command.is_empty())
}
