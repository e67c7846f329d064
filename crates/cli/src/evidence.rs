//! Evidence in files: recognised, decoded, judged.

pub mod answer;
pub mod collateral;
pub mod credential;
pub mod file;
pub mod judge;
pub mod vector;
