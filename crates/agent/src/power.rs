//! Orderly power-off, and the last word of a panicking agent.

use std::{fs, panic, process};

use rustix::{
    mount::{UnmountFlags, unmount},
    system::{RebootCommand, reboot},
};

/// Syncs, unmounts what containers left behind, and powers off. Returns only when the kernel refuses.
pub fn off() -> ! {
    rustix::fs::sync();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let ours = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|at| at.starts_with("/run/"));
    for at in ours {
        // Detached when busy: the machine ends in the next call, and no file system here outlives it.
        let _ = unmount(at, UnmountFlags::DETACH);
    }
    let _ = reboot(RebootCommand::PowerOff);
    // The kernel panics when PID 1 ends, which ends the VM too (`-no-reboot`).
    process::exit(1)
}

/// Makes a panic anywhere in the agent power the VM off. In debug mode the place is written to the console; never the
/// message, which may quote data.
pub fn off_on_panic(debug: bool) {
    panic::set_hook(Box::new(move |info| {
        if debug {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            eprintln!("belljar-agent: internal error at {place}; powering off");
        }
        off()
    }));
}
