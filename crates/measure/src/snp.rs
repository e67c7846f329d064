//! The launch digest of an SEV-SNP guest that QEMU boots directly.
//!
//! The initial state of vCPUs comes from the `sev` crate. Its calculation as a whole is the peer of our tests, and not
//! used here: it reads kernel and initrd into memory, cannot start from digests, and panics on a malformed image.

use std::path::{Path, PathBuf};

use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType, VMSA};
use sev::parser::ByteParser;

use crate::file::{FileError, digest_file, read_bounded};
use crate::gctx::{Gctx, PAGE};
use crate::ovmf::{Kind, Ovmf};
use crate::{MAX_VCPUS, hashes};

/// Largest OVMF image in bytes.
const MAX_OVMF: u64 = 16 * 1024 * 1024;
/// Guest features: bit 0, SNP is active, is always set in a SNP guest.
const SNP_ACTIVE: u64 = 1;

/// Why a SNP launch has no digest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnpError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Firmware that is not an OVMF image whose kernel hashes can be measured.
    #[error(
        "firmware{} cannot be measured: {reason}; use the OVMF build for AMD SEV (Debian: package ovmf-amdsev)",
        named(path)
    )]
    Firmware {
        /// The file, if it was one.
        path: Option<PathBuf>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The initial state of a vCPU could not be written.
    #[error("the vCPU's initial state cannot be written ({0}): use another vCPU type")]
    Vmsa(String),
    /// A number of vCPUs that no launch has.
    #[error("{found} vCPUs is not between 1 and {MAX_VCPUS}: choose another shape")]
    Vcpus {
        /// The number.
        found: u32,
    },
    /// A command line that tools hash differently: with white space at an end, or a NUL inside.
    #[error("kernel command line begins or ends with white space or holds a NUL character: remove it")]
    Cmdline,
    /// A vCPU type without a known signature.
    #[error("vCPU type {found:?} is not known: use a QEMU model such as EPYC-v4, EPYC-Milan or EPYC-Genoa")]
    VcpuType {
        /// The name.
        found: String,
    },
    /// A hypervisor whose launches are not known.
    #[error("hypervisor {found:?} is not known: use qemu or ec2")]
    Vmm {
        /// The name.
        found: String,
    },
    /// Guest features without the bit that every SNP guest has.
    #[error("guest features {found:#x} lack bit 0 (SNP active): set it")]
    GuestFeatures {
        /// The features.
        found: u64,
    },
}

/// A vCPU model of QEMU; its CPUID signature is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VcpuType(CpuType);

impl Default for VcpuType {
    /// `EPYC-v4`.
    fn default() -> Self {
        Self(CpuType::EpycV4)
    }
}

impl std::str::FromStr for VcpuType {
    type Err = SnpError;

    /// A model name as QEMU has it, in any case.
    fn from_str(name: &str) -> Result<Self, SnpError> {
        CpuType::try_from(name).map(Self).map_err(|_| SnpError::VcpuType { found: name.to_owned() })
    }
}

impl std::fmt::Display for VcpuType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn named(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default()
}

/// Which hypervisor launches the guest: each sets the vCPUs' first state in its own way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vmm {
    /// QEMU.
    #[default]
    Qemu,
    /// Amazon EC2; the CPUID page is added last.
    Ec2,
}

impl Vmm {
    /// The state as the hypervisor sets it: EC2 leaves RDX (at 0x310 of the save area, AMD APM volume 2, table B-4) at its
    /// value after a reset, 0x600. `sev` writes zero there; sev-snp-measure, where Amazon's parameters come from, does not.
    fn adjusted(self, state: &[u8]) -> Vec<u8> {
        let mut state = state.to_vec();
        if self == Self::Ec2 {
            state.iter_mut().skip(0x310).zip(0x600_u64.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        state
    }

    fn state(self) -> VMMType {
        match self {
            Self::Qemu => VMMType::QEMU,
            Self::Ec2 => VMMType::EC2,
        }
    }
}

impl std::str::FromStr for Vmm {
    type Err = SnpError;

    fn from_str(name: &str) -> Result<Self, SnpError> {
        match name.to_ascii_lowercase().as_str() {
            "qemu" => Ok(Self::Qemu),
            "ec2" => Ok(Self::Ec2),
            _ => Err(SnpError::Vmm { found: name.to_owned() }),
        }
    }
}

/// What a SNP guest launches.
#[derive(Clone, Debug, PartialEq)]
pub struct SnpLaunch {
    /// OVMF for AMD SEV (`-bios`).
    pub ovmf: PathBuf,
    /// Kernel, a bzImage (`-kernel`).
    pub kernel: PathBuf,
    /// Initrd (`-initrd`).
    pub initrd: PathBuf,
    /// Kernel command line (`-append`), without the closing NUL.
    pub cmdline: String,
    /// Number of vCPUs (`-smp`), 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// vCPU model (`-cpu`).
    pub vcpu_type: VcpuType,
    /// SEV features of the guest; 1 unless the host's kernel adds some.
    pub guest_features: u64,
    /// The hypervisor.
    pub vmm: Vmm,
}

impl SnpLaunch {
    /// A launch with the usual vCPU model, EPYC-v4, and the usual guest features, 1.
    pub fn new(ovmf: &Path, kernel: &Path, initrd: &Path, cmdline: &str, vcpus: u32) -> Self {
        Self {
            ovmf: ovmf.to_owned(),
            kernel: kernel.to_owned(),
            initrd: initrd.to_owned(),
            cmdline: cmdline.to_owned(),
            vcpus,
            vcpu_type: VcpuType::default(),
            guest_features: SNP_ACTIVE,
            vmm: Vmm::default(),
        }
    }
}

/// What a SNP guest launches, with the large files already hashed.
#[derive(Clone, Copy, Debug)]
pub struct SnpDigests<'a> {
    /// The OVMF image itself; it is measured page by page.
    pub ovmf: &'a [u8],
    /// SHA-256 of the kernel.
    pub kernel: [u8; 32],
    /// SHA-256 of the initrd.
    pub initrd: [u8; 32],
    /// Kernel command line, without the closing NUL.
    pub cmdline: &'a str,
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// vCPU model.
    pub vcpu_type: VcpuType,
    /// SEV features of the guest.
    pub guest_features: u64,
    /// The hypervisor.
    pub vmm: Vmm,
}

/// The launch digest of a SNP guest. Reads all three files; kernel and initrd are streamed.
///
/// # Errors
/// Any [`SnpError`].
pub fn snp(launch: &SnpLaunch) -> Result<[u8; 48], SnpError> {
    let ovmf = read_bounded(&launch.ovmf, MAX_OVMF)?;
    let digests = SnpDigests {
        ovmf: &ovmf,
        kernel: digest_file(&launch.kernel)?,
        initrd: digest_file(&launch.initrd)?,
        cmdline: &launch.cmdline,
        vcpus: launch.vcpus,
        vcpu_type: launch.vcpu_type,
        guest_features: launch.guest_features,
        vmm: launch.vmm,
    };
    snp_from_digests(&digests).map_err(|error| match error {
        SnpError::Firmware { reason, .. } => SnpError::Firmware { path: Some(launch.ovmf.clone()), reason },
        other => other,
    })
}

/// The launch digest of a SNP guest from digests that are known, e.g. from a guest image's manifest.
///
/// # Errors
/// Any [`SnpError`] but [`SnpError::File`].
pub fn snp_from_digests(launch: &SnpDigests<'_>) -> Result<[u8; 48], SnpError> {
    if !(1..=MAX_VCPUS).contains(&launch.vcpus) {
        return Err(SnpError::Vcpus { found: launch.vcpus });
    }
    // QEMU hashes the text as it is; `sev` and sev-snp-measure trim it first, and would predict another digest.
    if launch.cmdline.trim() != launch.cmdline || launch.cmdline.contains('\0') {
        return Err(SnpError::Cmdline);
    }
    let guest_features = GuestFeatures::from_bytes(&launch.guest_features.to_le_bytes())
        .ok()
        .filter(|_| launch.guest_features & SNP_ACTIVE != 0)
        .ok_or(SnpError::GuestFeatures { found: launch.guest_features })?;
    let firmware = |reason| SnpError::Firmware { path: None, reason };
    let length = u64::try_from(launch.ovmf.len()).unwrap_or(u64::MAX);
    if length == 0 || !launch.ovmf.len().is_multiple_of(PAGE) || length > MAX_OVMF {
        return Err(firmware("it is not whole pages of 4096 bytes, or too long"));
    }
    let ovmf = Ovmf::parse(launch.ovmf).map_err(firmware)?;
    let hashes = hashes::page(ovmf.hashes_offset, &launch.kernel, &launch.initrd, &hashes::cmdline(launch.cmdline));

    let mut gctx = Gctx::new();
    gctx.normal_pages((1 << 32) - length, launch.ovmf);
    for section in &ovmf.sections {
        match section.kind {
            Kind::Zero => gctx.zero_pages(section.gpa, section.size),
            Kind::Secrets => gctx.secrets_page(section.gpa),
            Kind::Cpuid if launch.vmm == Vmm::Ec2 => {}
            Kind::Cpuid => gctx.cpuid_page(section.gpa),
            Kind::Hashes => gctx.normal_pages(section.gpa, &hashes),
        }
    }
    if launch.vmm == Vmm::Ec2 {
        for section in ovmf.sections.iter().filter(|section| section.kind == Kind::Cpuid) {
            gctx.cpuid_page(section.gpa);
        }
    }
    let vcpus = Some(u64::from(launch.vcpus));
    let vmsa = VMSA::new(ovmf.reset_eip.into(), launch.vcpu_type.0, launch.vmm.state(), vcpus, guest_features);
    // Two different states at most: that of the first vCPU, and that of all others.
    let states = vmsa.pages(2).map_err(|error| SnpError::Vmsa(error.to_string()))?;
    let [first, other] = states.as_slice() else {
        return Err(firmware("its SEV-ES reset block is zero"));
    };
    let (first, other) = (launch.vmm.adjusted(first), launch.vmm.adjusted(other));
    gctx.vmsa_page(&first);
    for _ in 1..launch.vcpus {
        gctx.vmsa_page(&other);
    }
    Ok(gctx.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `sev` crate's own calculation over the same files, for an image that every machine can make.
    #[test]
    fn a_small_image_has_the_digest_of_the_sev_crate() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let ovmf = file("ovmf", &crate::ovmf::tests::image());
        let (kernel, initrd) = (file("kernel", b"a kernel"), file("initrd", b"an initrd"));
        let launches =
            [(1, "EPYC-v4", 1, Vmm::Qemu), (3, "EPYC-Milan", 0x21, Vmm::Qemu), (64, "EPYC-Turin", 1, Vmm::Qemu)];
        for (vcpus, vcpu_type, guest_features, vmm) in launches {
            let launch = SnpLaunch {
                vcpu_type: vcpu_type.parse().unwrap(),
                guest_features,
                vmm,
                ..SnpLaunch::new(&ovmf, &kernel, &initrd, "console=hvc0", vcpus)
            };
            let theirs = sev::measurement::snp::snp_calc_launch_digest(sev::measurement::snp::SnpMeasurementArgs {
                vcpus,
                vcpu_type: launch.vcpu_type.0,
                ovmf_file: ovmf.clone(),
                guest_features: GuestFeatures::from_bytes(&guest_features.to_le_bytes()).unwrap(),
                kernel_file: Some(kernel.clone()),
                initrd_file: Some(initrd.clone()),
                append: Some("console=hvc0"),
                ovmf_hash_str: None,
                vmm_type: Some(vmm.state()),
            });
            assert_eq!(hex::encode(snp(&launch).unwrap()), theirs.unwrap().get_hex_ld());
        }
    }

    #[test]
    fn unknown_models_are_refused() {
        assert_eq!("epyc-v4".parse::<VcpuType>().unwrap(), VcpuType::default());
        assert!(matches!("486".parse::<VcpuType>(), Err(SnpError::VcpuType { found }) if found == "486"));
    }
}
