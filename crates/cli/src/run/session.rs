//! The life of one container in a started pod VM: start by name, streams, signals, end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use belljar_guest_api::api::{
    AgentClient, ContainerRequest, Output, SignalContainerRequest, StartContainerRequest, State, StatusRequest,
    StatusResponse,
};
use belljar_guest_api::names::refusal;
use belljar_guest_api::status::CallError;
use belljar_vmm::{Exit as VmExit, PodVm};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use ttrpc::context::Context;

use crate::failure::{Exit, Failure, one_line};
use crate::run::streams::{self, Copied};

/// How long the guest may take from its first answer until the container runs.
const START_LIMIT: Duration = Duration::from_secs(25);
/// The signal of a program whose reader has gone.
const SIGPIPE: u32 = 13;
/// How long a container may take to end after a signal.
const GRACE: Duration = Duration::from_secs(2);
/// How long the last output may take after the container has ended.
const DRAIN: Duration = Duration::from_secs(10);

/// How a session ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code of the container, as a shell has it.
    pub code: i32,
    /// When the first byte of its output came, if any did.
    pub first_output: Option<Instant>,
}

/// Signals that end a run.
#[derive(Debug)]
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on these signals come here and end nothing by themselves.
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|e| Failure::undecided(format!("cannot listen for signals: {e}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The next one, by its number.
    pub async fn next(&mut self) -> u32 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
        }
    }
}

/// A refusal by the guest, before it is known what the broker has to say about it.
#[derive(Debug)]
pub struct Refusal {
    /// One of [`refusal`]'s kinds.
    pub kind: String,
    /// The guest's words.
    pub text: String,
}

/// Why a session did not get to the container's end.
#[derive(Debug)]
pub enum SessionError {
    /// The guest refused.
    Refused(Refusal),
    /// Anything else.
    Failed(Failure),
    /// A signal ended it before the container ran; its number.
    Interrupted(u32),
}

impl From<Failure> for SessionError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Starts the container and waits until it runs.
pub async fn start(vm: &PodVm, container: &str, interrupts: &mut Interrupts) -> Result<(), SessionError> {
    let agent = vm.agent();
    let mut request = StartContainerRequest::new();
    container.clone_into(&mut request.name);
    let started = tokio::select! {
        started = agent.start_container(Context::default(), &request) => started,
        exit = vm.exited() => return Err(ended_early(exit).into()),
        signal = interrupts.next() => return Err(SessionError::Interrupted(signal)),
        () = tokio::time::sleep(START_LIMIT) => {
            return Err(Failure::undecided(format!("the guest did not start the container within {} s", START_LIMIT.as_secs()))
                .hint("try again with --debug, which shows what the guest does").into());
        }
    };
    match started {
        Ok(_) => Ok(()),
        Err(error) => Err(start_failure(vm, &agent, error).await),
    }
}

async fn start_failure(vm: &PodVm, agent: &AgentClient, error: ttrpc::Error) -> SessionError {
    let Some(answer) = CallError::of(&error) else { return lost(vm, &error).await.into() };
    match status(agent).await {
        Some(status) if status.state.enum_value_or_default() == State::REFUSED => {
            SessionError::Refused(Refusal { kind: status.refusal_kind, text: status.refusal })
        }
        _ => Failure::undecided(format!("the guest could not start the container: {}", answer.message)).into(),
    }
}

/// What the agent says of itself now.
pub async fn status(agent: &AgentClient) -> Option<StatusResponse> {
    let mut request = StatusRequest::new();
    // No generation is this one, so the answer comes at once.
    request.generation = u64::MAX;
    request.timeout_ms = 1;
    tokio::time::timeout(Duration::from_secs(2), agent.status(Context::default(), &request)).await.ok()?.ok()
}

/// Carries the streams until the container has ended.
pub async fn attend(vm: &PodVm, container: &str, interrupts: &mut Interrupts) -> Result<Ended, SessionError> {
    let agent = vm.agent();
    let began = Instant::now();
    let first = Arc::new(AtomicU64::new(u64::MAX));
    let (gone, mut reader_gone) = mpsc::channel(2);
    let outputs = [Output::STDOUT, Output::STDERR].map(|output| {
        let (agent, container, first, gone) = (agent.clone(), container.to_owned(), first.clone(), gone.clone());
        tokio::spawn(async move {
            let note = || {
                let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                first.fetch_min(micros, Ordering::Relaxed);
            };
            if streams::copy_output(&agent, &container, output, note).await == Copied::ReaderGone {
                let _ = gone.send(()).await;
            }
        })
    });
    let input = tokio::spawn({
        let (agent, container) = (agent.clone(), container.to_owned());
        async move { streams::copy_input(&agent, &container).await }
    });
    let mut request = ContainerRequest::new();
    container.clone_into(&mut request.name);
    let waiting = agent.wait_container(Context::default(), &request);
    tokio::pin!(waiting);
    let answer = tokio::select! {
        answer = &mut waiting => answer,
        exit = vm.exited() => return Err(ended_early(exit).into()),
        // As for any program: nobody reads, so nobody waits.
        Some(()) = reader_gone.recv() => return Err(SessionError::Interrupted(SIGPIPE)),
        signal = interrupts.next() => {
            send_signal(&agent, container, signal).await;
            // A second signal, or a container that does not listen, ends the VM now.
            tokio::select! {
                _ = &mut waiting => {}
                _ = interrupts.next() => {}
                () = tokio::time::sleep(GRACE) => {}
            }
            return Err(SessionError::Interrupted(signal));
        }
    };
    let ended = match answer {
        Ok(ended) => ended,
        Err(error) => return Err(lost(vm, &error).await.into()),
    };
    // Also after a refusal: what the container said last may be all that explains it.
    for output in outputs {
        let _ = tokio::time::timeout(DRAIN, output).await;
    }
    input.abort();
    if !ended.refusal.is_empty() {
        return Err(SessionError::Refused(Refusal { kind: ended.refusal_kind, text: ended.refusal }));
    }
    if ended.oom_killed {
        eprintln!("belljar: the container ran out of memory and was killed; give it more with --memory");
    }
    let first_output = match first.load(Ordering::Relaxed) {
        u64::MAX => None,
        micros => began.checked_add(Duration::from_micros(micros)),
    };
    Ok(Ended { code: i32::try_from(ended.exit_code & 0xff).unwrap_or(255), first_output })
}

async fn send_signal(agent: &AgentClient, container: &str, signal: u32) {
    let mut request = SignalContainerRequest::new();
    container.clone_into(&mut request.name);
    request.signal = signal;
    let _ = tokio::time::timeout(GRACE, agent.signal_container(Context::default(), &request)).await;
}

/// The connection to the agent broke: why did the VM end?
async fn lost(vm: &PodVm, error: &ttrpc::Error) -> Failure {
    if let Some(found) = vm.agent_fault() {
        return Failure::undecided(format!("the guest's agent answers garbage ({})", one_line(&found)))
            .hint("build the guest image anew: belljar guest build");
    }
    match tokio::time::timeout(Duration::from_secs(3), vm.exited()).await {
        Ok(exit) => ended_early(exit),
        Err(_) => Failure::undecided(format!("lost the guest's agent: {error}"))
            .hint("try again with --debug, which shows what the guest does"),
    }
}

fn ended_early(exit: VmExit) -> Failure {
    match exit {
        VmExit::PoweredOff => Failure::undecided("the guest powered off before the container ended"),
        VmExit::Crashed { last_lines } => Failure::undecided("the guest crashed").details(last_lines.0),
        VmExit::Killed => Failure::undecided("the pod VM was ended by somebody else"),
        VmExit::QemuFailed { status, stderr } => {
            Failure::undecided(format!("QEMU ended ({status}): {stderr}")).hint("see `belljar doctor`")
        }
    }
}

impl Refusal {
    /// The failure that the user sees. `broker` is what the broker has to say, where it is ours and refused.
    pub fn into_failure(self, broker: Option<String>) -> Failure {
        let text = one_line(&self.text);
        let exit = match self.kind.as_str() {
            refusal::INITDATA | refusal::CONTRACT | refusal::ATTESTATION | refusal::SECRET | refusal::LAYER => {
                Exit::Refused
            }
            _ => Exit::Undecided,
        };
        match broker {
            Some(reason) => Failure::new(exit, reason).details([format!("the guest says: {text}")]),
            None => Failure::new(exit, format!("the guest refused ({}): {text}", one_line(&self.kind))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_1_and_a_broken_way_is_3() {
        let refused = |kind: &str| Refusal { kind: kind.to_owned(), text: "x\ny".to_owned() }.into_failure(None);
        assert_eq!(refused(refusal::LAYER).exit, Exit::Refused);
        assert_eq!(refused(refusal::BROKER).exit, Exit::Undecided);
        assert_eq!(refused(refusal::INITDATA).cause, "the guest refused (initdata): x y");
        let told = Refusal { kind: refusal::ATTESTATION.to_owned(), text: "denied".to_owned() };
        assert_eq!(told.into_failure(Some("measurement is a".to_owned())).cause, "measurement is a");
    }
}
