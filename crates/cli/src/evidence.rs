//! Evidence in files: recognised, decoded, judged.

pub mod answer;
pub mod collateral;
pub mod file;
pub mod input;
pub mod judge;
pub mod vector;
pub mod wrapped_tpm;
