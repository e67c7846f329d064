//! Which TEEs this machine has, fact by fact, and the choice among them. Nothing is ever downgraded.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::machine::{QuoteSocket, Tee, TeeKind};

/// Guest policy of our SEV-SNP pods (SEV-SNP firmware ABI, section 4.3): bit 17 must be one, SMT allowed (bit 16);
/// no debugging (bit 19), no migration agent (bit 18).
pub const SNP_POLICY: u64 = 0x3_0000;
/// Where Intel's quote generation service listens by default.
pub const QGS_SOCKET: &str = "/var/run/tdx-qgs/qgs.socket";

/// One thing that a TEE needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is, e.g. `CPU feature SEV-SNP`.
    pub name: &'static str,
    /// Whether it is there.
    pub found: bool,
    /// What was seen.
    pub value: String,
    /// What to do when it is not there.
    pub next_step: &'static str,
}

/// What a TEE needs and what of it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Support {
    /// In the order in which they have to be mended.
    pub facts: Vec<Fact>,
}

/// Everything that was found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Detection {
    /// AMD SEV-SNP.
    pub snp: Support,
    /// Intel TDX.
    pub tdx: Support,
    /// Intel SGX: reported only, pods do not run in enclaves yet.
    pub sgx: Support,
    /// CPUID 8000001F EBX\[5:0\]; 0 without SEV.
    pub cbitpos: u8,
    /// CPUID 8000001F EBX\[11:6\]; 0 without SEV.
    pub reduced_phys_bits: u8,
}

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The hardware if there is any, else software.
    Auto,
    /// This one or nothing.
    Only(TeeKind),
}

/// The TEE that was asked for is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TeeError {
    /// Something is missing.
    #[error("this machine cannot run {tee} pods: {missing}; see `belljar doctor`")]
    Missing {
        /// What was asked for.
        tee: TeeKind,
        /// What is missing, with what was seen.
        missing: String,
    },
}

/// Looks at this machine.
pub fn detect() -> Detection {
    Source { root: PathBuf::from("/"), cpuid }.detect()
}

impl Support {
    /// Everything is there.
    pub fn available(&self) -> bool {
        self.facts.iter().all(|fact| fact.found)
    }

    /// What is not there.
    pub fn missing(&self) -> impl Iterator<Item = &Fact> {
        self.facts.iter().filter(|fact| !fact.found)
    }
}

impl Detection {
    /// The TEE to use. [`Wanted::Only`] a TEE that is not there is an error that names what is missing.
    pub fn select(&self, wanted: Wanted) -> Result<TeeKind, TeeError> {
        let only = |tee, support: &Support| match support.available() {
            true => Ok(tee),
            false => {
                let missing: Vec<_> = support.missing().map(|fact| format!("{} ({})", fact.name, fact.value)).collect();
                Err(TeeError::Missing { tee, missing: missing.join(", ") })
            }
        };
        match wanted {
            Wanted::Auto if self.snp.available() => Ok(TeeKind::Snp),
            Wanted::Auto if self.tdx.available() => Ok(TeeKind::Tdx),
            Wanted::Auto | Wanted::Only(TeeKind::Software) => Ok(TeeKind::Software),
            Wanted::Only(TeeKind::Snp) => only(TeeKind::Snp, &self.snp),
            Wanted::Only(TeeKind::Tdx) => only(TeeKind::Tdx, &self.tdx),
        }
    }

    /// The TEE of a machine on this host, with `digest` of the initdata bound to its launch.
    pub fn tee(&self, kind: TeeKind, digest: [u8; 32]) -> Tee {
        match kind {
            TeeKind::Software => Tee::Software { host_data: digest },
            TeeKind::Snp => Tee::Snp {
                cbitpos: self.cbitpos,
                reduced_phys_bits: self.reduced_phys_bits,
                policy: SNP_POLICY,
                host_data: digest,
            },
            TeeKind::Tdx => {
                let mut mr_config_id = [0; 48];
                for (to, from) in mr_config_id.iter_mut().zip(digest) {
                    *to = from;
                }
                Tee::Tdx { mr_config_id, quote_socket: QuoteSocket::Unix(QGS_SOCKET.into()) }
            }
        }
    }
}

/// Where facts come from: a root directory and the CPUID instruction (leaf, sub-leaf → EAX, EBX, ECX, EDX).
struct Source {
    root: PathBuf,
    cpuid: fn(u32, u32) -> [u32; 4],
}

impl Source {
    fn detect(&self) -> Detection {
        let [_, ebx, _, _] = self.leaf(0x8000_001f, 0);
        let six_bits = |shift: u32| u8::try_from(ebx >> shift & 0x3f).unwrap_or_default();
        Detection {
            snp: self.snp(),
            tdx: self.tdx(),
            sgx: self.sgx(),
            cbitpos: six_bits(0),
            reduced_phys_bits: six_bits(6),
        }
    }

    /// AMD APM volume 3, section E.4.17: EAX bit 4 is SEV-SNP.
    fn snp(&self) -> Support {
        let [eax, ..] = self.leaf(0x8000_001f, 0);
        let kernel = "boot with kvm_amd.sev_snp=1 on Linux 6.11 or newer, and turn SEV-SNP on in the firmware setup";
        Support {
            facts: vec![
                bit("CPU feature SEV-SNP", "CPUID 8000001F EAX", eax, 4, "use an AMD EPYC 7003 or newer"),
                self.parameter("kernel support for SEV-SNP", "sys/module/kvm_amd/parameters/sev_snp", kernel),
                self.device("secure processor device", "dev/sev", "load the kernel module ccp"),
                self.device("KVM device", "dev/kvm", "load the kernel module kvm_amd"),
            ],
        }
    }

    /// The kernel shows a platform that TDX was turned on for as a flag of `/proc/cpuinfo` (`X86_FEATURE_TDX_HOST_PLATFORM`).
    fn tdx(&self) -> Support {
        let cpuinfo = std::fs::read_to_string(self.root.join("proc/cpuinfo")).unwrap_or_default();
        let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
        let found = flags.split_ascii_whitespace().any(|flag| flag == "tdx_host_platform");
        let platform = Fact {
            name: "TDX platform",
            found,
            value: format!("flag tdx_host_platform is {} in /proc/cpuinfo", if found { "set" } else { "not set" }),
            next_step: "use an Intel Xeon of the 5th generation or newer, and turn TDX on in the firmware setup",
        };
        let kernel = "boot with kvm_intel.tdx=1 on Linux 6.16 or newer";
        Support {
            facts: vec![
                platform,
                self.parameter("kernel support for TDX", "sys/module/kvm_intel/parameters/tdx", kernel),
                self.device("KVM device", "dev/kvm", "load the kernel module kvm_intel"),
                self.device(
                    "quote generation service",
                    QGS_SOCKET.trim_start_matches('/'),
                    "install and start tdx-qgs",
                ),
            ],
        }
    }

    /// Intel SDM volume 3D, section 37.7: leaf 7 EBX bit 2 is SGX, ECX bit 30 flexible launch control; leaf 12H EAX bit 0 SGX1.
    fn sgx(&self) -> Support {
        let [_, ebx, ecx, _] = self.leaf(7, 0);
        let has_sgx = ebx >> 2 & 1 == 1;
        let [sgx1, ..] = if has_sgx { self.leaf(0x12, 0) } else { [0; 4] };
        let setup = "turn SGX and its flexible launch control on in the firmware setup";
        Support {
            facts: vec![
                bit("CPU feature SGX", "CPUID 7 EBX", ebx, 2, "use an Intel Xeon with SGX"),
                bit("SGX1 instructions", "CPUID 12H EAX", sgx1, 0, setup),
                bit("flexible launch control", "CPUID 7 ECX", ecx, 30, setup),
                self.device("enclave device", "dev/sgx_enclave", "use Linux 5.11 or newer with CONFIG_X86_SGX"),
            ],
        }
    }

    /// A leaf, or zeros when the CPU does not have it.
    fn leaf(&self, leaf: u32, sub: u32) -> [u32; 4] {
        let [most, ..] = (self.cpuid)(leaf & 0x8000_0000, 0);
        match leaf <= most {
            true => (self.cpuid)(leaf, sub),
            false => [0; 4],
        }
    }

    fn parameter(&self, name: &'static str, path: &str, next_step: &'static str) -> Fact {
        let value = std::fs::read_to_string(self.root.join(path));
        let found = value.as_ref().is_ok_and(|value| matches!(value.trim(), "Y" | "1"));
        let value = match value {
            Ok(value) => format!("/{path} is {}", crate::console::printable(value.as_bytes(), 16)),
            Err(_) => format!("no /{path}"),
        };
        Fact { name, found, value, next_step }
    }

    fn device(&self, name: &'static str, path: &str, next_step: &'static str) -> Fact {
        let found = Path::new(&self.root).join(path).exists();
        Fact { name, found, value: format!("{}/{path}", if found { "" } else { "no " }), next_step }
    }
}

fn bit(name: &'static str, register: &str, value: u32, bit: u32, next_step: &'static str) -> Fact {
    let set = value >> bit & 1;
    Fact { name, found: set == 1, value: format!("{register} bit {bit} is {set}"), next_step }
}

#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    let found = std::arch::x86_64::__cpuid_count(leaf, sub);
    [found.eax, found.ebx, found.ecx, found.edx]
}

#[cfg(not(target_arch = "x86_64"))]
fn cpuid(_: u32, _: u32) -> [u32; 4] {
    [0; 4]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An EPYC with everything: C-bit 51, 5 bits lost.
    fn epyc(leaf: u32, _: u32) -> [u32; 4] {
        match leaf {
            0x8000_0000 => [0x8000_0021, 0, 0, 0],
            0x8000_001f => [1 << 4, 5 << 6 | 51, 0, 0],
            0 => [0x10, 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// A CPU with leaves 0 and 80000000 only.
    fn old(_: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }

    fn host(files: &[(&str, &str)], cpuid: fn(u32, u32) -> [u32; 4]) -> (tempfile::TempDir, Detection) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let detection = Source { root: dir.path().to_owned(), cpuid }.detect();
        (dir, detection)
    }

    const SNP: [(&str, &str); 3] = [("sys/module/kvm_amd/parameters/sev_snp", "Y\n"), ("dev/sev", ""), ("dev/kvm", "")];
    const TDX: [(&str, &str); 4] = [
        ("proc/cpuinfo", "model name\t: X\nflags\t\t: fpu tdx_host_platform sse\n"),
        ("sys/module/kvm_intel/parameters/tdx", "Y\n"),
        ("dev/kvm", ""),
        ("var/run/tdx-qgs/qgs.socket", ""),
    ];

    #[test]
    fn snp_is_chosen_where_it_is_whole() {
        let (_dir, found) = host(&SNP, epyc);
        assert_eq!(found.select(Wanted::Auto), Ok(TeeKind::Snp));
        assert_eq!(found.select(Wanted::Only(TeeKind::Snp)), Ok(TeeKind::Snp));
        let tee = Tee::Snp { cbitpos: 51, reduced_phys_bits: 5, policy: 0x30000, host_data: [7; 32] };
        assert_eq!(found.tee(TeeKind::Snp, [7; 32]), tee);
    }

    #[test]
    fn snp_without_one_thing_is_refused_with_its_name_and_never_downgraded() {
        let missing = |files: &[(&str, &str)], cpuid| {
            let (_dir, found) = host(files, cpuid);
            assert_eq!(found.select(Wanted::Auto), Ok(TeeKind::Software));
            found.select(Wanted::Only(TeeKind::Snp)).unwrap_err()
        };
        let error = |missing: &str| TeeError::Missing { tee: TeeKind::Snp, missing: missing.into() };
        assert_eq!(missing(&SNP, old), error("CPU feature SEV-SNP (CPUID 8000001F EAX bit 4 is 0)"));
        assert_eq!(missing(&SNP[..2], epyc), error("KVM device (no /dev/kvm)"));
        let off = [("sys/module/kvm_amd/parameters/sev_snp", "N\n"), SNP[1], SNP[2]];
        let parameter = "kernel support for SEV-SNP (/sys/module/kvm_amd/parameters/sev_snp is N)";
        assert_eq!(missing(&off, epyc), error(parameter));
        assert_eq!(missing(&[SNP[0], SNP[2]], epyc), error("secure processor device (no /dev/sev)"));
    }

    #[test]
    fn tdx_likewise() {
        let (_dir, found) = host(&TDX, old);
        assert_eq!(found.select(Wanted::Auto), Ok(TeeKind::Tdx));
        let Tee::Tdx { mr_config_id, .. } = found.tee(TeeKind::Tdx, [7; 32]) else { panic!() };
        assert_eq!((&mr_config_id[..32], &mr_config_id[32..]), ([7; 32].as_slice(), [0; 16].as_slice()));
        let (_dir, found) = host(&TDX[1..], old);
        let missing = "TDX platform (flag tdx_host_platform is not set in /proc/cpuinfo)".into();
        let error = TeeError::Missing { tee: TeeKind::Tdx, missing };
        assert_eq!(found.select(Wanted::Only(TeeKind::Tdx)), Err(error));
        assert_eq!(found.select(Wanted::Only(TeeKind::Software)), Ok(TeeKind::Software));
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let found = detect();
        assert_eq!((found.snp.facts.len(), found.tdx.facts.len(), found.sgx.facts.len()), (4, 4, 4));
    }
}
