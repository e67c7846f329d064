//! `belljar collateral` with evidence and collateral of real platforms. Where the vectors are missing, the trials are
//! listed as ignored and never as passed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// One use of the verb, given the folder of the vectors.
type Use = fn(&Path) -> Result<(), Failed>;

/// When quotes and collateral below are all valid.
const AT: &str = "2025-06-25T12:00:00Z";
const SET: &str = "collateral/tdx-b0c06f-2025-06";

fn main() {
    let folder = std::env::var_os("BELLJAR_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let missing = !folder.join(SET).is_dir();
    if missing {
        eprintln!("no vectors at {}: every trial is ignored", folder.display());
    }
    let uses: [(&str, Use); 6] = [
        ("a_lowered_status", a_lowered_status),
        ("the_same_again", the_same_again),
        ("nothing_to_say", nothing_to_say),
        ("what_evidence_needs", what_evidence_needs),
        ("a_bundle_for_a_quote", a_bundle_for_a_quote),
        ("a_directory_for_a_report", a_directory_for_a_report),
    ];
    let trials = uses
        .map(|(name, run)| {
            let folder = folder.clone();
            Trial::test(name, move || run(&folder)).with_ignored_flag(missing)
        })
        .into();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A directory of evidence: a quote of that platform, one of another, a report, and a note.
fn evidence(folder: &Path) -> tempfile::TempDir {
    let desk = tempfile::tempdir().unwrap();
    let index: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("vectors.json")).unwrap()).unwrap();
    for id in ["tdx-v4-phala", "tdx-v4-azure", "snp-milan-v5-gcp"] {
        let entry = index.iter().find(|entry| entry["id"] == id).unwrap();
        let from = folder.join(entry["files"]["evidence"].as_str().unwrap());
        std::fs::copy(from, desk.path().join(id)).unwrap();
    }
    std::fs::write(desk.path().join("note.txt"), "not evidence").unwrap();
    desk
}

fn simulate(folder: &Path, desk: &Path, info: &str) -> (i32, Value) {
    let supposed = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(supposed.path(), info).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_belljar"))
        .args(["collateral", "simulate", "--format", "json", "--at", AT, "--tcb-info"])
        .arg(supposed.path())
        .arg("--evidence")
        .arg(desk)
        .arg("--collateral")
        .arg(folder.join(SET))
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), json)
}

fn published(folder: &Path) -> String {
    std::fs::read_to_string(folder.join(SET).join("tcb_info.json")).unwrap()
}

fn outcome<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let files = answer["files"].as_array().unwrap();
    files.iter().find(|file| file["file"].as_str().unwrap().ends_with(name)).unwrap()
}

fn a_lowered_status(folder: &Path) -> Result<(), Failed> {
    let desk = evidence(folder);
    let lowered = published(folder)
        .replace("\"tcbStatus\":\"UpToDate\"", "\"tcbStatus\":\"OutOfDate\",\"advisoryIDs\":[\"INTEL-SA-99999\"]");
    // With its wrapper and a signature that does not verify, and the inner object alone.
    let inner = lowered.split_once("\"tcbInfo\":").unwrap().1.rsplit_once(",\"signature\"").unwrap().0;
    for info in [lowered.as_str(), inner] {
        let (code, answer) = simulate(folder, desk.path(), info);
        assert_eq!((code, &answer["judged"], &answer["changed"]), (1, &1.into(), &1.into()), "{answer}");
        let changed = outcome(&answer, "tdx-v4-phala");
        assert_eq!(changed["now"]["verdict"], "valid", "{changed}");
        assert_eq!(changed["now"]["tcb"]["combined"], "UpToDate", "{changed}");
        assert_eq!(
            (&changed["then"]["verdict"], &changed["then"]["tcb"]["combined"]),
            (&"valid".into(), &"OutOfDate".into())
        );
        assert_eq!(changed["then"]["tcb"]["advisories"], serde_json::json!(["INTEL-SA-99999"]));
        assert_eq!(outcome(&answer, "tdx-v4-azure")["outcome"], "elsewhere");
        assert_eq!(outcome(&answer, "snp-milan-v5-gcp")["why"], "snp evidence does not depend on TCB info");
        assert_eq!(outcome(&answer, "note.txt")["outcome"], "unreadable");
    }
    Ok(())
}

fn the_same_again(folder: &Path) -> Result<(), Failed> {
    let desk = evidence(folder);
    let (code, answer) = simulate(folder, desk.path(), &published(folder));
    assert_eq!((code, &answer["judged"], &answer["changed"]), (0, &1.into(), &0.into()), "{answer}");
    // Neither do dates: what Intel published sixteen months later is judged as if everything else had come along.
    let later = std::fs::read_to_string(folder.join("collateral/tdx-b0c06f-2026-10/tcb_info.json"))?;
    let (code, answer) = simulate(folder, desk.path(), &later);
    let then = &outcome(&answer, "tdx-v4-phala")["then"];
    assert_eq!(
        (code, &then["verdict"], &then["tcb"]["combined"]),
        (1, &"valid".into(), &"OutOfDate".into()),
        "{answer}"
    );
    // Another number alone changes nothing that a verdict says.
    let number = published(folder).replace("\"tcbEvaluationDataNumber\":", "\"tcbEvaluationDataNumber\":9");
    assert_eq!(simulate(folder, desk.path(), &number).0, 0);
    Ok(())
}

fn nothing_to_say(folder: &Path) -> Result<(), Failed> {
    let desk = evidence(folder);
    let other = published(folder).replace("B0C06F000000", "B0C06F000001");
    assert_eq!(simulate(folder, desk.path(), &other).0, 3);
    assert_eq!(simulate(folder, desk.path(), "{}").0, 2);
    Ok(())
}

/// Nobody listens at the services' addresses, so nothing is got; the items that were asked for are listed all the same.
fn what_evidence_needs(folder: &Path) -> Result<(), Failed> {
    let index: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("vectors.json"))?)?;
    let cache = tempfile::tempdir()?;
    for (id, role, expected) in [
        ("snp-milan-v5-gcp", "evidence", &["amd/Milan/vcek/", "amd/Milan/chain/vcek", "amd/Milan/crl/vcek"][..]),
        ("snp-turin-v5", "evidence", &["amd/Turin/vcek/", "amd/Turin/chain/vcek", "amd/Turin/crl/vcek"]),
        ("az-snp-milan-v3", "hcl_report", &["amd/Milan/vcek/", "amd/Milan/chain/vcek", "amd/Milan/crl/vcek"]),
        (
            "tdx-v4-phala",
            "evidence",
            &[
                "intel/tdx/tcb-info/b0c06f000000/standard",
                "intel/tdx/qe-identity/standard",
                "intel/pck-crl/platform",
                "intel/root-crl",
            ],
        ),
        (
            "sgx-v3-90c06f",
            "evidence",
            &[
                "intel/sgx/tcb-info/90c06f000000/standard",
                "intel/sgx/qe-identity/standard",
                "intel/pck-crl/platform",
                "intel/root-crl",
            ],
        ),
    ] {
        let entry = index.iter().find(|entry| entry["id"] == id).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_belljar"))
            .env_clear()
            .args(["collateral", "fetch", "--format", "json", "--max-wait", "0"])
            .args(["--kds", "http://127.0.0.1:1", "--pccs", "http://127.0.0.1:1", "--cache"])
            .arg(cache.path())
            .arg(folder.join(entry["files"][role].as_str().unwrap()))
            .output()?;
        assert_eq!(output.status.code(), Some(3), "{id}");
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let items: Vec<&str> =
            answer["items"].as_array().unwrap().iter().map(|row| row["item"].as_str().unwrap()).collect();
        assert_eq!(items.len(), expected.len(), "{id}");
        assert!(items.iter().zip(expected).all(|(found, start)| found.starts_with(start)), "{id}: {items:?}");
    }
    Ok(())
}

/// Runs the program; its exit code and the JSON that it prints.
fn belljar(args: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_belljar")).args(args).args(["--format", "json"]).output().unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

/// Evidence of the index, and when to judge it.
fn entry(folder: &Path, id: &str) -> (Value, String, String) {
    let index: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("vectors.json")).unwrap()).unwrap();
    let entry = index.into_iter().find(|entry| entry["id"] == id).unwrap();
    let file = folder.join(entry["files"]["evidence"].as_str().unwrap()).display().to_string();
    let at = entry["expect"]["at"].as_str().unwrap().to_owned();
    (entry, file, at)
}

/// What is bundled on one machine judges a quote on another.
fn a_bundle_for_a_quote(folder: &Path) -> Result<(), Failed> {
    let desk = tempfile::tempdir()?;
    let path = |name: &str| desk.path().join(name).display().to_string();
    let (key, public, bundle, set) =
        (path("key"), path("key.pub"), path("bundle"), folder.join(SET).display().to_string());
    let (_, quote, _) = entry(folder, "tdx-v4-phala");
    let made = ["collateral", "bundle", "--new-key", "--key", &key, "--out", &bundle, "--from", &set, "--at", AT];
    assert_eq!(belljar(&made).0, 0);
    let verify = ["evidence", "verify", &quote, "--at", AT];
    let (code, answer) = belljar(&verify);
    assert_eq!((code, &answer["verdict"]), (3, &"undecided".into()), "{answer}");
    let (code, answer) = belljar(&[&verify[..], &["--collateral", &bundle, "--bundle-key", &public]].concat());
    assert_eq!((code, &answer["verdict"]), (0, &"valid".into()), "{answer}");
    assert_eq!(answer["tcb"]["combined"], "UpToDate");
    // The same from the directory itself; a bundle without its key, or changed, is not looked at.
    assert_eq!(belljar(&[&verify[..], &["--collateral", &set]].concat()).0, 0);
    assert_eq!(belljar(&[&verify[..], &["--collateral", &bundle]].concat()).0, 2);
    let mut bytes = std::fs::read(&bundle)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&bundle, bytes)?;
    assert_eq!(belljar(&[&verify[..], &["--collateral", &bundle, "--bundle-key", &public]].concat()).0, 1);
    Ok(())
}

/// A directory gives the certificate that a report lacks.
fn a_directory_for_a_report(folder: &Path) -> Result<(), Failed> {
    for id in ["snp-turin-v5", "snp-milan-v2-azure"] {
        let (entry, report, at) = entry(folder, id);
        let vek = std::fs::read(folder.join(entry["files"]["vek"].as_str().unwrap()))?;
        let desk = tempfile::tempdir()?;
        let verify = ["evidence", "verify", &report, "--at", &at, "--collateral", desk.path().to_str().unwrap()];
        let (code, answer) = belljar(&verify);
        assert_eq!((code, &answer["verdict"]), (3, &"undecided".into()), "{answer}");
        std::fs::create_dir(desk.path().join("vcek"))?;
        std::fs::write(desk.path().join("vcek/any.der"), vek)?;
        let (code, answer) = belljar(&verify);
        assert_eq!((code, &answer["verdict"]), (0, &"valid".into()), "{answer}");
        assert_eq!(belljar(&["collateral", "verify", desk.path().to_str().unwrap(), "--at", &at]).0, 0);
    }
    Ok(())
}
