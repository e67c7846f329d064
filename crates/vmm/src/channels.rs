//! The channels between this process and QEMU, and the memory files of disks that never touch the host's disks.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::pipe::PipeFlags;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::arguments::Fds;
use crate::machine::{DiskContent, Machine};

/// Bytes that the console's pipe holds (1 MiB is what `/proc/sys/fs/pipe-max-size` allows everybody by default).
const CONSOLE_PIPE: usize = 1 << 20;

/// Our ends.
#[derive(Debug)]
pub(crate) struct Host {
    pub qmp: UnixStream,
    pub console: pipe::Receiver,
    pub agent: UnixStream,
    pub tee: UnixStream,
    pub probe: UnixStream,
}

/// QEMU's ends.
#[derive(Debug)]
pub(crate) struct Guest {
    ends: [OwnedFd; 5],
    memory_disks: Vec<OwnedFd>,
    tap: Option<OwnedFd>,
}

/// Both ends of all channels.
pub(crate) struct Channels;

impl Channels {
    /// Makes them; every descriptor is close-on-exec until [`crate::spawn`] says otherwise in the child.
    pub fn make(machine: &Machine) -> io::Result<(Host, Guest)> {
        let pair = || -> io::Result<(UnixStream, OwnedFd)> {
            let (ours, theirs) = StdStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok((UnixStream::from_std(ours)?, theirs.into()))
        };
        let ((qmp, q), (agent, a), (tee, t), (probe, p)) = (pair()?, pair()?, pair()?, pair()?);
        let (console, c) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Room for a whole boot log while we are not scheduled; without it, lines may be lost.
        let _ = rustix::pipe::fcntl_setpipe_size(&c, CONSOLE_PIPE);
        let console = pipe::Receiver::from_owned_fd(console)?;
        let memory_disks = machine.disks.iter().filter_map(|disk| match &disk.content {
            DiskContent::Bytes(bytes) => Some(memory_file(&disk.serial, bytes)),
            DiskContent::File(_) => None,
        });
        let tap = machine.nic.as_ref().map(|nic| nic.tap.try_clone()).transpose()?;
        let guest = Guest { ends: [q, c, a, t, p], memory_disks: memory_disks.collect::<io::Result<_>>()?, tap };
        Ok((Host { qmp, console, agent, tee, probe }, guest))
    }
}

impl Guest {
    /// Their numbers, as they stand on QEMU's command line.
    pub fn fds(&self) -> Fds {
        let [qmp, console, agent, tee, probe] = self.ends.each_ref().map(|fd| fd.as_raw_fd());
        let memory_disks = self.memory_disks.iter().map(|fd| fd.as_raw_fd()).collect();
        let tap = self.tap.as_ref().map(|fd| fd.as_raw_fd());
        Fds { qmp, console, agent, tee, probe, memory_disks, tap }
    }

    /// All of them, to be inherited.
    pub fn into_fds(self) -> Vec<OwnedFd> {
        self.ends.into_iter().chain(self.memory_disks).chain(self.tap).collect()
    }
}

/// A sealed memory file, open for reading only: QEMU takes a descriptor out of an fdset by its access mode.
pub(crate) fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
