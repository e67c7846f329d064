//! What the user expects to run: out of an annotated YAML, an initdata document, or a contract.

use std::path::Path;

use belljar_contract::{Contract, Initdata, digest, from_annotation};
use belljar_kube::Manifest;

use crate::failure::Failure;

/// Longest file that is read.
const MAX_FILE: u64 = 8 << 20;

/// One contract of the user's.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which part of the file it is from, where there are several.
    pub title: String,
    /// HOST_DATA of its initdata document; nothing for a contract alone.
    pub host_data: Option<[u8; 32]>,
    /// The contract.
    pub contract: Contract,
}

/// What the user's file says.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Path of the file, for people.
    pub file: String,
    /// At least one.
    pub candidates: Vec<Candidate>,
}

/// How a pod compares with the user's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// The same contract.
    Same {
        /// Which part of the file.
        title: String,
    },
    /// Another one; the differences from the user's, in words.
    Other {
        /// The part of the file that differs least.
        title: String,
        /// One line each.
        differences: Vec<String>,
    },
}

impl Expected {
    /// Reads the user's file.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        let broken = |e: std::io::Error| Failure::usage(format!("{}: {e}", file.display()));
        let length = std::fs::metadata(file).map_err(broken)?.len();
        if length > MAX_FILE {
            return Err(Failure::usage(format!("{} has {length} bytes, at most {MAX_FILE}", file.display())));
        }
        let text = std::fs::read_to_string(file).map_err(broken)?;
        let candidates = candidates(&text).map_err(|why| Failure::usage(format!("{}: {why}", file.display())))?;
        Ok(Self { file: file.display().to_string(), candidates })
    }

    /// Compares a pod's contract, with the HOST_DATA that its hardware vouches for.
    pub fn compare(&self, contract: &Contract, host_data: &[u8; 32]) -> Comparison {
        let same = |candidate: &&Candidate| match &candidate.host_data {
            Some(expected) => expected == host_data,
            None => candidate.contract == *contract,
        };
        if let Some(candidate) = self.candidates.iter().find(same) {
            return Comparison::Same { title: candidate.title.clone() };
        }
        let differing = self.candidates.iter().map(|candidate| {
            let mut differences = Contract::diff(&candidate.contract, contract)
                .iter()
                .map(|change| format!("{}: {}", change.key, change.words))
                .collect::<Vec<_>>();
            if differences.is_empty() {
                differences
                    .push("the same contract in another document: the initdata differs beside the contract".to_owned());
            }
            (candidate.title.clone(), differences)
        });
        let (title, differences) = differing.min_by_key(|(_, differences)| differences.len()).unwrap_or_default();
        Comparison::Other { title, differences }
    }
}

fn candidates(text: &str) -> Result<Vec<Candidate>, String> {
    if Initdata::parse(text.as_bytes()).is_ok() {
        return Ok(vec![document("", text.as_bytes())?]);
    }
    match Contract::parse(text) {
        Ok(contract) => Ok(vec![Candidate { title: String::new(), host_data: None, contract }]),
        Err(_) if text.contains("apiVersion") => annotated(text),
        Err(error) => Err(error.to_string()),
    }
}

/// The initdata documents in the annotations of a Kubernetes manifest.
fn annotated(text: &str) -> Result<Vec<Candidate>, String> {
    let manifest = Manifest::parse(text).map_err(|error| error.to_string())?;
    let found: Vec<Candidate> = manifest
        .annotated()
        .into_iter()
        .map(|(title, annotation)| {
            let raw = from_annotation(&annotation).map_err(|error| format!("{title}: {error}"))?;
            document(&title, &raw).map_err(|error| format!("{title}: {error}"))
        })
        .collect::<Result<_, String>>()?;
    match found.is_empty() {
        true => Err("no workload in it has a contract: give the output of `belljar contract generate`".to_owned()),
        false => Ok(found),
    }
}

fn document(title: &str, raw: &[u8]) -> Result<Candidate, String> {
    let initdata = Initdata::parse(raw).map_err(|error| error.to_string())?;
    let host_data = digest(raw).map_err(|error| error.to_string())?.host_data();
    let contract = initdata.contract().map_err(|error| error.to_string())?;
    Ok(Candidate { title: title.to_owned(), host_data: Some(host_data), contract })
}
