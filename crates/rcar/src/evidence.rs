//! Evidence of any TEE, on its way to the broker.

use crate::{snp::SnpEvidence, tdx::TdxEvidence, wire::Tee};
use serde::Serialize;

/// Evidence of the CPU's TEE; serialises to the member `primary_evidence`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Evidence {
    /// AMD SEV-SNP, and the software TEE, which speaks its format.
    Snp(Box<SnpEvidence>),
    /// Intel TDX.
    Tdx(TdxEvidence),
}

impl Evidence {
    /// The TEE's name in the protocol.
    pub fn tee(&self) -> Tee {
        match self {
            Self::Snp(_) => Tee::Snp,
            Self::Tdx(_) => Tee::Tdx,
        }
    }
}

impl From<SnpEvidence> for Evidence {
    fn from(evidence: SnpEvidence) -> Self {
        Self::Snp(Box::new(evidence))
    }
}

impl From<TdxEvidence> for Evidence {
    fn from(evidence: TdxEvidence) -> Self {
        Self::Tdx(evidence)
    }
}
