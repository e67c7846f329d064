//! `belljar contract check|show|generate`: the pod contract by itself.

use std::path::PathBuf;

use belljar_contract::{Contract, Initdata, digest};
use clap::Subcommand;

use crate::failure::Failure;
use crate::output::{Format, json};
use crate::paths::Paths;
use crate::verbs::kube::generate::Generate;

/// Longest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// The pod contract by itself.
#[derive(Debug, Subcommand)]
pub enum ContractVerb {
    /// Whether a contract (TOML) can be used, and its canonical form on stdout
    #[command(after_help = "Example: belljar contract check contract.toml")]
    Check {
        /// The contract
        file: PathBuf,
    },
    /// A contract or an initdata document in plain words, with its digest
    #[command(after_help = "Example: belljar contract show contract.toml")]
    Show {
        /// The contract or the initdata document
        file: PathBuf,
    },
    /// Contracts from Kubernetes YAML: the manifest with them in it on stdout, their plain words on stderr
    #[command(after_help = "Example: belljar contract generate -f web.yaml -f config.yaml > web.sealed.yaml\n\
                      Exit codes: 0 yes · 2 the manifest asks for what a pod VM does not do · 3 no registry")]
    Generate(Box<Generate>),
}

impl ContractVerb {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        match self {
            Self::Generate(verb) => return verb.execute(paths, format).await,
            Self::Check { file } => {
                let contract = Contract::parse(&read(&file)?).map_err(Failure::usage)?;
                match format {
                    Format::Json => json(&contract)?,
                    Format::Text => print!("{}", contract.to_toml()),
                }
            }
            Self::Show { file } => {
                let text = read(&file)?;
                let (contract, raw) = match Initdata::parse(text.as_bytes()) {
                    Ok(initdata) => (initdata.contract().map_err(Failure::usage)?, text),
                    Err(_) => {
                        let contract = Contract::parse(&text).map_err(Failure::usage)?;
                        let raw = Initdata::with_contract(&contract).to_toml();
                        (contract, raw)
                    }
                };
                let digest = digest(raw.as_bytes()).map_err(Failure::usage)?;
                let words = contract.plain_words();
                match format {
                    Format::Json => json(&serde_json::json!({
                        "initdata_digest": digest.to_hex(), "words": words, "contract": contract,
                    }))?,
                    Format::Text => {
                        println!("initdata digest {}", digest.to_hex());
                        for line in words {
                            println!("- {line}");
                        }
                    }
                }
            }
        }
        Ok(0)
    }
}

fn read(file: &std::path::Path) -> Result<String, Failure> {
    let broken = |e: std::io::Error| Failure::usage(format!("{}: {e}", file.display()));
    let length = std::fs::metadata(file).map_err(broken)?.len();
    if length > MAX_FILE {
        return Err(Failure::usage(format!("{} has {length} bytes, at most {MAX_FILE}", file.display())));
    }
    std::fs::read_to_string(file).map_err(broken)
}
