//! What the end-to-end tests, the demo and the benchmark share: the built programs, a work place that is removed again,
//! the example image, and the attacks of a hostile host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

pub mod attack;
pub mod images;
pub mod programs;
pub mod workplace;
