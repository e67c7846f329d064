//! Entries of a log, their canonical bytes and their hashes.
//!
//! A log is a tenant's own: its numbers and hashes tell nothing about other tenants. The canonical bytes of an entry
//! (its body) are: version 1; time in milliseconds since 1970 as 8 bytes; actor, action, object, outcome, each behind its
//! length in 4 bytes; the number of details in 2 bytes, and each detail as two such texts, by ascending name. Numbers are
//! big endian, texts UTF-8. The hash of an entry is SHA-256 over the hash before it, its number in 8 bytes and its body.
//! Before the first entry stands SHA-256 over `belljar audit log 1`, a NUL and the tenant's name.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};

use crate::record::{Tenant, Time};

/// Version of canonical bytes.
const VERSION: u8 = 1;
/// Longest actor, action, object or outcome, and longest name of a detail, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Most details of an entry.
pub const MAX_DETAILS: usize = 64;
/// Longest body, in bytes.
pub const MAX_BODY: usize = 64 << 10;

/// A hash of a log.
pub type Hash = [u8; 32];

/// What happened: an entry before it has its place in a log. Neither secrets nor tokens belong here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: Time,
    /// Who did it: a principal, a workload, the broker.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// How it ended.
    pub outcome: String,
    /// What else is to be known.
    pub details: BTreeMap<String, String>,
}

/// Why something cannot be an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// A text is too long.
    #[error("the {0} of an audit entry has {1} bytes; {MAX_TEXT} is the most")]
    Text(&'static str, usize),
    /// Too many details.
    #[error("an audit entry has {0} details; {MAX_DETAILS} is the most")]
    Details(usize),
    /// Too long altogether.
    #[error("an audit entry has {0} bytes; {MAX_BODY} is the most")]
    Length(usize),
}

impl Event {
    /// Without details.
    pub fn new(time: Time, actor: &str, action: &str, object: &str, outcome: &str) -> Self {
        Self {
            time,
            actor: actor.to_owned(),
            action: action.to_owned(),
            object: object.to_owned(),
            outcome: outcome.to_owned(),
            details: BTreeMap::new(),
        }
    }

    /// With a detail.
    #[must_use]
    pub fn detail(mut self, name: &str, value: &str) -> Self {
        self.details.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The canonical bytes.
    pub fn body(&self) -> Result<Vec<u8>, EventError> {
        let Self { time, actor, action, object, outcome, details } = self;
        let mut body = vec![VERSION];
        body.extend(time.millis().to_be_bytes());
        let mut text = |what, text: &str, most: usize| {
            if text.len() > most {
                return Err(EventError::Text(what, text.len()));
            }
            body.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            body.extend(text.as_bytes());
            Ok(())
        };
        for (what, value) in [("actor", actor), ("action", action), ("object", object), ("outcome", outcome)] {
            text(what, value, MAX_TEXT)?;
        }
        if details.len() > MAX_DETAILS {
            return Err(EventError::Details(details.len()));
        }
        let mut count = Vec::new();
        for (name, value) in details {
            if name.len() > MAX_TEXT {
                return Err(EventError::Text("name of a detail", name.len()));
            }
            for part in [name, value] {
                count.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
                count.extend(part.as_bytes());
            }
        }
        body.extend(u16::try_from(details.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend(count);
        if body.len() > MAX_BODY { Err(EventError::Length(body.len())) } else { Ok(body) }
    }

    /// From canonical bytes, all of which have to be one event; no other bytes are the same event.
    pub fn parse(body: &[u8]) -> Option<Self> {
        if body.len() > MAX_BODY {
            return None;
        }
        let (version, rest) = body.split_first()?;
        let (time, mut rest) = rest.split_first_chunk()?;
        let time = u64::from_be_bytes(*time);
        if *version != VERSION || time > Time::MAX.millis() {
            return None;
        }
        let text = |rest: &mut &[u8], most: usize| {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok().filter(|length| *length <= most)?;
            let (text, after) = after.split_at_checked(length)?;
            *rest = after;
            String::from_utf8(text.to_vec()).ok()
        };
        let (actor, action) = (text(&mut rest, MAX_TEXT)?, text(&mut rest, MAX_TEXT)?);
        let (object, outcome) = (text(&mut rest, MAX_TEXT)?, text(&mut rest, MAX_TEXT)?);
        let (count, mut rest) = rest.split_first_chunk()?;
        let count = usize::from(u16::from_be_bytes(*count));
        if count > MAX_DETAILS {
            return None;
        }
        let mut details = BTreeMap::new();
        for _ in 0..count {
            let name = text(&mut rest, MAX_TEXT)?;
            if details.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return None;
            }
            details.insert(name, text(&mut rest, MAX_BODY)?);
        }
        rest.is_empty().then_some(Self { time: Time::from_millis(time), actor, action, object, outcome, details })
    }
}

/// An entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number: the first is 1.
    pub sequence: u64,
    /// What happened.
    pub event: Event,
    /// Its hash.
    pub hash: Hash,
}

/// What stands before the first entry.
pub(crate) fn genesis(tenant: &Tenant) -> Hash {
    hash(&[b"belljar audit log 1\0", tenant.as_str().as_bytes()])
}

/// The hash of an entry.
pub(crate) fn chain(previous: &Hash, sequence: u64, body: &[u8]) -> Hash {
    hash(&[previous, &sequence.to_be_bytes(), body])
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().unwrap_or_default()
}

/// For the fuzzer: a body of any bytes.
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(event) = Event::parse(data) {
        assert_eq!(event.body().as_deref(), Ok(data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event::new(Time::from_millis(1_700_000_000_123), "admin", "secret put", "a/b/c", "done")
            .detail("ü", "x")
            .detail("a", "")
    }

    #[test]
    fn bodies_are_canonical() {
        let body = event().body().unwrap();
        let expected = "01 0000018bcfe5687b 00000005 61646d696e 0000000a 73656372657420707574 00000005 612f622f63 \
             00000004 646f6e65 0002 00000001 61 00000000 00000002 c3bc 00000001 78";
        assert_eq!(hex::encode(&body), expected.replace(' ', ""));
        assert_eq!(Event::parse(&body), Some(event()));
        for n in 0..body.len() {
            assert_eq!(Event::parse(&body[..n]), None, "cut at {n}");
        }
        assert_eq!(Event::parse(&[&body[..], b"\0"].concat()), None);
        // The other order of details, and a detail twice.
        let (head, details) = body.split_at(body.len() - 20);
        assert_eq!(Event::parse(&[head, &details[9..], &details[..9]].concat()), None);
        assert_eq!(Event::parse(&[head, &details[..9], &details[..9], &[0, 0]].concat()), None);
    }

    #[test]
    fn entries_are_bounded() {
        let long = "x".repeat(MAX_TEXT + 1);
        let mut event = event();
        event.object = "x".repeat(MAX_TEXT);
        assert!(event.body().is_ok());
        event.object = long.clone();
        assert_eq!(event.body(), Err(EventError::Text("object", MAX_TEXT + 1)));
        event.object.clear();
        assert_eq!(event.clone().detail(&long, "").body(), Err(EventError::Text("name of a detail", MAX_TEXT + 1)));
        let many = (0..=MAX_DETAILS).fold(Event::new(Time::MAX, "", "", "", ""), |e, n| e.detail(&n.to_string(), ""));
        assert_eq!(many.body(), Err(EventError::Details(MAX_DETAILS + 1)));
        let large = event.detail("large", &"x".repeat(MAX_BODY));
        assert!(matches!(large.body(), Err(EventError::Length(length)) if length > MAX_BODY));
    }

    #[test]
    fn hashes_are_chained_as_written_down() {
        let tenant = Tenant::new("acme").unwrap();
        // printf 'belljar audit log 1\0acme' | sha256sum
        let first = genesis(&tenant);
        let by_hand = aws_lc_rs::digest::digest(&SHA256, b"belljar audit log 1\0acme");
        assert_eq!(first, by_hand.as_ref());
        let one = chain(&first, 1, b"body");
        let by_hand = [&first[..], &[0, 0, 0, 0, 0, 0, 0, 1], b"body"].concat();
        assert_eq!(one, aws_lc_rs::digest::digest(&SHA256, &by_hand).as_ref());
        assert_ne!(chain(&first, 2, b"body"), one);
        assert_ne!(genesis(&Tenant::new("acme2").unwrap()), first);
    }
}
