//! The agent's own messages: on the console in debug mode, nowhere otherwise.
//!
//! The console belongs to the host, and debug mode is measured, so a verifier sees whether the guest could talk here.

use std::{
    fmt::{self, Write as _},
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
};

use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::clock::since_boot_us;

/// Points stdin, stdout and stderr at the console in debug mode and at `/dev/null` otherwise, and turns messages on
/// accordingly. `dev` is where devtmpfs is mounted.
pub fn open(dev: &str, debug: bool) {
    let target = format!("{dev}/{}", if debug { "console" } else { "null" });
    if let Ok(file) = OpenOptions::new().read(true).write(true).open(target) {
        let _ = dup2_stdin(&file);
        let _ = dup2_stdout(&file);
        let _ = dup2_stderr(&file);
    }
    if debug {
        let _ = tracing::subscriber::set_global_default(Messages);
    }
}

/// Keeps everything below an emergency off the console, as kernel messages could quote a container's doings, and turns off
/// the keys by which whoever types at the console raises that level again.
pub fn quiet_kernel() -> io::Result<()> {
    quiet_kernel_in(Path::new("/proc/sys/kernel"))
}

fn quiet_kernel_in(settings: &Path) -> io::Result<()> {
    let set = |name: &str, value: &str| {
        // Never makes a file: a setting that is not there is the kernel's business.
        OpenOptions::new().write(true).open(settings.join(name)).and_then(|mut file| file.write_all(value.as_bytes()))
    };
    set("printk", "1")?;
    match set("sysrq", "0") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

struct Messages;

impl Subscriber for Messages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let most = if metadata.target().starts_with("belljar") { Level::DEBUG } else { Level::WARN };
        *metadata.level() <= most
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::with_capacity(128));
        let now = since_boot_us();
        let _ = write!(line.0, "[{}.{:06}] {}", now / 1_000_000, now % 1_000_000, event.metadata().target());
        event.record(&mut line);
        let mut text = belljar_guest_api::limits::one_line(&line.0);
        text.push('\n');
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_kernel_that_cannot_be_quieted_is_an_error() {
        let settings = tempfile::tempdir().unwrap();
        let read = |name| fs::read_to_string(settings.path().join(name)).unwrap();
        assert_eq!(quiet_kernel_in(settings.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(settings.path().join("printk"), "4").unwrap();
        quiet_kernel_in(settings.path()).unwrap();
        assert!(read("printk") == "1" && !settings.path().join("sysrq").exists());
        fs::write(settings.path().join("sysrq"), "9").unwrap();
        quiet_kernel_in(settings.path()).unwrap();
        assert_eq!((read("printk"), read("sysrq")), ("1".to_owned(), "0".to_owned()));
    }
}
