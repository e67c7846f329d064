//! Items with what is known of them, as a table or as JSON.

use belljar_collateral::{Anchors, Document, Facts, Freshness, Item};
use belljar_evidence::time::rfc3339;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, Format, json, table};

/// One item.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub item: String,
    /// What it is for.
    pub purpose: String,
    /// Who signed it; `None` when it is not authentic.
    pub issuer: Option<String>,
    /// Whose root that leads to: `amd`, `intel`, or `test` for one that the user added.
    pub root: Option<&'static str>,
    /// When it was issued.
    pub issued: Option<String>,
    /// When its next issue is due, or its end.
    pub next_update: Option<String>,
    /// Number of Intel's evaluation.
    pub evaluation_number: Option<u32>,
    /// `fresh`, `in_grace` or `stale`.
    pub rung: Option<Freshness>,
    /// Where it came from.
    pub source: String,
    /// When it was fetched; `None` for plain files.
    pub fetched: Option<String>,
    /// Why it is not authentic or was not got; with a rung, why it could not be fetched anew.
    pub error: Option<String>,
}

impl Row {
    /// Of a stored item, verified at a time in seconds since 1970.
    pub fn of(document: &Document, anchors: &Anchors, at: u64, grace: u64) -> Self {
        let mut row = Self::about(&document.item);
        row.source.clone_from(&document.source);
        row.fetched = (document.fetched > 0).then(|| rfc3339(document.fetched));
        match document.verify(anchors) {
            Ok(facts) if at < facts.issued => {
                let since = facts.issued;
                row.note(facts, Freshness::Stale);
                row.error =
                    Some(format!("it is issued later than now, at {}: set this machine's clock", rfc3339(since)));
            }
            Ok(facts) => {
                let rung = facts.rung(at, grace);
                row.note(facts, rung);
            }
            Err(error) => row.error = Some(error.to_string()),
        }
        row
    }

    /// Of an item about which nothing else is known yet.
    pub fn about(item: &Item) -> Self {
        Self {
            item: item.to_string(),
            purpose: item.purpose(),
            issuer: None,
            root: None,
            issued: None,
            next_update: None,
            evaluation_number: None,
            rung: None,
            source: String::new(),
            fetched: None,
            error: None,
        }
    }

    /// Notes what an item says of itself.
    pub fn note(&mut self, facts: Facts, rung: Freshness) {
        self.issued = Some(rfc3339(facts.issued));
        self.next_update = Some(rfc3339(facts.next_update.min(facts.expires)));
        self.evaluation_number = facts.evaluation_number;
        self.root = Some(facts.root);
        self.issuer = Some(facts.issuer);
        self.rung = Some(rung);
    }

    /// Whether it is authentic and not stale.
    pub fn is_good(&self) -> bool {
        self.rung.is_some_and(|rung| rung < Freshness::Stale)
    }

    fn cells(&self) -> Vec<String> {
        let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let issuer = match (&self.issuer, self.root) {
            (Some(issuer), Some("test")) => format!("{issuer} (not a vendor's root)"),
            (issuer, _) => or(issuer),
        };
        let state = match self.rung {
            Some(rung) => rung.name(),
            None if self.source.is_empty() => "not got",
            None => "refused",
        };
        let dates = [or(&self.issued), or(&self.next_update)];
        [vec![short(&self.item), self.purpose.clone(), issuer], dates.to_vec(), vec![state.to_owned()]].concat()
    }
}

/// Prints items; what is wrong with one stands below the table.
pub fn print(rows: &[Row], format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => json(&serde_json::json!({ "items": rows })),
        Format::Text => {
            let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
            let mut text = table(&["ITEM", "FOR", "ISSUER", "ISSUED", "NEXT UPDATE", "STATE"], &cells);
            for row in rows {
                if let Some(error) = &row.error {
                    text.push_str(&format!("{}: {}\n", short(&row.item), crate::failure::one_line(error)));
                }
            }
            output::print(&text)
        }
    }
}

/// A name without the middle of a chip's id, which fills a line; `--format json` has it whole.
fn short(item: &str) -> String {
    let part = |text: &str| match (text.get(..8), text.get(text.len().saturating_sub(8)..)) {
        (Some(first), Some(last)) if text.len() > 32 => format!("{first}…{last}"),
        _ => text.to_owned(),
    };
    item.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_id_is_shortened_for_people() {
        let item = format!("amd/Milan/vcek/{}/0401000000001adb", "c4".repeat(64));
        assert_eq!(short(&item), "amd/Milan/vcek/c4c4c4c4…c4c4c4c4/0401000000001adb");
        assert_eq!(short("intel/root-crl"), "intel/root-crl");
    }
}
