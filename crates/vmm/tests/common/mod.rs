//! What the tests share: a kernel, a guest, a machine.
#![allow(dead_code)]

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use belljar_vmm::{Accel, DiskContent, Fds, GuestFiles, Machine, Options, QuoteSocket, Tee, arguments};

/// The PVH kernel of the guest image that `belljar guest build` made, or `BELLJAR_TEST_VMLINUX`.
pub fn kernel() -> PathBuf {
    let kernel = std::env::var_os("BELLJAR_TEST_VMLINUX").map(PathBuf::from);
    let kernel = kernel.unwrap_or_else(|| belljar_guest_image::default_dir().join("current/vmlinux"));
    assert!(kernel.exists(), "no {}: run `belljar guest build`", kernel.display());
    kernel
}

/// `examples/test_guest.rs` as PID 1.
pub fn initrd() -> PathBuf {
    static INITRD: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = INITRD.get_or_init(|| {
        // target/TRIPLE/PROFILE/deps/test-HASH → target/TRIPLE/PROFILE/examples/test_guest
        let exe = std::env::current_exe().unwrap();
        let guest = exe.parent().unwrap().parent().unwrap().join("examples/test_guest");
        assert!(guest.exists(), "no {}: run `cargo build -p belljar-vmm --examples`", guest.display());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd");
        std::fs::write(&path, belljar_guest_image::bare_initrd(&guest).unwrap()).unwrap();
        (dir, path)
    });
    path.clone()
}

pub fn machine(test: &str) -> Machine {
    Machine {
        id: format!("test-{}-{test}", std::process::id()),
        tee: Tee::Software { host_data: [0xab; 32] },
        accel: Accel::Tcg,
        vcpus: 1,
        memory_mib: 256,
        guest: GuestFiles {
            firmware: "/usr/share/qemu/qboot.rom".into(),
            kernel: kernel(),
            initrd: initrd(),
            cmdline: format!(
                "console=hvc0 8250.nr_uarts=0 cryptomgr.notests \
                 initcall_blacklist=jent_mod_init,trace_eval_init panic=-1 quiet test={test}"
            ),
        },
        disks: Vec::new(),
        nic: None,
    }
}

pub fn options() -> Options {
    Options::new(std::env::temp_dir().join("belljar-vmm-test-cache"))
}

pub fn snp(host_data: [u8; 32]) -> Machine {
    let mut machine = machine("snp");
    machine.tee = Tee::Snp { cbitpos: 51, reduced_phys_bits: 1, policy: 0x30000, host_data };
    machine
}

pub fn tdx(quote_socket: QuoteSocket) -> Machine {
    let mut machine = machine("tdx");
    machine.tee = Tee::Tdx { mr_config_id: [0xcd; 48], quote_socket };
    machine
}

/// Runs QEMU, stopped before the guest's first instruction, and asks it with QMP; returns the answers and stderr.
pub fn run(
    qemu: &Path,
    machine: &Machine,
    edit: impl Fn(&mut Vec<OsString>),
    asks: &[&str],
) -> (Vec<serde_json::Value>, String) {
    let pairs: Vec<(UnixStream, UnixStream)> = (0..4).map(|_| UnixStream::pair().unwrap()).collect();
    let bytes = machine.disks.iter().filter(|disk| matches!(disk.content, DiskContent::Bytes(_)));
    let disks: Vec<OwnedFd> = bytes
        .map(|_| {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(4096).unwrap();
            std::fs::File::open(file.path()).unwrap().into()
        })
        .collect();
    let fd = |n: usize| pairs[n].1.as_raw_fd();
    let memory_disks = disks.iter().map(|fd| fd.as_raw_fd()).collect();
    let (_console, console) = std::io::pipe().unwrap();
    let console = OwnedFd::from(console);
    let tap = machine.nic.as_ref().map(|nic| nic.tap.as_raw_fd());
    let fds =
        Fds { qmp: fd(0), console: console.as_raw_fd(), agent: fd(1), tee: fd(2), probe: fd(3), memory_disks, tap };
    let mut arguments = arguments(machine, &fds);
    arguments.push("-S".into());
    edit(&mut arguments);
    let inherit: Vec<i32> = pairs
        .iter()
        .map(|pair| pair.1.as_raw_fd())
        .chain(disks.iter().chain([&console]).map(|fd| fd.as_raw_fd()))
        .chain(tap)
        .collect();
    let mut command = Command::new(qemu);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: only fcntl is called between fork and exec, on descriptors that the parent holds open.
    unsafe {
        command.pre_exec(move || {
            for fd in &inherit {
                let fd = std::os::fd::BorrowedFd::borrow_raw(*fd);
                rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
            }
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    let mut ours: Vec<UnixStream> = pairs.into_iter().map(|(ours, _)| ours).collect();
    let mut qmp = ours.swap_remove(0);
    let _ = writeln!(qmp, r#"{{"execute":"qmp_capabilities"}}"#);
    for ask in asks {
        let _ = writeln!(qmp, r#"{{"execute":"{ask}"}}"#);
    }
    let mut answers = Vec::new();
    for line in BufReader::new(&qmp).lines().map_while(Result::ok) {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        if let Some(answer) = line.get("return") {
            answers.push(answer.clone());
        }
        if answers.len() == asks.len() + 1 {
            break;
        }
    }
    let _ = writeln!(qmp, r#"{{"execute":"quit"}}"#);
    let output = child.wait_with_output().unwrap();
    (answers, String::from_utf8(output.stderr).unwrap())
}
