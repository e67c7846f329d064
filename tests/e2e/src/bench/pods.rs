//! The pods that are measured: Debian's static busybox, its image in the store, one secret.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar_e2e::images::busybox_layout;
use belljar_e2e::programs::finish;
use belljar_guest_image::GuestImage;
use belljar_page::Page;
use tempfile::TempDir;

use crate::bare::Bare;
use crate::child::{self, Start, Started};
use crate::show::{Doing, Trouble, say};
use crate::work::Work;

/// What the container writes.
const WORD: &[u8] = b"f";

/// What all measures use.
#[derive(Debug)]
pub struct Bench {
    /// Number of runs of each thing.
    pub runs: usize,
    /// The baseline.
    pub bare: Bare,
    /// The guest image.
    pub guest: GuestImage,
    work: Work,
    runtime: TempDir,
}

/// A pod whose container has written its first byte and sleeps.
#[derive(Debug)]
pub struct Sleeping {
    /// `belljar run`.
    pub cli: Started,
    /// Its QEMU.
    pub qemu: u32,
}

impl Bench {
    /// Builds what is missing, puts the image into the store, and finds out what QEMU is given here.
    pub fn prepare(runs: usize) -> Result<Self, Trouble> {
        // In memory, as a login session's is: the notes of a running pod are no bytes on a disk.
        let runtime = tempfile::Builder::new().prefix("belljar-bench-").tempdir_in("/dev/shm").doing("use /dev/shm")?;
        let work = Work::open("bench", Some(runtime.path()))?;
        let guest = work.guest_image()?;
        busybox_layout(&work.path("layout"), "/data/nothing", b"");
        fs::write(work.path("secret"), [7; 32]).doing("write a secret")?;
        // Warms the store, the keys of the software TEE, what is remembered about this machine, and the page cache.
        let pod = sleeping(&work, runtime.path())?;
        let bare = Bare::like(pod.qemu, &work.path(""))?;
        pod.cli.end()?;
        bare.start()?;
        say(format_args!(
            "{} accelerator, {} of memory, {runs} runs of each, interleaved",
            bare.accelerator, bare.memory
        ));
        Ok(Self { runs, bare, guest, work, runtime })
    }

    /// `belljar run` of the image in the store: from exec to the first byte on stdout; CPU time of belljar and QEMU.
    pub fn start_with_cpu(&self) -> Result<Start, Trouble> {
        let script = ["--", "/bin/busybox", "sh", "-c", "echo first; exec sleep 0.3"];
        let cli = child::until(run(&self.work).args(script), WORD)?;
        let qemu = qemu_of_only_pod(self.runtime.path()).ok().and_then(child::cpu_seconds);
        let start = cli.end()?;
        let qemu = qemu.ok_or_else(|| Trouble("a pod ended before its CPU time was read".to_owned()))?;
        Ok(Start { cpu: start.cpu + qemu, ..start })
    }

    /// `belljar run` of the image in the store: from exec to the first byte on stdout.
    pub fn start(&self) -> Result<Start, Trouble> {
        child::until(run(&self.work).args(["--", "/bin/busybox", "echo", "first"]), WORD)?.end()
    }

    /// The record of the last run.
    pub fn record(&self) -> Result<Page, Trouble> {
        let entries = fs::read_dir(self.work.path("data/runs")).doing("read the records of runs")?;
        // Names sort by time.
        let newest = entries.flatten().map(|entry| entry.path()).max();
        let newest = newest.ok_or_else(|| Trouble("a run left no record".to_owned()))?;
        let text = fs::read(&newest).doing(format!("read {}", newest.display()))?;
        serde_json::from_slice(&text).doing(format!("understand {}", newest.display()))
    }

    /// A pod whose container sleeps for two seconds after its first byte.
    pub fn sleeping(&self) -> Result<Sleeping, Trouble> {
        sleeping(&self.work, self.runtime.path())
    }

    /// Resident memory of the idle agent in bytes, from the log that the guest writes when it is asked for.
    pub fn agent_memory(&self) -> Result<f64, Trouble> {
        let debug = finish(run(&self.work).args(["--rm", "--debug", "--", "/bin/busybox", "true"]));
        let said = debug
            .stderr
            .lines()
            .find_map(|line| line.split_once(" ready ")?.1.split_once("rss=\"")?.1.split(' ').next());
        let kib: Option<u32> = said.and_then(|kib| kib.parse().ok());
        let kib =
            kib.ok_or_else(|| Trouble(format!("the guest's log has no memory of the agent: {}", debug.stderr.trim())))?;
        Ok(f64::from(kib) * 1024.0)
    }

    /// What the guest's kernel says of its memory while a pod runs: `MemAvailable` of /proc/meminfo in bytes, as the container sees it.
    pub fn available_memory(&self) -> Result<f64, Trouble> {
        let pod = finish(run(&self.work).args(["--rm", "--", "/bin/busybox", "cat", "/proc/meminfo"]));
        let line = pod.stdout.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
        let kib: Option<u32> = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        let kib = kib.ok_or_else(|| Trouble(format!("the guest says nothing of its memory: {}", pod.stderr.trim())))?;
        Ok(f64::from(kib) * 1024.0)
    }

    /// The layer store.
    pub fn store(&self) -> PathBuf {
        self.work.path("data/store")
    }
}

fn run(work: &Work) -> Command {
    let mut command = work.belljar();
    command.args(["run", "--tee", "software", "--boot-timeout", "150", "--secret"]);
    command
        .arg(format!("key={}", work.path("secret").display()))
        .arg(format!("oci:{}:1", work.path("layout").display()));
    command
}

fn sleeping(work: &Work, runtime: &Path) -> Result<Sleeping, Trouble> {
    let cli = child::until(run(work).args(["--", "/bin/busybox", "sh", "-c", "echo first; sleep 2"]), WORD)?;
    match qemu_of_only_pod(runtime) {
        Ok(qemu) => Ok(Sleeping { cli, qemu }),
        Err(trouble) => {
            cli.kill();
            Err(trouble)
        }
    }
}

fn qemu_of_only_pod(runtime: &Path) -> Result<u32, Trouble> {
    let entries = fs::read_dir(runtime.join("belljar/pods")).doing("read the running pods")?;
    let notes: Vec<Vec<u8>> =
        entries.flatten().filter_map(|entry| fs::read(entry.path().join("pod.json")).ok()).collect();
    let [note] = notes.as_slice() else { return Err(Trouble(format!("{} pods run, expected one", notes.len()))) };
    let pod: serde_json::Value = serde_json::from_slice(note).doing("read the pod's note")?;
    let pid = pod.pointer("/qemu/pid").and_then(serde_json::Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
    pid.ok_or_else(|| Trouble("the pod's note names no QEMU".to_owned()))
}
