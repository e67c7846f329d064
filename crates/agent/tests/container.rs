//! The container runtime, with real containers on this machine (needs root) and, when it is told where, in a VM (`tests/container/vm.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

#[path = "container/vm.rs"]
mod container_vm;
#[path = "container/harness.rs"]
mod harness;
#[path = "container/join.rs"]
mod join;
#[path = "container/places.rs"]
mod places;
#[path = "container/probe.rs"]
mod probe;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use belljar_agent::container::{ContainerError, Exit, GeneratedFile, Stage};
use belljar_contract::{Tmpfs, User};
use harness::{Case, cgroup_root, controllers, root};
use rustix::process::Signal;

#[test]
fn process_is_what_the_contract_says() {
    if !root() {
        return;
    }
    let mut case =
        Case::new(&["args", "env", "cwd", "hostname", "pid", "fds", "stdin", "thread", "cat:/proc/self/cgroup"]);
    case.container.cwd = "/work/deep".into();
    case.container.hostname = "jar".into();
    case.stdin = b"question";
    let out = case.output();
    for line in [
        r#"args: ["/bin/probe", "args", "env", "cwd", "hostname", "pid", "fds", "stdin", "thread", "cat:/proc/self/cgroup"]"#,
        "env: BELLJAR_PROBE=1 HOME=/ PATH=/usr/bin:/bin",
        "cwd: /work/deep",
        "hostname: jar",
        "pid: 1 session 1",
        "fds: 0 1 2 3",
        "stdin: question",
        "thread: 7",
        "0::/",
    ] {
        assert!(out.lines().any(|found| found == line), "{line:?} is not in\n{out}");
    }
}

#[test]
fn programs_are_found_in_path_and_failures_are_told() {
    if !root() {
        return;
    }
    let mut case = Case::new(&["args"]);
    case.container.args = vec!["probe".into(), "args".into()];
    assert_eq!(case.output(), "args: [\"probe\", \"args\"]\n");
    case.container.args[0] = "ghost".into();
    match case.run() {
        Err(ContainerError::NotInPath { program, path }) => {
            assert_eq!((program.as_str(), path.as_str()), ("ghost", "/usr/bin:/bin"))
        }
        other => panic!("{other:?}"),
    }
    let failed = |case: &Case| match case.run() {
        Err(error @ ContainerError::Setup { .. }) => {
            let ContainerError::Setup { stage, source, .. } = &error else { unreachable!() };
            (*stage, source.raw_os_error().unwrap(), error.to_string())
        }
        other => panic!("{other:?}"),
    };
    case.container.args[0] = "/usr/bin/x".into();
    let message = "exec /usr/bin/x: No such file or directory (os error 2): is the path in the image, with the interpreter that it names?";
    assert_eq!(failed(&case), (Stage::Exec, libc::ENOENT, message.into()));
    case.container.args[0] = "/bin".into();
    assert_eq!(failed(&case).0, Stage::Exec);
    assert_eq!(failed(&case).1, libc::EACCES);
    case.container.args[0] = "/bin/text".into();
    case.layers = vec![|layer| {
        fs::create_dir(layer.join("bin")).unwrap();
        fs::write(layer.join("bin/text"), "no program").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(layer.join("bin/text"), mode).unwrap();
    }];
    assert_eq!(failed(&case).1, libc::ENOEXEC);
    assert!(!cgroup_root().join(&case.name).exists(), "a failed start leaves nothing");
}

#[test]
fn users_groups_and_capabilities() {
    if !root() {
        return;
    }
    let status = |out: &str, key: &str| {
        out.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key}\n{out}")).trim().to_owned()
    };
    let commands = ["ids", "cat:/proc/self/status", "stat:/proc/self/mem"];
    let mut case = Case::new(&commands);
    let out = case.output();
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10.
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(status(&out, set), "00000000000004fb");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(status(&out, set), "0000000000000000");
    }
    assert_eq!(
        (status(&out, "NoNewPrivs:"), status(&out, "Seccomp:"), status(&out, "Umask:")),
        ("1".into(), "2".into(), "0022".into())
    );
    assert_eq!(
        (status(&out, "SigBlk:"), status(&out, "SigIgn:")),
        ("0000000000000000".into(), "0000000000000000".into())
    );
    assert!(out.contains("ids: 0 0 []"), "{out}");

    // Without no_new_privs the filter is there as well.
    case.container.no_new_privileges = false;
    let out = case.output();
    assert_eq!((status(&out, "NoNewPrivs:"), status(&out, "Seccomp:")), ("0".into(), "2".into()));
    case.container.no_new_privileges = true;

    case.container.user = User { uid: 1000, gid: 1001, additional_gids: vec![44], name: None };
    let out = case.output();
    assert!(out.contains("ids: 1000 1001 [44]"), "{out}");
    for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        assert_eq!(status(&out, set), "0000000000000000", "{set}");
    }

    // By name, from the image's own files.
    let mut case = Case::new(&["ids", "env"]);
    case.container.user = User { name: Some("app".into()), ..User::default() };
    match case.run() {
        Err(ContainerError::User(error)) => {
            assert!(error.to_string().contains("\"app\" is not in the image's /etc/passwd"))
        }
        other => panic!("{other:?}"),
    }
    case.layers = vec![|layer| {
        fs::create_dir(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/\napp:x:1234:2345::/srv:/\n").unwrap();
        fs::write(layer.join("etc/group"), "video:x:44:app\n").unwrap();
    }];
    assert_eq!(case.output(), "ids: 1234 2345 [44]\nenv: BELLJAR_PROBE=1 HOME=/srv PATH=/usr/bin:/bin\n");
}

#[test]
fn system_calls_outside_the_filter_fail() {
    if !root() {
        return;
    }
    let calls = |case: &mut Case, names: &[(&str, i32)]| {
        case.container.args = vec!["/bin/probe".into()];
        case.container.args.extend(names.iter().map(|(name, _)| format!("syscall:{name}")));
        let expected: String = names.iter().map(|(name, errno)| format!("syscall {name}: {errno}\n")).collect();
        assert_eq!(case.output(), expected);
    };
    let mut case = Case::new(&[]);
    let refused = [
        "mount",
        "umount2",
        "pivot_root",
        "keyctl",
        "bpf",
        "unshare",
        "setns",
        "clone_newuser",
        "io_uring_setup",
        "vsock",
        "alg",
        "personality_aslr",
        "mknod_block",
        "x32_getpid",
    ];
    calls(&mut case, &refused.map(|name| (name, libc::EPERM)));
    calls(&mut case, &[("clone3", libc::ENOSYS), ("inet", 0), ("personality", 0), ("chown", 0)]);
    // The positive twin of the first: with the capability, the call reaches the kernel.
    case.container.capabilities.push("CAP_SYS_ADMIN".into());
    calls(&mut case, &[("mount", libc::ENODEV), ("keyctl", libc::EPERM), ("clone3", libc::EINVAL)]);
    case.container.capabilities = vec![];
    case.container.user = User { uid: 1, gid: 1, ..User::default() };
    calls(&mut case, &[("chown", libc::EPERM)]);
}

#[test]
fn layers_lie_on_each_other_and_scratch_is_bounded() {
    if !root() {
        return;
    }
    let layers: Vec<fn(&std::path::Path)> = vec![
        |layer| {
            fs::write(layer.join("a"), "lower\n").unwrap();
            fs::write(layer.join("b"), "kept\n").unwrap();
        },
        |layer| fs::write(layer.join("a"), "upper\n").unwrap(),
    ];
    let mut case = Case::new(&["cat:/a", "cat:/b", "ls:/", "stat:/", "write:100000:/c", "write:2000000:/d"]);
    case.layers = layers;
    case.container.scratch_bytes = 1 << 20;
    let out = case.output();
    let expected = format!(
        "upper\nkept\nls /: a b bin dev proc sys\nstat /: 40755 0:0 {}\nwrite /c: 0\nwrite /d: {}\n",
        out.split("0:0 ").nth(1).unwrap().split('\n').next().unwrap(),
        libc::ENOSPC
    );
    assert_eq!(out, expected);

    // The first of the two again on top, as an image may have equal layers: what it says counts.
    case.container.args.truncate(1);
    case.container.args.extend(["cat:/a", "cat:/b"].map(str::to_owned));
    case.again = vec![1, 0];
    assert_eq!(case.output(), "lower\nkept\n");

    // A device node of the image opens nothing; the same device in /dev does.
    let mut case = Case::new(&["stat:/node", "write:1:/node", "write:1:/dev/null"]);
    case.layers = vec![|layer| {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        mknodat(CWD, layer.join("node"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
    }];
    let out = case.output();
    assert!(out.starts_with("stat /node: 206"), "{out}");
    assert!(out.ends_with(&format!("write /node: {}\nwrite /dev/null: 0\n", libc::EACCES)), "{out}");

    // A read-only root, with a tmpfs that can be written, within its own bound.
    let mut case =
        Case::new(&["write:1:/c", "write:4096:/tmp/c", "write:99999:/tmp/d", "stat:/tmp", "stat:/bin/probe"]);
    case.container.read_only_root = true;
    case.container.tmpfs = vec![Tmpfs { path: "/tmp".into(), size_bytes: 65_536, mode: 0o1777 }];
    let out = case.output();
    assert!(
        out.starts_with(&format!(
            "write /c: {}\nwrite /tmp/c: 0\nwrite /tmp/d: {}\nstat /tmp: 41777 0:0 ",
            libc::EROFS,
            libc::ENOSPC
        )),
        "{out}"
    );
}

#[test]
fn kernel_places_are_bounded_hidden_and_read_only() {
    if !root() {
        return;
    }
    let out = Case::new(&[
        "cat:/proc/self/mountinfo",
        "ls:/dev",
        "ls:/dev/pts",
        "readlink:/dev/fd",
        "stat:/dev/null",
        "write:1:/dev/null",
        "cat:/proc/kcore",
        "cat:/proc/keys",
        "ls:/sys/firmware",
        "write:1:/proc/sys/kernel/hostname",
        "write:1:/proc/sysrq-trigger",
        "write:1:/sys/fs/cgroup/cgroup.procs",
        "ls:/proc/1/task",
        "write:1:/dev/shm/x",
        "write:1:/sys/kernel/profiling",
    ])
    .output();
    let mounts: Vec<(&str, &str)> = out
        .lines()
        .filter(|line| line.contains(" - "))
        .map(|line| (line.split(' ').nth(4).unwrap(), line.split(" - ").nth(1).unwrap().split(' ').next().unwrap()))
        .collect();
    for expected in [
        ("/", "overlay"),
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
        ("/sys/fs/cgroup", "cgroup2"),
        ("/proc/sys", "proc"),
    ] {
        assert!(mounts.contains(&expected), "{expected:?} is not in\n{out}");
    }
    let on_host = |path: &str, errno| if std::path::Path::new(path).exists() { errno } else { libc::ENOENT };
    // Nothing of the agent's: every mount is one of the above, a mask or a read-only cover.
    for (path, _) in &mounts {
        let known = ["/", "/proc", "/dev", "/sys"].contains(path)
            || ["/dev/", "/proc/", "/sys/"].iter().any(|place| path.starts_with(place));
        assert!(known, "{path}\n{out}");
    }
    for line in [
        "ls /dev: fd full mqueue null ptmx pts random shm stderr stdin stdout termination-log tty urandom zero",
        "ls /dev/pts: ptmx",
        "readlink /dev/fd: /proc/self/fd",
        "write /dev/null: 0",
        "write /dev/shm/x: 0",
        "ls /proc/1/task: 1",
        &format!("write /proc/sys/kernel/hostname: {}", libc::EROFS),
        &format!("write /proc/sysrq-trigger: {}", on_host("/proc/sysrq-trigger", libc::EROFS)),
        &format!("write /sys/fs/cgroup/cgroup.procs: {}", libc::EROFS),
        &format!("write /sys/kernel/profiling: {}", libc::EROFS),
    ] {
        assert!(out.lines().any(|found| found == line), "{line:?} is not in\n{out}");
    }
    for path in ["/proc/kcore", "/proc/keys"] {
        // A masked file reads as empty; one that this kernel has not, is not there.
        let missing = out.contains(&format!("cat {path}: {}", libc::ENOENT));
        assert_eq!(missing, !std::path::Path::new(path).exists(), "{path}\n{out}");
        assert!(!out.contains(": -") && !out.contains("keyring"), "{out}");
    }
    assert!(!out.contains("ls /sys/firmware: a") && !out.contains("ls /sys/firmware: d"), "{out}");
}

#[test]
fn secrets_are_files_of_the_user_and_of_nobody_else() {
    if !root() {
        return;
    }
    let mut case = Case::new(&[
        "stat:/run/secrets/key",
        "cat:/run/secrets/key",
        "cat:/etc/token",
        "write:1:/run/secrets/key",
        "cat:/proc/self/mountinfo",
        "sleep:60",
    ]);
    case.container.user = User { uid: 1000, gid: 1001, ..User::default() };
    case.container.read_only_root = true;
    case.container.tmpfs = vec![Tmpfs { path: "/run".into(), size_bytes: 4096, mode: 0o755 }];
    case.secrets = vec![("/run/secrets/key", 0o400, b"model key\n"), ("/etc/token", 0o440, b"token\n")];
    case.layers = vec![|layer| {
        // The image has a file there already: the secret covers it.
        fs::create_dir(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/token"), "of the image\n").unwrap();
    }];
    let (running, [stdout, _stderr], _layers) = case.start().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "stat /run/secrets/key: 100400 1000:1001 10");
    assert_eq!((next(), next()), ("model key".into(), "token".into()));
    assert_eq!(next(), format!("write /run/secrets/key: {}", libc::EROFS));
    let mut own = String::new();
    while !own.contains(" /etc/token ") || !own.contains(" /run/secrets/key ") {
        own = format!("{own}{}\n", next());
    }
    for path in [" /etc/token ", " /run/secrets/key "] {
        let line = own.lines().find(|line| line.contains(path)).unwrap();
        assert!(line.contains("ro,nosuid,nodev,noexec") && line.contains("- tmpfs "), "{line}");
    }
    // The agent's mount namespace knows nothing of all that.
    let ours = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!ours.contains("/run/secrets/key") && !ours.contains("/etc/token") && !ours.contains("overlay"), "{ours}");
    running.kill_all().unwrap();
    assert_eq!(running.wait().unwrap(), Exit::Signal(libc::SIGKILL));
    running.cleanup().unwrap();
}

#[test]
fn generated_files_cover_what_the_image_has() {
    if !root() {
        return;
    }
    let mut case = Case::new(&[
        "stat:/etc/hosts",
        "cat:/etc/hosts",
        "cat:/etc/hostname",
        "cat:/etc/resolv.conf",
        "write:1:/etc/resolv.conf",
    ]);
    case.generated = ["hosts", "hostname", "resolv.conf"]
        .map(|name| GeneratedFile {
            path: std::path::Path::new("/etc").join(name),
            content: format!("ours: {name}\n").into_bytes(),
        })
        .into();
    case.layers = vec![|layer| {
        fs::create_dir(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/hosts"), "of the image\n").unwrap();
        // As in images of a whole system: the link's target is made by a service.
        symlink("../run/systemd/resolve/stub-resolv.conf", layer.join("etc/resolv.conf")).unwrap();
    }];
    let done = case.run().unwrap();
    let out = done.stdout;
    let expected = format!(
        "stat /etc/hosts: 100644 0:0 12\nours: hosts\nours: hostname\nours: resolv.conf\nwrite /etc/resolv.conf: {}\n",
        libc::EROFS
    );
    assert_eq!(out, expected, "{}", done.stderr);
    // A link to somewhere that the kernel fills is none of these: it is refused.
    case.layers = vec![|layer| {
        fs::create_dir(layer.join("etc")).unwrap();
        symlink("/dev/null", layer.join("etc/hosts")).unwrap();
    }];
    match case.start() {
        Err(ContainerError::MountPoint { path, found, .. }) => {
            assert_eq!((path.as_str(), found), ("/etc/hosts", "a device, socket or pipe"));
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn links_in_the_image_lead_nowhere_outside() {
    if !root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let before = |path: &str| fs::symlink_metadata(path).is_ok();
    assert!(!before("/belljar-escape"), "left by an earlier run");

    // The positive twin: a link that stays inside is followed inside.
    let mut case = Case::new(&["cat:/run/secrets/key", "cat:/data/secrets/key", "ls:/"]);
    case.secrets = vec![("/run/secrets/key", 0o400, b"key\n")];
    case.layers = vec![|layer| {
        fs::create_dir(layer.join("data")).unwrap();
        symlink("/data", layer.join("run")).unwrap();
    }];
    assert_eq!(case.output(), "key\nkey\nls /: bin data dev proc run sys\n");

    // A climb: `..` stops at the container's root.
    case.layers = vec![|layer| {
        fs::create_dir(layer.join("belljar-escape")).unwrap();
        symlink("../../../../belljar-escape", layer.join("run")).unwrap();
    }];
    case.container.args = vec!["/bin/probe".into(), "cat:/belljar-escape/secrets/key".into()];
    assert_eq!(case.output(), "key\n");
    assert!(!before("/belljar-escape") && fs::read_dir(outside.path()).unwrap().next().is_none());

    let mount_point = |case: &Case| match case.run() {
        Err(ContainerError::MountPoint { path, found, .. }) => (path, found),
        other => panic!("{other:?}"),
    };
    case.layers = vec![|layer| symlink("/nowhere/at/all", layer.join("run")).unwrap()];
    assert_eq!(mount_point(&case), ("/run".into(), "a symbolic link that leads nowhere"));
    for (place, fill) in [
        ("/proc", (|layer| symlink("/bin", layer.join("proc")).unwrap()) as fn(&std::path::Path)),
        ("/dev", |layer| symlink("bin", layer.join("dev")).unwrap()),
        ("/sys", |layer| symlink("/", layer.join("sys")).unwrap()),
    ] {
        case.layers = vec![fill];
        assert_eq!(mount_point(&case), (place.into(), "a symbolic link"));
    }
    case.layers = vec![|layer| fs::write(layer.join("proc"), "a file").unwrap()];
    assert_eq!(mount_point(&case), ("/proc".into(), "something else"));
    // A secret that a link would put into /proc or /dev, where the kernel gives it a meaning or covers it.
    for fill in
        [(|layer: &std::path::Path| symlink("/proc", layer.join("run")).unwrap()) as fn(&std::path::Path), |layer| {
            symlink("/dev/shm", layer.join("run")).unwrap()
        }]
    {
        case.layers = vec![fill];
        assert_eq!(mount_point(&case).1, "a symbolic link to /proc, /sys or /dev");
    }
    case.layers = vec![|layer| fs::create_dir_all(layer.join("run/secrets/key")).unwrap()];
    assert_eq!(mount_point(&case), ("/run/secrets/key".into(), "a directory"));

    // The image's passwd as a link to the host's: it is read inside, where there is none.
    case.layers = vec![|layer| {
        fs::create_dir(layer.join("etc")).unwrap();
        symlink("/../../../etc/shadow", layer.join("etc/passwd")).unwrap();
    }];
    case.container.args = vec!["/bin/probe".into(), "ids".into()];
    case.container.user = User { name: Some("daemon".into()), ..User::default() };
    assert!(matches!(case.run(), Err(ContainerError::User(_))));
}

#[test]
fn exits_signals_and_teardown() {
    if !root() {
        return;
    }
    let exit = |commands: &[&str]| Case::new(commands).run().unwrap().exit;
    assert_eq!(exit(&["exit:0"]), Exit::Code(0));
    assert_eq!(exit(&["exit:7"]), Exit::Code(7));
    let outcome = Case::new(&["stderr:apart", "args"]).run().unwrap();
    assert_eq!((outcome.stderr.as_str(), outcome.stdout.starts_with("args")), ("apart\n", true));

    // PID 1 of a namespace has no default action for SIGTERM, but SIGKILL from outside ends it, with its children.
    let case = Case::new(&["forks:3", "sleep:60"]);
    let (running, [stdout, _stderr], _layers) = case.start().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    assert_eq!(line, "forks: 3\n");
    let inside = fs::read_to_string(running.cgroup().join("cgroup.procs")).unwrap();
    assert_eq!(inside.lines().count(), 4);
    assert!(matches!(case.run(), Err(ContainerError::Exists { .. })), "one container of a name at a time");
    running.signal(Signal::TERM).unwrap();
    let started = Instant::now();
    running.signal(Signal::KILL).unwrap();
    assert_eq!(running.wait().unwrap(), Exit::Signal(libc::SIGKILL));
    let cgroup = running.cgroup().to_owned();
    running.cleanup().unwrap();
    assert!(!cgroup.exists() && started.elapsed().as_secs() < 2);
    for pid in inside.lines() {
        assert!(!std::path::Path::new("/proc").join(pid).exists(), "{pid} is still there");
    }
}

#[test]
fn a_terminal_of_its_own() {
    if !root() {
        return;
    }
    let mut case = Case::new(&["tty", "stat:/dev/console", "ls:/dev/pts"]);
    case.container.terminal = true;
    let (mut running, _, _layers) = case.start().unwrap();
    let mut master = fs::File::from(running.terminal().unwrap());
    let mut out = Vec::new();
    // Reading a master whose peers are all closed ends with EIO.
    let error = std::io::Read::read_to_end(&mut master, &mut out).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let out = String::from_utf8(out).unwrap();
    assert!(out.starts_with("tty: true\r\nstat /dev/console: 20620 0:5 0\r\nls /dev/pts: 0 ptmx\r\n"), "{out:?}");
    assert_eq!(running.wait().unwrap(), Exit::Code(0));
    running.cleanup().unwrap();
}

#[test]
fn limits_hold() {
    if !root() || !controllers(&["memory", "pids", "cpu"]) {
        return;
    }
    let mut case = Case::new(&[
        "alloc:8000000",
        "cat:/sys/fs/cgroup/memory.max",
        "cat:/sys/fs/cgroup/memory.swap.max",
        "cat:/sys/fs/cgroup/pids.max",
        "cat:/sys/fs/cgroup/cpu.max",
    ]);
    case.limits = true;
    case.container.resources.memory_bytes = Some(32 << 20);
    case.container.resources.cpu_millis = Some(500);
    case.container.resources.pids = 10;
    let out = case.output();
    assert!(out.ends_with("33554432\n0\n10\n50000 100000\n") && out.starts_with("alloc: "), "{out}");

    case.container.args = vec!["/bin/probe".into(), "alloc:64000000".into()];
    let outcome = case.run().unwrap();
    assert_eq!((outcome.exit, outcome.oom, outcome.stdout.as_str()), (Exit::Signal(libc::SIGKILL), true, ""));
    // The writable layer is memory of the container, too.
    case.container.args = vec!["/bin/probe".into(), "write:60000000:/big".into()];
    let outcome = case.run().unwrap();
    assert_eq!((outcome.exit, outcome.oom), (Exit::Signal(libc::SIGKILL), true));

    case.container.args = vec!["/bin/probe".into(), "forks:30".into()];
    assert_eq!(case.output(), "forks: 9\n");
}

#[test]
fn limits_that_the_kernel_cannot_set_are_refused() {
    if !root() {
        return;
    }
    let mut case = Case::new(&["args"]);
    case.limits = true;
    case.container.resources.memory_bytes = Some(32 << 20);
    let available = fs::read_to_string(cgroup_root().join("cgroup.controllers")).unwrap();
    match case.run() {
        Ok(outcome) => assert!(available.contains("memory") && available.contains("pids"), "{outcome:?}"),
        Err(ContainerError::Controller { controller, .. }) => assert!(!available.contains(controller)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_honoured_is_refused() {
    use oci_spec::runtime::{HooksBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccompAction, Spec};
    let refused = |change: fn(&mut Spec)| {
        let case = Case { change, ..Case::new(&["args"]) };
        match case.run() {
            Err(ContainerError::NotHonoured { field }) => field,
            Err(ContainerError::Malformed { field, .. }) => format!("malformed {field}"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        refused(|spec| {
            spec.set_domainname(Some("x".into()));
        }),
        "domainname"
    );
    let hooks = refused(|spec| {
        spec.set_hooks(Some(HooksBuilder::default().prestart(vec![Default::default()]).build().unwrap()));
    });
    assert_eq!(hooks, "hooks.prestart[0].path");
    let annotations = refused(|spec| {
        spec.set_annotations(Some([("a".to_owned(), "b".to_owned())].into()));
    });
    assert_eq!(annotations, "annotations.a");
    let apparmor = refused(|spec| {
        let mut process = spec.process().clone().unwrap();
        process.set_apparmor_profile(Some("x".into()));
        spec.set_process(Some(process));
    });
    assert_eq!(apparmor, "process.apparmorProfile");
    let terminal = refused(|spec| {
        let mut process = spec.process().clone().unwrap();
        process.set_terminal(Some(true));
        spec.set_process(Some(process));
    });
    assert_eq!(terminal, "malformed process.terminal");
    let mount = refused(|spec| {
        let mut mounts = spec.mounts().clone().unwrap();
        mounts[0].set_options(Some(vec!["relatime".into()]));
        spec.set_mounts(Some(mounts));
    });
    assert_eq!(mount, "mounts[0].options: relatime");
    let other = refused(|spec| {
        let mut mounts = spec.mounts().clone().unwrap();
        mounts[0].set_typ(Some("nfs".into()));
        spec.set_mounts(Some(mounts));
    });
    assert_eq!(other, "mounts[0].type = Some(\"nfs\")");
    let bind = refused(|spec| {
        let mut mounts = spec.mounts().clone().unwrap();
        mounts[0].set_typ(Some("bind".into()));
        spec.set_mounts(Some(mounts));
    });
    assert_eq!(bind, "malformed mounts", "a bind mount of something that the agent does not give");
    let sysctl = refused(|spec| {
        let mut linux = spec.linux().clone().unwrap();
        linux.set_sysctl(Some([("a".to_owned(), "b".to_owned())].into()));
        spec.set_linux(Some(linux));
    });
    assert_eq!(sysctl, "linux.sysctl.a");
    let network = refused(|spec| {
        let mut linux = spec.linux().clone().unwrap();
        let mut namespaces = linux.namespaces().clone().unwrap();
        namespaces.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).build().unwrap());
        linux.set_namespaces(Some(namespaces));
        spec.set_linux(Some(linux));
    });
    assert_eq!(network, "malformed linux.namespaces");
    let seccomp = refused(|spec| {
        let mut linux = spec.linux().clone().unwrap();
        let mut seccomp = linux.seccomp().clone().unwrap();
        seccomp.set_default_action(LinuxSeccompAction::ScmpActAllow);
        linux.set_seccomp(Some(seccomp));
        spec.set_linux(Some(linux));
    });
    assert_eq!(seccomp, "linux.seccomp.defaultAction ScmpActAllow");
}

#[test]
fn many_at_once_from_many_threads() {
    if !root() {
        return;
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Case::new(&["pid", "fds"]).output())).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), "pid: 1 session 1\nfds: 0 1 2 3\n");
        }
    });
}

#[test]
fn the_time_that_a_start_takes() {
    if !root() {
        return;
    }
    // From the call to the executed program, with a secret and a bounded cgroup: the median of some, for the record.
    let mut times: Vec<u128> = (0..15)
        .map(|_| {
            let mut case = Case::new(&["exit:0"]);
            case.secrets = vec![("/run/secrets/key", 0o400, b"key")];
            let (running, time, _layers) = case.timed();
            assert_eq!(running.wait().unwrap(), Exit::Code(0));
            running.cleanup().unwrap();
            time.as_micros()
        })
        .collect();
    times.sort_unstable();
    println!("{} microseconds from spawn to the executed program (median of {})", times[7], times.len());
    assert!(times[7] < 1_000_000, "{times:?}");
}
