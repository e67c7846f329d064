//! `belljar broker policy`: which workloads get which secrets.

use std::path::PathBuf;

use belljar_appraisal::release::{self, RuleSet};
use belljar_broker::Method;
use clap::Subcommand;
use serde::Deserialize;

use super::explain;
use super::target::{Target, escaped};
use crate::evidence::file;
use crate::failure::Failure;
use crate::output::{Format, json, table};
use crate::paths::Paths;

/// Rules of release.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Put rules in place: each [[set]] of the file replaces the set of the same scope
    #[command(after_help = "Example: belljar broker policy set rules.toml")]
    Set {
        /// TOML of [[set]] with scope, each with [[set.rule]]; docs/appraisal.md has the form
        file: PathBuf,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// The rules of one scope, as TOML
    Get {
        /// Scope: repository/type/tag, where * stands for any segment
        scope: String,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// All scopes with their rules
    List {
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// Remove the rules of one scope: nothing in it is released any more, unless a wider scope says so
    Delete {
        /// The scope
        scope: String,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// What rules in a file would answer to a workload that has attested
    #[command(
        after_help = "Example: belljar broker policy test rules.toml --handshake 0f1e2d3c4b5a --resource team/key/1\nExit codes: 0 released, 1 denied."
    )]
    Test {
        /// The rules
        file: PathBuf,
        /// Id of the handshake
        #[arg(long, value_name = "ID")]
        handshake: String,
        /// The secret that it would ask for
        #[arg(long, value_name = "PATH")]
        resource: String,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Deserialize)]
struct Sets {
    sets: Vec<RuleSet>,
}

/// Rules of a file.
pub fn read(path: &std::path::Path) -> Result<Vec<RuleSet>, Failure> {
    let wrong = |why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", path.display()));
    let bytes = file::read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|e| wrong(&e))?;
    let sets = release::parse(text).map_err(|e| wrong(&e))?;
    if sets.is_empty() {
        return Err(wrong(&"there is no [[set]] in it"));
    }
    Ok(sets)
}

impl PolicyVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Set { file, target } => {
                // Read here first, so that the file is named when it is wrong.
                let sets = read(&file)?;
                let text = file::read(&file)?;
                target.call(paths, Method::PUT, "/belljar/v1/policies", text).await?;
                let scopes: Vec<String> = sets.iter().map(|set| set.scope.to_string()).collect();
                match format {
                    Format::Json => json(&serde_json::json!({ "scopes": scopes }))?,
                    Format::Text => println!("rules are in place for {}", scopes.join(", ")),
                }
            }
            Self::Get { scope, target } => {
                let found = sets(&target, paths).await?.into_iter().find(|set| set.scope.to_string() == scope);
                let found =
                    found.ok_or_else(|| Failure::refused(format!("there are no rules of the scope {scope}")))?;
                match format {
                    Format::Json => json(&found)?,
                    Format::Text => {
                        let document = serde_json::json!({ "set": [found] });
                        print!("{}", toml::to_string(&document).map_err(Failure::undecided)?);
                    }
                }
            }
            Self::List { target } => {
                let sets = sets(&target, paths).await?;
                match format {
                    Format::Json => json(&sets)?,
                    Format::Text => {
                        let rows: Vec<Vec<String>> = sets.iter().flat_map(rows).collect();
                        print!("{}", table(&["SCOPE", "RULE", "SECRET", "FOR"], &rows));
                    }
                }
            }
            Self::Delete { scope, target } => {
                let path = format!("/belljar/v1/policies?scope={}", escaped(&scope));
                target.call(paths, Method::DELETE, &path, Vec::new()).await?;
                match format {
                    Format::Json => json(&serde_json::json!({ "scope": scope }))?,
                    Format::Text => println!("the rules of {scope} are deleted"),
                }
            }
            Self::Test { file, handshake, resource, target } => {
                let record = explain::record(&target, paths, &handshake).await?;
                return explain::replay(&record, read(&file)?, &resource, format);
            }
        }
        Ok(0)
    }
}

async fn sets(target: &Target, paths: &Paths) -> Result<Vec<RuleSet>, Failure> {
    let Sets { sets } = target.ask(paths, Method::GET, "/belljar/v1/policies", Vec::new()).await?;
    Ok(sets)
}

fn rows(set: &RuleSet) -> Vec<Vec<String>> {
    let row = |rule: &release::Rule| {
        let lists = [
            ("contract", &rule.contract),
            ("signer", &rule.signer),
            ("set", &rule.measurement_set),
            ("namespace", &rule.namespace),
            ("tee", &rule.tee),
        ];
        let named = lists.iter().filter(|(_, list)| !list.is_empty());
        let whom: Vec<String> = named.map(|(name, list)| format!("{name} {}", list.join(" or "))).collect();
        vec![set.scope.to_string(), rule.id.clone(), rule.resource.to_string(), whom.join(", ")]
    };
    if set.rules.is_empty() {
        return vec![vec![set.scope.to_string(), "-".into(), "nothing".into(), String::new()]];
    }
    set.rules.iter().map(row).collect()
}
