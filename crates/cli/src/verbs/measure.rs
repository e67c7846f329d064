//! `belljar measure snp|software|tdx|sgx|tpm|pod`: predicted launch measurements.

mod tdx;
mod tpm;

use std::path::{Path, PathBuf};

use belljar_guest_image::GuestImage;
use belljar_launch::PredictionError;
use belljar_measure::sgx::MAX_ENCLAVE;
use belljar_measure::{SnpLaunch, SoftwareLaunch};
use belljar_vmm::machine::SHAPES;
use clap::Subcommand;
use serde::Serialize;

use crate::evidence::file;
use crate::failure::Failure;
use crate::output::{Format, json, print, table};
use crate::paths::Paths;
use crate::verbs::guest;

/// Predicted launch measurements.
#[derive(Debug, Subcommand)]
pub enum Measure {
    /// The launch digest of an SNP guest
    #[command(
        after_help = "Example: belljar measure snp --ovmf OVMF.amdsev.fd --kernel vmlinuz --initrd initrd --append 'quiet' --vcpus 2"
    )]
    Snp {
        /// OVMF for AMD SEV
        #[arg(long)]
        ovmf: PathBuf,
        /// Kernel (bzImage)
        #[arg(long)]
        kernel: PathBuf,
        /// Initrd
        #[arg(long)]
        initrd: PathBuf,
        /// Kernel command line
        #[arg(long, default_value = "")]
        append: String,
        /// Number of vCPUs
        #[arg(long, default_value_t = 1)]
        vcpus: u32,
        /// vCPU model of QEMU
        #[arg(long, default_value = "EPYC-v4")]
        vcpu_type: String,
        /// SEV features of the guest
        #[arg(long, default_value_t = 1)]
        guest_features: u64,
        /// Hypervisor: qemu or ec2
        #[arg(long, default_value = "qemu")]
        vmm_type: String,
    },
    /// The launch digest of a software TEE guest
    #[command(
        after_help = "Example: belljar measure software --firmware qboot.rom --kernel vmlinux --initrd initrd --append 'quiet' --vcpus 2"
    )]
    Software {
        /// Firmware
        #[arg(long)]
        firmware: PathBuf,
        /// Kernel (PVH ELF)
        #[arg(long)]
        kernel: PathBuf,
        /// Initrd
        #[arg(long)]
        initrd: PathBuf,
        /// Kernel command line
        #[arg(long, default_value = "")]
        append: String,
        /// Number of vCPUs
        #[arg(long, default_value_t = 1)]
        vcpus: u32,
    },
    /// MRTD of a TDX guest: its firmware. Not its kernel: the firmware measures that into RTMRs, which are not predicted
    #[command(after_help = "Example: belljar measure tdx --firmware OVMF.inteltdx.ms.fd")]
    Tdx(tdx::Tdx),
    /// Values of a TPM's registers: those that an event log leads to, and register 8 as Confidential Containers extend it
    #[command(
        after_help = "Example: belljar measure tpm --event-log /sys/kernel/security/tpm0/binary_bios_measurements"
    )]
    Tpm(tpm::Tpm),
    /// What an SGX enclave will report: out of its signature (.sig, a signed .so) or its records (.sgxs)
    #[command(
        after_help = "Example: belljar measure sgx enclave.signed.so --format json\nExit code 1: the signature structure does not verify; EINIT would refuse it."
    )]
    Sgx {
        /// A SIGSTRUCT (1808 bytes), a signed enclave of Intel's SDK, or a .sgxs file
        file: PathBuf,
    },
    /// Every shape of a guest image at once: a table of reference values
    #[command(after_help = "Example: belljar measure pod --format json")]
    Pod {
        /// A guest image's directory (default: the current one)
        #[arg(long, value_name = "DIR")]
        image: Option<PathBuf>,
        /// With the debugging command line
        #[arg(long)]
        debug: bool,
    },
}

/// One predicted measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reference {
    /// `snp` or `software`.
    pub tee: &'static str,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// The launch digest, 48 bytes in lowercase hex.
    pub measurement: String,
}

#[derive(Debug, Serialize)]
struct Table<'a> {
    guest_image: &'a str,
    command_line: String,
    references: Vec<Reference>,
}

impl Measure {
    /// Carries the verb out.
    pub fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Snp { ovmf, kernel, initrd, append, vcpus, vcpu_type, guest_features, vmm_type } => {
                let vcpu_type = vcpu_type.parse().map_err(Failure::usage)?;
                let vmm = vmm_type.parse().map_err(Failure::usage)?;
                let launch = SnpLaunch { ovmf, kernel, initrd, cmdline: append, vcpus, vcpu_type, guest_features, vmm };
                one("snp", vcpus, belljar_measure::snp(&launch).map_err(Failure::usage)?, format)
            }
            Self::Software { firmware, kernel, initrd, append, vcpus } => {
                let launch = SoftwareLaunch { firmware, kernel, initrd, cmdline: append, vcpus };
                one("software", vcpus, belljar_measure::software(&launch).map_err(Failure::usage)?, format)
            }
            Self::Tdx(tdx) => tdx.execute(format),
            Self::Tpm(tpm) => tpm.execute(format),
            Self::Sgx { file } => sgx(&file, format),
            Self::Pod { image, debug } => {
                let image = guest::open(&image.unwrap_or_else(|| paths.guest()))?;
                let mut references = Vec::new();
                for vcpus in SHAPES {
                    for (tee, digest) in
                        [("software", software(&image, debug, vcpus)?), ("snp", snp(&image, debug, vcpus)?)]
                    {
                        references.push(Reference { tee, vcpus, measurement: hex::encode(digest) });
                    }
                }
                match format {
                    Format::Json => {
                        json(&Table { guest_image: image.id(), command_line: image.cmdline(debug), references })?;
                    }
                    Format::Text => {
                        let rows: Vec<Vec<String>> = references
                            .into_iter()
                            .map(|r| vec![r.tee.to_owned(), r.vcpus.to_string(), r.measurement])
                            .collect();
                        print(&table(&["TEE", "VCPUS", "MEASUREMENT"], &rows))?;
                    }
                }
                Ok(0)
            }
        }
    }
}

/// An enclave's measurement; of a signature structure all that it says.
fn sgx(path: &Path, format: Format) -> Result<i32, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let bytes = file::read_most(path, MAX_ENCLAVE)?;
    if bytes.starts_with(b"ECREATE\0") {
        let mrenclave = hex::encode(belljar_measure::sgx::enclave_hash(&bytes).map_err(|error| wrong(&error))?);
        match format {
            Format::Json => json(&serde_json::json!({ "mrenclave": mrenclave }))?,
            Format::Text => print(&format!("{mrenclave}\n"))?,
        }
        return Ok(0);
    }
    let found = belljar_measure::sgx::find_sigstruct(&bytes).map_err(|error| wrong(&error))?;
    match format {
        Format::Json => json(&found)?,
        Format::Text => {
            let fields = serde_json::to_value(&found).map_err(Failure::undecided)?;
            let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let rows: Vec<Vec<String>> =
                fields.as_object().into_iter().flatten().map(|(name, value)| vec![name.clone(), text(value)]).collect();
            print(&table(&["FIELD", "VALUE"], &rows))?;
        }
    }
    Ok(if found.is_signed() { 0 } else { 1 })
}

fn one(tee: &'static str, vcpus: u32, digest: [u8; 48], format: Format) -> Result<i32, Failure> {
    let measurement = hex::encode(digest);
    match format {
        Format::Json => json(&Reference { tee, vcpus, measurement })?,
        Format::Text => print(&format!("{measurement}\n"))?,
    }
    Ok(0)
}

/// What a software TEE will report for a pod of this guest image.
fn software(image: &GuestImage, debug: bool, vcpus: u32) -> Result<[u8; 48], Failure> {
    belljar_launch::predict_software(image, debug, vcpus).map_err(prediction_failure)
}

/// What SNP hardware will report for a pod of this guest image.
fn snp(image: &GuestImage, debug: bool, vcpus: u32) -> Result<[u8; 48], Failure> {
    belljar_launch::predict_snp(image, debug, vcpus).map_err(prediction_failure)
}

/// A prediction that cannot be made, with what to do.
pub fn prediction_failure(error: PredictionError) -> Failure {
    let hint = match &error {
        PredictionError::Tdx => Some("use --tee snp, or --broker with a broker that knows the reference value"),
        PredictionError::NoDigest { .. } | PredictionError::File { .. } => Some("run `belljar guest build`"),
        _ => None,
    };
    let failure = Failure::undecided(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
