//! Watches a QEMU process to its end: QMP events, console, stderr, exit status.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixStream, unix::pipe};
use tokio::sync::{Notify, watch};

use crate::console::{Console, LastLines, printable};
use crate::qmp::{self, Event};
use crate::spawn::Spawned;

/// Bytes of QEMU's stderr that are kept: the first ones, where the cause stands.
const STDERR_BYTES: usize = 4096;
/// How long the channels may stay open after the process has ended.
const DRAIN: Duration = Duration::from_millis(500);

/// Why a pod VM has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered itself off: the orderly end.
    PoweredOff,
    /// The guest's kernel panicked, or the guest reset itself.
    Crashed {
        /// What it printed.
        last_lines: LastLines,
    },
    /// Ended by its owner.
    Killed,
    /// QEMU ended by itself: an error of QEMU or KVM, or somebody else's signal.
    QemuFailed {
        /// Exit status in words.
        status: String,
        /// What it said, at most 1 KiB in one line.
        stderr: String,
    },
}

/// A process under watch.
#[derive(Debug)]
pub(crate) struct Supervised {
    pub pidfd: Arc<OwnedFd>,
    pub exit: watch::Receiver<Option<Exit>>,
}

/// Starts to watch. `quit` tells QEMU to end; `exit` is set after it was reaped.
pub(crate) fn watch(
    spawned: Spawned,
    qmp: UnixStream,
    console: pipe::Receiver,
    tail: Console,
    sink: Option<std::fs::File>,
    quit: Arc<Notify>,
) -> io::Result<Supervised> {
    let Spawned { mut child, pidfd } = spawned;
    let stderr = child.stderr.take().map(|pipe| pipe::Receiver::from_owned_fd(pipe.into())).transpose()?;
    let pidfd = Arc::new(pidfd);
    // SAFETY: the `AsyncFd` owns a share of the `OwnedFd`, whose descriptor is the same and open until the last share is gone.
    let ended =
        unsafe { AsyncFd::register_with_interest(pidfd.clone(), Interest::READABLE) }.map_err(io::Error::from)?;
    let (send, exit) = watch::channel(None);
    tokio::spawn(async move {
        let asked = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let talk = tokio::spawn(talk(qmp, quit, asked.clone()));
        let read_console = tokio::spawn(read_console(console, tail.clone(), sink));
        let read_stderr = tokio::spawn(async move {
            match stderr {
                Some(stderr) => first_bytes(stderr).await,
                None => Vec::new(),
            }
        });
        let mut talk = Drained(talk);
        let early = tokio::select! {
            _ = ended.readable() => None,
            said = &mut talk.0 => Some(said.ok().flatten()),
        };
        if let Some(Some(Event::Stop)) = early {
            // A machine that stopped by itself never ends by itself.
            let _ = child.kill();
        }
        let _ = ended.readable().await;
        let status = reap(child).await;
        let said = match early {
            Some(said) => said,
            None => talk.result().await.flatten(),
        };
        Drained(read_console).result().await;
        let stderr = Drained(read_stderr).result().await.unwrap_or_default();
        let asked = asked.load(std::sync::atomic::Ordering::Relaxed);
        let _ = send.send(Some(exit_of(status, said, asked, &stderr, &tail)));
    });
    Ok(Supervised { pidfd, exit })
}

fn exit_of(status: io::Result<ExitStatus>, said: Option<Event>, asked: bool, stderr: &[u8], tail: &Console) -> Exit {
    match said {
        Some(Event::Shutdown { reason }) if reason == "guest-shutdown" => return Exit::PoweredOff,
        Some(Event::Shutdown { reason }) if reason == "guest-reset" || reason == "guest-panic" => {
            return Exit::Crashed { last_lines: tail.last_lines() };
        }
        _ if asked => return Exit::Killed,
        _ => {}
    }
    let status = match (said, status) {
        (Some(Event::Stop), _) => "the machine stopped by an internal error".to_owned(),
        (_, Ok(status)) => status.to_string(),
        (_, Err(error)) => error.to_string(),
    };
    Exit::QemuFailed { status, stderr: printable(stderr, 1024) }
}

/// Reads events until the machine stops or QEMU has gone; the last word counts.
async fn talk(qmp: UnixStream, quit: Arc<Notify>, asked: Arc<std::sync::atomic::AtomicBool>) -> Option<Event> {
    let (mut events, mut commands) = qmp::connect(qmp).await.ok()?;
    let quitter = tokio::spawn(async move {
        quit.notified().await;
        asked.store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = commands.quit().await;
        commands
    });
    let mut last = None;
    loop {
        match events.next().await {
            Ok(Some(Event::Stop)) if last.is_none() => {
                last = Some(Event::Stop);
                break;
            }
            Ok(Some(event @ Event::Shutdown { .. })) => {
                // The first reason counts: a guest that powers off while it is told to quit has powered off.
                last = last.or(Some(event));
            }
            Ok(Some(Event::Stop)) => {}
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "QMP");
                break;
            }
        }
    }
    quitter.abort();
    last
}

async fn read_console(mut console: pipe::Receiver, tail: Console, sink: Option<std::fs::File>) {
    let mut sink = sink.map(tokio::fs::File::from_std);
    let mut buffer = vec![0; 8192];
    while let Ok(n @ 1..) = console.read(&mut buffer).await {
        let bytes = buffer.get(..n).unwrap_or_default();
        tail.push(bytes);
        if let Some(file) = &mut sink
            && let Err(error) = async {
                file.write_all(bytes).await?;
                file.flush().await
            }
            .await
        {
            tracing::warn!(%error, "console file is no longer written");
            sink = None;
        }
    }
}

async fn first_bytes(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 1024]);
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let room = STDERR_BYTES - kept.len();
        kept.extend_from_slice(buffer.get(..n.min(room)).unwrap_or_default());
    }
    kept
}

/// The process has ended, so this does not block for long; still it is a wait.
async fn reap(mut child: Child) -> io::Result<ExitStatus> {
    tokio::task::spawn_blocking(move || child.wait()).await.map_err(io::Error::other)?
}

/// A reader that is aborted when it does not end soon after the process.
struct Drained<T>(tokio::task::JoinHandle<T>);

impl<T> Drained<T> {
    async fn result(mut self) -> Option<T> {
        let result = tokio::time::timeout(DRAIN, &mut self.0).await;
        self.0.abort();
        result.ok()?.ok()
    }
}
