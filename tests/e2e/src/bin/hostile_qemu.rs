//! A host that changes one thing about a pod VM and then starts it: see `belljar_e2e::attack`.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use belljar_e2e::attack;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if attack::starts_a_vm(&arguments) {
        let changed = attack::from_environment(|name| env::var_os(name)).and_then(|(attack, directory, needle)| {
            attack.apply(arguments, &directory, &needle).map_err(|e| e.to_string())
        });
        match changed {
            Ok(changed) => arguments = changed,
            Err(e) => {
                eprintln!("hostile-qemu: {e}");
                return ExitCode::from(2);
            }
        }
    }
    let error = Command::new("qemu-system-x86_64").args(arguments).exec();
    eprintln!("hostile-qemu: {error}");
    ExitCode::from(2)
}
