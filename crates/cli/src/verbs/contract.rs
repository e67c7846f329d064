//! `belljar contract check|show|diff|generate`: the pod contract by itself.

mod source;

use std::collections::BTreeSet;
use std::path::PathBuf;

use belljar_contract::{Change, Contract, Kind};
use clap::Subcommand;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::{Format, json};
use crate::paths::Paths;
use crate::verbs::kube::generate::Generate;
use source::{Source, read};

/// The pod contract by itself.
#[derive(Debug, Subcommand)]
pub enum ContractVerb {
    /// Whether contracts can be used, and their canonical form on stdout
    #[command(after_help = "Example: belljar contract check contract.toml\nExit codes: 0 yes · 2 no")]
    Check {
        /// A contract or an initdata document (TOML), or Kubernetes YAML with contracts in it; - is stdin
        file: PathBuf,
    },
    /// Contracts in plain words, with the digest of their initdata
    #[command(after_help = "Example: belljar contract show web.sealed.yaml")]
    Show {
        /// A contract or an initdata document (TOML), or Kubernetes YAML with contracts in it; - is stdin
        file: PathBuf,
        /// In about ten lines for each
        #[arg(long)]
        short: bool,
    },
    /// What a new contract allows that the old one did not, in words
    #[command(after_help = "Example: belljar contract diff web.old.yaml web.yaml\n\
                      Exit codes: 0 nothing that was not allowed before (equal, or less) · 1 something: more (+), or something \
                      else (~), such as another image · 2 a contract cannot be read")]
    Diff {
        /// The contract as it was: as for `show`
        old: PathBuf,
        /// The contract as it is to be: as for `show`
        new: PathBuf,
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
            Self::Generate(verb) => verb.execute(paths, format).await,
            Self::Check { file } => check(&read(&file)?, format),
            Self::Show { file, short } => show(&read(&file)?, short, format),
            Self::Diff { old, new } => diff(&read(&old)?, &read(&new)?, format),
        }
    }
}

fn check(sources: &[Source], format: Format) -> Result<i32, Failure> {
    match (format, sources) {
        (Format::Json, [Source { title: None, contract, .. }]) => json(contract)?,
        (Format::Json, sources) => {
            let entry = |source: &Source| serde_json::json!({ "workload": source.title, "contract": source.contract });
            json(&sources.iter().map(entry).collect::<Vec<_>>())?;
        }
        (Format::Text, sources) => {
            for source in sources {
                if let Some(title) = &source.title {
                    println!("# {}", belljar_guest_api::limits::one_line(title));
                }
                print!("{}", source.contract.to_toml());
            }
        }
    }
    Ok(0)
}

fn show(sources: &[Source], short: bool, format: Format) -> Result<i32, Failure> {
    let words = |contract: &Contract| if short { contract.summary() } else { contract.plain_words() };
    let entry = |source: &Source| {
        let mut entry = serde_json::json!({
            "initdata_digest": source.digest.to_hex(), "words": words(&source.contract), "contract": source.contract,
        });
        if let (Some(entry), Some(title)) = (entry.as_object_mut(), &source.title) {
            entry.insert("workload".to_owned(), title.clone().into());
        }
        entry
    };
    match (format, sources) {
        (Format::Json, [source @ Source { title: None, .. }]) => json(&entry(source))?,
        (Format::Json, sources) => json(&sources.iter().map(entry).collect::<Vec<_>>())?,
        (Format::Text, sources) => {
            for source in sources {
                let title = source.title.as_ref().map(|title| format!("{title}: ")).unwrap_or_default();
                println!("{}initdata digest {}", belljar_guest_api::limits::one_line(&title), source.digest.to_hex());
                for line in words(&source.contract) {
                    println!("- {line}");
                }
            }
        }
    }
    Ok(0)
}

/// The differences of one workload.
#[derive(Debug, Serialize)]
struct Difference<'a> {
    /// `None` where a file holds one contract and nothing else.
    workload: Option<&'a str>,
    changes: Vec<Change>,
}

fn diff(old: &[Source], new: &[Source], format: Format) -> Result<i32, Failure> {
    let differences = differences(old, new);
    let allows_more = differences.iter().flat_map(|one| &one.changes).any(Change::allows_more);
    match format {
        Format::Json => json(&serde_json::json!({ "allows_more": allows_more, "differences": differences }))?,
        Format::Text => {
            for Difference { workload, changes } in &differences {
                if let Some(title) = workload {
                    println!("{}", belljar_guest_api::limits::one_line(title));
                }
                for change in changes {
                    println!("{} {}: {}", sign(change.kind), change.key, change.words);
                }
            }
            if differences.is_empty() {
                println!("no difference");
            }
        }
    }
    Ok(if allows_more { Exit::Refused.code() } else { 0 })
}

fn sign(kind: Kind) -> char {
    match kind {
        Kind::Widened => '+',
        Kind::Narrowed => '-',
        Kind::Changed => '~',
    }
}

/// Workloads are compared by kind and name; two files with one contract each are compared whatever it is called.
fn differences<'a>(old: &'a [Source], new: &'a [Source]) -> Vec<Difference<'a>> {
    let mut found = match (old, new) {
        ([old], [new]) if old.title.is_none() || new.title.is_none() => {
            let workload = new.title.as_deref().or(old.title.as_deref());
            vec![Difference { workload, changes: Contract::diff(&old.contract, &new.contract) }]
        }
        (old, new) => {
            let titles: BTreeSet<Option<&str>> = old.iter().chain(new).map(|source| source.title.as_deref()).collect();
            titles.into_iter().map(|title| of_title(title, old, new)).collect()
        }
    };
    found.retain(|one| !one.changes.is_empty());
    found
}

fn of_title<'a>(title: Option<&'a str>, old: &[Source], new: &[Source]) -> Difference<'a> {
    let with_title = |sources: &[Source]| {
        let found = sources.iter().filter(|source| source.title.as_deref() == title);
        found.map(|source| source.contract.clone()).collect::<Vec<_>>()
    };
    let whole = |kind, words: String| Change { kind, key: "containers".to_owned(), words };
    let changes = match (with_title(old).as_slice(), with_title(new).as_slice()) {
        ([], new) => {
            let told = new.iter().flat_map(Contract::summary).map(|line| whole(Kind::Widened, line));
            std::iter::once(whole(Kind::Widened, "this workload may run".to_owned())).chain(told).collect()
        }
        (_, []) => vec![whole(Kind::Narrowed, "this workload may not run any more".to_owned())],
        ([old], [new]) => Contract::diff(old, new),
        // Nobody can say which is which, so all that the new ones say counts as new.
        (old, new) if old == new => Vec::new(),
        (old, new) => {
            let words = format!("the name stands for {} contracts instead of {}", new.len(), old.len());
            vec![whole(Kind::Changed, words)]
        }
    };
    Difference { workload: title, changes }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = include_str!("../../../contract/tests/data/scorer.toml");

    fn source(title: Option<&str>, change: [&str; 2]) -> Source {
        let contract = Contract::parse(&CONTRACT.replace(change[0], change[1])).unwrap();
        let raw = belljar_contract::Initdata::with_contract(&contract).to_toml();
        let digest = belljar_contract::digest(raw.as_bytes()).unwrap();
        Source { title: title.map(str::to_owned), contract, digest }
    }

    fn code(old: &[Source], new: &[Source]) -> i32 {
        diff(old, new, Format::Json).unwrap()
    }

    const SAME: [&str; 2] = ["", ""];
    const CLOSED: [&str; 2] = ["logs = \"allow\"\n", ""];
    const OTHER: [&str; 2] = ["--all", "--none"];

    #[test]
    fn the_exit_code_says_whether_something_new_is_allowed() {
        let (base, closed, other) = ([source(None, SAME)], [source(None, CLOSED)], [source(None, OTHER)]);
        assert_eq!(code(&base, &base), 0);
        assert_eq!(code(&base, &closed), 0);
        assert_eq!(code(&closed, &base), 1);
        // Another command is neither more nor less, and was not allowed before.
        assert_eq!(code(&base, &other), 1);
    }

    #[test]
    fn workloads_are_compared_by_their_titles() {
        let (web, db) = (Some("Deployment web"), Some("Deployment db"));
        let both = [source(web, SAME), source(db, SAME)];
        let swapped = [source(db, SAME), source(web, SAME)];
        assert!(differences(&both, &swapped).is_empty());
        let closed = [source(web, CLOSED), source(db, SAME)];
        let found = differences(&closed, &both);
        assert_eq!((found.len(), found[0].workload, found[0].changes.len()), (1, web, 1));
        // One more workload is more, one less is less.
        assert_eq!((code(&both[..1], &both), code(&both, &both[..1])), (1, 0));
        // A single contract is compared with the single workload of a manifest.
        assert_eq!((code(&both[..1], &[source(None, SAME)]), code(&[source(None, CLOSED)], &both[..1])), (0, 1));
        // Two workloads of different names are not compared with each other.
        assert_eq!(code(&both[..1], &both[1..]), 1);
        // The same name twice: equal or not.
        let twice = [source(web, SAME), source(web, CLOSED)];
        assert_eq!((code(&twice, &twice), code(&twice, &[source(web, CLOSED), source(web, SAME)])), (0, 1));
    }
}
