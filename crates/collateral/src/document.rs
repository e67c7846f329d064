//! An item as it is kept: its bytes, the certificates of its signer, and where and when it was fetched.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::check::{self, Anchors, Refused};
use crate::item::{Item, ItemError};
use crate::ladder::Facts;

/// Longest body of an item that is kept, in bytes; the largest, Intel's revocation list of platforms, has about 1 MiB.
pub const MAX_BODY: usize = 4 * 1024 * 1024;
/// Longest document in JSON, in bytes: a body in base64 with its chain and names.
pub const MAX_DOCUMENT: usize = 6 * 1024 * 1024;

/// One item with what is needed to verify it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Which item.
    pub item: Item,
    /// Address that it came from; a note for people.
    pub source: String,
    /// When it was fetched, in seconds since 1970.
    pub fetched: u64,
    /// Certificates of its signer, PEM, the signer first; empty for items that need none.
    pub chain: Vec<u8>,
    /// The bytes as the vendor publishes them.
    pub body: Vec<u8>,
}

/// Why bytes are not a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Too long to be one.
    #[error("it has {found} bytes, more than {MAX_DOCUMENT}")]
    Length {
        /// Length of the input.
        found: usize,
    },
    /// Not the JSON that belongs here, or something follows it.
    #[error("it is not a stored document: {0}")]
    Json(String),
    /// Its name is not one.
    #[error(transparent)]
    Item(#[from] ItemError),
    /// Its body is not base64, or too long.
    #[error("its body is not base64 of at most {MAX_BODY} bytes")]
    Body,
}

/// The document in JSON, members in this order. The chain is text as it came.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wire {
    item: String,
    source: String,
    fetched: u64,
    chain: String,
    body: String,
}

impl Document {
    /// Verifies it whatever its dates; see [`check::verify`].
    ///
    /// # Errors
    /// Any [`Refused`] of [`check::verify`].
    pub fn verify(&self, anchors: &Anchors) -> Result<Facts, Refused> {
        check::verify(&self.item, &self.body, &self.chain, anchors)
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// Any [`DocumentError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT {
            return Err(DocumentError::Length { found: bytes.len() });
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| DocumentError::Json(error.to_string()))?;
        wire.try_into()
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&Wire::from(self)).unwrap_or_default()
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        if let Ok(document) = Self::from_json(data) {
            let _ = document.verify(&Anchors::vendors());
        }
    }
}

impl From<&Document> for Wire {
    fn from(document: &Document) -> Self {
        Self {
            item: document.item.to_string(),
            source: document.source.clone(),
            fetched: document.fetched,
            // A chain that was verified is PEM, so nothing is lost.
            chain: String::from_utf8_lossy(&document.chain).into_owned(),
            body: STANDARD.encode(&document.body),
        }
    }
}

impl TryFrom<Wire> for Document {
    type Error = DocumentError;

    fn try_from(wire: Wire) -> Result<Self, DocumentError> {
        let body = STANDARD.decode(wire.body.as_bytes()).map_err(|_| DocumentError::Body)?;
        if body.len() > MAX_BODY {
            return Err(DocumentError::Body);
        }
        Ok(Self {
            item: wire.item.parse()?,
            source: wire.source,
            fetched: wire.fetched,
            chain: wire.chain.into_bytes(),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let document = Document {
            item: Item::RootCrl,
            source: "https://example.com/crl".to_owned(),
            fetched: 1_780_000_000,
            chain: Vec::new(),
            body: vec![0, 1, 2, 0xff],
        };
        let text = document.to_json();
        assert_eq!(Document::from_json(text.as_bytes()), Ok(document));
        assert!(matches!(Document::from_json(format!("{text}x").as_bytes()), Err(DocumentError::Json(_))));
        let other = text.replace("intel/root-crl", "intel/other");
        assert!(matches!(Document::from_json(other.as_bytes()), Err(DocumentError::Item(_))));
        let unknown = text.replace("\"fetched\"", "\"fetched_at\"");
        assert!(matches!(Document::from_json(unknown.as_bytes()), Err(DocumentError::Json(_))));
        let body = text.replace("AAEC/w==", "AAEC/x==");
        assert_eq!(Document::from_json(body.as_bytes()), Err(DocumentError::Body));
        let long = " ".repeat(MAX_DOCUMENT + 1);
        assert_eq!(Document::from_json(long.as_bytes()), Err(DocumentError::Length { found: MAX_DOCUMENT + 1 }));
    }
}
