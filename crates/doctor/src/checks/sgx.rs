//! Can this machine run Intel SGX enclaves? Linux documentation `arch/x86/sgx`.

use super::{device, size};
use crate::cpu::{Cpu, Vendor};
use crate::machine::{Access, Machine};
use crate::report::{Area, Row, Rows};
use crate::version::Version;

const BIOS: &str = "in the BIOS set-up, Socket Configuration > Processor Configuration: SW Guard Extensions (SGX) = Enabled, \
                    PRMRR Size = the largest; then reboot";

pub(crate) fn examine(machine: &dyn Machine, cpu: &Cpu, kernel: Option<Version>, rows: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::Sgx, rows };
    match (cpu.vendor, cpu.sgx, cpu.sgx1, &cpu.hypervisor) {
        (Vendor::Intel, true, true, _) => rows.ok("cpu", "SGX"),
        (Vendor::Intel, true, false, _) => return rows.problem("cpu", "SGX, switched off by the firmware", BIOS),
        (Vendor::Intel, false, _, Some(_)) => {
            return rows.missing(
                "cpu",
                "the hypervisor of this virtual machine does not pass SGX on",
                "give the VM enclave memory (QEMU: -object memory-backend-epc), or use a bare-metal machine",
            );
        }
        (Vendor::Intel, false, ..) => {
            return rows.missing("cpu", "no SGX", "use a machine with a 3rd-generation Xeon (Ice Lake) or later");
        }
        _ => return rows.not_applicable("cpu", "not an Intel processor"),
    }
    if cpu.sgx_flc {
        rows.ok("launch control", "flexible (FLC)");
    } else {
        rows.problem(
            "launch control",
            "locked to Intel's key (no FLC), which Linux does not support",
            "in the BIOS set-up: SGX Launch Control Policy = Unlocked; then reboot",
        );
    }
    match cpu.epc_bytes {
        0 => rows.problem("enclave memory", "none", BIOS),
        bytes => rows.ok("enclave memory", size(bytes)),
    }
    super::kernel_at_least(&mut rows, kernel, Version(5, 11, 0), super::NEWER_KERNEL);
    device(
        &mut rows,
        machine,
        "/dev/sgx_enclave",
        "boot a kernel with CONFIG_X86_SGX (Debian's have it); dmesg | grep -i sgx tells why it is off",
        "adduser $USER sgx (as root), and log in again",
    );
    device(
        &mut rows,
        machine,
        "/dev/sgx_provision",
        "boot a kernel with CONFIG_X86_SGX (Debian's have it); dmesg | grep -i sgx tells why it is off",
        "adduser $USER sgx_prv (as root), and log in again",
    );
    let socket = "/var/run/aesmd/aesm.socket";
    match machine.connect(socket) {
        Access::Opens => rows.ok("quoting service", "aesmd answers"),
        Access::Missing => rows.missing(
            "quoting service",
            format!("no {socket}"),
            "install sgx-aesm-service and libsgx-aesm-quote-ex-plugin from Intel's SGX package repository (download.01.org/intel-sgx)",
        ),
        Access::Denied => rows.problem(
            "quoting service",
            format!("{socket}: permission denied"),
            "adduser $USER aesmd (as root), and log in again",
        ),
        Access::Fails(why) => rows.problem("quoting service", format!("{socket}: {why}"), "systemctl restart aesmd"),
    }
}
