//! Runs a program with a limit of time and of output.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// No program that is asked here says more.
const MAX_OUTPUT: u64 = 4 << 20;

/// What a program did.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// The last line that it complained with, or its exit status.
    pub(crate) fn complaint(&self) -> String {
        // a Go panic puts its cause first and a stack behind it
        let cause = self.stderr.lines().find(|line| line.starts_with("panic: "));
        let last = cause.or_else(|| self.stderr.lines().rfind(|line| !line.trim().is_empty()));
        last.map_or_else(|| self.status.to_string(), |line| line.chars().take(500).collect())
    }
}

/// Runs it to its end. The error is a sentence.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<Answer, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name} does not start: {error}"))?;
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let status = wait(&mut child, limit).map_err(|why| format!("{name} {why}"))?;
    // A grandchild may hold the pipes open (a restart command that starts containerd by itself): what was read until then counts.
    let text = |pipe: Option<mpsc::Receiver<Vec<u8>>>| {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            while let Ok(piece) = pipe.recv_timeout(Duration::from_secs(2)) {
                bytes.extend(piece);
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Answer { status, stdout: text(stdout), stderr: text(stderr) })
}

fn drain(pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut pipe = pipe.take(MAX_OUTPUT);
        let mut piece = vec![0; 64 << 10];
        while let Ok(count) = pipe.read(&mut piece) {
            if count == 0 || sender.send(piece.get(..count).unwrap_or_default().to_vec()).is_err() {
                break;
            }
        }
        // A program that says more must not stop at a full pipe.
        let _ = std::io::copy(&mut pipe.into_inner(), &mut std::io::sink());
    });
    receiver
}

fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus, String> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("did not end within {} s", limit.as_secs()));
            }
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_complaint_and_limit() {
        let sh = |script: &str, seconds| run(Command::new("sh").args(["-c", script]), Duration::from_secs(seconds));
        let answer = sh("echo a; echo first >&2; echo last >&2; exit 3", 10).unwrap();
        assert_eq!((answer.stdout.as_str(), answer.complaint().as_str()), ("a\n", "last"));
        assert_eq!(answer.status.code(), Some(3));
        assert_eq!(sh("sleep 60", 0).unwrap_err(), "sh did not end within 0 s");
        let big = sh("yes | head -c 6000000", 30).unwrap();
        assert_eq!(big.stdout.len(), 4 << 20);
    }

    #[test]
    fn a_grandchild_that_stays_does_not_hold_us() {
        let started = Instant::now();
        let answer = run(Command::new("sh").args(["-c", "echo x; sleep 20 &"]), Duration::from_secs(10)).unwrap();
        assert_eq!(answer.stdout, "x\n");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
