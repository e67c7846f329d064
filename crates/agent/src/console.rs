//! The agent's own messages: on the console in debug mode, nowhere otherwise.
//!
//! The console belongs to the host, and debug mode is measured, so a verifier sees whether the guest could talk here.

use std::{
    fmt::{self, Write as _},
    fs,
    io::Write as _,
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
    if let Ok(file) = fs::OpenOptions::new().read(true).write(true).open(target) {
        let _ = dup2_stdin(&file);
        let _ = dup2_stdout(&file);
        let _ = dup2_stderr(&file);
    }
    if debug {
        let _ = tracing::subscriber::set_global_default(Messages);
    }
}

/// Keeps everything below an emergency off the console: kernel messages could quote a container's doings.
pub fn quiet_kernel() {
    let _ = fs::write("/proc/sys/kernel/printk", "1");
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
