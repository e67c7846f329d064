//! A started program, from its exec to a text on its stdout.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use belljar_e2e::programs::wait;

use crate::show::{Doing, Trouble};

/// Longest wait for the text, and then for the end. Several VMs share two cores, perhaps with other work.
const LIMIT: Duration = Duration::from_secs(180);

/// What a start took, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// By the clock.
    pub wall: f64,
    /// Of CPU time.
    pub cpu: f64,
}

/// A program that has said what was waited for.
#[derive(Debug)]
pub struct Started {
    child: Child,
    reader: JoinHandle<Vec<u8>>,
    /// From before the exec until the text was read.
    pub first: Duration,
    /// CPU time that the process had used then, in seconds.
    pub cpu: f64,
}

/// CPU time of a process so far, in seconds: utime and stime of `/proc/PID/stat` (proc(5)), which count in 10 ms.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields 14 and 15; the name before them may hold spaces.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some((f64::from(ticks()?) + f64::from(ticks()?)) / 100.0)
}

/// Starts the program and waits for `text` on its stdout.
pub fn until(command: &mut Command, text: &'static [u8]) -> Result<Started, Trouble> {
    let name = command.get_program().to_string_lossy().into_owned();
    let began = Instant::now();
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut child = started.doing(format!("start {name}"))?;
    let (tell, told) = mpsc::channel();
    let Some(mut stdout) = child.stdout.take() else { return Err(Trouble(format!("{name} has no stdout"))) };
    let pid = child.id();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        let mut found = false;
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            let now = Instant::now();
            all.extend_from_slice(buffer.get(..count).unwrap_or_default());
            if !found && all.windows(text.len()).any(|window| window == text) {
                found = true;
                let _ = tell.send((now, cpu_seconds(pid)));
            }
        }
        all
    });
    // The sender goes when the stream ends, and the wait with it.
    match told.recv_timeout(LIMIT) {
        Ok((at, cpu)) => Ok(Started { child, reader, first: at - began, cpu: cpu.unwrap_or_default() }),
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            let said = reader.join().unwrap_or_default();
            let text = String::from_utf8_lossy(text);
            Err(Trouble(format!("{name} never wrote {text:?}: {}", String::from_utf8_lossy(&said).trim())))
        }
    }
}

impl Started {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; the exit code must be 0.
    pub fn end(mut self) -> Result<Start, Trouble> {
        let code = wait(&mut self.child, LIMIT);
        let said = self.reader.join().unwrap_or_default();
        if code == 0 {
            return Ok(Start { wall: self.first.as_secs_f64(), cpu: self.cpu });
        }
        Err(Trouble(format!("a measured program ended with code {code}: {}", String::from_utf8_lossy(&said).trim())))
    }

    /// Ends it.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
