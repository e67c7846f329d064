//! `belljar logs` and `belljar exec`: end to end encrypted between the operator and the attested guest, past the host.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use belljar_attested::{
    ClientError, Frame, Kind,
    client::Frames,
    frame::MAX_FRAME,
    wire::{self, ExecExit, ExecStart, LogsQuery},
};
use clap::Args;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, split};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, one_line};
use crate::paths::Paths;
use crate::verbs::verify::SOFTWARE;
use crate::verify::expected::Comparison;
use crate::verify::operator;
use crate::verify::{Common, Session};

/// Output of a container, sealed.
#[derive(Debug, Args)]
pub struct Logs {
    #[command(flatten)]
    common: Common,
    /// What to compare with before anything is sent: the annotated YAML, an initdata document, or a contract
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// The container [default: the only one]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Stay for what comes
    #[arg(short, long)]
    follow: bool,
}

/// A command in a container, sealed.
#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    common: Common,
    /// What to compare with before anything is sent: the annotated YAML, an initdata document, or a contract
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// The container [default: the only one]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass stdin on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give it a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Logs {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths) -> Result<i32, Failure> {
        let (session, container) = open(&self.common, paths, self.expect.as_deref(), self.container.as_deref()).await?;
        let Session { client, connection: _connection, .. } = session;
        let query = LogsQuery { container, follow: self.follow };
        receive(&mut client.logs(&query).await.map_err(refused)?, show).await
    }
}

/// Shows logs until the pod says that this was all. The host carries the stream, and can end it at any time.
async fn receive(
    frames: &mut (impl AsyncRead + Unpin),
    mut show: impl FnMut(&Frame) -> Result<(), Failure>,
) -> Result<i32, Failure> {
    let cut = |why: &dyn std::fmt::Display| {
        Failure::undecided(format!("the logs broke off, and may be cut: {why}")).hint("ask again")
    };
    loop {
        match Frame::read(frames).await {
            Ok(Some(frame)) if frame.kind == Kind::End => return Ok(0),
            Ok(Some(frame)) => show(&frame)?,
            Ok(None) => return Err(cut(&"the stream ended before the pod said that this was all")),
            Err(error) => return Err(cut(&error)),
        }
    }
}

impl Exec {
    /// Carries the verb out; gives the command's exit status.
    pub async fn execute(self, paths: &Paths) -> Result<i32, Failure> {
        if self.tty && !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            return Err(Failure::usage("-t needs a terminal on stdin and stdout"));
        }
        let (session, container) = open(&self.common, paths, self.expect.as_deref(), self.container.as_deref()).await?;
        let Session { client, connection: _connection, .. } = session;
        let start = ExecStart { container, args: self.command.clone(), terminal: self.tty };
        let frames = client.exec(&start).await.map_err(refused)?;
        let _raw = if self.tty { Some(Raw::begin()?) } else { None };
        self.carry(frames).await
    }

    async fn carry(&self, frames: Frames) -> Result<i32, Failure> {
        let (mut from, mut to) = split(frames);
        let lost = |why: &dyn std::fmt::Display| Failure::undecided(format!("connection to the pod lost: {why}"));
        let mut resized = signal(SignalKind::window_change()).map_err(Failure::undecided)?;
        if self.tty {
            resize(&mut to).await.map_err(|error| lost(&error))?;
        }
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; MAX_FRAME];
        let mut reading = self.stdin;
        if !reading {
            let end = Frame::new(Kind::Stdin, b"");
            end.write(&mut to).await.map_err(|error| lost(&error))?;
        }
        // A frame in pieces must survive the other branches, so it is read by a task of its own.
        let (sender, mut received) = tokio::sync::mpsc::channel(4);
        let reader = tokio::spawn(async move {
            loop {
                let frame = Frame::read(&mut from).await;
                let more = matches!(frame, Ok(Some(_)));
                if sender.send(frame).await.is_err() || !more {
                    return;
                }
            }
        });
        let outcome = loop {
            tokio::select! {
                frame = received.recv() => match frame {
                    Some(Ok(Some(frame))) => match frame.kind {
                        Kind::Exit => break exit(&frame.content),
                        Kind::Error => {
                            let why = one_line(&String::from_utf8_lossy(&frame.content));
                            break Err(Failure::refused(format!("the pod did not start the command: {why}")));
                        }
                        _ => show(&frame)?,
                    },
                    Some(Err(error)) => break Err(lost(&error)),
                    Some(Ok(None)) | None => break Err(lost(&"it ended before the command")),
                },
                read = stdin.read(&mut buffer), if reading => {
                    let count = read.unwrap_or(0);
                    reading = count > 0;
                    let frame = Frame::new(Kind::Stdin, buffer.get(..count).unwrap_or_default());
                    // A command that has ended takes nothing more; its exit status is on the way.
                    let _ = frame.write(&mut to).await;
                }
                _ = resized.recv(), if self.tty => {
                    let _ = resize(&mut to).await;
                }
            }
        };
        reader.abort();
        outcome
    }
}

/// Connects with the operator's key, verifies, and chooses the container.
async fn open(
    common: &Common,
    paths: &Paths,
    expect: Option<&Path>,
    container: Option<&str>,
) -> Result<(Session, String), Failure> {
    let key = operator::load_or_create(&operator::path())?;
    let session = common.challenge(paths, expect, Some(&key)).await?;
    let judged = &session.judged;
    if let Some(check) = judged.failure() {
        let found = one_line(&check.found);
        return Err(Failure::refused(format!(
            "{}: its evidence does not hold: {} expected {}, found {found}",
            common.target, check.name, check.expected
        ))
        .hint("nothing was sent"));
    }
    match &judged.comparison {
        Some(Comparison::Same { .. }) => {}
        Some(Comparison::Other { differences, .. }) => {
            return Err(Failure::refused(format!("{}: it runs another contract than yours", common.target))
                .hint("nothing was sent")
                .details(differences.clone()));
        }
        None => eprintln!(
            "belljar: {} was compared with nothing: any contract would do that names your key; give --expect FILE",
            common.target
        ),
    }
    if judged.software {
        eprintln!("belljar: {SOFTWARE}");
    }
    let names: Vec<&str> = judged.contract.containers.keys().map(String::as_str).collect();
    let container = match (container, names.as_slice()) {
        (Some(name), names) if names.contains(&name) => name.to_owned(),
        (Some(name), names) => {
            return Err(Failure::usage(format!("the contract has no container {name:?}, only {}", names.join(", "))));
        }
        (None, [name]) => (*name).to_owned(),
        (None, names) => return Err(Failure::usage(format!("choose a container with -c: {}", names.join(", ")))),
    };
    Ok((session, container))
}

fn refused(error: ClientError) -> Failure {
    match error {
        ClientError::Refused { status: 401 | 403, .. } => Failure::refused(error)
            .hint("`belljar operator show` prints what the contract must have as operator.spki_sha256"),
        ClientError::Refused { .. } => Failure::refused(error),
        error => Failure::undecided(error),
    }
}

fn show(frame: &Frame) -> Result<(), Failure> {
    let written = match frame.kind {
        Kind::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(&frame.content).and_then(|()| out.flush())
        }
        Kind::Stderr => std::io::stderr().write_all(&frame.content),
        Kind::Gap => {
            let missing = frame.missing().map_or("some".to_owned(), |bytes| bytes.to_string());
            eprintln!(
                "belljar: {missing} bytes are missing here: the pod keeps the newest only, and they were not read in time"
            );
            Ok(())
        }
        kind => return Err(Failure::undecided(format!("the pod sent a frame of kind {kind:?} where output belongs"))),
    };
    written.map_err(|error| Failure::undecided(format!("cannot write: {error}")))
}

fn exit(content: &[u8]) -> Result<i32, Failure> {
    let exit: ExecExit = wire::parse(content, MAX_FRAME).map_err(Failure::undecided)?;
    i32::try_from(exit.code)
        .ok()
        .filter(|code| *code < 256)
        .ok_or_else(|| Failure::undecided(format!("the pod sent the exit status {}, expected 0 to 255", exit.code)))
}

async fn resize(to: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    let size = tcgetwinsize(std::io::stdout())?;
    Frame::resize(size.ws_col, size.ws_row).write(to).await
}

/// The terminal without its own meaning of keys, until dropped.
struct Raw(Termios);

impl Raw {
    fn begin() -> Result<Self, Failure> {
        let before = tcgetattr(std::io::stdin()).map_err(Failure::undecided)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(Failure::undecided)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of a stream of these bytes, and how it ends.
    async fn received(bytes: &[u8]) -> (Vec<u8>, Result<i32, String>) {
        let mut shown = Vec::new();
        let mut stream = bytes;
        let outcome = receive(&mut stream, |frame| {
            shown.extend_from_slice(&frame.content);
            Ok(())
        });
        let outcome = outcome.await.map_err(|failure| failure.cause);
        (shown, outcome)
    }

    #[tokio::test]
    async fn logs_that_do_not_end_with_the_pods_word_may_be_cut() {
        let said = [Frame::new(Kind::Stdout, b"one\n"), Frame::new(Kind::Stderr, b"two\n")].map(|frame| frame.encode());
        let said = said.concat();
        let whole = [said.as_slice(), &Frame::new(Kind::End, b"").encode()].concat();
        assert_eq!(received(&whole).await, (b"one\ntwo\n".to_vec(), Ok(0)));
        let early = "the logs broke off, and may be cut: the stream ended before the pod said that this was all";
        assert_eq!(received(&said).await, (b"one\ntwo\n".to_vec(), Err(early.to_owned())));
        assert_eq!(received(b"").await.1, Err(early.to_owned()));
        // Wherever it is cut.
        for length in 0..whole.len() {
            let why = received(&whole[..length]).await.1.unwrap_err();
            assert!(why.starts_with("the logs broke off, and may be cut: "), "{length}: {why}");
        }
    }
}
