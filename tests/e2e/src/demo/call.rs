//! Programs that the demo starts.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use belljar_e2e::programs::wait;

use crate::show::{Doing, Trouble};

/// Longest time of one call.
const LIMIT: Duration = Duration::from_secs(120);

/// A finished call.
#[derive(Debug)]
pub struct Call {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Call {
    /// Itself, when the exit code is 0; else what it said.
    pub fn must(self, what: &str) -> Result<Self, Trouble> {
        if self.code == 0 {
            return Ok(self);
        }
        Err(Trouble(format!("{what} ended with code {}: {}", self.code, self.stderr.trim())))
    }
}

/// Runs a command to its end, in silence.
pub fn quietly(command: &mut Command) -> Result<Call, Trouble> {
    call(command, None)
}

/// Runs a command to its end; each of its lines is shown when it comes, with a mark for stdout and another for stderr.
pub fn shown(command: &mut Command) -> Result<Call, Trouble> {
    call(command, Some(["│", "┆"]))
}

fn call(command: &mut Command, marks: Option<[&'static str; 2]>) -> Result<Call, Trouble> {
    let began = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.doing(format!("start {name}"))?;
    let [out_mark, err_mark] = marks.map_or([None, None], |marks| marks.map(Some));
    let stdout = child.stdout.take().map(|from| std::thread::spawn(move || lines(from, out_mark)));
    let stderr = child.stderr.take().map(|from| std::thread::spawn(move || lines(from, err_mark)));
    let code = wait(&mut child, LIMIT);
    let took = began.elapsed();
    let collect =
        |reader: Option<std::thread::JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    Ok(Call { code, stdout: collect(stdout), stderr: collect(stderr), took })
}

fn lines(from: impl Read, mark: Option<&str>) -> String {
    let mut all = String::new();
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        if let Some(mark) = mark {
            println!("    {mark} {}", text.trim_end());
        }
        all.push_str(&text);
        line.clear();
    }
    all
}
