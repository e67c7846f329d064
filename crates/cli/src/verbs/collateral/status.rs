//! `belljar collateral status` and `verify`.

use std::path::PathBuf;

use clap::Args;

use super::{CacheOption, Terms};
use crate::collateral::listing::{self, Row};
use crate::collateral::store;
use crate::failure::{Exit, Failure};
use crate::output::Format;
use crate::paths::Paths;

/// What the cache holds.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    cache: CacheOption,
    #[command(flatten)]
    terms: Terms,
}

impl Status {
    /// Carries the verb out.
    pub fn execute(&self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let (anchors, at, grace) = (self.terms.anchors()?, self.terms.at()?, self.terms.grace());
        let cache = self.cache.open(paths);
        let (mut rows, mut damaged) = (Vec::new(), Vec::new());
        for document in cache.list().map_err(Failure::undecided)? {
            match document {
                Ok(document) => rows.push(Row::of(&document, &anchors, at, grace)),
                Err(error) => damaged.push(error.to_string()),
            }
        }
        if rows.is_empty() && damaged.is_empty() {
            let where_ = cache.directory().display();
            return Err(Failure::undecided(format!("no collateral in {where_}")).hint("run `belljar collateral fetch`"));
        }
        listing::print(&rows, format)?;
        if !damaged.is_empty() {
            return Err(Failure::refused("the cache has damaged files").details(damaged));
        }
        Ok(exit(&rows))
    }
}

/// What to verify.
#[derive(Debug, Args)]
pub struct Verify {
    /// A bundle, or a directory of collateral
    path: PathBuf,
    /// Public key of the bundle's maker, PEM
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    terms: Terms,
}

impl Verify {
    /// Carries the verb out.
    pub fn execute(&self, format: Format) -> Result<i32, Failure> {
        let (anchors, at, grace) = (self.terms.anchors()?, self.terms.at()?, self.terms.grace());
        let documents = store::open(&self.path, self.key.as_deref(), "--key")?;
        let rows: Vec<Row> = documents.iter().map(|document| Row::of(document, &anchors, at, grace)).collect();
        if rows.is_empty() {
            return Err(Failure::undecided(format!("no collateral in {}", self.path.display())));
        }
        listing::print(&rows, format)?;
        Ok(exit(&rows))
    }
}

fn exit(rows: &[Row]) -> i32 {
    if rows.iter().all(Row::is_good) { 0 } else { Exit::Refused.code() }
}
