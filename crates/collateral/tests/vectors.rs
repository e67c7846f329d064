//! Real evidence finds its real collateral, and that verifies up to the vendors' roots.
//!
//! Each entry of the vectors' index that no one altered is one trial. Where the files are missing (they are not part of
//! the repository), the trials are listed as ignored. `BELLJAR_VECTORS` names another folder than `../shared/vectors`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use belljar_collateral::{Anchors, Directory, Document, Freshness, Item, ItemError, Product, Update, check, need};
use belljar_evidence::dcap::{self, Collateral, Missing, Options, TcbInfo, Verifier};
use belljar_evidence::pem;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

fn main() {
    let folder = std::env::var_os("BELLJAR_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let index: Option<Vec<Value>> =
        std::fs::read(folder.join("vectors.json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let Some(index) = index else {
        eprintln!("no vectors at {}: every vector is ignored", folder.display());
        let ignored = vec![Trial::test("index_of_vectors", || Err("not run".into())).with_ignored_flag(true)];
        libtest_mimic::run(&Arguments::from_args(), ignored).exit();
    };
    let folder = Arc::new(folder);
    let trials = index
        .into_iter()
        .filter(|entry| entry["mutation"].is_null() && entry["synthetic"] != true && entry["derived_from"].is_null())
        .filter_map(|entry| {
            let (name, folder) = (entry["id"].as_str()?.to_owned(), Arc::clone(&folder));
            match entry["kind"].as_str()? {
                "snp" => Some(Trial::test(name, move || snp(&folder, &entry))),
                "tdx" | "sgx" if entry["files"]["collateral"]["tcb_info"].is_string() => {
                    Some(Trial::test(name, move || quote(&folder, &entry)))
                }
                _ => None,
            }
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn snp(folder: &Path, entry: &Value) -> Result<(), Failed> {
    let read = |role: &str| std::fs::read(folder.join(entry["files"][role].as_str().unwrap())).unwrap();
    let product = Product::ALL.into_iter().find(|product| entry["product"] == product.name());
    let needs = need::of_report(&read("evidence"), product);
    if entry["expect"]["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "vlek")) {
        assert_eq!(needs, Err(need::NeedError::Item(ItemError::NotVcek)));
        return Ok(());
    }
    let needs = needs?;
    let vek = read("vek");
    let body = match vek.first() {
        Some(0x30) => vek,
        _ => pem::certificates(&vek, 1)?.remove(0),
    };
    let [item @ Item::Vcek { product: of_report, .. }, chain, _] = needs.as_slice() else { panic!("{needs:?}") };
    assert_eq!(Some(*of_report), product);
    let builtin = check::builtin_chain(*of_report);
    let anchors = Anchors::vendors();
    let facts = check::verify(item, &body, &builtin, &anchors)?;
    assert_eq!((facts.root, facts.issuer), ("amd", format!("SEV-{}", of_report.name())));
    assert_eq!(check::verify(chain, &builtin, b"", &anchors)?.root, "amd");
    Ok(())
}

fn quote(folder: &Path, entry: &Value) -> Result<(), Failed> {
    let path = |role: &Value| folder.join(role.as_str().unwrap());
    let evidence = std::fs::read(path(&entry["files"]["evidence"]))?;
    let needs = need::of_quote(&evidence, None, Update::Standard)?;
    let collateral = path(&entry["files"]["collateral"]["tcb_info"]);
    let mut directory = Directory::open(collateral.parent().unwrap())?;
    // Some published sets leave a chain out, which the index takes from its place.
    let chain = &entry["files"]["collateral"]["pck_crl_chain"];
    match (directory.intel.pck_crl_chain.is_empty(), chain.is_string()) {
        (true, true) => directory.intel.pck_crl_chain = std::fs::read(path(chain))?,
        (true, false) => directory.intel.pck_crl.clear(),
        (false, _) => {}
    }
    let documents = directory.documents()?;
    let at = time(entry["expect"]["at"].as_str().unwrap());
    let found: Vec<&Document> = documents.iter().filter(|document| needs.contains(&document.item)).collect();
    assert!(found.iter().any(|document| matches!(document.item, Item::TcbInfo { .. })), "{needs:?}");
    for document in &documents {
        // The set of a platform holds nothing that its quotes do not need.
        assert!(needs.contains(&document.item), "{}", document.item);
        let facts = document.verify(&Anchors::vendors())?;
        assert_eq!((facts.root, facts.rung(at, 0)), ("intel", Freshness::Fresh), "{}", document.item);
    }
    supposed(&evidence, &directory.intel, at)
}

/// What Intel published, supposed in its own place, gives the same rating, and the verdict says that it was supposed.
fn supposed(evidence: &[u8], collateral: &Collateral, at: u64) -> Result<(), Failed> {
    let verifier = || Verifier::new(collateral, dcap::Anchors::intel());
    let options = Options { missing: Missing::Allowed, ..Options::default() };
    let known = verifier().verify(evidence, None, at, &options);
    let info = TcbInfo::parse(&collateral.tcb_info)?;
    let other = verifier().suppose(info).verify(evidence, None, at, &options);
    assert_eq!((known.facts.tcb, known.verdict), (other.facts.tcb, other.verdict));
    assert!(!known.flags.contains(&"supposed-tcb-info".to_owned()));
    assert!(other.flags.contains(&"supposed-tcb-info".to_owned()));
    Ok(())
}

fn time(text: &str) -> u64 {
    let time: x509_cert::der::DateTime = text.parse().unwrap();
    time.unix_duration().as_secs()
}
