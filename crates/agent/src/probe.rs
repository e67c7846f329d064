//! The memory probe: one pattern in private memory, another in memory that the guest shares with the host on purpose.
//!
//! The shared pattern sits in the queue of the port [`PROBE_PORT`], which nobody on the host reads: virtio buffers are
//! shared memory in every TEE (on SEV-SNP and TDX the kernel bounces them through pages that it has made shared).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    ptr,
    time::Duration,
};

use belljar_guest_api::{
    canary::{CANARY_LEN, PRIVATE, SHARED, canary},
    limits::{MAX_PROBE_COPIES, PROBE_SEED},
    names::PROBE_PORT,
};
use rustix::{
    fs::OFlags,
    mm::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap},
};
use zeroize::Zeroize;

use crate::ports;

/// Bytes of one write to the port.
const WRITE: usize = 4096;
/// Most bytes that are written when the host keeps reading: more than the port's whole queue.
const MOST: usize = 8 << 20;

/// Why a probe did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The seed has another length, or the number of copies is out of bounds.
    #[error("seed must have {PROBE_SEED} bytes and copies be 1 to {MAX_PROBE_COPIES}, found {seed} bytes and {copies}")]
    Request {
        /// Bytes of the seed.
        seed: usize,
        /// Copies asked for.
        copies: u32,
    },
    /// The VM has no probe port.
    #[error("this vm has no port {PROBE_PORT}: start it with one to probe its memory")]
    NoPort,
    /// The kernel refused memory or the port.
    #[error("cannot {what}: {source}")]
    System {
        /// What was refused.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A running probe; dropping it wipes the private pattern and closes the port.
#[derive(Debug)]
pub struct Probe {
    _private: Locked,
    _port: File,
}

impl Probe {
    /// Fills `copies` × 64 bytes of locked private memory with the private pattern, and the queue of the probe port with
    /// the shared one, until the queue is full.
    pub fn start(seed: &[u8], copies: u32) -> Result<Self, ProbeError> {
        let wrong = ProbeError::Request { seed: seed.len(), copies };
        let Ok(seed) = <&[u8; PROBE_SEED]>::try_from(seed) else {
            return Err(wrong);
        };
        let copies = usize::try_from(copies).unwrap_or(usize::MAX);
        if copies == 0 || copies > usize::try_from(MAX_PROBE_COPIES).unwrap_or_default() {
            return Err(wrong);
        }
        let device = ports::serial_port(PROBE_PORT, Duration::ZERO).ok_or(ProbeError::NoPort)?;
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let port = OpenOptions::new().read(true).write(true).custom_flags(nonblock).open(device);
        let mut port = port.map_err(|source| ProbeError::System { what: "open the probe port", source })?;
        let mut private = Locked::new(copies * CANARY_LEN)?;
        let mut pattern = canary(seed, PRIVATE);
        for copy in private.bytes().chunks_exact_mut(CANARY_LEN) {
            copy.copy_from_slice(&pattern);
        }
        pattern.zeroize();
        let shared = canary(seed, SHARED).repeat(WRITE / CANARY_LEN);
        for _ in 0..MOST / WRITE {
            match port.write(&shared) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(source) => return Err(ProbeError::System { what: "fill the probe port", source }),
            }
        }
        Ok(Self { _private: private, _port: port })
    }
}

/// Anonymous private memory that is never swapped, and wiped before it goes.
#[derive(Debug)]
struct Locked {
    start: ptr::NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, like that of a `Vec<u8>`; no thread-local state is involved.
unsafe impl Send for Locked {}

impl Locked {
    fn new(len: usize) -> Result<Self, ProbeError> {
        let failed = |what| move |error: rustix::io::Errno| ProbeError::System { what, source: error.into() };
        // SAFETY: a fresh anonymous mapping at an address that the kernel chooses overlaps nothing.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::POPULATE,
            )
        }
        .map_err(failed("map memory for the probe"))?;
        let start = ptr::NonNull::new(start.cast()).ok_or_else(|| ProbeError::System {
            what: "map memory for the probe",
            source: io::ErrorKind::OutOfMemory.into(),
        })?;
        let locked = Self { start, len };
        // SAFETY: the range is the mapping made above.
        unsafe { mlock(locked.start.as_ptr().cast(), len) }.map_err(failed("lock memory for the probe"))?;
        Ok(locked)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is readable and writable, `len` bytes long, zeroed by the kernel, and lives until drop;
        // `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.bytes().zeroize();
        // SAFETY: the mapping was made by `new` with this length, and no reference to it is left.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_needs_a_whole_seed_bounded_copies_and_a_port() {
        assert!(matches!(Probe::start(&[0; 31], 1), Err(ProbeError::Request { seed: 31, copies: 1 })));
        assert!(matches!(Probe::start(&[0; 32], 0), Err(ProbeError::Request { seed: 32, copies: 0 })));
        assert!(matches!(Probe::start(&[0; 32], 4097), Err(ProbeError::Request { copies: 4097, .. })));
        assert!(matches!(Probe::start(&[0; 32], 4096), Err(ProbeError::NoPort)));
    }

    #[test]
    fn locked_memory_holds_what_is_written() {
        let mut memory = Locked::new(8192).unwrap();
        memory.bytes().fill(7);
        assert!(memory.bytes().iter().all(|byte| *byte == 7));
    }
}
