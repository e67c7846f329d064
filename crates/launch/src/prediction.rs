//! The launch measurement that the evidence of a pod VM must have.

use belljar_guest_image::GuestImage;
use belljar_measure::{SnpError, SnpLaunch, SoftwareDigests, SoftwareError};
use belljar_vmm::TeeKind;

/// Why a measurement cannot be predicted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictionError {
    /// Not computed for TDX.
    #[error("the launch measurement of a TDX guest cannot be predicted by this version")]
    Tdx,
    /// The guest image's manifest lacks a file.
    #[error("the guest image has no digest of {name}")]
    NoDigest {
        /// The file.
        name: &'static str,
    },
    /// A file of the guest image cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// The operating system's words.
        error: std::io::Error,
    },
    /// The parts do not make a launch of the software TEE.
    #[error(transparent)]
    Software(#[from] SoftwareError),
    /// The parts do not make an SNP launch.
    #[error(transparent)]
    Snp(#[from] SnpError),
}

/// What the report of a pod VM of this guest image will have as MEASUREMENT.
pub fn predict(image: &GuestImage, kind: TeeKind, debug: bool, vcpus: u32) -> Result<[u8; 48], PredictionError> {
    match kind {
        TeeKind::Software => predict_software(image, debug, vcpus),
        TeeKind::Snp => predict_snp(image, debug, vcpus),
        TeeKind::Tdx => Err(PredictionError::Tdx),
    }
}

/// What a software TEE will report for a pod of this guest image; from the digests in the image's manifest.
pub fn predict_software(image: &GuestImage, debug: bool, vcpus: u32) -> Result<[u8; 48], PredictionError> {
    let path = image.qboot();
    let firmware = std::fs::read(&path).map_err(|error| PredictionError::File { path, error })?;
    let digests = SoftwareDigests {
        firmware: &firmware,
        kernel: file_digest(image, "vmlinux")?,
        initrd: file_digest(image, "initrd")?,
        cmdline: &image.cmdline(debug),
        vcpus,
    };
    Ok(belljar_measure::software_from_digests(&digests)?)
}

/// What SNP hardware will report for a pod of this guest image.
pub fn predict_snp(image: &GuestImage, debug: bool, vcpus: u32) -> Result<[u8; 48], PredictionError> {
    let launch = SnpLaunch::new(&image.ovmf_amdsev(), &image.vmlinuz(), &image.initrd(), &image.cmdline(debug), vcpus);
    Ok(belljar_measure::snp(&launch)?)
}

/// The SHA-256 that the image's manifest has for one of its files.
pub fn file_digest(image: &GuestImage, name: &'static str) -> Result<[u8; 32], PredictionError> {
    let entry = image.manifest().files.get(name).ok_or(PredictionError::NoDigest { name })?;
    let mut digest = [0; 32];
    hex::decode_to_slice(&entry.sha256, &mut digest).map_err(|_| PredictionError::NoDigest { name })?;
    Ok(digest)
}
