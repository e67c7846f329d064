//! The demo's steps and how long each took.

use std::time::Instant;

use crate::show::seconds;

/// The clock of the demo's steps.
#[derive(Debug)]
pub struct Watch {
    began: Instant,
    steps: Vec<(&'static str, Instant)>,
}

impl Watch {
    /// Starts it.
    pub fn start() -> Self {
        Self { began: Instant::now(), steps: Vec::new() }
    }

    /// The next step begins.
    pub fn step(&mut self, name: &'static str) {
        self.steps.push((name, Instant::now()));
        println!("\n[{}] {name}", self.steps.len());
    }

    /// The last step has ended; prints the table of all.
    pub fn end(&self) {
        let now = Instant::now();
        let ends = self.steps.iter().skip(1).map(|(_, at)| *at).chain([now]);
        println!("\nTime");
        for ((name, from), to) in self.steps.iter().zip(ends) {
            let name = name.split(':').next().unwrap_or(name);
            println!("    {:<46} {:>9}", name, seconds(to - *from));
        }
        println!("    {:<46} {:>9}", "all", seconds(now - self.began));
    }
}
