//! `/init` of the pod VM.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "belljar-agent {} is the first process of a pod vm, not a program to run: use `belljar run`",
            env!("CARGO_PKG_VERSION")
        );
        return ExitCode::from(2);
    }
    belljar_agent::start::run()
}
