//! Attestation policies in upstream's form.

use belljar_rcar::ear::{Status, TrustVector};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::machine::{Compiled, Limits, Lookup};
use super::{PolicyHash, RegoError, cache};
use crate::policy::{self, Judgement, Settings};
use crate::reference::References;
use crate::text::shown;
use crate::{Claims, Finding, Owner};

/// Names of AR4SI claims as rules of their own have them, and as `trust_claims` has them.
const CLAIMS: [(&str, &str); 8] = [
    ("instance_identity", "instance-identity"),
    ("configuration", "configuration"),
    ("executables", "executables"),
    ("file_system", "file-system"),
    ("hardware", "hardware"),
    ("runtime_opaque", "runtime-opaque"),
    ("storage_opaque", "storage-opaque"),
    ("sourced_data", "sourced-data"),
];
/// What is asked for: one object of all claims under its newer or its older name, else each claim; extensions.
const TRUST_CLAIMS: &str = "trust_claims";
const RESULT: &str = "result";
const EXTENSIONS: &str = "extensions";
const IDENTIFIERS: &str = "ear.trustee.identifiers";
const WANTED: &str = "trust_claims, result, executables, hardware, configuration and the other claims of AR4SI";

/// A compiled attestation policy.
#[derive(Debug)]
pub struct AttestationPolicy {
    hash: PolicyHash,
    compiled: Compiled,
    needs_data: bool,
}

/// What a policy made of claims.
#[derive(Debug, Clone, PartialEq)]
pub struct Appraised {
    /// Vector, findings and measurement sets.
    pub judgement: Judgement,
    /// `ear.trustee.identifiers`, as the policy's `extensions` give it.
    pub identifiers: Option<Value>,
    /// Reference values that the policy asked for.
    pub lookups: Vec<Lookup>,
}

impl AttestationPolicy {
    /// Compiles a policy.
    ///
    /// # Errors
    /// [`RegoError::Length`], [`RegoError::Compile`], [`RegoError::Package`] or [`RegoError::NoRule`].
    pub fn compile(text: &str, limits: Limits) -> Result<Self, RegoError> {
        let mut candidates = vec![TRUST_CLAIMS, RESULT, EXTENSIONS];
        candidates.extend(CLAIMS.iter().map(|(rule, _)| *rule));
        let compiled = Compiled::new(text, &candidates, limits)?;
        if !compiled.rules.iter().any(|rule| *rule != EXTENSIONS) {
            return Err(RegoError::NoRule(WANTED));
        }
        // A word in a comment counts, too: it only costs time.
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        let needs_data = words.into_iter().any(|word| word == "data");
        Ok(Self { hash: cache::hash(text), compiled, needs_data })
    }

    /// SHA-256 of the text.
    pub fn hash(&self) -> &PolicyHash {
        &self.hash
    }

    /// Appraises claims at a time in seconds since 1970.
    ///
    /// Three things are not the policy's to decide. Evidence that is not authentic, or not bound to this session, is
    /// contraindicated before the policy is asked; a software TEE is contraindicated whatever it says, and is admitted
    /// only where the settings allow it. Measurement sets are those of the default policy.
    ///
    /// # Errors
    /// Any [`RegoError`] of evaluating.
    pub fn appraise(
        &self,
        claims: &Claims,
        references: &Arc<References>,
        settings: &Settings,
        at: u64,
    ) -> Result<Appraised, RegoError> {
        let mut judgement = policy::guard(claims, settings);
        if judgement.findings.iter().any(|finding| !finding.passed && finding.rule != "root") {
            return Ok(Appraised { judgement, identifiers: None, lookups: Vec::new() });
        }
        let data = match self.needs_data {
            true => Some(json!({
                "reference": references.all(at),
                "sets": policy::sets_data(references, at),
                "settings": settings,
            })),
            false => None,
        };
        let mut run = self.compiled.run(claims.value(), data.as_ref(), references, at)?;
        let mut vector = TrustVector::default();
        let all = if self.has(TRUST_CLAIMS) { Some(TRUST_CLAIMS) } else { self.has(RESULT).then_some(RESULT) };
        let mut given = Map::new();
        match all {
            Some(rule) => match run.rule(rule)? {
                Some(Value::Object(object)) => given = object,
                other => return Err(result(rule, other.as_ref(), "an object of ar4si claims")),
            },
            None => {
                for (rule, name) in CLAIMS.iter().filter(|(rule, _)| self.has(rule)) {
                    if let Some(value) = run.rule(rule)? {
                        given.insert((*name).to_owned(), value);
                    }
                }
            }
        }
        if given.is_empty() {
            return Err(result(all.unwrap_or("every claim"), None, "one ar4si claim at least"));
        }
        for (name, value) in &given {
            let number = value.as_i64().and_then(|number| i8::try_from(number).ok());
            let place = claim(&mut vector, name).ok_or_else(|| {
                let known = "one of the eight claims of ar4si";
                RegoError::Result { rule: crate::text::clean(name, 64), found: shown(value), expected: known }
            })?;
            *place = number.ok_or_else(|| RegoError::Result {
                rule: name.clone(),
                found: shown(value),
                expected: "a whole number from -128 to 127",
            })?;
        }
        let identifiers = match self.has(EXTENSIONS) {
            true => identifiers(run.rule(EXTENSIONS)?)?,
            false => None,
        };
        for (_, name) in CLAIMS {
            let Some(value) = claim(&mut vector, name).copied() else { continue };
            let tier = tier(value);
            if tier != Status::None || given.contains_key(name) {
                judgement.findings.push(Finding {
                    claim: format!("{TRUST_CLAIMS}.{name}"),
                    rule: "policy".to_owned(),
                    expected: "affirming (2 to 31), or nothing (-1 to 1)".to_owned(),
                    found: format!("{tier} ({value})"),
                    owner: Owner::Policy,
                    passed: matches!(tier, Status::None | Status::Affirming),
                });
            }
        }
        if vector.status() == Status::None {
            judgement.findings.push(Finding {
                claim: TRUST_CLAIMS.to_owned(),
                rule: "policy".to_owned(),
                expected: "one affirming claim at least".to_owned(),
                found: "none".to_owned(),
                owner: Owner::Policy,
                passed: false,
            });
        }
        // A software TEE stays what it is, whatever the policy says.
        vector.hardware = worse(vector.hardware, judgement.vector.hardware);
        judgement.vector = vector;
        judgement.sets = policy::agreeing_sets(claims, references, at);
        Ok(Appraised { judgement, identifiers, lookups: run.lookups() })
    }

    fn has(&self, rule: &str) -> bool {
        self.compiled.rules.contains(&rule)
    }
}

fn result(rule: &str, found: Option<&Value>, expected: &'static str) -> RegoError {
    RegoError::Result { rule: rule.to_owned(), found: found.map_or_else(|| "undefined".to_owned(), shown), expected }
}

fn claim<'v>(vector: &'v mut TrustVector, name: &str) -> Option<&'v mut i8> {
    Some(match name {
        "instance-identity" => &mut vector.instance_identity,
        "configuration" => &mut vector.configuration,
        "executables" => &mut vector.executables,
        "file-system" => &mut vector.file_system,
        "hardware" => &mut vector.hardware,
        "runtime-opaque" => &mut vector.runtime_opaque,
        "storage-opaque" => &mut vector.storage_opaque,
        "sourced-data" => &mut vector.sourced_data,
        _ => return None,
    })
}

fn tier(value: i8) -> Status {
    TrustVector { hardware: value, ..TrustVector::default() }.status()
}

/// The value of the worse tier; of two of one tier, the first.
fn worse(first: i8, second: i8) -> i8 {
    if tier(second) > tier(first) { second } else { first }
}

/// `extensions` is a list of `{name, key, value}`; upstream's policies give one, the identifiers of the workload.
fn identifiers(extensions: Option<Value>) -> Result<Option<Value>, RegoError> {
    let Some(extensions) = extensions else { return Ok(None) };
    let Value::Array(list) = extensions else {
        return Err(result(EXTENSIONS, Some(&extensions), "a list of extensions"));
    };
    let mut found = None;
    for extension in list {
        let name = extension.get("name").and_then(Value::as_str);
        match (name, extension.get("value")) {
            (Some(IDENTIFIERS), Some(value)) if found.is_none() && value.is_object() => found = Some(value.clone()),
            _ => return Err(result(EXTENSIONS, Some(&extension), "the extension ear.trustee.identifiers, once")),
        }
    }
    Ok(found)
}
