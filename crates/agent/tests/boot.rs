//! Boots the agent as PID 1 under QEMU (TCG) and talks to it over virtio-serial.
//!
//! Needs `qemu-system-x86_64`, a PVH `vmlinux` and its modules; `BELLJAR_BOOT_TEST` names a folder with `vmlinux` and
//! `mods/*.ko`, and `BELLJAR_AGENT` the agent's release binary. Without them the test says so and does nothing: the end
//! to end tests boot the real guest image.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use belljar_guest_api::{
    PROTOCOL, api,
    status::{CallError, Code},
};
use ttrpc::{asynchronous::transport::Socket, context};

const MODULES: [&str; 9] = [
    "virtio_blk.ko",
    "libcrc32c.ko",
    "erofs.ko",
    "dm-mod.ko",
    "dm-bufio.ko",
    "reed_solomon.ko",
    "sha256-ssse3.ko",
    "dm-verity.ko",
    "overlay.ko",
];

struct Vm {
    qemu: Child,
    dir: tempfile::TempDir,
    started: Instant,
}

impl Vm {
    fn start(extra: &[&str]) -> Option<Self> {
        let parts = PathBuf::from(std::env::var_os("BELLJAR_BOOT_TEST")?);
        let agent = PathBuf::from(std::env::var_os("BELLJAR_AGENT")?);
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
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { qemu, dir, started })
    }

    async fn client(&self) -> api::AgentClient {
        let path = self.dir.path().join("agent.sock");
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let socket = tokio::net::UnixStream::connect(path).await.unwrap();
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
    for module in MODULES {
        entry(&format!("lib/modules/{module}"), 0o100_644, &fs::read(parts.join("mods").join(module)).unwrap());
    }
    entry("lib/modules/order", 0o100_644, MODULES.join("\n").as_bytes());
    entry("TRAILER!!!", 0, b"");
    archive
}

#[tokio::test]
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
