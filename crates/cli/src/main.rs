//! The program `belljar`.

use std::process::ExitCode;

use belljar_cli::command::Belljar;
use clap::Parser;

fn main() -> ExitCode {
    let command = Belljar::parse();
    let code = command.execute();
    // A blocked read of stdin must not keep the process alive.
    #[allow(clippy::exit, reason = "the one place where the process ends with its code")]
    std::process::exit(code)
}
