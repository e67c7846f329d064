//! `belljar collateral simulate`.

use std::path::PathBuf;

use belljar_collateral::{Collection, Update};
use belljar_evidence::dcap::{Anchors, Options};
use belljar_evidence::time::rfc3339;
use clap::Args;

use super::{CacheOption, Terms};
use crate::collateral::simulation::{Case, Outcome, Simulation, tcb_info};
use crate::collateral::store;
use crate::evidence::file;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, json, table};
use crate::paths::Paths;

/// What to suppose.
#[derive(Debug, Args)]
pub struct Simulate {
    /// TCB info as Intel might publish it; neither signature nor dates are looked at
    #[arg(long, value_name = "FILE")]
    tcb_info: PathBuf,
    /// Directory with the stored evidence
    #[arg(long, value_name = "DIR", default_value = ".")]
    evidence: PathBuf,
    /// Stored collateral: a bundle or a directory (default: the cache)
    #[arg(long, value_name = "FILE|DIR", conflicts_with = "cache")]
    collateral: Option<PathBuf>,
    /// Public key of the bundle's maker, PEM
    #[arg(long, value_name = "FILE", requires = "collateral")]
    key: Option<PathBuf>,
    /// Compare with Intel's early line of evaluations
    #[arg(long)]
    early: bool,
    #[command(flatten)]
    cache: CacheOption,
    #[command(flatten)]
    terms: Terms,
}

impl Simulate {
    /// Carries the verb out.
    pub fn execute(&self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let info = tcb_info(&self.tcb_info)?;
        let collateral = match &self.collateral {
            Some(path) => store::collection(path, self.key.as_deref(), "--key")?,
            None => Collection::new(store::cached(&self.cache.open(paths))?),
        };
        let anchors = self.terms.anchor.iter().try_fold(Anchors::intel(), |anchors, path| {
            Ok::<_, Failure>(anchors.with_test_root(&file::certificate(path)?))
        })?;
        let options =
            Options { grace: self.terms.grace(), accept: belljar_collateral::Freshness::InGrace, ..Options::default() };
        let update = if self.early { Update::Early } else { Update::Standard };
        let supposed = format!(
            "{} on platforms {}, evaluation {}, issued {}",
            info.id,
            hex::encode(info.fmspc),
            info.evaluation_number,
            rfc3339(info.issue_date)
        );
        let at = self.terms.at()?;
        let simulation = Simulation { info, collateral: &collateral, anchors, at, update, options };
        let cases = simulation.directory(&self.evidence)?;
        let count = |of: fn(&Outcome) -> bool| cases.iter().filter(|case| of(&case.outcome)).count();
        let judged = count(|outcome| matches!(outcome, Outcome::Judged { .. }));
        let changed = count(|outcome| matches!(outcome, Outcome::Judged { changes: true, .. }));
        match format {
            Format::Json => json(&serde_json::json!({
                "supposed": supposed, "signature": "not looked at", "dates": "not looked at", "judged": judged, "changed": changed, "files": cases,
            }))?,
            Format::Text => print(&cases, &supposed, judged, changed)?,
        }
        Ok(match (judged, changed) {
            (0, _) => Exit::Undecided.code(),
            (_, 0) => 0,
            _ => Exit::Refused.code(),
        })
    }
}

fn print(cases: &[Case], supposed: &str, judged: usize, changed: usize) -> Result<(), Failure> {
    let mut text =
        format!("supposed: {supposed}; this is a what-if, signature and dates of the file are not looked at\n");
    let mut rows = Vec::new();
    for case in cases {
        if let Outcome::Judged { now, then, changes: true } = &case.outcome {
            let added = |tcb: &Option<belljar_evidence::dcap::Tcb>| {
                tcb.as_ref().and_then(|tcb| tcb.advisories.clone()).unwrap_or_default()
            };
            let known = added(&now.tcb);
            let new: Vec<String> = added(&then.tcb).into_iter().filter(|one| !known.contains(one)).collect();
            rows.push(vec![case.file.display().to_string(), now.words(), then.words(), new.join(" ")]);
        }
    }
    if !rows.is_empty() {
        text.push_str(&table(&["FILE", "NOW", "THEN", "NEW ADVISORIES"], &rows));
    }
    text.push_str(&format!("{judged} of {} files are quotes of that platform, {changed} would change\n", cases.len()));
    output::print(&text)?;
    for case in cases {
        if let Outcome::Unreadable { why } = &case.outcome {
            eprintln!("belljar: {}: {why}", case.file.display());
        }
    }
    Ok(())
}
