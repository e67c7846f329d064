//! Pods of several containers, with volumes, values of the host and further processes, on the guest's kernel.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use belljar_agent::pod::PodError;
use belljar_contract::{
    Container, Contract, Restart, Volume, VolumeMount,
    model::{HostFile, HostType, MeasuredFile, Permission},
};
use belljar_guest_api::{
    api,
    status::{CallError, Code},
};

use crate::harness::{Image, Vm, greeted, host, settled, wait};

/// A container of the image that runs the program's verbs, and whose output may leave.
fn container(image: &Image, verbs: &str) -> Container {
    let mut container = image.contract(&["/bin/program"], "logs = \"allow\"").containers["main"].clone();
    container.args = words(verbs);
    container
}

fn words(verbs: &str) -> Vec<String> {
    ["/bin/program", "do"].into_iter().chain(verbs.split_whitespace()).map(str::to_owned).collect()
}

fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { volume: volume.into(), path: path.into(), sub_path: None, read_only: false }
}

/// Boots a pod of these containers.
async fn boot(
    image: &Image,
    dir: &tempfile::TempDir,
    containers: Vec<(String, Container)>,
    change: impl FnOnce(&mut Contract),
) -> (Vm, Host) {
    let mut contract = image.contract(&["/bin/program"], "");
    contract.containers = containers.into_iter().collect();
    change(&mut contract);
    contract.check().unwrap();
    let vm = Vm::start(&host(dir.path(), image, &contract, None)).unwrap();
    let agent = greeted(&vm).await;
    let status = settled(&agent).await;
    assert_eq!((status.state.unwrap(), status.refusal.as_str()), (api::State::READY, ""));
    (vm, Host(agent))
}

/// The calls that these tests make.
struct Host(api::AgentClient);

type Outcome<T = ()> = Result<T, (Code, String)>;

fn outcome<T>(result: ttrpc::Result<T>) -> Outcome<T> {
    result.map_err(|error| {
        let error = CallError::of(&error).unwrap();
        (error.code, error.message)
    })
}

fn refused(error: PodError) -> Outcome {
    Err((error.code(), error.to_string()))
}

impl Host {
    async fn start(&self, name: &str) -> Outcome {
        self.start_with(name, &[]).await
    }

    async fn start_with(&self, name: &str, env: &[(&str, &str)]) -> Outcome {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = api::StartContainerRequest { name: name.into(), env, ..Default::default() };
        outcome(self.0.start_container(wait(), &request).await).map(drop)
    }

    async fn exec(&self, name: &str, id: &str, args: &[String], terminal: bool) -> Outcome {
        let (name, exec, args) = (name.into(), id.into(), args.to_vec());
        let request = api::StartExecRequest { name, exec, args, terminal, ..Default::default() };
        outcome(self.0.start_exec(wait(), &request).await).map(drop)
    }

    async fn ended(&self, name: &str, exec: &str) -> api::WaitContainerResponse {
        let request = api::ContainerRequest { name: name.into(), exec: exec.into(), ..Default::default() };
        self.0.wait_container(wait(), &request).await.unwrap()
    }

    async fn code(&self, name: &str) -> u32 {
        self.ended(name, "").await.exit_code
    }

    async fn read(&self, name: &str, exec: &str) -> Outcome<Vec<u8>> {
        let (name, exec) = (name.into(), exec.into());
        let request = api::ReadOutputRequest { name, exec, ..Default::default() };
        outcome(self.0.read_output(wait(), &request).await).map(|reply| reply.data)
    }

    async fn output(&self, name: &str, exec: &str) -> String {
        let mut text = Vec::new();
        loop {
            let data = self.read(name, exec).await.unwrap();
            if data.is_empty() {
                return String::from_utf8(text).unwrap();
            }
            text.extend(data);
        }
    }

    async fn signal(&self, name: &str, signal: u32, all: bool) -> Outcome {
        let request = api::SignalContainerRequest { name: name.into(), signal, all, ..Default::default() };
        outcome(self.0.signal_container(wait(), &request).await).map(drop)
    }

    async fn put(&self, volume: &str, files: &[(&str, &str)]) -> Outcome {
        let file = |(path, data): &(&str, &str)| api::VolumeFile {
            path: (*path).into(),
            data: (*data).into(),
            ..Default::default()
        };
        let files = files.iter().map(file).collect();
        let request = api::PutVolumeRequest { volume: volume.into(), files, ..Default::default() };
        outcome(self.0.put_volume(wait(), &request).await).map(drop)
    }
}

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn containers_start_in_order_and_as_often_as_the_contract_says() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let init = |verbs: &str, init| Container {
        init,
        restart: Restart::OnFailure,
        mounts: vec![mount("shared", "/shared")],
        ..container(&image, verbs)
    };
    let app = "cat /shared/greeting cat /mark append /mark used cat /proc/sys/net/ipv4/ip_unprivileged_port_start \
               cat /proc/sys/kernel/shm_rmid_forced append /dev/termination-log bye sleep 600";
    let mut containers = vec![
        ("first".to_owned(), init("once /shared/tried append /shared/greeting hello", 1)),
        ("second".to_owned(), init("append /shared/greeting -again", 2)),
        ("app".to_owned(), Container { restart: Restart::OnFailure, init: 0, ..init(app, 0) }),
        ("once".to_owned(), container(&image, "append /dev/termination-log secret exit 4")),
    ];
    containers[3].1.logs = Permission::Deny;
    containers.extend((1..=10).map(|number| (format!("more-{number}"), container(&image, "cat /shared/greeting"))));
    let (_vm, host) = boot(&image, &dir, containers, |contract| {
        contract.volumes.insert("shared".into(), Volume::Scratch { size_bytes: 1 << 20 });
        let sysctls = [("net.ipv4.ip_unprivileged_port_start", "80"), ("kernel.shm_rmid_forced", "1")];
        contract.pod.sysctls = sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    })
    .await;

    let order = |name: &str, before: &str, found: &str| {
        refused(PodError::Order { name: name.into(), before: before.into(), found: found.into() })
    };
    let no_restart = |name: &str, ended: &str, restart| {
        refused(PodError::NoRestart { name: name.into(), ended: ended.into(), restart })
    };
    assert_eq!(host.start("app").await, order("app", "first", "was not started"));
    assert_eq!(host.start("second").await, order("second", "first", "was not started"));
    host.start("first").await.unwrap();
    assert_eq!(host.code("first").await, 3);
    assert_eq!(host.start("second").await, order("second", "first", "has ended with 3"));
    host.start("first").await.unwrap();
    assert_eq!(host.code("first").await, 0);
    assert_eq!(host.start("first").await, no_restart("first", "has ended with 0", "on-failure"));
    assert_eq!(host.start("app").await, order("app", "second", "was not started"));
    host.start("second").await.unwrap();
    assert_eq!(host.code("second").await, 0);

    // Twice: each run has a fresh writable layer, and the shared volume stays.
    for _ in 0..2 {
        host.start("app").await.unwrap();
        assert_eq!(host.start("app").await, refused(PodError::Started("app".into())));
        let mut text = String::new();
        while text.lines().count() < 4 {
            text.push_str(&String::from_utf8(host.read("app", "").await.unwrap()).unwrap());
        }
        assert_eq!(text, "hello-again\nnone\n80\n1\n");
        let stats = host.0.stats(wait(), &api::Empty::new()).await.unwrap();
        let app = &stats.containers[0];
        assert_eq!((stats.containers.len(), app.name.as_str(), app.pids), (1, "app", 1), "{stats}");
        assert!(app.memory_usage > 0 && app.cpu_usage_us > 0 && stats.memory_total > stats.memory_available, "{stats}");
        host.signal("app", 9, true).await.unwrap();
        let ended = host.ended("app", "").await;
        assert_eq!((ended.exit_code, ended.oom_killed, ended.termination_message.as_str()), (137, false, "bye"));
    }
    // What may not leave does not leave as a message, either.
    host.start("once").await.unwrap();
    let ended = host.ended("once", "").await;
    assert_eq!((ended.exit_code, ended.termination_message.as_str()), (4, ""));
    assert_eq!(host.start("once").await, no_restart("once", "has ended with 4", "never"));

    // Many of one layer, at once; none of them has the volume.
    let names: Vec<String> = (1..=10).map(|number| format!("more-{number}")).collect();
    let started = futures_util::future::join_all(names.iter().map(|name| host.start(name))).await;
    assert!(started.iter().all(Result::is_ok), "{started:?}");
    for name in &names {
        assert_eq!((host.output(name, "").await.as_str(), host.code(name).await), ("none\n", 0));
    }
}

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn a_signal_makes_no_init_container_done() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let first = container(&image, "polite cat /none line");
    let first = Container { init: 1, restart: Restart::OnFailure, stdin: Permission::Allow, ..first };
    let containers = [("first", first), ("app", container(&image, "cat /none"))];
    let containers = containers.map(|(name, container)| (name.to_owned(), container)).to_vec();
    let (_vm, host) = boot(&image, &dir, containers, |_| {}).await;

    host.start("first").await.unwrap();
    assert_eq!(host.read("first", "").await, Ok(b"none\n".to_vec()));
    assert_eq!(host.signal("first", 15, true).await, refused(PodError::AllButKill(15)));
    host.signal("first", 15, false).await.unwrap();
    assert_eq!(host.code("first").await, 0);
    let (name, before) = ("app".to_owned(), "first".to_owned());
    let found = "has ended with 0 after the host sent it a signal".to_owned();
    assert_eq!(host.start("app").await, refused(PodError::Order { name, before, found }));
    // It may be done again, as after a failure; left alone, it is done.
    host.start("first").await.unwrap();
    assert_eq!(host.read("first", "").await, Ok(b"none\n".to_vec()));
    let input = api::WriteInputRequest { name: "first".into(), data: b"go\n".to_vec(), ..Default::default() };
    host.0.write_input(wait(), &input).await.unwrap();
    assert_eq!(host.code("first").await, 0);
    host.start("app").await.unwrap();
    assert_eq!(host.code("app").await, 0);
}

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn further_processes_are_those_of_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let check = words("cat /proc/1/cgroup env GREETING exit 5");
    let main = Container {
        exec: vec![check.clone(), words("line size"), words("sleep 600"), words("exit 1")],
        env: [("GREETING".to_owned(), "hi".to_owned())].into(),
        stdin: Permission::Allow,
        ..container(&image, "sleep 600")
    };
    let quiet = Container { logs: Permission::Deny, ..main.clone() };
    let screen = Container { terminal: true, ..main.clone() };
    let containers = [("main", main), ("quiet", quiet), ("screen", screen)];
    let containers = containers.map(|(name, container)| (name.to_owned(), container)).to_vec();
    let (_vm, host) = boot(&image, &dir, containers, |_| {}).await;

    assert_eq!(host.exec("main", "x", &check, false).await, refused(PodError::NotStarted("main".into())));
    host.start("main").await.unwrap();
    host.start("quiet").await.unwrap();
    host.start("screen").await.unwrap();
    host.exec("main", "x", &check, false).await.unwrap();
    assert_eq!(host.output("main", "x").await, "0::/\nhi\n");
    let exists = PodError::ExecExists { name: "main".into(), id: "x".into() };
    assert_eq!(host.exec("main", "x", &check, false).await, refused(exists));
    assert_eq!(host.ended("main", "x").await.exit_code, 5);

    // One word more, and one letter less.
    for args in [words("cat /proc/1/cgroup env GREETING exit 5 6"), words("cat /proc/1/cgrou env GREETING exit 5")] {
        let command = format!("{args:?}");
        let denied = PodError::ExecDenied { name: "main".into(), command, listed: 4 };
        assert_eq!(denied.code(), Code::PermissionDenied);
        assert_eq!(host.exec("main", "y", &args, false).await, refused(denied));
    }
    let unknown = PodError::ExecUnknown { name: "main".into(), id: "y".into() };
    assert_eq!(host.read("main", "y").await.map(drop), refused(unknown));

    // A terminal of its own, where the contract gives one: its size, its input, its output.
    let denied = PodError::ExecTerminal("main".into());
    assert_eq!(host.exec("main", "t", &words("line size"), true).await, refused(denied));
    host.exec("screen", "t", &words("line size"), true).await.unwrap();
    let resize = |exec: &str, columns| api::ResizeTerminalRequest {
        name: if exec.is_empty() { "main" } else { "screen" }.into(),
        exec: exec.into(),
        columns,
        rows: 43,
        ..Default::default()
    };
    host.0.resize_terminal(wait(), &resize("t", 132)).await.unwrap();
    let size = outcome(host.0.resize_terminal(wait(), &resize("t", 65536)).await).map(drop);
    assert_eq!(size, refused(PodError::TerminalSize { columns: 65536, rows: 43 }));
    let none = outcome(host.0.resize_terminal(wait(), &resize("", 132)).await).map(drop);
    assert_eq!(none, refused(PodError::NoTerminal("main".into())));
    let (name, exec) = ("screen".into(), "t".into());
    let input = api::WriteInputRequest { name, exec, data: b"go\n".to_vec(), ..Default::default() };
    host.0.write_input(wait(), &input).await.unwrap();
    assert_eq!(host.output("screen", "t").await, "go\r\nline go\r\n132 x 43\r\n");
    assert_eq!(host.ended("screen", "t").await.exit_code, 0);

    // Where no output may leave, the status still does: probes need it.
    host.exec("quiet", "x", &check, false).await.unwrap();
    assert_eq!(host.ended("quiet", "x").await.exit_code, 5);
    let denied = PodError::Denied { field: "logs", name: "quiet".into() };
    assert_eq!(host.read("quiet", "x").await.map(drop), refused(denied));

    // It ends with its container.
    host.exec("main", "z", &words("sleep 600"), false).await.unwrap();
    host.signal("main", 9, false).await.unwrap();
    assert_eq!((host.ended("main", "z").await.exit_code, host.code("main").await), (137, 137));
    assert_eq!(host.exec("main", "late", &check, false).await, refused(PodError::Ended("main".into())));
}

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn volumes_and_values_of_the_host_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let sha256 = |text: &str| hex::encode(digest(&SHA256, text.as_bytes()));
    let measured = MeasuredFile { sha256: sha256("rule 1\n"), mode: 0o644 };
    let address = HostFile { kind: HostType::Ip, mode: 0o644, optional: false };
    let volumes = [
        ("rules", Volume::Measured { files: [("rules.txt".to_owned(), measured)].into() }),
        ("place", Volume::Host { files: [("address".to_owned(), address)].into(), others: false }),
    ];
    let main = Container {
        mounts: vec![mount("rules", "/etc/rules"), mount("place", "/place")],
        env_from_host: [("NODE".to_owned(), HostType::DnsName)].into(),
        service_links: true,
        stdin: Permission::Allow,
        ..container(
            &image,
            "cat /etc/rules/rules.txt cat /place/address env NODE env DB_SERVICE_HOST append /place/address x line cat /place/address",
        )
    };
    let mut hungry = container(&image, "alloc 64000000");
    hungry.resources.memory_bytes = Some(32 << 20);
    let modest = Container { args: words("alloc 1000000"), ..hungry.clone() };
    let containers = [("main", main), ("hungry", hungry), ("modest", modest)];
    let containers = containers.map(|(name, container)| (name.to_owned(), container)).to_vec();
    let (_vm, host) = boot(&image, &dir, containers, |contract| {
        contract.volumes =
            volumes.map(|(name, volume)| (name.to_owned(), volume)).into_iter().collect::<BTreeMap<_, _>>();
    })
    .await;
    let env = [("NODE", "node-1.example"), ("DB_SERVICE_HOST", "10.0.0.9")];

    let not_put = |volume: &str| {
        let message =
            format!("volume {volume:?} has no files yet, which container \"main\" needs: call PutVolume first");
        Err((Code::FailedPrecondition, message))
    };
    assert_eq!(host.start_with("main", &env).await, not_put("rules"));
    let swapped = format!(
        "file \"rules.txt\" of volume \"rules\" is not the one of the contract: sha256 expected {}, found {}",
        sha256("rule 1\n"),
        sha256("rule 2\n")
    );
    assert_eq!(host.put("rules", &[("rules.txt", "rule 2\n")]).await, Err((Code::PermissionDenied, swapped)));
    assert_eq!(host.start_with("main", &env).await, not_put("rules"));
    host.put("rules", &[("rules.txt", "rule 1\n")]).await.unwrap();
    assert_eq!(host.start_with("main", &env).await, not_put("place"));
    let (code, message) = host.put("place", &[("address", "10.0.0.256")]).await.unwrap_err();
    assert_eq!(code, Code::PermissionDenied);
    assert!(
        message.starts_with("file \"address\" of volume \"place\": \"10.0.0.256\" was found, expected "),
        "{message}"
    );
    let (code, message) = host.put("place", &[("address", "10.0.0.5"), ("more", "")]).await.unwrap_err();
    assert_eq!(code, Code::PermissionDenied);
    assert_eq!(message, "file \"more\" of volume \"place\" is not in the contract, and the contract allows no others");
    assert_eq!(host.put("other", &[]).await, Err((Code::NotFound, "the contract has no volume \"other\"".into())));
    host.put("place", &[("address", "10.0.0.5")]).await.unwrap();

    for (env, wrong) in [
        (&[("NODE", "node_1!"), env[1]][..], "NODE"),
        (&[env[0], ("DB_SERVICE_HOST", "evil.example")], "DB_SERVICE_HOST"),
        (&[env[0], ("LD_PRELOAD", "/place/x")], "LD_PRELOAD"),
        (&[env[1]], "NODE"),
    ] {
        let (code, message) = host.start_with("main", env).await.unwrap_err();
        assert_eq!(code, Code::PermissionDenied, "{message}");
        assert!(message.contains(wrong) && message.contains("main"), "{message}");
    }
    host.start_with("main", &env).await.unwrap();
    let mut text = String::new();
    while text.lines().count() < 5 {
        text.push_str(&String::from_utf8(host.read("main", "").await.unwrap()).unwrap());
    }
    assert_eq!(text, "rule 1\n10.0.0.5\nnode-1.example\n10.0.0.9\ncannot append to /place/address\n");
    // An update of the host's file arrives in the running container.
    host.put("place", &[("address", "fd00::5")]).await.unwrap();
    let input = api::WriteInputRequest { name: "main".into(), data: b"go\n".to_vec(), ..Default::default() };
    host.0.write_input(wait(), &input).await.unwrap();
    assert_eq!(host.output("main", "").await, "line go\nfd00::5\n");

    // Too little memory, and its twin that asks for less.
    for (name, code, oom) in [("hungry", 137, true), ("modest", 0, false)] {
        host.start(name).await.unwrap();
        let ended = host.ended(name, "").await;
        assert_eq!((ended.exit_code, ended.oom_killed), (code, oom), "{name}");
    }
}
