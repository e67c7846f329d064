//! AMD SEV-SNP: attestation reports, their certificates, and whether both are authentic.
//!
//! | item | source |
//! |---|---|
//! | [`Report`] | SEV Secure Nested Paging Firmware ABI Specification (AMD 56860), table ATTESTATION_REPORT |
//! | [`Tcb`] | the same, TCB_VERSION, in the layout of Milan and Genoa and in the layout of Turin |
//! | [`Vek`] | Versioned Chip Endorsement Key Certificate and KDS Interface Specification (AMD 57230) |
//! | [`Crl`] | the same: the revocation list of a product line |
//! | [`IdBlock`], [`IdAuth`] | AMD 56860, SNP_LAUNCH_FINISH |
//! | [`CertTable`] | SEV-ES Guest-Hypervisor Communication Block Standardization (AMD 56421), SNP Extended Guest Request |

mod anchors;
mod cert;
mod cert_table;
mod crl;
mod id_block;
mod report;
mod verify;

pub use anchors::{Anchors, builtin};
pub use cert::{CertError, Certificate, Vek, VekKind};
pub use cert_table::{CertKind, CertTable, CertTableError};
pub use crl::Crl;
pub use id_block::{ID_AUTH_LEN, ID_BLOCK_LEN, IdAuth, IdBlock, IdBlockError, check_id_block};
pub use report::{
    Cpuid, FirmwareVersion, Layout, Policy, REPORT_LEN, Report, ReportError, SIGNED_LEN, SigningKey, Tcb,
};
pub use verify::{Chain, Facts, Verifier, verify};

pub use crate::anchors::Root;
pub use crate::strictness::{Freshness, Missing, Options};
