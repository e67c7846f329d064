//! A pod VM under QEMU (TCG) and what its host does: disks, ports, an image with one program.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aws_lc_rs::{rand::SystemRandom, signature::EcdsaKeyPair};
use belljar_contract::{Contract, Initdata, encode_disk};
use belljar_evidence::snp::{CertKind, CertTable};
use belljar_guest_api::{PROTOCOL, api, names::layer_serial, softport};
use belljar_softtee::Keys;
use ttrpc::{asynchronous::transport::Socket, context};

pub struct Vm {
    pub qemu: Child,
    pub dir: tempfile::TempDir,
    pub started: Instant,
}

impl Vm {
    pub fn start(extra: &[String]) -> Option<Self> {
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

    pub async fn client(&self) -> api::AgentClient {
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

    pub fn console(&self) -> String {
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
pub fn initrd(parts: &Path, agent: &Path) -> Vec<u8> {
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
    for list in ["order", "order.net"] {
        let order = fs::read_to_string(parts.join("mods").join(list)).unwrap();
        for module in order.lines() {
            entry(&format!("lib/modules/{module}"), 0o100_644, &fs::read(parts.join("mods").join(module)).unwrap());
        }
        entry(&format!("lib/modules/{list}"), 0o100_644, order.as_bytes());
    }
    entry("TRAILER!!!", 0, b"");
    archive
}

/// Says hello, and gives the client.
pub async fn greeted(vm: &Vm) -> api::AgentClient {
    let agent = vm.client().await;
    let hello = api::HelloRequest { protocol: PROTOCOL, ..Default::default() };
    agent.hello(wait(), &hello).await.unwrap();
    agent
}

pub fn wait() -> context::Context {
    context::with_duration(Duration::from_secs(30))
}

/// The first status with another state than booting and attesting.
pub async fn settled(agent: &api::AgentClient) -> api::StatusResponse {
    let mut status = api::StatusResponse::new();
    while matches!(status.state.unwrap(), api::State::BOOTING | api::State::ATTESTING) {
        let request = api::StatusRequest { generation: status.generation, timeout_ms: 30_000, ..Default::default() };
        status = agent.status(wait(), &request).await.unwrap();
    }
    status
}

pub fn print(status: &api::StatusResponse) {
    for phase in &status.phases {
        let taken = phase.end_us - phase.start_us;
        println!("{:>24} {:>9} .. {:>9} us ({taken})", phase.name, phase.start_us, phase.end_us);
    }
}

/// One layer with a static program: an erofs image and its dm-verity tree.
pub struct Image {
    pub file: PathBuf,
    pub root: String,
    pub blocks: u64,
}

pub const PROGRAM: &str = r#"
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
static void polite(int signal) { _exit(0); }
/* Verbs, one after another: each prints a line or nothing. */
static int verbs(char **at) {
    static char text[65536];
    for (; *at; at++) {
        if (!strcmp(*at, "cat")) {
            FILE *f = fopen(*++at, "r");
            size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
            text[n] = 0;
            printf("%s%s", f ? text : "none", n && text[n - 1] == '\n' ? "" : "\n");
            if (f) fclose(f);
        } else if (!strcmp(*at, "append")) {
            FILE *f = fopen(at[1], "a");
            if (f) { fputs(at[2], f); fclose(f); } else printf("cannot append to %s\n", at[1]);
            at += 2;
        } else if (!strcmp(*at, "once")) { /* fails until the file is there, which it makes */
            FILE *f = fopen(*++at, "r");
            if (!f) { fclose(fopen(*at, "w")); return 3; }
            fclose(f);
        } else if (!strcmp(*at, "env")) { char *value = getenv(*++at); printf("%s\n", value ? value : "none");
        } else if (!strcmp(*at, "alloc")) { size_t n = atol(*++at); char *p = malloc(n); if (p) memset(p, 1, n);
        } else if (!strcmp(*at, "line")) { fflush(stdout); if (fgets(text, sizeof text, stdin)) printf("line %s", text);
        } else if (!strcmp(*at, "size")) { struct winsize w = {0}; ioctl(0, TIOCGWINSZ, &w); printf("%d x %d\n", w.ws_col, w.ws_row);
        } else if (!strcmp(*at, "sleep")) { fflush(stdout); sleep(atoi(*++at));
        } else if (!strcmp(*at, "polite")) { signal(SIGTERM, polite);
        } else if (!strcmp(*at, "exit")) return atoi(*++at);
        fflush(stdout);
    }
    return 0;
}
int main(int argc, char **argv) {
    char line[256];
    if (argc > 1 && !strcmp(argv[1], "do")) return verbs(argv + 2);
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
    if (argc > 1 && !strcmp(argv[1], "files"))
        for (int i = 2; i < argc; i++) {
            FILE *f = fopen(argv[i], "r");
            printf("%s:\n", argv[i]);
            while (f && fgets(line, sizeof line, f)) printf("%s", line);
            if (f) fclose(f);
        }
    if (argc > 1 && !strcmp(argv[1], "serve")) {
        struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(8080), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int n, s = socket(AF_INET, SOCK_STREAM, 0), one;
        if (bind(s, (struct sockaddr *) &at, sizeof at) || listen(s, 1)) return 8;
        printf("listening\n");
        fflush(stdout);
        one = accept(s, 0, 0);
        while ((n = read(one, line, sizeof line)) > 0 && write(one, line, n) == n);
        close(one);
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
    pub fn build(dir: &Path) -> Self {
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
    pub fn contract(&self, args: &[&str], more: &str) -> Contract {
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
pub fn host(dir: &Path, image: &Image, contract: &Contract, host_data: Option<[u8; 32]>) -> Vec<String> {
    host_with(dir, image, contract, host_data, |report| (report, Vec::new()))
}

/// [`host`], with a software TEE that finishes each report and adds a certificate table.
pub fn host_with(
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

pub async fn output(agent: &api::AgentClient, output: api::Output) -> String {
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

pub fn main_container() -> api::StartContainerRequest {
    api::StartContainerRequest { name: "main".into(), ..Default::default() }
}

/// A report of the software TEE: version 3, measurement `a1…`, signed with the endorsement key of `keys`.
pub fn sign(keys: &Keys, signer: &EcdsaKeyPair, mut report: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
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
