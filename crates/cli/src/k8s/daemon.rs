//! `belljar node daemon|health`: the program of the DaemonSet's pods.
//!
//! The pod is privileged and sees the node's processes. It copies the programs and the guest image of its own container image to the
//! node, enters the mount namespace of the node's first process, and runs `belljar node install` there: so the installer works with
//! the node's own paths, containerd and systemctl, wherever they are. Then it tells the cluster.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use belljar_node::{State, Status, label_patch, unlabel_patch};
use clap::{Args, Subcommand};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, one_line};
use crate::k8s::api::{Api, FOLDER};
use crate::k8s::nodes::{GENERATION, STATUS};

/// Payload of the image.
const PAYLOAD: &str = "/opt/belljar";
/// Where it is put for the installer, on the node.
const STAGE: &str = "/var/lib/belljar-incoming";
const STATUS_FILE: &str = "/run/belljar-node/status";
/// A try that failed is made again after this time, and then after twice the time, at most an hour.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// The status is this old at most, unless the program hangs; an installation may take minutes.
const STALE: Duration = Duration::from_secs(600);

/// The DaemonSet's program, its probes, and its step onto the node.
#[derive(Debug, Subcommand)]
pub enum Daemon {
    /// Keep this pod's node prepared, and tell the cluster (the DaemonSet of `belljar k8s install` runs this)
    Daemon(Settings),
    /// Whether `belljar node daemon` works, for the kubelet's probes
    Health {
        /// Also whether it is done with this node
        #[arg(long)]
        ready: bool,
    },
    /// Run a program in the mount namespace of the node's first process
    #[command(hide = true)]
    OnHost {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// What the DaemonSet says. The paths are those of the node.
#[derive(Debug, Args)]
pub struct Settings {
    /// The Node in the cluster
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// Names this installation
    #[arg(long, env = "BELLJAR_GENERATION", default_value = "manual")]
    generation: String,
    /// Take everything away from the node instead
    #[arg(long)]
    remove: bool,
    /// Let pods run in the software TEE, which protects nothing
    #[arg(long)]
    software: bool,
    /// Broker of pods that name none
    #[arg(long)]
    broker: Option<String>,
    /// QEMU on the node
    #[arg(long)]
    qemu: Option<String>,
    /// containerd's configuration
    #[arg(long)]
    containerd_config: Option<String>,
    /// containerd's socket
    #[arg(long)]
    containerd_socket: Option<String>,
    /// containerd's program
    #[arg(long)]
    containerd: Option<String>,
    /// How to restart containerd
    #[arg(long)]
    restart_command: Option<String>,
    /// Seconds between two looks at the node
    #[arg(long, default_value_t = 60)]
    every: u64,
}

impl Daemon {
    /// Carries the verb out.
    pub fn execute(self) -> Result<i32, Failure> {
        match self {
            Self::Daemon(settings) => settings.run(),
            Self::Health { ready } => health(Path::new(STATUS_FILE), ready),
            Self::OnHost { command } => Err(on_host(&command)),
        }
    }
}

/// Becomes the program, on the node. Only returns when that fails.
fn on_host(command: &[OsString]) -> Failure {
    let enter = || -> std::io::Result<()> {
        let namespace = File::open("/proc/1/ns/mnt")?;
        // The kernel wants a process that shares its folders with no other thread; this one has a single thread.
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Mount))?;
        std::env::set_current_dir("/")
    };
    if let Err(error) = enter() {
        return Failure::undecided(format!("cannot enter the node's mount namespace: {error}"))
            .hint("the pod must be privileged and have hostPID: true");
    }
    let Some((program, arguments)) = command.split_first() else { return Failure::usage("no program") };
    // The node's programs are where its own PATH would be; the image's variables mean nothing there.
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin";
    let error =
        std::process::Command::new(program).args(arguments).env_clear().env("PATH", path).env("HOME", "/root").exec();
    Failure::undecided(format!("{}: {error}", program.to_string_lossy()))
}

fn health(file: &Path, ready: bool) -> Result<i32, Failure> {
    let away = |error: std::io::Error| Failure::refused(format!("{}: {error}", file.display()));
    let age = fs::metadata(file).and_then(|meta| meta.modified()).map_err(away)?;
    let age = SystemTime::now().duration_since(age).unwrap_or_default();
    if age > STALE {
        return Err(Failure::refused(format!("the last word is {} s old", age.as_secs())));
    }
    let word = fs::read_to_string(file).map_err(away)?;
    if ready && word.trim() != "settled" {
        return Err(Failure::refused(format!("not done: {}", word.trim())));
    }
    Ok(0)
}

impl Settings {
    fn run(self) -> Result<i32, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::undecided(format!("cannot start: {e}")))?;
        runtime.block_on(self.keep())
    }

    async fn keep(self) -> Result<i32, Failure> {
        let mut end = signal(SignalKind::terminate()).map_err(Failure::undecided)?;
        let api = Api::of_pod(Path::new(FOLDER)).map_err(Failure::undecided)?;
        let mut pause = FIRST_PAUSE;
        let mut next_try = SystemTime::now();
        let mut told: Option<Value> = None;
        let mut failed: Option<(String, String)> = None;
        say("working")?;
        loop {
            // What is under way on the node is finished even when the pod is told to end meanwhile.
            if SystemTime::now() >= next_try {
                failed = self.act().await.err();
            }
            let status = self.look(failed.as_ref()).await;
            let patch = self.patch(&status);
            if told.as_ref() != Some(&patch) {
                println!(
                    "{}",
                    patch
                        .pointer("/metadata/annotations/belljar.dev~1status")
                        .and_then(Value::as_str)
                        .unwrap_or("removed")
                );
                match api.patch_node(&self.node, &patch).await {
                    Ok(()) => told = Some(patch),
                    Err(error) => eprintln!("belljar: {error}"),
                }
            }
            let good = match status.state {
                State::Ready | State::Unsuited => !self.remove,
                State::Absent => self.remove,
                State::Broken => false,
            };
            let now = SystemTime::now();
            if good {
                (pause, next_try) = (FIRST_PAUSE, now + LONGEST_PAUSE);
                if self.remove {
                    next_try = now + LONGEST_PAUSE * 24;
                }
            } else if now >= next_try {
                next_try = now + pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else if failed.is_none() {
                // It was good, and something changed it.
                next_try = next_try.min(now + FIRST_PAUSE);
            }
            say(if told.is_some() && (good || failed.is_some()) { "settled" } else { "working" })?;
            tokio::select! {
                _ = end.recv() => return Ok(0),
                () = tokio::time::sleep(Duration::from_secs(self.every.max(1))) => {}
            }
        }
    }

    /// Installs or removes. The error is the cause and the next step.
    async fn act(&self) -> Result<(), (String, String)> {
        let host = Path::new("/proc/1/root");
        let stage = host.join(STAGE.trim_start_matches('/'));
        let staged = stage_payload(Path::new(PAYLOAD), &stage, !self.remove);
        staged.map_err(|error| (format!("copy to the node: {error}"), "make room on the node's disk".to_owned()))?;
        let program = format!("{STAGE}/bin/belljar");
        let mut arguments = vec!["--format=json".to_owned(), "node".to_owned()];
        if self.remove {
            arguments.push("uninstall".to_owned());
        } else {
            arguments.extend(["install".to_owned(), format!("--bin={STAGE}/bin"), format!("--guest={STAGE}/guest")]);
            arguments.extend(self.software.then(|| "--software".to_owned()));
            for (name, value) in [("broker", &self.broker), ("qemu", &self.qemu)] {
                arguments.extend(value.as_ref().map(|value| format!("--{name}={value}")));
            }
        }
        arguments.extend(self.place());
        arguments.extend(self.restart_command.as_ref().map(|command| format!("--restart-command={command}")));
        let result = on_node(&program, &arguments).await;
        let _ = fs::remove_dir_all(&stage);
        let (code, _, stderr) = result.map_err(|why| (why, String::new()))?;
        // 1 without an error: no TEE here
        if code == Some(0) || (code == Some(1) && stderr.trim().is_empty()) {
            return Ok(());
        }
        let error: Value = serde_json::from_str(stderr.trim()).unwrap_or(Value::Null);
        let field = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
        let why = field("error").unwrap_or_else(|| one_line(&stderr));
        Err(match (field("hint"), why.split_once("; next: ")) {
            (Some(hint), _) => (why, hint),
            (None, Some((why, next))) => (why.to_owned(), next.to_owned()),
            (None, None) => (why, String::new()),
        })
    }

    /// How it stands with the node.
    async fn look(&self, failed: Option<&(String, String)>) -> Status {
        let program = "/opt/belljar/bin/belljar";
        let mut arguments = vec!["--format=json".to_owned(), "node".to_owned(), "status".to_owned()];
        arguments.extend(self.place());
        let there = Path::new("/proc/1/root").join(program.trim_start_matches('/')).exists();
        let status = if there { on_node(program, &arguments).await.ok() } else { None };
        let status: Option<Status> = status.and_then(|(_, stdout, _)| serde_json::from_str(&stdout).ok());
        let mut status = status.unwrap_or_else(absent);
        if let Some((problem, next)) = failed {
            status.state = State::Broken;
            status.serves.clear();
            status.problem = Some(problem.clone());
            // The cause often says by itself what to do.
            status.next = Some(if next.is_empty() { problem.clone() } else { next.clone() });
        }
        status
    }

    fn place(&self) -> Vec<String> {
        let named = [
            ("containerd-config", &self.containerd_config),
            ("containerd-socket", &self.containerd_socket),
            ("containerd", &self.containerd),
        ];
        named.iter().filter_map(|(name, value)| value.as_ref().map(|value| format!("--{name}={value}"))).collect()
    }

    fn patch(&self, status: &Status) -> Value {
        let mut patch =
            if self.remove && status.state == State::Absent { unlabel_patch() } else { label_patch(status) };
        if let Some(annotations) = patch.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            annotations.insert(GENERATION.to_owned(), json!(self.generation));
            if self.remove {
                annotations.insert(STATUS.to_owned(), json!(serde_json::to_string(status).unwrap_or_default()));
            }
        }
        patch
    }
}

fn absent() -> Status {
    Status {
        state: State::Absent,
        version: None,
        tee: belljar_node::Tee::None,
        kvm: false,
        qemu: None,
        containerd: None,
        handlers: Vec::new(),
        serves: Vec::new(),
        problem: None,
        next: None,
    }
}

/// Runs a program on the node; its exit code, stdout and stderr.
async fn on_node(program: &str, arguments: &[String]) -> Result<(Option<i32>, String, String), String> {
    let output = tokio::process::Command::new("/proc/self/exe")
        .args(["node", "on-host", program])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| error.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

/// Copies programs, and with `whole` the shim and the guest image, to where the node sees them.
fn stage_payload(from: &Path, to: &Path, whole: bool) -> std::io::Result<()> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let copy = |from: PathBuf, to: PathBuf| -> std::io::Result<()> {
        fs::create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
        // also copies the mode
        fs::copy(from, to).map(|_| ())
    };
    copy(from.join("bin/belljar"), to.join("bin/belljar"))?;
    if !whole {
        return Ok(());
    }
    let shim = belljar_node::HANDLERS.first().map_or("", |handler| handler.shim);
    copy(from.join("bin").join(shim), to.join("bin").join(shim))?;
    for entry in fs::read_dir(from.join("guest/current"))? {
        let entry = entry?;
        copy(entry.path(), to.join("guest").join(entry.file_name()))?;
    }
    Ok(())
}

/// The word for the probes.
fn say(word: &str) -> Result<(), Failure> {
    let fresh = format!("{STATUS_FILE}.new");
    fs::write(&fresh, word)
        .and_then(|()| fs::rename(&fresh, STATUS_FILE))
        .map_err(|error| Failure::undecided(format!("{STATUS_FILE}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_a_fresh_word() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("status");
        assert!(health(&file, false).is_err());
        fs::write(&file, "working").unwrap();
        assert_eq!(health(&file, false).unwrap(), 0);
        assert_eq!(health(&file, true).unwrap_err().cause, "not done: working");
        fs::write(&file, "settled").unwrap();
        assert_eq!(health(&file, true).unwrap(), 0);
        let old = SystemTime::now() - STALE * 2;
        File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        assert!(health(&file, false).unwrap_err().cause.starts_with("the last word is 1200"));
    }

    #[test]
    fn what_is_put_on_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for name in ["bin/belljar", "bin/containerd-shim-belljar-v2", "guest/x/manifest.json"] {
            fs::create_dir_all(from.join(name).parent().unwrap()).unwrap();
            fs::write(from.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("x", from.join("guest/current")).unwrap();
        stage_payload(&from, &to, true).unwrap();
        assert_eq!(fs::read_to_string(to.join("guest/manifest.json")).unwrap(), "guest/x/manifest.json");
        stage_payload(&from, &to, false).unwrap();
        assert!(to.join("bin/belljar").exists() && !to.join("guest").exists());
    }
}
