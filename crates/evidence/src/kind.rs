//! What kind of evidence some bytes are, from their first ones. Being of a kind says nothing about being well formed.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::bytes::Bytes;
use crate::snp::REPORT_LEN;

/// A kind of evidence, under the names of the Key Broker Service protocol where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An attestation report of AMD SEV-SNP.
    Snp,
    /// A quote of an Intel TDX trust domain.
    Tdx,
    /// A quote of an Intel SGX enclave.
    Sgx,
    /// An SNP report that binds a virtual TPM (Azure), and the TPM's quote.
    AzSnpVtpm,
    /// A TD report that binds a virtual TPM (Azure), and the TPM's quote.
    AzTdxVtpm,
    /// A quote of a TPM 2.0.
    Tpm,
    /// An event log: TCG2 or CC.
    EventLog,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Snp, Self::Tdx, Self::Sgx, Self::AzSnpVtpm, Self::AzTdxVtpm, Self::Tpm, Self::EventLog];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Sgx => "sgx",
            Self::AzSnpVtpm => "az-snp-vtpm",
            Self::AzTdxVtpm => "az-tdx-vtpm",
            Self::Tpm => "tpm",
            Self::EventLog => "event-log",
        }
    }

    /// The kind that the bytes look like; `None` when they look like none.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Self::hcl(bytes)
            .or_else(|| Self::tpm(bytes))
            .or_else(|| Self::log(bytes))
            .or_else(|| Self::quote(bytes))
            .or_else(|| {
                let version = Bytes::new(bytes).u32_le()?;
                (bytes.len() == REPORT_LEN && (2..=5).contains(&version)).then_some(Self::Snp)
            })
    }

    /// Azure's report: `HCLA`, and at 0x4A8 (behind header and hardware report) the type of the hardware report.
    fn hcl(bytes: &[u8]) -> Option<Self> {
        let mut at = Bytes::new(bytes.strip_prefix(b"HCLA")?);
        at.slice(0x4C0 + 8 - 4)?;
        match at.u32_le()? {
            2 => Some(Self::AzSnpVtpm),
            4 => Some(Self::AzTdxVtpm),
            _ => None,
        }
    }

    /// TPMS_ATTEST of a quote: TPM_GENERATED_VALUE and TPM_ST_ATTEST_QUOTE.
    fn tpm(bytes: &[u8]) -> Option<Self> {
        bytes.starts_with(&[0xFF, 0x54, 0x43, 0x47]).then_some(Self::Tpm)
    }

    /// A log begins with an event of type EV_NO_ACTION whose data is a `Spec ID Event03`.
    fn log(bytes: &[u8]) -> Option<Self> {
        let mut at = Bytes::new(bytes);
        at.slice(4)?;
        let kind = at.u32_le()?;
        at.slice(20 + 4)?;
        (kind == 3 && at.slice(16)? == b"Spec ID Event03\0").then_some(Self::EventLog)
    }

    /// A quote: version, key type 2, and what it is of.
    fn quote(bytes: &[u8]) -> Option<Self> {
        let mut at = Bytes::new(bytes);
        let (version, key_type, tee_type) = (at.u16_le()?, at.u16_le()?, at.u32_le()?);
        match (version, key_type, tee_type) {
            (3, 2, _) | (4, 2, 0) => Some(Self::Sgx),
            (4, 2, 0x81) => Some(Self::Tdx),
            (5, 2, _) => {
                at.slice(40)?;
                match at.u16_le()? {
                    1 => Some(Self::Sgx),
                    2..=4 => Some(Self::Tdx),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no kind of evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kind of evidence is named {0:?}: known are snp, tdx, sgx, az-snp-vtpm, az-tdx-vtpm, tpm, event-log")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownKind(name.to_owned()))
    }
}
