//! `belljar broker reference`: what evidence is compared with.

use std::path::PathBuf;

use belljar_appraisal::reference::{ReferenceValue, SourceKind, pod, rvps};
use belljar_broker::Method;
use belljar_evidence::time::rfc3339;
use clap::{Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::Value;

use super::target::{Target, escaped};
use crate::evidence::file;
use crate::failure::{Failure, one_line};
use crate::output::{Format, json, table};
use crate::paths::Paths;

/// Reference values.
#[derive(Debug, Subcommand)]
pub enum ReferenceVerb {
    /// Add one value to a measurement set
    #[command(after_help = "Example: belljar broker reference add --set guest-1 snp_launch_measurement 4a1f…")]
    Add {
        /// Name, as policies ask for it: snp_launch_measurement, mr_td, rtmr_1, mr_enclave, …
        name: String,
        /// The value; a number or true/false where the claim is one
        value: String,
        /// The measurement set
        #[arg(long)]
        set: String,
        /// Who says so; a denial names them
        #[arg(long, env = "USER", default_value = "this user")]
        owner: String,
        /// Last second at which it holds, RFC 3339
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// All values, expired ones too
    List {
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// Remove the values of a set, or those of one name in it: what agreed with them is admitted no more
    #[command(after_help = "Example: belljar broker reference expire --set guest-1")]
    Expire {
        /// The measurement set
        #[arg(long)]
        set: String,
        /// One name of the set
        #[arg(long)]
        name: Option<String>,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// Add the values of a file
    #[command(
        after_help = "Example: belljar measure pod --format json > pod.json; belljar broker reference import pod.json"
    )]
    Import {
        /// The file
        file: PathBuf,
        /// What it is
        #[arg(long, value_enum, default_value = "pod")]
        kind: ImportKind,
        /// The measurement set; that of the file when absent
        #[arg(long)]
        set: Option<String>,
        /// Who says so; a denial names them
        #[arg(long, env = "USER", default_value = "this user")]
        owner: String,
        /// Last second at which the values hold, RFC 3339, where the file does not say
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
}

/// What a file of reference values is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportKind {
    /// Output of `belljar measure pod --format json`
    Pod,
    /// A message of Trustee's reference value provider
    Rvps,
    /// Values as Trustee's reference value provider stores them
    RvpsStored,
}

#[derive(Deserialize)]
struct All {
    references: Vec<ReferenceValue>,
}

#[derive(Deserialize)]
struct Removed {
    removed: usize,
}

impl ReferenceVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Add { name, value, set, owner, expires, target } => {
                let value = match serde_json::from_str(&value) {
                    // Digits alone may be a digest, and a digest is text.
                    Ok(found @ (Value::Number(_) | Value::Bool(_))) if value.len() < 16 => found,
                    _ => Value::String(value),
                };
                let expires = seconds(expires.as_deref())?;
                let source = SourceKind::Admin;
                let one = ReferenceValue { name, set, value, expires, source, owner, signer: None };
                add(&target, paths, vec![one], format).await
            }
            Self::List { target } => {
                let All { references } = target.ask(paths, Method::GET, "/belljar/v1/references", Vec::new()).await?;
                match format {
                    Format::Json => json(&references)?,
                    Format::Text => {
                        let rows: Vec<Vec<String>> = references.iter().map(row).collect();
                        print!("{}", table(&["SET", "NAME", "HOLDS UNTIL", "OWNER", "VALUE"], &rows));
                    }
                }
                Ok(0)
            }
            Self::Expire { set, name, target } => {
                let mut path = format!("/belljar/v1/references?set={}", escaped(&set));
                if let Some(name) = &name {
                    path.push_str(&format!("&name={}", escaped(name)));
                }
                let Removed { removed } = target.ask(paths, Method::DELETE, &path, Vec::new()).await?;
                if removed == 0 {
                    return Err(Failure::refused(format!("there is no such value in set {set}"))
                        .hint("belljar broker reference list"));
                }
                match format {
                    Format::Json => json(&serde_json::json!({ "removed": removed }))?,
                    Format::Text => println!("{removed} values of set {set} hold no more"),
                }
                Ok(0)
            }
            Self::Import { file, kind, set, owner, expires, target } => {
                let bytes = file::read(&file)?;
                let expires = seconds(expires.as_deref())?;
                let wrong = |why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", file.display()));
                let into = rvps::Target { set: set.as_deref(), owner: &owner, expires };
                let values = match kind {
                    ImportKind::Pod => pod::read(&bytes, set.as_deref(), &owner, expires).map_err(|e| wrong(&e))?,
                    ImportKind::Rvps => rvps::read_message(&bytes, &into).map_err(|e| wrong(&e))?,
                    ImportKind::RvpsStored => rvps::read_stored(&bytes, &into).map_err(|e| wrong(&e))?,
                };
                add(&target, paths, values, format).await
            }
        }
    }
}

async fn add(target: &Target, paths: &Paths, values: Vec<ReferenceValue>, format: Format) -> Result<i32, Failure> {
    for value in &values {
        value.check().map_err(Failure::usage)?;
    }
    let body = serde_json::to_vec(&serde_json::json!({ "references": values })).map_err(Failure::undecided)?;
    target.call(paths, Method::POST, "/belljar/v1/references", body).await?;
    match format {
        Format::Json => json(&values)?,
        Format::Text => {
            let mut sets: Vec<&str> = values.iter().map(|value| value.set.as_str()).collect();
            sets.dedup();
            println!("{} reference values are added to {}", values.len(), sets.join(", "));
        }
    }
    Ok(0)
}

fn row(value: &ReferenceValue) -> Vec<String> {
    let shown: Vec<String> = value
        .scalars()
        .iter()
        .map(|scalar| scalar.as_str().map_or_else(|| scalar.to_string(), str::to_owned))
        .collect();
    vec![
        value.set.clone(),
        value.name.clone(),
        value.expires.map_or_else(|| "for ever".to_owned(), rfc3339),
        value.owner.clone(),
        one_line(&shown.join(" or ")),
    ]
}

/// A time in RFC 3339 as seconds since 1970.
fn seconds(text: Option<&str>) -> Result<Option<u64>, Failure> {
    let parse = |text: &str| {
        let time: x509_cert::der::DateTime =
            text.parse().map_err(|_| Failure::usage(format!("{text:?} is not a time such as 2027-01-31T00:00:00Z")))?;
        Ok(time.unix_duration().as_secs())
    };
    text.map(parse).transpose()
}
