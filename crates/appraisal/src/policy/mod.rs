//! The default policy: affirming only when every reference value of a measurement set matches, the TCB is one that is
//! taken, nobody outside can read or move the guest, and the evidence ends in the vendor's root.
//!
//! The rules are code; `default.rego` beside this file is the same policy in Rego, and a property test holds them
//! together. The rules, in order, and what each puts into the AR4SI vector when it does not hold:
//!
//! | rule | claim | holds when | vector |
//! |---|---|---|---|
//! | `evidence` | `belljar.authentic` | the verification found the evidence authentic; else nothing more is looked at | hardware 99 |
//! | `session` | `belljar.session_bound` | report data bind the evidence to this session's nonce and key | instance-identity 99 |
//! | `root` | `belljar.root` | it is the vendor's, or a software TEE is allowed | hardware 97; software 96 in any case |
//! | `revocation` | `belljar.revocation_checked` | a revocation list was looked into, or need not be | hardware 32 |
//! | `tcb` | `belljar.tcb` | Intel's status is in the ladder; an SNP platform's reported and committed TCB reach the line's floor | hardware 32; 96 for a revoked or unsupported one |
//! | `tcb-eval-number` | `belljar.tcb.eval_number` | it is not below the least one, where there is one | hardware 32 |
//! | `advisories` | `belljar.tcb.advisories` | only named ones are open, where any are named | hardware 32 |
//! | `freshness` | `belljar.freshness` | Intel's collateral is on a rung that is taken | hardware 32 |
//! | `measurement` | one finding for each claim | one measurement set agrees with all claims that it has values for, and has those that it must have | executables 33, else 3 |
//! | `debug` | `belljar.debug` | false | configuration 96; 36 where there is no such claim |
//! | `migration` | `belljar.migratable` | false | configuration 96; 36 where there is no such claim |
//! | `flags` | `belljar.flags` | nothing else than what is allowed | configuration 36 |
//! | `init-data` | `belljar.contract` | the hardware carries the digest of the document that was sent, or none need be sent | configuration 96; 36 when none was sent |
//!
//! Of a software TEE `revocation`, `tcb` and the rules between `tcb` and `measurement` are not asked: nothing of them is true
//! there. Vectors are AR4SI's (draft-ietf-rats-ar4si §2.3.4).

mod rules;
mod settings;

pub use settings::{Rung, Settings, SnpFloor};

use belljar_rcar::ear::{Status, TrustVector};

use crate::reference::References;
use crate::{Claims, Finding};

/// Name of the default policy, as tokens have it.
pub const DEFAULT: &str = "default";
/// The same policy in Rego.
pub const DEFAULT_REGO: &str = include_str!("default.rego");

/// What a policy came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// AR4SI claims.
    pub vector: TrustVector,
    /// Every rule in order.
    pub findings: Vec<Finding>,
    /// Measurement sets that the evidence agrees with, in the order of their names.
    pub sets: Vec<String>,
}

impl Judgement {
    /// Worst tier of the vector.
    pub fn status(&self) -> Status {
        self.vector.status()
    }

    /// Whether every rule holds. A software TEE that is allowed is admitted, and contraindicated all the same.
    pub fn is_admitted(&self) -> bool {
        !self.findings.is_empty() && self.findings.iter().all(|finding| finding.passed)
    }

    /// The first rule that does not hold.
    pub fn first_failure(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| !finding.passed)
    }
}

/// Judges claims by the default policy, at a time in seconds since 1970.
pub fn judge(claims: &Claims, references: &References, settings: &Settings, at: u64) -> Judgement {
    rules::Rules::new(claims, references, settings, at).judge()
}

/// The rules that no other policy can change: `evidence`, `session` and `root`. Where one of the first two does not hold,
/// the vector says so and nothing else needs to be asked; of a software TEE it has 96 for the hardware.
pub(crate) fn guard(claims: &Claims, settings: &Settings) -> Judgement {
    rules::Rules::new(claims, &References::default(), settings, 0).guard()
}

/// Measurement sets that the claims agree with, for rules of release; none for evidence that is not authentic.
pub fn agreeing_sets(claims: &Claims, references: &References, at: u64) -> Vec<String> {
    if claims.is_authentic() { rules::agreeing_sets(claims, references, at) } else { Vec::new() }
}

/// Measurement sets as Rego policies have them in `data.sets`: by set and name, the values that hold at a time.
pub(crate) fn sets_data(references: &References, at: u64) -> serde_json::Value {
    let set = |values: &mut dyn Iterator<Item = &crate::reference::ReferenceValue>| {
        let mut named: serde_json::Map<String, serde_json::Value> = serde_json::Map::new();
        for value in values {
            let list = named.entry(value.name.clone()).or_insert_with(|| serde_json::json!([]));
            if let (serde_json::Value::Array(list), true) = (list, value.holds_at(at)) {
                list.extend(value.scalars().iter().cloned());
            }
        }
        serde_json::Value::Object(named)
    };
    references
        .sets()
        .map(|(name, mut values)| (name.to_owned(), set(&mut values)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
