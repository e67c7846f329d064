//! Texts of bounded length for findings and errors, and times.

use std::str::FromStr;

use serde_json::Value;
use x509_cert::der::DateTime;

/// Longest text of one value in a finding, in characters.
const MAX_VALUE: usize = 256;
/// Most values of a list in a finding.
const MAX_LISTED: usize = 8;

/// A text without control characters, cut at `limit` characters.
pub(crate) fn clean(text: &str, limit: usize) -> String {
    belljar_rcar::sanitize(text, limit)
}

/// A JSON value for a person: strings without quotes, the rest as JSON.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text, MAX_VALUE),
        other => clean(&other.to_string(), MAX_VALUE),
    }
}

/// The first eight of a list.
pub(crate) fn listed(items: impl IntoIterator<Item = String>) -> String {
    let mut all = items.into_iter();
    let first: Vec<String> = all.by_ref().take(MAX_LISTED).collect();
    match all.count() {
        0 => first.join(" or "),
        more => format!("{} or {more} more", first.join(" or ")),
    }
}

/// Seconds since 1970 as `2026-11-27T02:00:00Z`; a time beyond the year 9999 as the number.
pub(crate) fn time(seconds: u64) -> String {
    DateTime::from_unix_duration(std::time::Duration::from_secs(seconds))
        .map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// The other way: `%Y-%m-%dT%H:%M:%SZ` and nothing else.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    (text.len() == 20).then(|| DateTime::from_str(text).ok()).flatten().map(|time| time.unix_duration().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways() {
        assert_eq!(time(1_795_436_053), "2026-11-23T12:14:13Z");
        assert_eq!(seconds("2026-11-23T12:14:13Z"), Some(1_795_436_053));
        for wrong in ["2026-11-23T12:14:13+00:00", "2026-11-23T12:14:13", "2026-13-23T12:14:13Z", "x", ""] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
    }

    #[test]
    fn lists_are_bounded() {
        assert_eq!(listed((0..3).map(|n| n.to_string())), "0 or 1 or 2");
        assert_eq!(listed((0..10).map(|n| n.to_string())), "0 or 1 or 2 or 3 or 4 or 5 or 6 or 7 or 2 more");
    }
}
