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

/// A program that has said what was waited for.
#[derive(Debug)]
pub struct Started {
    child: Child,
    reader: JoinHandle<Vec<u8>>,
    /// From before the exec until the text was read.
    pub first: Duration,
}

/// Starts the program and waits for `text` on its stdout.
pub fn until(command: &mut Command, text: &'static [u8]) -> Result<Started, Trouble> {
    let name = command.get_program().to_string_lossy().into_owned();
    let began = Instant::now();
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut child = started.doing(format!("start {name}"))?;
    let (tell, told) = mpsc::channel();
    let Some(mut stdout) = child.stdout.take() else { return Err(Trouble(format!("{name} has no stdout"))) };
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        let mut found = false;
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            let now = Instant::now();
            all.extend_from_slice(buffer.get(..count).unwrap_or_default());
            if !found && all.windows(text.len()).any(|window| window == text) {
                found = true;
                let _ = tell.send(now);
            }
        }
        all
    });
    // The sender goes when the stream ends, and the wait with it.
    match told.recv_timeout(LIMIT) {
        Ok(at) => Ok(Started { child, reader, first: at - began }),
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

    /// Waits for its end; the exit code must be 0. The time from the exec to the text.
    pub fn end(mut self) -> Result<Duration, Trouble> {
        let code = wait(&mut self.child, LIMIT);
        let said = self.reader.join().unwrap_or_default();
        if code == 0 {
            return Ok(self.first);
        }
        Err(Trouble(format!("a measured program ended with code {code}: {}", String::from_utf8_lossy(&said).trim())))
    }

    /// Ends it.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
