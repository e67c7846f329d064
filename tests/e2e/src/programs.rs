//! Where the built programs are, and how `belljar` is called.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/e2e is two below the root").to_owned()
}

/// A release program of this workspace, as `make test` built it.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    // A release program finds its neighbours; a test binary (debug/deps) finds the release directory.
    let neighbour = own.with_file_name(name);
    if neighbour.exists() {
        return neighbour;
    }
    let path = root().join("target/x86_64-unknown-linux-gnu/release").join(name);
    assert!(path.exists(), "{} is not built; run `make test`, or cargo build --release --workspace", path.display());
    path
}

/// How a finished call went.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; a signal is 128 + its number.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

/// A call of `belljar` that uses the directories of a work place.
pub fn belljar(data: &Path) -> Command {
    let mut command = Command::new(program("belljar"));
    command.env("BELLJAR_DATA", data).env_remove("RUST_BACKTRACE").env_remove("BELLJAR_LOG").stdin(Stdio::null());
    command
}

/// Runs a command to its end, within two minutes.
pub fn finish(command: &mut Command) -> Finished {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().expect("it starts");
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let out = std::thread::spawn(move || read(&mut stdout));
    let err = std::thread::spawn(move || read(&mut stderr));
    let code = wait(&mut child, Duration::from_secs(120));
    Finished {
        code,
        stdout: out.join().expect("the reader ends"),
        stderr: err.join().expect("the reader ends"),
        took: began.elapsed(),
    }
}

fn read(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for a child's end; kills it (and panics) when it takes too long.
pub fn wait(child: &mut Child, limit: Duration) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours can be waited for") {
            return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("a call took longer than {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a helper program that must succeed.
pub fn must(program: impl AsRef<OsStr>, arguments: &[&OsStr]) -> Output {
    let program = program.as_ref();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}", program.to_string_lossy()));
    assert!(output.status.success(), "{program:?} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
