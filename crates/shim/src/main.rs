//! The program `containerd-shim-belljar-v2`, under each of its names.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use belljar_shim::bootstrap::{MAX_STDIN, Request};
use belljar_shim::config::{Config, TeeChoice};
use belljar_shim::flags::{Action, Flags};
use belljar_shim::{delete, info, serve, start};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows this to whoever asked for the pod.
            eprintln!("belljar: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let (flags, action) = Flags::parse(arguments)?;
    match action {
        Action::Version => say(format!("{}\n", info::version()).as_bytes())?,
        Action::Info => {
            let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
            say(&info::info(&name))?;
        }
        Action::Start => {
            // What is wrong with the node is told here, where containerd listens.
            Config::load()?;
            TeeChoice::of_program(Path::new(&program))?;
            let mut stdin = Vec::new();
            if !std::io::stdin().is_terminal() {
                std::io::stdin().take(MAX_STDIN).read_to_end(&mut stdin)?;
            }
            let request = Request::read(&flags, &stdin, |name| std::env::var(name).ok())?;
            let address = start::start(&request, &std::env::current_dir()?, &program)?;
            say(&request.dialect.answer(&address))?;
        }
        Action::Delete => {
            let config = Config::load().unwrap_or_else(|error| {
                eprintln!("belljar: {error}");
                Config::default()
            });
            say(&delete::delete(&flags, &config))?;
        }
        Action::Serve => serve::serve(&flags, Config::load()?, TeeChoice::of_program(Path::new(&program))?)?,
    }
    Ok(())
}

fn say(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}
