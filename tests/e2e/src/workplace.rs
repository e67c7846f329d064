//! A directory for one test or demo: its own layer store and runs, the shared guest image, removed at the end.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::programs::{belljar, finish, root};

/// A place to work in.
#[derive(Debug)]
pub struct Workplace {
    directory: TempDir,
}

impl Workplace {
    /// A new one, with the guest image that `make test` built (or builds it now).
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("belljar-e2e-").tempdir().expect("a temporary directory");
        let place = Self { directory };
        std::fs::create_dir_all(place.data()).expect("a directory");
        let shared = shared_data();
        if !shared.join("guest/current/manifest.json").exists() {
            let built = finish(belljar(&shared).args(["guest", "build"]));
            assert_eq!(built.code, 0, "{}", built.stderr);
        }
        for part in ["guest", "softtee"] {
            // As `belljar` makes them: keys lie in a folder that is closed to others.
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(shared.join(part)).expect("a directory");
            std::os::unix::fs::symlink(shared.join(part), place.data().join(part)).expect("a link");
        }
        place
    }

    /// Value of `BELLJAR_DATA`.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A path in this place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A call of `belljar` here.
    pub fn belljar(&self) -> Command {
        let mut command = belljar(&self.data());
        command.env("XDG_RUNTIME_DIR", self.runtime());
        command
    }

    /// The process id of the only running pod's QEMU.
    pub fn qemu_of_only_pod(&self) -> u32 {
        let pods: Vec<_> = self.pods().collect();
        assert_eq!(pods.len(), 1, "{pods:?}");
        let text = std::fs::read(pods[0].join("pod.json")).expect("a pod has its note");
        let pod: serde_json::Value = serde_json::from_slice(&text).expect("which is JSON");
        pod["qemu"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("and names QEMU")
    }

    fn pods(&self) -> impl Iterator<Item = PathBuf> {
        let entries = std::fs::read_dir(self.runtime().join("belljar/pods")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir())
    }

    /// Asserts that no run folder, none of these processes, and no process that names this place is left.
    pub fn assert_nothing_left(&self, processes: &[u32]) {
        let folders: Vec<_> = self.pods().collect();
        assert!(folders.is_empty(), "{folders:?}");
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let left: Vec<String> = self.processes_here(processes);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "still running: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The same, but for processes whose command line holds one of these words.
    pub fn assert_nothing_left_but(&self, words: &[&str]) {
        let left = self.processes_here(&[]).into_iter().filter(|line| !words.iter().any(|word| line.contains(word)));
        let left: Vec<String> = left.collect();
        assert!(left.is_empty(), "still running: {left:?}");
    }

    fn processes_here(&self, processes: &[u32]) -> Vec<String> {
        let place = self.directory.path().to_string_lossy().into_owned();
        let mut left = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            // An empty command line is a zombie that its parent is about to reap.
            let ours = processes.contains(&pid) || line.contains(&place);
            if ours && !line.is_empty() && pid != std::process::id() {
                left.push(format!("{pid} {line}"));
            }
        }
        left
    }

    /// Name, size and time of change of every file in the layer store.
    pub fn snapshot_of_store(&self) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
        let mut files = Vec::new();
        let mut folders = vec![self.data().join("store")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the store is there").flatten() {
                let meta = entry.metadata().expect("a file has metadata");
                if meta.is_dir() {
                    folders.push(entry.path());
                } else {
                    files.push((entry.path(), meta.len(), meta.modified().expect("and a time")));
                }
            }
        }
        files.sort();
        assert!(!files.is_empty(), "the store is empty");
        files
    }

    /// Where running pods of this place are.
    pub fn runtime(&self) -> PathBuf {
        let runtime = self.path("run");
        std::fs::create_dir_all(&runtime).expect("a directory");
        runtime
    }
}

impl Default for Workplace {
    fn default() -> Self {
        Self::new()
    }
}

/// The data directory that `make test` prepares: guest image and keys of the software TEE, made once.
pub fn shared_data() -> PathBuf {
    root().join("target/test/data")
}

/// Debian's `docker-registry` on a free loopback port, with its own storage; ends with this value.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: SocketAddr,
}

impl Registry {
    /// Starts one with its storage below `directory`.
    pub fn start(directory: &Path) -> Self {
        let address = free_port();
        let storage = directory.join("registry");
        std::fs::create_dir_all(&storage).expect("a directory");
        let config = directory.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
            storage.display()
        );
        std::fs::write(&config, text).expect("a file");
        let log = std::fs::File::create(directory.join("registry.log")).expect("a file");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed: tools/deps.sh");
        let mut registry = Self { child, address };
        registry.wait();
        registry
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            assert!(self.child.try_wait().expect("our child").is_none(), "docker-registry ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that nobody listens on.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("loopback has a free port")
}
