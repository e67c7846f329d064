//! Time since the guest kernel started, which the phases of the start are measured in.
//!
//! The wall clock of the guest comes from the host (RTC) and is not authenticated; nothing in the agent decides by it
//! except the validity dates inside TLS, where the broker's key is pinned anyway.

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since the guest kernel started (`CLOCK_BOOTTIME`).
pub fn since_boot_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
    u64::try_from(micros).unwrap_or(0)
}
