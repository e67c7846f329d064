//! `belljar collateral fetch`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use belljar_collateral::{Directory, Document, Freshness, Item, Obtained, PckCa, Product, Tee, Update, need};
use belljar_evidence::Kind;
use belljar_evidence::azure::HclReport;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::CacheOption;
use crate::collateral::listing::{self, Row};
use crate::collateral::services::{self, ServiceOptions};
use crate::evidence::file;
use crate::failure::{Exit, Failure};
use crate::output::{Format, draws_progress};
use crate::paths::Paths;
use belljar_verifier::Evidence;

/// What to get.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Evidence: get what it needs
    evidence: Vec<PathBuf>,
    /// An item by its name, as `belljar collateral status --format json` shows it
    #[arg(long, value_name = "NAME")]
    item: Vec<Item>,
    /// Get what quotes of this platform need: family, model and so on, 6 bytes
    #[arg(long, value_name = "HEX", value_parser = fmspc, requires_all = ["tee", "authority"])]
    fmspc: Option<[u8; 6]>,
    /// Of which TEE the quotes are
    #[arg(long, requires = "fmspc")]
    tee: Option<TeeName>,
    /// Which of Intel's authorities issued the platform's PCK certificates
    #[arg(long, requires = "fmspc")]
    authority: Option<Authority>,
    /// Take Intel's early line of evaluations
    #[arg(long)]
    early: bool,
    /// Product line for reports of version 2, which do not name their processor
    #[arg(long)]
    product: Option<ProductName>,
    /// PCK chain for quotes that do not hold it, PEM
    #[arg(long, value_name = "FILE")]
    pck_chain: Option<PathBuf>,
    /// Also write the items into this directory, as plain files
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Ask the services although the cache has items that are in date
    #[arg(long)]
    refresh: bool,
    /// Trust this root, too, PEM or DER; the vendors' are compiled in
    #[arg(long, value_name = "FILE")]
    anchor: Vec<PathBuf>,
    /// Days for which the cache's item is taken after its next update was due, when its service is away
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    grace_days: u32,
    #[command(flatten)]
    cache: CacheOption,
    #[command(flatten)]
    services: ServiceOptions,
}

/// A TEE of Intel's.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum TeeName {
    Sgx,
    Tdx,
}

/// An authority of Intel's.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Authority {
    /// Platforms with one package
    Processor,
    /// Platforms with several packages, and all with TDX
    Platform,
}

/// A product line of AMD's.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProductName {
    Milan,
    Genoa,
    Turin,
}

fn fmspc(text: &str) -> Result<[u8; 6], String> {
    let mut bytes = [0; 6];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| "not 6 bytes in hex".to_owned())?;
    Ok(bytes)
}

impl Fetch {
    /// Carries the verb out.
    pub async fn execute(&self, paths: &Paths, format: Format) -> Result<i32, Failure> {
        let items = self.items()?;
        let anchors = services::anchors(&self.anchor)?;
        let grace = u64::from(self.grace_days).saturating_mul(86_400);
        let cache = self.cache.open(paths);
        let fetcher = self.services.fetcher(cache, anchors, grace, Freshness::InGrace)?;
        let bar = spinner();
        let (mut rows, mut documents, mut exit) = (Vec::new(), Vec::new(), None);
        for (number, item) in (1..).zip(&items) {
            bar.set_message(format!("{number}/{} {}", items.len(), item.purpose()));
            let mut row = Row::about(item);
            match fetcher.obtain(item, self.refresh).await {
                Ok(obtained) => documents.push(note(&mut row, obtained)),
                Err(error) => {
                    let failure = services::failure(&error);
                    row.error = Some(failure.cause);
                    // A lie weighs more than a service that is away.
                    exit = exit.filter(|exit| *exit == Exit::Refused).or(Some(failure.exit));
                }
            }
            rows.push(row);
        }
        bar.finish_and_clear();
        // A directory with a part of what was asked for would look whole.
        if let (Some(out), None) = (&self.out, exit) {
            Directory::write(out, &documents).map_err(Failure::usage)?;
        }
        listing::print(&rows, format)?;
        Ok(exit.map_or(0, Exit::code))
    }

    /// Everything that is asked for, each item once.
    fn items(&self) -> Result<Vec<Item>, Failure> {
        let update = if self.early { Update::Early } else { Update::Standard };
        let mut items = Vec::new();
        for path in &self.evidence {
            items.extend(self.needs(path, update)?);
        }
        if let (Some(fmspc), Some(tee), Some(authority)) = (self.fmspc, self.tee, self.authority) {
            let tee = match tee {
                TeeName::Sgx => Tee::Sgx,
                TeeName::Tdx => Tee::Tdx,
            };
            let authority = match authority {
                Authority::Processor => PckCa::Processor,
                Authority::Platform => PckCa::Platform,
            };
            items.extend(need::of_platform(tee, fmspc, authority, update));
        }
        items.extend(self.item.iter().cloned());
        let mut once: Vec<Item> = Vec::new();
        for item in items {
            if !once.contains(&item) {
                once.push(item);
            }
        }
        if once.is_empty() {
            return Err(
                Failure::usage("nothing to fetch").hint("give evidence, --item, or --fmspc with --tee and --authority")
            );
        }
        Ok(once)
    }

    fn needs(&self, path: &Path, update: Update) -> Result<Vec<Item>, Failure> {
        let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
        let product = self.product.map(|product| match product {
            ProductName::Milan => Product::Milan,
            ProductName::Genoa => Product::Genoa,
            ProductName::Turin => Product::Turin,
        });
        let pck_chain = self.pck_chain.as_deref().map(file::read).transpose()?;
        let of_report = |report: &[u8]| need::of_report(report, product).map_err(|error| wrong(&error));
        let of_quote =
            |quote: &[u8]| need::of_quote(quote, pck_chain.as_deref(), update).map_err(|error| wrong(&error));
        match Evidence::read(&file::read(path)?, None).map_err(|error| wrong(&error))? {
            Evidence::Snp { report, .. } => of_report(&report),
            Evidence::Quote { quote, .. } => of_quote(&quote),
            Evidence::Vtpm { td_quote, .. } if !td_quote.is_empty() => of_quote(&td_quote),
            Evidence::Vtpm { kind: Kind::AzSnpVtpm, hcl_report: bytes, .. }
            | Evidence::Part { kind: Kind::AzSnpVtpm, bytes } => {
                of_report(&HclReport::parse(&bytes).map_err(|error| wrong(&error))?.hardware)
            }
            other => Err(wrong(&format!("{} evidence needs nothing that AMD or Intel publish", other.kind()))),
        }
    }
}

/// Notes what was got; gives its document.
fn note(row: &mut Row, obtained: Obtained) -> Document {
    row.note(obtained.facts, obtained.rung);
    row.source.clone_from(&obtained.document.source);
    row.fetched = Some(belljar_evidence::time::rfc3339(obtained.document.fetched));
    row.error = obtained.failed_refresh.map(|error| format!("taken from the cache, {error}"));
    obtained.document
}

fn spinner() -> ProgressBar {
    let bar = if draws_progress() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
