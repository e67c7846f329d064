//! Containers made of this test binary.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use belljar_agent::container::{Bind, Bundle, ContainerError, Exit, GeneratedFile, Running, SecretFile, Stdio, spawn};
use belljar_contract::{Container, Contract, HostValues, Volume, VolumeMount, oci_spec};
use oci_spec::runtime::{PosixRlimitBuilder, Spec};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// What a container has printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub exit: Exit,
    pub oom: bool,
}

/// One container to be.
pub struct Case {
    pub name: String,
    pub container: Container,
    pub secrets: Vec<(&'static str, u32, &'static [u8])>,
    pub generated: Vec<GeneratedFile>,
    /// Further layers above the one with the program; each is filled by its function.
    pub layers: Vec<fn(&Path)>,
    /// Numbers of layers that stand on top a second time; 0 is the one with the program.
    pub again: Vec<usize>,
    pub change: fn(&mut Spec),
    /// Directories or files of this machine that appear as volumes; each is a volume of the contract, too.
    pub volumes: Vec<(VolumeMount, PathBuf)>,
    /// Volumes for the mounts that the container has already, once.
    pub given: RefCell<Option<Vec<Bind>>>,
    /// Keep the limits of the contract; else the cgroup has none, so that hosts without controllers can run the test.
    pub limits: bool,
    pub stdin: &'static [u8],
}

impl Case {
    /// A container that runs the probe with these commands, as root, with the default capabilities.
    pub fn new(commands: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = include_str!("container.toml");
        let contract = Contract::parse(base).unwrap();
        let mut container = contract.containers["probe"].clone();
        container.args.extend(commands.iter().map(|command| (*command).to_owned()));
        let name = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            name,
            container,
            secrets: vec![],
            generated: vec![],
            layers: vec![],
            again: vec![],
            change: |_| {},
            volumes: vec![],
            given: RefCell::default(),
            limits: false,
            stdin: b"",
        }
    }

    pub fn start(&self) -> Result<(Running, [File; 2], TempDir), ContainerError> {
        self.begin().map(|(running, files, _, layers, _)| (running, files, layers))
    }

    /// Starts it with an open stdin.
    pub fn start_interactive(&self) -> (Running, [File; 2], PipeWriter, TempDir) {
        let (running, files, stdin, layers, _) = self.begin().unwrap();
        (running, files, stdin, layers)
    }

    /// Starts it and says how long that took.
    pub fn timed(&self) -> (Running, Duration, TempDir) {
        let (running, _, _, layers, time) = self.begin().unwrap();
        (running, time, layers)
    }

    fn begin(&self) -> Result<(Running, [File; 2], PipeWriter, TempDir, Duration), ContainerError> {
        let directory = tempfile::tempdir_in(env_tmp()).unwrap();
        let mut layers = vec![directory.path().join("0")];
        fs::create_dir_all(layers[0].join("bin")).unwrap();
        let program = layers[0].join("bin/probe");
        let in_vm = Path::new(crate::container_vm::PROGRAM);
        let own = if in_vm.is_file() { in_vm.to_owned() } else { std::env::current_exe().unwrap() };
        fs::hard_link(&own, &program).or_else(|_| fs::copy(&own, &program).map(drop)).unwrap();
        for (index, fill) in self.layers.iter().enumerate() {
            let layer = directory.path().join((index + 1).to_string());
            fs::create_dir(&layer).unwrap();
            fill(&layer);
            layers.push(layer);
        }
        layers.extend(self.again.iter().map(|number| layers[*number].clone()).collect::<Vec<_>>());
        let mut contract = Contract::parse(include_str!("container.toml")).unwrap();
        let mut container = self.container.clone();
        container.mounts.extend(self.volumes.iter().map(|(mount, _)| mount.clone()));
        for mount in &container.mounts {
            contract.volumes.insert(mount.volume.clone(), Volume::Scratch { size_bytes: 1 << 20 });
        }
        contract.containers = BTreeMap::from([(self.name.clone(), container)]);
        let mut spec = oci_spec(&contract, &self.name, &HostValues::default()).unwrap();
        if !self.limits {
            let mut linux = spec.linux().clone().unwrap();
            linux.set_resources(None);
            spec.set_linux(Some(linux));
        }
        lower_limits(&mut spec);
        (self.change)(&mut spec);
        let secrets = self.secrets.iter().map(|(path, mode, content)| SecretFile {
            path: PathBuf::from(path),
            mode: *mode,
            content: Zeroizing::new(content.to_vec()),
        });
        let bundle = Bundle {
            name: self.name.clone(),
            spec,
            layers,
            scratch_bytes: self.container.scratch_bytes,
            secrets: secrets.collect(),
            generated: self.generated.clone(),
            binds: self.binds(),
            sysctls: BTreeMap::new(),
            cgroup_root: cgroup_root(),
        };
        let (stdout, stdout_end) = std::io::pipe().unwrap();
        let (stderr, stderr_end) = std::io::pipe().unwrap();
        let (stdin, mut stdin_end) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut stdin_end, self.stdin).unwrap();
        let stdio = if self.container.terminal {
            Stdio::Terminal
        } else {
            Stdio::Streams { stdin: stdin.into(), stdout: stdout_end.into(), stderr: stderr_end.into() }
        };
        let begun = Instant::now();
        let running = spawn(bundle, stdio)?;
        let time = begun.elapsed();
        let file = |pipe: std::io::PipeReader| File::from(OwnedFd::from(pipe));
        Ok((running, [file(stdout), file(stderr)], stdin_end, directory, time))
    }

    fn binds(&self) -> Vec<Bind> {
        use rustix::mount::{OpenTreeFlags, open_tree};
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let bind = |(mount, from): &(VolumeMount, PathBuf)| Bind {
            destination: mount.path.clone().into(),
            tree: open_tree(rustix::fs::CWD, from, clone).unwrap(),
        };
        let given = self.given.take().unwrap_or_default();
        self.volumes.iter().map(bind).chain(given).collect()
    }

    pub fn run(&self) -> Result<Outcome, ContainerError> {
        let (running, [mut stdout, mut stderr], _layers) = self.start()?;
        let (mut out, mut err) = (String::new(), String::new());
        stdout.read_to_string(&mut out).unwrap();
        stderr.read_to_string(&mut err).unwrap();
        let exit = running.wait().unwrap();
        let oom = running.oom_killed();
        let cgroup = running.cgroup().to_owned();
        running.cleanup().unwrap();
        assert!(!cgroup.exists());
        Ok(Outcome { stdout: out, stderr: err, exit, oom })
    }

    /// Runs it and gives what it printed; it must end with 0.
    pub fn output(&self) -> String {
        let outcome = self.run().unwrap();
        assert_eq!((outcome.exit, outcome.stderr.as_str()), (Exit::Code(0), ""), "{}", outcome.stdout);
        outcome.stdout
    }
}

/// This machine may have lower hard limits than a guest, and forbid even root to raise them.
fn lower_limits(spec: &mut Spec) {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let mut process = spec.process().clone().unwrap();
    let limits = process.rlimits().clone().unwrap().into_iter().map(|limit| {
        let builder = PosixRlimitBuilder::default().typ(limit.typ()).soft(limit.soft());
        builder.hard(limit.hard().min(hard)).build().unwrap()
    });
    let limits = limits.collect();
    process.set_rlimits(Some(limits));
    spec.set_process(Some(process));
}

/// A folder on the file system of the test binary, so that it can be linked and not copied.
fn env_tmp() -> PathBuf {
    let preferred = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if preferred.is_dir() { preferred.to_owned() } else { std::env::temp_dir() }
}

/// The cgroup v2 hierarchy of this machine.
pub fn cgroup_root() -> PathBuf {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    places.into_iter().find(|place| place.join("cgroup.controllers").exists()).expect("a cgroup v2 hierarchy")
}

/// Whether containers can be run here; says loudly when not.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("IGNORED: this test starts containers and needs root");
    }
    root
}

/// Whether the kernel can set these limits; says loudly when not.
pub fn controllers(needed: &[&str]) -> bool {
    let available = fs::read_to_string(cgroup_root().join("cgroup.controllers")).unwrap();
    let missing: Vec<_> =
        needed.iter().filter(|name| !available.split_whitespace().any(|found| found == **name)).collect();
    if !missing.is_empty() {
        eprintln!("IGNORED: cgroup v2 has no controller {missing:?} on this machine; the VM test does it");
    }
    missing.is_empty()
}
