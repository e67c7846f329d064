//! The byte stream of the calls: a virtio-serial port as a listener with one connection at a time.
//!
//! What is special about such a port (drivers/char/virtio_console.c, Linux 6.12): `read` gives 0 bytes while no host is
//! connected, `poll` says so with `POLLHUP` at once and for ever, and one process may hold the port open. A level-triggered
//! reactor would spin on it, so each direction has an edge-triggered epoll set of its own, and the runtime watches that
//! set, which only ever becomes readable.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    fs::OFlags,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Yields a [`PortStream`] each time that a host connects to the port.
#[derive(Debug)]
pub struct PortListener {
    path: PathBuf,
    one: Arc<Semaphore>,
    greeted: Arc<AtomicBool>,
}

impl PortListener {
    /// A listener on the device file at `path`. `greeted` is cleared for each new connection: it says whether the host of
    /// this connection has said hello.
    pub fn new(path: PathBuf, greeted: Arc<AtomicBool>) -> Self {
        Self { path, one: Arc::new(Semaphore::new(1)), greeted }
    }

    /// Waits for a host, after the connection before has gone.
    pub async fn accept(&self) -> io::Result<PortStream> {
        let permit = self.one.clone().acquire_owned().await.map_err(io::Error::other)?;
        let mut file = OpenOptions::new();
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = file.read(true).write(true).custom_flags(nonblock).open(&self.path)?;
        let input = Edges::of(&file, epoll::EventFlags::IN)?;
        let output = Edges::of(&file, epoll::EventFlags::OUT)?;
        let stream = PortStream { file, input, output, _permit: permit };
        while stream.hung_up()? {
            std::future::poll_fn(|context| stream.input.poll_passed(context)).await?;
        }
        self.greeted.store(false, Ordering::Relaxed);
        Ok(stream)
    }
}

/// A connection over a virtio-serial port.
#[derive(Debug)]
pub struct PortStream {
    file: File,
    input: Edges,
    output: Edges,
    _permit: OwnedSemaphorePermit,
}

impl PortStream {
    fn hung_up(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.file, PollFlags::empty())];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(polled.iter().any(|fd| fd.revents().contains(PollFlags::HUP)))
    }
}

impl AsyncRead for PortStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.file.read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(this.input.poll_passed(context))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return Poll::Ready(outcome.map(|count| buffer.advance(count))),
            }
        }
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match this.file.write(data) {
                // The queue is full, or nobody is there to read.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if this.hung_up()? {
                        return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                    }
                    ready!(this.output.poll_passed(context))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Edge-triggered readiness of one direction of a file.
#[derive(Debug)]
struct Edges(AsyncFd<OwnedFd>);

impl Edges {
    fn of(file: &File, flags: epoll::EventFlags) -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&set, file, epoll::EventData::new_u64(0), flags | epoll::EventFlags::ET)?;
        // SAFETY: `set` is an `OwnedFd`: it stays open, and the same, until the `AsyncFd` that owns it is dropped.
        let set = unsafe { AsyncFd::register_with_interest(set, Interest::READABLE) };
        Ok(Self(set.map_err(io::Error::from)?))
    }

    /// Ready after at least one edge has come, and consumes it: try the operation again before the next call.
    fn poll_passed(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut guard = ready!(self.0.poll_read_ready(context))?;
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
        epoll::wait(self.0.get_ref(), &mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        guard.clear_ready();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn stream(file: OwnedFd) -> PortStream {
        let file = File::from(file);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        PortStream {
            input: Edges::of(&file, epoll::EventFlags::IN).unwrap(),
            output: Edges::of(&file, epoll::EventFlags::OUT).unwrap(),
            file,
            _permit: permit,
        }
    }

    #[tokio::test]
    async fn bytes_pass_with_backpressure_and_end_with_the_peer() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        let (mut read, mut write) = (stream(read), stream(write));
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move { write.write_all(&sent).await });
        let mut found = Vec::new();
        read.read_to_end(&mut found).await.unwrap();
        writer.await.unwrap().unwrap();
        assert!(found == expected);
    }

    #[tokio::test]
    async fn a_waiting_read_is_woken_by_a_late_byte() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        let (mut read, mut write) = (stream(read), stream(write));
        let reader = tokio::spawn(async move {
            let mut byte = [0; 1];
            read.read_exact(&mut byte).await.map(|_| byte)
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        write.write_all(b"x").await.unwrap();
        assert_eq!(reader.await.unwrap().unwrap(), *b"x");
    }
}
