//! What this machine can do for Belljar, what it lacks, and the one next step for each lack.
//!
//! [`examine`] asks a [`Machine`] for facts and turns them into a [`Report`] of [`Row`]s. [`Host`] is the machine that this
//! process runs on; tests describe others. A row is about one fact. When a fact makes others pointless (no SNP in
//! the CPU: no need for `/dev/sev`), those become [`State::NotApplicable`], so that the remaining steps are the ones to take.
//!
//! Nothing here changes the machine, and nothing needs root; what only root can see is said so in the row.
//! What an unprivileged process cannot see at all is the firmware's set-up: it is inferred from what the kernel enabled.

pub mod checks;
mod cpu;
mod host;
mod machine;
mod report;
mod version;

pub use cpu::{Cpu, Vendor};
pub use host::Host;
pub use machine::{Access, Cpuid, Failure, Machine};
pub use report::{Area, Directory, GuestImage, Inputs, KvmProbe, Report, Row, State};
pub use version::Version;

/// Examines a machine. Takes well under a second, unless a program that it asks for its version hangs (five seconds each).
#[must_use]
pub fn examine(machine: &dyn Machine, inputs: &Inputs) -> Report {
    let cpu = Cpu::of(machine);
    let kernel = Version::of_kernel(machine);
    let mut rows = Vec::new();
    checks::machine::examine(machine, &cpu, kernel, &mut rows);
    checks::snp::examine(machine, &cpu, kernel, &mut rows);
    checks::tdx::examine(machine, &cpu, kernel, &mut rows);
    checks::sgx::examine(machine, &cpu, kernel, &mut rows);
    checks::guest::examine(machine, &mut rows);
    checks::kvm::examine(machine, &cpu, &inputs.kvm, &mut rows);
    checks::qemu::examine(machine, inputs, &mut rows);
    checks::system::guest_image(&inputs.guest_image, &mut rows);
    checks::containerd::examine(machine, &mut rows);
    checks::system::examine(machine, &mut rows);
    checks::system::space(machine, &inputs.directories, &mut rows);
    Report { rows }
}
