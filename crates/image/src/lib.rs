//! placeholder doc
#![forbid(unsafe_code)]

pub mod convert;
mod erofs;
mod layer;
mod limits;
mod progress;
pub mod tar;
pub mod verity;

pub use convert::sha256_of;
pub use limits::Limits;
pub use layer::LayerError;
