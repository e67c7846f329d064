//! The launch digest of the software TEE, in the way of SNP; every byte is in `docs/software-tee.md`.

use std::path::PathBuf;

use crate::file::{FileError, digest_file, read_bounded};
use crate::gctx::{Gctx, PAGE};
use crate::{MAX_VCPUS, hashes};

/// Largest firmware in bytes: what QEMU maps below 4 GiB.
const MAX_FIRMWARE: u64 = 16 * 1024 * 1024;
/// The firmware's last byte lies right below this guest physical address.
const FIRMWARE_END: u64 = 1 << 32;
/// First bytes of the page that stands for a vCPU.
const VCPU_MAGIC: &[u8; 16] = b"belljar-vcpu-v1\0";

/// Why a launch of the software TEE has no digest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoftwareError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Firmware that is empty, not whole pages, or too long.
    #[error("firmware has {found} bytes, not whole pages of 4096 and at most {MAX_FIRMWARE}: give a firmware image")]
    Firmware {
        /// Its length.
        found: usize,
    },
    /// A number of vCPUs that no launch has.
    #[error("{found} vCPUs is not between 1 and {MAX_VCPUS}: choose another shape")]
    Vcpus {
        /// The number.
        found: u32,
    },
    /// A command line with a NUL inside, which would hide what follows it.
    #[error("kernel command line holds a NUL character: remove it")]
    Cmdline,
}

/// What the software TEE launches, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoftwareLaunch {
    /// Firmware (`-bios`).
    pub firmware: PathBuf,
    /// Kernel (`-kernel`).
    pub kernel: PathBuf,
    /// Initrd (`-initrd`).
    pub initrd: PathBuf,
    /// Kernel command line (`-append`), without the closing NUL.
    pub cmdline: String,
    /// Number of vCPUs (`-smp`), 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
}

/// What the software TEE launches, with the large files already hashed.
#[derive(Clone, Copy, Debug)]
pub struct SoftwareDigests<'a> {
    /// The firmware itself; it is measured page by page.
    pub firmware: &'a [u8],
    /// SHA-256 of the kernel.
    pub kernel: [u8; 32],
    /// SHA-256 of the initrd.
    pub initrd: [u8; 32],
    /// Kernel command line, without the closing NUL.
    pub cmdline: &'a str,
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
}

/// The launch digest of the software TEE. Reads all three files; kernel and initrd are streamed.
///
/// # Errors
/// Any [`SoftwareError`].
pub fn software(launch: &SoftwareLaunch) -> Result<[u8; 48], SoftwareError> {
    let firmware = read_bounded(&launch.firmware, MAX_FIRMWARE)?;
    software_from_digests(&SoftwareDigests {
        firmware: &firmware,
        kernel: digest_file(&launch.kernel)?,
        initrd: digest_file(&launch.initrd)?,
        cmdline: &launch.cmdline,
        vcpus: launch.vcpus,
    })
}

/// The launch digest of the software TEE from digests that are known, e.g. from a guest image's manifest.
///
/// # Errors
/// Any [`SoftwareError`] but [`SoftwareError::File`].
pub fn software_from_digests(launch: &SoftwareDigests<'_>) -> Result<[u8; 48], SoftwareError> {
    let found = launch.firmware.len();
    let bytes = u64::try_from(found).unwrap_or(u64::MAX);
    if found == 0 || !found.is_multiple_of(PAGE) || bytes > MAX_FIRMWARE {
        return Err(SoftwareError::Firmware { found });
    }
    if !(1..=MAX_VCPUS).contains(&launch.vcpus) {
        return Err(SoftwareError::Vcpus { found: launch.vcpus });
    }
    if launch.cmdline.contains('\0') {
        return Err(SoftwareError::Cmdline);
    }
    let mut gctx = Gctx::new();
    gctx.normal_pages(FIRMWARE_END - bytes, launch.firmware);
    let hashes = hashes::page(hashes::TABLE_OFFSET, &launch.kernel, &launch.initrd, &hashes::cmdline(launch.cmdline));
    gctx.normal_pages(hashes::PAGE_GPA, &hashes);
    for vcpu in 0..launch.vcpus {
        gctx.vmsa_page(&vcpu_page(vcpu));
    }
    Ok(gctx.finish())
}

/// The page that stands for the state of a vCPU.
fn vcpu_page(vcpu: u32) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for (to, from) in page.iter_mut().zip(VCPU_MAGIC.iter().copied().chain(vcpu.to_le_bytes())) {
        *to = from;
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(firmware: &[u8]) -> SoftwareDigests<'_> {
        SoftwareDigests { firmware, kernel: [1; 32], initrd: [2; 32], cmdline: "quiet", vcpus: 1 }
    }

    #[test]
    fn a_digest_is_stable_and_every_input_changes_it() {
        let firmware = vec![7; 2 * PAGE];
        let base = software_from_digests(&launch(&firmware)).unwrap();
        // Computed by the independent program in docs/software-tee.md.
        assert_eq!(hex::encode(base), GOLDEN);
        let mut changed = firmware.clone();
        changed[PAGE] ^= 1;
        let launches = [
            SoftwareDigests { firmware: &changed, ..launch(&firmware) },
            SoftwareDigests { kernel: [3; 32], ..launch(&firmware) },
            SoftwareDigests { initrd: [3; 32], ..launch(&firmware) },
            SoftwareDigests { cmdline: "quiet belljar.debug", ..launch(&firmware) },
            SoftwareDigests { cmdline: "quiet ", ..launch(&firmware) },
            SoftwareDigests { vcpus: 2, ..launch(&firmware) },
            SoftwareDigests { kernel: [2; 32], initrd: [1; 32], ..launch(&firmware) },
        ];
        let mut digests: Vec<_> = launches.iter().map(|launch| software_from_digests(launch).unwrap()).collect();
        digests.push(base);
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), launches.len() + 1);
    }

    const GOLDEN: &str =
        "65c481fd9ab968d3e80c8a93c570c6d9d62b92bd0e26423dc74cad5b1108f6d899e4196dc279a5f1fe3d4394a894a473";

    #[test]
    fn files_and_their_digests_give_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let firmware = vec![9; PAGE];
        let files = SoftwareLaunch {
            firmware: file("firmware", &firmware),
            kernel: file("kernel", b"a kernel"),
            initrd: file("initrd", b"an initrd"),
            cmdline: "quiet".to_owned(),
            vcpus: 2,
        };
        let digests = SoftwareDigests {
            firmware: &firmware,
            kernel: digest_file(&files.kernel).unwrap(),
            initrd: digest_file(&files.initrd).unwrap(),
            cmdline: "quiet",
            vcpus: 2,
        };
        assert_eq!(software(&files).unwrap(), software_from_digests(&digests).unwrap());
        let missing = SoftwareLaunch { initrd: folder.path().join("none"), ..files };
        assert!(
            matches!(software(&missing), Err(SoftwareError::File(FileError::Read { path, .. })) if path == missing.initrd)
        );
    }

    #[test]
    fn what_no_launch_has_is_refused() {
        let firmware = vec![0; PAGE];
        assert!(software_from_digests(&launch(&firmware)).is_ok());
        for bytes in [&[][..], &firmware[1..]] {
            let found = software_from_digests(&launch(bytes));
            assert!(matches!(found, Err(SoftwareError::Firmware { found }) if found == bytes.len()));
        }
        for vcpus in [0, MAX_VCPUS + 1] {
            let found = software_from_digests(&SoftwareDigests { vcpus, ..launch(&firmware) });
            assert!(matches!(found, Err(SoftwareError::Vcpus { found }) if found == vcpus));
        }
        assert!(software_from_digests(&SoftwareDigests { vcpus: MAX_VCPUS, ..launch(&firmware) }).is_ok());
        let found = software_from_digests(&SoftwareDigests { cmdline: "a\0b", ..launch(&firmware) });
        assert!(matches!(found, Err(SoftwareError::Cmdline)));
    }
}
