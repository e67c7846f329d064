//! What is wrong with a manifest: each problem with its object, the full path of its field, and what to do.

use std::fmt;

use belljar_contract::ContractError;

use crate::yaml::YamlError;

/// Most problems that one run tells.
pub const MAX_PROBLEMS: usize = 200;

/// Why there is no contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KubeError {
    /// The text is not read.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// The manifest asks for what a pod VM does not do, or is wrong.
    #[error("{} problem{} in the manifest", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Problems(Vec<Problem>),
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field's line in the file, from 1 on; 0: unknown.
    pub line: usize,
    /// Kind and name of its object: `Deployment web`.
    pub object: String,
    /// Full path of the field in it.
    pub path: String,
    /// What is wrong.
    pub reason: Reason,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        write!(f, "{}: {} {}", self.object, self.path, self.reason)
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Belljar does not do this.
    #[error("is not honoured: {0}")]
    NotHonoured(String),
    /// A field that nobody here knows.
    #[error("is not honoured: this Belljar does not know such a field; remove it")]
    Unknown,
    /// Another type.
    #[error("is a {found}, expected a {expected}")]
    WrongType {
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// Must be there.
    #[error("is missing: {0}")]
    Missing(String),
    /// Not of the form that it must have.
    #[error("is {found:?}, expected {expected}")]
    Malformed {
        /// The form.
        expected: String,
        /// What is there, cut.
        found: String,
    },
    /// Needs something that is not there.
    #[error("{0}")]
    Needs(String),
    /// The image cannot be had.
    #[error("names an image that cannot be had: {0}")]
    Image(String),
    /// The contract that follows from it is refused.
    #[error("gives no valid contract: {0}")]
    Contract(#[from] ContractError),
}

/// Untrusted text, cut for a message.
pub(crate) fn cut(text: &str) -> String {
    const LIMIT: usize = 80;
    let mut out: String = text.chars().take(LIMIT).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}
