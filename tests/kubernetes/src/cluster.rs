//! Up, down, and commands in the cluster.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use belljar_e2e::programs::{Finished, finish, program, root};
use belljar_e2e::workplace::shared_data;

use crate::images;

/// The variable that names the state folder of a cluster that runs already.
pub const RUN: &str = "BELLJAR_K8S_RUN";
/// The variable that says why there is no cluster.
pub const MISSING: &str = "BELLJAR_K8S_MISSING";
/// Address of the node, and of the API server, kubelet and broker in the node's network namespace.
pub const NODE_IP: &str = "10.99.0.1";
/// Where the broker listens.
pub const BROKER: &str = "10.99.0.1:8443";

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    run: PathBuf,
    owned: bool,
}

/// The scripts.
pub(crate) fn scripts() -> PathBuf {
    root().join("tests/kubernetes/cluster")
}

/// Why a cluster cannot run here, or nothing.
pub fn missing() -> Option<String> {
    let output = Command::new(scripts().join("missing.sh")).output().expect("the script starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reason = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!reason.is_empty()).then_some(reason)
}

impl Cluster {
    /// A new cluster with its state in `run`, ended with this value.
    pub fn up(run: &Path) -> Result<Self, String> {
        let staging = tempfile::Builder::new().prefix("belljar-k8s-").tempdir().map_err(|e| e.to_string())?;
        let archives = images::write_all(&staging.path().join("images"));
        let shims = staging.path().join("shims");
        let overlay = staging.path().join("overlay");
        node_files(&overlay).map_err(|e| format!("cannot prepare the node's files: {e}"))?;
        shim_links(&shims).map_err(|e| format!("cannot link the shim: {e}"))?;
        let classes = [root().join("deploy/base/runtimeclasses.yaml"), scripts().join("classes.yaml")];
        let manifests = classes.map(|path| path.display().to_string()).join(" ");
        let mut up = Command::new(scripts().join("up.sh"));
        up.env("K8S_RUN", run)
            .env("K8S_IMAGES", staging.path().join("images"))
            .env("K8S_EXTRA", scripts().join("handlers.toml"))
            .env("K8S_MANIFEST", manifests)
            .env("K8S_OVERLAY", &overlay)
            .env("K8S_PATH", run.join("shims"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = up.output().map_err(|e| format!("up.sh: {e}"))?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            return Err(format!("the cluster did not come up:\n{}", String::from_utf8_lossy(&text)));
        }
        let cluster = Self { run: run.to_owned(), owned: true };
        copy(&shims, &run.join("shims"))?;
        std::fs::create_dir_all(run.join("user/data")).map_err(|e| e.to_string())?;
        std::os::unix::fs::symlink(shared_data().join("guest"), run.join("user/data/guest"))
            .map_err(|e| e.to_string())?;
        std::fs::create_dir_all(run.join("images")).map_err(|e| e.to_string())?;
        for (_, archive) in archives {
            let name = archive.file_name().unwrap_or_default();
            std::fs::copy(&archive, run.join("images").join(name)).map_err(|e| e.to_string())?;
        }
        // What the installer writes on a node that has no TEE and may run pods without protection.
        let label =
            finish(&mut cluster.kubectl(&["label", "node", "node1", "runtime.belljar.dev/belljar-software=true"]));
        if label.code != 0 {
            return Err(label.stderr);
        }
        cluster.start_broker()?;
        Ok(cluster)
    }

    /// A cluster that runs already, and goes on running.
    pub fn attach(run: &Path) -> Result<Self, String> {
        if !run.join("pid").exists() {
            return Err(format!("no cluster runs in {}", run.display()));
        }
        Ok(Self { run: run.to_owned(), owned: false })
    }

    /// Leaves it running when this value ends.
    pub fn keep(mut self) {
        self.owned = false;
    }

    /// Ends a cluster, whoever started it.
    pub fn down(run: &Path) {
        let ended = Command::new(scripts().join("down.sh")).env("K8S_RUN", run).status();
        if !ended.is_ok_and(|status| status.success()) {
            eprintln!("the cluster in {} could not be ended", run.display());
        }
    }

    /// Its state folder.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }

    /// The archive of an image of ours.
    pub fn archive(&self, image: &str) -> PathBuf {
        let (repository, tag) = image.rsplit_once(':').expect("a name with a tag");
        let short = repository.rsplit('/').next().expect("the last part");
        self.run.join("images").join(format!("{short}-{tag}.tar"))
    }

    /// The test image with one more file under another name, in containerd. Returns the archive.
    pub fn add_image(&self, name: &str, path: &str, content: &[u8]) -> PathBuf {
        let archive = images::with_file(&self.run.join("images"), name, path, content);
        let import = finish(&mut self.inside(&["ctr", "image", "import", &archive.display().to_string()]));
        assert_eq!(import.code, 0, "{}", import.stderr);
        archive
    }

    /// A command in all of the node's namespaces.
    pub fn inside(&self, command: &[&str]) -> Command {
        let mut inside = Command::new(self.run.join("in"));
        inside.args(command).stdin(Stdio::null());
        inside
    }

    /// A command in the node's network namespace, with the host's files.
    pub fn net(&self, program: impl AsRef<OsStr>) -> Command {
        let mut net = Command::new(self.run.join("net"));
        net.arg(program).stdin(Stdio::null());
        net
    }

    /// `kubectl`.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut kubectl = Command::new(self.run.join("kubectl"));
        kubectl.args(arguments).stdin(Stdio::null());
        kubectl
    }

    /// `belljar` as a user of the cluster calls it: with a data directory of its own, not the node's, and in a network with the cluster.
    pub fn belljar(&self) -> Command {
        let mut command = self.net(program("belljar"));
        command.env("BELLJAR_DATA", self.path("user/data")).env("XDG_RUNTIME_DIR", self.path("user"));
        command.env_remove("RUST_BACKTRACE").env_remove("BELLJAR_LOG");
        command
    }

    /// Runs a shell line inside the node and returns what it printed.
    pub fn shell(&self, line: &str) -> Finished {
        finish(&mut self.inside(&["sh", "-c", line]))
    }

    /// Kills a component; the node starts it again. Returns when another process runs.
    pub fn restart(&self, component: &str) {
        let before = self.pid(component);
        let killed = self.shell(&format!("kill -9 {before}"));
        assert_eq!(killed.code, 0, "{}", killed.stderr);
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.pid(component) == before {
            assert!(Instant::now() < deadline, "{component} was not started again");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The process id of a component, as the node counts.
    pub fn pid(&self, component: &str) -> String {
        let file = self.run.join("pids").join(component);
        std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
    }

    /// The last lines of a component's log.
    pub fn log(&self, component: &str, lines: usize) -> String {
        let text = std::fs::read(self.run.join("log").join(format!("{component}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// A broker inside the node, for pods of the node's software TEE.
    fn start_broker(&self) -> Result<(), String> {
        let log = std::fs::File::create(self.path("log/broker.log")).map_err(|e| e.to_string())?;
        let url = std::fs::File::create(self.path("broker.url")).map_err(|e| e.to_string())?;
        let belljar = program("belljar");
        let token = self.path("broker.token");
        let mut broker = self.inside(&["setsid", "env", "BELLJAR_DATA=/var/lib/belljar"]);
        broker.arg(belljar).args(["broker", "serve", "--listen", BROKER, "--allow-software-tee", "--token-file"]);
        broker.arg(&token).stdout(url).stderr(log).spawn().map_err(|e| format!("the broker: {e}"))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.broker_url().contains("#sha256=") {
            if Instant::now() > deadline {
                return Err(format!("the broker does not answer: {}", self.log("broker", 20)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The broker's URL with its key.
    pub fn broker_url(&self) -> String {
        std::fs::read_to_string(self.path("broker.url")).unwrap_or_default().trim().to_owned()
    }

    /// Feeds `text` to a command's stdin and waits for its end.
    pub fn feed(&self, command: &mut Command, text: &str) -> Finished {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("it takes the text");
        std::io::Seek::rewind(&mut file).expect("it is a file");
        finish(command.stdin(file))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.owned {
            Self::down(&self.run);
        }
    }
}

/// What an administrator puts on a node: the guest image, the software TEE's keys, the shim's configuration.
fn node_files(overlay: &Path) -> std::io::Result<()> {
    let data = overlay.join("var/lib/belljar");
    std::fs::create_dir_all(&data)?;
    for part in ["guest", "softtee"] {
        let shared = shared_data().join(part);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&shared)?;
        std::os::unix::fs::symlink(shared, data.join(part))?;
    }
    Ok(())
}

/// Names of the shim by which containerd finds it.
fn shim_links(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let shim = program("containerd-shim-belljar-v2");
    std::fs::copy(scripts().join("hostile-shim.sh"), directory.join("containerd-shim-belljar-hostile-v2"))?;
    for name in ["belljar", "belljar-snp", "belljar-tdx", "belljar-software"] {
        std::os::unix::fs::symlink(&shim, directory.join(format!("containerd-shim-{name}-v2")))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().map_err(|e| e.to_string())?;
    if copied.success() { Ok(()) } else { Err(format!("cannot copy {} to {}", from.display(), to.display())) }
}
