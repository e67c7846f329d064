//! The attester's side of the TEE: who makes reports about this VM, and what a report says that the guest itself must know.
//!
//! | module | holds |
//! |---|---|
//! | [`tsm`] | reports of real hardware, through the kernel's TSM interface |
//! | [`soft`] | reports of the host's software secure processor, through the tee port |
//! | [`quote`] | the few fields of a TDX quote that the guest compares |

pub mod quote;
pub mod soft;
pub mod tsm;

use std::{io, sync::Arc, time::Duration};

use belljar_evidence::snp;
use belljar_guest_api::{names::TEE_PORT, softport::FrameError};
use belljar_rcar::{Evidence, snp::SnpEvidence, tdx::TdxEvidence, wire};

use crate::{modules::Hardware, mounts, ports};

/// Longest time for one report.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for the tee port to appear.
const PORT_PATIENCE: Duration = Duration::from_millis(200);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TeeError {
    /// Neither a TSM provider nor a tee port.
    #[error("no tee found: the kernel offers no tsm reports and there is no port {TEE_PORT}; start this vm with a tee")]
    NoTee,
    /// A confidential VM whose kernel has no TSM provider. The host could arrange that to be asked in the CPU's place.
    #[error(
        "this is a confidential vm of {0}, but its kernel offers no tsm reports; the software tee is not asked instead"
    )]
    NoTsm(&'static str),
    /// A provider that this agent does not know.
    #[error("tsm provider {0:?} is not supported, expected sev_guest or tdx_guest")]
    Provider(String),
    /// A file of the TSM interface, or the tee port, failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else used the same TSM entry.
    #[error("tsm report changed while it was read: generation {found}, expected {expected}")]
    Generation {
        /// Generation after our request.
        expected: u64,
        /// Generation after reading.
        found: u64,
    },
    /// No answer on the tee port within [`TIME_LIMIT`].
    #[error("the software tee gave no answer within {} s", TIME_LIMIT.as_secs())]
    Timeout,
    /// The tee port sent something else than a response frame.
    #[error("the software tee answered with a malformed frame: {0}")]
    Frame(FrameError),
    /// The software TEE has no report for this VM; its text is untrusted.
    #[error("the software tee refused: {0}")]
    Refused(String),
    /// The report cannot be read.
    #[error("the tee's report is malformed: {0}")]
    Malformed(String),
    /// The report carries other REPORT_DATA than was asked for.
    #[error("the tee's report is not ours: report_data expected {expected}, found {found}")]
    ReportData {
        /// Hex of what was asked for.
        expected: String,
        /// Hex of what the report carries.
        found: String,
    },
}

/// Whose format a report has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// AMD SEV-SNP attestation report; also that of the software TEE.
    Snp,
    /// Intel TDX quote.
    Tdx,
}

impl Format {
    /// The name in the attestation protocol.
    pub fn tee(self) -> wire::Tee {
        match self {
            Self::Snp => wire::Tee::Snp,
            Self::Tdx => wire::Tee::Tdx,
        }
    }
}

/// A report as the TEE gave it. It is parsed, not verified: verifying is the broker's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawReport {
    /// Whose format it has.
    pub format: Format,
    /// The report or quote.
    pub report: Vec<u8>,
    /// Certificate table of the same origin (GHCB 2.x, 4.1.8.1), possibly empty.
    pub aux: Vec<u8>,
}

/// The register that the host fills with the initdata's digest at launch, as a report shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// `host_data` (SNP, 32 bytes) or `mrconfigid` (TDX, 48 bytes).
    pub name: &'static str,
    /// Its value.
    pub value: Vec<u8>,
}

impl RawReport {
    /// Reads the launch register out of the report, after checking that the report carries `report_data`.
    pub fn register(&self, report_data: &[u8; 64]) -> Result<Register, TeeError> {
        let malformed = |error: &dyn std::fmt::Display| TeeError::Malformed(error.to_string());
        let (found, register) = match self.format {
            Format::Snp => {
                let report = snp::Report::parse(&self.report).map_err(|error| malformed(&error))?;
                (report.report_data, Register { name: "host_data", value: report.host_data.to_vec() })
            }
            Format::Tdx => {
                let quote = quote::Quote::parse(&self.report).map_err(|error| malformed(&error))?;
                (quote.report_data, Register { name: "mrconfigid", value: quote.mrconfigid.to_vec() })
            }
        };
        if found != *report_data {
            return Err(TeeError::ReportData { expected: hex::encode(report_data), found: hex::encode(found) });
        }
        Ok(register)
    }

    /// The report as evidence of the attestation protocol.
    pub fn evidence(&self) -> Result<Evidence, TeeError> {
        match self.format {
            Format::Snp => SnpEvidence::new(&self.report, &self.aux)
                .map(Evidence::from)
                .map_err(|error| TeeError::Malformed(error.to_string())),
            Format::Tdx => Ok(TdxEvidence::new(&self.report, None).into()),
        }
    }
}

/// Something that makes reports about this VM. Calls block for up to [`TIME_LIMIT`].
pub trait Attester: Send + Sync + std::fmt::Debug {
    /// Whose format its reports have.
    fn format(&self) -> Format;

    /// A fresh report that carries `report_data`.
    fn report(&self, report_data: &[u8; 64]) -> Result<RawReport, TeeError>;
}

/// Finds the TEE of this VM: in a confidential VM the hardware through the kernel's TSM provider and nothing else, elsewhere
/// the software TEE when the host gave a tee port, and otherwise none, which is an error and never a reason to go on.
///
/// A confidential VM never asks the software TEE: its report would carry a HOST_DATA of the host's choice, the guest would
/// take the host's contract for the measured one, and a container of that contract could ask the hardware for a report
/// in which everything is genuine.
pub fn find(hardware: Option<Hardware>) -> Result<Arc<dyn Attester>, TeeError> {
    choose(hardware, hardware_reports, || {
        let device = ports::serial_port(TEE_PORT, PORT_PATIENCE).ok_or(TeeError::NoTee)?;
        Ok(Arc::new(soft::SoftPort::open(&device)?))
    })
}

fn hardware_reports() -> Result<Option<Arc<dyn Attester>>, TeeError> {
    mounts::configfs().map_err(|error| TeeError::Io { what: "mount configfs", source: error.source })?;
    Ok(tsm::Tsm::open()?.map(|tsm| -> Arc<dyn Attester> { Arc::new(tsm) }))
}

fn choose(
    hardware: Option<Hardware>,
    tsm: impl FnOnce() -> Result<Option<Arc<dyn Attester>>, TeeError>,
    software: impl FnOnce() -> Result<Arc<dyn Attester>, TeeError>,
) -> Result<Arc<dyn Attester>, TeeError> {
    match hardware {
        Some(hardware) => tsm()?.ok_or(TeeError::NoTsm(hardware.name())),
        None => software(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An SNP report, version 3, with the given REPORT_DATA (offset 0x50) and HOST_DATA (offset 0xC0).
    fn snp_report(report_data: u8, host_data: u8) -> RawReport {
        let mut report = vec![0; 1184];
        report[0] = 3;
        report[0x50..0x90].fill(report_data);
        report[0xC0..0xE0].fill(host_data);
        RawReport { format: Format::Snp, report, aux: Vec::new() }
    }

    #[test]
    fn the_register_of_an_snp_report_is_host_data() {
        let register = snp_report(7, 9).register(&[7; 64]).unwrap();
        assert_eq!(register, Register { name: "host_data", value: vec![9; 32] });
        let other = snp_report(8, 9).register(&[7; 64]).unwrap_err();
        assert!(matches!(other, TeeError::ReportData { found, .. } if found == "08".repeat(64)));
    }

    #[derive(Debug)]
    struct Fixed(Format);

    impl Attester for Fixed {
        fn format(&self) -> Format {
            self.0
        }

        fn report(&self, _: &[u8; 64]) -> Result<RawReport, TeeError> {
            Err(TeeError::NoTee)
        }
    }

    #[test]
    fn a_confidential_vm_never_asks_the_software_tee() {
        let software = || Ok(Arc::new(Fixed(Format::Snp)) as Arc<dyn Attester>);
        let tsm = || Ok(Some(Arc::new(Fixed(Format::Tdx)) as Arc<dyn Attester>));
        let format = |found: Result<Arc<dyn Attester>, TeeError>| found.map(|attester| attester.format());
        for hardware in [Hardware::Snp, Hardware::Tdx] {
            assert!(matches!(choose(Some(hardware), || Ok(None), software), Err(TeeError::NoTsm(_))));
            let failing = || Err(TeeError::Provider("other".into()));
            assert!(matches!(choose(Some(hardware), failing, software), Err(TeeError::Provider(_))));
            assert_eq!(format(choose(Some(hardware), tsm, software)).unwrap(), Format::Tdx);
        }
        // The twin: a VM of no hardware asks the software TEE, and it alone.
        assert_eq!(format(choose(None, tsm, software)).unwrap(), Format::Snp);
    }

    #[test]
    fn a_report_of_another_length_is_malformed() {
        let mut report = snp_report(7, 9);
        report.report.pop();
        assert!(matches!(report.register(&[7; 64]), Err(TeeError::Malformed(_))));
    }
}
