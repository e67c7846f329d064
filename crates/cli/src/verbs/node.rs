//! `belljar node install|uninstall|status`: this machine as a node of a Kubernetes cluster.

use std::path::PathBuf;
use std::time::Duration;

use belljar_node::{
    NodeError, Options, Restart, Source, State, Status, Tee, install, label_patch, status, uninstall, unlabel_patch,
};
use clap::{Args, Subcommand};

use crate::failure::{Exit, Failure};
use crate::output::{Format, json};
use crate::paths::Paths;

/// This machine as a node of a Kubernetes cluster.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Put shim, guest image and containerd's handlers in place; what is there already stays untouched
    #[command(after_help = "Exit codes: 0 pods can run here · 1 refused, or no TEE · 3 something failed.\n\
                            Example: sudo belljar node install --software")]
    Install {
        /// Where things are on the node
        #[command(flatten)]
        place: Place,
        /// Folder with `belljar` and `containerd-shim-belljar-v2` (default: that of this program)
        #[arg(long, value_name = "DIR")]
        bin: Option<PathBuf>,
        /// Folder with the guest image (default: `guest` beside the folder of this program, else this user's)
        #[arg(long, value_name = "DIR")]
        guest: Option<PathBuf>,
        /// Let pods run in the software TEE, which protects nothing
        #[arg(long)]
        software: bool,
        /// Broker of pods that name none
        #[arg(long, value_name = "https://HOST:PORT")]
        broker: Option<String>,
        /// QEMU on the node (default: the one in PATH)
        #[arg(long, value_name = "FILE")]
        qemu: Option<PathBuf>,
    },
    /// Take all of it away again; files that others wrote get their former bytes
    #[command(after_help = "Example: sudo belljar node uninstall")]
    Uninstall {
        /// Where things are on the node
        #[command(flatten)]
        place: Place,
        /// Even though pods run
        #[arg(long)]
        force: bool,
    },
    /// Whether pods can run here, and the one next step
    #[command(after_help = "Exit codes: 0 they can · 1 they cannot.\nExample: belljar node status --labels")]
    Status {
        /// Where things are on the node
        #[command(flatten)]
        place: Place,
        /// Print the labels of the cluster's Node instead, as arguments of `kubectl label`
        #[arg(long)]
        labels: bool,
    },
    /// What the DaemonSet runs
    #[command(flatten)]
    Daemon(crate::k8s::daemon::Daemon),
}

/// Where things are on the node.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Where the node's file system is seen
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// containerd's configuration (default: /etc/containerd/config.toml below the root)
    #[arg(long, value_name = "FILE")]
    pub containerd_config: Option<PathBuf>,
    /// containerd's socket (default: /run/containerd/containerd.sock below the root)
    #[arg(long, value_name = "FILE")]
    pub containerd_socket: Option<PathBuf>,
    /// containerd's program (default: in the usual folders below the root)
    #[arg(long, value_name = "FILE")]
    pub containerd: Option<PathBuf>,
    /// How to restart containerd, a line for `sh`
    #[arg(long, value_name = "COMMAND", default_value = "systemctl restart containerd")]
    pub restart_command: String,
    /// Leave the restart of containerd to somebody else
    #[arg(long, conflicts_with = "restart_command")]
    pub no_restart: bool,
    /// Most seconds until containerd answers again
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub wait: u64,
}

impl Place {
    /// As options of the installer.
    pub fn options(self) -> Options {
        let mut options = Options::new(&self.root);
        if let Some(path) = self.containerd_config {
            options.containerd_config = path;
        }
        if let Some(path) = self.containerd_socket {
            options.containerd_socket = path;
        }
        options.containerd = self.containerd;
        options.restart = if self.no_restart { Restart::Never } else { Restart::Command(self.restart_command) };
        options.limit = Duration::from_secs(self.wait);
        options
    }
}

impl Node {
    /// Carries the verb out.
    pub fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Install { place, bin, guest, software, broker, qemu } => {
                let source = source(paths, bin, guest)?;
                let options = Options { software, broker, qemu, ..place.options() };
                let installed = install(&options, &source, &|_| ()).map_err(failure)?;
                match format {
                    Format::Json => json(&installed)?,
                    Format::Text => print_installed(&installed, &options),
                }
                Ok(if installed.tee == Tee::None { Exit::Refused.code() } else { 0 })
            }
            Self::Uninstall { place, force } => {
                let removed = uninstall(&place.options(), force, &|_| ()).map_err(failure)?;
                match format {
                    Format::Json => json(&removed)?,
                    Format::Text if removed.changed.is_empty() => println!("Nothing of belljar was on this node."),
                    Format::Text => {
                        for path in &removed.changed {
                            println!("restored or removed: {path}");
                        }
                        println!(
                            "{}",
                            if removed.restarted {
                                "containerd was restarted."
                            } else {
                                "containerd was not restarted."
                            }
                        );
                    }
                }
                Ok(0)
            }
            Self::Status { place, labels } => {
                let status = status(&place.options()).map_err(Failure::undecided)?;
                match format {
                    Format::Json if labels => json(&patch(&status))?,
                    Format::Json => json(&status)?,
                    Format::Text if labels => print_labels(&status),
                    Format::Text => print_status(&status),
                }
                Ok(if status.state == State::Ready { 0 } else { Exit::Refused.code() })
            }
            Self::Daemon(daemon) => daemon.execute(),
        }
    }
}

/// What changes at the cluster's Node.
pub fn patch(status: &Status) -> serde_json::Value {
    if status.state == State::Absent { unlabel_patch() } else { label_patch(status) }
}

/// Where programs and guest image are taken from when nothing else is said.
pub fn source(paths: &Paths, bin: Option<PathBuf>, guest: Option<PathBuf>) -> Result<Source, Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::undecided(format!("cannot find this program: {e}")))?;
    let folder = own.parent().map(std::path::Path::to_owned).unwrap_or_default();
    let beside = folder.parent().map(|above| above.join("guest")).filter(|guest| guest.join("current").exists());
    Ok(Source { bin: bin.unwrap_or(folder), guest: guest.or(beside).unwrap_or_else(|| paths.guest()) })
}

fn failure(error: NodeError) -> Failure {
    use belljar_node::containerd::{PlanError, RestartError};
    match error {
        NodeError::Blocked { .. } | NodeError::Pods(_) | NodeError::Restart(RestartError::RolledBack { .. }) => {
            Failure::refused(error)
        }
        NodeError::Plan(PlanError::File(_)) => Failure::undecided(error),
        NodeError::Plan(_) => Failure::refused(error),
        _ => Failure::undecided(error),
    }
}

fn print_installed(installed: &belljar_node::Installed, options: &Options) {
    for path in &installed.changed {
        println!("changed: {path}");
    }
    if installed.changed.is_empty() {
        println!("Everything was in place.");
    }
    if let (Some(version), Some(file)) = (&installed.containerd, &installed.handlers_in) {
        let restarted = match (installed.restarted, &options.restart) {
            (true, _) => "restarted, and it answers",
            (false, Restart::Never) if !installed.changed.is_empty() => "not restarted: that is left to you",
            (false, _) => "not restarted",
        };
        println!("containerd {version}: handlers in {}, {restarted}.", file.display());
    }
    let kvm = if installed.kvm { "KVM" } else { "no KVM: VMs are emulated, many times slower" };
    println!("TEE: {} · QEMU {} · {kvm}.", installed.tee.label(), installed.qemu.as_deref().unwrap_or("-"));
    if installed.tee == Tee::None {
        println!("No pod can run here, so containerd was left as it is.");
    }
    if installed.tee == Tee::Software {
        println!("The software TEE protects pods from nobody on this node.");
    }
    if let Some((what, next)) = &installed.no_hardware {
        println!("No hardware TEE: {what}; next: {next}");
    }
}

fn print_status(status: &Status) {
    let word = match status.state {
        State::Ready => "ready",
        State::Unsuited => "no TEE that may be used",
        State::Broken => "not ready",
        State::Absent => "not installed",
    };
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    println!("state       {word}");
    println!("version     {}", or_dash(&status.version));
    println!("TEE         {}", status.tee.label());
    println!("KVM         {}", if status.kvm { "yes" } else { "no" });
    println!("QEMU        {}", or_dash(&status.qemu));
    println!("containerd  {}", or_dash(&status.containerd));
    println!("handlers    {}", if status.handlers.is_empty() { "-".to_owned() } else { status.handlers.join(", ") });
    if let Some(problem) = &status.problem {
        println!("problem     {problem}");
    }
    if let Some(next) = &status.next {
        println!("next step   {next}");
    }
}

fn print_labels(status: &Status) {
    let patch = patch(status);
    let labels = patch.pointer("/metadata/labels").and_then(serde_json::Value::as_object);
    for (name, value) in labels.into_iter().flatten() {
        match value.as_str() {
            Some(value) => println!("{name}={value}"),
            None => println!("{name}-"),
        }
    }
}
