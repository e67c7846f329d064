//! Part of `make bench`: from `RunPodSandbox` to a container's first byte, image in the store, against QEMU started by hand with the same
//! kernel and against runc's pod, in the same run, interleaved; and the shim's memory. Needs what the test cluster needs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[allow(dead_code, reason = "belljar-bench uses the rest")]
#[path = "../../../e2e/src/bench/bare.rs"]
mod bare;
#[allow(dead_code, reason = "belljar-bench uses the rest")]
#[path = "../../../e2e/src/bench/child.rs"]
mod child;
#[allow(dead_code, reason = "belljar-bench uses the rest")]
#[path = "../../../e2e/src/demo/show.rs"]
mod show;
#[allow(dead_code, reason = "belljar-bench uses the rest")]
#[path = "../../../e2e/src/bench/stats.rs"]
mod stats;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bare::Bare;
use belljar_e2e::programs::root;
use belljar_kubernetes_tests::cluster::{Cluster, RUN, missing};
use belljar_kubernetes_tests::conformance::{container_config, sandbox_config};
use belljar_kubernetes_tests::containerd::{Containerd, Version};
use belljar_kubernetes_tests::cri::Cri;
use belljar_kubernetes_tests::images::PROBE;
use belljar_kubernetes_tests::space::{CLASS, Space};
use serde_json::json;
use show::{Trouble, say};
use stats::Stats;

/// What the container does.
const COMMAND: [&str; 3] = ["sh", "-c", "echo first; exec sleep 600"];
/// Pods at once.
const COMPANY: usize = 16;
/// Runs of sixteen at once.
const COMPANY_RUNS: usize = 2;

fn main() -> ExitCode {
    let runs = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => 5,
        [option, runs] if option == "-n" => match runs.parse() {
            Ok(runs @ 1..=100) => runs,
            _ => return usage(),
        },
        _ => return usage(),
    };
    let running = std::env::var_os(RUN).map(PathBuf::from);
    if let (None, Some(reason)) = (&running, missing()) {
        println!("kubernetes: not measured: {reason}");
        return ExitCode::SUCCESS;
    }
    let cluster = match &running {
        Some(run) => Cluster::attach(run),
        None => Cluster::up(Path::new("/run/belljar-k8s")),
    };
    match cluster.map_err(Trouble).and_then(|cluster| bench(&cluster, runs)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("belljar-kubernetes-bench: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: belljar-kubernetes-bench [-n RUNS], 1 to 100; prints a table and writes target/bench-kubernetes.json"
    );
    ExitCode::from(2)
}

/// A pod that has said its first byte.
struct Pod {
    sandbox: String,
    /// From before the call.
    first: Duration,
}

/// Where pods are made.
struct Place {
    socket: PathBuf,
    logs: PathBuf,
    annotations: Vec<(String, String)>,
}

impl Place {
    fn cri(&self) -> Cri {
        Cri::connect(&self.socket)
    }

    /// From `RunPodSandbox` to the first byte of its only container.
    fn start(&self, cri: &Cri, handler: &str, name: &str) -> Result<Pod, Trouble> {
        let none = Vec::new();
        let annotations = if handler == CLASS { &self.annotations } else { &none };
        let logs = self.logs.join(name);
        std::fs::create_dir_all(&logs).expect("a directory");
        let config = sandbox_config(name, &logs, annotations);
        let failed = |what: &'static str| move |e| Trouble(format!("{what} of {handler}: {e:?}"));
        let began = Instant::now();
        let sandbox = cri.run_sandbox(&config, handler).map_err(failed("RunPodSandbox"))?;
        let container = container_config("main", &COMMAND);
        let id = cri.create(&sandbox, &container, &config).map_err(failed("CreateContainer"))?;
        cri.start(&id).map_err(failed("StartContainer"))?;
        let log = logs.join("main.log");
        while std::fs::metadata(&log).map_or(0, |meta| meta.len()) == 0 {
            if began.elapsed() > Duration::from_secs(180) {
                return Err(Trouble(format!("a pod of {handler} says nothing")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let first = began.elapsed();
        std::fs::remove_dir_all(&logs).expect("it was made");
        Ok(Pod { sandbox, first })
    }

    fn end(&self, cri: &Cri, pod: &Pod) -> Result<(), Trouble> {
        let ended = cri.stop_sandbox(&pod.sandbox).and_then(|()| cri.remove_sandbox(&pod.sandbox));
        ended.map_err(|e| Trouble(format!("a pod does not end: {e:?}")))
    }

    /// So many at once; when the last one spoke.
    fn company(&self, handler: &str) -> Result<f64, Trouble> {
        let clients: Vec<Cri> = (0..COMPANY).map(|_| self.cri()).collect();
        let pods: Vec<Result<Pod, Trouble>> = std::thread::scope(|scope| {
            let start = |(n, cri)| scope.spawn(move || self.start(cri, handler, &format!("company-{n}")));
            let started: Vec<_> = clients.iter().enumerate().map(start).collect();
            started.into_iter().map(|pod| pod.join().expect("no start panics")).collect()
        });
        let mut last = 0.0_f64;
        let mut result = Ok(());
        for (cri, pod) in clients.iter().zip(pods) {
            match pod {
                Ok(pod) => {
                    last = last.max(pod.first.as_secs_f64());
                    self.end(cri, &pod)?;
                }
                Err(trouble) => result = Err(trouble),
            }
        }
        result.map(|()| last)
    }
}

fn bench(cluster: &Cluster, runs: usize) -> Result<(), Trouble> {
    let space = Space::new(cluster, "bench");
    let annotations = space.annotations(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bench"},
        "spec": {
            "runtimeClassName": CLASS,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "containers": [{"name": "main", "image": PROBE, "command": COMMAND}],
        },
    }));
    let containerd = Containerd::start(cluster, "bench", Version::System);
    let place = Place { socket: containerd.socket(), logs: containerd.logs(), annotations };
    let cri = place.cri();

    // Warms the store, the page cache and what is remembered about this machine, and says how QEMU is called here.
    let warm = place.start(&cri, CLASS, "warm")?;
    let words = qemu_of(&warm.sandbox, cluster)?;
    let shim = memory(&process(&warm.sandbox, "containerd-shim")?)?;
    place.end(&cri, &warm)?;
    let directory = tempfile::tempdir().expect("a directory");
    let bare = Bare::with(&words, directory.path())?;
    bare.start()?;
    say(format_args!("{} accelerator, {} of memory, {runs} runs of each, interleaved", bare.accelerator, bare.memory));

    let (mut by_hand, mut pods, mut of_runc) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=runs {
        let hand = bare.start()?.wall;
        let pod = place.start(&cri, CLASS, &format!("pod-{run}"))?;
        place.end(&cri, &pod)?;
        let runc = place.start(&cri, "runc", &format!("runc-{run}"))?;
        place.end(&cri, &runc)?;
        let (pod, runc) = (pod.first.as_secs_f64(), runc.first.as_secs_f64());
        say(format_args!("pod {run}: bare {hand:.2} s, {CLASS} {pod:.2} s, runc {runc:.2} s"));
        by_hand.push(hand);
        pods.push(pod);
        of_runc.push(runc);
    }
    let (mut many_bare, mut many) = (Vec::new(), Vec::new());
    for run in 1..=COMPANY_RUNS {
        let hand = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..COMPANY).map(|_| scope.spawn(|| bare.start())).collect();
            starts.into_iter().try_fold(0.0_f64, |last, start| {
                start.join().expect("no start panics").map(|start| last.max(start.wall))
            })
        })?;
        let pods = place.company(CLASS)?;
        say(format_args!("sixteen {run}: bare {hand:.2} s, {CLASS} {pods:.2} s"));
        many_bare.push(hand);
        many.push(pods);
    }

    let pod = Stats::of(&pods);
    let rows = json!([
        row("RunPodSandbox to the first byte", pod, "bare QEMU", Stats::of(&by_hand), Some(1.4)),
        row("RunPodSandbox to the first byte", pod, "runc's pod", Stats::of(&of_runc), None),
        row(
            "sixteen at once, to the last first byte",
            Stats::of(&many),
            "sixteen bare QEMU",
            Stats::of(&many_bare),
            Some(1.25)
        ),
    ]);
    println!("shim: {:.1} MiB resident (goal \u{2264} 12 MiB)", shim / 1048576.0);
    let document = json!({"runs": runs, "accelerator": bare.accelerator, "rows": rows, "shim_bytes": shim});
    let file = root().join("target/bench-kubernetes.json");
    std::fs::write(&file, format!("{document:#}\n")).map_err(|e| Trouble(format!("{}: {e}", file.display())))
}

fn row(what: &str, measured: Stats, against: &str, baseline: Stats, goal: Option<f64>) -> serde_json::Value {
    let ratio = measured.median / baseline.median;
    let goal_text =
        goal.map(|goal| format!(" (goal \u{2264} {goal}: {})", if ratio <= goal { "met" } else { "MISSED" }));
    println!(
        "{what}: {:.2} s [{:.2}, {:.2}], {against} {:.2} s, ratio {ratio:.2}{}",
        measured.median,
        measured.min,
        measured.max,
        baseline.median,
        goal_text.unwrap_or_default()
    );
    json!({"what": what, "seconds": measured, "against": against, "baseline_seconds": baseline, "ratio": ratio, "goal": goal})
}

/// The host's process of this program that works for a sandbox.
fn process(sandbox: &str, program: &str) -> Result<PathBuf, Trouble> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let found = entries.into_iter().find(|path| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let first = line.split('\0').next().unwrap_or_default();
        first.contains(program) && line.contains(sandbox)
    });
    found.ok_or_else(|| Trouble(format!("no {program} works for sandbox {sandbox}")))
}

/// QEMU's words, with the node's paths as the host sees them.
fn qemu_of(sandbox: &str, cluster: &Cluster) -> Result<Vec<OsString>, Trouble> {
    let line = std::fs::read(process(sandbox, "qemu-system")?.join("cmdline")).expect("it runs");
    let node = cluster.path("m/var/lib/belljar").display().to_string();
    let words = line.split(|byte| *byte == 0).map(|word| match std::str::from_utf8(word) {
        Ok(text) => OsString::from(text.replace("/var/lib/belljar", &node)),
        Err(_) => OsString::from_vec(word.to_vec()),
    });
    Ok(words.collect())
}

/// Resident memory of a process in bytes.
fn memory(process: &Path) -> Result<f64, Trouble> {
    let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u32> = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.map(|kib| f64::from(kib) * 1024.0).ok_or_else(|| Trouble(format!("{} has no VmRSS", process.display())))
}
