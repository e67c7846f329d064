//! SEV-SNP evidence as JSON, as the public `sev` crate serialises an attestation report (major version 8):
//! `{"attestation_report": {…}, "cert_chain": [{"cert_type": "VCEK", "data": […]}] | null}`.
//!
//! Only form is handled here: bytes to JSON and back, exactly. Nothing is verified; that is `belljar-evidence`.
//! Layout: AMD 56860 (SEV-SNP firmware ABI), table ATTESTATION_REPORT; certificate table: AMD 56421 (GHCB), §4.1.8.1.

mod bytes;
mod report;
mod table;

pub use report::ReportJson;
pub use table::TableError;

use serde::{Deserialize, Serialize};

/// Length of a raw attestation report.
pub const REPORT: usize = 1184;
/// Most certificates of a chain.
pub const MAX_CERTIFICATES: usize = 8;
/// Longest certificate, in bytes.
pub const MAX_CERTIFICATE: usize = 16 * 1024;

/// What a certificate of the chain is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CertType {
    /// Closing entry of the table.
    Empty,
    /// AMD root key.
    ARK,
    /// AMD SEV key, also ASVK.
    ASK,
    /// Key of the chip at its firmware's version.
    VCEK,
    /// Key loaded by a cloud provider.
    VLEK,
    /// Revocation lists.
    CRL,
    /// Any other entry, by its GUID.
    OTHER(String),
}

/// One certificate of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertEntry {
    /// What it is.
    pub cert_type: CertType,
    /// DER (what our guests send) or PEM, as the host gave it.
    pub data: Vec<u8>,
}

/// Evidence of an SNP guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnpEvidence {
    attestation_report: ReportJson,
    cert_chain: Option<Vec<CertEntry>>,
}

/// Why SNP evidence is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnpError {
    /// Not 1184 bytes.
    #[error("attestation report of {0} bytes; expected {REPORT}")]
    Length(usize),
    /// A report version that this format does not describe.
    #[error("attestation report version {0} is not supported; 2 to 5 are")]
    Version(u32),
    /// The processor of a version 3 report or later is unknown, and so is the layout of its TCB versions.
    #[error("processor family {family:#x} model {model:#x} is not known")]
    Processor {
        /// CPUID family.
        family: u8,
        /// CPUID model.
        model: u8,
    },
    /// A version 2 report with a masked chip id does not say which processor made it.
    #[error("the chip id is masked, and a version 2 report has no other sign of its processor")]
    MaskedChipId,
    /// A reserved byte is not zero: the JSON form would lose it, and the signature would not verify.
    #[error("reserved byte at offset {0:#x} is not zero")]
    Reserved(usize),
    /// A member that this report version needs is missing, or one it does not have is there.
    #[error("member {0} does not fit the report version")]
    Member(&'static str),
    /// More than [`MAX_CERTIFICATES`] certificates.
    #[error("chain of {0} certificates is longer than {MAX_CERTIFICATES}")]
    TooManyCertificates(usize),
    /// A certificate that is longer than [`MAX_CERTIFICATE`].
    #[error("certificate of {0} bytes is longer than {MAX_CERTIFICATE}")]
    CertificateTooLong(usize),
    /// The certificate table is malformed.
    #[error("certificate table: {0}")]
    Table(#[from] TableError),
}

impl SnpEvidence {
    /// From the raw report and the raw certificate table (the auxiliary blob of the TSM interface or of the software
    /// TEE), which may be empty.
    pub fn new(report: &[u8], table: &[u8]) -> Result<Self, SnpError> {
        let chain = table::parse(table)?;
        Self::with_chain(report, (!chain.is_empty()).then_some(chain))
    }

    /// From the raw report and certificates.
    pub fn with_chain(report: &[u8], cert_chain: Option<Vec<CertEntry>>) -> Result<Self, SnpError> {
        let evidence = Self { attestation_report: ReportJson::from_bytes(report)?, cert_chain };
        evidence.certificates()?;
        Ok(evidence)
    }

    /// The raw report, exactly as the processor signed it.
    pub fn report_bytes(&self) -> Result<[u8; REPORT], SnpError> {
        self.attestation_report.to_bytes()
    }

    /// The chain, its bounds checked.
    pub fn certificates(&self) -> Result<&[CertEntry], SnpError> {
        let chain = self.cert_chain.as_deref().unwrap_or_default();
        if chain.len() > MAX_CERTIFICATES {
            return Err(SnpError::TooManyCertificates(chain.len()));
        }
        match chain.iter().find(|entry| entry.data.len() > MAX_CERTIFICATE) {
            Some(entry) => Err(SnpError::CertificateTooLong(entry.data.len())),
            None => Ok(chain),
        }
    }

    /// The first certificate of this type.
    pub fn certificate(&self, kind: &CertType) -> Option<&[u8]> {
        self.cert_chain.iter().flatten().find(|entry| entry.cert_type == *kind).map(|entry| entry.data.as_slice())
    }
}
