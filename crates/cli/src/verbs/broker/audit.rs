//! `belljar broker audit`: who did what; and whether somebody has changed the log.

use std::path::PathBuf;
use std::time::Duration;

use belljar_broker::Method;
use belljar_broker::audit::{Checkpoint, Entry, verify};
use belljar_rcar::ear::ES256;
use belljar_rcar::{Jwk, PublicKey};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::target::Target;
use crate::evidence::file;
use crate::failure::Failure;
use crate::output::{Format, json, table};
use crate::paths::Paths;
use belljar_evidence::time::rfc3339;

/// How often `--follow` asks.
const ROUND: Duration = Duration::from_secs(1);

/// The audit log.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Audit {
    #[command(subcommand)]
    verb: Option<AuditVerb>,
    /// Only entries behind this one
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// Go on with entries as they come, until a signal
    #[arg(long, short)]
    follow: bool,
    /// The broker
    #[command(flatten)]
    target: Target,
}

/// What to do with the log.
#[derive(Debug, Subcommand)]
pub enum AuditVerb {
    /// Check that no entry was changed, removed, moved or cut off since it was signed
    #[command(
        after_help = "Example: belljar broker audit verify --format json > log.json\nExample: belljar broker audit verify --file log.json --seen 412\nExit codes: 0 the log is whole, 1 it was changed."
    )]
    Verify {
        /// A log that was printed by `audit verify --format json`, instead of the broker's
        #[arg(long, value_name = "FILE", conflicts_with_all = ["broker", "broker_token", "tenant"])]
        file: Option<PathBuf>,
        /// The log must have at least this many entries: what was seen before
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        seen: u64,
        /// The broker
        #[command(flatten)]
        target: Box<Target>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Log {
    tenant: String,
    entries: Vec<Entry>,
    checkpoints: Vec<Checkpoint>,
    key: Option<Jwk>,
}

impl Audit {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        if let Some(AuditVerb::Verify { file, seen, target }) = self.verb {
            let log = match file {
                Some(path) => serde_json::from_slice(&file::read(&path)?)
                    .map_err(|e| Failure::usage(format!("{}: not a log: {e}", path.display())))?,
                None => whole(&target, paths, 0).await?,
            };
            return check(&log, seen, format);
        }
        let mut after = self.after;
        loop {
            let log = whole(&self.target, paths, after).await?;
            after = log.entries.last().map_or(after, |last| last.sequence);
            match format {
                Format::Json if self.follow => {
                    for entry in &log.entries {
                        println!("{}", serde_json::to_string(entry).map_err(Failure::undecided)?);
                    }
                }
                Format::Json => json(&log.entries)?,
                Format::Text => {
                    let rows: Vec<Vec<String>> = log.entries.iter().map(row).collect();
                    let head: &[&str] =
                        if self.follow { &[] } else { &["ENTRY", "TIME", "WHO", "ACTION", "OUTCOME", "OBJECT"] };
                    print!("{}", table(head, &rows));
                }
            }
            if !self.follow {
                return Ok(0);
            }
            tokio::select! {
                () = tokio::time::sleep(ROUND) => {}
                _ = tokio::signal::ctrl_c() => return Ok(0),
            }
        }
    }
}

/// Everything behind an entry, page by page.
async fn whole(target: &Target, paths: &Paths, after: u64) -> Result<Log, Failure> {
    let mut log: Option<Log> = None;
    let mut after = after;
    loop {
        let path = format!("/belljar/v1/audit?after={after}");
        let page: Log = target.ask(paths, Method::GET, &path, Vec::new()).await?;
        let last = page.entries.last().map(|last| last.sequence);
        match &mut log {
            None => log = Some(page),
            Some(log) => {
                log.entries.extend(page.entries);
                log.checkpoints = page.checkpoints;
            }
        }
        match last {
            Some(last) => after = last,
            None => return log.ok_or_else(|| Failure::undecided("the broker gave no log")),
        }
    }
}

fn check(log: &Log, seen: u64, format: Format) -> Result<i32, Failure> {
    let key = log.key.as_ref().ok_or_else(|| Failure::undecided("the log has no key that verifies it"))?;
    let key = PublicKey::from_jwk(key, ES256).map_err(Failure::usage)?;
    let found = verify(&log.tenant, &log.entries, &log.checkpoints, &key);
    let (last, hash) = found.map_err(|broken| Failure::refused(format!("the log was changed: {broken}")))?;
    if last < seen {
        return Err(Failure::refused(format!("the log has {last} entries, and {seen} were seen: its end was cut off")));
    }
    match format {
        Format::Json => json(log)?,
        Format::Text => {
            let signed = log.checkpoints.last().map_or(0, |one| one.sequence);
            println!("{last} entries are whole, {signed} of them signed; the last one's hash is {hash}");
        }
    }
    Ok(0)
}

fn row(entry: &Entry) -> Vec<String> {
    vec![
        entry.sequence.to_string(),
        rfc3339(entry.at),
        entry.actor.clone(),
        entry.action.clone(),
        entry.outcome.clone(),
        entry.object.clone(),
    ]
}
