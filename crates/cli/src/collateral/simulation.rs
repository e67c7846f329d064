//! What would stored evidence come to, if Intel published other TCB info tomorrow?

use std::path::{Path, PathBuf};

use belljar_collateral::{Collection, Update, need};
use belljar_evidence::dcap::{Anchors, Body, Facts, Options, Quote, Tcb, TcbInfo, Verifier};
use belljar_evidence::{Decision, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::evidence::file;
use crate::failure::{Failure, one_line};
use belljar_verifier::Evidence;

/// Most files of evidence that are looked at.
const MAX_FILES: usize = 100_000;

/// One side of the comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The verdict.
    pub verdict: Decision,
    /// The check that decided against it.
    pub first_failure: Option<&'static str>,
    /// Intel's rating, where there is one.
    pub tcb: Option<Tcb>,
}

impl Judged {
    fn new(verdict: &Verdict<Facts>) -> Self {
        Self { verdict: verdict.verdict, first_failure: verdict.first_failure, tcb: verdict.facts.tcb.clone() }
    }

    /// Verdict and status in a few words.
    pub fn words(&self) -> String {
        let mut words = self.verdict.to_string();
        if let Some(tcb) = &self.tcb {
            words.push_str(", ");
            words.push_str(tcb.combined.name());
        }
        if let Some(check) = self.first_failure {
            words.push_str(" (");
            words.push_str(check);
            words.push(')');
        }
        words
    }

    /// What a change of the evaluation's number alone does not touch.
    fn substance(&self) -> (Decision, Option<&'static str>, Option<Tcb>) {
        let tcb = self.tcb.clone().map(|tcb| Tcb { tcb_eval_number: 0, platform_tcb_date: None, ..tcb });
        (self.verdict, self.first_failure, tcb)
    }
}

/// What becomes of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// A quote of that platform: now, and then.
    Judged {
        /// With the stored collateral.
        now: Box<Judged>,
        /// With the new TCB info in its place.
        then: Box<Judged>,
        /// Whether verdict, status or advisories differ.
        changes: bool,
    },
    /// Evidence to which the TCB info says nothing.
    Elsewhere {
        /// Why.
        why: String,
    },
    /// Not evidence that can be read.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// One file with what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Case {
    /// The file.
    pub file: PathBuf,
    /// What becomes of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The inner object of a TCB info file: signed or not, with or without its wrapper.
pub fn tcb_info(path: &Path) -> Result<TcbInfo, Failure> {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(rename = "tcbInfo", borrow)]
        tcb_info: &'a RawValue,
    }
    let bytes = file::read(path)?;
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let text = std::str::from_utf8(&bytes).map_err(|error| wrong(&error))?;
    let inner = serde_json::from_str::<Outer<'_>>(text).map_or(text.trim(), |outer| outer.tcb_info.get());
    // The signature is of no account here; the reader wants to see one.
    let document = format!("{{\"tcbInfo\":{inner},\"signature\":\"{}\"}}", "00".repeat(64));
    TcbInfo::parse(document.as_bytes()).map_err(|error| wrong(&error))
}

/// The questions that all files are asked.
#[derive(Debug)]
pub struct Simulation<'a> {
    /// What is supposed.
    pub info: TcbInfo,
    /// What is stored.
    pub collateral: &'a Collection,
    /// Roots that PCK certificates may lead to.
    pub anchors: Anchors,
    /// When to judge, in seconds since 1970.
    pub at: u64,
    /// Which line of evaluations is stored.
    pub update: Update,
    /// How strictly to judge dates.
    pub options: Options,
}

impl Simulation<'_> {
    /// Asks every file of a directory; folders in it are left alone.
    pub fn directory(&self, directory: &Path) -> Result<Vec<Case>, Failure> {
        let failed = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", directory.display()));
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_file() {
                files.push(path);
            }
            if files.len() > MAX_FILES {
                return Err(Failure::usage(format!("{} holds more than {MAX_FILES} files", directory.display())));
            }
        }
        files.sort();
        Ok(files.into_iter().map(|file| Case { outcome: self.file(&file), file }).collect())
    }

    fn file(&self, path: &Path) -> Outcome {
        let unreadable = |why: String| Outcome::Unreadable { why: one_line(&why) };
        let bytes = match file::read(path) {
            Ok(bytes) => bytes,
            Err(failure) => return unreadable(failure.cause),
        };
        match Evidence::read(&bytes, None) {
            Ok(Evidence::Quote { quote, .. }) => self.quote(&quote),
            // Of Azure's evidence the quote is what TCB info speaks of; the virtual TPM's part is as it was.
            Ok(Evidence::Vtpm { td_quote, .. }) if !td_quote.is_empty() => self.quote(&td_quote),
            Ok(other) => Outcome::Elsewhere { why: format!("{} evidence does not depend on TCB info", other.kind()) },
            Err(error) => unreadable(error.to_string()),
        }
    }

    fn quote(&self, quote: &[u8]) -> Outcome {
        let items = match need::of_quote(quote, None, self.update) {
            Ok(items) => items,
            Err(error) => return Outcome::Unreadable { why: one_line(&error.to_string()) },
        };
        let verifier = || Verifier::new(&self.collateral.dcap(&items), self.anchors.clone());
        let now = verifier().verify(quote, None, self.at, &self.options);
        let pck = now.facts.fields.as_ref().and_then(|fields| fields.pck.as_ref());
        let id = match Quote::parse(quote).map(|quote| quote.body) {
            Ok(Body::Td(_)) => "TDX",
            _ => "SGX",
        };
        let fmspc = pck.map(|pck| pck.fmspc).unwrap_or_default();
        if (self.info.id.as_str(), self.info.fmspc) != (id, fmspc) {
            let why = format!("it is of {id} on a platform {}", hex::encode(fmspc));
            return Outcome::Elsewhere { why };
        }
        // Its dates are not looked at: by the time it comes, everything else would have been fetched anew, too.
        let mut info = self.info.clone();
        info.issue_date = info.issue_date.min(self.at);
        info.next_update = info.next_update.max(self.at);
        let then = verifier().suppose(info).verify(quote, None, self.at, &self.options);
        let (now, then) = (Box::new(Judged::new(&now)), Box::new(Judged::new(&then)));
        let changes = now.substance() != then.substance();
        Outcome::Judged { now, then, changes }
    }
}
