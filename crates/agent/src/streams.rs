//! Standard streams of a container, between its pipes (or terminal) and the host's calls.
//!
//! There is no buffer of ours: the pipe's own 64 KiB are the bound. When the host does not read, the pipe is full and the
//! container waits; when the container does not read, the host's call waits.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::PoisonError,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    pipe::{PipeFlags, pipe_with},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Mutex,
};

use crate::logs::Tap;

/// The host's ends. A stream that the contract denies is absent.
#[derive(Debug, Default)]
pub struct Streams {
    /// `None` inside the lock after it was closed.
    pub stdin: Option<Mutex<Option<End>>>,
    /// Standard output, or the terminal's.
    pub stdout: Option<Mutex<End>>,
    /// Standard error; absent with a terminal.
    pub stderr: Option<Mutex<End>>,
}

/// One end of a pipe or a terminal, without blocking.
#[derive(Debug)]
pub struct End {
    file: AsyncFd<File>,
    /// Where what is read is kept, too; until the end of the stream.
    tap: std::sync::Mutex<Option<Tap>>,
}

impl End {
    /// Takes over `fd`; needs the runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        // SAFETY: `File` owns its descriptor: it stays open, and the same, until the `AsyncFd` that owns it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(File::from(fd), Interest::READABLE | Interest::WRITABLE) };
        Ok(Self { file: fd.map_err(io::Error::from)?, tap: std::sync::Mutex::default() })
    }

    /// The same end, of which everything that is read goes to `tap` as well.
    #[must_use]
    pub fn tapped(self, tap: Option<Tap>) -> Self {
        Self { tap: tap.into(), ..self }
    }

    /// At least one and at most `max` bytes; none at the end.
    pub async fn read(&self, max: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; max];
        let outcome = self.file.async_io(Interest::READABLE, |mut file| file.read(&mut data)).await;
        let count = match outcome {
            Ok(count) => count,
            // A terminal whose last user has gone (pty(7) leaves it open; Linux says EIO).
            Err(error) if error.raw_os_error() == Some(libc::EIO) => 0,
            Err(error) => return Err(error),
        };
        data.truncate(count);
        let mut tap = self.tap.lock().unwrap_or_else(PoisonError::into_inner);
        match count {
            0 => *tap = None,
            _ => tap.iter().for_each(|tap| tap.push(&data)),
        }
        Ok(data)
    }

    /// Writes all of `data`; returns when the pipe has taken it.
    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let count = self.file.async_io(Interest::WRITABLE, |mut file| file.write(data)).await?;
            data = data.get(count..).unwrap_or_default();
        }
        Ok(())
    }
}

/// A pipe for a stream that the container writes: its end, and ours. With `allowed` false the container gets `/dev/null`.
pub fn output(allowed: bool) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    if !allowed {
        return Ok((null()?, None));
    }
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((theirs, Some(ours)))
}

/// A pipe for stdin: the container's end, and ours. With `allowed` false the container gets `/dev/null`.
pub fn input(allowed: bool) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    if !allowed {
        return Ok((null()?, None));
    }
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((theirs, Some(ours)))
}

fn null() -> io::Result<OwnedFd> {
    OpenOptions::new().read(true).write(true).open("/dev/null").map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn output_comes_in_order_and_ends() {
        let (theirs, ours) = output(true).unwrap();
        let end = End::new(ours.unwrap()).unwrap();
        let mut theirs = File::from(theirs);
        theirs.write_all(b"hello").unwrap();
        assert_eq!(end.read(2).await.unwrap(), b"he");
        assert_eq!(end.read(100).await.unwrap(), b"llo");
        let waiting = tokio::time::timeout(Duration::from_millis(20), end.read(100)).await;
        assert!(waiting.is_err());
        drop(theirs);
        assert_eq!(end.read(100).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_container_that_does_not_read_makes_the_writer_wait() {
        let (theirs, ours) = input(true).unwrap();
        let end = End::new(ours.unwrap()).unwrap();
        end.write_all(&[7; 65536]).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), end.write_all(b"x")).await.is_err());
        let mut theirs = File::from(theirs);
        theirs.read_exact(&mut [0; 65536]).unwrap();
        end.write_all(b"y").await.unwrap();
        drop(theirs);
        assert_eq!(end.write_all(b"z").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_denied_stream_goes_nowhere() {
        let (theirs, ours) = output(false).unwrap();
        assert!(ours.is_none());
        File::from(theirs).write_all(b"gone").unwrap();
        let (theirs, ours) = input(false).unwrap();
        assert!(ours.is_none());
        assert_eq!(File::from(theirs).read(&mut [0; 4]).unwrap(), 0);
        assert!(output(true).unwrap().1.is_some() && input(true).unwrap().1.is_some());
    }
}
