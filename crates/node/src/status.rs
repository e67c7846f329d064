//! `belljar node status`, and what the cluster learns of it: labels and an annotation of the Node.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::containerd::{Naming, cri_version, find};
use crate::facts::{Facts, Tee};
use crate::files::FileError;
use crate::handlers::HANDLERS;
use crate::install::{Options, Record};
use crate::payload;

/// Names the node's labels for RuntimeClasses: `runtime.belljar.dev/HANDLER`.
const SERVES: &str = "runtime.belljar.dev";
const LIMIT: Duration = Duration::from_secs(10);

/// Whether pods can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// They can.
    Ready,
    /// The node has no TEE that may be used; everything else is as it should be.
    Unsuited,
    /// Something is missing or wrong.
    Broken,
    /// Nothing is installed.
    Absent,
}

/// Runtime handlers by name.
pub type Handlers = Vec<String>;

/// How it stands with a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether pods can run.
    pub state: State,
    /// The installed release.
    pub version: Option<String>,
    /// The TEE of this node's pods.
    pub tee: Tee,
    /// Whether VMs run on the CPU.
    pub kvm: bool,
    /// QEMU's version.
    pub qemu: Option<String>,
    /// The version of the containerd that runs.
    pub containerd: Option<String>,
    /// Handlers that containerd is configured for.
    pub handlers: Handlers,
    /// Handlers whose pods can run here.
    pub serves: Handlers,
    /// What is missing or wrong, or why the node is unsuited.
    pub problem: Option<String>,
    /// The one next step.
    pub next: Option<String>,
}

/// Looks at the node and changes nothing.
///
/// # Errors
/// A record of the installation that cannot be read.
pub fn status(options: &Options) -> Result<Status, FileError> {
    let layout = &options.layout;
    let mut status = Status {
        state: State::Absent,
        version: Record::read(layout)?.map(|record| record.version),
        tee: Tee::None,
        kvm: false,
        qemu: None,
        containerd: None,
        handlers: Handlers::new(),
        serves: Handlers::new(),
        problem: None,
        next: None,
    };
    let install = "belljar node install";
    if status.version.is_none() {
        status.problem = Some("belljar is not installed on this node".to_owned());
        status.next = Some(install.to_owned());
        return Ok(status);
    }
    status.state = State::Broken;
    let runtime = cri_version(&options.containerd_socket, LIMIT);
    status.containerd = runtime.as_ref().ok().map(|runtime| runtime.version.clone());
    if let Err((problem, next)) = examine(options, &mut status) {
        status.problem = Some(problem);
        status.next = Some(next);
    } else if crate::containerd::is_pending(&layout.memory()) {
        status.problem = Some("containerd was not restarted after a change of its configuration".to_owned());
        status.next = Some(install.to_owned());
    } else if let Err(error) = runtime {
        status.problem = Some(error.to_string());
        status.next = Some("systemctl restart containerd".to_owned());
    } else {
        status.state = State::Ready;
    }
    if status.state != State::Ready {
        status.serves.clear();
    }
    Ok(status)
}

/// Fills in what is found. The error is the problem and the next step.
fn examine(options: &Options, status: &mut Status) -> Result<(), (String, String)> {
    let layout = &options.layout;
    let again = |problem: String| (problem, "belljar node install".to_owned());
    payload::check(layout).map_err(again)?;
    let shim = payload::told(layout).map_err(|error| (error.to_string(), "correct the file".to_owned()))?;
    let facts = Facts::of(layout, shim.qemu.as_deref()).map_err(again)?;
    status.kvm = facts.kvm;
    status.qemu = facts.qemu;
    status.tee = match facts.hardware {
        Tee::None if shim.software => Tee::Software,
        tee => tee,
    };
    if let Some(blocked) = facts.blocked {
        return Err(blocked);
    }
    let found = find(&options.containerd_config).map_err(|error| again(error.to_string()))?;
    // A node without its program is told by the installer; what stands in the files is shown all the same.
    let naming = options.program().map_or(Naming::Type, |containerd| Naming::of(containerd.release));
    status.handlers = found.handlers(naming).into_iter().map(str::to_owned).collect();
    if status.tee == Tee::None {
        status.state = State::Unsuited;
        return Err(facts.no_hardware.unwrap_or_else(|| {
            ("no TEE".to_owned(), "take --software to try things out, without protection".to_owned())
        }));
    }
    if let Some(handler) = HANDLERS.iter().find(|handler| status.handlers.iter().all(|there| there != handler.name)) {
        return Err(again(format!("containerd's configuration has no handler {}", handler.name)));
    }
    let served = |name: &str| match name {
        "belljar-snp" => status.tee == Tee::Snp,
        "belljar-tdx" => status.tee == Tee::Tdx,
        "belljar-software" => shim.software,
        _ => true,
    };
    status.serves =
        HANDLERS.iter().map(|handler| handler.name).filter(|name| served(name)).map(str::to_owned).collect();
    Ok(())
}

/// The change of the cluster's Node that tells of it, as a JSON merge patch.
#[must_use]
pub fn label_patch(status: &Status) -> Value {
    let mut labels = json!({
        "belljar.dev/tee": status.tee.label(),
        "belljar.dev/kvm": status.kvm.to_string(),
        "belljar.dev/version": status.version,
    });
    for handler in HANDLERS {
        let serves = status.serves.iter().any(|name| name == handler.name);
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(format!("{SERVES}/{}", handler.name), if serves { json!("true") } else { Value::Null });
        }
    }
    let told = serde_json::to_string(status).unwrap_or_default();
    json!({ "metadata": { "labels": labels, "annotations": { "belljar.dev/status": told } } })
}

/// The change that takes all of it away again.
#[must_use]
pub fn unlabel_patch() -> Value {
    let mut labels = json!({ "belljar.dev/tee": null, "belljar.dev/kvm": null, "belljar.dev/version": null });
    for handler in HANDLERS {
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(format!("{SERVES}/{}", handler.name), Value::Null);
        }
    }
    json!({ "metadata": { "labels": labels, "annotations": { "belljar.dev/status": null } } })
}
