//! How large a pod VM is.

use belljar_vmm::machine::SHAPES;

/// VM memory beside what the pod's containers may use: kernel, agent, page tables. SPECIFICATION.md has the measurement.
pub const OVERHEAD_MIB: u64 = 128;

/// The VM has more memory than this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pod VM of {wanted} MiB does not fit into this machine, which has {total} MiB")]
pub struct TooLarge {
    /// Memory of the VM in MiB.
    pub wanted: u64,
    /// Memory of this machine in MiB.
    pub total: u64,
}

/// The number of vCPUs for a CPU limit in thousandths: the next shape.
pub fn shape(cpu_millis: u64) -> u32 {
    SHAPES.into_iter().find(|shape| u64::from(*shape) * 1000 >= cpu_millis).unwrap_or(32)
}

/// Memory of the VM in MiB, for a pod that may use this many bytes.
///
/// # Errors
/// [`TooLarge`] when this machine has less.
pub fn memory_mib(pod_bytes: u64) -> Result<u64, TooLarge> {
    let wanted = pod_bytes.div_ceil(1 << 20).saturating_add(OVERHEAD_MIB);
    match memory_of_machine().filter(|total| wanted > *total) {
        Some(total) => Err(TooLarge { wanted, total }),
        None => Ok(wanted),
    }
}

/// Memory of this machine in MiB (`MemTotal` of /proc/meminfo, which is in KiB).
fn memory_of_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_round_up_to_a_shape() {
        assert_eq!(shape(10), 1);
        assert_eq!(shape(1000), 1);
        assert_eq!(shape(1001), 2);
        assert_eq!(shape(5000), 8);
        assert_eq!(shape(32_000), 32);
    }

    #[test]
    fn memory_rounds_up_and_fits() {
        assert_eq!(memory_mib((1 << 20) + 1), Ok(2 + OVERHEAD_MIB));
        let total = memory_of_machine().unwrap();
        let error = memory_mib(total << 20).unwrap_err();
        assert_eq!(error, TooLarge { wanted: total + OVERHEAD_MIB, total });
        assert!(memory_mib((total - OVERHEAD_MIB) << 20).is_ok());
    }
}
