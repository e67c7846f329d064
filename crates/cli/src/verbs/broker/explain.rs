//! `belljar broker explain`: why something was refused, and what other rules would say.

use std::path::PathBuf;

use belljar_appraisal::release::{Decision, Policies, Request, RuleSet, ScopedRules};
use belljar_appraisal::{Finding, Owner};
use belljar_broker::{HandshakeRecord, Method, Outcome};
use clap::Args;

use super::policy;
use super::target::{Target, escaped};
use crate::failure::{Failure, one_line};
use crate::output::{Format, json, table};
use crate::paths::Paths;

/// Which refusal.
#[derive(Debug, Args)]
pub struct Explain {
    /// Id of a denial, as the workload was told it, or of a handshake
    id: String,
    /// Ask these rules instead, in a file
    #[arg(long, value_name = "FILE", requires = "resource")]
    policy: Option<PathBuf>,
    /// The secret that rules are asked for; that of the denial when absent
    #[arg(long, value_name = "PATH", requires = "policy")]
    resource: Option<String>,
    /// The broker
    #[command(flatten)]
    target: Target,
}

/// A handshake by its id, or by that of a denial in it.
pub async fn record(target: &Target, paths: &Paths, id: &str) -> Result<HandshakeRecord, Failure> {
    target.ask(paths, Method::GET, &format!("/belljar/v1/handshakes/{}", escaped(id)), Vec::new()).await
}

impl Explain {
    /// Carries the verb out: 0 it was admitted and everything released, 1 something was refused.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let record = record(&self.target, paths, &self.id).await?;
        if let (Some(file), Some(resource)) = (&self.policy, &self.resource) {
            return replay(&record, policy::read(file)?, resource, format);
        }
        let refused = record.denial.is_some() || record.releases.iter().any(|release| release.denial.is_some());
        match format {
            Format::Json => json(&record)?,
            Format::Text => print!("{}", text(&record)),
        }
        Ok(i32::from(refused))
    }
}

fn text(record: &HandshakeRecord) -> String {
    let mut text = String::new();
    let word = if record.admitted { "admitted" } else { "refused" };
    text.push_str(&format!("handshake {}: {} {word}, {}\n", record.id, record.tee, record.status));
    if let Some(denial) = &record.denial {
        text.push_str(&format!("{denial}\n"));
    }
    for release in &record.releases {
        match (&release.denial, release.bytes) {
            (Some(denial), _) => text.push_str(&format!("{denial}\n")),
            (None, bytes) => text.push_str(&format!("released {}: {} bytes\n", release.resource, bytes.unwrap_or(0))),
        }
    }
    text.push('\n');
    let row = |check: &belljar_broker::CheckRecord| {
        let found = match check.outcome {
            Outcome::Failed => format!("{} instead of {}", check.found, check.expected),
            _ => check.found.clone(),
        };
        let owner = check.owner.clone().filter(|_| check.outcome == Outcome::Failed).unwrap_or_default();
        vec![check.name.clone(), check.outcome.to_string(), owner, one_line(&found)]
    };
    let rows: Vec<Vec<String>> = record.checks.iter().map(row).collect();
    text.push_str(&table(&["CHECK", "OUTCOME", "WHO CAN FIX IT", "FOUND"], &rows));
    text
}

/// What rules answer to a workload that has attested: 0 released, 1 denied.
pub fn replay(record: &HandshakeRecord, sets: Vec<RuleSet>, resource: &str, format: Format) -> Result<i32, Failure> {
    let who = record.who.as_ref().ok_or_else(|| {
        Failure::undecided(format!("handshake {} came to no identity: its evidence could not be read", record.id))
    })?;
    let path = resource.trim_start_matches("kbs:///").parse().map_err(Failure::usage)?;
    let policies = Policies::new(sets.into_iter().map(|set| ScopedRules { set, rego: None }));
    let policies = policies.map_err(Failure::usage)?;
    let decision = policies.decide(&Request { path: &path, identity: who }, |_| {
        Err(Box::new(Finding {
            claim: "allow".into(),
            rule: "rego".into(),
            expected: "rules".into(),
            found: "a policy in Rego".into(),
            owner: Owner::Policy,
            passed: false,
        }))
    });
    match (&decision, format) {
        (Decision::Allow { scope, rule }, Format::Json) => {
            json(&serde_json::json!({ "allowed": true, "scope": scope, "rule": rule }))?;
        }
        (Decision::Deny { scope, findings }, Format::Json) => {
            json(&serde_json::json!({ "allowed": false, "scope": scope, "findings": findings }))?;
        }
        (Decision::Allow { scope, rule }, Format::Text) => println!("{path} is released by rule {rule} of {scope}"),
        (Decision::Deny { scope, findings }, Format::Text) => {
            let scope = scope.as_deref().map_or_else(|| "no scope covers it".to_owned(), |s| format!("scope {s}"));
            println!("{path} is denied ({scope})");
            for finding in findings {
                println!("  {finding}");
            }
        }
    }
    Ok(i32::from(!decision.is_allowed()))
}
