//! The smallest first program of a guest: one line on the console, then power-off. It stands for the agent where a test needs a
//! kernel that boots and nothing else, and for "QEMU by hand" where a start is compared with one.

use std::io::Write;

use rustix::system::{RebootCommand, reboot};

fn main() {
    // the kernel has opened /dev/console as standard output
    let mut console = std::io::stdout();
    let _ = console.write_all(b"belljar-bare-init: first line\n");
    let _ = console.flush();
    if std::process::id() != 1 {
        eprintln!("belljar-bare-init: not the first program of a system; no power-off");
        return;
    }
    // does not return when it succeeds
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("belljar-bare-init: power-off: {error}");
    }
}
