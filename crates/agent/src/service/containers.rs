//! The calls about containers, their processes and volumes.

use std::sync::Arc;

use belljar_guest_api::{
    api,
    limits::{MAX_CHUNK, MAX_ENV_BYTES},
    status::Code,
};
use rustix::process::Signal;

use super::{chunk, named, refused};
use crate::{
    guest::Guest,
    pod::{Pod, PodError, Process},
};

type Empty = ttrpc::Result<api::Empty>;

/// The pod, for calls about something that was started before.
fn pod<'a>(guest: &'a Guest, name: &str) -> ttrpc::Result<&'a Pod> {
    let name = named(name).map_err(refused)?;
    guest.pod.get().ok_or_else(|| refused(PodError::NotStarted(name.into())))
}

/// A process of container `name`.
fn process(guest: &Guest, name: &str, exec: &str) -> ttrpc::Result<Arc<Process>> {
    pod(guest, name)?.process(name, exec).map_err(refused)
}

/// The signal that a request asks for. More than one process at a time gets SIGKILL only, which ends the first one, too: a step of a
/// script that another signal ends would look to the script as if it were done or had failed by itself.
fn wanted(request: &api::SignalContainerRequest) -> Result<Signal, PodError> {
    let known = i32::try_from(request.signal).ok().and_then(Signal::from_named_raw);
    let signal = known.ok_or(PodError::Signal(request.signal))?;
    match (request.all, request.exec.is_empty()) {
        (true, false) => Err(PodError::AllOfExec),
        (true, true) if signal != Signal::KILL => Err(PodError::AllButKill(request.signal)),
        _ => Ok(signal),
    }
}

pub(super) async fn put_volume(guest: &Arc<Guest>, request: api::PutVolumeRequest) -> Empty {
    let turn = guest.ready_pod().await.map_err(refused)?.volumes.turn().await;
    let guest = guest.clone();
    let put = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let pod = guest.pod.get().ok_or(PodError::Stopping)?;
        Ok(pod.volumes.put(pod.contract(), &request.volume, request.files)?)
    });
    match put.await {
        Ok(outcome) => outcome.map(|()| api::Empty::new()).map_err(refused),
        Err(error) => Err(Code::Internal.error(error.to_string())),
    }
}

pub(super) async fn start(guest: &Arc<Guest>, request: api::StartContainerRequest) -> Empty {
    let name = named(&request.name).map_err(refused)?;
    let found = request.env.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum::<usize>();
    if found > MAX_ENV_BYTES {
        return Err(Code::InvalidArgument.error(format!("env has {found} bytes, at most {MAX_ENV_BYTES} are allowed")));
    }
    Pod::start(guest, name, request.env.into_iter().collect()).await.map_err(refused)?;
    Ok(api::Empty::new())
}

pub(super) async fn start_exec(guest: &Arc<Guest>, request: api::StartExecRequest) -> Empty {
    let name = named(&request.name).map_err(refused)?;
    Pod::start_exec(guest, name, &request.exec, request.args, request.terminal).await.map_err(refused)?;
    Ok(api::Empty::new())
}

pub(super) async fn wait(guest: &Guest, request: api::ContainerRequest) -> ttrpc::Result<api::WaitContainerResponse> {
    let ended = pod(guest, &request.name)?.wait(&request.name, &request.exec).await.map_err(refused)?;
    let (refusal, refusal_kind) = match ended.refusal {
        Some(refusal) => (refusal.message, refusal.kind.word().to_owned()),
        None => Default::default(),
    };
    Ok(api::WaitContainerResponse {
        exit_code: ended.code,
        oom_killed: ended.oom_killed,
        termination_message: ended.message,
        refusal,
        refusal_kind,
        ..Default::default()
    })
}

pub(super) fn send_signal(guest: &Guest, request: &api::SignalContainerRequest) -> Empty {
    let pod = pod(guest, &request.name)?;
    let signal = wanted(request).map_err(refused)?;
    let sent = match request.all {
        true => pod.kill_container(&request.name),
        false => pod.process(&request.name, &request.exec).and_then(|process| process.signal(signal)),
    };
    sent.map(|()| api::Empty::new()).map_err(refused)
}

pub(super) fn resize(guest: &Guest, request: &api::ResizeTerminalRequest) -> Empty {
    let process = process(guest, &request.name, &request.exec)?;
    process.resize(request.columns, request.rows).map(|()| api::Empty::new()).map_err(refused)
}

pub(super) async fn stats(guest: &Arc<Guest>) -> ttrpc::Result<api::StatsResponse> {
    let turn = guest.counting.clone().lock_owned().await;
    let guest = guest.clone();
    let read = tokio::task::spawn_blocking(move || {
        // Held to the end of the work, whose caller may have gone.
        let _turn = turn;
        let used = guest.pod.get().map(Pod::usage).unwrap_or_default();
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        (used, kib(&info, "MemTotal:"), kib(&info, "MemAvailable:"))
    });
    let (used, memory_total, memory_available) = read.await.map_err(|error| Code::Internal.error(error.to_string()))?;
    let containers = used.into_iter().map(|(name, usage)| api::ContainerStats {
        name,
        cpu_usage_us: usage.cpu_us,
        cpu_user_us: usage.cpu_user_us,
        cpu_system_us: usage.cpu_system_us,
        memory_usage: usage.memory,
        memory_working_set: usage.working_set,
        memory_limit: usage.memory_limit,
        pids: usage.pids,
        oom_kills: usage.oom_kills,
        ..Default::default()
    });
    Ok(api::StatsResponse { containers: containers.collect(), memory_total, memory_available, ..Default::default() })
}

/// A line of `/proc/meminfo`, in bytes (proc_meminfo(5); its "kB" are 1024 bytes).
fn kib(info: &str, key: &str) -> u64 {
    let value = info.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next()?.parse().ok());
    u64::saturating_mul(value.unwrap_or(0), 1024)
}

pub(super) async fn write_input(guest: &Guest, request: api::WriteInputRequest) -> Empty {
    let process = process(guest, &request.name, &request.exec)?;
    if request.data.len() > MAX_CHUNK {
        let found = request.data.len();
        return Err(Code::InvalidArgument.error(format!("{found} bytes at once, at most {MAX_CHUNK} are allowed")));
    }
    let denied = || PodError::Denied { field: "stdin", name: request.name.clone() };
    let stdin = process.streams.stdin.as_ref().ok_or_else(denied).map_err(refused)?;
    let stdin = stdin.lock().await;
    let closed = || refused(PodError::InputClosed(process.label.clone()));
    let end = stdin.as_ref().ok_or_else(closed)?;
    end.write_all(&request.data).await.map_err(|_| closed())?;
    Ok(api::Empty::new())
}

pub(super) async fn close_input(guest: &Guest, request: api::ContainerRequest) -> Empty {
    let process = process(guest, &request.name, &request.exec)?;
    let denied = || PodError::Denied { field: "stdin", name: request.name.clone() };
    let stdin = process.streams.stdin.as_ref().ok_or_else(denied).map_err(refused)?;
    match stdin.lock().await.take() {
        Some(_) => Ok(api::Empty::new()),
        None => Err(refused(PodError::InputClosed(process.label.clone()))),
    }
}

pub(super) async fn read_output(
    guest: &Guest,
    request: api::ReadOutputRequest,
) -> ttrpc::Result<api::ReadOutputResponse> {
    let process = process(guest, &request.name, &request.exec)?;
    let (stream, word) = match request.output.enum_value() {
        Ok(api::Output::STDOUT) => (&process.streams.stdout, "stdout"),
        Ok(api::Output::STDERR) => (&process.streams.stderr, "stderr"),
        Err(found) => return Err(Code::InvalidArgument.error(format!("output {found} is not known"))),
    };
    let Some(stream) = stream else {
        // With a terminal, what would be stderr comes on stdout.
        if word == "stderr" && process.streams.stdout.is_some() {
            return Ok(api::ReadOutputResponse { eof: true, ..Default::default() });
        }
        return Err(refused(PodError::Denied { field: "logs", name: request.name }));
    };
    let data = stream.lock().await.read(chunk(request.max)).await;
    let failed = |error: std::io::Error| PodError::System { name: process.label.clone(), why: error.to_string() };
    let data = data.map_err(|error| refused(failed(error)))?;
    Ok(api::ReadOutputResponse { eof: data.is_empty(), data, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cmdline::Cmdline, status::Board};
    use std::time::Duration;

    #[test]
    fn all_processes_of_a_container_get_sigkill_only() {
        let ask = |signal, all, exec: &str| {
            wanted(&api::SignalContainerRequest {
                name: "a".into(),
                signal,
                all,
                exec: exec.into(),
                ..Default::default()
            })
        };
        assert_eq!(ask(9, true, ""), Ok(Signal::KILL));
        for other in [1, 2, 10, 15, 17, 18, 19] {
            assert_eq!(ask(other, true, ""), Err(PodError::AllButKill(other)));
            assert_eq!(ask(other, false, "").map(Signal::as_raw), Ok(i32::try_from(other).unwrap()));
        }
        assert_eq!(ask(9, true, "x"), Err(PodError::AllOfExec));
        assert_eq!(ask(9, false, "x"), Ok(Signal::KILL));
        for none in [0, 65, u32::MAX] {
            assert_eq!(ask(none, false, ""), Err(PodError::Signal(none)));
        }
        assert_eq!(PodError::AllButKill(15).code(), Code::PermissionDenied);
    }

    #[tokio::test]
    async fn usage_is_read_by_one_call_at_a_time() {
        let (guest, _stop) = Guest::new(Cmdline::default(), Board::new());
        let turn = guest.counting.clone().lock_owned().await;
        let waiting = tokio::time::timeout(Duration::from_millis(50), stats(&guest)).await;
        assert!(waiting.is_err(), "another one is at it");
        drop(turn);
        let stats = stats(&guest).await.unwrap();
        assert!(stats.memory_total > 0 && stats.containers.is_empty());
        assert!(guest.counting.try_lock().is_ok(), "its turn is over");
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let info = "MemTotal:         247000 kB\nMemFree:           1 kB\nMemAvailable:     200000 kB\n";
        assert_eq!((kib(info, "MemTotal:"), kib(info, "MemAvailable:")), (247_000 * 1024, 200_000 * 1024));
        assert_eq!(kib(info, "Swap:"), 0);
    }
}
