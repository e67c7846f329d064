use std::fmt;
use std::io;

use belljar_contract::ContractError;
use thiserror::Error;

/// Why a container could not be started, or its remains not be removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// A field of the specification that this runtime does not honour.
    #[error("`{field}` in the container's specification is not honoured by this runtime: leave it out")]
    NotHonoured {
        /// Path of the field, with its value where that decides.
        field: String,
    },
    /// A field that is needed, or has a value that means nothing.
    #[error("`{field}` in the container's specification is {found}, expected {expected}")]
    Malformed {
        /// Path of the field.
        field: String,
        /// What belongs there.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// The image's user or group cannot be resolved.
    #[error(transparent)]
    User(#[from] ContractError),
    /// A kernel setting cannot be made.
    #[error(transparent)]
    Sysctl(#[from] crate::sysctl::SysctlError),
    /// The image has something at a mount point that would lead the mount elsewhere.
    #[error(
        "the image has {found} at {path}, where a {needed} is needed: change the image or the path in the contract"
    )]
    MountPoint {
        /// Path in the container.
        path: String,
        /// What is needed.
        needed: &'static str,
        /// What the image has.
        found: &'static str,
    },
    /// The program is in none of the directories of `PATH`.
    #[error("program {program:?} is not in the image's PATH ({path}): is it in the image?")]
    NotInPath {
        /// Program name.
        program: String,
        /// Directories that were searched.
        path: String,
    },
    /// A limit was asked for that this kernel cannot set.
    #[error("the cgroup at {root} has no {controller} controller, which the contract's limits need")]
    Controller {
        /// Mount point of the hierarchy.
        root: String,
        /// Name of the controller.
        controller: &'static str,
    },
    /// A container of this name is running.
    #[error("a container named {name} is running already")]
    Exists {
        /// The name.
        name: String,
    },
    /// The container has ended.
    #[error("the container has ended")]
    Gone,
    /// A process that is about to join the container could be looked into by those that are there.
    #[error(
        "the container has CAP_SYS_PTRACE, with which it could read the guest's own memory in a process that is about to join it: \
         leave the capability or the exec out"
    )]
    Tracer,
    /// Processes of the container are still there 2 s after being killed.
    #[error("processes of container {name} are still there 2 s after SIGKILL")]
    StillRunning {
        /// The name.
        name: String,
    },
    /// The kernel refused a step.
    #[error("{stage} {subject}: {source}{}", stage.hint(source))]
    Setup {
        /// The step.
        stage: Stage,
        /// What it was about: a path, a type, a number.
        subject: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Steps on the way to a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The cgroup and its limits.
    Cgroup,
    /// Own namespaces.
    Namespace,
    /// The layers and the writable layer become one root.
    Overlay,
    /// A mount, or its mount point.
    Mount,
    /// A node or link in `/dev`.
    Device,
    /// A secret's file.
    Secret,
    /// The terminal.
    Terminal,
    /// A file of the image.
    Read,
    /// The change of root.
    PivotRoot,
    /// The first process.
    Clone,
    /// A path is hidden.
    Mask,
    /// A path becomes read-only.
    ReadOnly,
    /// Session and standard streams.
    Stdio,
    /// A resource limit.
    Rlimit,
    /// The working directory.
    WorkingDirectory,
    /// User and groups.
    Identity,
    /// Capabilities.
    Capabilities,
    /// The system call filter.
    Seccomp,
    /// The program itself.
    Exec,
}

impl Stage {
    /// All, by the number that travels from the child.
    pub(super) const ALL: [Self; 19] = [
        Self::Cgroup,
        Self::Namespace,
        Self::Overlay,
        Self::Mount,
        Self::Device,
        Self::Secret,
        Self::Terminal,
        Self::Read,
        Self::PivotRoot,
        Self::Clone,
        Self::Mask,
        Self::ReadOnly,
        Self::Stdio,
        Self::Rlimit,
        Self::WorkingDirectory,
        Self::Identity,
        Self::Capabilities,
        Self::Seccomp,
        Self::Exec,
    ];

    /// What to do about a failure, where that is known.
    fn hint(self, source: &io::Error) -> &'static str {
        match (self, source.raw_os_error()) {
            (Self::Exec, Some(libc::ENOENT)) => ": is the path in the image, with the interpreter that it names?",
            (Self::Exec, Some(libc::EACCES)) => ": is it an executable file, and may the user run it?",
            (Self::Exec, Some(libc::ENOEXEC)) => ": is it a 64-bit x86 program or a script with #! in its first line?",
            (Self::WorkingDirectory, Some(libc::EACCES)) => ": may the user enter it?",
            (Self::PivotRoot, Some(libc::EINVAL)) => ": the agent must leave the initramfs before it starts containers",
            (Self::Secret, Some(libc::EROFS)) => ": is the path on a read-only file system of the image?",
            _ => "",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "set up cgroup",
            Self::Namespace => "make namespace",
            Self::Overlay => "put the layers together at",
            Self::Mount => "mount",
            Self::Device => "make device",
            Self::Secret => "place secret at",
            Self::Terminal => "open terminal",
            Self::Read => "read",
            Self::PivotRoot => "change the root to",
            Self::Clone => "start process of",
            Self::Mask => "hide",
            Self::ReadOnly => "make read-only",
            Self::Stdio => "connect",
            Self::Rlimit => "set limit",
            Self::WorkingDirectory => "enter",
            Self::Identity => "become",
            Self::Capabilities => "set capabilities of",
            Self::Seccomp => "install system call filter for",
            Self::Exec => "exec",
        })
    }
}

/// Attaches a step and its subject to the kernel's answer.
pub(super) trait During<T> {
    fn during(self, stage: Stage, subject: impl fmt::Display) -> Result<T, ContainerError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, stage: Stage, subject: impl fmt::Display) -> Result<T, ContainerError> {
        self.map_err(|source| ContainerError::Setup { stage, subject: subject.to_string(), source: source.into() })
    }
}
