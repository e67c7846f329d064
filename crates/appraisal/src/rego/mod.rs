//! Policies in Rego: compiled once, kept by the SHA-256 of their text, and evaluated within bounds.
//!
//! Policies run in the interpreter of `regorus`. What a policy can reach is what it is given: there is no `http.send`, no
//! file, no environment, no random number; `time.now_ns` is the time of the appraisal, so that the same policy with the
//! same claims always comes to the same end. A policy in which a rule needs itself is refused when it is compiled
//! (`shape`); builtins whose result can be far longer than what goes in are bounded (`bounded`); time is limited. Every
//! error is a refusal.
//!
//! | form | package `policy` has | input | data |
//! |---|---|---|---|
//! | attestation | `trust_claims`, or `result`, or single rules `executables`, `hardware`, … ; `extensions` | the claims | `reference`, `sets`, `settings` |
//! | resource | `allow` | the token's claims, and `trust_context` | `plugin`, `resource-path`, `query` |
//!
//! `query_reference_value(name)` gives a reference value that holds, or null.

mod attestation;
mod bounded;
mod cache;
mod machine;
mod resource;
mod shape;

pub use attestation::{Appraised, AttestationPolicy};
pub use cache::Policies;
pub use machine::{Limits, Lookup};
pub use resource::{ResourcePolicy, ResourceRequest, token_input};

/// SHA-256 of a policy's text.
pub type PolicyHash = [u8; 32];

/// Why a policy is refused, or gives no answer. Nothing is affirmed and nothing released then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegoError {
    /// Longer than the limit.
    #[error("policy of {found} bytes is longer than {limit}")]
    Length {
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// It cannot be parsed or compiled.
    #[error("policy cannot be compiled: {0}")]
    Compile(String),
    /// Not `package policy`.
    #[error("policy has the package {0:?}; write `package policy`")]
    Package(String),
    /// It defines nothing that would be asked.
    #[error("policy defines none of {0}: nothing in it would be asked")]
    NoRule(&'static str),
    /// It ran too long.
    #[error("policy was stopped after {0} milliseconds: it asks for too much")]
    Time(u128),
    /// A builtin with a result that is too long, or that is not offered.
    #[error("policy calls {name}, which {why}")]
    Builtin {
        /// Name of the builtin.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The evaluation failed.
    #[error("policy cannot be evaluated: {0}")]
    Evaluate(String),
    /// A result of another form.
    #[error("policy gives {rule} as {found}; expected {expected}")]
    Result {
        /// The rule.
        rule: String,
        /// What it gave.
        found: String,
        /// What it has to give.
        expected: &'static str,
    },
}

/// Compiles arbitrary text, and evaluates what compiles; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let limits = Limits::default();
    if let Ok(policy) = AttestationPolicy::compile(text, limits) {
        let value = serde_json::json!({ "snp": { "measurement": "aa" }, "belljar": { "authentic": true, "session_bound": true } });
        if let Ok(claims) = crate::Claims::from_json("cpu", "snp", value) {
            let _ = policy.appraise(&claims, &Default::default(), &Default::default(), 0);
        }
    }
    if let Ok(policy) = ResourcePolicy::compile(text, limits) {
        let path = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let request = ResourceRequest { plugin: "resource", path: &path, query: &Default::default() };
        let _ = policy.allows(&serde_json::json!({ "submods": {} }), &request, &Default::default(), 0);
    }
}
