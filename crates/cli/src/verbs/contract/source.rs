//! Where a contract is read from: a contract (TOML), an initdata document (TOML), or Kubernetes YAML whose workloads carry an
//! initdata annotation.

use std::io::Read;
use std::path::Path;

use belljar_contract::{Contract, ContractError, Digest, Initdata, InitdataError, digest, from_annotation};
use belljar_kube::Manifest;

use crate::failure::Failure;

/// Longest file that is read: YAML's bound, the largest.
const MAX_FILE: u64 = 8 << 20;

/// A contract, and what it was found in.
#[derive(Debug)]
pub struct Source {
    /// The workload's kind and name; `None` where the file holds one contract and nothing else.
    pub title: Option<String>,
    /// The contract.
    pub contract: Contract,
    /// Digest of the initdata document: the one that was read, or the one that Belljar makes of the contract.
    pub digest: Digest,
}

/// All contracts of a file (`-` is stdin), at least one.
pub fn read(file: &Path) -> Result<Vec<Source>, Failure> {
    contracts(file, &read_text(file)?)
}

fn contracts(file: &Path, text: &str) -> Result<Vec<Source>, Failure> {
    let at = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", file.display()));
    match one(text) {
        Ok(source) => Ok(vec![source]),
        Err(InitdataError::Toml { message }) => {
            // It is no TOML at all. Where it is no YAML either, the file's name decides which complaint helps.
            let manifest = Manifest::parse(text).map_err(|error| match is_yaml(file) {
                true => at(&error),
                false => at(&InitdataError::Toml { message }),
            })?;
            let annotated = manifest.annotated();
            if annotated.is_empty() {
                return Err(at(&"no workload carries an initdata annotation")
                    .hint("make one with `belljar contract generate`, or name a contract or an initdata document"));
            }
            annotated.into_iter().map(|(title, value)| of_annotation(file, title, &value)).collect()
        }
        Err(error) => Err(at(&error)),
    }
}

fn of_annotation(file: &Path, title: String, value: &str) -> Result<Source, Failure> {
    let at = |error: InitdataError| Failure::usage(format!("{}: {title}: {error}", file.display()));
    let raw = from_annotation(value).map_err(at)?;
    let contract = Initdata::parse(&raw).and_then(|initdata| initdata.contract()).map_err(at)?;
    let digest = digest(&raw).map_err(at)?;
    Ok(Source { title: Some(title), contract, digest })
}

/// An initdata document, or a contract by itself: a contract's version is a number, an initdata document's a text.
fn one(text: &str) -> Result<Source, InitdataError> {
    let of_initdata = |initdata: Initdata| {
        Ok(Source { title: None, contract: initdata.contract()?, digest: digest(text.as_bytes())? })
    };
    let failed = match Initdata::parse(text.as_bytes()) {
        Ok(initdata) => return of_initdata(initdata),
        Err(error @ InitdataError::Toml { .. }) => return Err(error),
        Err(error) => error,
    };
    match Contract::parse(text) {
        Ok(contract) => {
            let digest = digest(Initdata::with_contract(&contract).to_toml().as_bytes())?;
            Ok(Source { title: None, contract, digest })
        }
        Err(ContractError::WrongType { key, found: "string", .. }) if key == "version" => Err(failed),
        Err(error) => Err(error.into()),
    }
}

fn is_yaml(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn read_text(file: &Path) -> Result<String, Failure> {
    let broken = |e: std::io::Error| Failure::usage(format!("{}: {e}", file.display()));
    let reader: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(file).map_err(broken)?),
    };
    let mut text = String::new();
    reader.take(MAX_FILE.saturating_add(1)).read_to_string(&mut text).map_err(broken)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(Failure::usage(format!("{} has more than {MAX_FILE} bytes", file.display())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = include_str!("../../../../contract/tests/data/scorer.toml");

    fn in_file(name: &str, text: &str) -> Result<Vec<Source>, Failure> {
        contracts(Path::new(name), text)
    }

    fn yaml(names: &[&str], annotation: &str) -> String {
        let pod = |name: &&str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations:\n    \
                 io.katacontainers.config.hypervisor.cc_init_data: {annotation}\nspec: {{}}\n"
            )
        };
        names.iter().map(pod).collect::<Vec<_>>().join("---\n")
    }

    #[test]
    fn the_same_contract_is_read_from_toml_initdata_and_yaml() {
        let contract = Contract::parse(CONTRACT).unwrap();
        let initdata = Initdata::with_contract(&contract).to_toml();
        let annotation = belljar_contract::to_annotation(initdata.as_bytes());
        let expected = digest(initdata.as_bytes()).unwrap().to_hex();
        for (name, text) in
            [("a.toml", CONTRACT.to_owned()), ("a.toml", initdata.clone()), ("a.yaml", yaml(&["web"], &annotation))]
        {
            let [source] = in_file(name, &text).unwrap().try_into().unwrap();
            assert_eq!((&source.contract, source.digest.to_hex()), (&contract, expected.clone()));
        }
        let two = in_file("b.yaml", &yaml(&["web", "db"], &annotation)).unwrap();
        let titles: Vec<_> = two.iter().map(|source| source.title.clone().unwrap()).collect();
        assert_eq!(titles.len(), 2);
        assert!(titles[0].contains("web") && titles[1].contains("db"), "{titles:?}");
    }

    #[test]
    fn what_cannot_be_read_says_what_it_is() {
        let cause = |name: &str, text: &str| in_file(name, text).unwrap_err().cause;
        let missing = cause("a.toml", &CONTRACT.replace("cwd = \"/app\"\n", "cwd = 7\n"));
        assert!(missing.ends_with("`containers.scorer.cwd` is a integer, expected a string"), "{missing}");
        let initdata = Initdata::with_contract(&Contract::parse(CONTRACT).unwrap()).to_toml();
        let algorithm = cause("a.toml", &initdata.replace("sha256\"", "md5\""));
        assert!(algorithm.contains("initdata algorithm \"md5\" is not supported"), "{algorithm}");
        let none = cause("a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: { name: web }\n");
        assert!(none.ends_with("no workload carries an initdata annotation"), "{none}");
        let broken = cause("a.yaml", &yaml(&["web"], "AAAA"));
        assert!(broken.contains("web: initdata cannot be decompressed"), "{broken}");
        let no_toml = cause("a.toml", "a: [");
        assert!(no_toml.contains("initdata is not valid TOML"), "{no_toml}");
    }
}
