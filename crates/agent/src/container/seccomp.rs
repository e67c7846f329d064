//! From the specification's system call filter to BPF programs, compiled before the process exists.

use std::collections::BTreeMap;
use std::ffi::c_ushort;
use std::io;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::error::ContainerError;
use super::plan::malformed;
use super::syscalls;

/// Programs in the order in which they are installed.
#[derive(Debug)]
pub(super) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Compiles an allow-list: default `SCMP_ACT_ERRNO`, and for single system calls `SCMP_ACT_ALLOW` (with conditions that must
    /// all hold) or `SCMP_ACT_ERRNO` with an errno of their own.
    pub fn new(seccomp: &LinuxSeccomp) -> Result<Self, ContainerError> {
        let not_honoured = |field: String| ContainerError::NotHonoured { field };
        if seccomp.default_action() != LinuxSeccompAction::ScmpActErrno {
            return Err(not_honoured(format!("linux.seccomp.defaultAction {:?}", seccomp.default_action())));
        }
        if seccomp.architectures().as_deref() != Some(&[Arch::ScmpArchX86_64]) {
            return Err(not_honoured(format!("linux.seccomp.architectures {:?}", seccomp.architectures())));
        }
        let permission = u32::try_from(libc::EPERM).unwrap_or(1);
        // The kernel takes the strictest answer of all filters, and of two errors that of the filter installed last. So each
        // special errno has a filter of its own, and the allow-list, installed last, lets those calls pass.
        let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let mut special: BTreeMap<u32, BTreeMap<i64, Vec<SeccompRule>>> = BTreeMap::new();
        for (index, syscall) in seccomp.syscalls().iter().flatten().enumerate() {
            let field = format!("linux.seccomp.syscalls[{index}]");
            let conditions = syscall.args().iter().flatten().map(|arg| condition(&field, arg));
            let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
            for name in syscall.names() {
                let number = syscalls::number(name).ok_or_else(|| malformed(&field, "a known system call", name))?;
                match (syscall.action(), syscall.errno_ret()) {
                    (LinuxSeccompAction::ScmpActAllow, None) => {
                        let known = allowed.get(&number).map(Vec::is_empty);
                        let rules = allowed.entry(number).or_default();
                        match known {
                            // Allowed without conditions stays so: that is what no rule at all means.
                            Some(true) => {}
                            _ if conditions.is_empty() => rules.clear(),
                            _ => rules.push(SeccompRule::new(conditions.clone()).map_err(|error| compile(&error))?),
                        }
                    }
                    (LinuxSeccompAction::ScmpActErrno, Some(errno)) if conditions.is_empty() => {
                        special.entry(errno).or_default().insert(number, Vec::new());
                        allowed.insert(number, Vec::new());
                    }
                    (action, errno) => return Err(not_honoured(format!("{field}: {action:?} with errno {errno:?}"))),
                }
            }
        }
        let mut programs = Vec::new();
        for (errno, calls) in special {
            programs.push(program(calls, SeccompAction::Allow, SeccompAction::Errno(errno))?);
        }
        let default = SeccompAction::Errno(seccomp.default_errno_ret().unwrap_or(permission));
        programs.push(program(allowed, default, SeccompAction::Allow)?);
        Ok(Self(programs))
    }

    /// Installs the programs for the calling thread. Needs `no_new_privs` or `CAP_SYS_ADMIN`. Async-signal-safe.
    pub fn install(&self) -> io::Result<()> {
        for program in &self.0 {
            let filter = Program {
                length: c_ushort::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
                instructions: program.as_ptr(),
            };
            // SAFETY: `filter` has the layout of `struct sock_fprog` and points to `length` instructions, which live
            // for the call; the kernel copies them.
            let result = unsafe {
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&filter))
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

/// `struct sock_fprog` (linux/filter.h).
#[repr(C)]
struct Program {
    length: c_ushort,
    instructions: *const sock_filter,
}

fn program(
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, ContainerError> {
    let filter = SeccompFilter::new(calls, otherwise, matched, TargetArch::x86_64);
    filter.and_then(BpfProgram::try_from).map_err(|error| compile(&error))
}

fn condition(field: &str, arg: &LinuxSeccompArg) -> Result<SeccompCondition, ContainerError> {
    use LinuxSeccompOperator as Op;
    let (operator, value) = match (arg.op(), arg.value_two()) {
        (Op::ScmpCmpMaskedEq, wanted) => (SeccompCmpOp::MaskedEq(arg.value()), wanted.unwrap_or(0)),
        (_, Some(_)) => return Err(malformed(field, "valueTwo only for a masked comparison", &"with one")),
        (Op::ScmpCmpNe, None) => (SeccompCmpOp::Ne, arg.value()),
        (Op::ScmpCmpLt, None) => (SeccompCmpOp::Lt, arg.value()),
        (Op::ScmpCmpLe, None) => (SeccompCmpOp::Le, arg.value()),
        (Op::ScmpCmpEq, None) => (SeccompCmpOp::Eq, arg.value()),
        (Op::ScmpCmpGe, None) => (SeccompCmpOp::Ge, arg.value()),
        (Op::ScmpCmpGt, None) => (SeccompCmpOp::Gt, arg.value()),
    };
    let index = u8::try_from(arg.index()).map_err(|_| malformed(field, "an argument 0 to 5", &arg.index()))?;
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value).map_err(|error| compile(&error))
}

fn compile(error: &dyn std::fmt::Display) -> ContainerError {
    malformed("linux.seccomp", "a filter that compiles", error)
}
