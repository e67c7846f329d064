//! Real guests under QEMU: start, report, every way to end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use belljar_guest_api::api::ShutdownRequest;
use belljar_guest_api::canary;
use belljar_guest_api::softport::Response;
use belljar_vmm::control::{Control, ControlError, Request, Session};
use belljar_vmm::probe::{Verdict, search};
use belljar_vmm::{Exit, Measured, Pod, PodVm, Pods, ProcessId, SecureProcessor, TeeKind, VmError, process_start};
use common::{machine, options};

#[tokio::test]
async fn a_machine_starts_answers_and_is_killed() {
    let vm = PodVm::start(&machine("hello"), options()).await.unwrap();
    println!("{:?}", vm.timings());
    assert_eq!(vm.hello().agent_version, "test");
    let pid = vm.qemu_pid();
    assert!(process_start(pid).is_some());
    let raw = rustix::process::Pid::from_raw(pid.try_into().unwrap());
    assert_eq!(rustix::process::getpgid(raw).ok(), raw, "Ctrl-C in our terminal would reach QEMU");
    let began = Instant::now();
    assert_eq!(vm.kill().await, Exit::Killed);
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(process_start(pid), None);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "not reaped");
}

#[tokio::test]
async fn dropping_kills() {
    let vm = PodVm::start(&machine("hello"), options()).await.unwrap();
    let (pid, exited) = (vm.qemu_pid(), vm.exited());
    drop(vm);
    assert_eq!(tokio::time::timeout(Duration::from_secs(2), exited).await.unwrap(), Exit::Killed);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "not reaped");
}

#[tokio::test]
async fn a_vm_can_be_ended_before_it_answers() {
    let booting = PodVm::spawn(&machine("hang"), options()).await.unwrap();
    let (pid, exited, killer) = (booting.qemu_pid(), booting.exited(), booting.killer());
    assert!(process_start(pid).is_some());
    let hello = tokio::spawn(booting.hello());
    let began = Instant::now();
    assert_eq!(killer.kill().await, Exit::Killed);
    assert_eq!(exited.await, Exit::Killed);
    let error = hello.await.unwrap().unwrap_err();
    assert!(matches!(&error, VmError::QemuFailed { status, .. } if status == "killed"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "not reaped");
}

#[tokio::test]
async fn a_vm_that_does_not_hear_is_ended_within_two_seconds() {
    let vm = PodVm::start(&machine("hello"), options()).await.unwrap();
    let pid = rustix::process::Pid::from_raw(vm.qemu_pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let (began, killer) = (Instant::now(), vm.killer());
    assert_eq!(vm.kill().await, Exit::Killed);
    assert!(began.elapsed() < Duration::from_millis(2100), "{:?}", began.elapsed());
    assert_eq!(killer.kill().await, Exit::Killed, "once more is no error");
}

#[tokio::test]
async fn an_orderly_shutdown_is_told_apart() {
    let vm = PodVm::start(&machine("hello"), options()).await.unwrap();
    let exited = vm.exited();
    let _ = vm.agent().shutdown(ttrpc::context::with_timeout(3_000_000_000), &ShutdownRequest::new()).await;
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), exited).await.unwrap(), Exit::PoweredOff);
}

#[tokio::test]
async fn somebody_elses_kill_is_told_apart() {
    let vm = PodVm::start(&machine("hello"), options()).await.unwrap();
    let pid = rustix::process::Pid::from_raw(vm.qemu_pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(2), vm.exited()).await.unwrap();
    assert_eq!(exit, Exit::QemuFailed { status: "signal: 9 (SIGKILL)".into(), stderr: String::new() });
}

#[tokio::test]
async fn a_guest_that_panics_crashed_with_its_last_lines() {
    let error = PodVm::start(&machine("panic"), options()).await.unwrap_err();
    let VmError::GuestCrashed { last_lines } = &error else { panic!("{error}") };
    assert!(last_lines.0.iter().any(|line| line.contains("Attempted to kill init!")), "{error}");
    assert!(
        error.to_string().starts_with("the guest crashed while starting; is the guest image whole? last guest lines:")
    );
}

#[tokio::test]
async fn a_guest_that_powers_off_early_is_told_apart() {
    let error = PodVm::start(&machine("off"), options()).await.unwrap_err();
    let VmError::GuestPoweredOff { last_lines } = &error else { panic!("{error}") };
    assert!(last_lines.0.iter().any(|line| line.contains("test guest: off")), "{error}");
}

#[tokio::test]
async fn a_guest_that_hangs_times_out_with_its_last_lines() {
    let mut options = options();
    options.boot_timeout = Duration::from_secs(12);
    let error = PodVm::start(&machine("hang"), options).await.unwrap_err();
    let VmError::BootTimeout { last_lines, .. } = &error else { panic!("{error}") };
    assert_eq!(last_lines.0.last().unwrap(), "test guest: hang", "{error}");
    assert!(no_qemu_named("hang"));
}

#[tokio::test]
async fn files_that_are_no_kernel() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("zeros", vec![0; 1 << 20]), ("text", b"this is not a kernel\n".repeat(5000))] {
        let mut machine = machine(name);
        machine.guest.kernel = dir.path().join(name);
        std::fs::write(&machine.guest.kernel, bytes).unwrap();
        let mut options = options();
        options.boot_timeout = Duration::from_secs(3);
        let error = PodVm::start(&machine, options).await.unwrap_err();
        println!("{name}: {error}");
        assert!(matches!(error, VmError::QemuFailed { .. } | VmError::BootTimeout { .. }), "{error:?}");
        assert!(no_qemu_named(name));
    }
}

#[tokio::test]
async fn an_agent_that_answers_garbage() {
    let error = PodVm::start(&machine("garbage"), options()).await.unwrap_err();
    let VmError::AgentGarbage { found } = &error else { panic!("{error}") };
    assert_eq!(found, "no ttrpc answer: 57656c636f6d6520746f");
    assert!(no_qemu_named("garbage"));
}

#[tokio::test]
async fn an_agent_of_another_version() {
    let error = PodVm::start(&machine("protocol"), options()).await.unwrap_err();
    assert!(matches!(error, VmError::Protocol { expected: belljar_guest_api::PROTOCOL, found: 99 }), "{error}");
}

#[tokio::test]
async fn an_agent_that_refuses() {
    let error = PodVm::start(&machine("refuse"), options()).await.unwrap_err();
    let VmError::HelloRefused(refused) = &error else { panic!("{error}") };
    assert_eq!((refused.code, refused.message.as_str()), (belljar_guest_api::status::Code::FailedPrecondition, "no"));
}

#[derive(Debug)]
struct Echo(u32);

impl SecureProcessor for Echo {
    fn measure(&self, qemu: u32) -> Result<Box<dyn Measured>, String> {
        Ok(Box::new(Self(qemu)))
    }
}

impl Measured for Echo {
    fn report(&self, report_data: &[u8; 64]) -> Result<(Vec<u8>, Vec<u8>), String> {
        Ok((report_data.to_vec(), self.0.to_le_bytes().to_vec()))
    }
}

#[tokio::test]
async fn the_guest_gets_a_report_about_its_own_process() {
    let mut options = options();
    options.processor = Some(Arc::new(Echo(0)));
    let vm = PodVm::start(&machine("report"), options).await.unwrap();
    let frame = hex::decode(&vm.hello().agent_version).unwrap();
    let aux = vm.qemu_pid().to_le_bytes().to_vec();
    assert_eq!(Response::decode(&frame), Ok(Response::Report { report: vec![5; 64], aux }));
    vm.kill().await;
}

#[tokio::test]
async fn without_a_processor_the_guest_gets_the_reason() {
    let vm = PodVm::start(&machine("report"), options()).await.unwrap();
    let frame = hex::decode(&vm.hello().agent_version).unwrap();
    let reason = "this pod VM was started without a secure processor";
    assert_eq!(Response::decode(&frame), Ok(Response::Error(reason.into())));
    vm.kill().await;
}

#[tokio::test]
async fn a_bad_frame_on_the_tee_port_ends_its_service_only() {
    let mut options = options();
    options.processor = Some(Arc::new(Echo(0)));
    let vm = PodVm::start(&machine("bad-frame"), options).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while vm.tee_port_error().is_none() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = vm.tee_port_error().unwrap();
    assert!(
        matches!(error, belljar_vmm::TeePortError::Frame(belljar_guest_api::softport::FrameError::Magic { .. })),
        "{error}"
    );
    assert_eq!(vm.kill().await, Exit::Killed);
}

/// No process has the machine's name on its command line.
fn no_qemu_named(test: &str) -> bool {
    let name = format!("guest=belljar-test-{}-{test}\0", std::process::id());
    std::fs::read_dir("/proc").unwrap().flatten().all(|entry| {
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        !String::from_utf8_lossy(&cmdline).contains(&name)
    })
}

/// What the software secure processor measures is what the machine says.
#[tokio::test]
async fn the_software_tee_accepts_and_measures_our_command_line() {
    let mut machine = machine("hello");
    machine.disks = vec![belljar_vmm::Disk {
        content: belljar_vmm::DiskContent::Bytes(vec![0; 512].into()),
        serial: "initdata".into(),
    }];
    let vm = PodVm::start(&machine, options()).await.unwrap();
    let launch = belljar_softtee::Launch::of_process(vm.qemu_pid()).unwrap();
    assert_eq!(launch.host_data(), &[0xab; 32]);
    assert_eq!(launch.command_line().cmdline, machine.guest.cmdline);
    assert_eq!(launch.command_line().kernel, machine.guest.kernel.to_str().unwrap());
    assert_eq!(launch.command_line().vcpus, 1);
    vm.kill().await;
}

#[tokio::test]
async fn debug_mode_writes_the_console_where_the_caller_says() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut options = options();
    options.console = Some(log.reopen().unwrap());
    let mut machine = machine("hello");
    machine.guest.cmdline = machine.guest.cmdline.replace(" quiet", "") + " belljar.debug";
    PodVm::start(&machine, options).await.unwrap().kill().await;
    let text = std::fs::read_to_string(log.path()).unwrap();
    // The kernel shows on hvc0 what it says after the virtio console is there.
    assert!(text.contains("Run /init as init process") && text.contains("test guest: hello"), "{text}");
}

#[tokio::test]
async fn an_owner_that_is_killed_takes_its_vm_along() {
    let exe = std::env::current_exe().unwrap();
    let owner = exe.parent().unwrap().parent().unwrap().join("examples/owner");
    let mut owner = tokio::process::Command::new(owner)
        .args([common::kernel(), common::initrd()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut out = tokio::io::BufReader::new(owner.stdout.take().unwrap());
    tokio::io::AsyncBufReadExt::read_line(&mut out, &mut said).await.unwrap();
    let qemu: u32 = said.trim().parse().unwrap();
    assert!(process_start(qemu).is_some());
    owner.kill().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while process_start(qemu).is_some() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(process_start(qemu), None, "QEMU outlived its owner");
}

#[tokio::test]
async fn the_memory_of_a_software_tee_is_readable_while_a_probe_runs() {
    let dir = tempfile::tempdir().unwrap();
    let pods = Pods::at(dir.path().join("pods")).unwrap();
    let pod = Pod {
        id: "p".into(),
        name: "p".into(),
        image: "oci:x".into(),
        tee: TeeKind::Software,
        created: 1,
        owner: ProcessId::this(),
        qemu: None,
    };
    let mut run = pods.create(pod).unwrap();
    let mut vm = PodVm::start(&machine("hello"), options()).await.unwrap();
    run.set_qemu(vm.qemu_pid()).unwrap();
    let port = vm.take_probe_port();
    let _control = Control::serve(&run.control_socket(), run.pod().clone(), vm.qemu_pid(), vm.agent(), port).unwrap();
    let socket = pods.control_socket(&pods.find("p").unwrap());
    let mut session = Session::connect(&socket).await.unwrap();
    let info = session.call(&Request::Info).await.unwrap();
    assert_eq!((info.qemu_pid, info.pod.as_ref()), (Some(vm.qemu_pid()), Some(run.pod())));
    let refused = session.call(&Request::ProbeEnd).await.unwrap_err();
    assert!(
        matches!(&refused, ControlError::Refused(why) if why == "no probe of this connection is running"),
        "{refused}"
    );

    for seed in [[3; 32], [4; 32]] {
        let (private, shared) = (canary(&seed, "private"), canary(&seed, "shared"));
        let count = || {
            let began = Instant::now();
            let found = search(vm.qemu_pid(), &[&private, &shared]).unwrap();
            println!("{found:?} in {:?}", began.elapsed());
            (found.counts[0], found.counts[1])
        };
        assert_eq!(count(), (0, 0));
        let start = Request::ProbeStart { seed: hex::encode(seed), copies: 16 };
        session.call(&start).await.unwrap();
        let mut other = Session::connect(&socket).await.unwrap();
        let refused = other.call(&start).await.unwrap_err();
        let running = "another probe of this pod is running; wait for its end";
        assert!(matches!(&refused, ControlError::Refused(why) if why == running), "{refused}");
        let (private_hits, shared_hits) = count();
        assert!(private_hits >= 16 && shared_hits > 0, "{private_hits} {shared_hits}");
        assert_eq!(Verdict::of(private_hits, shared_hits), Verdict::Readable);
        session.call(&Request::ProbeEnd).await.unwrap();
        assert_eq!(count().0, 0, "the private canary is still there");
    }

    let short = Request::ProbeStart { seed: "ab".into(), copies: 16 };
    let refused = session.call(&short).await.unwrap_err();
    assert!(matches!(&refused, ControlError::Refused(why) if why == "a probe's seed is 32 bytes in hex"), "{refused}");
    vm.kill().await;
}

/// As Ctrl-C during the boot does it.
#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    for after in [0, 1, 5, 50, 500] {
        let name = format!("given-up-{after}");
        let mut machine = machine("hang");
        machine.id = format!("test-{}-{name}", std::process::id());
        let start = PodVm::start(&machine, options());
        assert!(tokio::time::timeout(Duration::from_millis(after), start).await.is_err());
        let deadline = Instant::now() + Duration::from_secs(2);
        while !no_qemu_named(&name) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(no_qemu_named(&name), "{after} ms");
    }
}
