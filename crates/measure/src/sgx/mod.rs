//! What an SGX enclave will report of itself: its measurement and its signer, out of files.
//!
//! | item | source |
//! |---|---|
//! | [`Sigstruct`] | Intel SDM volume 3D, table "Layout of Enclave Signature Structure (SIGSTRUCT)"; EINIT |
//! | [`enclave_hash`] | the same, ECREATE, EADD, EEXTEND; the SGXS format of Fortanix' EDP |
//! | enclaves in ELF | Intel SGX SDK, section `.note.sgxmeta` |

mod sgxs;
mod sigstruct;
mod wide;

pub use sgxs::{SgxsError, enclave_hash};
pub use sigstruct::{MAX_ENCLAVE, SIGSTRUCT_LEN, Sigstruct, SigstructError, find_sigstruct, fuzz};
