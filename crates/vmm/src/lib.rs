//! Starts, connects to, watches and ends pod VMs.
//!
//! | module | holds |
//! |---|---|
//! | [`machine`] | [`Machine`]: what a pod VM is made of, typed and bounded |
//! | [`arguments()`] | from a [`Machine`] to QEMU's argument list, one pure function |
//! | [`qemu`] | finds QEMU, knows its version |
//! | [`pod`] | [`PodVm`]: start, the agent's client, end |
//! | [`cgroup`] | the cgroup of a pod's processes on the host |
//! | [`supervisor`] | [`Exit`]: why a pod VM has ended |
//! | [`console`] | the bounded tail of the guest's console |
//! | [`tee_port`] | serves the software secure processor's port |
//! | [`accel`] | does KVM really run a guest here |
//! | [`tee`] | which TEEs this machine has, and the choice among them |
//! | [`network`] | joins a pod's network namespace to the VM's interface |
//! | [`run_dir`] | [`Pods`] and [`RunDir`]: what runs on this host, and the removal of what dead owners left |
//! | [`control`] | what other processes may ask the owner of a pod |
//! | [`probe`] | searches a pod VM's memory from the host |

mod agent_link;
mod channels;
mod files;
mod qmp;
mod spawn;
mod tiny_guest;

pub mod accel;
pub mod arguments;
pub mod cgroup;
pub mod console;
pub mod control;
pub mod machine;
pub mod network;
pub mod pod;
pub mod probe;
pub mod qemu;
pub mod run_dir;
pub mod supervisor;
pub mod tee;
pub mod tee_port;

pub use arguments::{Fds, arguments};
pub use console::LastLines;
pub use files::process_start;
pub use machine::{Accel, Disk, DiskContent, GuestFiles, Machine, MachineError, Nic, QuoteSocket, Tee, TeeKind};
pub use pod::{Booting, Killer, Options, PodVm, Timings, VmError};
pub use qemu::{Qemu, QemuError};
pub use run_dir::{Pod, Pods, ProcessId, RunDir, RunDirError};
pub use supervisor::Exit;
pub use tee::{Detection, TeeError, Wanted};
pub use tee_port::{Measured, SecureProcessor, TeePortError};

/// Entry for the fuzzer: bytes from the guest's agent port and from QMP.
pub fn fuzz(data: &[u8]) {
    agent_link::fuzz(data);
    control::fuzz(data);
    qmp::fuzz(data);
    let _ = console::printable(data, 200);
}
