//! What a pod needs of a machine; the VM's shape follows from it, and with the shape the measurement.
//!
//! - Memory of a container: its limit, which bounds its processes and what it writes to memory file systems as well (the kernel
//!   charges such pages to the cgroup that writes them). Without a limit: [`DEFAULT_MEMORY`], its writable layer and its memory
//!   file systems, each in full.
//! - CPU of a container: its limit. All containers without one share [`DEFAULT_CPU_MILLIS`].
//! - Containers that run together are added; init containers run before them, one at a time, so the largest of these counts where
//!   it is more than that sum.
//! - Scratch volumes live as long as the pod and are added in full; other volumes with the most that the host can bring.
//!
//! Memory of the guest itself (kernel, agent, page tables) is not in it.

use serde::Serialize;

use crate::model::{Container, Contract, MAX_VOLUME_BYTES, Volume};

/// Memory of a container without a limit, in bytes.
pub const DEFAULT_MEMORY: u64 = 256 << 20;
/// CPU time of all containers without a limit together, in thousandths of a CPU.
pub const DEFAULT_CPU_MILLIS: u64 = 1000;

/// What a pod needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// CPU time in thousandths of a CPU.
    pub cpu_millis: u64,
    /// Memory in bytes, without the guest's own.
    pub memory_bytes: u64,
}

impl Contract {
    /// What the pod needs, see [`crate::needs`].
    pub fn needs(&self) -> Needs {
        let together = self.containers.values().filter(|container| container.init == 0);
        let first = self.containers.values().filter(|container| container.init != 0);
        let limited =
            together.clone().filter_map(|container| container.resources.cpu_millis).fold(0, u64::saturating_add);
        let unlimited = together.clone().any(|container| container.resources.cpu_millis.is_none());
        let cpu = limited.saturating_add(if unlimited { DEFAULT_CPU_MILLIS } else { 0 });
        let cpu_first =
            first.clone().map(|container| container.resources.cpu_millis.unwrap_or(DEFAULT_CPU_MILLIS)).max();
        let memory = together.map(memory_of).fold(0, u64::saturating_add);
        let memory_first = first.map(memory_of).max();
        let volumes = self.volumes.values().map(|volume| match volume {
            Volume::Scratch { size_bytes } => *size_bytes,
            Volume::Measured { .. } | Volume::Host { .. } => MAX_VOLUME_BYTES,
        });
        Needs {
            cpu_millis: cpu.max(cpu_first.unwrap_or(0)),
            memory_bytes: memory.max(memory_first.unwrap_or(0)).saturating_add(volumes.fold(0, u64::saturating_add)),
        }
    }
}

fn memory_of(container: &Container) -> u64 {
    container.resources.memory_bytes.unwrap_or_else(|| {
        let tmpfs = container.tmpfs.iter().map(|tmpfs| tmpfs.size_bytes).fold(0, u64::saturating_add);
        DEFAULT_MEMORY.saturating_add(container.scratch_bytes).saturating_add(tmpfs)
    })
}
