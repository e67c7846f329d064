//! `belljar run` behaves like `docker run`. Each test boots real pod VMs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::Write;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use belljar_e2e::images;
use belljar_e2e::programs::{finish, wait};
use belljar_e2e::workplace::Workplace;

/// A pod that runs until it is ended.
fn sleeping(place: &Workplace, image: &str, name: &str) -> Child {
    let mut child = place
        .belljar()
        .args(["run", "--rm", "--name", name, image, "--", "/bin/sh", "-c", "echo started; exec sleep 300"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    images::wait_for_line(child.stdout.as_mut().unwrap(), "started");
    child
}

/// One VM, many facts: what the contract says is what the container sees.
#[test]
fn the_container_is_what_the_flags_say() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let secret = place.path("key");
    std::fs::write(&secret, b"a secret of 26 bytes, quiet").unwrap();
    let script = r#"
        echo out; echo err >&2
        echo "env=$GREETING"; echo "pwd=$(pwd)"; echo "id=$(id -u):$(id -g)"; echo "host=$(hostname)"
        echo "secret=$(cat /run/secrets/api-key)"
        echo "mode=$(stat -c %a:%u /run/secrets/api-key)"
        echo "pid=$$"
        grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status
        cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max
        (echo x > /proc/sys/kernel/hostname) 2>/dev/null && echo "wrote sysctl"
        mount -t tmpfs none /mnt 2>/dev/null && echo "mounted"
        ls /dev/vda 2>/dev/null && echo "sees the disk"
        ls /proc/1/root/init 2>/dev/null && echo "sees the agent"
        touch /written && echo "root is writable"
        exit 7"#;
    let run = finish(
        place
            .belljar()
            .args([
                "run",
                "--rm",
                "--env",
                "GREETING=good day",
                "--workdir",
                "/app",
                "--memory",
                "128M",
                "--name",
                "facts",
            ])
            .args(["--user", "1000:1000", "--secret"])
            .arg(format!("api-key={}", secret.display()))
            .args([&image, "--", "/bin/sh", "-c", script]),
    );
    assert_eq!(run.code, 7, "{}", run.stderr);
    let lines: Vec<&str> = run.stdout.lines().collect();
    for expected in [
        "out",
        "env=good day",
        "pwd=/app",
        "id=1000:1000",
        "secret=a secret of 26 bytes, quiet",
        "mode=400:1000",
        "pid=1",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "CapEff:\t0000000000000000",
        "134217728",
        "1024",
    ] {
        assert!(lines.contains(&expected), "{expected:?} is not in {lines:#?}");
    }
    for forbidden in ["wrote sysctl", "mounted", "sees the disk", "sees the agent", "err", "root is writable"] {
        assert!(!lines.contains(&forbidden), "{forbidden:?} is in {lines:#?}");
    }
    let errors: Vec<&str> = run.stderr.lines().collect();
    assert!(errors.contains(&"err"), "{errors:#?}");
    assert!(errors.iter().any(|l| l.contains("software TEE") && l.contains("protects nothing")), "{errors:#?}");
}

/// Root in the container writes its own layer, and `--read-only` is the twin that differs.
#[test]
fn the_root_is_writable_unless_read_only() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let script = "touch /written && echo writable || echo sealed";
    let writable = finish(place.belljar().args(["run", "--rm", &image, "--", "/bin/sh", "-c", script]));
    assert_eq!((writable.code, writable.stdout.as_str()), (0, "writable\n"), "{}", writable.stderr);
    let sealed = finish(place.belljar().args(["run", "--rm", "--read-only", &image, "--", "/bin/sh", "-c", script]));
    assert_eq!((sealed.code, sealed.stdout.as_str()), (0, "sealed\n"), "{}", sealed.stderr);
}

#[test]
fn stdin_passes_and_ends() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let mut child = place
        .belljar()
        .args(["run", "--rm", &image, "--", "/bin/sh", "-c", "wc -c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than any buffer on the way holds.
    let data = vec![b'x'; 3 << 20];
    stdin.write_all(&data).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "3145728",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn much_output_arrives_whole_and_in_order() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let run = finish(place.belljar().args(["run", "--rm", &image, "--", "/bin/sh", "-c", "seq 1 200000"]));
    assert_eq!(run.code, 0, "{}", run.stderr);
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(run.stdout == expected, "{} bytes instead of {}", run.stdout.len(), expected.len());
}

/// `belljar run … | head -1`: nobody reads any more, so the pod ends.
#[test]
fn a_reader_that_goes_away_ends_the_pod() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let mut child = place
        .belljar()
        .args(["run", "--rm", &image, "--", "/bin/sh", "-c", "while true; do echo y; done"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    images::wait_for_line(child.stdout.as_mut().unwrap(), "y");
    drop(child.stdout.take());
    assert_eq!(wait(&mut child, Duration::from_secs(20)), 141);
    place.assert_nothing_left(&[]);
}

/// Ctrl-C ends the VM, and nothing is left.
#[test]
fn an_interrupt_ends_the_pod() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let mut child = sleeping(&place, &image, "vault");
    let qemu = place.qemu_of_only_pod();
    let began = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(wait(&mut child, Duration::from_secs(20)), 130);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    place.assert_nothing_left(&[qemu]);
}

/// An interrupt is heard from the first moment, also while a VM boots: here one that never does.
#[test]
fn an_interrupt_ends_a_start() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let qemu = place.path("qemu");
    let started = place.path("started");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 10.0.2' && exit\ntouch {}\nexec sleep 300\n",
        started.display()
    );
    std::fs::write(&qemu, script).unwrap();
    std::fs::set_permissions(&qemu, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = place.belljar();
    let mut child = command.env("BELLJAR_QEMU", &qemu).args(["run", "--rm", &image]).spawn().unwrap();
    while !started.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it started QEMU");
        std::thread::sleep(Duration::from_millis(10));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    // Unheard, it would end with 3 when the time for the boot is over.
    assert_eq!(wait(&mut child, Duration::from_secs(60)), 130);
    place.assert_nothing_left(&[]);
}

/// A stdin that nobody closes does not outlive the container.
#[test]
fn an_open_stdin_does_not_keep_the_command_alive() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let mut command = place.belljar();
    let mut child =
        command.args(["run", "--rm", &image, "--", "/bin/sh", "-c", "exit 3"]).stdin(Stdio::piped()).spawn().unwrap();
    let _held = child.stdin.take();
    assert_eq!(wait(&mut child, Duration::from_secs(20)), 3);
}

/// After `kill -9` of the command line QEMU dies with it, and the next call removes the rest.
#[test]
fn a_killed_owner_leaves_nothing_for_long() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let mut child = sleeping(&place, &image, "vault");
    let qemu = place.qemu_of_only_pod();
    child.kill().unwrap();
    assert_eq!(wait(&mut child, Duration::from_secs(20)), 137);
    let doctor = finish(place.belljar().arg("doctor"));
    assert!(doctor.code == 0 || doctor.code == 1, "{}", doctor.stderr);
    place.assert_nothing_left(&[qemu]);
}

/// The host's proof: a software TEE hides nothing, and the probe says so.
#[test]
fn the_probe_reads_the_memory_of_a_software_tee() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let mut child = sleeping(&place, &image, "vault");
    let probe = finish(place.belljar().args(["probe", "memory", "vault", "--format", "json"]));
    assert_eq!(probe.code, 1, "{}", probe.stderr);
    let answer: serde_json::Value = serde_json::from_str(&probe.stdout).unwrap();
    assert_eq!(answer["verdict"], "readable");
    assert!(answer["private_found"].as_u64().unwrap() > 0);
    assert!(answer["shared_found"].as_u64().unwrap() > 0);
    let again = finish(place.belljar().args(["run", "--rm", "--name", "vault", &image]));
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("a pod named \"vault\" is running already"), "{}", again.stderr);
    let nobody = finish(place.belljar().args(["probe", "memory", "nobody"]));
    assert_eq!(nobody.code, 2);
    assert!(nobody.stderr.contains("no running pod is called \"nobody\""), "{}", nobody.stderr);
    child.kill().unwrap();
    child.wait().unwrap();
    let _ = finish(place.belljar().arg("doctor"));
}

/// The second run of an image writes nothing to the store.
#[test]
fn a_warm_image_copies_nothing() {
    let place = Workplace::new();
    let image = images::busybox(&place);
    let arguments = ["run", "--rm", &image, "--", "/bin/true"];
    assert_eq!(finish(place.belljar().args(arguments)).code, 0);
    let before = place.snapshot_of_store();
    assert_eq!(finish(place.belljar().args(arguments)).code, 0);
    assert_eq!(place.snapshot_of_store(), before);
}

/// An image may list one layer twice; the guest has one disk for it, and opens it once.
#[test]
fn an_image_may_repeat_a_layer() {
    let place = Workplace::new();
    let layout = place.path("repeated");
    images::busybox_layout(&layout, "/data/mark", b"twice");
    let mark = || vec![images::bytes("/data/mark", b"twice", 0o644)];
    let base = images::busybox_base();
    let config = belljar_image::PackConfig { cmd: vec!["/bin/sh".to_owned()], ..Default::default() };
    belljar_image::pack(&layout, "2", &[base, mark(), mark()], &config).unwrap();
    let image = format!("oci:{}:2", layout.display());
    let run = finish(place.belljar().args(["run", "--rm", &image, "--", "/bin/cat", "/data/mark"]));
    assert_eq!((run.code, run.stdout.as_str()), (0, "twice"), "{}", run.stderr);
}
