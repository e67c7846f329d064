//! `belljar secret`: what a broker releases to workloads that a rule names.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use belljar_broker::Method;
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::broker::target::{Target, escaped};
use crate::failure::Failure;
use crate::output::{Format, json, size, table};
use crate::paths::Paths;

/// Longest secret, in bytes: what an answer to a workload can carry.
const MAX_SECRET: usize = belljar_rcar::jwe::MAX_PLAINTEXT;

/// Secrets of a broker.
#[derive(Debug, Subcommand)]
pub enum SecretVerb {
    /// Store a secret, in place of the one that is there
    #[command(
        after_help = "Example: belljar secret put team/key/1 model.key\nExample: openssl rand 32 | belljar secret put team/key/1 -"
    )]
    Put {
        /// repository/type/tag
        path: String,
        /// File with the content; - for stdin
        file: PathBuf,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// Read a secret; only an owner may, and the audit log says so
    #[command(after_help = "Example: belljar secret get team/key/1 --out model.key")]
    Get {
        /// repository/type/tag
        path: String,
        /// File to write, which must not be there; stdout without it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// Names and lengths of secrets
    #[command(after_help = "Example: belljar secret list team/")]
    List {
        /// Beginning of their paths
        #[arg(default_value = "")]
        prefix: String,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
    /// Remove a secret
    #[command(after_help = "Example: belljar secret delete team/key/1")]
    Delete {
        /// repository/type/tag
        path: String,
        /// The broker
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    path: String,
    bytes: u64,
    revision: u64,
}

#[derive(Debug, Deserialize)]
struct Page {
    resources: Vec<Named>,
}

impl SecretVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Put { path, file, target } => {
                let content = read(&file)?;
                let length = content.len();
                target.call(paths, Method::PUT, &at(&path), content.to_vec()).await?;
                said(format, &path, &format!("{path} is stored: {length} bytes"))
            }
            Self::Get { path, out, target } => {
                let content = target.call(paths, Method::GET, &at(&path), Vec::new()).await?;
                match out {
                    Some(file) => write(&file, &content)?,
                    None => std::io::stdout().write_all(&content).map_err(Failure::undecided)?,
                }
                Ok(0)
            }
            Self::List { prefix, target } => {
                let mut all: Vec<Named> = Vec::new();
                loop {
                    let mut query = format!("/belljar/v1/resources?prefix={}", escaped(&prefix));
                    if let Some(last) = all.last() {
                        query.push_str(&format!("&after={}", escaped(&last.path)));
                    }
                    let Page { resources } = target.ask(paths, Method::GET, &query, Vec::new()).await?;
                    if resources.is_empty() {
                        break;
                    }
                    all.extend(resources);
                }
                match format {
                    Format::Json => json(&all)?,
                    Format::Text => {
                        let rows: Vec<Vec<String>> =
                            all.into_iter().map(|one| vec![one.path, size(one.bytes)]).collect();
                        print!("{}", table(&["SECRET", "SIZE"], &rows));
                    }
                }
                Ok(0)
            }
            Self::Delete { path, target } => {
                target.call(paths, Method::DELETE, &at(&path), Vec::new()).await?;
                said(format, &path, &format!("{path} is deleted"))
            }
        }
    }
}

fn at(path: &str) -> String {
    format!("/belljar/v1/resources/{}", escaped(path.trim_start_matches("kbs:///")))
}

fn said(format: Format, path: &str, text: &str) -> Result<i32, Failure> {
    match format {
        Format::Json => json(&serde_json::json!({ "path": path }))?,
        Format::Text => println!("{text}"),
    }
    Ok(0)
}

fn read(file: &std::path::Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let broken = |e: std::io::Error| Failure::usage(format!("{}: {e}", file.display()));
    let mut content = Zeroizing::new(Vec::new());
    let limit = u64::try_from(MAX_SECRET).unwrap_or(u64::MAX).saturating_add(1);
    match file.as_os_str() == "-" {
        true => std::io::stdin().lock().take(limit).read_to_end(&mut content).map_err(broken)?,
        false => std::fs::File::open(file).map_err(broken)?.take(limit).read_to_end(&mut content).map_err(broken)?,
    };
    if content.len() > MAX_SECRET {
        return Err(Failure::usage(format!("{} is longer than {MAX_SECRET} bytes", file.display())));
    }
    Ok(content)
}

fn write(file: &std::path::Path, content: &[u8]) -> Result<(), Failure> {
    let broken = |e: std::io::Error| Failure::usage(format!("{}: {e}", file.display()));
    let mut options = std::fs::OpenOptions::new();
    let mut made = options.write(true).create_new(true).mode(0o600).open(file).map_err(broken)?;
    made.write_all(content).map_err(broken)
}
