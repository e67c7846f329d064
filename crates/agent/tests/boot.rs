//! Boots the agent as PID 1 under QEMU (TCG) and talks to it over virtio-serial.
//!
//! Needs `qemu-system-x86_64`, a PVH `vmlinux` and its modules; `BELLJAR_BOOT_TEST` names a folder with `vmlinux`,
//! `mods/*.ko` and `mods/order`, and `BELLJAR_AGENT` the agent's release binary. `make test` makes both and runs these tests;
//! elsewhere they are reported as ignored. `BELLJAR_QEMU_ARGS` is added to QEMU's command line: with `-icount shift=0`
//! the printed phases count thousands of instructions, which a loaded machine does not change.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

#[path = "boot/harness.rs"]
mod harness;
#[path = "boot/pods.rs"]
mod pods;

use std::{fs, path::Path, time::Duration};

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use belljar_broker::{Anchors, Broker, Config, Reference, Resource, Trust, Workload};
use belljar_contract::{BrokerPin, Initdata, Secret};
use belljar_guest_api::{
    PROTOCOL, api,
    status::{CallError, Code},
};
use belljar_softtee::Keys;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ttrpc::context;

use harness::{Image, Vm, greeted, host, host_with, main_container, output, print, settled, sign, wait};

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn a_container_runs_out_of_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let contract = image.contract(&["/bin/program", "cat"], "logs = \"allow\"\nstdin = \"allow\"");
    let vm = Vm::start(&host(dir.path(), &image, &contract, None)).unwrap();
    let agent = greeted(&vm).await;
    let status = settled(&agent).await;
    print(&status);
    assert_eq!((status.state.unwrap(), status.refusal.as_str()), (api::State::READY, ""));

    let nobody = api::StartContainerRequest { name: "other".into(), ..Default::default() };
    let unknown = agent.start_container(wait(), &nobody).await.unwrap_err();
    assert_eq!(CallError::of(&unknown).unwrap().code, Code::NotFound);
    agent.start_container(wait(), &main_container()).await.unwrap();
    println!("started after {:?}", vm.started.elapsed());
    let again = agent.start_container(wait(), &main_container()).await.unwrap_err();
    assert_eq!(CallError::of(&again).unwrap().code, Code::AlreadyExists);
    for line in ["one\n", "two\n"] {
        let input = api::WriteInputRequest { name: "main".into(), data: line.into(), ..Default::default() };
        agent.write_input(wait(), &input).await.unwrap();
    }
    let main = api::ContainerRequest { name: "main".into(), ..Default::default() };
    agent.close_input(wait(), &main).await.unwrap();
    assert_eq!(output(&agent, api::Output::STDOUT).await, "hello from 2 args, uid 0\ngot one\ngot two\n");
    assert_eq!(output(&agent, api::Output::STDERR).await, "to stderr\n");
    let ended = agent.wait_container(wait(), &main).await.unwrap();
    assert_eq!((ended.exit_code, ended.oom_killed, ended.refusal.as_str()), (7, false, ""));
    print(&agent.status(wait(), &api::StatusRequest::new()).await.unwrap());
    println!("{}", vm.console());
    agent.shutdown(wait(), &api::ShutdownRequest::new()).await.unwrap();
}

/// Carries tunnels to the broker, as the host does.
async fn carry(agent: api::AgentClient, broker: std::net::SocketAddr) {
    loop {
        let request = api::TunnelAcceptRequest { timeout_ms: 20_000, ..Default::default() };
        let Ok(tunnel) = agent.tunnel_accept(wait(), &request).await else { return };
        if tunnel.id == 0 {
            continue;
        }
        assert_eq!(tunnel.target, "broker");
        let (mut from, mut to) = tokio::net::TcpStream::connect(broker).await.unwrap().into_split();
        let (up, down, id) = (agent.clone(), agent.clone(), tunnel.id);
        tokio::spawn(async move {
            loop {
                let request = api::TunnelReadRequest { id, ..Default::default() };
                let Ok(reply) = up.tunnel_read(wait(), &request).await else { return };
                if reply.eof || to.write_all(&reply.data).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let mut data = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = from.read(&mut data).await {
                let request = api::TunnelWriteRequest { id, data: data[..count].to_vec(), ..Default::default() };
                if down.tunnel_write(wait(), &request).await.is_err() {
                    return;
                }
            }
            let _ = down.tunnel_close(wait(), &api::TunnelCloseRequest { id, ..Default::default() }).await;
        });
    }
}

/// Boots a pod with a broker that expects the measurement `expected` and pins `pin` (its own when absent).
async fn with_broker(expected: u8, pin: Option<&str>, logs: &str) -> Option<(Vm, api::AgentClient, tempfile::TempDir)> {
    let dir = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("agent-softtee-keys");
    let keys = Keys::load_or_create(&folder).unwrap();
    let key = fs::read(folder.join("v1/vcek.key")).unwrap();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key).unwrap();
    let anchors = Anchors::amd().with_software_root(keys.ark());
    let broker = Broker::new(Config {
        trust: Trust { amd: anchors, ..Trust::default() },
        allow_software_tee: true,
        ..Config::default()
    })
    .unwrap();
    let listening = broker.listen(([127, 0, 0, 1], 0)).await.unwrap();
    let image = Image::build(dir.path());
    let pin = pin.map_or_else(|| listening.pin().to_string(), str::to_owned);
    let mut contract = image.contract(&["/bin/program", "show"], logs);
    contract.broker = Some(BrokerPin { spki_sha256: pin });
    let (resource, path) = ("kbs:///default/key/1".into(), "/run/secrets/key".into());
    let container = contract.containers.get_mut("main").unwrap();
    container.secret_api = true;
    container.secrets = vec![Secret { name: "key".into(), resource, path, mode: 0o400 }];
    let raw = Initdata::with_contract(&contract).to_toml();
    broker
        .register(Workload {
            name: "test".into(),
            owner: "test".into(),
            initdata_digest: belljar_contract::digest(raw.as_bytes()).unwrap().host_data(),
            references: vec![Reference::software("guest", "test", [expected; 48])],
            resources: vec![Resource { path: "default/key/1".into(), content: b"the key".to_vec().into() }],
            rules: vec!["default/key/1".parse().unwrap()],
            ttl: None,
        })
        .unwrap();
    let finish = move |report| sign(&keys, &signer, report);
    let vm = Vm::start(&host_with(dir.path(), &image, &contract, None, finish)).unwrap();
    let agent = greeted(&vm).await;
    tokio::spawn(carry(agent.clone(), listening.address()));
    // The broker ends with the test's runtime.
    std::mem::forget(listening);
    std::mem::forget(broker);
    Some((vm, agent, dir))
}

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn a_secret_arrives_after_attestation() {
    let (vm, agent, _dir) = with_broker(0xa1, None, "logs = \"allow\"").await.unwrap();
    let status = settled(&agent).await;
    print(&status);
    println!("{}", vm.console());
    assert_eq!((status.state.unwrap(), status.refusal.as_str()), (api::State::READY, ""));
    agent.start_container(wait(), &main_container()).await.unwrap();
    let found = output(&agent, api::Output::STDOUT).await;
    assert_eq!(found, "hello from 2 args, uid 0\nfile: the key\napi: the key\n");
    // SPECIFICATION: at most 16 MiB.
    let console = vm.console();
    let rss = console.split("ready").nth(1).and_then(|rest| rest.split("rss=\"").nth(1)).unwrap_or_default();
    let kib: u32 = rss.split(' ').next().unwrap().parse().unwrap();
    println!("agent rss {kib} KiB");
    assert!(kib <= 16 * 1024);
}

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn a_broker_that_expects_another_measurement_refuses() {
    let (_vm, agent, _dir) = with_broker(0xa2, None, "").await.unwrap();
    let status = settled(&agent).await;
    assert_eq!((status.state.unwrap(), status.refusal_kind.as_str()), (api::State::REFUSED, "attestation"));
    assert!(status.refusal.starts_with("broker refused attest ("), "{}", status.refusal);
}

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn a_broker_with_another_key_is_not_believed() {
    let (_vm, agent, _dir) = with_broker(0xa1, Some(&"0".repeat(64)), "").await.unwrap();
    let status = settled(&agent).await;
    assert_eq!((status.state.unwrap(), status.refusal_kind.as_str()), (api::State::REFUSED, "broker"));
    assert!(status.refusal.contains("is not the pinned key 0000"), "{}", status.refusal);
}

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn a_changed_contract_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let contract = image.contract(&["/bin/program"], "");
    let vm = Vm::start(&host(dir.path(), &image, &contract, Some([7; 32]))).unwrap();
    let agent = greeted(&vm).await;
    let status = settled(&agent).await;
    assert_eq!((status.state.unwrap(), status.refusal_kind.as_str()), (api::State::REFUSED, "initdata"));
    let expected = belljar_contract::digest(Initdata::with_contract(&contract).to_toml().as_bytes()).unwrap().to_hex();
    let found = "07".repeat(32);
    let expected = format!("initdata does not match the hardware report: host_data expected {expected}, found {found}");
    assert!(status.refusal.starts_with(&expected), "{}", status.refusal);
    let start = agent.start_container(wait(), &main_container()).await.unwrap_err();
    let start = CallError::of(&start).unwrap();
    assert_eq!((start.code, start.message), (Code::FailedPrecondition, status.refusal));
}

/// The twin of each is `a_container_runs_out_of_the_contract`: the same disks and ports, all there.
#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn what_the_host_leaves_out_or_swaps_is_refused() {
    // The arguments of `host`: four of the tee port, four of the initdata disk, four of the layer's.
    type Change = fn(&mut Vec<String>, &Path);
    let cases: [(Change, &str, &str); 5] = [
        (|host, _| drop(host.drain(8..)), "layer", "is missing: the host attached no disk with serial"),
        (|host, _| drop(host.drain(4..8)), "initdata", "no disk has the serial initdata"),
        (|host, _| drop(host.drain(..4)), "attestation", "no tee found"),
        // Another file, and the right one without its end, under the layer's name.
        (|_, layer| fs::write(layer, vec![7; 4 << 20]).unwrap(), "layer", "was changed by the host"),
        (
            |_, layer| fs::File::options().write(true).open(layer).unwrap().set_len(8192).unwrap(),
            "layer",
            "cannot be opened",
        ),
    ];
    for (change, kind, message) in cases {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::build(dir.path());
        let contract = image.contract(&["/bin/program"], "");
        let mut host = host(dir.path(), &image, &contract, None);
        assert_eq!(host.len(), 12, "{host:?}");
        change(&mut host, &image.file);
        let vm = Vm::start(&host).unwrap();
        let agent = greeted(&vm).await;
        let status = settled(&agent).await;
        assert_eq!((status.state.unwrap(), status.refusal_kind.as_str()), (api::State::REFUSED, kind), "{status}");
        assert!(status.refusal.contains(message), "{message:?} is not in {:?}", status.refusal);
        let start = agent.start_container(wait(), &main_container()).await.unwrap_err();
        assert_eq!(CallError::of(&start).unwrap().code, Code::FailedPrecondition);
    }
}

/// The twin is `a_container_runs_out_of_the_contract`, whose contract allows both.
#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn output_and_input_are_denied_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let contract = image.contract(&["/bin/program"], "");
    let vm = Vm::start(&host(dir.path(), &image, &contract, None)).unwrap();
    let agent = greeted(&vm).await;
    assert_eq!(settled(&agent).await.state.unwrap(), api::State::READY);
    let code = |error: ttrpc::Error| CallError::of(&error).unwrap().code;
    agent.start_container(wait(), &main_container()).await.unwrap();
    for output in [api::Output::STDOUT, api::Output::STDERR] {
        let read = api::ReadOutputRequest { name: "main".into(), output: output.into(), ..Default::default() };
        assert_eq!(code(agent.read_output(wait(), &read).await.unwrap_err()), Code::PermissionDenied);
    }
    let write = api::WriteInputRequest { name: "main".into(), data: b"x".to_vec(), ..Default::default() };
    assert_eq!(code(agent.write_input(wait(), &write).await.unwrap_err()), Code::PermissionDenied);
}

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn a_changed_layer_ends_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let image = Image::build(dir.path());
    let contract = image.contract(&["/bin/program", "big"], "logs = \"allow\"");
    let mut bytes = fs::read(&image.file).unwrap();
    let at = bytes.windows(4096).position(|window| window == [b'd'; 4096]).unwrap() + 500_000;
    bytes[at] ^= 1;
    fs::write(&image.file, bytes).unwrap();
    let vm = Vm::start(&host(dir.path(), &image, &contract, None)).unwrap();
    let agent = greeted(&vm).await;
    assert_eq!(settled(&agent).await.state.unwrap(), api::State::READY);
    agent.start_container(wait(), &main_container()).await.unwrap();
    let main = api::ContainerRequest { name: "main".into(), ..Default::default() };
    let ended = agent.wait_container(wait(), &main).await.unwrap();
    let expected =
        format!("image layer 0 (verity root {}) was changed by the host: a block failed verification", image.root);
    // The program ends with 7 when it sees the failed read before the agent kills it.
    assert!([137, 7].contains(&ended.exit_code), "{}", ended.exit_code);
    assert_eq!((ended.refusal_kind.as_str(), ended.refusal.as_str()), ("layer", expected.as_str()));
    let status = agent.status(wait(), &api::StatusRequest::new()).await.unwrap();
    assert_eq!((status.state.unwrap(), status.refusal), (api::State::REFUSED, expected));
}

#[tokio::test]
#[ignore = "boots a VM; `make test` sets BELLJAR_BOOT_TEST and BELLJAR_AGENT and runs it"]
async fn the_agent_answers_hello_and_status() {
    let Some(mut vm) = Vm::start(&[]) else {
        eprintln!("not run: BELLJAR_BOOT_TEST or BELLJAR_AGENT is not set");
        return;
    };
    let agent = vm.client().await;
    let context = || context::with_duration(Duration::from_secs(30));

    let early = agent.status(context(), &api::StatusRequest::new()).await.unwrap_err();
    println!("first answer after {:?}", vm.started.elapsed());
    assert_eq!(CallError::of(&early).unwrap().code, Code::FailedPrecondition);
    let other = api::HelloRequest { protocol: PROTOCOL + 1, ..Default::default() };
    let other = agent.hello(context(), &other).await.unwrap_err();
    assert_eq!(CallError::of(&other).unwrap().code, Code::FailedPrecondition);
    let hello = api::HelloRequest { protocol: PROTOCOL, ..Default::default() };
    let hello = agent.hello(context(), &hello).await.unwrap();
    assert_eq!((hello.protocol, hello.debug), (PROTOCOL, true));
    let status = agent.status(context(), &api::StatusRequest::new()).await.unwrap();
    for phase in &status.phases {
        println!(
            "{:>14} {:>9} .. {:>9} us ({})",
            phase.name,
            phase.start_us,
            phase.end_us,
            phase.end_us - phase.start_us
        );
    }
    println!("{status:?}\n{}", vm.console());
    assert!(status.phases.iter().any(|phase| phase.name == "modules"));
    agent.shutdown(context(), &api::ShutdownRequest::new()).await.unwrap();
    assert!(tokio::task::spawn_blocking(move || vm.qemu.wait().unwrap()).await.unwrap().success());
}
