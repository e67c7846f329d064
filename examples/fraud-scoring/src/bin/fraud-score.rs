//! `fraud-score`: opens the sealed model with the key that attestation released, and scores sealed transactions.

#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use fraud_scoring::metrics::{Outcome, auc};
use fraud_scoring::{Content, Key, Model, Transaction, csv, model, seal};
use zeroize::Zeroizing;

const USAGE: &str = "\
Scores card transactions with an encrypted model.

Usage: fraud-score [OPTIONS] [TRANSACTIONS]

  TRANSACTIONS          an encrypted file, a plain .csv file, or - for plain CSV from standard input
                        [default: /app/transactions.enc]
  --key FILE            32 raw bytes [default: /run/secrets/model-key]
  --model FILE          the encrypted model [default: /app/model.enc]
  --format FORMAT       table: the most suspicious and a summary; lines: `ID PROBABILITY` for every flagged
                        transaction; json: the summary [default: table]
  --top N               rows of the table [default: 10]
  --help, --version

Exit code: 0 scored, 1 refused (wrong key, changed or broken file), 2 usage, 3 a file is missing or unreadable.
Example: fraud-score --key key --model model.enc transactions.enc";

/// No file is read beyond this.
const MAX_FILE: u64 = csv::MAX_TEXT as u64 + 1024;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}; see fraud-score --help")]
    Usage(String),
    #[error(transparent)]
    Key(#[from] seal::KeyError),
    #[error("{path} cannot be read: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{0} is longer than {MAX_FILE} bytes")]
    TooLong(String),
    #[error("{path}: {source}")]
    Open { path: String, source: seal::OpenError },
    #[error("{path}: {source}")]
    Model { path: String, source: model::ModelError },
    #[error("{path}: {source}")]
    Csv { path: String, source: csv::CsvError },
    #[error("the result cannot be written: {0}")]
    Write(#[from] std::io::Error),
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Key(seal::KeyError::Length { .. }) | Self::TooLong(_) => 1,
            Self::Open { .. } | Self::Model { .. } | Self::Csv { .. } => 1,
            Self::Usage(_) => 2,
            Self::Key(_) | Self::Read { .. } | Self::Write(_) => 3,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Lines,
    Json,
}

#[derive(Debug)]
struct Options {
    key: PathBuf,
    model: PathBuf,
    transactions: PathBuf,
    format: Format,
    top: usize,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "fraud-score: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run() -> Result<(), Error> {
    let Some(options) = options()? else { return Ok(()) };
    let started = Instant::now();
    let key = Key::read(&options.key)?;
    let model = open(&key, &options.model, Content::Model)?;
    let model = Model::parse(&model).map_err(|source| Error::Model { path: shown(&options.model), source })?;
    let text = if options.transactions == Path::new("-") {
        read(std::io::stdin().lock(), &options.transactions)?
    } else if options.transactions.extension().is_some_and(|e| e == "csv") {
        Zeroizing::new(read_file(&options.transactions)?)
    } else {
        open(&key, &options.transactions, Content::Transactions)?
    };
    drop(key);
    let rows = csv::parse(&text).map_err(|source| Error::Csv { path: shown(&options.transactions), source })?;
    let opened = started.elapsed();
    let scores: Vec<i32> = rows.iter().map(|row| model.score(row)).collect();
    let scored = started.elapsed() - opened;

    let output = report(&options, &model, &rows, &scores);
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(output.as_bytes())?;
    stdout.flush()?;
    let _ = writeln!(
        std::io::stderr(),
        "fraud-score: opened key, model ({} trees) and {} transactions in {:.1} ms, scored them in {:.1} ms",
        model.trees(),
        rows.len(),
        opened.as_secs_f64() * 1e3,
        scored.as_secs_f64() * 1e3,
    );
    Ok(())
}

fn report(options: &Options, model: &Model, rows: &[Transaction], scores: &[i32]) -> String {
    use std::fmt::Write as _;
    let mut flagged: Vec<(i32, &Transaction)> =
        scores.iter().copied().zip(rows).filter(|(score, _)| model.flags(*score)).collect();
    let labelled = rows.first().is_some_and(|row| row.fraud.is_some());
    let pairs: Vec<(i32, bool)> = scores.iter().copied().zip(rows.iter().map(Transaction::is_fraud)).collect();
    let auc = if labelled { auc(&pairs) } else { None };
    let outcome = Outcome::count(pairs.iter().map(|(score, fraud)| (model.flags(*score), *fraud)));
    // Writing to a String cannot fail.
    let mut out = String::new();
    match options.format {
        Format::Lines => {
            for (score, row) in &flagged {
                let _ = writeln!(out, "{} {:.4}", row.id, Model::probability(*score));
            }
        }
        Format::Json => {
            let _ = write!(out, "{{\"transactions\":{},\"flagged\":{}", rows.len(), flagged.len());
            if labelled {
                let _ = write!(
                    out,
                    ",\"frauds\":{},\"caught\":{},\"false_alarms\":{}",
                    outcome.caught + outcome.missed,
                    outcome.caught,
                    outcome.false_alarms
                );
            }
            if let Some(auc) = auc {
                let _ = write!(out, ",\"auc\":{auc:.4}");
            }
            out.push_str("}\n");
        }
        Format::Table => {
            flagged.sort_by_key(|(score, row)| (std::cmp::Reverse(*score), row.id));
            let shown = flagged.len().min(options.top);
            if shown > 0 {
                let _ = writeln!(
                    out,
                    "{:>10} {:>10}  {:<11} {:>5} {:>9} {:>11}",
                    "id", "amount", "category", "hour", "km", "suspicion"
                );
            }
            for (score, row) in flagged.iter().take(shown) {
                let _ = writeln!(
                    out,
                    "{:>10} {:>7}.{:02}  {:<11} {:>4}h {:>9} {:>10.1}%",
                    row.id,
                    row.amount_cents / 100,
                    row.amount_cents % 100,
                    row.category.name(),
                    row.hour,
                    row.distance_km,
                    100.0 * Model::probability(*score),
                );
            }
            if shown < flagged.len() {
                let _ = writeln!(out, "{:>10} and {} more", "…", flagged.len() - shown);
            }
            let _ = writeln!(out, "{} transactions scored, {} flagged", rows.len(), flagged.len());
            if labelled {
                let _ = write!(
                    out,
                    "labels: {} of {} frauds caught, {} false alarms",
                    outcome.caught,
                    outcome.caught + outcome.missed,
                    outcome.false_alarms
                );
                match auc {
                    Some(auc) => _ = writeln!(out, ", AUC {auc:.3}"),
                    None => out.push('\n'),
                }
            }
        }
    }
    out
}

fn open(key: &Key, path: &Path, content: Content) -> Result<Zeroizing<Vec<u8>>, Error> {
    key.open(content, read_file(path)?).map_err(|source| Error::Open { path: shown(path), source })
}

fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let file = std::fs::File::open(path).map_err(|source| Error::Read { path: shown(path), source })?;
    Ok(std::mem::take(&mut *read(file, path)?))
}

fn read(from: impl std::io::Read, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|source| Error::Read { path: shown(path), source })?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::TooLong(shown(path)));
    }
    Ok(bytes)
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}

fn options() -> Result<Option<Options>, Error> {
    let mut options = Options {
        key: "/run/secrets/model-key".into(),
        model: "/app/model.enc".into(),
        transactions: "/app/transactions.enc".into(),
        format: Format::Table,
        top: 10,
    };
    let mut positional = false;
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let name = argument.to_str().unwrap_or_default().to_owned();
        let mut value = || arguments.next().ok_or_else(|| Error::Usage(format!("{name} wants a value")));
        match name.as_str() {
            "--help" | "-h" => {
                writeln!(std::io::stdout(), "{USAGE}")?;
                return Ok(None);
            }
            "--version" => {
                writeln!(std::io::stdout(), "fraud-score {}", env!("CARGO_PKG_VERSION"))?;
                return Ok(None);
            }
            "--key" => options.key = value()?.into(),
            "--model" => options.model = value()?.into(),
            "--format" => {
                options.format = match value()?.to_str() {
                    Some("table") => Format::Table,
                    Some("lines") => Format::Lines,
                    Some("json") => Format::Json,
                    _ => return Err(Error::Usage("--format is table, lines or json".into())),
                }
            }
            "--top" => {
                options.top = value()?
                    .to_str()
                    .and_then(|n| n.parse().ok())
                    .ok_or_else(|| Error::Usage("--top wants a number".into()))?;
            }
            option if option.starts_with('-') && option != "-" => {
                return Err(Error::Usage(format!("unknown option {option}")));
            }
            _ if positional => return Err(Error::Usage("one TRANSACTIONS file at a time".into())),
            _ => {
                options.transactions = argument.into();
                positional = true;
            }
        }
    }
    Ok(Some(options))
}
