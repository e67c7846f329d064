//! `belljar k8s install|uninstall|status`: Belljar on a whole cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use belljar_node::{HANDLERS, Source, State};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::failure::{Exit, Failure};
use crate::k8s::image;
use crate::k8s::manifests::{DAEMON_SET, IMAGE, NAMESPACE, RUNTIME_CLASSES, Rendered, render};
use crate::k8s::nodes::{self, GENERATION, HEAD, Node, STATUS};
use crate::kubectl::{Cluster, Kubectl};
use crate::output::{Format, draws_progress, json, table};
use crate::paths::Paths;
use crate::verbs::guest::open;
use crate::verbs::node::source;

/// Belljar on a whole cluster.
#[derive(Debug, Subcommand)]
pub enum K8s {
    /// Prepare every node, by a DaemonSet, and add the RuntimeClasses; wait until each node has said how it went
    #[command(
        after_help = "Exit codes: 0 all nodes are done, and on one at least pods can run · 1 refused · 3 the cluster is away.\n\
                            Example: belljar k8s install --image registry.example/belljar-node:0.1.0"
    )]
    Install(Box<Install>),
    /// Undo it on every node, and take it out of the cluster
    #[command(after_help = "Example: belljar k8s uninstall")]
    Uninstall {
        /// Which cluster
        #[command(flatten)]
        cluster: Cluster,
        /// Even though pods use it
        #[arg(long)]
        force: bool,
        /// Most seconds until every node is clean
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        wait: u64,
    },
    /// Make the installer's container image from this build, as an OCI archive; the same input gives the same bytes
    #[command(
        after_help = "Example: belljar k8s image --out belljar-node.tar && ctr -n k8s.io images import belljar-node.tar"
    )]
    Image {
        /// Where to write it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Folder with `belljar` and `containerd-shim-belljar-v2` (default: that of this program)
        #[arg(long, value_name = "DIR")]
        bin: Option<PathBuf>,
        /// Folder with the guest image (default: this user's)
        #[arg(long, value_name = "DIR")]
        guest: Option<PathBuf>,
    },
    /// Each node: its TEE, what is installed, and the one next step
    #[command(
        after_help = "Exit codes: 0 all is well · 1 something is missing · 3 the cluster is away.\nExample: belljar k8s status"
    )]
    Status {
        /// Which cluster
        #[command(flatten)]
        cluster: Cluster,
    },
}

/// What `install` takes.
#[derive(Debug, Args)]
pub struct Install {
    /// Which cluster
    #[command(flatten)]
    cluster: Cluster,
    /// The installer's image (`make image` makes it)
    #[arg(long, default_value = IMAGE)]
    image: String,
    /// Let pods run in the software TEE, which protects nothing
    #[arg(long)]
    software: bool,
    /// Broker of pods that name none
    #[arg(long, value_name = "https://HOST:PORT")]
    broker: Option<String>,
    /// QEMU on the nodes (default: the one in PATH)
    #[arg(long, value_name = "FILE")]
    qemu: Option<String>,
    /// containerd's configuration on the nodes (default: /etc/containerd/config.toml)
    #[arg(long, value_name = "FILE")]
    containerd_config: Option<String>,
    /// containerd's socket on the nodes (default: /run/containerd/containerd.sock)
    #[arg(long, value_name = "FILE")]
    containerd_socket: Option<String>,
    /// containerd's program on the nodes (default: in the usual folders)
    #[arg(long, value_name = "FILE")]
    containerd: Option<String>,
    /// How to restart containerd on the nodes (default: systemctl restart containerd)
    #[arg(long, value_name = "COMMAND")]
    restart_command: Option<String>,
    /// Most seconds until every node is done
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait: u64,
    /// Print the manifests and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl K8s {
    /// Carries the verb out.
    pub fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Image { out, bin, guest } => {
                let Source { bin, guest } = source(paths, bin, guest)?;
                let guest = open(&guest)?;
                guest.verify().map_err(Failure::refused)?;
                let digest = image::make(&bin, &guest, &out)?;
                match format {
                    Format::Json => json(&serde_json::json!({ "file": out, "name": IMAGE, "digest": digest }))?,
                    Format::Text => println!("{IMAGE}\n{digest}"),
                }
                Ok(0)
            }
            Self::Install(install) => install.execute(format),
            Self::Uninstall { cluster, force, wait } => uninstall(&cluster.kubectl(), force, Duration::from_secs(wait)),
            Self::Status { cluster } => status(&cluster.kubectl(), format),
        }
    }
}

impl Install {
    /// The DaemonSet's arguments.
    fn arguments(&self) -> Vec<String> {
        let named = [
            ("broker", &self.broker),
            ("qemu", &self.qemu),
            ("containerd-config", &self.containerd_config),
            ("containerd-socket", &self.containerd_socket),
            ("containerd", &self.containerd),
            ("restart-command", &self.restart_command),
        ];
        let software = self.software.then(|| "--software".to_owned());
        let named = named.iter().filter_map(|(name, value)| value.as_ref().map(|value| format!("--{name}={value}")));
        software.into_iter().chain(named).collect()
    }

    fn execute(&self, format: Format) -> Result<i32, Failure> {
        let Rendered { base, generation } = render(&self.image, &self.arguments());
        if self.dry_run {
            println!("{base}---\n{RUNTIME_CLASSES}");
            return Ok(0);
        }
        let kubectl = self.cluster.kubectl();
        kubectl.reach()?;
        kubectl.ask(&["apply", "--filename=-"], Some(&base))?;
        kubectl.ask(&["apply", "--filename=-"], Some(RUNTIME_CLASSES))?;
        let nodes = wait(&kubectl, &generation, Duration::from_secs(self.wait), &|node| {
            node.settled(&generation) || node.installer.is_some()
        })?;
        if nodes.is_empty() {
            return Err(Failure::refused("the cluster has no node with Linux on x86-64"));
        }
        report(&nodes, format)?;
        let lost: Vec<String> = nodes
            .iter()
            .filter(|node| {
                !node.settled(&generation)
                    || node.installer.is_some()
                    || matches!(node.state(), State::Broken | State::Absent)
            })
            .map(complaint)
            .collect();
        if !lost.is_empty() {
            return Err(
                Failure::refused(format!("{} of {} nodes are not ready", lost.len(), nodes.len())).details(lost)
            );
        }
        if nodes.iter().all(|node| node.state() != State::Ready) {
            let why = nodes.iter().map(complaint);
            return Err(Failure::refused("no node has a TEE that may be used")
                .hint("take --software to try things out, without protection")
                .details(why));
        }
        Ok(0)
    }
}

fn complaint(node: &Node) -> String {
    match node.problem() {
        Some((what, next)) if next.is_empty() || what == next => format!("{}: {what}", node.name),
        Some((what, next)) => format!("{}: {what}; next: {next}", node.name),
        None => format!("{}: not done in time", node.name),
    }
}

/// Looks at the nodes until each is done, or time is up; what was seen last.
fn wait(
    kubectl: &Kubectl,
    generation: &str,
    limit: Duration,
    done: &dyn Fn(&Node) -> bool,
) -> Result<Vec<Node>, Failure> {
    let deadline = Instant::now() + limit;
    let bar = if draws_progress() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(Duration::from_millis(120));
    let mut said = BTreeMap::new();
    loop {
        let nodes = nodes::of(kubectl)?;
        let ready = nodes.iter().filter(|node| done(node)).count();
        bar.set_message(format!("{ready} of {} nodes are done", nodes.len()));
        for node in nodes.iter().filter(|node| done(node)) {
            let word = node.problem().map_or_else(|| "done".to_owned(), |(what, _)| what);
            if said.insert(node.name.clone(), word.clone()).as_ref() != Some(&word) && !draws_progress() {
                eprintln!("belljar: {}: {word}", node.name);
            }
        }
        // A pod of the former installation may still stand there with its error, so an error counts when it stays.
        let firm = nodes.iter().all(|node| node.settled(generation));
        if ready == nodes.len() && (firm || Instant::now() + limit > deadline + GRACE) || Instant::now() >= deadline {
            bar.finish_and_clear();
            return Ok(nodes);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// So long an installer that does not run may be one of before.
const GRACE: Duration = Duration::from_secs(15);

fn report(nodes: &[Node], format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => json(&serde_json::json!({ "nodes": nodes }))?,
        Format::Text => print!("{}", table(&HEAD, &nodes.iter().map(Node::row).collect::<Vec<_>>())),
    }
    Ok(())
}

fn status(kubectl: &Kubectl, format: Format) -> Result<i32, Failure> {
    kubectl.reach()?;
    let daemon = kubectl.items(&["daemonset", DAEMON_SET, "--namespace", NAMESPACE])?;
    let nodes = nodes::of(kubectl)?;
    let classes = kubectl.items(&["runtimeclasses"])?;
    let lacking: Vec<&str> = HANDLERS
        .iter()
        .map(|handler| handler.name)
        .filter(|name| !classes.iter().any(|class| class.get("handler").and_then(Value::as_str) == Some(name)))
        .collect();
    let good = !daemon.is_empty()
        && lacking.is_empty()
        && nodes.iter().any(|node| node.state() == State::Ready)
        && nodes.iter().all(|node| node.installer.is_none() && matches!(node.state(), State::Ready | State::Unsuited));
    match format {
        Format::Json => json(&serde_json::json!({
            "good": good, "installed": !daemon.is_empty(), "missing_runtime_classes": lacking, "nodes": nodes,
        }))?,
        Format::Text => {
            report(&nodes, format)?;
            let problems: Vec<String> = nodes.iter().filter(|node| node.problem().is_some()).map(complaint).collect();
            if !problems.is_empty() {
                println!();
            }
            for problem in problems {
                println!("{problem}");
            }
            if daemon.is_empty() {
                println!("\nBelljar is not installed on this cluster; next: belljar k8s install");
            } else if !lacking.is_empty() {
                println!("\nRuntimeClasses are missing: {}; next: belljar k8s install", lacking.join(", "));
            }
        }
    }
    Ok(if good { 0 } else { Exit::Refused.code() })
}

/// Undoes an installation: first no new pods, then the nodes, then the rest.
fn uninstall(kubectl: &Kubectl, force: bool, limit: Duration) -> Result<i32, Failure> {
    kubectl.reach()?;
    let pods = kubectl.items(&["pods", "--all-namespaces"])?;
    let users: Vec<String> = pods.iter().filter_map(user).collect();
    if !users.is_empty() && !force {
        return Err(Failure::refused(format!("{} pods use belljar", users.len()))
            .hint("delete them first, or take --force, which leaves them without a runtime")
            .details(users));
    }
    let daemon = kubectl.items(&["daemonset", DAEMON_SET, "--namespace", NAMESPACE])?;
    kubectl.ask(&["delete", "--ignore-not-found", "--filename=-"], Some(RUNTIME_CLASSES))?;
    if let Some(daemon) = daemon.first() {
        let container = daemon.pointer("/spec/template/spec/containers/0");
        let image = container.and_then(|c| c.get("image")).and_then(Value::as_str).unwrap_or(IMAGE);
        let arguments = container.and_then(|c| c.get("args")).and_then(Value::as_array).into_iter().flatten();
        // where containerd is stays as it was told
        let mut arguments: Vec<String> = arguments
            .filter_map(Value::as_str)
            .filter(|argument| argument.starts_with("--"))
            .map(str::to_owned)
            .collect();
        if !arguments.iter().any(|argument| argument == "--remove") {
            arguments.push("--remove".to_owned());
        }
        let Rendered { base, generation } = render(image, &arguments);
        kubectl.ask(&["apply", "--filename=-"], Some(&base))?;
        let clean = |node: &Node| node.settled(&generation) || !node.has_installer;
        let nodes = wait(kubectl, &generation, limit, &clean)?;
        let left: Vec<String> = nodes
            .iter()
            .filter(|node| node.has_installer && !(node.settled(&generation) && node.state() == State::Absent))
            .map(complaint)
            .collect();
        if !left.is_empty() {
            return Err(
                Failure::refused(format!("{} nodes are not clean; the DaemonSet stays", left.len())).details(left)
            );
        }
    }
    kubectl.ask(&["delete", "--ignore-not-found", "--filename=-"], Some(&render(IMAGE, &[]).base))?;
    for node in nodes::of(kubectl)?.iter().filter(|node| node.generation.is_some() || node.status.is_some()) {
        kubectl.ask(&["annotate", "node", &node.name, &format!("{STATUS}-"), &format!("{GENERATION}-")], None)?;
    }
    println!("Belljar is gone from the cluster and its nodes.");
    Ok(0)
}

/// Namespace and name of a pod that uses one of our RuntimeClasses and has not ended.
fn user(pod: &Value) -> Option<String> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
    let ours = text("/spec/runtimeClassName").is_some_and(|class| HANDLERS.iter().any(|handler| handler.name == class));
    let ended = matches!(text("/status/phase"), Some("Succeeded" | "Failed"));
    (ours && !ended).then(|| {
        format!("{}/{}", text("/metadata/namespace").unwrap_or_default(), text("/metadata/name").unwrap_or_default())
    })
}
