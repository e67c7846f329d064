//! What the CPUID instruction says. Bits are named after AMD's manual, volume 3, appendix E.4.17, and Intel's SDM,
//! volume 3D, chapter 36 (SGX).

use crate::machine::{Cpuid, Machine};

/// Maker of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Vendor {
    Amd,
    Intel,
    Other,
}

/// Features of the processor that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// Maker.
    pub vendor: Vendor,
    /// As the processor names itself.
    pub model: String,
    /// Family and model number, as `/proc/cpuinfo` prints them.
    pub family_model: (u32, u32),
    /// Name of the hypervisor, when this is a virtual machine.
    pub hypervisor: Option<String>,
    /// SVM or VMX.
    pub virtualisation: bool,
    /// AMD: SEV.
    pub sev: bool,
    /// AMD: SEV-ES.
    pub sev_es: bool,
    /// AMD: SEV-SNP.
    pub snp: bool,
    /// AMD: how many encrypted guests may run at once.
    pub encrypted_guests: u32,
    /// AMD: lowest ASID of a SEV guest without ES; one less is the number of SNP guests.
    pub min_sev_asid: u32,
    /// Intel: SGX.
    pub sgx: bool,
    /// Intel: SGX instructions usable (SGX1).
    pub sgx1: bool,
    /// Intel: the launch control can be changed (FLC).
    pub sgx_flc: bool,
    /// Intel: bytes of enclave memory.
    pub epc_bytes: u64,
    /// Intel: the kernel found a TDX module (`tdx_host_platform` in `/proc/cpuinfo`).
    pub tdx_host: bool,
}

impl Cpu {
    /// Asks the machine.
    #[must_use]
    pub fn of(machine: &dyn Machine) -> Self {
        let cpuinfo = machine.read("/proc/cpuinfo").unwrap_or_default();
        let leaf0 = machine.cpuid(0, 0);
        let vendor = match &text(&[leaf0.ebx, leaf0.edx, leaf0.ecx])[..] {
            "AuthenticAMD" => Vendor::Amd,
            "GenuineIntel" => Vendor::Intel,
            _ => Vendor::Other,
        };
        let leaf1 = machine.cpuid(1, 0);
        let leaf7 = if leaf0.eax >= 7 { machine.cpuid(7, 0) } else { Cpuid::default() };
        let extended = machine.cpuid(0x8000_0000, 0).eax;
        let at = |leaf| if extended >= leaf { machine.cpuid(leaf, 0) } else { Cpuid::default() };
        let memory_encryption = if vendor == Vendor::Amd { at(0x8000_001f) } else { Cpuid::default() };
        let sgx = vendor == Vendor::Intel && bit(leaf7.ebx, 2);
        let names = [at(0x8000_0002), at(0x8000_0003), at(0x8000_0004)];
        let model = text(&names.map(|r| [r.eax, r.ebx, r.ecx, r.edx]).concat());
        Self {
            vendor,
            model: model.split_ascii_whitespace().collect::<Vec<_>>().join(" "),
            family_model: family_model(leaf1.eax),
            hypervisor: bit(leaf1.ecx, 31).then(|| {
                let leaf = machine.cpuid(0x4000_0000, 0);
                hypervisor(&text(&[leaf.ebx, leaf.ecx, leaf.edx]))
            }),
            virtualisation: match vendor {
                Vendor::Amd => bit(at(0x8000_0001).ecx, 2),
                _ => bit(leaf1.ecx, 5),
            },
            sev: bit(memory_encryption.eax, 1),
            sev_es: bit(memory_encryption.eax, 3),
            snp: bit(memory_encryption.eax, 4),
            encrypted_guests: memory_encryption.ecx,
            min_sev_asid: memory_encryption.edx,
            sgx,
            sgx1: sgx && leaf0.eax >= 0x12 && bit(machine.cpuid(0x12, 0).eax, 0),
            sgx_flc: sgx && bit(leaf7.ecx, 30),
            epc_bytes: if sgx && leaf0.eax >= 0x12 { epc_bytes(machine) } else { 0 },
            tdx_host: vendor == Vendor::Intel
                && cpuinfo
                    .lines()
                    .find(|line| line.starts_with("flags"))
                    .is_some_and(|line| line.split_ascii_whitespace().any(|flag| flag == "tdx_host_platform")),
        }
    }

    /// Intel models of which at least some have TDX: Sapphire Rapids, Emerald Rapids, Granite Rapids (two), Sierra Forest,
    /// Clearwater Forest.
    #[must_use]
    pub fn may_have_tdx(&self) -> bool {
        self.vendor == Vendor::Intel && matches!(self.family_model, (6, 0x8f | 0xcf | 0xad | 0xae | 0xaf | 0xdd))
    }
}

fn bit(register: u32, number: u32) -> bool {
    register >> number & 1 == 1
}

/// Registers as the text that they hold.
fn text(registers: &[u32]) -> String {
    registers
        .iter()
        .flat_map(|r| r.to_le_bytes())
        .map(char::from)
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .collect()
}

fn hypervisor(signature: &str) -> String {
    match signature {
        "KVMKVMKVM" => "KVM",
        "TCGTCGTCGTCG" => "QEMU without acceleration",
        "Microsoft Hv" => "Hyper-V",
        "VMwareVMware" => "VMware",
        "XenVMMXenVMM" => "Xen",
        "" => "a nameless hypervisor",
        other => other,
    }
    .to_owned()
}

/// CPUID leaf 1: the extended parts count for some families only.
fn family_model(eax: u32) -> (u32, u32) {
    let family = eax >> 8 & 0xf;
    let model = eax >> 4 & 0xf;
    match family {
        0xf => (family + (eax >> 20 & 0xff), model | (eax >> 16 & 0xf) << 4),
        6 => (family, model | (eax >> 16 & 0xf) << 4),
        _ => (family, model),
    }
}

/// Sum of the sections that leaf 12h lists from sub-leaf 2 on (SDM 3D, table 36-7).
fn epc_bytes(machine: &dyn Machine) -> u64 {
    (2..64)
        .map(|sub_leaf| machine.cpuid(0x12, sub_leaf))
        .take_while(|section| section.eax & 0xf == 1)
        .map(|section| u64::from(section.ecx & 0xffff_f000) | u64::from(section.edx & 0xf_ffff) << 32)
        .sum()
}
