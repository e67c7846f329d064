//! Measures real QEMU processes (stopped before their first instruction, so no kernel is needed) and judges the reports.
//!
//! Where `qemu-system-x86_64` is missing, every trial is listed as ignored and the reason is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use belljar_evidence::snp::{Anchors, CertTable, Chain, Options, Report, verify};
use belljar_measure::{FileError, SoftwareDigests, SoftwareError, digest_file, software_from_digests};
use belljar_softtee::{CommandLine, Keys, Launch, LaunchError, QemuError, SignError};
use libtest_mimic::{Arguments, Failed, Trial};

const CMDLINE: &str = "console=hvc0 quiet";
const HOST_DATA: [u8; 32] = [0xAB; 32];

type Run = fn(&Vm) -> Result<(), Failed>;

fn main() {
    let missing = Command::new("qemu-system-x86_64").arg("--version").stdout(Stdio::null()).status().is_err();
    if missing {
        eprintln!("qemu-system-x86_64 is not installed: every measurement of a process is ignored");
    }
    let trials: [(&str, Run); 7] = [
        ("what_a_process_boots_is_what_was_predicted", predicted),
        ("what_a_process_boots_changes_its_measurement", changes),
        ("an_option_that_may_change_what_boots_is_refused", refused),
        ("a_file_that_is_gone_or_no_file_is_refused", files),
        ("a_report_is_authentic_and_about_this_vm", reports),
        ("another_process_is_not_measured", other_processes),
        ("a_large_kernel_is_measured_at_once", large_kernel),
    ];
    let trials = trials.map(|(name, run)| {
        let run = move || run(&Vm::new());
        Trial::test(format!("process::{name}"), run).with_ignored_flag(missing)
    });
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vmm/tests/snapshots");
    let vmm = ["software-tcg.txt", "software-kvm.txt", "software-40-disks.txt"].map(|name| {
        let path = snapshots.join(name);
        let missing = !path.is_file();
        Trial::test(format!("vmm::{name}"), move || snapshot(&path)).with_ignored_flag(missing)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().chain(vmm).collect()).exit();
}

/// The command lines that `belljar-vmm` promises in its snapshots are ones that we measure.
fn snapshot(path: &Path) -> Result<(), Failed> {
    let text = std::fs::read_to_string(path)?;
    let arguments: Vec<&str> = text.lines().flat_map(|line| line.splitn(2, ' ')).collect();
    let read = CommandLine::parse(&arguments)?;
    check("host data", read.host_data == HOST_DATA)?;
    check("kernel", read.kernel.ends_with("/vmlinux") && read.vcpus == 2)?;
    let more = [&arguments[..], &["-pflash", "evil"]].concat();
    check("the twin", CommandLine::parse(&more) == Err(QemuError::Option { option: "-pflash".to_owned() }))
}

/// A folder with files to boot.
struct Vm {
    folder: tempfile::TempDir,
}

/// A running process, killed at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Vm {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in
            [("firmware", vec![0xF4; 64 * 1024]), ("kernel", bootable(64 * 1024)), ("initrd", vec![7; 5000])]
        {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts QEMU with relative names for its files; `-S` keeps the guest from its first instruction.
    fn start(&self, cmdline: &str, more: &[&str]) -> Running {
        let host_data = format!("name=opt/org.belljar/host-data,string={}", hex::encode(HOST_DATA));
        let child = Command::new("qemu-system-x86_64")
            .current_dir(self.folder.path())
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-S",
                "-machine",
                "q35,accel=tcg",
                "-m",
                "64M",
            ])
            .args(["-smp", "2", "-bios", "firmware", "-kernel", "kernel", "-append", cmdline])
            .arg("-initrd")
            .arg(self.path("initrd"))
            .args(["-fw_cfg", &host_data])
            .args(more)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Running(child)
    }

    fn predict(&self) -> [u8; 48] {
        software_from_digests(&SoftwareDigests {
            firmware: &std::fs::read(self.path("firmware")).unwrap(),
            kernel: digest_file(&self.path("kernel")).unwrap(),
            initrd: digest_file(&self.path("initrd")).unwrap(),
            cmdline: CMDLINE,
            vcpus: 2,
        })
        .unwrap()
    }
}

fn predicted(vm: &Vm) -> Result<(), Failed> {
    let running = vm.start(CMDLINE, &[]);
    let launch = Launch::of_process(running.0.id())?;
    check("measurement", *launch.measurement() == vm.predict())?;
    check("host data", *launch.host_data() == HOST_DATA)
}

fn changes(vm: &Vm) -> Result<(), Failed> {
    let base = vm.predict();
    let measured = |running: Running| Ok::<_, Failed>(*Launch::of_process(running.0.id())?.measurement());
    check("another command line", measured(vm.start("console=hvc0 quiet belljar.debug", &[]))? != base)?;
    for name in ["kernel", "initrd", "firmware"] {
        let good = std::fs::read(vm.path(name))?;
        let mut changed = good.clone();
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(vm.path(name), changed)?;
        check(name, measured(vm.start(CMDLINE, &[]))? != base)?;
        std::fs::write(vm.path(name), good)?;
        check("the twin", measured(vm.start(CMDLINE, &[]))? == base)?;
    }
    Ok(())
}

fn refused(vm: &Vm) -> Result<(), Failed> {
    let running = vm.start(CMDLINE, &["-device", "loader,file=initrd,addr=0x100000"]);
    let expected = QemuError::Value { option: "-device".to_owned(), found: "loader".to_owned() };
    match Launch::of_process(running.0.id()) {
        Err(LaunchError::CommandLine(error)) if error == expected => {}
        other => return Err(format!("{other:?}").into()),
    }
    let twin = vm.start(CMDLINE, &["-device", "virtio-serial-pci"]);
    check("the twin", *Launch::of_process(twin.0.id())?.measurement() == vm.predict())
}

fn files(vm: &Vm) -> Result<(), Failed> {
    let running = vm.start(CMDLINE, &[]);
    wait_until_loaded(&running)?;
    std::fs::remove_file(vm.path("initrd"))?;
    let missing = |error: &LaunchError| matches!(error, LaunchError::Measure(SoftwareError::File(FileError::Read { path, .. })) if path.ends_with("initrd"));
    check("a file that is gone", Launch::of_process(running.0.id()).is_err_and(|error| missing(&error)))?;
    std::fs::create_dir(vm.path("initrd"))?;
    check("a folder", Launch::of_process(running.0.id()).is_err_and(|error| missing(&error)))
}

fn reports(vm: &Vm) -> Result<(), Failed> {
    let keys = Keys::load_or_create(&vm.path("keys"))?;
    let running = vm.start(CMDLINE, &[]);
    let launch = Launch::of_process(running.0.id())?;
    let (report, table) = launch.report(&keys, &[0x42; 64])?;
    let parsed = Report::parse(&report)?;
    let chain = Chain::from_cert_table(&CertTable::decode(&table)?, parsed.signing_key);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let verdict = verify(&report, &chain, &Anchors::amd().with_software_root(keys.ark()), now, &Options::UNASKED);
    check("valid", verdict.is_valid() && verdict.software)?;
    check("report data", parsed.report_data == [0x42; 64])?;
    check("measurement", parsed.measurement == vm.predict() && parsed.host_data == HOST_DATA)?;

    let again = Report::parse(&launch.report(&keys, &[0; 64])?.0)?;
    check("one report id per launch", again.report_id == parsed.report_id)?;
    let other = vm.start(CMDLINE, &[]);
    let other = Report::parse(&Launch::of_process(other.0.id())?.report(&keys, &[0; 64])?.0)?;
    check("another one for another launch", other.report_id != parsed.report_id)?;

    let pid = running.0.id();
    drop(running);
    check("none about a VM that is gone", launch.report(&keys, &[0; 64]).err() == Some(SignError::Ended { pid }))
}

fn other_processes(_: &Vm) -> Result<(), Failed> {
    let us = std::process::id();
    check("us", matches!(Launch::of_process(us), Err(LaunchError::Program { pid, .. }) if pid == us))?;
    let none = u32::MAX / 2;
    check("nobody", matches!(Launch::of_process(none), Err(LaunchError::Process { pid, .. }) if pid == none))
}

fn large_kernel(vm: &Vm) -> Result<(), Failed> {
    std::fs::write(vm.path("kernel"), bootable(57 * 1024 * 1024))?;
    let running = vm.start(CMDLINE, &[]);
    wait_until_loaded(&running)?;
    let started = Instant::now();
    let launch = Launch::of_process(running.0.id())?;
    let took = started.elapsed();
    eprintln!("57 MiB of kernel measured in {took:?}");
    check("measurement", *launch.measurement() == vm.predict())?;
    // Generous: other tests run at the same time. SPECIFICATION's numbers are measured by `make bench`.
    check("within two seconds", took < Duration::from_secs(2))
}

/// Waits until QEMU has read its files: a thread per vCPU starts once the machine is complete.
fn wait_until_loaded(running: &Running) -> Result<(), Failed> {
    let threads = Path::new("/proc").join(running.0.id().to_string()).join("task");
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_dir(&threads)?.count() < 3 {
        if Instant::now() > deadline {
            return Err("QEMU did not build its machine".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The least that QEMU takes for a Linux kernel: the header of the boot protocol (Documentation/arch/x86/boot.rst).
fn bootable(length: usize) -> Vec<u8> {
    let mut kernel = vec![0; length];
    kernel[0x1F1] = 1;
    kernel[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x20C_u16.to_le_bytes());
    kernel[0x211] = 1;
    kernel[0x22C..0x230].copy_from_slice(&0x7FFF_FFFF_u32.to_le_bytes());
    kernel[0x238..0x23C].copy_from_slice(&2047_u32.to_le_bytes());
    kernel
}

fn check(what: &str, holds: bool) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into()) }
}
