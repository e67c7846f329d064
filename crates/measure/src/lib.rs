//! Predicts launch digests: what a TEE reports as its measurement is a function of what was launched.
//!
//! | function | predicts |
//! |---|---|
//! | [`snp`], [`snp_from_digests`] | the launch digest of an SEV-SNP guest that QEMU boots directly with `kernel-hashes=on` |
//! | [`software`], [`software_from_digests`] | that of the software TEE; the format is in `docs/software-tee.md` |
//! | [`tdx`] | MRTD of a TD that begins with a given firmware |
//! | [`sgx`] | MRENCLAVE and MRSIGNER of an enclave, out of its signature structure or its records |
//!
//! Memory size, disks and devices are not part of a digest; firmware, kernel, initrd, command line, the number of vCPUs
//! and for SNP their type are.
#![forbid(unsafe_code)]

mod file;
mod gctx;
mod hashes;
mod ovmf;
pub mod sgx;
mod snp;
mod software;
pub mod tdx;

pub use file::{FileError, digest_file, digest_reader};
pub use ovmf::fuzz as fuzz_ovmf;
pub use snp::{SnpDigests, SnpError, SnpLaunch, VcpuType, Vmm, snp, snp_from_digests};
pub use software::{SoftwareDigests, SoftwareError, SoftwareLaunch, software, software_from_digests};

/// Most vCPUs that a launch may have.
pub const MAX_VCPUS: u32 = 512;
