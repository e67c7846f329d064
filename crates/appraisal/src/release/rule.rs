//! Declarative rules, in TOML or JSON.

use std::collections::BTreeSet;

use belljar_rcar::ear::Status;
use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use crate::reference::is_name;
use crate::text;

/// Longest text of a rule set, in bytes.
pub const MAX_RULES_TEXT: usize = 1024 * 1024;
/// Most rules of a set.
pub const MAX_RULES: usize = 1024;
/// Most entries of one list in a rule.
const MAX_LIST: usize = 256;

/// Whom a resource is for. All that is named must hold; of a list, one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Names the rule in answers, once in a set.
    pub id: String,
    /// The resources.
    pub resource: Pattern,
    /// Digests of init-data documents, lowercase hex of 32 to 64 bytes, as the hardware carries them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contract: Vec<String>,
    /// Keys that sign contracts, by their fingerprints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signer: Vec<String>,
    /// Measurement sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measurement_set: Vec<String>,
    /// Namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace: Vec<String>,
    /// TEEs, as evidence names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tee: Vec<String>,
    /// Least tier of the appraisal.
    #[serde(default = "affirming")]
    pub status: Status,
    /// Says that any contract will do: needed where neither a contract nor a signer is named.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_contract: bool,
    /// Who can change the rule; a denial names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

fn affirming() -> Status {
    Status::Affirming
}

fn is_affirming(status: &Status) -> bool {
    *status == Status::Affirming
}

/// The rules of one scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSet {
    /// Which resources the set decides about.
    pub scope: Pattern,
    /// Its rules.
    #[serde(default, rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Least tier of the appraisal for which the set's Rego policy is asked, where it has one.
    #[serde(default = "affirming", skip_serializing_if = "is_affirming")]
    pub rego_status: Status,
}

/// Why rules are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Longer than [`MAX_RULES_TEXT`].
    #[error("rules of {0} bytes are longer than {MAX_RULES_TEXT}: split them by scope")]
    Length(usize),
    /// Not TOML (or JSON) of rules.
    #[error("rules cannot be read: {0}")]
    Form(String),
    /// Too many.
    #[error("set {scope} has {found} rules, more than {MAX_RULES}: split it by scope")]
    TooMany {
        /// The scope.
        scope: String,
        /// How many rules.
        found: usize,
    },
    /// Two rules of one id.
    #[error("rule {0:?} is there twice: each answer names one rule")]
    Twice(String),
    /// A pattern that the scope does not cover.
    #[error("rule {id:?} is for {resource}, which the scope {scope} does not cover: it would never be asked")]
    OutOfScope {
        /// The rule.
        id: String,
        /// Its resources.
        resource: String,
        /// The scope.
        scope: String,
    },
    /// Nothing says whose workload it is for.
    #[error(
        "rule {0:?} names neither a contract nor a signer, so that anybody can write a contract for it: \
         name one, or say any_contract = true"
    )]
    NoIdentity(String),
    /// `any_contract` beside a contract or a signer.
    #[error("rule {0:?} says any_contract = true and names a contract or a signer: say one of them")]
    Contradiction(String),
    /// Any contract in any guest.
    #[error("rule {0:?} takes any contract and names no measurement set: it would take any guest")]
    Anybody(String),
    /// A tier that says nothing or the worst.
    #[error("rule {0:?} takes the status none: affirming, warning and contraindicated can be taken")]
    Status(String),
    /// The same of a set's Rego policy.
    #[error("set {0} has the rego_status none: affirming, warning and contraindicated can be taken")]
    RegoStatus(String),
    /// An entry that could never match.
    #[error("rule {id:?} has {found:?} in {list}, which is {expected}")]
    Entry {
        /// The rule.
        id: String,
        /// The list.
        list: &'static str,
        /// The entry.
        found: String,
        /// What it is not.
        expected: &'static str,
    },
    /// A list that is too long.
    #[error("rule {id:?} has {found} entries in {list}, more than {MAX_LIST}")]
    List {
        /// The rule.
        id: String,
        /// The list.
        list: &'static str,
        /// How many entries.
        found: usize,
    },
    /// Two sets of one scope.
    #[error("scope {0} is there twice: which set decides would be chance")]
    ScopeTwice(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    set: Vec<RuleSet>,
}

/// Reads sets of rules: TOML of `[[set]]` with `scope`, each with `[[set.rule]]`.
///
/// # Errors
/// Any [`RuleError`].
pub fn parse(document: &str) -> Result<Vec<RuleSet>, RuleError> {
    if document.len() > MAX_RULES_TEXT {
        return Err(RuleError::Length(document.len()));
    }
    let Document { set } =
        toml::from_str(document).map_err(|error| RuleError::Form(text::clean(error.message(), 160)))?;
    set.iter().try_for_each(RuleSet::check)?;
    Ok(set)
}

impl RuleSet {
    /// Checks that every rule can be asked, and says whom it is for.
    ///
    /// # Errors
    /// Any [`RuleError`] of rules.
    pub fn check(&self) -> Result<(), RuleError> {
        if self.rego_status == Status::None {
            return Err(RuleError::RegoStatus(self.scope.to_string()));
        }
        if self.rules.len() > MAX_RULES {
            return Err(RuleError::TooMany { scope: self.scope.to_string(), found: self.rules.len() });
        }
        let mut ids = BTreeSet::new();
        for rule in &self.rules {
            rule.check()?;
            if !ids.insert(&rule.id) {
                return Err(RuleError::Twice(rule.id.clone()));
            }
            if !self.scope.contains(&rule.resource) {
                return Err(RuleError::OutOfScope {
                    id: rule.id.clone(),
                    resource: rule.resource.to_string(),
                    scope: self.scope.to_string(),
                });
            }
        }
        Ok(())
    }
}

impl Rule {
    fn check(&self) -> Result<(), RuleError> {
        const NAME: &str = "no name of 1 to 128 printable bytes";
        const DIGEST: &str = "no digest of 32 to 64 bytes in lowercase hex";
        let id = || text::clean(&self.id, 80);
        let entry =
            |list, found: &str, expected| RuleError::Entry { id: id(), list, found: text::clean(found, 80), expected };
        if !is_name(&self.id) {
            return Err(entry("id", &self.id, NAME));
        }
        if let Some(owner) = self.owner.as_ref().filter(|owner| !is_name(owner)) {
            return Err(entry("owner", owner, NAME));
        }
        let lists = [
            ("contract", &self.contract),
            ("signer", &self.signer),
            ("measurement_set", &self.measurement_set),
            ("namespace", &self.namespace),
            ("tee", &self.tee),
        ];
        for (list, entries) in lists {
            if entries.len() > MAX_LIST {
                return Err(RuleError::List { id: id(), list, found: entries.len() });
            }
            let (holds, expected): (fn(&str) -> bool, _) =
                if list == "contract" { (is_digest, DIGEST) } else { (is_name, NAME) };
            if let Some(bad) = entries.iter().find(|entry| !holds(entry)) {
                return Err(entry(list, bad, expected));
            }
        }
        let identity = !self.contract.is_empty() || !self.signer.is_empty();
        match (identity, self.any_contract) {
            (false, false) => Err(RuleError::NoIdentity(id())),
            (true, true) => Err(RuleError::Contradiction(id())),
            (false, true) if self.measurement_set.is_empty() => Err(RuleError::Anybody(id())),
            _ if self.status == Status::None => Err(RuleError::Status(id())),
            _ => Ok(()),
        }
    }
}

fn is_digest(text: &str) -> bool {
    matches!(text.len(), 64 | 96 | 128) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads arbitrary bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = parse(text);
        let _ = (text.parse::<Pattern>(), text.parse::<super::Path>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(rule: &str) -> String {
        format!("[[set]]\nscope = \"default/key/*\"\n[[set.rule]]\nid = \"a\"\nresource = \"default/key/1\"\n{rule}\n")
    }

    #[test]
    fn a_rule_is_read_with_closed_defaults() {
        let contract = "0a".repeat(32);
        let sets = parse(&set(&format!("contract = [\"{contract}\"]"))).unwrap();
        let rule = &sets[0].rules[0];
        assert_eq!(
            (rule.status, rule.any_contract, rule.contract.as_slice()),
            (Status::Affirming, false, &[contract][..])
        );
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn each_fault_of_a_rule_has_its_error() {
        let refused = |rule: &str| parse(&set(rule)).unwrap_err();
        let signer = "signer = [\"k\"]";
        assert!(parse(&set(signer)).is_ok());
        assert_eq!(refused(""), RuleError::NoIdentity("a".into()));
        assert_eq!(refused("namespace = [\"n\"]"), RuleError::NoIdentity("a".into()));
        assert_eq!(refused("measurement_set = [\"m\"]"), RuleError::NoIdentity("a".into()));
        assert!(parse(&set("measurement_set = [\"m\"]\nany_contract = true")).is_ok());
        assert_eq!(refused("any_contract = true"), RuleError::Anybody("a".into()));
        assert_eq!(refused(&format!("{signer}\nany_contract = true")), RuleError::Contradiction("a".into()));
        assert_eq!(refused(&format!("{signer}\nstatus = \"none\"")), RuleError::Status("a".into()));
        let entry =
            |list, found: &str, expected| RuleError::Entry { id: "a".into(), list, found: found.into(), expected };
        for bad in ["0A".repeat(32), "0a".repeat(31), "0a".repeat(65)] {
            let expected = entry("contract", &text::clean(&bad, 80), "no digest of 32 to 64 bytes in lowercase hex");
            assert_eq!(refused(&format!("contract = [\"{bad}\"]")), expected, "{bad}");
        }
        assert_eq!(refused("signer = [\"\"]"), entry("signer", "", "no name of 1 to 128 printable bytes"));
        assert!(matches!(refused(&format!("{signer}\nmore = 1")), RuleError::Form(_)));
        let other = format!("{}[[set.rule]]\nid = \"a\"\nresource = \"default/key/2\"\n{signer}\n", set(signer));
        assert_eq!(parse(&other), Err(RuleError::Twice("a".into())));
        let outside =
            other.replace("id = \"a\"\nresource = \"default/key/2\"", "id = \"b\"\nresource = \"default/*/1\"");
        let error =
            RuleError::OutOfScope { id: "b".into(), resource: "default/*/1".into(), scope: "default/key/*".into() };
        assert_eq!(parse(&outside), Err(error));
        let none = RuleError::RegoStatus("default/key/*".into());
        assert_eq!(parse("[[set]]\nscope = \"default/key/*\"\nrego_status = \"none\"\n"), Err(none));
        let long = vec!["\"k\""; 257].join(",");
        let error = RuleError::List { id: "a".into(), list: "signer", found: 257 };
        assert_eq!(refused(&format!("signer = [{long}]")), error);
    }
}
