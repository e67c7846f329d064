//! `fraud-train`: the owner's side. Generates transactions, trains, judges, and seals what goes into the image.

#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aws_lc_rs::digest;
use fraud_scoring::generate::{Labelled, generate};
use fraud_scoring::metrics::{Outcome, auc};
use fraud_scoring::{Content, Key, Model, Transaction, csv, seal, train};

const USAGE: &str = "\
Trains a fraud model on synthetic transactions, and encrypts it with unseen transactions for an image.

Usage: fraud-train [OPTIONS] OUT_DIR

  --seed N          of the transactions [default: 2026]
  --train N         transactions to learn from, 1000 to 1000000 [default: 12000]
  --held-out N      transactions to judge by and to encrypt, 100 to 100000 [default: 2000]
  --key FILE        use this key of 32 raw bytes [default: a fresh random one, written to OUT_DIR/model-key]
  --help, --version

Writes OUT_DIR/image/{model.enc,transactions.enc} (these go into the image), OUT_DIR/model-key (this goes to the broker),
and OUT_DIR/plain/{model.bin,transactions.csv,sample.csv} (these go nowhere).
Exit code: 0 done, 2 usage, 3 a file cannot be read or written.
Example: fraud-train --seed 7 target/demo/fraud";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}; see fraud-train --help")]
    Usage(String),
    #[error(transparent)]
    Key(#[from] seal::KeyError),
    #[error(transparent)]
    Seal(#[from] seal::SealError),
    #[error("{path} cannot be written: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

#[derive(Debug)]
struct Options {
    seed: u64,
    train: usize,
    held_out: usize,
    key: Option<PathBuf>,
    out: PathBuf,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "fraud-train: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 3 })
        }
    }
}

fn run() -> Result<(), Error> {
    let Some(options) = options()? else { return Ok(()) };
    // Three draws of their own seeds: learn, choose the threshold, judge.
    let learn = transactions(&generate(options.seed, 1, options.train));
    let tune = transactions(&generate(options.seed ^ (1 << 62), 2_000_000, options.train / 4));
    let judge_labelled = generate(options.seed ^ (1 << 63), 10_000_000, options.held_out);
    let judge = transactions(&judge_labelled);

    let model = train(&learn, &tune);
    let model_bytes = model.to_bytes();
    let text = csv::write(&judge);

    let plain = options.out.join("plain");
    let image = options.out.join("image");
    for dir in [&plain, &image] {
        std::fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.clone(), source })?;
    }
    let key = match &options.key {
        Some(path) => Key::read(path)?,
        None => {
            let key = Key::generate()?;
            write(&options.out.join("model-key"), key.bytes(), 0o600)?;
            key
        }
    };
    write(&plain.join("model.bin"), &model_bytes, 0o600)?;
    write(&plain.join("transactions.csv"), text.as_bytes(), 0o600)?;
    write(&plain.join("sample.csv"), csv::write(judge.get(..20).unwrap_or(&judge)).as_bytes(), 0o644)?;
    write(&image.join("model.enc"), &key.seal(Content::Model, &model_bytes)?, 0o644)?;
    write(&image.join("transactions.enc"), &key.seal(Content::Transactions, text.as_bytes())?, 0o644)?;

    let mut stdout = std::io::stdout().lock();
    let report = report(&options, &model, &model_bytes, &learn, &judge_labelled);
    stdout.write_all(report.as_bytes()).map_err(|source| Error::Write { path: "standard output".into(), source })
}

fn transactions(rows: &[Labelled]) -> Vec<Transaction> {
    rows.iter().map(|row| row.transaction).collect()
}

fn report(options: &Options, model: &Model, bytes: &[u8], learn: &[Transaction], judge: &[Labelled]) -> String {
    let auc_of = |score: &dyn Fn(&Labelled) -> f64| {
        let pairs: Vec<_> = judge.iter().map(|row| (score(row), row.transaction.is_fraud())).collect();
        auc(&pairs).map_or_else(|| "unknown (one label only)".to_owned(), |auc| format!("{auc:.3}"))
    };
    let outcome =
        Outcome::count(judge.iter().map(|r| (model.flags(model.score(&r.transaction)), r.transaction.is_fraud())));
    let digest: String =
        digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let frauds = |rows: usize, frauds: usize| format!("{rows} ({frauds} frauds)");
    format!(
        "seed                     {}\n\
         learned from             {}\n\
         judged on                {}\n\
         AUC of the model         {}\n\
         AUC of counting warnings {}\n\
         AUC of amount over usual {}\n\
         AUC of the truth         {} (no model can be better)\n\
         at its threshold         {} caught, {} missed, {} false alarms (precision {:.2}, recall {:.2})\n\
         model                    {} trees, {} bytes, sha256 {digest}\n",
        options.seed,
        frauds(learn.len(), learn.iter().filter(|t| t.is_fraud()).count()),
        frauds(judge.len(), judge.iter().filter(|r| r.transaction.is_fraud()).count()),
        auc_of(&|r| f64::from(model.score(&r.transaction))),
        auc_of(&|r| f64::from(r.transaction.warnings())),
        auc_of(&|r| f64::from(r.transaction.usual_pct)),
        auc_of(&|r| r.truth),
        outcome.caught,
        outcome.missed,
        outcome.false_alarms,
        outcome.precision(),
        outcome.recall(),
        model.trees(),
        bytes.len(),
    )
}

/// Writes a file beside its place and moves it there: no reader sees half of it, and `mode` holds from its first byte.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let beside = path.with_extension("new");
    match std::fs::remove_file(&beside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

fn options() -> Result<Option<Options>, Error> {
    let (mut seed, mut train, mut held_out, mut key, mut out) = (2026, 12_000, 2_000, None, None);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let name = argument.to_str().unwrap_or_default().to_owned();
        let mut value = || arguments.next().ok_or_else(|| Error::Usage(format!("{name} wants a value")));
        match name.as_str() {
            "--help" | "-h" => return print(USAGE),
            "--version" => return print(concat!("fraud-train ", env!("CARGO_PKG_VERSION"))),
            "--seed" => seed = number(&name, value()?, 0, u64::MAX)?,
            "--train" => train = number(&name, value()?, 1000, 1_000_000)?,
            "--held-out" => held_out = number(&name, value()?, 100, 100_000)?,
            "--key" => key = Some(value()?.into()),
            option if option.starts_with('-') => return Err(Error::Usage(format!("unknown option {option}"))),
            _ if out.is_some() => return Err(Error::Usage("one OUT_DIR".into())),
            _ => out = Some(PathBuf::from(argument)),
        }
    }
    let out = out.ok_or_else(|| Error::Usage("OUT_DIR is missing".into()))?;
    Ok(Some(Options { seed, train, held_out, key, out }))
}

fn print(text: &str) -> Result<Option<Options>, Error> {
    writeln!(std::io::stdout(), "{text}")
        .map(|()| None)
        .map_err(|source| Error::Write { path: "standard output".into(), source })
}

fn number<N>(name: &str, value: std::ffi::OsString, low: N, high: N) -> Result<N, Error>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(n) if n >= low && n <= high => Ok(n),
        _ => Err(Error::Usage(format!("{name} is a whole number from {low} to {high}"))),
    }
}
