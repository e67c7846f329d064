//! A further process in a container, for the operator: any command, its streams inside the attested connection.

use std::{sync::Arc, time::Duration};

use belljar_attested::{
    Frame, Kind,
    frame::MAX_FRAME,
    wire::{ExecExit, ExecStart},
};
use belljar_guest_api::limits::one_line;
use rustix::process::Signal;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::Mutex,
    time::timeout,
};

use crate::{
    guest::Guest,
    pod::{Access, Process},
    streams::End,
};

/// Longest time for the first frame.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long output may still come after the process has ended: something that it started may hold its streams.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// For errors.
const LABEL: &str = "operator";

/// Runs what the first frame says, to its end or until the client has gone; then the process is killed.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(stream: S, guest: &Arc<Guest>) {
    let (mut from, to) = split(stream);
    let to = Mutex::new(to);
    let last = match start(&mut from, guest).await {
        Ok(process) => tokio::select! {
            code = output(&process, &to) => code.map(exit),
            () = input(&process, &mut from) => {
                let _ = process.signal(Signal::KILL);
                None
            }
        },
        Err(why) => Some(Frame::new(Kind::Error, one_line(&why).as_bytes())),
    };
    let mut to = to.lock().await;
    if let Some(last) = last {
        let _ = last.write(&mut *to).await;
    }
    let _ = to.shutdown().await;
}

fn exit(code: u32) -> Frame {
    Frame::new(Kind::Exit, &serde_json::to_vec(&ExecExit { code }).unwrap_or_default())
}

async fn start(from: &mut (impl AsyncRead + Unpin), guest: &Arc<Guest>) -> Result<Arc<Process>, String> {
    let first = timeout(START_LIMIT, Frame::read(from)).await.map_err(|_| "no command arrived in time".to_owned())?;
    let start = match first.map_err(|error| error.to_string())? {
        Some(Frame { kind: Kind::Start, content }) => ExecStart::parse(&content).map_err(|error| error.to_string())?,
        _ => return Err("the first frame must say what to start".to_owned()),
    };
    let pod = guest.pod.get().ok_or("the pod is stopping")?;
    let access = Access { output: true, input: true };
    let process = pod.start_unlisted(guest, &start.container, LABEL, start.args, start.terminal, access).await;
    process.map_err(|error| error.to_string())
}

/// Sends the output; gives the exit status, or nothing when the client has gone.
async fn output<S: AsyncWrite>(process: &Process, to: &Mutex<WriteHalf<S>>) -> Option<u32> {
    let streams = &process.streams;
    let both = async {
        let (out, err) = tokio::join!(
            copy(streams.stdout.as_ref(), Kind::Stdout, to),
            copy(streams.stderr.as_ref(), Kind::Stderr, to)
        );
        out.and(err)
    };
    tokio::pin!(both);
    let ended = tokio::select! {
        sent = &mut both => {
            sent?;
            process.wait().await
        }
        ended = process.wait() => {
            if let Ok(sent) = timeout(LAST_OUTPUT, &mut both).await {
                sent?;
            }
            ended
        }
    };
    Some(ended.code)
}

async fn copy<S: AsyncWrite>(from: Option<&Mutex<End>>, kind: Kind, to: &Mutex<WriteHalf<S>>) -> Option<()> {
    let Some(from) = from else { return Some(()) };
    let from = from.lock().await;
    loop {
        match from.read(MAX_FRAME).await {
            Ok(data) if !data.is_empty() => Frame::new(kind, &data).write(&mut *to.lock().await).await.ok()?,
            _ => return Some(()),
        }
    }
}

/// Takes the client's frames until it has gone, or says what it may not.
async fn input<S: AsyncRead>(process: &Process, from: &mut ReadHalf<S>) {
    while let Ok(Some(frame)) = Frame::read(from).await {
        match (frame.kind, frame.size()) {
            (Kind::Stdin, _) => {
                let Some(stdin) = &process.streams.stdin else { return };
                let mut stdin = stdin.lock().await;
                let closed = match stdin.as_ref() {
                    Some(end) if !frame.content.is_empty() => end.write_all(&frame.content).await.is_err(),
                    _ => true,
                };
                // Who writes to a process that reads no more may still read its output.
                if closed {
                    *stdin = None;
                }
            }
            (Kind::Resize, Some((columns, rows))) => {
                let _ = process.resize(columns.into(), rows.into());
            }
            _ => return,
        }
    }
}
