//! The table for a person and `target/bench.json` for a program.

use belljar_e2e::programs::root;
use serde::Serialize;
use serde_json::json;

use crate::pods::Bench;
use crate::show::{Doing, Trouble};
use crate::stats::Stats;

/// In what a row is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds; short ones are printed in milliseconds.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Bytes.
    Bytes,
}

/// Against what a row is measured.
#[derive(Debug, Serialize)]
pub struct Baseline {
    /// What it is.
    pub name: &'static str,
    /// Its values.
    pub stats: Stats,
    /// Of these.
    pub unit: Unit,
}

/// What was promised.
#[derive(Debug, Serialize)]
pub struct Goal {
    /// As SPECIFICATION.md has it.
    pub text: String,
    /// Whether the median keeps it.
    pub met: bool,
}

/// One measured thing.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Name, for the filter.
    pub name: &'static str,
    /// In words.
    pub what: String,
    /// Of the values.
    pub unit: Unit,
    /// The values.
    pub measured: Stats,
    /// In the same run.
    pub baseline: Option<Baseline>,
    /// Measured to baseline: of the medians, with the range over pairs of neighbouring runs.
    pub ratio: Option<Stats>,
    /// What was promised, if anything was.
    pub goal: Option<Goal>,
    /// Parts of it, in milliseconds.
    pub details: Vec<(String, Stats)>,
}

impl Row {
    /// Times in seconds against those of a baseline, run by run.
    pub fn ratio(
        name: &'static str,
        what: &str,
        measured: &[f64],
        baseline_name: &'static str,
        baseline: &[f64],
        at_most: Option<f64>,
    ) -> Self {
        let pairs: Vec<f64> = measured.iter().zip(baseline).map(|(a, b)| a / b).collect();
        let (measured, baseline) = (Stats::of(measured), Stats::of(baseline));
        let ratio = Stats { median: measured.median / baseline.median, ..Stats::of(&pairs) };
        Self {
            name,
            what: what.to_owned(),
            unit: Unit::Seconds,
            measured,
            baseline: Some(Baseline { name: baseline_name, stats: baseline, unit: Unit::Seconds }),
            ratio: Some(ratio),
            goal: at_most.map(|limit| Goal { text: format!("≤ {limit:.2}"), met: ratio.median <= limit }),
            details: Vec::new(),
        }
    }
}

/// All rows, and where they were measured.
#[derive(Debug)]
pub struct Report {
    runs: usize,
    accelerator: String,
    memory: String,
    guest: String,
    load: String,
    rows: Vec<Row>,
}

impl Report {
    /// An empty one.
    pub fn new(bench: &Bench) -> Self {
        Self {
            runs: bench.runs,
            accelerator: bench.bare.accelerator.clone(),
            memory: bench.bare.memory.clone(),
            guest: bench.guest.id().to_owned(),
            load: load(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the table and writes the file.
    pub fn finish(self) -> Result<(), Trouble> {
        let head = ["MEASURE", "MEASURED (MIN..MAX)", "BASELINE", "RATIO (MIN..MAX)", "GOAL", ""].map(str::to_owned);
        let mut lines = vec![head.to_vec()];
        lines.extend(self.rows.iter().map(cells));
        println!();
        print!("{}", aligned(&lines));
        for row in self.rows.iter().filter(|row| !row.details.is_empty()) {
            println!("\nPhases of these starts, in ms (guest phases by the guest's clock; some run side by side)");
            let lines = row.details.iter().map(|(name, s)| {
                vec![format!("  {name}"), format!("{:.1}", s.median), format!("({:.1}..{:.1})", s.min, s.max)]
            });
            print!("{}", aligned(&lines.collect::<Vec<_>>()));
        }
        let load_after = load();
        println!(
            "\nMedians of {} runs, interleaved with their baselines. Load of the machine before {}, after {}: with other work on \
             it, times are long and ratios noisy.",
            self.runs, self.load, load_after
        );
        let path = root().join("target/bench.json");
        let document = json!({
            "runs": self.runs, "accelerator": self.accelerator, "memory": self.memory, "guest_image": self.guest,
            "load_before": self.load, "load_after": load_after, "measures": self.rows,
        });
        let text = serde_json::to_vec_pretty(&document).doing("write JSON")?;
        std::fs::write(&path, text).doing(format!("write {}", path.display()))?;
        println!("{}", path.display());
        Ok(())
    }
}

fn cells(row: &Row) -> Vec<String> {
    let baseline = row.baseline.as_ref();
    vec![
        row.what.clone(),
        range(row.measured, row.unit),
        baseline.map(|b| format!("{}: {}", b.name, range(b.stats, b.unit))).unwrap_or_default(),
        row.ratio.map(|r| format!("{:.2} ({:.2}..{:.2})", r.median, r.min, r.max)).unwrap_or_default(),
        row.goal.as_ref().map(|goal| goal.text.clone()).unwrap_or_default(),
        row.goal.as_ref().map(|goal| if goal.met { "met" } else { "NOT MET" }.to_owned()).unwrap_or_default(),
    ]
}

fn range(stats: Stats, unit: Unit) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let (scale, digits, name) = match unit {
        Unit::Seconds if stats.median < 0.1 => (1000.0, 1, "ms"),
        Unit::Seconds => (1.0, 2, "s"),
        Unit::Millis => (1.0, 0, "ms"),
        Unit::Bytes if stats.median >= MIB => (1.0 / MIB, 1, "MiB"),
        Unit::Bytes => (1.0, 0, "bytes"),
    };
    let number = |value: f64| format!("{:.digits$}", value * scale);
    if stats.min.total_cmp(&stats.max).is_eq() {
        return format!("{} {name}", number(stats.median));
    }
    format!("{} {name} ({}..{})", number(stats.median), number(stats.min), number(stats.max))
}

fn aligned(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}
