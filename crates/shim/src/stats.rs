//! What a task uses, as the `Metrics` of the host's cgroup version, which containerd's CRI plugin reads. Containers are measured in the
//! guest, by the guest's word; the sandbox is the VM's process on this host.

use std::time::Duration;

use belljar_guest_api::api::{ContainerStats, Empty};
use containerd_shim_protos::{cgroups, cgroups_v2};
use protobuf::well_known_types::any::Any;
use ttrpc::context;

use crate::error::ShimError;
use crate::events::any;
use crate::pod::Pod;

/// Longest wait for the guest.
const LIMIT: Duration = Duration::from_secs(3);
/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP2: u64 = 0x6367_7270;
/// Clock ticks in a second, as `/proc` counts them on every x86-64 machine.
const TICKS: u64 = 100;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// What was measured: bytes, and microseconds of CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    cpu_us: u64,
    cpu_user_us: u64,
    cpu_system_us: u64,
    memory: u64,
    working_set: u64,
    limit: u64,
    pids: u64,
    oom_kills: u64,
}

/// Of this task.
///
/// # Errors
/// [`ShimError`]: no such task, or a guest that does not answer.
pub async fn of(pod: &Pod, id: &str) -> Result<Any, ShimError> {
    let found = pod.find(id, "")?;
    let usage = match found.task().container_name() {
        None => process_usage(pod.vm()?.0.qemu()).unwrap_or_default(),
        Some(name) => {
            let (vm, _) = pod.vm()?;
            let agent =
                vm.agent_now().ok_or_else(|| ShimError::Unavailable("the guest does not answer yet".to_owned()))?;
            let answer = tokio::time::timeout(LIMIT, agent.stats(context::with_duration(LIMIT), &Empty::new())).await;
            let answer = answer
                .map_err(|_| ShimError::Unavailable("the guest does not answer".to_owned()))?
                .map_err(|error| ShimError::Unavailable(format!("stats: {error}")))?;
            answer.containers.iter().find(|stats| stats.name == name).map(Usage::of_guest).unwrap_or_default()
        }
    };
    let unified = rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(CGROUP2));
    Ok(if unified { any(&usage.v2()) } else { any(&usage.v1()) })
}

/// Of a process on this host, by `proc_pid_stat(5)` and `proc_pid_statm(5)`.
fn process_usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut time = || Some(fields.next()?.parse::<u64>().ok()?.saturating_mul(1_000_000 / TICKS));
    let (cpu_user_us, cpu_system_us) = (time()?, time()?);
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let memory = pages.saturating_mul(PAGE);
    Some(Usage {
        cpu_us: cpu_user_us.saturating_add(cpu_system_us),
        cpu_user_us,
        cpu_system_us,
        memory,
        working_set: memory,
        pids: 1,
        ..Usage::default()
    })
}

impl Usage {
    fn of_guest(stats: &ContainerStats) -> Self {
        Self {
            cpu_us: stats.cpu_usage_us,
            cpu_user_us: stats.cpu_user_us,
            cpu_system_us: stats.cpu_system_us,
            memory: stats.memory_usage,
            working_set: stats.memory_working_set,
            limit: stats.memory_limit,
            pids: stats.pids,
            oom_kills: stats.oom_kills,
        }
    }

    /// Memory that the kernel could take back: readers subtract it from what is used.
    fn inactive(&self) -> u64 {
        self.memory.saturating_sub(self.working_set)
    }

    fn v1(&self) -> cgroups::metrics::Metrics {
        let mut metrics = cgroups::metrics::Metrics::new();
        let cpu = metrics.cpu.mut_or_insert_default().usage.mut_or_insert_default();
        cpu.total = self.cpu_us.saturating_mul(1000);
        cpu.user = self.cpu_user_us.saturating_mul(1000);
        cpu.kernel = self.cpu_system_us.saturating_mul(1000);
        let memory = metrics.memory.mut_or_insert_default();
        memory.total_inactive_file = self.inactive();
        memory.inactive_file = self.inactive();
        memory.rss = self.working_set;
        memory.total_rss = self.working_set;
        let usage = memory.usage.mut_or_insert_default();
        usage.usage = self.memory;
        usage.limit = self.limit;
        metrics.pids.mut_or_insert_default().current = self.pids;
        metrics.memory_oom_control.mut_or_insert_default().oom_kill = self.oom_kills;
        metrics
    }

    fn v2(&self) -> cgroups_v2::metrics::Metrics {
        let mut metrics = cgroups_v2::metrics::Metrics::new();
        let cpu = metrics.cpu.mut_or_insert_default();
        cpu.usage_usec = self.cpu_us;
        cpu.user_usec = self.cpu_user_us;
        cpu.system_usec = self.cpu_system_us;
        let memory = metrics.memory.mut_or_insert_default();
        memory.usage = self.memory;
        memory.usage_limit = self.limit;
        memory.inactive_file = self.inactive();
        memory.anon = self.working_set;
        metrics.pids.mut_or_insert_default().current = self.pids;
        metrics.memory_events.mut_or_insert_default().oom_kill = self.oom_kills;
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_the_same() {
        let usage =
            Usage { cpu_us: 7, memory: 100, working_set: 60, limit: 200, pids: 3, oom_kills: 1, ..Usage::default() };
        let (v1, v2) = (usage.v1(), usage.v2());
        assert_eq!((v1.cpu.usage.total, v2.cpu.usage_usec), (7000, 7));
        assert_eq!(v1.memory.usage.usage - v1.memory.total_inactive_file, 60);
        assert_eq!(v2.memory.usage - v2.memory.inactive_file, 60);
        assert_eq!((v1.memory.usage.limit, v2.memory.usage_limit), (200, 200));
        assert_eq!(any(&v1).type_url, "io.containerd.cgroups.v1.Metrics");
        assert_eq!(any(&v2).type_url, "io.containerd.cgroups.v2.Metrics");
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = process_usage(std::process::id()).unwrap();
        assert!(usage.memory > 100_000, "{usage:?}");
        assert_eq!(process_usage(0), None);
    }
}
