//! TDX evidence as JSON: `{"quote": base64, "cc_eventlog": base64 | null}`. Quotes are verified by `belljar-evidence`.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// Longest quote, in bytes; real ones are about 5 kB.
pub const MAX_QUOTE: usize = 64 * 1024;
/// Longest event log, in bytes.
pub const MAX_EVENTLOG: usize = 512 * 1024;

/// Evidence of an Intel TDX guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TdxEvidence {
    quote: String,
    #[serde(default)]
    cc_eventlog: Option<String>,
}

/// Why TDX evidence is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TdxError {
    /// Not base64.
    #[error("{0} is not base64")]
    Base64(&'static str),
    /// Longer than allowed.
    #[error("{member} of {found} bytes is longer than {limit}")]
    TooLong {
        /// `quote` or `cc_eventlog`.
        member: &'static str,
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

impl TdxEvidence {
    /// From the raw quote and the raw CCEL.
    pub fn new(quote: &[u8], eventlog: Option<&[u8]>) -> Self {
        Self { quote: STANDARD.encode(quote), cc_eventlog: eventlog.map(|log| STANDARD.encode(log)) }
    }

    /// The raw quote.
    pub fn quote(&self) -> Result<Vec<u8>, TdxError> {
        decode("quote", &self.quote, MAX_QUOTE)
    }

    /// The raw event log.
    pub fn eventlog(&self) -> Result<Option<Vec<u8>>, TdxError> {
        self.cc_eventlog.as_ref().map(|log| decode("cc_eventlog", log, MAX_EVENTLOG)).transpose()
    }
}

fn decode(member: &'static str, text: &str, limit: usize) -> Result<Vec<u8>, TdxError> {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    let found = (text.len() / 4 * 3).saturating_sub(padding);
    if found > limit {
        return Err(TdxError::TooLong { member, found, limit });
    }
    STANDARD.decode(text).map_err(|_| TdxError::Base64(member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_bounds() {
        let evidence = TdxEvidence::new(&[1, 2, 3], Some(&[4]));
        let text = serde_json::to_string(&evidence).unwrap();
        assert_eq!(text, r#"{"quote":"AQID","cc_eventlog":"BA=="}"#);
        let read: TdxEvidence = serde_json::from_str(&text).unwrap();
        assert_eq!((read.quote().unwrap(), read.eventlog().unwrap()), (vec![1, 2, 3], Some(vec![4])));

        let none: TdxEvidence = serde_json::from_str(r#"{"quote":"AQID"}"#).unwrap();
        assert_eq!(none.eventlog().unwrap(), None);
        let bad: TdxEvidence = serde_json::from_str(r#"{"quote":"A*ID"}"#).unwrap();
        assert_eq!(bad.quote(), Err(TdxError::Base64("quote")));
        let limit = MAX_QUOTE;
        assert_eq!(TdxEvidence::new(&vec![0; limit], None).quote().unwrap().len(), limit);
        let long = TdxEvidence::new(&vec![0; limit + 1], None);
        assert_eq!(long.quote(), Err(TdxError::TooLong { member: "quote", found: limit + 1, limit }));
    }
}
