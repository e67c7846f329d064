//! Processor, kernel, memory.

use super::{NEWER_KERNEL, size};
use crate::cpu::{Cpu, Vendor};
use crate::machine::Machine;
use crate::report::{Area, Row, Rows};
use crate::version::Version;

/// What the smallest pod VM and its QEMU take.
const MEMORY: u64 = 512 << 20;

pub(crate) fn examine(machine: &dyn Machine, cpu: &Cpu, kernel: Option<Version>, rows: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::Machine, rows };
    let model = if cpu.model.is_empty() { "unnamed" } else { &cpu.model };
    let place = match &cpu.hypervisor {
        Some(hypervisor) => format!("{model}, in a virtual machine ({hypervisor})"),
        None => model.to_owned(),
    };
    match cpu.vendor {
        Vendor::Amd | Vendor::Intel => rows.ok("cpu", place),
        Vendor::Other => rows.problem("cpu", place, "use a machine with an x86-64 processor of AMD or Intel"),
    }
    // statx, close_range and cgroup.kill, that the host side uses, are all in 5.14.
    super::kernel_at_least(&mut rows, kernel, Version(5, 14, 0), NEWER_KERNEL);
    let meminfo = machine.read("/proc/meminfo").unwrap_or_default();
    match (field(&meminfo, "MemAvailable:"), field(&meminfo, "MemTotal:")) {
        (Some(available), Some(total)) => {
            let found = format!("{} available of {}", size(available), size(total));
            if available >= MEMORY {
                rows.ok("memory", found);
            } else {
                rows.problem("memory", found, format!("free some: a pod needs at least {}", size(MEMORY)));
            }
        }
        _ => rows.problem("memory", "/proc/meminfo cannot be read", "mount /proc"),
    }
}

/// A line of `/proc/meminfo`, in bytes.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let kib: u64 =
        meminfo.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}
