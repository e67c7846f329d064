//! Claims of an event log whose replay gives the registers of the evidence.

use base64::{Engine, engine::general_purpose::STANDARD};
use belljar_evidence::eventlog::{Event, Log, explain};
use belljar_evidence::tpm::Hash;
use serde_json::{Map, Value, json};

/// Most events that become claims (`belljar.event_log_events` counts all), and most bytes of an event's data; the measured
/// boots that are known have below 150 events.
const MAX_EVENTS: usize = 512;
const MAX_DATA: usize = 4096;
/// EV_EVENT_TAG.
const EVENT_TAG: u32 = 6;
/// Tag of the kernel's command line and of the initrd (Linux' EFI stub).
const LOAD_OPTIONS_TAG: u32 = 0x8F3B_22ED;
const INITRD_TAG: u32 = 0x8F3B_22EC;
/// Tag of an entry of the attestation agent's log.
const AAEL_TAG: u32 = 0x4141_454C;
/// EV_EFI_BOOT_SERVICES_APPLICATION, …_DRIVER, EV_EFI_RUNTIME_SERVICES_DRIVER: UEFI_IMAGE_LOAD_EVENT.
const IMAGES: std::ops::RangeInclusive<u32> = 0x8000_0003..=0x8000_0005;

/// `uefi_event_logs`.
pub(super) fn claims(log: &Log) -> Value {
    log.events.iter().take(MAX_EVENTS).map(event).collect()
}

fn event(event: &Event) -> Value {
    let explained = explain(event, Hash::Sha384);
    let name = explained.event;
    let digests: Vec<Value> = event
        .digests
        .iter()
        .map(|(algorithm, digest)| json!({ "alg": algorithm_name(*algorithm), "digest": hex::encode(digest) }))
        .collect();
    let mut claims = Map::new();
    claims.insert("index".to_owned(), json!(event.register));
    claims.insert("event_type".to_owned(), json!(name));
    claims.insert("type_name".to_owned(), json!(name));
    claims.insert("digests".to_owned(), json!(digests));
    claims.insert("digest_matches_event".to_owned(), json!(explained.hashed.is_some()));
    if event.data.len() <= MAX_DATA {
        claims.insert("event".to_owned(), json!(STANDARD.encode(&event.data)));
    }
    claims.insert("details".to_owned(), details(event));
    Value::Object(claims)
}

fn algorithm_name(algorithm: u16) -> String {
    match Hash::of(algorithm) {
        Some(Hash::Sha1) => "SHA-1".to_owned(),
        Some(Hash::Sha256) => "SHA-256".to_owned(),
        Some(Hash::Sha384) => "SHA-384".to_owned(),
        Some(Hash::Sha512) => "SHA-512".to_owned(),
        None => format!("{algorithm:#06x}"),
    }
}

fn details(event: &Event) -> Value {
    let mut details = Map::new();
    match event.kind {
        EVENT_TAG => tagged(&mut details, &event.data),
        kind if IMAGES.contains(&kind) => {
            if let Some(paths) = device_paths(&event.data) {
                details.insert("device_paths".to_owned(), json!(paths));
            }
        }
        _ => {
            if let Some(text) = text_of(&event.data) {
                details.insert("string".to_owned(), json!(text));
            }
        }
    }
    Value::Object(details)
}

/// TCG_PCClientTaggedEvent: tag, length, data.
fn tagged(details: &mut Map<String, Value>, data: &[u8]) {
    let word =
        |at: usize| data.get(at..at.saturating_add(4)).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes);
    let (Some(tag), Some(length)) = (word(0), word(4)) else { return };
    let inner = usize::try_from(length).ok().and_then(|length| data.get(8..8_usize.checked_add(length)?));
    let Some(inner) = inner else { return };
    match (tag, text_of(inner)) {
        // What upstream's parser writes of the EFI stub's events.
        (LOAD_OPTIONS_TAG | INITRD_TAG, Some(text)) => {
            details.insert("string".to_owned(), json!(text));
        }
        (AAEL_TAG, Some(text)) => {
            let mut parts = text.splitn(3, ' ');
            if let (Some(domain), Some(operation), Some(content)) = (parts.next(), parts.next(), parts.next()) {
                let content = serde_json::from_str(content).unwrap_or_else(|_| json!(content));
                let entry = json!({ "domain": domain, "operation": operation, "content": content });
                details.insert("data".to_owned(), entry);
            }
            details.insert("string".to_owned(), json!(text));
        }
        (_, Some(text)) => {
            details.insert("string".to_owned(), json!(text));
        }
        (_, None) => {}
    }
}

/// The data as text up to a final zero byte, when they are printable.
fn text_of(data: &[u8]) -> Option<String> {
    let data = data.strip_suffix(&[0]).unwrap_or(data);
    let text = std::str::from_utf8(data).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// UEFI_IMAGE_LOAD_EVENT (TCG PC Client Platform Firmware Profile, 10.4.3): location, length, link-time address, length
/// of the device path, the path. File paths (UEFI 2.10, 10.3.5.4) in the text form of UEFI; other nodes by their numbers.
fn device_paths(data: &[u8]) -> Option<Vec<String>> {
    const HEAD: usize = 32;
    const MAX_NODES: usize = 32;
    let mut rest = data.get(HEAD..)?;
    let mut paths = Vec::new();
    while let Some((&[kind, subtype, low, high], _)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let node = rest.get(4..length)?;
        if kind == 0x7F || paths.len() == MAX_NODES {
            break;
        }
        paths.push(match (kind, subtype) {
            (0x04, 0x04) => format!("File({})", wide(node)?),
            (kind, subtype) => format!("Path({kind},{subtype},{})", hex::encode(node.get(..64).unwrap_or(node))),
        });
        rest = rest.get(length..)?;
    }
    Some(paths)
}

fn wide(data: &[u8]) -> Option<String> {
    let units: Vec<u16> =
        data.chunks_exact(2).filter_map(|pair| Some(u16::from_le_bytes(pair.try_into().ok()?))).collect();
    let text = String::from_utf16(units.strip_suffix(&[0]).unwrap_or(&units)).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(tag: u32, text: &[u8]) -> Event {
        let length = u32::try_from(text.len()).unwrap();
        let data = [&tag.to_le_bytes(), &length.to_le_bytes(), text].concat();
        Event { register: 3, kind: EVENT_TAG, digests: vec![(0x0C, vec![7; 48])], data }
    }

    #[test]
    fn tagged_events_are_read() {
        let read = event(&tag(LOAD_OPTIONS_TAG, b"LOADED_IMAGE::LoadOptions\0"));
        assert_eq!(read["type_name"], "EV_EVENT_TAG");
        assert_eq!(read["details"]["string"], "LOADED_IMAGE::LoadOptions");
        assert_eq!(read["digests"], json!([{ "alg": "SHA-384", "digest": "07".repeat(48) }]));
        let read = event(&tag(AAEL_TAG, br#"github.com/x PullImage {"image":"a b"}"#));
        let expected = json!({ "domain": "github.com/x", "operation": "PullImage", "content": { "image": "a b" } });
        assert_eq!(read["details"]["data"], expected);
        let mut cut = tag(LOAD_OPTIONS_TAG, b"LOADED_IMAGE::LoadOptions\0");
        cut.data.pop();
        assert_eq!(event(&cut)["details"], json!({}));
    }

    #[test]
    fn paths_of_programs_are_read() {
        let name: Vec<u8> = "kernel\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let length = u16::try_from(4 + name.len()).unwrap().to_le_bytes();
        let data = [&[0; 32][..], &[4, 4], &length, &name, &[0x7F, 0xFF, 4, 0]].concat();
        let program = Event { register: 2, kind: 0x8000_0003, digests: Vec::new(), data };
        assert_eq!(event(&program)["details"]["device_paths"], json!(["File(kernel)"]));
        let cut = Event { data: program.data[..40].to_vec(), ..program };
        assert_eq!(event(&cut)["details"], json!({}));
    }
}
