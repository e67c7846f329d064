//! One module for each area; each appends its rows.

pub(crate) mod containerd;
pub(crate) mod guest;
pub(crate) mod kvm;
pub(crate) mod machine;
pub(crate) mod qemu;
pub(crate) mod sgx;
pub(crate) mod snp;
pub(crate) mod system;
pub(crate) mod tdx;

use crate::machine::{Access, Machine};
use crate::report::Rows;
use crate::version::Version;

/// Debian's way to a newer kernel.
const NEWER_KERNEL: &str = "apt install -t bookworm-backports linux-image-amd64 (6.12), then reboot";
/// Where Debian 12 has kernels that are newer still: nowhere. 13's backports have them.
const NEWEST_KERNEL: &str = "run Debian 13 and apt install -t trixie-backports linux-image-amd64, then reboot";

/// A row about the kernel's version.
fn kernel_at_least(rows: &mut Rows<'_>, kernel: Option<Version>, least: Version, next: &str) {
    match kernel {
        Some(version) if version >= least => rows.ok("kernel", format!("{version} (needs {least})")),
        Some(version) => rows.problem("kernel", format!("{version}, needs {least}"), next),
        None => rows.problem("kernel", "its version cannot be read", "mount /proc"),
    }
}

/// Whether a module's parameter is on; `None` when the module is not loaded or has no such parameter.
fn parameter(machine: &dyn Machine, module: &str, name: &str) -> Option<bool> {
    let text = machine.read(&format!("/sys/module/{module}/parameters/{name}"))?;
    Some(matches!(text.trim(), "Y" | "1" | "y"))
}

/// A row about a device that should open.
fn device(rows: &mut Rows<'_>, machine: &dyn Machine, path: &str, missing: &str, denied: &str) -> bool {
    match machine.open(path) {
        Access::Opens => {
            rows.ok(path, "opens");
            return true;
        }
        Access::Missing => rows.missing(path, "absent", missing),
        Access::Denied => rows.problem(path, "permission denied", denied),
        Access::Fails(why) => rows.problem(path, why, missing),
    }
    false
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let mib = bytes >> 20;
    if mib < 10 * 1024 { format!("{mib} MiB") } else { format!("{} GiB", mib >> 10) }
}
