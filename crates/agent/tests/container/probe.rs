//! The program inside the test containers: this very test binary, which is static. A constructor takes over before the test harness
//! when `BELLJAR_PROBE` is in the environment. Each argument is one command; each answer is one line or a file's text.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;

#[used]
// SAFETY: the loader calls the functions of this section once, before `main`, with the C library ready (static glibc).
#[unsafe(link_section = ".init_array")]
static PROBE: extern "C" fn() = probe;

extern "C" fn probe() {
    if std::process::id() == 1 && std::env::var_os("BELLJAR_PROBE").is_none() {
        // The kernel has started the test binary as init of a VM: see `vm.rs`.
        super::container_vm::be_init();
        return;
    }
    if std::env::var_os("BELLJAR_PROBE").is_none() {
        return;
    }
    let mut status = 0;
    for command in std::env::args().skip(1) {
        let (verb, rest) = command.split_once(':').unwrap_or((&command, ""));
        status = run(verb, rest);
    }
    std::process::exit(status);
}

fn run(verb: &str, rest: &str) -> i32 {
    match verb {
        "cat" => match fs::read_to_string(rest) {
            Ok(text) => print!("{text}"),
            Err(error) => println!("cat {rest}: {}", error.raw_os_error().unwrap_or(0)),
        },
        "stat" => match fs::metadata(rest) {
            Ok(meta) => println!("stat {rest}: {:o} {}:{} {}", meta.mode(), meta.uid(), meta.gid(), meta.len()),
            Err(error) => println!("stat {rest}: {}", error.raw_os_error().unwrap_or(0)),
        },
        "ls" => {
            let mut names: Vec<String> =
                fs::read_dir(rest).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            println!("ls {rest}: {}", names.join(" "));
        }
        "readlink" => println!("readlink {rest}: {}", fs::read_link(rest).unwrap().display()),
        // write:BYTES:PATH
        "write" => {
            let (size, path) = rest.split_once(':').unwrap();
            let result = fs::File::create(path).and_then(|mut file| {
                let block = vec![b'x'; 65536];
                let mut left: usize = size.parse().unwrap();
                while left > 0 {
                    let part = left.min(block.len());
                    file.write_all(&block[..part])?;
                    left -= part;
                }
                Ok(())
            });
            println!("write {path}: {}", result.map_or_else(|e| e.raw_os_error().unwrap_or(0), |()| 0));
        }
        // append:TEXT:PATH
        "append" => {
            let (text, path) = rest.split_once(':').unwrap();
            let file = fs::File::options().append(true).create(true).open(path);
            let result = file.and_then(|mut file| file.write_all(text.as_bytes()));
            if !path.starts_with("/dev/") || result.is_err() {
                println!("append {path}: {}", result.map_or_else(|e| e.raw_os_error().unwrap_or(0), |()| 0));
            }
        }
        "args" => println!("args: {:?}", std::env::args().collect::<Vec<_>>()),
        "env" => {
            let mut all: Vec<String> = std::env::vars().map(|(k, v)| format!("{k}={v}")).collect();
            all.sort();
            println!("env: {}", all.join(" "));
        }
        "cwd" => println!("cwd: {}", std::env::current_dir().unwrap().display()),
        "ids" => {
            let mut groups: Vec<u32> =
                rustix::process::getgroups().unwrap().into_iter().map(|gid| gid.as_raw()).collect();
            groups.sort_unstable();
            let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            println!("ids: {uid} {gid} {groups:?}");
        }
        "hostname" => println!("hostname: {}", rustix::system::uname().nodename().to_str().unwrap()),
        "pid" => {
            println!("pid: {} session {}", std::process::id(), rustix::process::getsid(None).unwrap().as_raw_pid())
        }
        "fds" => {
            let mut fds: Vec<String> =
                fs::read_dir("/proc/self/fd").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            fds.sort();
            // One more than the program has: the directory itself.
            println!("fds: {}", fds.join(" "));
        }
        "stdin" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            println!("stdin: {text}");
        }
        // Looks at the programs of all other processes, until a line comes: those that it can see.
        "spy" => {
            let heard = std::sync::atomic::AtomicBool::new(false);
            let mut seen = std::collections::BTreeSet::new();
            println!("spying");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::io::stdin().read_line(&mut String::new()).unwrap();
                    heard.store(true, std::sync::atomic::Ordering::Relaxed);
                });
                let mut newest = 2_u32;
                while !heard.load(std::sync::atomic::Ordering::Relaxed) {
                    let from = newest;
                    for pid in from..from + 8 {
                        if let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) {
                            seen.insert(program.display().to_string());
                        }
                        if fs::metadata(format!("/proc/{pid}")).is_ok() {
                            newest = newest.max(pid.saturating_sub(2));
                        }
                    }
                }
            });
            println!("seen: {seen:?}");
        }
        "stdin-line" => {
            std::io::stdin().read_line(&mut String::new()).unwrap();
        }
        "stderr" => eprintln!("{rest}"),
        "winsize" => {
            let size = rustix::termios::tcgetwinsize(std::io::stdout()).unwrap();
            println!("winsize: {} x {}", size.ws_col, size.ws_row);
        }
        // Waits for a change of the terminal's size.
        "winch" => {
            // SAFETY: blocks a signal and waits for it; the set lives for the calls.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigaddset(&raw mut set, libc::SIGWINCH);
                libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
                println!("ready");
                libc::sigwaitinfo(&raw const set, std::ptr::null_mut());
            }
            let size = rustix::termios::tcgetwinsize(std::io::stdout()).unwrap();
            println!("winch: {} x {}", size.ws_col, size.ws_row);
        }
        // A child that takes memory.
        "fork-alloc" => {
            // SAFETY: the child only touches memory, and is killed.
            if unsafe { libc::fork() } == 0 {
                run("alloc", rest);
                std::process::exit(0);
            }
        }
        "tty" => println!("tty: {}", rustix::termios::isatty(std::io::stdout())),
        "syscall" => println!("syscall {rest}: {}", syscall(rest)),
        "nproc" => {
            println!("nproc: {}", rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap())
        }
        "thread" => println!("thread: {}", std::thread::spawn(|| 7).join().unwrap()),
        "alloc" => {
            let size: usize = rest.parse().unwrap();
            let block = vec![1_u8; size];
            println!("alloc: {}", block.iter().step_by(4096).map(|byte| usize::from(*byte)).sum::<usize>());
        }
        "forks" => {
            let mut made = 0;
            for _ in 0..rest.parse::<u32>().unwrap() {
                // SAFETY: the child only sleeps and is killed with the container.
                match unsafe { libc::fork() } {
                    0 => loop {
                        std::thread::sleep(std::time::Duration::from_secs(60));
                    },
                    -1 => break,
                    _ => made += 1,
                }
            }
            println!("forks: {made}");
        }
        "sleep" => std::thread::sleep(std::time::Duration::from_secs(rest.parse().unwrap())),
        "abort" => std::process::abort(),
        "exit" => return rest.parse().unwrap(),
        other => panic!("unknown probe command {other:?}"),
    }
    0
}

/// Makes a system call with harmless arguments; 0 or the errno.
fn syscall(name: &str) -> i32 {
    let path = c"/".as_ptr();
    // SAFETY: each call has arguments that are valid or that the kernel refuses.
    let result = unsafe {
        match name {
            "mount" => libc::syscall(libc::SYS_mount, path, path, path, 0, 0),
            "umount2" => libc::syscall(libc::SYS_umount2, path, libc::MNT_DETACH),
            "pivot_root" => libc::syscall(libc::SYS_pivot_root, path, path),
            "keyctl" => libc::syscall(libc::SYS_keyctl, 0, -3, 0),
            "bpf" => libc::syscall(libc::SYS_bpf, 0, 0, 0),
            "unshare" => libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            "setns" => libc::syscall(libc::SYS_setns, 0, 0),
            "clone_newuser" => libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0),
            "clone3" => libc::syscall(libc::SYS_clone3, 0, 0),
            "io_uring_setup" => libc::syscall(libc::SYS_io_uring_setup, 1, 0),
            "vsock" => libc::syscall(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            "alg" => libc::syscall(libc::SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
            "inet" => libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0),
            "personality" => libc::syscall(libc::SYS_personality, 0xffff_ffff_u64),
            "personality_aslr" => libc::syscall(libc::SYS_personality, 0x004_0000),
            "mknod_block" => libc::syscall(libc::SYS_mknod, c"/tmp-node".as_ptr(), libc::S_IFBLK | 0o600, 0x800),
            "x32_getpid" => libc::syscall(0x4000_0000 + libc::SYS_getpid),
            "chown" => libc::syscall(libc::SYS_chown, path, 0, 0),
            other => panic!("unknown system call {other:?}"),
        }
    };
    if result >= 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap() }
}
