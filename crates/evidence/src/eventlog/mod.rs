//! Event logs of a measured boot: what was extended into which register, in order. A log is a claim of the host's;
//! only its replay to registers that a quote covers makes it true.
//!
//! | item | source |
//! |---|---|
//! | [`Log`] | TCG PC Client Platform Firmware Profile, "Crypto Agile Log" (TCG_PCR_EVENT2, Spec ID Event03) |
//! | CC logs (CCEL) | UEFI 2.10, section 38.4.1: the same format, with measurement registers 1 to 4 for RTMR0 to RTMR3 |
//! | [`acpi_table`] | ACPI 6.5, table CCEL |
//! | words for events | Platform Firmware Profile, "Event Types"; edk2, shim, GRUB, Linux' EFI stub for what they measure |
//! | AAEL | Confidential Containers, attestation agent event log, within EV_EVENT_TAG |

mod parse;
mod replay;
mod words;

pub use parse::{AcpiTable, Event, Log, LogError, MAX_LOG, acpi_table};
pub use replay::{Registers, check_pcrs, check_rtmrs, check_rtmrs_of, replay};
pub use words::{BootChain, Explained, boot_chain, explain};
