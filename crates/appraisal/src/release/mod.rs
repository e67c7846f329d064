//! Release: which workload gets which resource. Nothing is released unless a rule says so.
//!
//! A tenant has *sets of rules*, each for a *scope*: a pattern of resource paths. Of the sets whose scope covers a path, the
//! most specific one decides, alone: its rules, and its Rego policy where it has one. Where no scope covers the path, or
//! no rule of that set holds, the answer is no.
//!
//! - A pattern is `repository/type/tag`; a segment is a name or `*`, which stands for exactly one segment. There is no
//!   other wildcard, and no pattern of another number of segments.
//! - The more specific of two patterns is the one that has a name where the other one first has `*`, from the left:
//!   `a/b/*` is more specific than `a/*/c`. Two sets of one scope are an error.
//! - A set's Rego policy is asked when no rule allows, and only about a workload whose appraisal has the tier that the set
//!   takes for it: affirming, unless `rego_status` says otherwise.
//! - Within a set, rules only ever allow: one more rule never takes a resource away.
//! - A rule names whom it is for: a contract's digest, the key that signed the contract, a measurement set, a namespace,
//!   TEEs. All that it names must hold. Namespace and measurement set alone are no identity, as anybody can write a
//!   contract for them: such a rule is refused, unless it says `any_contract = true`.

mod decide;
mod pattern;
mod rule;

pub use decide::{Decision, Identity, Policies, Request, ScopedRules};
pub use pattern::{Path, Pattern, PatternError};
pub use rule::{MAX_RULES, MAX_RULES_TEXT, Rule, RuleError, RuleSet, fuzz, parse};
