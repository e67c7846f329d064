//! The software secure processor: evidence in the exact format of AMD SEV-SNP, without the protection.
//!
//! It measures what a QEMU process was really given ([`Launch::of_process`]) and signs SNP attestation reports about it
//! ([`Launch::report`]) with keys that are made once per user ([`Keys`]). Parsers, verifier, broker and agent cannot
//! tell such evidence from that of hardware but for its root, which nobody trusts unless told to. **It protects nothing
//! from the host it runs on**: the host holds the keys, and can read and write the guest's memory.
//!
//! The launch digest, what is measured and what is not stand in `docs/software-tee.md`.
#![forbid(unsafe_code)]

mod certificates;
mod keys;
mod launch;
mod process;
mod qemu;
mod report;

pub use keys::{Keys, KeysError};
pub use launch::{Launch, LaunchError, SignError};
pub use qemu::{CommandLine, QemuError};
