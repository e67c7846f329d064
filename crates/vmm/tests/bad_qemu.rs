//! QEMU that is missing, too old, no QEMU, or that answers in the agent's place.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use belljar_vmm::qemu::Version;
use belljar_vmm::{Accel, Options, PodVm, Qemu, QemuError, Tee, TeeKind, VmError, accel};

const CURRENT: &str = "echo 'QEMU emulator version 10.0.2 (test)'";

/// A program that says `version` when asked, and else does `run`.
fn fake(dir: &Path, version: &str, run: &str) -> PathBuf {
    let path = dir.join("qemu-system-x86_64");
    let script = format!("#!/bin/bash\nif [ \"$1\" = --version ]; then\n{version}\nexit\nfi\n{run}\n");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

async fn start(version: &str, run: &str) -> VmError {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path().join("cache"));
    options.qemu = Some(fake(dir.path(), version, run));
    options.boot_timeout = Duration::from_secs(3);
    PodVm::start(&common::machine("fake"), options).await.unwrap_err()
}

#[tokio::test]
async fn missing() {
    let mut options = common::options();
    options.qemu = Some("/nowhere/qemu-system-x86_64".into());
    let error = PodVm::start(&common::machine("fake"), options).await.unwrap_err();
    assert!(matches!(&error, VmError::Qemu(QemuError::QemuMissing { .. })), "{error:?}");
    assert_eq!(
        error.to_string(),
        "QEMU is missing (/nowhere/qemu-system-x86_64); install it: apt-get install qemu-system-x86/bookworm-backports, \
         or set BELLJAR_QEMU"
    );
}

#[tokio::test]
async fn too_old() {
    let error = start("echo 'QEMU emulator version 7.2.9 (Debian)'", "exit 1").await;
    let (found, needed) = (Version { major: 7, minor: 2 }, Version { major: 8, minor: 2 });
    assert!(matches!(&error, VmError::Qemu(e) if *e == QemuError::QemuTooOld { found, needed }), "{error:?}");
    assert!(error.to_string().starts_with("QEMU 7.2 is too old, 8.2 or newer is needed; install it: apt-get install"));
}

/// The twin: new enough, and what it then says is the error.
#[tokio::test]
async fn new_enough_but_refuses() {
    let error = start(CURRENT, "echo 'qemu-system-x86_64: no such thing' >&2; exit 3").await;
    let VmError::QemuFailed { status, stderr } = &error else { panic!("{error:?}") };
    assert_eq!((status.as_str(), stderr.as_str()), ("exit status: 3", "qemu-system-x86_64: no such thing"));
}

#[tokio::test]
async fn no_qemu_at_all() {
    let error = start("echo busybox", "exit 1").await;
    let VmError::Qemu(QemuError::NotQemu { found, .. }) = &error else { panic!("{error:?}") };
    assert_eq!(found, "--version says \"busybox\"");
}

#[test]
fn tdx_needs_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let qemu = Qemu::at(&fake(dir.path(), CURRENT, ""), dir.path()).unwrap();
    assert!(qemu.clone().check_tee(TeeKind::Snp).is_ok());
    let (found, needed) = (Version { major: 10, minor: 0 }, Version { major: 10, minor: 1 });
    assert_eq!(qemu.check_tee(TeeKind::Tdx), Err(QemuError::QemuTooOld { found, needed }));
}

#[test]
fn the_version_is_asked_once_until_the_binary_changes() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("asked");
    let asks = |version: &str| format!("echo x >> {}; echo 'QEMU emulator version {version}'", log.display());
    let path = fake(dir.path(), &asks("9.2.0"), "");
    let asked = || std::fs::read_to_string(&log).unwrap().lines().count();
    for _ in 0..3 {
        assert_eq!(Qemu::at(&path, dir.path()).unwrap().version, Version { major: 9, minor: 2 });
    }
    assert_eq!(asked(), 1);
    fake(dir.path(), &asks("10.12.0"), "");
    assert_eq!(Qemu::at(&path, dir.path()).unwrap().version, Version { major: 10, minor: 12 });
    assert_eq!(asked(), 2);
    std::fs::write(dir.path().join("qemu.json"), "{\"path\":7}").unwrap();
    assert_eq!(Qemu::at(&path, dir.path()).unwrap().version, Version { major: 10, minor: 12 });
    assert_eq!(asked(), 3);
}

/// Finds the number of the agent's channel as QEMU does, and answers there.
const AGENT: &str = r#"for word in "$@"; do case "$word" in socket,id=agent,fd=*) fd="${word##*=}";; esac; done"#;

#[tokio::test]
async fn garbage_on_the_agents_channel() {
    let began = Instant::now();
    let error = start(CURRENT, &format!("{AGENT}\nprintf 'HTTP/1.1 400 Bad Request' >&$fd\nexec sleep 60")).await;
    let VmError::AgentGarbage { found } = &error else { panic!("{error:?}") };
    assert_eq!(found, "no ttrpc answer: 485454502f312e312034");
    assert!(began.elapsed() < Duration::from_secs(3));
}

/// The twin: an answer in form, but not to us.
#[tokio::test]
async fn an_answer_to_nobody_is_passed_over_until_the_time_is_up() {
    let error =
        start(CURRENT, &format!("{AGENT}\nprintf '\\0\\0\\0\\0\\0\\0\\0\\11\\2\\0' >&$fd\nexec sleep 60")).await;
    assert!(matches!(error, VmError::BootTimeout { .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_message() {
    let answer = r"printf '\0\0\0\4\0\0\0\1\2\0\377\377\377\377' >&$fd";
    let error = start(CURRENT, &format!("{AGENT}\n{answer}\nexec sleep 60")).await;
    assert!(matches!(error, VmError::AgentGarbage { .. }), "{error:?}");
}

#[tokio::test]
async fn options_that_do_not_fit_the_machine() {
    let console = tempfile::tempfile().unwrap();
    let mut options = common::options();
    options.console = Some(console);
    let error = PodVm::start(&common::machine("fake"), options).await.unwrap_err();
    assert!(matches!(error, VmError::ConsoleNeedsDebug), "{error:?}");

    #[derive(Debug)]
    struct Never;
    impl belljar_vmm::SecureProcessor for Never {
        fn measure(&self, _: u32) -> Result<Box<dyn belljar_vmm::Measured>, String> {
            Err("never".into())
        }
    }
    let mut options = common::options();
    options.processor = Some(std::sync::Arc::new(Never));
    let mut machine = common::machine("fake");
    machine.accel = Accel::Kvm;
    machine.tee = Tee::Snp { cbitpos: 51, reduced_phys_bits: 1, policy: 0x30000, host_data: [0; 32] };
    let error = PodVm::start(&machine, options).await.unwrap_err();
    assert!(matches!(error, VmError::ProcessorWithHardware { tee: TeeKind::Snp }), "{error:?}");
}

#[tokio::test]
async fn kvm_is_believed_only_when_a_guest_ran() {
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        let dir = tempfile::tempdir().unwrap();
        let qemu = Qemu::at(&fake(dir.path(), CURRENT, "exit 1"), dir.path()).unwrap();
        let kvm = accel::probe(&qemu, &common::machine("kvm").guest, dir.path()).await;
        assert!(kvm.reason.starts_with("/dev/kvm does not open: "), "{}", kvm.reason);
        return;
    }
    let guest = common::machine("kvm").guest;
    let probe = async |run: &str| {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let qemu =
            Qemu::at(&fake(dir.path(), CURRENT, &format!("echo x >> {}\n{run}", log.display())), dir.path()).unwrap();
        let first = accel::probe(&qemu, &guest, dir.path()).await;
        assert_eq!(accel::probe(&qemu, &guest, dir.path()).await, first);
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 1, "the answer was not remembered");
        accel::forget(dir.path()).unwrap();
        assert_eq!(accel::probe(&qemu, &guest, dir.path()).await, first);
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 2, "the answer was not forgotten");
        first
    };
    let console =
        r#"for word in "$@"; do case "$word" in fd=*,opaque=console) fd="${word%%,*}"; fd="${fd#fd=}";; esac; done"#;
    let works = probe(&format!("{console}\necho belljar-guest-runs >&$fd")).await;
    assert_eq!((works.accel(), works.reason.as_str()), (Accel::Kvm, "a test guest ran"));
    let fails = probe("echo 'failed to set MSR' >&2; exit 1").await;
    let reason = "a test guest did not run: QEMU ended (exit status: 1): failed to set MSR";
    assert_eq!((fails.accel(), fails.reason.as_str()), (Accel::Tcg, reason));
}

#[tokio::test]
async fn kvm_here() {
    let dir = tempfile::tempdir().unwrap();
    let qemu = Qemu::find(dir.path()).unwrap();
    let began = Instant::now();
    let kvm = accel::probe(&qemu, &common::machine("kvm").guest, dir.path()).await;
    println!("{kvm:?} in {:?}", began.elapsed());
    assert!(began.elapsed() < accel::TIME_LIMIT + Duration::from_secs(2));
    if kvm.works {
        let mut machine = common::machine("hello");
        machine.accel = Accel::Kvm;
        PodVm::start(&machine, common::options()).await.unwrap().kill().await;
    }
}
