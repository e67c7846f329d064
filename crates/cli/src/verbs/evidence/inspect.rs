//! `belljar evidence inspect`: what the bytes say, without a word about their truth.

use std::path::Path;

use belljar_evidence::azure::{HclReport, TdReportStruct, TeeType};
use belljar_evidence::dcap::{Chain, Pck, Quote};
use belljar_evidence::eventlog::{Log, boot_chain, explain, replay};
use belljar_evidence::snp::Report;
use belljar_evidence::tpm::{Hash, PublicKey, Quote as TpmMessage};
use belljar_evidence::{Kind, tpm};
use serde_json::{Map, Value, json};

use crate::evidence::file;
use crate::failure::{Failure, one_line};
use crate::output::{Format, json as print_json, print, table};
use belljar_verifier::{Evidence, TpmQuote};

/// Decodes a file.
pub fn inspect(path: &Path, kind: Option<Kind>, format: Format) -> Result<i32, Failure> {
    let evidence = Evidence::read(&file::read(path)?, kind)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let mut document = fields(&evidence)?;
    let log = match &evidence {
        Evidence::Quote { log, .. } => log.as_deref(),
        Evidence::Part { kind: Kind::EventLog, bytes } => Some(bytes.as_slice()),
        _ => None,
    };
    if let Some(log) = log {
        document.insert("event_log".to_owned(), explained(log)?);
    }
    match format {
        Format::Json => print_json(&document)?,
        Format::Text => print(&text(evidence.kind(), &document))?,
    }
    Ok(0)
}

fn fields(evidence: &Evidence) -> Result<Map<String, Value>, Failure> {
    let mut document = Map::new();
    document.insert("kind".to_owned(), to_json(&evidence.kind())?);
    let fields = match evidence {
        Evidence::Snp { report, .. } => to_json(&Report::read(report).map_err(Failure::usage)?)?,
        Evidence::Quote { quote, .. } => quote_fields(quote)?,
        Evidence::Vtpm { hcl_report, tpm, td_quote, .. } => {
            let mut fields = hcl_fields(hcl_report)?;
            insert(&mut fields, "tpm_quote", message_fields(tpm)?);
            if !td_quote.is_empty() {
                insert(&mut fields, "td_quote", quote_fields(td_quote)?);
            }
            fields
        }
        Evidence::Tpm { ak, tpm } => {
            let key = PublicKey::from_spki(ak).map_err(Failure::usage)?;
            document.insert("ak".to_owned(), hex::encode(key.fingerprint()).into());
            document.insert("registers".to_owned(), registers(tpm)?);
            message_fields(tpm)?
        }
        Evidence::Part { kind: Kind::Tpm, bytes } => to_json(&TpmMessage::parse(bytes).map_err(Failure::usage)?)?,
        Evidence::Part { kind: Kind::EventLog, .. } => Value::Null,
        Evidence::Part { bytes, .. } => hcl_fields(bytes)?,
    };
    document.insert("fields".to_owned(), fields);
    Ok(document)
}

fn insert(fields: &mut Value, name: &str, value: Value) {
    if let Some(fields) = fields.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// A quote with what its PCK certificate says, where it holds one.
fn quote_fields(bytes: &[u8]) -> Result<Value, Failure> {
    let quote = Quote::parse(bytes).map_err(Failure::usage)?;
    let mut fields = to_json(&quote)?;
    let chain = Chain::parse(&quote.certification.data).ok();
    if let Some(pck) = chain.as_ref().and_then(Chain::leaf).and_then(|leaf| Pck::of(leaf).ok()) {
        insert(&mut fields, "pck", to_json(&pck)?);
    }
    Ok(fields)
}

fn hcl_fields(bytes: &[u8]) -> Result<Value, Failure> {
    let report = HclReport::parse(bytes).map_err(Failure::usage)?;
    let data: Value = serde_json::from_slice(&report.runtime_data).unwrap_or_default();
    let mut fields = json!({
        "hcl_version": report.version,
        "hcl_request_type": report.request_type,
        "igvm_report_type": if report.tee == TeeType::Snp { "snp" } else { "tdx" },
        "hash_type": report.hash.name(),
        "var_data_hash": hex::encode(report.runtime_data_digest()),
        "var_data": data,
    });
    match report.tee {
        TeeType::Snp => {
            insert(&mut fields, "snp", to_json(&Report::read(&report.hardware).map_err(Failure::usage)?)?);
        }
        TeeType::Tdx => insert(&mut fields, "td_report", to_json(&TdReportStruct::read(&report.hardware))?),
    }
    Ok(fields)
}

fn message_fields(quote: &TpmQuote) -> Result<Value, Failure> {
    to_json(&TpmMessage::parse(&quote.message).map_err(Failure::usage)?)
}

fn registers(quote: &TpmQuote) -> Result<Value, Failure> {
    to_json(&tpm::Pcrs::from_first(Hash::Sha256, quote.pcrs.iter().cloned()).map_err(Failure::usage)?)
}

/// A log: what was booted, every event, and for each bank the registers that its replay gives.
fn explained(bytes: &[u8]) -> Result<Value, Failure> {
    let log = Log::parse(bytes).map_err(Failure::usage)?;
    let banks: Vec<Hash> = log.algorithms.iter().filter_map(|(number, _)| Hash::of(*number)).collect();
    let Some(best) = banks.iter().copied().max_by_key(|bank| bank.size()) else {
        return Err(Failure::usage("event log has no bank of a hash that belljar knows"));
    };
    let mut replayed = Map::new();
    for bank in banks {
        replayed.insert(bank.name().to_owned(), to_json(&replay(&log, bank))?);
    }
    let events: Vec<_> = log.events.iter().map(|event| explain(event, best)).collect();
    Ok(json!({ "bank": best.name(), "boot": boot_chain(&log, best), "events": events, "replay": replayed }))
}

fn to_json(value: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(Failure::undecided)
}

fn text(kind: Kind, document: &Map<String, Value>) -> String {
    let mut text = format!("{kind} (decoded, not verified)\n");
    let mut rows = Vec::new();
    for (name, value) in document.iter().filter(|(name, _)| !matches!(name.as_str(), "kind" | "event_log")) {
        flatten(if name == "fields" { "" } else { name }, value, &mut rows);
    }
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(&["FIELD", "VALUE"], &rows));
    }
    if let Some(log) = document.get("event_log") {
        let mut rows = Vec::new();
        for name in ["boot", "replay"] {
            flatten(name, log.get(name).unwrap_or(&Value::Null), &mut rows);
        }
        text.push('\n');
        text.push_str(&table(&["EVENT LOG", "VALUE"], &rows));
        let word = |event: &Value, name: &str| match event.get(name) {
            Some(Value::String(word)) => word.chars().take(100).collect(),
            Some(Value::Null) | None => "not in the log".to_owned(),
            Some(other) => other.to_string(),
        };
        let events = log.get("events").and_then(Value::as_array).into_iter().flatten();
        let rows: Vec<Vec<String>> = events
            .map(|event| ["register", "event", "hashed", "what"].map(|name| word(event, name)).to_vec())
            .collect();
        text.push('\n');
        text.push_str(&table(&["REGISTER", "EVENT", "WHAT WAS HASHED", "WHAT IT SAYS"], &rows));
    }
    text
}

/// One row for each leaf of a document.
fn flatten(name: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(members) => members.iter().for_each(|(key, member)| flatten(&below(key), member, rows)),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().enumerate().for_each(|(at, item)| flatten(&below(&at.to_string()), item, rows));
        }
        // Names and texts are the evidence's: nothing in them may steer a terminal.
        Value::String(text) => rows.push(vec![one_line(name), one_line(text)]),
        Value::Null => {}
        other => rows.push(vec![one_line(name), other.to_string()]),
    }
}
