//! The phases of a start: on the host by our clock, in the guest by its own.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::output::table;

/// The phase that begins with the start of QEMU.
pub const BOOT: &str = "pod VM up to its agent";

/// One finished phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// `host` or `guest`.
    pub place: &'static str,
    /// What was done.
    pub name: String,
    /// Microseconds since the command started; for the guest, since its kernel did.
    pub start_us: u64,
    /// Likewise.
    pub end_us: u64,
}

/// Clock of one run.
#[derive(Debug)]
pub struct Timings {
    began: Instant,
    last: Instant,
    phases: Vec<Phase>,
}

impl Timings {
    /// Starts the clock.
    pub fn start() -> Self {
        let now = Instant::now();
        Self { began: now, last: now, phases: Vec::new() }
    }

    /// Ends the phase that has run since the last call.
    pub fn ended(&mut self, name: &str) {
        let now = Instant::now();
        let phase = Phase {
            place: "host",
            name: name.to_owned(),
            start_us: micros(self.last - self.began),
            end_us: micros(now - self.began),
        };
        tracing::info!(phase = name, micros = phase.end_us.saturating_sub(phase.start_us), "phase ended");
        self.phases.push(phase);
        self.last = now;
    }

    /// Microseconds since the start.
    pub fn so_far(&self) -> u64 {
        micros(self.began.elapsed())
    }

    /// Adds what the guest tells of its phases; the text is the guest's.
    pub fn add_guest(&mut self, phases: impl IntoIterator<Item = (String, u64, u64)>) {
        const MOST: usize = 64;
        for (name, start_us, end_us) in phases.into_iter().take(MOST) {
            let name = crate::failure::one_line(&name).chars().take(40).collect();
            self.phases.push(Phase { place: "guest", name, start_us, end_us: end_us.max(start_us) });
        }
    }

    /// All phases.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// The table that `--timings` prints.
    pub fn table(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .phases
            .iter()
            .map(|p| {
                vec![
                    p.place.to_owned(),
                    p.name.clone(),
                    millis(p.start_us),
                    millis(p.end_us.saturating_sub(p.start_us)),
                ]
            })
            .collect();
        table(&["WHERE", "PHASE", "FROM (ms)", "TOOK (ms)"], &rows)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn millis(micros: u64) -> String {
    format!("{:>6}.{}", micros / 1000, micros % 1000 / 100)
}
