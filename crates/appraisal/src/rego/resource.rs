//! Resource policies in upstream's form.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::machine::{Compiled, Limits};
use super::{PolicyHash, RegoError, cache};
use crate::reference::References;
use crate::text::shown;
use crate::{Finding, Owner};

const ALLOW: &str = "allow";

/// A compiled resource policy.
#[derive(Debug)]
pub struct ResourcePolicy {
    hash: PolicyHash,
    compiled: Compiled,
}

/// What is asked for: `/kbs/v0/<plugin>/<path>?<query>`.
#[derive(Debug, Clone, Copy)]
pub struct ResourceRequest<'a> {
    /// The plugin; `resource` for secrets.
    pub plugin: &'a str,
    /// Segments of the path.
    pub path: &'a [String],
    /// The query.
    pub query: &'a BTreeMap<String, String>,
}

impl ResourcePolicy {
    /// Compiles a policy.
    ///
    /// # Errors
    /// [`RegoError::Length`], [`RegoError::Compile`], [`RegoError::Package`] or [`RegoError::NoRule`].
    pub fn compile(text: &str, limits: Limits) -> Result<Self, RegoError> {
        let compiled = Compiled::new(text, &[ALLOW], limits)?;
        if compiled.rules.is_empty() {
            return Err(RegoError::NoRule("allow"));
        }
        Ok(Self { hash: cache::hash(text), compiled })
    }

    /// SHA-256 of the text.
    pub fn hash(&self) -> &PolicyHash {
        &self.hash
    }

    /// Whether the policy allows the request; `input` is [`token_input`]'s. Undefined is no.
    ///
    /// # Errors
    /// Any [`RegoError`] of evaluating; also where `allow` is no boolean.
    pub fn allows(
        &self,
        input: &Value,
        request: &ResourceRequest<'_>,
        references: &Arc<References>,
        at: u64,
    ) -> Result<bool, RegoError> {
        let ResourceRequest { plugin, path, query } = request;
        let data = json!({ "plugin": plugin, "resource-path": path, "query": query });
        match self.compiled.run(input, Some(&data), references, at)?.rule(ALLOW)? {
            Some(Value::Bool(allowed)) => Ok(allowed),
            None => Ok(false),
            Some(other) => {
                Err(RegoError::Result { rule: ALLOW.to_owned(), found: shown(&other), expected: "true or false" })
            }
        }
    }

    /// The same, as [`crate::release::Policies::decide`] asks: why not, where the answer is no.
    ///
    /// # Errors
    /// The finding of a denial.
    pub fn decide(
        &self,
        input: &Value,
        request: &ResourceRequest<'_>,
        references: &Arc<References>,
        at: u64,
    ) -> Result<(), Box<Finding>> {
        let found = match self.allows(input, request, references, at) {
            Ok(true) => return Ok(()),
            Ok(false) => "false".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Box::new(Finding {
            claim: ALLOW.to_owned(),
            rule: "rego".to_owned(),
            expected: "true".to_owned(),
            found,
            owner: Owner::Policy,
            passed: false,
        }))
    }
}

/// What resource policies take as input: a token's claims as they are, which upstream's releases to 2026 give, and beside
/// them `trust_context`, which newer ones give.
pub fn token_input(token: &Value) -> Value {
    let submods = token.get("submods").and_then(Value::as_object);
    let of = |submod: &Value, name: &str| submod.get(name).and_then(Value::as_str).map(str::to_owned);
    let devices = || submods.into_iter().flat_map(Map::values);
    let affirming = |submod: &Value| of(submod, "ear.status").as_deref() == Some("affirming");
    let affirmed = devices().next().is_some() && devices().all(affirming);
    let evidence = |submod: &Value, name: &str| submod.get("ear.veraison.annotated-evidence")?.get(name).cloned();
    let tees: Vec<Value> = devices().filter_map(|submod| evidence(submod, "belljar")?.get("kind").cloned()).collect();
    let policies: Vec<String> = devices().filter_map(|submod| of(submod, "ear.appraisal-policy-id")).collect();
    let cpu = submods.and_then(|submods| submods.get("cpu0"));
    let key = cpu.and_then(|cpu| evidence(cpu, "runtime_data_claims")?.get("tee-pubkey").cloned());
    let context = json!({
        "attestation_summary": {
            "tee_type": tees,
            "policy_ids": policies,
            "issuer": token.get("iss"),
            "verification_result": affirmed,
            "claims": token,
        },
        "tee_pubkey": key,
        "custom_claims": {},
    });
    let mut input = token.as_object().cloned().unwrap_or_default();
    input.insert("trust_context".to_owned(), context);
    Value::Object(input)
}
