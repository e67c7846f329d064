//! Every entry of the index of vectors through `belljar evidence verify --vector`, as its user runs it, and what other
//! uses of the verb answer. Where the vectors are missing, the trials are listed as ignored and never as passed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// One use of the verb, given the folder of the vectors.
type Use = fn(&Path) -> Result<(), Failed>;

fn main() {
    let folder = std::env::var_os("BELLJAR_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"), PathBuf::from);
    let folder = Arc::new(folder);
    let trials = match std::fs::read(folder.join("vectors.json")) {
        Ok(index) => {
            let entries: Vec<Value> = serde_json::from_slice(&index).unwrap();
            let kinds = ["snp", "tdx", "sgx", "az-snp-vtpm", "az-tdx-vtpm", "tpm"];
            let of_kind = kinds.map(|kind| {
                let (folder, entries) = (Arc::clone(&folder), entries.clone());
                Trial::test(format!("vectors::{kind}"), move || all_of_kind(&folder, &entries, kind))
            });
            let uses: [(&str, Use); 5] = [
                ("uses::quote_and_collateral", quote_and_collateral),
                ("uses::policy", policy),
                ("uses::json_wrappers", json_wrappers),
                ("uses::no_evidence", no_evidence),
                ("uses::measured_registers", measured_registers),
            ];
            let uses = uses.map(|(name, run)| {
                let folder = Arc::clone(&folder);
                Trial::test(name, move || run(&folder))
            });
            of_kind.into_iter().chain(uses).collect()
        }
        Err(error) => {
            eprintln!("no vectors at {} ({error}): every vector is ignored", folder.display());
            vec![Trial::test("index_of_vectors", || Err("not run".into())).with_ignored_flag(true)]
        }
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Runs the program; its exit code and the JSON it prints.
fn belljar(args: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_belljar")).args(args).args(["--format", "json"]).output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), json)
}

fn all_of_kind(folder: &Path, entries: &[Value], kind: &str) -> Result<(), Failed> {
    let index = folder.join("vectors.json");
    let mut wrong = Vec::new();
    let mut judged = 0;
    for entry in entries.iter().filter(|entry| entry["kind"] == kind) {
        let id = entry["id"].as_str().unwrap();
        let (code, answer) = belljar(&["evidence", "verify", "--vector", id, "--index", index.to_str().unwrap()]);
        wrong.extend(differences(&entry["expect"], code, &answer).into_iter().map(|why| format!("{id}: {why}")));
        judged += 1;
    }
    if judged == 0 {
        return Err("the index has no entry of this kind".into());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn differences(expect: &Value, code: i32, answer: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut same = |what: &str, expected: &Value, found: &Value| {
        if expected != found {
            wrong.push(format!("{what}: expected {expected}, found {found}"));
        }
    };
    let verdict = &answer["verdict"];
    if expect["verdict"] != "either" {
        same("verdict", &expect["verdict"], verdict);
    }
    let of_verdict = match verdict.as_str() {
        Some("valid") => 0,
        Some("invalid") => 1,
        _ => 3,
    };
    same("exit code", &of_verdict.into(), &code.into());
    if !expect["first_failure"].is_null() {
        same("first_failure", &expect["first_failure"], &answer["first_failure"]);
    }
    for (key, expected) in expect["fields"].as_object().into_iter().flatten() {
        same(key, expected, &answer["fields"][key]);
    }
    if verdict == "valid" {
        for (key, expected) in expect["tcb"].as_object().into_iter().flatten() {
            same(key, expected, &answer["tcb"][key]);
        }
        let sorted = |flags: &Value| {
            let mut flags: Vec<String> =
                flags.as_array().into_iter().flatten().map(|flag| flag.as_str().unwrap().to_owned()).collect();
            flags.sort();
            Value::from(flags)
        };
        same("flags", &sorted(&expect["flags"]), &sorted(&answer["flags"]));
        for key in ["valid_from", "valid_to"].iter().filter(|key| !expect[*key].is_null()) {
            same(key, &expect[key], &answer[key]);
        }
    }
    wrong
}

/// A check of this test: an error that shows the answer.
fn check(what: &str, holds: bool, answer: &Value) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(format!("{what}: {answer:#}").into()) }
}

fn quote_and_collateral(folder: &Path) -> Result<(), Failed> {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (quote, collateral) = (path("tdx/tdx-v4-phala/quote.bin"), path("collateral/tdx-b0c06f-2025-06"));
    let at = ["--at", "2025-06-20T10:32:27Z"];
    let all = [&["evidence", "verify", &quote, "--collateral", &collateral][..], &at].concat();
    let (code, answer) = belljar(&all);
    check("authentic with its collateral", code == 0 && answer["tcb"]["combined"] == "UpToDate", &answer)?;
    let (code, answer) = belljar(&[&["evidence", "verify", &quote][..], &at].concat());
    let undecided = code == 3 && answer["verdict"] == "undecided" && answer["first_failure"] == "pck-crl-signature";
    check("undecided without it", undecided, &answer)?;
    let report_data = answer["fields"]["report_data"].as_str().unwrap().to_owned();
    let (code, answer) = belljar(&[&all[..], &["--nonce", &report_data]].concat());
    check("the right nonce", code == 0, &answer)?;
    let other = format!("ff{}", &report_data[2..]);
    let (code, answer) = belljar(&[&all[..], &["--nonce", &other]].concat());
    check("another nonce", code == 1 && answer["first_failure"] == "nonce", &answer)?;
    let (code, answer) = belljar(&[&all[..], &["--host-data", "00"]].concat());
    check("the right host data", code == 0, &answer)?;
    let (code, answer) = belljar(&[&all[..], &["--host-data", "01"]].concat());
    check("other host data", code == 1 && answer["first_failure"] == "host-data", &answer)?;
    let root = path("roots/intel/sgx-root-ca.pem");
    let (code, answer) = belljar(&[&all[..], &["--anchor", &root]].concat());
    check("intel's root by name", code == 0 && answer["root"] == "intel", &answer)?;
    let other = path("sgx/sgx-v3-intel-sample/anchor.pem");
    let (code, answer) = belljar(&[&all[..], &["--anchor", &other]].concat());
    check("another root", code == 1 && answer["first_failure"] == "pck-chain", &answer)?;
    for (option, value) in [("--vek", root.as_str()), ("--trusted-ak", &"00".repeat(32)), ("--pck-chain", &root)] {
        let (code, answer) = belljar(&[&all[..], &[option, value]].concat());
        check(&format!("{option} has no meaning here"), code == 2, &answer)?;
    }
    let (code, answer) = belljar(&[&all[..], &["--ak-certificate", &root, "--anchor", &root]].concat());
    check("--ak-certificate has no meaning here", code == 2, &answer)
}

fn policy(folder: &Path) -> Result<(), Failed> {
    let index = folder.join("vectors.json");
    let file = tempfile::NamedTempFile::new().unwrap();
    let judge = |text: &str, id: &str| {
        std::fs::write(file.path(), text).unwrap();
        let (index, policy) = (index.to_str().unwrap(), file.path().to_str().unwrap());
        belljar(&["evidence", "verify", "--vector", id, "--index", index, "--policy", policy])
    };
    let (code, answer) = judge("", "tdx-v4-phala");
    check("up to date", code == 0, &answer)?;
    let (code, answer) = judge("", "tdx-v4-azure");
    check("out of date", code == 1 && answer["first_failure"] == "policy-tcb-status", &answer)?;
    let (code, answer) = judge("tcb_status = [\"OutOfDate\"]", "tdx-v4-azure");
    check("out of date and taken", code == 0, &answer)?;
    let (code, answer) = judge("", "snp-milan-v2-debug");
    check("debug", code == 1 && answer["first_failure"] == "policy-flags", &answer)?;
    let (code, answer) = judge("flags = [\"debug-policy\"]", "snp-milan-v2-debug");
    check("debug and taken", code == 0, &answer)?;
    let (code, answer) = judge("min_snp_tcb = { microcode = 255 }", "snp-turin-v5");
    check("an old platform", code == 1 && answer["first_failure"] == "policy-snp-tcb", &answer)?;
    let (code, answer) = judge("min_snp_tcb = { microcode = 1 }", "snp-turin-v5");
    check("a new platform", code == 0, &answer)?;
    let (code, answer) = judge("tcb_statuses = []", "tdx-v4-phala");
    check("an unknown key", code == 2, &answer)
}

fn json_wrappers(folder: &Path) -> Result<(), Failed> {
    use base64::Engine;
    let quote = std::fs::read(folder.join("tdx/tdx-v4-phala/quote.bin")).unwrap();
    let quote = base64::engine::general_purpose::STANDARD.encode(quote);
    let file = tempfile::NamedTempFile::new().unwrap();
    let inspect = |document: &Value| {
        std::fs::write(file.path(), document.to_string()).unwrap();
        belljar(&["evidence", "inspect", file.path().to_str().unwrap()])
    };
    let evidence = serde_json::json!({ "quote": quote });
    let (code, answer) = inspect(&evidence);
    check("the evidence", code == 0 && answer["kind"] == "tdx" && answer["fields"]["version"] == 4, &answer)?;
    let message = serde_json::json!({ "tee-evidence": { "primary_evidence": evidence, "additional_evidence": "" } });
    let (code, within) = inspect(&message);
    check("a message that holds it", code == 0 && within == answer, &within)?;
    let (code, answer) = inspect(&serde_json::json!({ "svn": "1", "report_data": "AA==" }));
    check("sample evidence is no evidence", code == 2, &answer)
}

fn no_evidence(_: &Path) -> Result<(), Failed> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hello").unwrap();
    let (code, answer) = belljar(&["evidence", "verify", file.path().to_str().unwrap()]);
    check("refused", code == 1 && answer["first_failure"] == "parse" && answer["kind"].is_null(), &answer)?;
    let (code, answer) = belljar(&["evidence", "verify", "/nonexistent/quote.bin"]);
    check("no file", code == 2, &answer)
}

/// What `measure tpm` says of a log is what its replay gives, and what `evidence inspect` shows.
fn measured_registers(folder: &Path) -> Result<(), Failed> {
    let log = folder.join("tdx/tdx-v4-gcp-ccel/ccel_data.bin");
    let (code, answer) = belljar(&["measure", "tpm", "--event-log", log.to_str().unwrap()]);
    let (_, shown) = belljar(&["evidence", "inspect", log.to_str().unwrap()]);
    let same = (1..=3).all(|register: u8| {
        let measured = &answer["sha384"][format!("pcr{register:02}")];
        measured.is_string() && *measured == shown["event_log"]["replay"]["sha384"][register.to_string()]
    });
    check("the registers of a log", code == 0 && same, &answer)?;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "version = \"0.1.0\"\n").unwrap();
    let (code, answer) = belljar(&["measure", "tpm", "--initdata", file.path().to_str().unwrap()]);
    // sha256(32 zeros, sha256(document)), computed in Python.
    let expected = "42480968caf52ec551389430d759357e888b9feaf08fe88dafb5a932033b16ab";
    check("register 8 of initdata", code == 0 && answer["sha256"]["pcr08"] == expected, &answer)
}
