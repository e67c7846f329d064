//! Can this machine start AMD SEV-SNP guests? Linux documentation `arch/x86/amd-memory-encryption`, `virt/kvm/x86/amd-memory-encryption`.

use super::{NEWER_KERNEL, device, kernel_at_least, parameter};
use crate::cpu::{Cpu, Vendor};
use crate::machine::Machine;
use crate::report::{Area, Row, Rows};
use crate::version::Version;

const BIOS: &str = "in the BIOS set-up, Advanced > AMD CBS: SMEE = Enabled, SNP Memory (RMP Table) Coverage = Enabled, \
                    IOMMU = Enabled, SEV-SNP Support = Enabled; then reboot";
const BIOS_ASIDS: &str = "in the BIOS set-up, Advanced > AMD CBS > CPU Common Options: SEV-ES ASID Space Limit Control = \
                          Manual, SEV-ES ASID Space Limit = 100; then reboot";

pub(crate) fn examine(machine: &dyn Machine, cpu: &Cpu, kernel: Option<Version>, rows: &mut Vec<Row>) {
    let mut rows = Rows { area: Area::Snp, rows };
    let features = [("SEV", cpu.sev), ("SEV-ES", cpu.sev_es), ("SEV-SNP", cpu.snp)]
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect::<Vec<_>>()
        .join(", ");
    match (cpu.vendor, cpu.snp, &cpu.hypervisor) {
        (Vendor::Amd, true, _) => rows.ok("cpu", features),
        (Vendor::Amd, false, Some(_)) => {
            return rows.missing(
                "cpu",
                "the hypervisor of this virtual machine does not pass SNP on",
                "use a bare-metal machine with an EPYC 7003 or later (few hypervisors let a VM start SNP guests)",
            );
        }
        (Vendor::Amd, false, None) => {
            return rows.missing(
                "cpu",
                if features.is_empty() { "no memory encryption".to_owned() } else { format!("{features}, no SEV-SNP") },
                "use a machine with an EPYC 7003 (Milan) or later",
            );
        }
        _ => return rows.not_applicable("cpu", "not an AMD processor"),
    }
    match (cpu.min_sev_asid.saturating_sub(1), cpu.encrypted_guests) {
        (0, all) => {
            rows.problem("guests at once", format!("0 of {all} encrypted guests may be SNP guests"), BIOS_ASIDS)
        }
        (snp, all) => rows.ok("guests at once", format!("{snp} SNP guests of {all} encrypted guests")),
    }
    kernel_at_least(&mut rows, kernel, Version(6, 11, 0), NEWER_KERNEL);
    let on = ["sev", "sev_es", "sev_snp"].map(|name| parameter(machine, "kvm_amd", name));
    let what = "kvm_amd parameters";
    match on {
        [Some(true), Some(true), Some(true)] => rows.ok(what, "sev, sev_es and sev_snp are on"),
        [None, None, None] => rows.missing(what, "kvm_amd is not loaded", "modprobe kvm_amd (as root)"),
        [Some(true), _, None] => rows.missing(what, "sev_snp is unknown to this kernel", NEWER_KERNEL),
        [Some(true), _, Some(false)] => rows.problem(what, "sev is on, sev_snp is off", BIOS),
        _ => rows.problem(
            what,
            "sev is off",
            "add mem_encrypt=on kvm_amd.sev=1 kvm_amd.sev_es=1 kvm_amd.sev_snp=1 to GRUB_CMDLINE_LINUX in /etc/default/grub, \
             update-grub, reboot; if it stays off, enable SMEE in the BIOS set-up",
        ),
    }
    device(
        &mut rows,
        machine,
        "/dev/sev",
        "modprobe ccp (as root); if the device does not appear, dmesg | grep -i ccp tells why",
        "chgrp kvm /dev/sev && chmod 660 /dev/sev (as root), and join the group: adduser $USER kvm",
    );
}
