//! `make bench`: SPECIFICATION.md's numbers about speed and size, each against a baseline of the same run, interleaved.
//! Exit code 0 when everything could be measured, whether or not a goal is met.

#[path = "../bench/bare.rs"]
mod bare;
#[path = "../bench/child.rs"]
mod child;
#[path = "../bench/footprint.rs"]
mod footprint;
#[path = "../bench/pods.rs"]
mod pods;
#[path = "../bench/process.rs"]
mod process;
#[path = "../bench/report.rs"]
mod report;
#[path = "../demo/show.rs"]
mod show;
#[path = "../bench/start.rs"]
mod start;
#[path = "../bench/stats.rs"]
mod stats;
#[path = "../demo/work.rs"]
mod work;

use std::process::ExitCode;

use pods::Bench;
use report::{Report, Row};
use show::Trouble;

const USAGE: &str = "\
Measures Belljar's speed as ratios against bare QEMU, in one run.

Usage: belljar-bench [-n RUNS] [NAME]...

  -n RUNS   runs of each thing, 1 to 100 [default: 5]
  NAME      only measures whose name contains one of these:
            start, attestation, four, version, warm, sizes

Prints a table and writes target/bench.json. Example: belljar-bench -n 9 start";

/// What was asked for.
struct Options {
    runs: usize,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("belljar-bench: {wrong}; see belljar-bench --help");
            return ExitCode::from(2);
        }
    };
    match bench(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("belljar-bench: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    const NAMES: [&str; 6] = ["start", "attestation", "four", "version", "warm", "sizes"];
    let mut options = Options { runs: 5, names: Vec::new() };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-h" | "--help" => return Ok(None),
            "-n" => {
                let runs = arguments.next().and_then(|n| n.parse().ok()).filter(|n| (1..=100).contains(n));
                options.runs = runs.ok_or("-n wants a number from 1 to 100")?;
            }
            name if NAMES.iter().any(|known| known.contains(name)) => options.names.push(argument),
            name => return Err(format!("no measure is called {name:?}")),
        }
    }
    Ok(Some(options))
}

fn bench(options: &Options) -> Result<(), Trouble> {
    let wanted = |name: &str| options.names.is_empty() || options.names.iter().any(|part| name.contains(part.as_str()));
    let bench = Bench::prepare(options.runs)?;
    let mut report = Report::new(&bench);
    let mut add = |rows: Vec<Row>| rows.into_iter().filter(|row| wanted(row.name)).for_each(|row| report.add(row));
    // The attestation is measured in the very starts that it is a share of.
    if wanted("start") || wanted("attestation") {
        add(start::one(&bench)?);
    }
    if wanted("four") {
        add(vec![start::four(&bench)?]);
    }
    if wanted("version") {
        add(vec![process::version(&bench)?]);
    }
    if wanted("warm") {
        add(footprint::warm(&bench)?);
    }
    if wanted("sizes") {
        add(footprint::sizes(&bench)?);
    }
    report.finish()
}
