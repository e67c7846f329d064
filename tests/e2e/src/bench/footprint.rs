//! Bytes on disk and in memory.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::pods::Bench;
use crate::report::{Baseline, Goal, Row, Unit};
use crate::show::{Doing, Trouble};
use crate::stats::Stats;

/// Largest initrd after `zstd -19`, and most memory of an idle agent (SPECIFICATION.md).
const LIMIT: f64 = 16.0 * 1024.0 * 1024.0;
/// Most guest memory that a pod may not be able to use (SPECIFICATION.md).
const UNUSABLE: f64 = 64.0 * 1024.0 * 1024.0;

/// What a second run of an image writes: rows `warm`.
pub fn warm(bench: &Bench) -> Result<Vec<Row>, Trouble> {
    let before = files(bench)?;
    let pod = bench.sleeping()?;
    // From the kernel: bytes that the process made the storage layer write (proc(5), /proc/PID/io).
    let cli = entry(pod.cli.pid(), "io", "write_bytes:")?;
    let qemu = entry(pod.qemu, "io", "write_bytes:")?;
    pod.cli.end()?;
    let same = files(bench)? == before;
    let layers: u64 = before.iter().map(|(_, size, _)| size).sum();
    let bytes = |name, what: &str, value: u64, baseline, goal| Row {
        name,
        what: what.to_owned(),
        unit: Unit::Bytes,
        measured: Stats::one(float(value)),
        baseline,
        ratio: None,
        goal,
        details: Vec::new(),
    };
    let store = Baseline { name: "layer store", stats: Stats::one(float(layers)), unit: Unit::Bytes };
    let unchanged =
        format!("written by a second run, QEMU; the store is {}", if same { "unchanged" } else { "CHANGED" });
    Ok(vec![
        bytes(
            "warm",
            &unchanged,
            qemu,
            Some(store),
            Some(Goal { text: "0, unchanged".to_owned(), met: qemu == 0 && same }),
        ),
        bytes(
            "warm",
            "written by a second run, belljar",
            cli,
            None,
            Some(Goal { text: "0".to_owned(), met: cli == 0 }),
        ),
    ])
}

/// Sizes: rows `sizes`.
pub fn sizes(bench: &Bench) -> Result<Vec<Row>, Trouble> {
    let initrd = fs::read(bench.guest.initrd()).doing("read the initrd")?;
    let compressed = zstd::bulk::compress(&initrd, 19).doing("compress the initrd")?.len();
    let row = |what: &str, values: &[f64], baseline, goal| Row {
        name: "sizes",
        what: what.to_owned(),
        unit: Unit::Bytes,
        measured: Stats::of(values),
        baseline,
        ratio: None,
        goal,
        details: Vec::new(),
    };
    let (mut cli, mut qemu, mut bare, mut own) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        let by_hand = bench.bare.until_line()?;
        // It powers off at once; a sample that came too late is left out.
        bare.extend(entry(by_hand.pid(), "status", "VmRSS:").ok().map(|kib| float(kib) * 1024.0));
        by_hand.end()?;
        let pod = bench.sleeping()?;
        cli.push(float(entry(pod.cli.pid(), "status", "VmRSS:")?) * 1024.0);
        qemu.push(float(entry(pod.qemu, "status", "VmRSS:")?) * 1024.0);
        // The guest's memory is a memfd (RssShmem), kernel and initrd are files that all pods share (RssFile).
        own.push(float(entry(pod.qemu, "status", "RssAnon:")?) * 1024.0);
        pod.cli.end()?;
    }
    let size = float(u64::try_from(compressed).unwrap_or(u64::MAX));
    let plain = float(u64::try_from(initrd.len()).unwrap_or(u64::MAX));
    let uncompressed = Baseline { name: "uncompressed", stats: Stats::one(plain), unit: Unit::Bytes };
    let by_hand = Baseline { name: "bare QEMU", stats: Stats::of(&bare), unit: Unit::Bytes };
    let agent = bench.agent_memory()?;
    let small = Goal { text: "≤ 16 MiB".to_owned(), met: agent <= LIMIT };
    // `-m` of a pod, in the words of QEMU's own arguments, beside which the baseline was started: `448M`.
    let given = bench.bare.memory.strip_suffix('M').and_then(|mib| mib.parse::<u32>().ok());
    let given =
        given.ok_or_else(|| Trouble(format!("QEMU's memory is {:?}, not a number of MiB", bench.bare.memory)))?;
    let unusable = f64::from(given) * 1024.0 * 1024.0 - bench.available_memory()?;
    let little = Goal { text: "≤ 64 MiB".to_owned(), met: unusable <= UNUSABLE };
    let fits = Goal { text: "≤ 16 MiB".to_owned(), met: size <= LIMIT };
    Ok(vec![
        row("initrd after zstd -19", &[size], Some(uncompressed), Some(fits)),
        row("memory of the idle agent, in the guest", &[agent], None, Some(small)),
        row("memory of QEMU while a pod runs", &qemu, (!bare.is_empty()).then_some(by_hand), None),
        row("of that QEMU's own, beside guest memory and shared files", &own, None, None),
        row("guest memory that the pod cannot use", &[unusable], None, Some(little)),
        row("memory of belljar while a pod runs", &cli, None, None),
    ])
}

/// A number from a file of `/proc/PID`.
fn entry(pid: u32, file: &str, name: &str) -> Result<u64, Trouble> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).doing(format!("read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| Trouble(format!("{path} has no {name}")))
}

/// Every file of the layer store: name, size, time of change.
fn files(bench: &Bench) -> Result<Vec<(PathBuf, u64, SystemTime)>, Trouble> {
    let mut files = Vec::new();
    let mut folders = vec![bench.store()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).doing(format!("read {}", folder.display()))?.flatten() {
            let meta = entry.metadata().doing(format!("look at {}", entry.path().display()))?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                files.push((entry.path(), meta.len(), meta.modified().doing("read a time of change")?));
            }
        }
    }
    files.sort();
    Ok(files)
}

#[allow(clippy::cast_precision_loss, reason = "sizes for a table; exact up to 2^53 bytes")]
fn float(value: u64) -> f64 {
    value as f64
}
