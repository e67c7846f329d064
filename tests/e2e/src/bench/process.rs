//! What the command line costs before it does anything.

use std::process::{Command, Stdio};
use std::time::Instant;

use belljar_e2e::programs::program;

use crate::pods::Bench;
use crate::report::{Goal, Row};
use crate::show::{Doing, Trouble};

/// Calls in each run.
const CALLS: usize = 20;
/// Longest start.
const LIMIT_SECONDS: f64 = 0.015;

/// `belljar --version`, the whole process.
pub fn version(bench: &Bench) -> Result<Row, Trouble> {
    let belljar = program("belljar");
    let (mut trues, mut versions) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs.saturating_mul(CALLS) {
        trues.push(whole(&mut Command::new("/bin/true"))?);
        versions.push(whole(Command::new(&belljar).arg("--version"))?);
    }
    let mut row = Row::ratio("version", "belljar --version, the whole process", &versions, "/bin/true", &trues, None);
    row.goal = Some(Goal { text: "< 15 ms".to_owned(), met: row.measured.median < LIMIT_SECONDS });
    Ok(row)
}

fn whole(command: &mut Command) -> Result<f64, Trouble> {
    let began = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().doing("start a program")?;
    let took = began.elapsed().as_secs_f64();
    if status.success() { Ok(took) } else { Err(Trouble(format!("a program ended with {status}"))) }
}
