//! The container's first process, between `clone3` and `execve`.
//!
//! The agent has many threads, so the child of a clone may only do what is async-signal-safe: here, system calls on values that were
//! prepared before. It allocates nothing, takes no lock, and ends by `execve` or `_exit`. A failure is told to the agent
//! as eight bytes: stage, index of what it was about, errno.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::Gid;
use rustix::io::Errno;

use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::error::Stage;
use super::plan::{Plan, Rlimit, Sets};
use super::seccomp::Filters;

/// A failure of the child.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub stage: Stage,
    /// Index into the masked paths, read-only paths, child's mounts or limits.
    pub index: usize,
    pub errno: i32,
}

/// Everything that the child uses, prepared.
pub(super) struct Child<'a> {
    pub mounts: Vec<ChildMount>,
    pub masked: &'a [CString],
    pub read_only: &'a [CString],
    pub stdio: [OwnedFd; 3],
    pub terminal: bool,
    pub rlimits: &'a [Rlimit],
    pub cwd: CString,
    pub umask: u32,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<Gid>,
    pub capabilities: Sets,
    pub no_new_privileges: bool,
    pub filters: &'a Filters,
    pub program: CString,
    pub args: Pointers<'a>,
    pub env: Pointers<'a>,
    pub report: RawFd,
    /// Whether it is a further process of a container, in whose namespaces the calling thread is already.
    pub joins: bool,
}

/// A mount that shows the namespaces of the process that makes it.
pub(super) struct ChildMount {
    pub destination: CString,
    pub kind: CString,
    pub flags: MountFlags,
}

/// A NULL-terminated array of C strings.
pub(super) struct Pointers<'a> {
    pointers: Vec<*const c_char>,
    _strings: std::marker::PhantomData<&'a [CString]>,
}

impl<'a> Pointers<'a> {
    pub fn new(strings: &'a [CString]) -> Self {
        let pointers = strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, _strings: std::marker::PhantomData }
    }
}

impl ChildMount {
    pub fn all(plan: &Plan) -> Vec<Self> {
        use rustix::mount::MountAttrFlags as A;
        let flags = |flags: A| {
            [
                (A::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
                (A::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
                (A::MOUNT_ATTR_NODEV, MountFlags::NODEV),
                (A::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
            ]
            .into_iter()
            .filter(|(attribute, _)| flags.contains(*attribute))
            .fold(MountFlags::empty(), |all, (_, flag)| all | flag)
        };
        plan.mounts
            .iter()
            .filter(|mount| mount.kind.in_child())
            .map(|mount| Self {
                destination: CString::new(mount.destination.as_os_str().as_encoded_bytes()).unwrap_or_default(),
                kind: CString::new(mount.kind.name()).unwrap_or_default(),
                flags: flags(mount.flags),
            })
            .collect()
    }
}

impl Failure {
    /// Reads what the child has told; `None` when it has become the program.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 8] = bytes.try_into().ok()?;
        let [stage, _, low, high, a, b, c, d] = *bytes;
        let stage = Stage::ALL.get(usize::from(stage)).copied().unwrap_or(Stage::Clone);
        Some(Self {
            stage,
            index: usize::from(u16::from_le_bytes([low, high])),
            errno: i32::from_le_bytes([a, b, c, d]),
        })
    }

    fn to_bytes(self) -> [u8; 8] {
        let stage = Stage::ALL.iter().position(|stage| *stage == self.stage).unwrap_or_default();
        let stage = u8::try_from(stage).unwrap_or(u8::MAX);
        let [low, high] = u16::try_from(self.index).unwrap_or(u16::MAX).to_le_bytes();
        let [a, b, c, d] = self.errno.to_le_bytes();
        [stage, 0, low, high, a, b, c, d]
    }
}

impl Child<'_> {
    /// Clones the calling thread into the cgroup, and into a PID namespace of its own unless it joins one. Gives the process and its
    /// pidfd.
    pub fn start(&self, cgroup: RawFd) -> io::Result<(i32, OwnedFd)> {
        let mut pidfd: RawFd = -1;
        // SAFETY: all-zero is a valid `clone_args`.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        let wide = |flag: libc::c_int| u64::from(flag.unsigned_abs());
        // CLONE_INTO_CGROUP (1 << 33) does not fit the type that libc gives it.
        arguments.flags = wide(libc::CLONE_PIDFD) | 1 << 33;
        if !self.joins {
            arguments.flags |= wide(libc::CLONE_NEWPID);
        }
        arguments.pidfd = u64::try_from(std::ptr::from_mut(&mut pidfd).addr()).unwrap_or_default();
        arguments.exit_signal = wide(libc::SIGCHLD);
        arguments.cgroup = u64::try_from(cgroup).unwrap_or(u64::MAX);
        let blocked = Signals::block()?;
        // SAFETY: without CLONE_VM the child has its own copy of memory, as after fork; it goes straight to `run`, which does nothing
        // but system calls and never returns. `arguments` and `pidfd` live for the call.
        let result =
            unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&arguments), size_of::<libc::clone_args>()) };
        if result == 0 {
            self.run();
        }
        let result = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
        blocked.restore();
        let pid = i32::try_from(result?).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
    }

    fn run(&self) -> ! {
        let failure = match self.set_up() {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        let bytes = failure.to_bytes();
        // SAFETY: writes bytes that are there, and ends this process without running anything of the agent's.
        unsafe {
            libc::write(self.report, bytes.as_ptr().cast(), bytes.len());
            libc::_exit(127)
        }
    }

    fn set_up(&self) -> Result<std::convert::Infallible, Failure> {
        let at = |stage: Stage, index: usize| move |errno: Errno| Failure { stage, index, errno: errno.raw_os_error() };
        let io_at = |stage: Stage| {
            move |error: io::Error| Failure { stage, index: 0, errno: error.raw_os_error().unwrap_or(0) }
        };

        if self.joins {
            // Until `execve` this process has a copy of the agent's memory, and from here on the container's processes see it: none of
            // them may look inside, not even one with the same user and capabilities (ptrace(2), "dumpable").
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at(Stage::Namespace, 0))?;
        } else {
            // SAFETY: CLONE_NEWCGROUP does not touch the descriptor table.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }.map_err(at(Stage::Namespace, 0))?;
        }
        for (index, m) in self.mounts.iter().enumerate() {
            mount(m.kind.as_c_str(), m.destination.as_c_str(), m.kind.as_c_str(), m.flags, None::<&CStr>)
                .map_err(at(Stage::Mount, index))?;
        }
        for (index, path) in self.masked.iter().enumerate() {
            mask(path).map_err(at(Stage::Mask, index))?;
        }
        for (index, path) in self.read_only.iter().enumerate() {
            make_read_only(path).map_err(at(Stage::ReadOnly, index))?;
        }
        self.streams().map_err(io_at(Stage::Stdio))?;
        for (index, limit) in self.rlimits.iter().enumerate() {
            let value = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
            // SAFETY: reads one `rlimit64`, writes nothing.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_prlimit64,
                    0,
                    limit.resource,
                    std::ptr::from_ref(&value),
                    std::ptr::null_mut::<libc::rlimit64>(),
                )
            };
            if result != 0 {
                return Err(Failure { index, ..io_at(Stage::Rlimit)(io::Error::last_os_error()) });
            }
        }
        // Root may enter what the user may not, and the other way round where root has no capabilities left: try twice.
        let entered = rustix::process::chdir(self.cwd.as_c_str());
        if !self.no_new_privileges {
            self.filters.install().map_err(io_at(Stage::Seccomp))?;
        }
        self.drop_bounding().map_err(io_at(Stage::Capabilities))?;
        self.become_user().map_err(at(Stage::Identity, 0))?;
        self.set_capabilities().map_err(io_at(Stage::Capabilities))?;
        if entered.is_err() {
            rustix::process::chdir(self.cwd.as_c_str()).map_err(at(Stage::WorkingDirectory, 0))?;
        }
        let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(self.umask));
        reset_signals();
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(at(Stage::Seccomp, 0))?;
            self.filters.install().map_err(io_at(Stage::Seccomp))?;
        }
        // SAFETY: marks descriptors; nothing in this process uses them after `execve`.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if closed != 0 {
            return Err(io_at(Stage::Stdio)(io::Error::last_os_error()));
        }
        // SAFETY: three C strings or NULL-terminated arrays of them, alive in this process.
        unsafe { libc::execve(self.program.as_ptr(), self.args.pointers.as_ptr(), self.env.pointers.as_ptr()) };
        Err(io_at(Stage::Exec)(io::Error::last_os_error()))
    }

    /// A new session with the given streams, and the terminal as its own.
    fn streams(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        for (fd, to) in self.stdio.iter().zip(0..) {
            // SAFETY: replaces descriptors 0 to 2 of this process, which nothing here owns.
            if unsafe { libc::dup2(fd.as_raw_fd(), to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: TIOCSCTTY takes a number.
        if self.terminal && unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn drop_bounding(&self) -> io::Result<()> {
        for number in 0..64_u64 {
            if self.capabilities.bounding & (1 << number) != 0 {
                continue;
            }
            // SAFETY: takes numbers only.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
                let error = io::Error::last_os_error();
                // The kernel knows no capability from here on.
                return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
            }
        }
        Ok(())
    }

    fn become_user(&self) -> rustix::io::Result<()> {
        rustix::thread::set_keep_capabilities(true)?;
        rustix::thread::set_thread_groups(&self.groups)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
    }

    fn set_capabilities(&self) -> io::Result<()> {
        let set = CapabilitySet::from_bits_retain;
        let sets = CapabilitySets {
            effective: set(self.capabilities.effective),
            permitted: set(self.capabilities.permitted),
            inheritable: set(self.capabilities.inheritable),
        };
        rustix::thread::set_capabilities(None, sets)?;
        rustix::thread::clear_ambient_capability_set()?;
        for number in 0..64_u64 {
            if self.capabilities.ambient & (1 << number) == 0 {
                continue;
            }
            // SAFETY: takes numbers only.
            if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

/// Covers a file with `/dev/null` and a directory with an empty file system; what is not there needs no cover.
fn mask(path: &CStr) -> rustix::io::Result<()> {
    match mount_bind(c"/dev/null", path) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTDIR) => {
            let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount(c"tmpfs", path, c"tmpfs", flags, Some(c"size=4096,nr_inodes=2"))
        }
        result => result,
    }
}

fn make_read_only(path: &CStr) -> rustix::io::Result<()> {
    match rustix::mount::mount_bind_recursive(path, path) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            let flags =
                MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount_remount(path, flags, c"")
        }
    }
}

/// Default action for every signal, and none blocked: `SIG_IGN` and the mask would survive `execve`. By the system call, because
/// the C library keeps its hands over signals 32 and 33.
fn reset_signals() {
    // The kernel's `struct sigaction`: handler (SIG_DFL is 0), flags, restorer, mask.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: reads four words, writes nothing. SIGKILL and SIGSTOP are refused, and have no other action anyway.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
    }
    Signals::none().restore();
}

/// A signal mask of the calling thread.
struct Signals(libc::sigset_t);

impl Signals {
    /// Blocks every signal and gives the mask that was there, so that no handler of the agent runs in the child.
    fn block() -> io::Result<Self> {
        // SAFETY: a `sigset_t` is a bit array; both are valid for the calls.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) {
                0 => Ok(Self(before)),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }

    fn none() -> Self {
        // SAFETY: an all-zero `sigset_t` is the empty one on Linux.
        Self(unsafe { std::mem::zeroed() })
    }

    fn restore(self) {
        // SAFETY: reads one valid mask. It fails for invalid arguments only.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}
