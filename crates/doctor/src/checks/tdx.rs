//! Can this machine start Intel TDX guests? Linux documentation `arch/x86/tdx`, `virt/kvm/x86/intel-tdx`.

use super::{NEWEST_KERNEL, kernel_at_least, parameter};
use crate::cpu::{Cpu, Vendor};
use crate::machine::{Access, Machine};
use crate::report::{Area, Row, Rows};
use crate::version::Version;

const BIOS: &str = "in the BIOS set-up, Socket Configuration > Processor Configuration > TME, MK-TME, TDX: Total Memory Encryption \
                    (TME) = Enabled, TME Multi-Tenant (TME-MT) = Enabled, Trust Domain Extension (TDX) = Enabled, TDX Secure \
                    Arbitration Mode Loader (SEAM Loader) = Enabled; then reboot";

pub(crate) fn examine(machine: &dyn Machine, cpu: &Cpu, kernel: Option<Version>, rows: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::Tdx, rows };
    if cpu.vendor != Vendor::Intel {
        return rows.not_applicable("cpu", "not an Intel processor");
    }
    let (family, model) = cpu.family_model;
    let found = format!("family {family}, model {model:#x}");
    let newest = Version(6, 16, 0);
    match (cpu.tdx_host, cpu.may_have_tdx(), &cpu.hypervisor) {
        (true, _, _) => rows.ok("cpu", format!("{found}: the kernel found TDX")),
        (false, true, None) if kernel.is_some_and(|k| k < newest) => {
            // The flag comes from the kernel, and this kernel does not look.
            rows.not_applicable("cpu", format!("{found} may have TDX; a kernel from {newest} on can tell"));
        }
        (false, true, None) => {
            return rows.problem("cpu", format!("{found} may have TDX; the firmware does not offer it"), BIOS);
        }
        (false, _, Some(_)) => {
            return rows.missing(
                "cpu",
                "the hypervisor of this virtual machine does not pass TDX on",
                "use a bare-metal machine with a 5th-generation Xeon or later (few hypervisors let a VM start TDX guests)",
            );
        }
        (false, false, None) => {
            return rows.missing("cpu", found, "use a machine with a 5th-generation Xeon (Emerald Rapids) or later");
        }
    }
    kernel_at_least(&mut rows, kernel, newest, NEWEST_KERNEL);
    let what = "kvm_intel parameter";
    match parameter(machine, "kvm_intel", "tdx") {
        Some(true) => rows.ok(what, "tdx is on"),
        Some(false) => rows.problem(
            what,
            "tdx is off",
            "add nohibernate kvm_intel.tdx=1 to GRUB_CMDLINE_LINUX in /etc/default/grub, update-grub, reboot; \
             if it stays off, dmesg | grep -i tdx tells why",
        ),
        None if machine.exists("/sys/module/kvm_intel") => {
            rows.missing(what, "tdx is unknown to this kernel", NEWEST_KERNEL);
        }
        None => rows.missing(what, "kvm_intel is not loaded", "modprobe kvm_intel (as root)"),
    }
    let socket = "/var/run/tdx-qgs/qgs.socket";
    let install =
        "install tdx-qgs from Intel's SGX package repository (download.01.org/intel-sgx), and systemctl start qgsd";
    match machine.connect(socket) {
        Access::Opens => rows.ok("quoting service", "answers"),
        Access::Missing => rows.missing("quoting service", format!("no {socket}"), install),
        Access::Denied => {
            rows.problem(
                "quoting service",
                format!("{socket}: permission denied"),
                "adduser $USER qgsd (as root), and log in again",
            );
        }
        Access::Fails(why) => rows.problem("quoting service", format!("{socket}: {why}"), "systemctl restart qgsd"),
    }
}
