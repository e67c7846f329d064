//! One run of a pod, as a page that a security officer reads.
//!
//! [`render`] turns a [`Page`] into one self-contained HTML document: no script, no request to anywhere (its own
//! Content-Security-Policy forbids both), readable on paper, in light and in dark. It holds what was predicted and what
//! was measured side by side, the certificate chain, every check, the contract, each policy decision, and the times.
//!
//! Two things are not left to the caller. Whether a measurement matches its prediction is computed here, from the two
//! values that are shown. And a run in a software TEE is labelled as one in the largest letters of the page.
//! Every string is escaped; characters that could make a text look like another (control characters, changes of the
//! writing direction) are shown by their number.

#![forbid(unsafe_code)]

mod html;
mod page;
mod render;

pub use page::{
    Attack, Certificate, Check, Contract, Decision, Fact, Input, Measured, Outcome, Page, Phase, SOFTWARE_WARNING, Tee,
    Verdict,
};
pub use render::render;
