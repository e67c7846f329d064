//! A node in a temporary folder, with a real containerd.

#![allow(dead_code, missing_docs, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use belljar_guest_image::{CommandLine, FORMAT, FileEntry, Manifest};
use belljar_node::{Installed, NodeError, Options, Restart, Source, Step, Uninstalled, install, uninstall};
use tempfile::TempDir;

/// Which containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Debian's, 1.6.
    System,
    /// 2.1, by `tools/fetch-containerd2.sh`.
    Two,
}

impl Which {
    pub fn program(self) -> PathBuf {
        match self {
            Self::System => PathBuf::from("/usr/bin/containerd"),
            Self::Two => {
                let cache = std::env::var_os("BELLJAR_CACHE").map(PathBuf::from);
                let cache =
                    cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/belljar"));
                cache.join("containerd-2.1/tree/usr/bin/containerd")
            }
        }
    }

    /// Both, or those that are there; says which is not.
    pub fn there() -> Vec<Self> {
        let all = [Self::System, Self::Two];
        for which in all {
            if !which.program().exists() {
                eprintln!("IGNORED for {which:?}: {} is not there", which.program().display());
            }
        }
        all.into_iter().filter(|which| which.program().exists()).collect()
    }
}

pub struct Node {
    dir: TempDir,
    pub options: Options,
    pub source: Source,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Node {
    pub fn new(which: Which) -> Self {
        let dir = tempfile::Builder::new().prefix("belljar-node-").tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let source = Source { bin: dir.path().join("bin"), guest: dir.path().join("guest") };
        program(&source.bin.join("containerd-shim-belljar-v2"), "#!/bin/sh\nexit 0\n");
        program(&source.bin.join("belljar"), "#!/bin/sh\ncat \"$BELLJAR_DATA/../../../doctor.json\"\n");
        guest_image(&source.guest, "6.12.95");
        let mut options = Options::new(&root);
        options.containerd = Some(which.program());
        options.restart = Restart::Never;
        options.limit = Duration::from_secs(30);
        options.software = true;
        let node = Self { dir, options, source };
        node.doctor(&[]);
        node
    }

    /// The node of a folder that another process made.
    pub fn of(dir: &Path, which: Which) -> (Options, Source) {
        let mut options = Options::new(&dir.join("root"));
        options.containerd = Some(which.program());
        options.software = true;
        options.restart = Restart::Command(format!("sh {}", dir.join("restart.sh").display()));
        options.limit = Duration::from_secs(30);
        (options, Source { bin: dir.join("bin"), guest: dir.join("guest") })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, absolute: &str) -> PathBuf {
        self.options.layout.path(absolute)
    }

    /// What the doctor says: all is well in the software TEE, but for these.
    pub fn doctor(&self, changed: &[(&str, &str, &str)]) {
        let mut rows = vec![
            ("snp", "cpu", "not-applicable"),
            ("tdx", "cpu", "missing"),
            ("kvm", "/dev/kvm", "missing"),
            ("qemu", "version", "ok"),
            ("qemu", "sev-snp-guest object", "ok"),
            ("guest-image", "files", "ok"),
            ("space", "store", "ok"),
        ];
        for (area, what, state) in changed {
            rows.retain(|row| (row.0, row.1) != (*area, *what));
            rows.push((area, what, state));
        }
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(area, what, state)| {
                let next = matches!(state, "missing" | "problem").then_some("buy another one");
                serde_json::json!({"area": area, "what": what, "state": state, "found": "10.0.2", "next": next})
            })
            .collect();
        fs::write(self.path("/doctor.json"), serde_json::json!({ "rows": rows }).to_string()).unwrap();
    }

    pub fn config(&self, text: &str) {
        fs::create_dir_all(self.options.containerd_config.parent().unwrap()).unwrap();
        fs::write(&self.options.containerd_config, text).unwrap();
    }

    pub fn write(&self, absolute: &str, text: &str) {
        fs::create_dir_all(self.path(absolute).parent().unwrap()).unwrap();
        fs::write(self.path(absolute), text).unwrap();
    }

    pub fn install(&self) -> Result<Installed, NodeError> {
        install(&self.options, &self.source, &|_: Step| ())
    }

    pub fn uninstall(&self) -> Result<Uninstalled, NodeError> {
        uninstall(&self.options, false, &|_: Step| ())
    }

    /// What containerd makes of its configuration.
    pub fn dump(&self) -> toml::Table {
        let mut command = Command::new(self.options.containerd.as_ref().unwrap());
        if self.options.containerd_config.exists() {
            command.arg("-c").arg(&self.options.containerd_config).args(["config", "dump"]);
        } else {
            command.args(["config", "default"]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().parse().unwrap()
    }

    /// Names of the runtimes that containerd knows.
    pub fn runtimes(&self) -> Vec<String> {
        let dump = self.dump();
        let plugins = dump["plugins"].as_table().unwrap();
        let plugin = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"].iter().find_map(|name| {
            plugins.get(*name).and_then(|plugin| plugin.get("containerd")?.get("runtimes")?.as_table())
        });
        plugin.unwrap().keys().cloned().collect()
    }

    /// Every file, link and folder below the root, with its content.
    pub fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut tree = BTreeMap::new();
        let mut folders = vec![self.path("/")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().flatten() {
                let kind = entry.file_type().unwrap();
                let path = entry.path();
                let content = if kind.is_dir() {
                    folders.push(path.clone());
                    Vec::new()
                } else if kind.is_symlink() {
                    fs::read_link(&path).unwrap().to_str().unwrap().as_bytes().to_vec()
                } else if kind.is_file() {
                    fs::read(&path).unwrap()
                } else {
                    continue;
                };
                tree.insert(path, content);
            }
        }
        tree
    }

    /// A configuration for a containerd that keeps everything below this folder, and a script that restarts it. `refuses` is a
    /// word: a configuration that holds it keeps containerd from starting.
    pub fn serve(&mut self, which: Which, refuses: Option<&str>) {
        let run = self.dir.path().join("run");
        fs::create_dir_all(&run).unwrap();
        let (version, cri) = match which {
            Which::System => (2, "io.containerd.grpc.v1.cri"),
            Which::Two => (3, "io.containerd.cri.v1.runtime"),
        };
        let dir = run.display();
        self.config(&format!(
            "version = {version}\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n[grpc]\naddress = \"{dir}/c.sock\"\n\
             [plugins.\"{cri}\"]\nrestrict_oom_score_adj = true # here\n[plugins.\"io.containerd.internal.v1.opt\"]\n\
             path = \"{dir}/opt\"\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n"
        ));
        let config = self.options.containerd_config.display();
        let program = which.program();
        let stop = format!(
            "if [ -e {dir}/pid ]; then p=$(cat {dir}/pid); kill $p 2>/dev/null; while [ -e /proc/$p/exe ]; do sleep 0.05; done; fi\n"
        );
        let check = refuses
            .map(|word| format!("if grep -q {word} {config}; then echo refused >&2; exit 0; fi\n"))
            .unwrap_or_default();
        let start = format!(
            "echo restart >>{dir}/restarts\nsetsid {} -c {config} >{dir}/log 2>&1 </dev/null &\necho $! >{dir}/pid\n",
            program.display()
        );
        fs::write(self.dir.path().join("restart.sh"), format!("{stop}{check}{start}")).unwrap();
        fs::write(self.dir.path().join("stop.sh"), stop).unwrap();
        self.options.restart = Restart::Command(format!("sh {}", self.dir.path().join("restart.sh").display()));
        self.options.containerd_socket = run.join("c.sock");
    }

    /// Starts containerd and waits for it.
    pub fn start(&self) {
        assert!(Command::new("sh").arg(self.dir.path().join("restart.sh")).status().unwrap().success());
        for _ in 0..300 {
            if belljar_node::containerd::cri_version(&self.options.containerd_socket, Duration::from_secs(5)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("containerd does not answer: {}", fs::read_to_string(self.dir.path().join("run/log")).unwrap());
    }

    pub fn stop(&self) {
        let script = self.dir.path().join("stop.sh");
        if script.exists() {
            let _ = Command::new("sh").arg(script).status();
        }
    }

    pub fn restarts(&self) -> usize {
        fs::read_to_string(self.dir.path().join("run/restarts")).map_or(0, |text| text.lines().count())
    }
}

fn program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A small image with everything that an image has.
pub fn guest_image(out: &Path, release: &str) {
    let hash = |bytes: &[u8]| hex::encode(digest(&SHA256, bytes));
    let names = ["OVMF.amdsev.fd", "OVMF.inteltdx.ms.fd", "initrd", "qboot.rom", "vmlinux", "vmlinuz"];
    let content = |name: &str| format!("{name} of {release}");
    let files = names.iter().map(|name| {
        let text = content(name);
        let [package, source, version] = ["p", "s", "1"].map(str::to_owned);
        let size = text.len() as u64;
        ((*name).to_owned(), FileEntry { sha256: hash(text.as_bytes()), size, package, source, version })
    });
    let manifest = Manifest {
        format: FORMAT,
        kernel_release: release.to_owned(),
        agent_version: "0.1.0".into(),
        agent_sha256: hash(b"agent"),
        command_line: CommandLine { base: "b".into(), quiet: "q".into(), debug: "d".into() },
        files: files.collect(),
        modules: Vec::new(),
    };
    let dir = out.join(manifest.id().unwrap());
    fs::create_dir_all(&dir).unwrap();
    for name in names {
        fs::write(dir.join(name), content(name)).unwrap();
    }
    fs::write(dir.join("manifest.json"), manifest.to_bytes().unwrap()).unwrap();
    let _ = fs::remove_file(out.join("current"));
    std::os::unix::fs::symlink(manifest.id().unwrap(), out.join("current")).unwrap();
}
