//! Both programs as a user meets them: results on stdout, one clear line and the right exit code otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fraud_scoring::{Content, Key};
use tempfile::TempDir;

/// A folder made by `fraud-train`, small for speed.
fn trained() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let out = train(&["--train", "2000", "--held-out", "500", "--seed", "1"], dir.path());
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    dir
}

fn train(options: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fraud-train")).args(options).arg(dir).output().unwrap()
}

fn score(dir: &Path, more: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fraud-score"))
        .arg("--key")
        .arg(dir.join("model-key"))
        .arg("--model")
        .arg(dir.join("image/model.enc"))
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A child that refuses before it reads closes the pipe; that is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn score_image(dir: &Path) -> Output {
    let file = dir.join("image/transactions.enc");
    score(dir, &[file.to_str().unwrap()], b"")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn refused(output: &Output, code: i32, message: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty(), "nothing is printed before everything is checked");
    let stderr = text(&output.stderr);
    assert!(stderr.contains(message), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn scores_what_was_trained() {
    let dir = trained();
    let table = score_image(dir.path());
    assert_eq!(table.status.code(), Some(0), "{}", text(&table.stderr));
    assert!(text(&table.stdout).contains("500 transactions scored"), "{}", text(&table.stdout));
    assert!(text(&table.stdout).contains("AUC 0."), "{}", text(&table.stdout));
    assert!(text(&table.stderr).contains("96 trees"));

    // Encrypted from the image, plain from a file, plain from standard input: one result.
    let csv = dir.path().join("plain/transactions.csv");
    assert_eq!(score(dir.path(), &[csv.to_str().unwrap()], b"").stdout, table.stdout);
    assert_eq!(score(dir.path(), &["-"], &fs::read(&csv).unwrap()).stdout, table.stdout);

    let json = text(&score(dir.path(), &["--format", "json", "-"], &fs::read(&csv).unwrap()).stdout);
    assert!(json.starts_with("{\"transactions\":500,\"flagged\":") && json.contains("\"auc\":0."), "{json}");
    let lines = text(&score(dir.path(), &["--format", "lines", "-"], &fs::read(&csv).unwrap()).stdout);
    assert!(json.contains(&format!("\"flagged\":{},", lines.lines().count())), "{json}{lines}");
}

#[test]
fn unlabelled_transactions_have_no_auc() {
    let dir = trained();
    let csv = fs::read_to_string(dir.path().join("plain/transactions.csv")).unwrap();
    let unlabelled: String = csv.lines().map(|l| format!("{}\n", l.rsplit_once(',').unwrap().0)).collect();
    let out = score(dir.path(), &["-"], unlabelled.as_bytes());
    assert_eq!(out.status.code(), Some(0));
    assert!(text(&out.stdout).contains("500 transactions scored") && !text(&out.stdout).contains("AUC"));
}

#[test]
fn the_key_decides() {
    let dir = trained();
    let path = dir.path().join("model-key");
    let key = fs::read(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    flip(&path, 0);
    refused(&score_image(dir.path()), 1, "authentication of the model failed");
    fs::write(&path, &key[..31]).unwrap();
    refused(&score_image(dir.path()), 1, "has 31 bytes, expected exactly 32");
    fs::remove_file(&path).unwrap();
    refused(&score_image(dir.path()), 3, "no key at");
    fs::write(&path, &key).unwrap();
    assert_eq!(score_image(dir.path()).status.code(), Some(0));
}

#[test]
fn changed_files_are_refused() {
    let dir = trained();
    for (name, message) in
        [("model", "authentication of the model"), ("transactions", "authentication of the transactions")]
    {
        let path = dir.path().join(format!("image/{name}.enc"));
        let good = fs::read(&path).unwrap();
        flip(&path, good.len() / 2);
        refused(&score_image(dir.path()), 1, message);
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        refused(&score_image(dir.path()), 1, message);
        fs::write(&path, &good[..30]).unwrap();
        refused(&score_image(dir.path()), 1, "ends too early: 30 bytes");
        fs::remove_file(&path).unwrap();
        refused(&score_image(dir.path()), 3, "cannot be read");
        fs::write(&path, &good).unwrap();
        assert_eq!(score_image(dir.path()).status.code(), Some(0));
    }
    // The right key, the wrong file.
    let model = dir.path().join("image/model.enc");
    refused(&score(dir.path(), &[model.to_str().unwrap()], b""), 1, "does not hold the transactions");
}

#[test]
fn an_authentic_but_broken_model_is_refused() {
    let dir = trained();
    let key = Key::read(&dir.path().join("model-key")).unwrap();
    let good = fs::read(dir.path().join("plain/model.bin")).unwrap();
    let path = dir.path().join("image/model.enc");
    fs::write(&path, key.seal(Content::Model, &good[..good.len() - 1]).unwrap()).unwrap();
    refused(&score_image(dir.path()), 1, "the model ends too early");
    fs::write(&path, key.seal(Content::Model, &good).unwrap()).unwrap();
    assert_eq!(score_image(dir.path()).status.code(), Some(0));
}

#[test]
fn a_broken_line_is_named_and_not_repeated() {
    let dir = trained();
    let csv = fs::read_to_string(dir.path().join("plain/transactions.csv")).unwrap();
    let mut lines: Vec<String> = csv.lines().map(str::to_owned).collect();
    lines[41] = lines[41].replacen(',', ",4711x", 1);
    let out = score(dir.path(), &["-"], lines.join("\n").as_bytes());
    refused(&out, 1, "line 42 of the transactions is broken: `amount_cents` must be");
    assert!(!text(&out.stderr).contains("4711"), "the data stays in the pod");
    assert_eq!(score(dir.path(), &["-"], csv.as_bytes()).status.code(), Some(0));
}

#[test]
fn usage() {
    let dir = trained();
    refused(&score(dir.path(), &["--frobnicate"], b""), 2, "unknown option --frobnicate");
    refused(&score(dir.path(), &["--format", "xml"], b""), 2, "--format is table, lines or json");
    refused(&score(dir.path(), &["a", "b"], b""), 2, "one TRANSACTIONS file");
    refused(&score(dir.path(), &["--top"], b""), 2, "--top wants a value");
    refused(&train(&["--train", "999"], dir.path()), 2, "--train is a whole number from 1000");
    let help = score(dir.path(), &["--help"], b"");
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("Usage: fraud-score"));
}

#[test]
fn a_given_key_is_used_and_a_fresh_one_is_fresh() {
    let (a, b) = (trained(), trained());
    let read = |dir: &TempDir, name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_ne!(read(&a, "model-key"), read(&b, "model-key"));
    assert_eq!(read(&a, "plain/model.bin"), read(&b, "plain/model.bin"), "the model does not depend on the key");
    assert_ne!(read(&a, "image/model.enc"), read(&b, "image/model.enc"));

    let key = a.path().join("model-key");
    let options = ["--train", "2000", "--held-out", "500", "--seed", "1", "--key", key.to_str().unwrap()];
    let c = tempfile::tempdir().unwrap();
    assert_eq!(train(&options, c.path()).status.code(), Some(0));
    assert!(!c.path().join("model-key").exists());
    fs::copy(&key, c.path().join("model-key")).unwrap();
    assert_eq!(score_image(c.path()).stdout, score_image(a.path()).stdout);
}
