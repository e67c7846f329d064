//! Intel's shape: root, PCK authority, PCK, TCB signer, lists, TCB info, QE identity, and quotes of TDX and SGX.

mod cert;
mod documents;
mod quote;
mod world;

pub use cert::{Algorithm, Cert, List, extension};
pub use documents::{Document, qe_identity, sgx_tcb_info, tdx_tcb_info};
pub use quote::{EnclaveShape, QuoteShape, TdShape};
pub use world::{Keys, Made, Sgx, World};
