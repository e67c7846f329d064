//! `belljar contract generate`: a manifest with contracts in it, on stdout.

use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;
use crate::output::{Format, json};
use crate::paths::Paths;
use crate::verbs::kube::manifest::{ManifestOptions, unprotected, words};

/// Options of `belljar contract generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// What is read, and how
    #[command(flatten)]
    pub manifest: ManifestOptions,
    /// Write the manifest there instead of to stdout
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl Generate {
    /// Carries the verb out.
    pub async fn execute(self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let generated = self.manifest.generate(paths).await?;
        match format {
            Format::Json => {
                let workloads: Vec<_> = generated
                    .workloads
                    .iter()
                    .map(|workload| {
                        serde_json::json!({
                            "kind": workload.kind, "name": workload.name, "namespace": workload.namespace,
                            "initdata_digest": workload.digest.to_hex(), "contract": workload.contract,
                            "words": workload.contract.plain_words(), "notes": workload.notes,
                        })
                    })
                    .collect();
                let mut document = serde_json::json!({ "workloads": workloads, "unprotected": generated.unprotected });
                match &self.output {
                    Some(file) => write(file, &generated.yaml)?,
                    None => {
                        if let Some(document) = document.as_object_mut() {
                            document.insert("yaml".to_owned(), generated.yaml.clone().into());
                        }
                    }
                }
                json(&document)?;
            }
            Format::Text => {
                for line in generated.workloads.iter().flat_map(words) {
                    eprintln!("{line}");
                }
                if let Some(line) = unprotected(&generated.unprotected) {
                    eprintln!("{line}");
                }
                match &self.output {
                    Some(file) => write(file, &generated.yaml)?,
                    None => print!("{}", generated.yaml),
                }
            }
        }
        Ok(0)
    }
}

fn write(file: &std::path::Path, yaml: &str) -> Result<(), Failure> {
    std::fs::write(file, yaml).map_err(|e| Failure::undecided(format!("cannot write {}: {e}", file.display())))
}
