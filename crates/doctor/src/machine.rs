//! The questions that can be put to a machine. Every answer is bounded in size and in time.

use std::ffi::OsStr;
use std::path::Path;

/// The registers that the CPUID instruction fills.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the registers")]
pub struct Cpuid {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What happens when one tries to use a device or a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// It opens for reading and writing, or accepts a connection.
    Opens,
    /// It is not there.
    Missing,
    /// It is there, and this user may not use it.
    Denied,
    /// It is there, and fails otherwise.
    Fails(String),
}

/// Why a program gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// There is no such program.
    NotFound,
    /// It did not start, did not end in time, or ended with an error.
    Failed(String),
}

/// A source of facts. Paths are absolute.
pub trait Machine {
    /// The text of a file, without its final newline; at most 256 KiB of it, and `None` when it cannot be read.
    fn read(&self, path: &str) -> Option<String>;
    /// Whether something is there.
    fn exists(&self, path: &str) -> bool;
    /// Tries to open a device for reading and writing.
    fn open(&self, path: &str) -> Access;
    /// Tries to connect to a Unix stream socket.
    fn connect(&self, path: &str) -> Access;
    /// Registers of a leaf and sub-leaf; all zero where the CPU has no such leaf.
    fn cpuid(&self, leaf: u32, sub_leaf: u32) -> Cpuid;
    /// Standard output of a program; at most 256 KiB, within five seconds.
    ///
    /// # Errors
    /// [`Failure`].
    fn run(&self, program: &OsStr, arguments: &[&str]) -> Result<String, Failure>;
    /// Free bytes for this user where `path` is or would be.
    fn free_bytes(&self, path: &Path) -> Option<u64>;
    /// Whether this process is root.
    fn is_root(&self) -> bool;
}
