//! A log as a file of lines, each a JSON object: first the log's name and end, then its entries, then its checkpoints, then
//! a line that says that this was all.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, Read as _, Write};

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::checkpoint::{AuditKeyId, AuditPublicKey, Checkpoint};
use super::entry::{AuditEntry, Event, Hash};
use super::verify::{Broken, Verified, Verifier};
use crate::record::{Tenant, Time};

/// Longest line, in bytes: an entry in which every byte is escaped.
const MAX_LINE: u64 = 512 << 10;
/// Most checkpoints of an export.
const MAX_CHECKPOINTS: usize = 1 << 20;
/// Name of the format.
const FORMAT: &str = "belljar-audit-1";

/// Why an export is not a whole and unbroken log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// It cannot be read or written.
    #[error("cannot read or write the export: {0}")]
    Io(#[from] std::io::Error),
    /// A line is not what has to stand there.
    #[error("line {line} of the export is not {expected}{}: it was changed, or is of another version", .why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    Line {
        /// Which, from 1.
        line: u64,
        /// What has to stand there.
        expected: &'static str,
        /// What is wrong with it.
        why: Option<String>,
    },
    /// It ends before its last line.
    #[error("the export ends behind line {0}, before its end: it was cut")]
    Cut(u64),
    /// The log is broken.
    #[error(transparent)]
    Broken(#[from] Broken),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    tenant: String,
    entries: u64,
    #[serde(with = "hex::serde")]
    hash: Hash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    sequence: u64,
    /// Milliseconds since 1970.
    time: u64,
    actor: String,
    action: String,
    object: String,
    outcome: String,
    details: Details,
    #[serde(with = "hex::serde")]
    hash: Hash,
}

/// Details, of which none may be given twice.
#[derive(Serialize)]
#[serde(transparent)]
struct Details(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Details {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Details;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Details, A::Error> {
                let mut details = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if details.insert(name, value).is_some() {
                        return Err(de::Error::custom("a detail is given twice"));
                    }
                }
                Ok(Details(details))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: u64,
    #[serde(with = "hex::serde")]
    hash: Hash,
    /// Milliseconds since 1970.
    time: u64,
    #[serde(with = "hex::serde")]
    key: [u8; 16],
    #[serde(with = "hex::serde")]
    signature: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: u64,
}

/// Writes an export.
pub(crate) struct Exporter<W>(W);

impl<W: Write> Exporter<W> {
    pub(crate) fn new(out: W, tenant: &Tenant, entries: u64, hash: Hash) -> Result<Self, ExportError> {
        let mut this = Self(out);
        this.line(&Head { format: FORMAT.into(), tenant: tenant.as_str().into(), entries, hash })?;
        Ok(this)
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), ExportError> {
        let mut text = serde_json::to_vec(line).map_err(std::io::Error::from)?;
        text.push(b'\n');
        Ok(self.0.write_all(&text)?)
    }

    pub(crate) fn entry(&mut self, entry: AuditEntry) -> Result<(), ExportError> {
        let AuditEntry { sequence, event, hash } = entry;
        let Event { time, actor, action, object, outcome, details } = event;
        let (time, details) = (time.millis(), Details(details));
        self.line(&Line { sequence, time, actor, action, object, outcome, details, hash })
    }

    pub(crate) fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), ExportError> {
        let Checkpoint { tenant: _, sequence, hash, time, key, signature } = checkpoint;
        self.line(&CheckpointLine { checkpoint: sequence, hash, time: time.millis(), key: key.0, signature })
    }

    pub(crate) fn end(mut self, entries: u64) -> Result<(), ExportError> {
        self.line(&End { end: entries })?;
        Ok(self.0.flush()?)
    }
}

/// Lines of bounded length.
struct Lines<R> {
    input: R,
    number: u64,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line; `None` when there is none, or the last one does not end.
    fn next(&mut self) -> Result<Option<&[u8]>, ExportError> {
        self.text.clear();
        let read = self.input.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.text)?;
        if self.text.pop() != Some(b'\n') {
            let long = u64::try_from(read).is_ok_and(|read| read >= MAX_LINE);
            return if long { Err(self.wrong("of any line's length", None)) } else { Ok(None) };
        }
        self.number = self.number.saturating_add(1);
        Ok(Some(&self.text))
    }

    fn wrong(&self, expected: &'static str, why: Option<String>) -> ExportError {
        ExportError::Line { line: self.number, expected, why }
    }

    fn parse<'a, T: Deserialize<'a>>(&'a self, expected: &'static str) -> Result<T, ExportError> {
        serde_json::from_slice(&self.text).map_err(|error| self.wrong(expected, Some(error.to_string())))
    }
}

/// Verifies an export: the whole log, every signature, and checkpoints that are known from elsewhere. Reads it twice, since
/// checkpoints come last.
pub fn verify_export<R: BufRead>(
    open: impl Fn() -> std::io::Result<R>,
    keys: &[AuditPublicKey],
    known: &[Checkpoint],
) -> Result<(Tenant, Verified), ExportError> {
    let (tenant, mut checkpoints) = read_checkpoints(open()?)?;
    checkpoints.extend_from_slice(known);
    let mut verifier = Verifier::new(&tenant, checkpoints, keys)?;
    let mut lines = Lines { input: open()?, number: 0, text: Vec::new() };
    lines.next()?.ok_or(ExportError::Cut(0))?;
    let head: Head = lines.parse("the head of an export")?;
    loop {
        lines.next()?.ok_or(ExportError::Cut(0))?;
        if kind(&lines.text) != Some("sequence") {
            break;
        }
        let line: Line = lines.parse("an entry")?;
        let event = Event {
            time: Time::from_millis(line.time),
            actor: line.actor,
            action: line.action,
            object: line.object,
            outcome: line.outcome,
            details: line.details.0,
        };
        let body = event.body().map_err(|error| lines.wrong("an entry", Some(error.to_string())))?;
        verifier.entry(line.sequence, &line.hash, &body)?;
    }
    Ok((tenant, verifier.end(head.entries, &head.hash)?))
}

/// Which line it is, by the first name in it.
fn kind(line: &[u8]) -> Option<&'static str> {
    ["sequence", "checkpoint", "end"].into_iter().find(|name| line.starts_with(format!("{{\"{name}\":").as_bytes()))
}

/// Whose log it is, and its checkpoints; looks at the form of the whole file.
fn read_checkpoints(input: impl BufRead) -> Result<(Tenant, Vec<Checkpoint>), ExportError> {
    let mut lines = Lines { input, number: 0, text: Vec::new() };
    lines.next()?.ok_or(ExportError::Cut(0))?;
    let head: Head = lines.parse("the head of an export")?;
    if head.format != FORMAT {
        return Err(
            lines.wrong("the head of an export", Some(format!("its format is {:?}, expected {FORMAT:?}", head.format)))
        );
    }
    let tenant =
        Tenant::new(&head.tenant).map_err(|error| lines.wrong("the head of an export", Some(error.to_string())))?;
    let mut checkpoints = Vec::new();
    loop {
        let number = lines.number;
        lines.next()?.ok_or(ExportError::Cut(number))?;
        match kind(&lines.text) {
            // Parsed when its turn comes.
            Some("sequence") if checkpoints.is_empty() => {}
            Some("checkpoint") if checkpoints.len() < MAX_CHECKPOINTS => {
                let line: CheckpointLine = lines.parse("a checkpoint")?;
                let (time, key) = (Time::from_millis(line.time), AuditKeyId(line.key));
                let CheckpointLine { checkpoint: sequence, hash, signature, .. } = line;
                checkpoints.push(Checkpoint { tenant: tenant.clone(), sequence, hash, time, key, signature });
            }
            Some("end") => {
                let end: End = lines.parse("the end")?;
                let rest = lines.input.fill_buf()?;
                if end.end != head.entries || !rest.is_empty() {
                    return Err(lines.wrong("the end", Some("it is not where the head says".into())));
                }
                return Ok((tenant, checkpoints));
            }
            _ => return Err(lines.wrong("an entry, a checkpoint or the end in its place", None)),
        }
    }
}

/// For the fuzzer: an export of any bytes never verifies against a checkpoint that nobody signed.
pub(crate) fn fuzz(data: &[u8]) {
    let _ = verify_export(|| Ok(data), &[], &[]);
}
