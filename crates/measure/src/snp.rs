//! The launch digest of an SEV-SNP guest that QEMU boots directly.

use std::path::{Path, PathBuf};

use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType};
use sev::parser::{ByteParser, Encoder};

use crate::MAX_VCPUS;
use crate::file::{FileError, read_bounded};

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
    #[error("{}: {reason}; use the OVMF build for AMD SEV (Debian: package ovmf-amdsev)", path.display())]
    Firmware {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
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
        }
    }
}

/// The launch digest of a SNP guest under QEMU.
///
/// # Errors
/// Any [`SnpError`].
pub fn snp(launch: &SnpLaunch) -> Result<[u8; 48], SnpError> {
    if !(1..=MAX_VCPUS).contains(&launch.vcpus) {
        return Err(SnpError::Vcpus { found: launch.vcpus });
    }
    // `sev` and sev-snp-measure trim the command line, QEMU does not.
    if launch.cmdline.trim() != launch.cmdline || launch.cmdline.contains('\0') {
        return Err(SnpError::Cmdline);
    }
    if launch.guest_features & SNP_ACTIVE == 0 {
        return Err(SnpError::GuestFeatures { found: launch.guest_features });
    }
    let firmware = |reason: String| SnpError::Firmware { path: launch.ovmf.clone(), reason };
    let bytes = read_bounded(&launch.ovmf, MAX_OVMF)?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(crate::gctx::PAGE) {
        return Err(firmware(format!("{} bytes is not whole pages of 4096", bytes.len())));
    }
    for file in [&launch.kernel, &launch.initrd] {
        std::fs::File::open(file).map_err(|source| FileError::Read { path: file.clone(), source })?;
    }
    let guest_features = GuestFeatures::from_bytes(&launch.guest_features.to_le_bytes())
        .map_err(|_| SnpError::GuestFeatures { found: launch.guest_features })?;
    let digest = snp_calc_launch_digest(SnpMeasurementArgs {
        vcpus: launch.vcpus,
        vcpu_type: launch.vcpu_type.0,
        ovmf_file: launch.ovmf.clone(),
        guest_features,
        kernel_file: Some(launch.kernel.clone()),
        initrd_file: Some(launch.initrd.clone()),
        append: Some(&launch.cmdline),
        ovmf_hash_str: None,
        vmm_type: Some(VMMType::QEMU),
    })
    .map_err(|error| firmware(error.to_string()))?;
    let mut bytes = [0; 48];
    digest.encode(&mut bytes.as_mut_slice(), ()).map_err(|error| firmware(error.to_string()))?;
    Ok(bytes)
}
