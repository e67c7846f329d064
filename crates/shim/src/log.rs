//! The log: containerd reads it from the named pipe `log` of the bundle. It is kept open at both ends, and what does not fit is lost, so
//! that a containerd that is away stops nothing.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags};
use tracing_subscriber::EnvFilter;

/// A pipe whose writer never waits.
struct Pipe(std::fs::File);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(bytes.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on messages go to the pipe `log` of the working directory; stderr too, for a panic's words. Without the pipe there is no log.
pub fn start(filter: &str, debug: bool) {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(pipe) = rustix::fs::open("log", flags, Mode::empty()) else { return };
    let _ = rustix::stdio::dup2_stderr(pipe.as_fd());
    let filter = if debug { format!("{filter},belljar_shim=debug,belljar_vmm=debug") } else { filter.to_owned() };
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let writer = Mutex::new(Pipe(pipe.into()));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer);
    let _ = subscriber.try_init();
}
