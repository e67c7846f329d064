//! QEMU itself reads our arguments: disks really attach, and SNP goes as far as a machine without it can.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use belljar_vmm::{Accel, Disk, DiskContent, Fds, Machine, Tee, arguments};

/// Runs QEMU, stopped before the guest's first instruction, and asks it with QMP; returns the answers and stderr.
fn run(machine: &Machine, edit: impl Fn(&mut Vec<OsString>), asks: &[&str]) -> (Vec<serde_json::Value>, String) {
    let pairs: Vec<(UnixStream, UnixStream)> = (0..5).map(|_| UnixStream::pair().unwrap()).collect();
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
    let fds = Fds { qmp: fd(0), console: fd(1), agent: fd(2), tee: fd(3), probe: fd(4), memory_disks };
    let mut arguments = arguments(machine, &fds);
    arguments.push("-S".into());
    edit(&mut arguments);
    let inherit: Vec<i32> =
        pairs.iter().map(|pair| pair.1.as_raw_fd()).chain(disks.iter().map(|fd| fd.as_raw_fd())).collect();
    let mut command = Command::new("qemu-system-x86_64");
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

fn with_disks(n: usize) -> (tempfile::TempDir, Machine) {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = common::machine("disks");
    for n in 0..n {
        let path = dir.path().join(format!("disk {n}, x"));
        std::fs::write(&path, vec![0; 4096]).unwrap();
        machine.disks.push(Disk { content: DiskContent::File(path), serial: format!("layer-{n:014}") });
    }
    if let Some(disk) = machine.disks.first_mut() {
        *disk = Disk { content: DiskContent::Bytes(vec![0; 4096].into()), serial: "initdata".into() };
    }
    (dir, machine)
}

fn disks_attach(n: usize) {
    let (_dir, machine) = with_disks(n);
    let (answers, stderr) = run(&machine, |_| {}, &["query-block", "query-pci"]);
    assert_eq!(stderr, "");
    let blocks = answers[1].as_array().unwrap();
    assert_eq!(blocks.len(), n);
    for block in blocks {
        assert_eq!(block["inserted"]["ro"], true);
        assert_eq!(block["inserted"]["image"]["virtual-size"], 4096);
    }
    let devices = answers[2][0]["devices"].as_array().unwrap();
    let disks = devices.iter().filter(|device| device["id"]["device"] == 0x1001 && device["id"]["vendor"] == 0x1af4);
    let places: std::collections::BTreeSet<_> =
        disks.map(|disk| (disk["slot"].as_u64().unwrap(), disk["function"].as_u64().unwrap())).collect();
    assert_eq!(places.len(), n, "each disk is a function of its own");
}

#[test]
fn one_disk_attaches() {
    disks_attach(1);
}

#[test]
fn thirty_disks_attach() {
    disks_attach(30);
}

#[test]
fn a_hundred_and_twenty_eight_disks_attach() {
    disks_attach(128);
}

#[test]
fn two_pods_share_a_layer() {
    let (_dir, machine) = with_disks(2);
    let file = match &machine.disks[1].content {
        DiskContent::File(path) => std::fs::File::open(path).unwrap(),
        DiskContent::Bytes(_) => panic!("the second disk is a file"),
    };
    // As another program that locks the file for itself; QEMU must not mind.
    file.lock().unwrap();
    let first = std::thread::spawn({
        let machine = machine.clone();
        move || run(&machine, |_| {}, &["query-block"])
    });
    let second = run(&machine, |_| {}, &["query-block"]);
    for (answers, stderr) in [first.join().unwrap(), second] {
        assert_eq!((answers[1].as_array().unwrap().len(), stderr.as_str()), (2, ""));
    }
}

fn snp(host_data: [u8; 32]) -> Machine {
    let mut machine = common::machine("snp");
    machine.tee = Tee::Snp { cbitpos: 51, reduced_phys_bits: 1, policy: 0x30000, host_data };
    machine
}

#[test]
fn snp_arguments_parse_up_to_the_missing_hardware() {
    let (answers, stderr) = run(&snp([0xab; 32]), |_| {}, &[]);
    assert!(answers.len() <= 1);
    assert!(stderr.ends_with("cannot set up private guest memory for sev-snp-guest: KVM required\n"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn snp_with_kvm_fails_for_the_hardware_alone() {
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err()
        || std::path::Path::new("/dev/sev").exists()
    {
        // Covered by the test above where there is no KVM; where there is SNP, it would start.
        return;
    }
    let mut machine = snp([0xab; 32]);
    machine.accel = Accel::Kvm;
    let (_, stderr) = run(&machine, |_| {}, &[]);
    assert!(stderr.contains("vm-type SEV-SNP not supported by KVM"), "{stderr}");
}

/// The twin of the test above: one field differs.
#[test]
fn snp_with_a_short_host_data_is_another_error() {
    let short = |arguments: &mut Vec<OsString>| {
        for argument in arguments {
            let text = argument.to_str().unwrap();
            if text.contains("sev-snp-guest") {
                *argument = text.replace("q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=", "q6ur").into();
            }
        }
    };
    let (_, stderr) = run(&snp([0xab; 32]), short, &[]);
    assert!(stderr.ends_with("parameter length of 3 not equal to 32\n"), "{stderr}");
}
