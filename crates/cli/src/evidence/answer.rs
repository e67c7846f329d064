//! What a judged piece of evidence comes to, in one shape for every kind.

use std::fmt::Write;

use belljar_evidence::time::rfc3339;
use belljar_evidence::{Check, Decision, Kind, Outcome, Verdict};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::{Failure, one_line};
use crate::output::table;

/// The answer of `belljar evidence verify`.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// Kind of the evidence; `None` when it was not recognised.
    pub kind: Option<Kind>,
    /// `valid`, `invalid` or `undecided`.
    pub verdict: Decision,
    /// The check that decided against it.
    pub first_failure: Option<&'static str>,
    /// The evidence proves nothing about hardware.
    pub software: bool,
    /// What a policy may have to refuse.
    pub flags: Vec<String>,
    /// Intel's rating, with the statuses `platform`, `qe`, `tdx_module` and `combined`.
    pub tcb: Value,
    /// Fields of the evidence.
    pub fields: Value,
    /// Every check, in order.
    pub checks: Vec<Check>,
    /// What else is known: the endorsement key's certificate, whose root, the window of time.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Answer {
    /// From the verdict of any kind.
    pub fn new<F: Serialize>(kind: Kind, verdict: &Verdict<F>) -> Result<Self, Failure> {
        let facts = serde_json::to_value(&verdict.facts).map_err(Failure::undecided)?;
        let Value::Object(mut more) = facts else { return Err(Failure::undecided("facts are not an object")) };
        for key in ["valid_from", "valid_to"] {
            if let Some(seconds) = more.get(key).and_then(Value::as_u64) {
                more.insert(key.to_owned(), rfc3339(seconds).into());
            }
        }
        Ok(Self {
            kind: Some(kind),
            verdict: verdict.verdict,
            first_failure: verdict.first_failure,
            software: verdict.software,
            flags: verdict.flags.clone(),
            tcb: more.remove("tcb").unwrap_or_default(),
            fields: more.remove("fields").unwrap_or_default(),
            checks: verdict.checks.clone(),
            more,
        })
    }

    /// The answer about bytes that are no evidence.
    pub fn unreadable(kind: Option<Kind>, why: impl ToString) -> Self {
        let check = Check {
            name: "parse",
            outcome: Outcome::Failed,
            expected: "evidence of a known kind".to_owned(),
            found: why.to_string(),
        };
        Self {
            kind,
            verdict: Decision::Invalid,
            first_failure: Some(check.name),
            software: false,
            flags: Vec::new(),
            tcb: Value::Null,
            fields: Value::Null,
            checks: vec![check],
            more: Map::new(),
        }
    }

    /// The answer about one part of evidence, which nothing can be said about.
    pub fn part(kind: Kind) -> Self {
        let check = Check::not_made(
            "parts",
            "evidence with all its parts",
            format!(
                "this is one part of {kind} evidence: give the evidence in JSON, with the key, the signature and the values"
            ),
        );
        let mut answer = Self::unreadable(Some(kind), "");
        answer.verdict = Decision::Undecided;
        answer.first_failure = Some(check.name);
        answer.checks = vec![check];
        answer
    }

    /// The exit code: 0 authentic, 1 refused, 3 could not decide.
    pub fn exit(&self) -> i32 {
        match self.verdict {
            Decision::Valid => 0,
            Decision::Invalid => 1,
            Decision::Undecided => 3,
        }
    }

    /// For a person: the verdict, what decided, the facts that a policy may refuse, and every check.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let kind = self.kind.map_or("evidence", Kind::name);
        let decided = self.checks.iter().find(|check| Some(check.name) == self.first_failure);
        let _ = match (self.verdict, decided) {
            (Decision::Invalid, Some(check)) => writeln!(
                text,
                "{kind}: refused at {}: expected {}; found {}",
                check.name,
                one_line(&check.expected),
                one_line(&check.found)
            ),
            (Decision::Undecided, Some(check)) => {
                let name = check.name.rsplit(':').next().unwrap_or(check.name);
                let hint = match name.split_once('-') {
                    Some(("pck" | "root" | "tcb" | "qe" | "crl", _)) => {
                        "; give --collateral DIR, `belljar collateral fetch` makes one"
                    }
                    Some(("report" | "snp:report", _)) => {
                        "; give --vek FILE, or --collateral DIR, `belljar collateral fetch` makes one"
                    }
                    Some(("vek" | "snp:vek", _)) => "; give --intermediate FILE",
                    Some(("ak", _)) => "; give --trusted-ak HEX when you know the key",
                    _ => "",
                };
                writeln!(text, "{kind}: could not decide at {}: {}{hint}", check.name, one_line(&check.found))
            }
            (verdict, _) => writeln!(text, "{kind}: {verdict}"),
        };
        if self.software {
            let _ = writeln!(
                text,
                "this evidence ends in a root that is no hardware vendor's: it proves nothing about hardware"
            );
        }
        if !self.flags.is_empty() {
            let _ = writeln!(text, "flags: {}", self.flags.join(", "));
        }
        let said = |name: &str| self.tcb.get(name).and_then(Value::as_str);
        if let Some(combined) = said("combined") {
            let parts =
                ["platform", "tdx_module", "qe"].map(|name| said(name).map(|status| format!("{name} {status}")));
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            let _ = writeln!(text, "tcb: {combined} ({})", parts.join(", "));
            for name in ["advisories", "tdx_module_advisories", "qe_advisories"] {
                let ids: Vec<&str> = self
                    .tcb
                    .get(name)
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                if !ids.is_empty() {
                    let _ = writeln!(text, "{}: {}", name.replace('_', " "), ids.join(", "));
                }
            }
        }
        for (name, words) in [("freshness", "collateral is"), ("valid_from", "valid from"), ("valid_to", "valid to")] {
            if let Some(value) = self.more.get(name).and_then(Value::as_str) {
                let _ = writeln!(text, "{words} {}", value.replace('_', " "));
            }
        }
        let rows: Vec<Vec<String>> = self.checks.iter().map(row).collect();
        text.push('\n');
        text.push_str(&table(&["CHECK", "OUTCOME", "FOUND"], &rows));
        text
    }
}

fn row(check: &Check) -> Vec<String> {
    let found = match check.outcome {
        Outcome::Failed => format!("{} instead of {}", check.found, check.expected),
        _ => check.found.clone(),
    };
    vec![check.name.to_owned(), check.outcome.to_string(), one_line(&found)]
}
