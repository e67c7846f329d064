//! Azure's confidential VMs: a virtual TPM whose attestation key the hardware report binds.
//!
//! The paravisor (HCL) writes a hardware report, whose report data is the digest of JSON with the attestation key, into
//! the virtual TPM. So a quote of that TPM is as good as the hardware report, as long as the paravisor is.
//!
//! | item | source |
//! |---|---|
//! | [`HclReport`] | Microsoft, "Guest attestation for confidential VMs", attestation report format |
//! | [`TdReportStruct`] | Intel TDX Module Base Architecture Specification, TDREPORT_STRUCT |

mod hcl;
mod names;
mod verify;

pub use hcl::{HclError, HclReport, TdReportStruct, TeeType};
pub use verify::{Evidence, Facts, Fields, verify_snp, verify_tdx};
