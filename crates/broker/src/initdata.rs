//! The digest of an init-data document, as the hardware carries it. Nothing else of the document is read here.

use aws_lc_rs::digest::{SHA256, SHA384, SHA512};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Longest document, in bytes.
pub const MAX_INITDATA: usize = 256 * 1024;

/// Why there is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InitDataError {
    /// Longer than [`MAX_INITDATA`].
    #[error("init-data of {0} bytes is longer than {MAX_INITDATA}")]
    TooLong(usize),
    /// Not TOML.
    #[error("init-data format is {0:?}; only toml is read")]
    Format(String),
    /// Not TOML, or without `algorithm`.
    #[error("init-data is not a toml document with an `algorithm`: {0}")]
    Toml(String),
    /// A hash that is not known.
    #[error("init-data algorithm is {0:?}; sha256, sha384 and sha512 are known")]
    Algorithm(String),
}

/// The digest of the document's bytes by the hash that it names: 32, 48 or 64 bytes.
///
/// # Errors
/// Any [`InitDataError`].
pub fn digest(document: &str) -> Result<Vec<u8>, InitDataError> {
    #[derive(Deserialize)]
    struct Head {
        algorithm: String,
    }

    if document.len() > MAX_INITDATA {
        return Err(InitDataError::TooLong(document.len()));
    }
    let head: Head =
        toml::from_str(document).map_err(|e| InitDataError::Toml(belljar_rcar::sanitize(e.message(), 120)))?;
    let algorithm = match head.algorithm.as_str() {
        "sha256" | "sha-256" => &SHA256,
        "sha384" | "sha-384" => &SHA384,
        "sha512" | "sha-512" => &SHA512,
        other => return Err(InitDataError::Algorithm(belljar_rcar::sanitize(other, 32))),
    };
    Ok(aws_lc_rs::digest::digest(algorithm, document.as_bytes()).as_ref().to_vec())
}

/// The digest as it stands in the 32 bytes of HOST_DATA: a longer one is truncated. This names a document here, whatever
/// register carried its digest.
///
/// # Errors
/// Any [`InitDataError`].
pub fn host_data(document: &str) -> Result<[u8; 32], InitDataError> {
    digest(document).map(|digest| truncated(&digest))
}

/// What policies may ask of a document, in upstream's form: its data, those of `aa.toml` and `cdh.toml` as JSON.
pub(crate) fn claims(document: &str) -> Value {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        data: BTreeMap<String, String>,
    }

    let Ok(Body { data }) = toml::from_str(document) else { return Value::Null };
    let value = |(name, text): (String, String)| match name.as_str() {
        "aa.toml" | "cdh.toml" | "contract.toml" => toml::from_str::<Value>(&text).ok().map(|value| (name, value)),
        // A policy of the guest's agent is long, and upstream gives only the data at its end.
        "policy.rego" => {
            let data = text.rsplit_once("policy_data := ").and_then(|(_, tail)| serde_json::from_str(tail.trim()).ok());
            data.map(|data| ("agent_policy_claims".to_owned(), data))
        }
        _ => Some((name, Value::String(text))),
    };
    Value::Object(data.into_iter().filter_map(value).collect())
}

/// The first 32 bytes; zeros where there are fewer.
pub(crate) fn truncated(digest: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (place, byte) in out.iter_mut().zip(digest) {
        *place = *byte;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_algorithm_of_the_document_is_used_and_truncated() {
        let with = |algorithm: &str| {
            let document = format!("version = \"0.1.0\"\nalgorithm = \"{algorithm}\"\n[data]\n");
            host_data(&document).map(|found| (document, found))
        };
        let (document, found) = with("sha256").unwrap();
        assert_eq!(found[..], *aws_lc_rs::digest::digest(&SHA256, document.as_bytes()).as_ref());
        let (document, found) = with("sha384").unwrap();
        assert_eq!(found[..], aws_lc_rs::digest::digest(&SHA384, document.as_bytes()).as_ref()[..32]);
        assert_eq!(with("md5"), Err(InitDataError::Algorithm("md5".into())));
        assert!(matches!(host_data("version = \"0.1.0\""), Err(InitDataError::Toml(_))));
        let long = format!("algorithm = \"sha256\"\n#{}", " ".repeat(MAX_INITDATA));
        assert_eq!(host_data(&long), Err(InitDataError::TooLong(long.len())));
        assert!(host_data(&long[..MAX_INITDATA]).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_documents_never_panic(document in "\\PC{0,200}", tail in "(\n|\\PC){0,80}") {
            let _ = host_data(&document);
            let _ = host_data(&["algorithm = \"sha256\"\n", tail.as_str()].concat());
        }
    }
}
