//! `belljar broker principal` and `belljar broker tenant`: who administers.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use belljar_broker::{Method, Role};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::target::{Target, escaped};
use crate::failure::Failure;
use crate::output::{Format, json, table};
use crate::paths::Paths;

/// Principals of a tenant.
#[derive(Debug, Subcommand)]
pub enum PrincipalVerb {
    /// Make a principal; its token is written to a file, and shown nowhere else
    #[command(after_help = "Example: belljar broker principal add ci --role publisher --out ci.token")]
    Add {
        /// Its name
        name: String,
        /// owner, operator, auditor or publisher (who may only add reference values)
        #[arg(long)]
        role: Role,
        /// File for its token, which must not be there
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// All principals
    List {
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// Remove a principal: its token opens nothing any more
    Remove {
        /// Its name
        name: String,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
}

/// Tenants of a broker.
#[derive(Debug, Subcommand)]
pub enum TenantVerb {
    /// Make a tenant; the token of its owner is written to a file
    #[command(after_help = "Example: belljar broker tenant add payments --out payments.token")]
    Add {
        /// Its name
        name: String,
        /// File for its owner's token, which must not be there
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// All tenants
    List {
        /// The broker
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Deserialize)]
struct Made {
    token: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Known {
    name: String,
    role: Role,
}

#[derive(Deserialize)]
struct Principals {
    principals: Vec<Known>,
}

#[derive(Deserialize)]
struct Tenants {
    tenants: Vec<String>,
}

impl PrincipalVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Add { name, role, out, target } => {
                let body = serde_json::json!({ "name": name, "role": role });
                let file = place(&out)?;
                keep(
                    file,
                    &out,
                    target.ask(paths, Method::POST, "/belljar/v1/principals", body.to_string().into_bytes()).await,
                )?;
                match format {
                    Format::Json => json(&serde_json::json!({ "name": name, "role": role, "token_file": out }))?,
                    Format::Text => println!("{name} is {role}; its token is in {}", out.display()),
                }
            }
            Self::List { target } => {
                let Principals { principals } =
                    target.ask(paths, Method::GET, "/belljar/v1/principals", Vec::new()).await?;
                match format {
                    Format::Json => json(&principals)?,
                    Format::Text => {
                        let rows: Vec<Vec<String>> =
                            principals.iter().map(|one| vec![one.name.clone(), one.role.to_string()]).collect();
                        print!("{}", table(&["PRINCIPAL", "ROLE"], &rows));
                    }
                }
            }
            Self::Remove { name, target } => {
                let path = format!("/belljar/v1/principals/{}", escaped(&name));
                target.call(paths, Method::DELETE, &path, Vec::new()).await?;
                match format {
                    Format::Json => json(&serde_json::json!({ "name": name }))?,
                    Format::Text => println!("{name} administers nothing any more"),
                }
            }
        }
        Ok(0)
    }
}

impl TenantVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Add { name, out, target } => {
                let body = serde_json::json!({ "name": name });
                let file = place(&out)?;
                keep(
                    file,
                    &out,
                    target.ask(paths, Method::POST, "/belljar/v1/tenants", body.to_string().into_bytes()).await,
                )?;
                match format {
                    Format::Json => json(&serde_json::json!({ "tenant": name, "token_file": out }))?,
                    Format::Text => println!("tenant {name} is made; its owner's token is in {}", out.display()),
                }
            }
            Self::List { target } => {
                let Tenants { tenants } = target.ask(paths, Method::GET, "/belljar/v1/tenants", Vec::new()).await?;
                match format {
                    Format::Json => json(&tenants)?,
                    Format::Text => tenants.iter().for_each(|name| println!("{name}")),
                }
            }
        }
        Ok(0)
    }
}

/// The file for a token, made before the token is: a token that cannot be written would be lost.
fn place(path: &Path) -> Result<std::fs::File, Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path).map_err(|e| {
        Failure::usage(format!("{}: {e}", path.display())).hint("the token goes into a file that is not there yet")
    })
}

fn keep(mut file: std::fs::File, path: &Path, made: Result<Made, Failure>) -> Result<(), Failure> {
    let Made { token } = made.inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })?;
    let token = Zeroizing::new(token);
    let written = file.write_all(token.as_bytes()).and_then(|()| file.write_all(b"\n"));
    written.map_err(|e| Failure::undecided(format!("{}: {e}", path.display())))
}
