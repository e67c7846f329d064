//! Watches a QEMU process to its end: QMP events, console, stderr, exit status.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// How the owner tells QEMU to end.
#[derive(Debug, Default)]
pub(crate) struct Quit {
    asked: AtomicBool,
    wake: Notify,
}

impl Quit {
    /// From now on the end is the owner's doing; QEMU is told to quit.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// Starts to watch. `quit` tells QEMU to end; the answer is set after it was reaped.
pub(crate) fn watch(
    mut process: Spawned,
    qmp: UnixStream,
    console: pipe::Receiver,
    tail: Console,
    sink: Option<std::fs::File>,
    quit: Arc<Quit>,
) -> io::Result<watch::Receiver<Option<Exit>>> {
    let stderr = process.stderr().map(|pipe| pipe::Receiver::from_owned_fd(pipe.into())).transpose()?;
    // SAFETY: the `AsyncFd` owns a share of the `OwnedFd`, whose descriptor is the same and open until the last share is gone.
    let ended = unsafe { AsyncFd::register_with_interest(process.pidfd.clone(), Interest::READABLE) };
    let ended = ended.map_err(io::Error::from)?;
    let (send, exit) = watch::channel(None);
    tokio::spawn(async move {
        let talk = tokio::spawn(talk(qmp, quit.clone()));
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
            process.kill();
        }
        let _ = ended.readable().await;
        drop(ended);
        let status = tokio::task::spawn_blocking(move || process.reap()).await.map_err(io::Error::other).flatten();
        let said = async {
            match early {
                Some(said) => said,
                None => talk.result().await.flatten(),
            }
        };
        let (said, _, stderr) = tokio::join!(said, Drained(read_console).result(), Drained(read_stderr).result());
        let stderr = stderr.unwrap_or_default();
        let asked = quit.asked.load(Ordering::Relaxed);
        let _ = send.send(Some(exit_of(status, said, asked, &stderr, &tail)));
    });
    Ok(exit)
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
async fn talk(qmp: UnixStream, quit: Arc<Quit>) -> Option<Event> {
    let (mut events, mut commands) = qmp::connect(qmp).await.ok()?;
    let quitter = tokio::spawn(async move {
        quit.wake.notified().await;
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

/// A reader that is aborted when it does not end soon after the process.
struct Drained<T>(tokio::task::JoinHandle<T>);

impl<T> Drained<T> {
    async fn result(mut self) -> Option<T> {
        let result = tokio::time::timeout(DRAIN, &mut self.0).await;
        self.0.abort();
        result.ok()?.ok()
    }
}
