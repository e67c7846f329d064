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

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair},
};
use belljar_broker::{Anchors, Broker, Config, Reference, Resource, Workload};
use belljar_contract::{BrokerPin, Contract, Initdata, Secret, encode_disk};
use belljar_evidence::snp::{CertKind, CertTable};
use belljar_guest_api::{
    PROTOCOL, api,
    names::layer_serial,
    softport,
    status::{CallError, Code},
};
use belljar_softtee::Keys;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ttrpc::{asynchronous::transport::Socket, context};

struct Vm {
    qemu: Child,
    dir: tempfile::TempDir,
    started: Instant,
}

impl Vm {
    fn start(extra: &[String]) -> Option<Self> {
        let parts = PathBuf::from(std::env::var_os("BELLJAR_BOOT_TEST").expect("`make test` sets BELLJAR_BOOT_TEST"));
        let agent = PathBuf::from(std::env::var_os("BELLJAR_AGENT").expect("`make test` sets BELLJAR_AGENT"));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("initrd"), initrd(&parts, &agent)).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let started = Instant::now();
        let qemu = Command::new("qemu-system-x86_64")
            .args("-M q35,accel=tcg -cpu max -m 256 -bios qboot.rom -nodefaults -no-user-config".split(' '))
            .args("-display none -no-reboot -kernel".split(' '))
            .arg(parts.join("vmlinux"))
            .args(["-initrd", &path("initrd")])
            .args(["-append", "console=hvc0 8250.nr_uarts=0 quiet cryptomgr.notests belljar.debug"])
            .args("-device virtio-serial-pci,max_ports=8 -device virtconsole,chardev=c0,nr=0 -chardev".split(' '))
            .arg(format!("file,id=c0,path={}", path("console")))
            .args("-device virtserialport,chardev=p1,name=org.belljar.agent,nr=1 -chardev".split(' '))
            .arg(format!("socket,id=p1,path={},server=on,wait=off", path("agent.sock")))
            .args(extra)
            .args(std::env::var("BELLJAR_QEMU_ARGS").unwrap_or_default().split_whitespace())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { qemu, dir, started })
    }

    async fn client(&self) -> api::AgentClient {
        let path = self.dir.path().join("agent.sock");
        let deadline = Instant::now() + Duration::from_secs(10);
        // There is no socket at first, and then, for a moment, one that QEMU has bound and does not listen on yet.
        let socket = loop {
            match tokio::net::UnixStream::connect(&path).await {
                Ok(socket) => break socket,
                Err(error) => assert!(Instant::now() < deadline, "QEMU does not listen on {}: {error}", path.display()),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        api::AgentClient::new(ttrpc::r#async::Client::new(Socket::new(socket)))
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("console")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            eprintln!("console of the guest:\n{}", self.console());
        }
    }
}

/// A newc archive (cpio(5)) with the agent as `/init` and the modules.
fn initrd(parts: &Path, agent: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut entry = |name: &str, mode: u32, data: &[u8]| {
        let fields = [1, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        archive.extend_from_slice(b"070701");
        archive.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    entry("init", 0o100_755, &fs::read(agent).unwrap());
    for dir in ["lib", "lib/modules"] {
        entry(dir, 0o040_755, b"");
    }
    let order = fs::read_to_string(parts.join("mods/order")).unwrap();
    for module in order.lines() {
        entry(&format!("lib/modules/{module}"), 0o100_644, &fs::read(parts.join("mods").join(module)).unwrap());
    }
    entry("lib/modules/order", 0o100_644, order.as_bytes());
    entry("TRAILER!!!", 0, b"");
    archive
}

/// Says hello, and gives the client.
async fn greeted(vm: &Vm) -> api::AgentClient {
    let agent = vm.client().await;
    let hello = api::HelloRequest { protocol: PROTOCOL, ..Default::default() };
    agent.hello(wait(), &hello).await.unwrap();
    agent
}

fn wait() -> context::Context {
    context::with_duration(Duration::from_secs(30))
}

/// The first status with another state than booting and attesting.
async fn settled(agent: &api::AgentClient) -> api::StatusResponse {
    let mut status = api::StatusResponse::new();
    while matches!(status.state.unwrap(), api::State::BOOTING | api::State::ATTESTING) {
        let request = api::StatusRequest { generation: status.generation, timeout_ms: 30_000, ..Default::default() };
        status = agent.status(wait(), &request).await.unwrap();
    }
    status
}

fn print(status: &api::StatusResponse) {
    for phase in &status.phases {
        let taken = phase.end_us - phase.start_us;
        println!("{:>24} {:>9} .. {:>9} us ({taken})", phase.name, phase.start_us, phase.end_us);
    }
}

/// One layer with a static program: an erofs image and its dm-verity tree.
struct Image {
    file: PathBuf,
    root: String,
    blocks: u64,
}

const PROGRAM: &str = r#"
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char line[256];
    printf("hello from %d args, uid %d\n", argc, getuid());
    fflush(stdout);
    fprintf(stderr, "to stderr\n");
    if (argc > 1 && !strcmp(argv[1], "cat"))
        while (fgets(line, sizeof line, stdin)) { printf("got %s", line); fflush(stdout); }
    if (argc > 1 && !strcmp(argv[1], "show")) {
        FILE *f = fopen("/run/secrets/key", "r");
        printf("file: %s\n", f && fgets(line, sizeof line, f) ? line : "none");
        struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(8006), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        const char *ask = "GET /cdh/resource/default/key/1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        char answer[2048] = ""; int n, s = socket(AF_INET, SOCK_STREAM, 0), have = 0;
        if (connect(s, (struct sockaddr *) &at, sizeof at) == 0 && write(s, ask, strlen(ask)) > 0)
            while ((n = read(s, answer + have, sizeof answer - 1 - have)) > 0) have += n;
        char *body = strstr(answer, "\r\n\r\n");
        printf("api: %s\n", body ? body + 4 : "none");
    }
    if (argc > 1 && !strcmp(argv[1], "big")) {
        FILE *f = fopen("/data", "r"); int c; unsigned long n = 0;
        sleep(1);
        while ((c = fgetc(f)) != EOF) n += c;
        printf("sum %lu\n", n);
    }
    return 7;
}
"#;

impl Image {
    fn build(dir: &Path) -> Self {
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let tree = dir.join("tree");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        fs::write(dir.join("program.c"), PROGRAM).unwrap();
        run(Command::new("cc").args(["-static", "-Os", "-o"]).arg(tree.join("bin/program")).arg(dir.join("program.c")));
        fs::write(tree.join("data"), vec![b'd'; 1 << 20]).unwrap();
        let file = dir.join("layer");
        run(Command::new("mkfs.erofs").args(["-T0", "--all-root"]).arg(&file).arg(&tree));
        let blocks = fs::metadata(&file).unwrap().len().div_ceil(4096);
        fs::File::options().write(true).open(&file).unwrap().set_len(blocks * 4096).unwrap();
        let said = run(Command::new("veritysetup")
            .args(["format", "--no-superblock", "--salt=00ff", &format!("--data-blocks={blocks}")])
            .arg(format!("--hash-offset={}", blocks * 4096))
            .args([&file, &file]));
        let root = said.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim().to_owned();
        Self { file, root, blocks }
    }

    /// A contract with one container `main` of this image.
    fn contract(&self, args: &[&str], more: &str) -> Contract {
        let args: Vec<String> = args.iter().map(|arg| format!("\"{arg}\"")).collect();
        let text = format!(
            "version = 1\ndebug = true\n[containers.main]\nimage = \"test\"\nimage_digest = \"sha256:{}\"\nargs = [{}]\n{more}\n\
             [[containers.main.layers]]\nverity_root = \"{}\"\nsalt = \"00ff\"\ndata_blocks = {}\n",
            "0".repeat(64),
            args.join(", "),
            self.root,
            self.blocks
        );
        Contract::parse(&text).unwrap()
    }
}

/// What a host does for a pod: disks, and a tee port that answers with unsigned reports (without a broker, nobody
/// verifies them).
fn host(dir: &Path, image: &Image, contract: &Contract, host_data: Option<[u8; 32]>) -> Vec<String> {
    host_with(dir, image, contract, host_data, |report| (report, Vec::new()))
}

/// [`host`], with a software TEE that finishes each report and adds a certificate table.
fn host_with(
    dir: &Path,
    image: &Image,
    contract: &Contract,
    host_data: Option<[u8; 32]>,
    finish: impl Fn(Vec<u8>) -> (Vec<u8>, Vec<u8>) + Send + 'static,
) -> Vec<String> {
    let raw = Initdata::with_contract(contract).to_toml();
    let host_data = host_data.unwrap_or_else(|| belljar_contract::digest(raw.as_bytes()).unwrap().host_data());
    fs::write(dir.join("initdata"), encode_disk(raw.as_bytes())).unwrap();
    let listener = UnixListener::bind(dir.join("tee.sock")).unwrap();
    thread::spawn(move || {
        let (mut port, _) = listener.accept().unwrap();
        let mut request = [0; softport::REQUEST_LEN];
        while port.read_exact(&mut request).is_ok() {
            let mut report = vec![0; 1184];
            report[0] = 2;
            report[0x50..0x90].copy_from_slice(&softport::Request::decode(&request).unwrap().report_data);
            report[0xC0..0xE0].copy_from_slice(&host_data);
            let (report, aux) = finish(report);
            let response = softport::Response::Report { report, aux };
            port.write_all(&response.encode().unwrap()).unwrap();
        }
    });
    let disk = |id: &str, file: &Path, serial: &str| {
        let drive = format!("file={},if=none,id={id},format=raw,read-only=on", file.display());
        ["-drive".to_owned(), drive, "-device".to_owned(), format!("virtio-blk-pci,drive={id},serial={serial}")]
    };
    let tee = format!("socket,id=p2,path={}", dir.join("tee.sock").display());
    let mut extra = vec!["-chardev".to_owned(), tee, "-device".to_owned()];
    extra.push("virtserialport,chardev=p2,name=org.belljar.tee,nr=2".to_owned());
    extra.extend(disk("d0", &dir.join("initdata"), "initdata"));
    extra.extend(disk("d1", &image.file, &layer_serial(&image.root).unwrap()));
    extra
}

async fn output(agent: &api::AgentClient, output: api::Output) -> String {
    let mut text = Vec::new();
    loop {
        let request = api::ReadOutputRequest { name: "main".into(), output: output.into(), ..Default::default() };
        let reply = agent.read_output(wait(), &request).await.unwrap();
        text.extend_from_slice(&reply.data);
        if reply.eof {
            return String::from_utf8(text).unwrap();
        }
    }
}

fn main_container() -> api::StartContainerRequest {
    api::StartContainerRequest { name: "main".into(), ..Default::default() }
}

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

/// A report of the software TEE: version 3, measurement `a1…`, signed with the endorsement key of `keys`.
fn sign(keys: &Keys, signer: &EcdsaKeyPair, mut report: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let tcb = [1, 1, 0, 0, 0, 0, 1, 1];
    let fields: [(usize, &[u8]); 11] = [
        (0x00, &3_u32.to_le_bytes()),
        (0x08, &0x3_0000_u64.to_le_bytes()),
        (0x34, &1_u32.to_le_bytes()),
        (0x38, &tcb),
        (0x90, &[0xa1; 48]),
        (0x160, &[0xff; 32]),
        (0x180, &tcb),
        (0x188, &[0x19, 1, 1]),
        (0x1a0, keys.chip_id()),
        (0x1e0, &tcb),
        (0x1f0, &tcb),
    ];
    for (offset, bytes) in fields {
        report[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    let signature = signer.sign(&SystemRandom::new(), &report[..0x2a0]).unwrap();
    for (half, offset) in signature.as_ref().chunks(48).zip([0x2a0, 0x2e8]) {
        let little: Vec<u8> = half.iter().rev().copied().collect();
        report[offset..offset + 48].copy_from_slice(&little);
    }
    let chain = keys.chain();
    let certs = [(CertKind::Vcek, chain.vek), (CertKind::Ask, chain.ask), (CertKind::Ark, chain.ark)];
    (report, CertTable::new(certs).encode().unwrap())
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
    let broker = Broker::new(Config { anchors, allow_software_tee: true, ..Config::default() }).unwrap();
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
            references: vec![Reference { name: "guest".into(), owner: "test".into(), measurement: [expected; 48] }],
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
