//! How long a pod takes to start, alone and in company, and what part of it attestation takes.

use std::collections::BTreeMap;

use crate::child::Start;
use crate::pods::Bench;
use crate::report::{Baseline, Goal, Row, Unit};
use crate::show::{Trouble, say};
use crate::stats::Stats;

/// Pods at once.
const COMPANY: usize = 4;
/// The guest's phase from the first byte to the broker to the last secret.
const ATTESTATION: &str = "guest: attestation";

/// One pod at a time: rows `start` and `attestation`.
pub fn one(bench: &Bench) -> Result<Vec<Row>, Trouble> {
    let (mut bare, mut pods, mut shares, mut millis) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut bare_cpu, mut pods_cpu) = (Vec::new(), Vec::new());
    let mut phases: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in 1..=bench.runs {
        let Start { wall: by_hand, cpu: by_hand_cpu } = bench.bare.start()?;
        let Start { wall: pod, cpu: pod_cpu } = bench.start_with_cpu()?;
        let record = bench.record()?;
        let attestation = record.phases.iter().find(|phase| phase.name == ATTESTATION);
        let attestation =
            attestation.ok_or_else(|| Trouble(format!("the record has no phase {ATTESTATION:?}")))?.duration_ms;
        say(format_args!(
            "start {run}: bare {by_hand:.2} s (CPU {by_hand_cpu:.2} s), pod {pod:.2} s (CPU {pod_cpu:.2} s), attestation {attestation:.0} ms"
        ));
        for phase in &record.phases {
            phases.entry(phase.name.clone()).or_default().push(phase.duration_ms);
        }
        bare.push(by_hand);
        pods.push(pod);
        bare_cpu.push(by_hand_cpu);
        pods_cpu.push(pod_cpu);
        shares.push(attestation / 1000.0 / pod);
        millis.push(attestation);
    }
    let start =
        Row::ratio("start", "belljar run, to the container's first byte", &pods, "bare QEMU", &bare, Some(1.35));
    let cpu = Row::ratio(
        "start",
        "the same in CPU time, which other load disturbs less",
        &pods_cpu,
        "bare QEMU",
        &bare_cpu,
        None,
    );
    let share = Stats::of(&shares);
    let attestation = Row {
        name: "attestation",
        what: "attestation and one secret, in the guest".to_owned(),
        unit: Unit::Millis,
        measured: Stats::of(&millis),
        baseline: Some(Baseline { name: "that start", stats: Stats::of(&pods), unit: Unit::Seconds }),
        ratio: Some(share),
        goal: Some(Goal { text: "≤ 0.10".to_owned(), met: share.median <= 0.10 }),
        details: phases.into_iter().map(|(name, values)| (name, Stats::of(&values))).collect(),
    };
    Ok(vec![start, cpu, attestation])
}

/// Four pods at once: row `four`.
pub fn four(bench: &Bench) -> Result<Row, Trouble> {
    let (mut bare, mut pods) = (Vec::new(), Vec::new());
    for run in 1..=bench.runs {
        let by_hand = last_of_four(&|| bench.bare.start())?;
        let pod = last_of_four(&|| bench.start())?;
        say(format_args!("four {run}: bare {by_hand:.2} s, pods {pod:.2} s"));
        bare.push(by_hand);
        pods.push(pod);
    }
    Ok(Row::ratio("four", "four at once, to the last one's first byte", &pods, "four bare QEMU", &bare, Some(1.2)))
}

fn last_of_four(start: &(impl Fn() -> Result<Start, Trouble> + Sync)) -> Result<f64, Trouble> {
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..COMPANY).map(|_| scope.spawn(start)).collect();
        let mut last = 0.0_f64;
        for start in starts {
            let took = start.join().map_err(|_| Trouble("a start failed".to_owned()))??;
            last = last.max(took.wall);
        }
        Ok(last)
    })
}
