//! Further processes in a running container, and what is told about it: messages, usage, signals to all.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use belljar_agent::container::{ContainerError, Joined, Running, Stage, Stdio, resize};
use belljar_contract::User;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};

use crate::harness::{Case, controllers, root};

/// Runs the probe with these commands in a running container; gives its output and status.
fn join(running: &Running, commands: &[&str]) -> Result<(String, i32), ContainerError> {
    let args: Vec<String> = ["/bin/probe"].iter().chain(commands).map(|text| (*text).to_owned()).collect();
    let (stdout, stdout_end) = std::io::pipe().unwrap();
    let stdin = File::open("/dev/null").unwrap();
    let stderr = File::options().write(true).open("/dev/null").unwrap();
    let stdio = Stdio::Streams { stdin: stdin.into(), stdout: stdout_end.into(), stderr: stderr.into() };
    let beginning = running.entrance().unwrap().begin(&args, stdio)?;
    let pid = beginning.pid();
    match beginning.finish() {
        Ok(joined) => {
            let text = std::io::read_to_string(stdout).unwrap();
            Ok((text, status(&joined)))
        }
        Err(error) => {
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
            Err(error)
        }
    }
}

fn status(joined: &Joined) -> i32 {
    use std::os::fd::AsFd;
    let status = waitid(WaitId::PidFd(joined.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap()
}

fn end(running: Running) {
    running.kill_all().unwrap();
    running.wait().unwrap();
    running.cleanup().unwrap();
}

#[test]
fn a_further_process_is_bounded_as_the_first() {
    if !root() {
        return;
    }
    let mut case = Case::new(&["sleep:600"]);
    case.container.user = User { uid: 1000, gid: 1001, additional_gids: vec![44], name: None };
    case.container.cwd = "/work".into();
    case.container.hostname = "jar".into();
    case.container.read_only_root = true;
    case.secrets = vec![("/run/secrets/key", 0o400, b"key\n")];
    let (running, _files, _layers) = case.start().unwrap();
    let commands = [
        "args",
        "env",
        "cwd",
        "ids",
        "hostname",
        "fds",
        "cat:/run/secrets/key",
        "cat:/proc/self/cgroup",
        "cat:/proc/1/cgroup",
        "write:1:/x",
        "syscall:mount",
        "syscall:setns",
        "syscall:clone3",
        "cat:/proc/self/status",
        "exit:7",
    ];
    let (out, code) = join(&running, &commands).unwrap();
    assert_eq!(code, 7);
    for line in [
        "env: BELLJAR_PROBE=1 HOME=/ PATH=/usr/bin:/bin",
        "cwd: /work",
        "ids: 1000 1001 [44]",
        "hostname: jar",
        "fds: 0 1 2 3",
        "key",
        "0::/",
        &format!("write /x: {}", libc::EROFS),
        &format!("syscall mount: {}", libc::EPERM),
        &format!("syscall setns: {}", libc::EPERM),
        &format!("syscall clone3: {}", libc::ENOSYS),
    ] {
        assert!(out.lines().any(|found| found == line), "{line:?} is not in\n{out}");
    }
    assert_eq!(out.lines().filter(|line| *line == "0::/").count(), 2, "the same cgroup\n{out}");
    let field = |key: &str| out.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (field("CapBnd:"), field("NoNewPrivs:"), field("Seccomp:")),
        ("00000000000004fb".into(), "1".into(), "2".into())
    );
    assert_eq!((field("Umask:"), field("SigBlk:")), ("0022".into(), "0000000000000000".into()));

    // Namespaces are the same ones, and no mount was added.
    let (mine, _) =
        join(&running, &["cat:/proc/self/mountinfo", "readlink:/proc/self/ns/pid", "readlink:/proc/self/ns/mnt"])
            .unwrap();
    let first = |space: &str| fs::read_link(format!("/proc/{}/ns/{space}", running.pid().as_raw_pid())).unwrap();
    for space in ["pid", "mnt"] {
        let line = format!("readlink /proc/self/ns/{space}: {}", first(space).display());
        assert!(mine.contains(&line), "{line}\n{mine}");
    }
    let (again, _) = join(&running, &["cat:/proc/self/mountinfo"]).unwrap();
    assert!(mine.starts_with(&again));
    end(running);
}

#[test]
fn failures_of_a_further_process_are_told() {
    if !root() {
        return;
    }
    let case = Case::new(&["sleep:600"]);
    let (running, _files, _layers) = case.start().unwrap();
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap().into();
    let begin = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|text| (*text).to_owned()).collect();
        let stdio = Stdio::Streams { stdin: null(), stdout: null(), stderr: null() };
        let beginning = running.entrance().unwrap().begin(&args, stdio)?;
        let pid = beginning.pid();
        let outcome = beginning.finish();
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
        outcome
    };
    assert!(begin(&["probe", "exit:0"]).is_ok());
    match begin(&["ghost"]) {
        Err(ContainerError::NotInPath { program, .. }) => assert_eq!(program, "ghost"),
        other => panic!("{other:?}"),
    }
    match begin(&["/bin/ghost"]) {
        Err(ContainerError::Setup { stage: Stage::Exec, source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::ENOENT))
        }
        other => panic!("{other:?}"),
    }
    // After the end of the first process nobody comes in.
    running.signal(Signal::KILL).unwrap();
    running.wait().unwrap();
    assert!(matches!(begin(&["/bin/probe", "exit:0"]), Err(ContainerError::Gone)));
    running.cleanup().unwrap();

    // With the right to trace, the container could look into a process that is about to join it.
    let mut tracer = Case::new(&["sleep:600"]);
    tracer.container.capabilities.push("CAP_SYS_PTRACE".into());
    let (running, _files, _layers) = tracer.start().unwrap();
    assert!(matches!(join(&running, &["exit:0"]), Err(ContainerError::Tracer)));
    end(running);
}

#[test]
fn a_further_process_ends_with_the_container() {
    if !root() {
        return;
    }
    let case = Case::new(&["sleep:600"]);
    let (running, _files, _layers) = case.start().unwrap();
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap().into();
    let stdio = Stdio::Streams { stdin: null(), stdout: null(), stderr: null() };
    let args = ["/bin/probe", "sleep:600"].map(str::to_owned);
    let joined = running.entrance().unwrap().begin(&args, stdio).unwrap().finish().unwrap();
    running.signal(Signal::KILL).unwrap();
    assert_eq!(status(&joined), 137);
    running.wait().unwrap();
    running.cleanup().unwrap();
}

#[test]
fn a_further_process_has_a_terminal_of_its_own_that_can_be_resized() {
    if !root() {
        return;
    }
    let case = Case::new(&["sleep:600"]);
    let (running, _files, _layers) = case.start().unwrap();
    let args = ["/bin/probe", "tty", "winsize", "readlink:/proc/self/fd/0"].map(str::to_owned);
    // The size is set before the program runs: its own terminal keeps it.
    let begin = |args: &[String]| running.entrance().unwrap().begin(args, Stdio::Terminal).unwrap().finish().unwrap();
    let joined = begin(&args);
    let mut out = Vec::new();
    let _ = File::from(joined.terminal.as_ref().unwrap().try_clone().unwrap()).read_to_end(&mut out);
    let out = String::from_utf8(out).unwrap();
    assert!(
        out.starts_with("tty: true\r\nwinsize: ") && out.ends_with("readlink /proc/self/fd/0: /dev/pts/0\r\n"),
        "{out:?}"
    );
    status(&joined);

    let joined = begin(&["/bin/probe", "winch"].map(str::to_owned));
    let master = joined.terminal.as_ref().unwrap();
    let mut reader = std::io::BufReader::new(File::from(master.try_clone().unwrap()));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    assert_eq!(line, "ready\r\n");
    resize(master, 132, 43).unwrap();
    line.clear();
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    assert_eq!(line, "winch: 132 x 43\r\n");
    assert_eq!(status(&joined), 0);
    let pipe: OwnedFd = std::io::pipe().unwrap().0.into();
    assert!(resize(&pipe, 1, 1).is_err());
    end(running);
}

#[test]
fn a_process_that_is_about_to_join_cannot_be_looked_into() {
    if !root() {
        return;
    }
    // The same user and the same capabilities. Only the joined program is ever seen, and
    // never the agent that it was before.
    let case = Case::new(&["spy"]);
    let (running, [stdout, _stderr], mut stdin, _layers) = case.start_interactive();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
    assert_eq!(lines.next().unwrap().unwrap(), "spying");
    for _ in 0..100 {
        assert_eq!(join(&running, &["exit:0"]).unwrap().1, 0);
    }
    assert_eq!(join(&running, &["sleep:1"]).unwrap().1, 0);
    std::io::Write::write_all(&mut stdin, b"\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "seen: {\"/bin/probe\"}");
    running.wait().unwrap();
    running.cleanup().unwrap();
}

#[test]
fn what_a_container_says_at_its_end_is_kept() {
    if !root() {
        return;
    }
    let ended = |commands: &[&str]| {
        let case = Case::new(commands);
        let (running, _files, _layers) = case.start().unwrap();
        running.wait().unwrap();
        let message = running.termination_message(4096).unwrap();
        running.cleanup().unwrap();
        message
    };
    assert_eq!(ended(&["stat:/dev/termination-log", "exit:0"]), "");
    assert_eq!(ended(&["append:no such model:/dev/termination-log", "exit:1"]), "no such model");
    let long = ended(&["write:20000:/dev/termination-log", "append:end:/dev/termination-log"]);
    assert!(long.len() == 4096 && long.ends_with("xxend"), "{} bytes, {:?}", long.len(), &long[4080..]);
    // A user other than root may write it, too.
    let mut case = Case::new(&["append:mine:/dev/termination-log"]);
    case.container.user = User { uid: 1000, gid: 1000, ..User::default() };
    let (running, _files, _layers) = case.start().unwrap();
    running.wait().unwrap();
    assert_eq!(running.termination_message(2).unwrap(), "ne");
    running.cleanup().unwrap();
}

#[test]
fn a_signal_reaches_the_first_process_and_kill_all_every_one() {
    if !root() {
        return;
    }
    let case = Case::new(&["forks:3", "sleep:600"]);
    let (running, [stdout, _], _layers) = case.start().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    let count = || fs::read_to_string(running.cgroup().join("cgroup.procs")).unwrap().lines().count();
    assert_eq!(count(), 4);
    // The first process has no handler, and as PID 1 no default action; the others do not get it.
    running.signal(Signal::TERM).unwrap();
    assert_eq!(count(), 4);
    running.kill_all().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let living = || {
        let pids = fs::read_to_string(running.cgroup().join("cgroup.procs")).unwrap();
        let living = |pid: &&str| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            !status.contains("State:\tZ")
        };
        pids.lines().filter(living).count()
    };
    while living() > 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(running.wait().unwrap(), belljar_agent::container::Exit::Signal(libc::SIGKILL));
    running.cleanup().unwrap();
}

#[test]
fn usage_is_counted() {
    if !root() || !controllers(&["memory", "pids"]) {
        return;
    }
    // Without a limit of its own the container is counted all the same.
    let case = Case::new(&["alloc:8000000", "sleep:600"]);
    let (running, [stdout, _], _layers) = case.start().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    let usage = running.usage();
    assert!(usage.memory > 100_000 && usage.working_set > 0 && usage.working_set <= usage.memory, "{usage:?}");
    assert!(usage.cpu_us > 0 && usage.cpu_user_us + usage.cpu_system_us <= usage.cpu_us + 2, "{usage:?}");
    assert_eq!((usage.memory_limit, usage.pids, usage.oom_kills), (0, 1, 0));
    end(running);

    // A child that asks for too much takes the container with it, and that is known.
    let mut case = Case::new(&["fork-alloc:64000000", "sleep:600"]);
    case.limits = true;
    case.container.resources.memory_bytes = Some(32 << 20);
    let (running, _files, _layers) = case.start().unwrap();
    assert_eq!(running.wait().unwrap().status(), 137);
    assert!(running.oom_killed() && running.usage().oom_kills > 0 && running.usage().memory_limit == 32 << 20);
    running.cleanup().unwrap();
}
