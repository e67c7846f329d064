//! `belljar broker workload`, `revoke` and `revocations`.

use belljar_broker::{Method, Revocation, Subject};
use belljar_evidence::time::rfc3339;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::target::{Target, escaped};
use crate::failure::Failure;
use crate::output::{Format, json, table};
use crate::paths::Paths;

/// Registered workloads.
#[derive(Debug, Subcommand)]
pub enum WorkloadVerb {
    /// All workloads
    List {
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// One workload with its launches and secrets, by name or id
    Show {
        /// Name or id
        workload: String,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// Withdraw a workload, by name or id: its sessions get nothing from then on
    #[command(after_help = "Example: belljar broker workload revoke default/Deployment/web")]
    Revoke {
        /// Name or id
        workload: String,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Known {
    id: String,
    name: String,
    owner: String,
    initdata_digest: String,
    launches: Vec<BTreeMap<String, String>>,
    resources: Vec<String>,
}

#[derive(Deserialize)]
struct All {
    workloads: Vec<Known>,
}

impl WorkloadVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::List { target } => {
                let all = known(&target, paths).await?;
                match format {
                    Format::Json => json(&all)?,
                    Format::Text => {
                        let row = |one: &Known| {
                            let digest = format!("{:.16}…", one.initdata_digest);
                            vec![one.name.clone(), one.owner.clone(), digest, one.id.clone()]
                        };
                        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
                        print!("{}", table(&["WORKLOAD", "OWNER", "CONTRACT", "ID"], &rows));
                    }
                }
            }
            Self::Show { workload, target } => {
                let found = named(&target, paths, &workload).await?;
                match format {
                    Format::Json => json(&found)?,
                    Format::Text => {
                        for one in found {
                            println!("{} of {} ({})", one.name, one.owner, one.id);
                            println!("  contract {}", one.initdata_digest);
                            for launch in &one.launches {
                                let values: Vec<String> =
                                    launch.iter().map(|(name, value)| format!("{name} {value}")).collect();
                                println!("  may run as {}", values.join(", "));
                            }
                            for resource in &one.resources {
                                println!("  secret {resource}");
                            }
                        }
                    }
                }
            }
            Self::Revoke { workload, target } => {
                let found = named(&target, paths, &workload).await?;
                for one in &found {
                    let path = format!("/belljar/v1/workloads/{}", one.id);
                    target.call(paths, Method::DELETE, &path, Vec::new()).await?;
                }
                match format {
                    Format::Json => json(&found)?,
                    Format::Text => {
                        for one in found {
                            println!("{} ({}) gets nothing from now on", one.name, one.id);
                        }
                    }
                }
            }
        }
        Ok(0)
    }
}

async fn known(target: &Target, paths: &Paths) -> Result<Vec<Known>, Failure> {
    let All { workloads } = target.ask(paths, Method::GET, "/belljar/v1/workloads", Vec::new()).await?;
    Ok(workloads)
}

async fn named(target: &Target, paths: &Paths, workload: &str) -> Result<Vec<Known>, Failure> {
    let mut all = known(target, paths).await?;
    all.retain(|one| one.name == workload || one.id == workload);
    if all.is_empty() {
        return Err(
            Failure::refused(format!("no workload {workload} is registered")).hint("belljar broker workload list")
        );
    }
    Ok(all)
}

/// What to revoke.
#[derive(Debug, Args)]
pub struct Revoke {
    /// measurement, chip, contract or signer
    subject: Subject,
    /// Which one, in lowercase hex
    value: String,
    /// Why, for people
    #[arg(long, default_value = "")]
    reason: String,
    /// The broker
    #[command(flatten)]
    target: Target,
}

impl Revoke {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let Self { subject, value, reason, target } = self;
        let body = serde_json::json!({ "subject": subject, "value": value, "reason": reason });
        let path = "/belljar/v1/revocations";
        let made: Revocation = target.ask(paths, Method::POST, path, body.to_string().into_bytes()).await?;
        match format {
            Format::Json => json(&made)?,
            Format::Text => println!("{subject} {value} is revoked since {}", rfc3339(made.at)),
        }
        Ok(0)
    }
}

/// What is revoked.
#[derive(Debug, Args)]
pub struct Revocations {
    /// Lift this one: SUBJECT/VALUE
    #[arg(long, value_name = "SUBJECT/VALUE")]
    lift: Option<String>,
    /// The broker
    #[command(flatten)]
    target: Target,
}

#[derive(Deserialize)]
struct Revoked {
    revocations: Vec<Revocation>,
}

impl Revocations {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let Self { lift, target } = self;
        if let Some(one) = lift {
            let (subject, value) = one
                .split_once('/')
                .ok_or_else(|| Failure::usage(format!("{one:?} is not SUBJECT/VALUE, such as chip/1a2b…")))?;
            let subject: Subject = subject.parse().map_err(Failure::usage)?;
            let path = format!("/belljar/v1/revocations?subject={subject}&value={}", escaped(value));
            target.call(paths, Method::DELETE, &path, Vec::new()).await?;
            match format {
                Format::Json => json(&serde_json::json!({ "lifted": one }))?,
                Format::Text => println!("{subject} {value} is revoked no more"),
            }
            return Ok(0);
        }
        let Revoked { revocations } = target.ask(paths, Method::GET, "/belljar/v1/revocations", Vec::new()).await?;
        match format {
            Format::Json => json(&revocations)?,
            Format::Text => {
                let row = |one: &Revocation| {
                    vec![
                        one.subject.to_string(),
                        rfc3339(one.at),
                        one.by.clone(),
                        one.value.clone(),
                        one.reason.clone(),
                    ]
                };
                let rows: Vec<Vec<String>> = revocations.iter().map(row).collect();
                print!("{}", table(&["REVOKED", "SINCE", "BY", "VALUE", "REASON"], &rows));
            }
        }
        Ok(0)
    }
}
