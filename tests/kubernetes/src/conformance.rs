//! What a kubelet asks of a runtime, call by call, and what came back: the same list for each handler, so that two can be compared.

use std::path::Path;
use std::time::{Duration, Instant};

use protobuf::EnumOrUnknown;

use crate::cri::{Cri, Status};
use crate::images::PROBE;
use crate::messages::cri::*;

/// A call and what was seen, in words that do not change from run to run.
pub type Observation = (&'static str, String);

/// What the long-running container does: says something on both streams, ends with 7 when asked to.
pub const MAIN: [&str; 3] = ["sh", "-c", "trap 'exit 7' TERM; echo out; echo err >&2; while :; do sleep 0.1; done"];
/// A container that ends by itself.
pub const QUICK: [&str; 3] = ["sh", "-c", "echo done"];
/// A container that does not end when asked to.
pub const DEAF: [&str; 3] = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"];
/// Commands that are executed in the first.
pub const EXECS: [&[&str]; 3] =
    [&["sh", "-c", "echo out; echo err >&2; exit 3"], &["sleep", "60"], &["/no/such/program"]];

/// The sandbox that the list of calls runs.
pub fn sandbox_config(name: &str, log_directory: &Path, annotations: &[(String, String)]) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "conformance".to_owned(),
            ..Default::default()
        })
        .into(),
        hostname: name.to_owned(),
        log_directory: log_directory.display().to_string(),
        dns_config: Some(DNSConfig { servers: vec!["10.96.0.10".to_owned()], ..Default::default() }).into(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: annotations.iter().cloned().collect(),
        linux: Some(LinuxPodSandboxConfig::new()).into(),
        ..Default::default()
    }
}

/// A container of it.
pub fn container_config(name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), ..Default::default() }).into(),
        image: Some(ImageSpec { image: PROBE.to_owned(), ..Default::default() }).into(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig::new()).into(),
        ..Default::default()
    }
}

/// Makes all the calls. `logs` is a folder at the same path for the runtime and for this process.
pub fn observe(cri: &Cri, handler: &str, annotations: &[(String, String)], logs: &Path) -> Vec<Observation> {
    let mut seen: Vec<Observation> = Vec::new();
    let mut note = |call: &'static str, what: String| seen.push((call, what));
    let config = sandbox_config("conformance", logs, annotations);

    note("Version", cri.version().runtime_name);
    let status: StatusResponse = cri.call("Status", &StatusRequest::new()).expect("a status");
    let conditions = status.status.get_or_default().conditions.iter();
    note("Status", conditions.map(|c| format!("{}={}", c.type_, c.status)).collect::<Vec<_>>().join(" "));

    note("RunPodSandbox with an unknown handler", code(&cri.run_sandbox(&config, "no-such-handler")));
    let sandbox = cri.run_sandbox(&config, handler).unwrap_or_else(|e| panic!("RunPodSandbox: {e:?}"));
    note("RunPodSandbox", "OK".to_owned());
    note("RunPodSandbox with the same name", code(&cri.run_sandbox(&config, handler)));
    let status = cri.sandbox(&sandbox).expect("a status");
    note("PodSandboxStatus", sandbox_words(&status, handler));
    note("PodSandboxStatus of an unknown sandbox", code(&cri.sandbox("unknown")));
    let filter = PodSandboxFilter { id: sandbox.clone(), ..Default::default() };
    let list = ListPodSandboxRequest { filter: Some(filter).into(), ..Default::default() };
    let list: ListPodSandboxResponse = cri.call("ListPodSandbox", &list).expect("a list");
    note("ListPodSandbox", list.items.iter().map(|s| name_of(s.state)).collect::<Vec<_>>().join(" "));

    let main = container_config("main", &MAIN);
    let id = cri.create(&sandbox, &main, &config).unwrap_or_else(|e| panic!("CreateContainer: {e:?}"));
    note("CreateContainer", container_words(&cri.container(&id).expect("a status")));
    note("CreateContainer with the same name", code(&cri.create(&sandbox, &main, &config)));
    note("ExecSync before StartContainer", code(&cri.exec(&id, EXECS[0], 10)));
    cri.start(&id).unwrap_or_else(|e| panic!("StartContainer: {e:?}"));
    note("StartContainer", container_words(&cri.container(&id).expect("a status")));
    note("StartContainer again", code(&cri.start(&id)));
    let filter = ContainerFilter { pod_sandbox_id: sandbox.clone(), ..Default::default() };
    let list = ListContainersRequest { filter: Some(filter).into(), ..Default::default() };
    let list: ListContainersResponse = cri.call("ListContainers", &list).expect("a list");
    let words = list.containers.iter().map(|c| format!("{} {}", c.metadata.get_or_default().name, name_of(c.state)));
    note("ListContainers", words.collect::<Vec<_>>().join(", "));
    note("the log's lines", log_lines(&logs.join("main.log"), 2));

    note("ExecSync", exec_words(&cri.exec(&id, EXECS[0], 10)));
    note("ExecSync of a program that is not there", exec_words(&cri.exec(&id, EXECS[2], 10)));
    note("ExecSync over its time", exec_words(&cri.exec(&id, EXECS[1], 1)));
    note("ExecSync in an unknown container", code(&cri.exec("unknown", EXECS[0], 10)));
    let request = ContainerRequest { container_id: id.clone(), ..Default::default() };
    let stats: Result<ContainerStatsResponse, Status> = cri.call("ContainerStats", &request);
    note(
        "ContainerStats",
        stats.as_ref().map_or_else(Status::name, |answer| stats_words(answer.stats.get_or_default())),
    );
    let filter = ContainerStatsFilter { pod_sandbox_id: sandbox.clone(), ..Default::default() };
    let request = ListContainerStatsRequest { filter: Some(filter).into(), ..Default::default() };
    let stats: Result<ListContainerStatsResponse, Status> = cri.call("ListContainerStats", &request);
    let words = stats.as_ref().map(|answer| answer.stats.iter().map(stats_words).collect::<Vec<_>>().join(", "));
    note("ListContainerStats", words.unwrap_or_else(Status::name));
    let resources = LinuxContainerResources { cpu_shares: 512, memory_limit_in_bytes: 64 << 20, ..Default::default() };
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(resources).into(),
        ..Default::default()
    };
    note("UpdateContainerResources", code(&cri.call::<_, Empty>("UpdateContainerResources", &request)));
    let request = ReopenContainerLogRequest { container_id: id.clone(), ..Default::default() };
    note("ReopenContainerLog", code(&cri.call::<_, Empty>("ReopenContainerLog", &request)));
    let cmd = vec!["sh".to_owned()];
    let request = ExecRequest { container_id: id.clone(), cmd, stdout: true, tty: true, ..Default::default() };
    note("Exec", url_words(&cri.call("Exec", &request)));
    let request = AttachRequest { container_id: id.clone(), stdout: true, ..Default::default() };
    note("Attach", url_words(&cri.call("Attach", &request)));
    let request = PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![8080], ..Default::default() };
    note("PortForward", url_words(&cri.call("PortForward", &request)));

    note("RemoveContainer while it runs", code(&cri.remove(&id)));
    let id = match cri.container(&id) {
        // containerd 1.6 ends and removes it; start another one to go on with.
        Err(_) => {
            let again = ContainerConfig {
                metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 1, ..Default::default() }).into(),
                ..main
            };
            let id = cri.create(&sandbox, &again, &config).unwrap_or_else(|e| panic!("CreateContainer: {e:?}"));
            cri.start(&id).unwrap_or_else(|e| panic!("StartContainer: {e:?}"));
            log_lines(&logs.join("main.log"), 4);
            id
        }
        Ok(_) => id,
    };
    note("StopContainer", code(&cri.stop(&id, 10)));
    note("ContainerStatus after it", container_words(&cri.container(&id).expect("a status")));
    note("StopContainer again", code(&cri.stop(&id, 10)));
    note("ExecSync after it", code(&cri.exec(&id, EXECS[0], 10)));
    note("StartContainer after it", code(&cri.start(&id)));
    note("RemoveContainer", code(&cri.remove(&id)));
    note("RemoveContainer again", code(&cri.remove(&id)));
    note("ContainerStatus after it is removed", code(&cri.container(&id)));

    let quick = cri.create(&sandbox, &container_config("quick", &QUICK), &config).unwrap_or_else(|e| panic!("{e:?}"));
    cri.start(&quick).unwrap_or_else(|e| panic!("StartContainer: {e:?}"));
    note("a container that ends by itself", container_words(&ended(cri, &quick)));
    let deaf = cri.create(&sandbox, &container_config("deaf", &DEAF), &config).unwrap_or_else(|e| panic!("{e:?}"));
    cri.start(&deaf).unwrap_or_else(|e| panic!("StartContainer: {e:?}"));
    log_lines(&logs.join("deaf.log"), 1);
    note("StopContainer of one that ignores SIGTERM", code(&cri.stop(&deaf, 1)));
    note("ContainerStatus after SIGKILL", container_words(&cri.container(&deaf).expect("a status")));

    note("StopPodSandbox", code(&cri.stop_sandbox(&sandbox)));
    note("PodSandboxStatus after StopPodSandbox", sandbox_words(&cri.sandbox(&sandbox).expect("a status"), handler));
    note("StopPodSandbox again", code(&cri.stop_sandbox(&sandbox)));
    note(
        "CreateContainer in a stopped sandbox",
        code(&cri.create(&sandbox, &container_config("late", &QUICK), &config)),
    );
    note("RemovePodSandbox", code(&cri.remove_sandbox(&sandbox)));
    note("RemovePodSandbox again", code(&cri.remove_sandbox(&sandbox)));
    note("PodSandboxStatus after it is removed", code(&cri.sandbox(&sandbox)));
    note("ContainerStatus after that", code(&cri.container(&deaf)));
    seen
}

/// Waits for a container's end.
pub fn ended(cri: &Cri, id: &str) -> ContainerStatus {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = cri.container(id).expect("a status");
        if status.state.enum_value() == Ok(ContainerState::CONTAINER_EXITED) {
            return status;
        }
        assert!(Instant::now() < deadline, "the container does not end: {status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Streams and texts of so many lines of a log; waits for them.
pub fn log_lines(path: &Path, wanted: usize) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= wanted {
            // TIME STREAM F TEXT; the two streams may come in any order.
            let lines = text.lines().map(|line| line.split_once(' ').map_or("", |(_, rest)| rest).to_owned());
            let mut lines: Vec<String> = lines.collect();
            lines.sort();
            return lines.join(", ");
        }
        assert!(Instant::now() < deadline, "{}: {text:?}", path.display());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn code<T>(result: &Result<T, Status>) -> String {
    result.as_ref().map_or_else(Status::name, |_| "OK".to_owned())
}

fn name_of<E: protobuf::Enum>(value: EnumOrUnknown<E>) -> String {
    value.enum_value().map_or_else(|number| number.to_string(), |value| format!("{value:?}"))
}

fn sandbox_words(status: &PodSandboxStatus, handler: &str) -> String {
    let handler = if status.runtime_handler == handler { "its handler" } else { "another handler" };
    let address = if status.network.get_or_default().ip.is_empty() { "no address" } else { "an address" };
    format!("{}, {handler}, {address}, labels {:?}", name_of(status.state), status.labels)
}

fn container_words(status: &ContainerStatus) -> String {
    let times = [("started", status.started_at), ("finished", status.finished_at)];
    let times: Vec<&str> = times.iter().filter(|(_, time)| *time > 0).map(|(name, _)| *name).collect();
    let mut words = name_of(status.state);
    for part in times {
        words.push_str(&format!(", {part}"));
    }
    if status.state.enum_value() == Ok(ContainerState::CONTAINER_EXITED) {
        words.push_str(&format!(", code {}, reason {:?}", status.exit_code, status.reason));
    }
    words
}

fn exec_words(result: &Result<ExecSyncResponse, Status>) -> String {
    result.as_ref().map_or_else(Status::name, |answer| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!("code {}, stdout {:?}, stderr {:?}", answer.exit_code, text(&answer.stdout), text(&answer.stderr))
    })
}

fn stats_words(stats: &ContainerStats) -> String {
    let known = |there: bool, what: &str| if there { what.to_owned() } else { format!("no {what}") };
    let cpu = stats.cpu.get_or_default().usage_core_nano_seconds.get_or_default().value > 0;
    let memory = stats.memory.get_or_default().working_set_bytes.get_or_default().value > 0;
    let name = &stats.attributes.get_or_default().metadata.get_or_default().name;
    format!("{name}: {}, {}", known(cpu, "CPU time"), known(memory, "memory"))
}

fn url_words(result: &Result<UrlResponse, Status>) -> String {
    result.as_ref().map_or_else(Status::name, |answer| {
        let end = answer.url.rfind('/').unwrap_or_default();
        if answer.url.starts_with("http") {
            format!("a URL of {} bytes", answer.url[end..].len())
        } else {
            answer.url.clone()
        }
    })
}
