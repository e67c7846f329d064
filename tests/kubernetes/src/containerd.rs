//! A containerd of its own in the node, without a kubelet that ends what it does not know: for calls of the container runtime interface,
//! and for another version of containerd.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use belljar_e2e::programs::finish;

use crate::cluster::Cluster;
use crate::cri::Cri;
use crate::images::{OTHER, PAUSE, PROBE};

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Debian 12's, 1.6.
    System,
    /// `tools/fetch-containerd2.sh`.
    Two,
}

/// A running one. In its mount namespace `/var/lib/containerd` and `/run/containerd` are its own, so that shims find what they expect.
#[derive(Debug)]
pub struct Containerd<'a> {
    cluster: &'a Cluster,
    directory: PathBuf,
    child: std::process::Child,
}

impl<'a> Containerd<'a> {
    /// Starts one with the images of the cluster.
    pub fn start(cluster: &'a Cluster, name: &str, version: Version) -> Self {
        let directory = cluster.path(&format!("containerd-{name}-{}", std::process::id()));
        for part in ["lib", "run", "logs"] {
            std::fs::create_dir_all(directory.join(part)).expect("a directory");
        }
        let programs = match version {
            Version::System => PathBuf::from("/usr/bin"),
            Version::Two => fetched(),
        };
        let config = directory.join("config.toml");
        let handlers = std::fs::read_to_string(crate::cluster::scripts().join("handlers.toml")).expect("a file");
        std::fs::write(&config, configuration(version, &handlers)).expect("a file");
        let shown = directory.display();
        let script = format!(
            "exec setsid unshare --mount sh -c 'echo $$ >{shown}/pid; mount --bind {shown}/lib /var/lib/containerd; \
             mount --bind {shown}/run /run/containerd; exec {}/containerd -c {} >{shown}/log 2>&1'",
            programs.display(),
            config.display()
        );
        let mut inside = cluster.inside(&["sh", "-c", &script]);
        let path = std::env::var("PATH").unwrap_or_default();
        inside.env("PATH", format!("{}:{path}", programs.display()));
        let child = inside.spawn().expect("the node runs");
        let this = Self { cluster, directory, child };
        this.wait(&programs);
        for image in [PAUSE, PROBE, OTHER] {
            let archive = cluster.archive(image);
            let done = this.ctr(&programs, &["image", "import", &archive.display().to_string()]);
            assert_eq!(done.code, 0, "{}", done.stderr);
        }
        this
    }

    fn ctr(&self, programs: &Path, arguments: &[&str]) -> belljar_e2e::programs::Finished {
        let (ctr, socket) = (programs.join("ctr").display().to_string(), self.socket().display().to_string());
        finish(self.cluster.inside(&[&ctr, "-a", &socket, "-n", "k8s.io"]).args(arguments))
    }

    fn wait(&self, programs: &Path) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.ctr(programs, &["version"]).code != 0 {
            assert!(Instant::now() < deadline, "containerd does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The last lines that it wrote.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("run/containerd.sock")
    }

    /// A connection to its runtime service.
    pub fn cri(&self) -> Cri {
        Cri::connect(&self.socket())
    }

    /// A folder for containers' logs, at the same path inside and outside of the node.
    pub fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.directory.join("pid")).unwrap_or_default();
        let _ = finish(&mut self.cluster.inside(&["kill", "-9", pid.trim()]));
        let _ = self.child.wait();
    }
}

/// The folder with containerd 2.1.
fn fetched() -> PathBuf {
    let script = belljar_e2e::programs::root().join("tools/fetch-containerd2.sh");
    let done = finish(&mut std::process::Command::new(script));
    assert_eq!(done.code, 0, "{}", done.stderr);
    PathBuf::from(done.stdout.trim())
}

fn configuration(version: Version, handlers: &str) -> String {
    let one = format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
{handlers}"#
    );
    match version {
        Version::System => one,
        // Version 3 of the format splits the section in two.
        Version::Two => {
            one.replace("version = 2\n", "version = 3\n")
                .replace(&format!("  sandbox_image = \"{PAUSE}\"\n"), "")
                .replace("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
                .replace("    bin_dir = \"/usr/lib/cni\"\n", "    bin_dirs = [\"/usr/lib/cni\"]\n")
                + &format!("[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n  sandbox = \"{PAUSE}\"\n")
        }
    }
}
