//! Upstream's reference value provider: its message with a `sample` payload, and the form in which it stores a value.
//!
//! The message is `{"version": "0.1.0", "type": "sample", "payload": "<standard base64>"}`; the payload is an object of
//! names, each with a scalar or a list of scalars. The stored form is `{"version", "name", "expiration", "value"}` with
//! an expiration `%Y-%m-%dT%H:%M:%SZ`, which upstream keeps and does not look at, and we do.

use std::collections::BTreeMap;
use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_json::Value;

use super::{DEFAULT_SET, MAX_MESSAGE, ReferenceError, ReferenceValue, SourceKind, checked};
use crate::text;

/// Version of messages and stored values.
const VERSION: &str = "0.1.0";

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RvpsError {
    /// Not the JSON of a message or of stored values.
    #[error("not a message of a reference value provider: {0}")]
    Json(String),
    /// A version that is not read.
    #[error("message has version {0:?}; {VERSION} is read")]
    Version(String),
    /// A type that is not read.
    #[error("message has type {0:?}; sample is read: import swid, in-toto and others as a corim or a sample payload")]
    Type(String),
    /// The payload is not base64.
    #[error("payload is not standard base64: {0}")]
    Base64(String),
    /// The payload is not an object of reference values.
    #[error("payload is no object of names and values: {0}")]
    Payload(String),
    /// Not `%Y-%m-%dT%H:%M:%SZ`.
    #[error("expiration {0:?} is not of the form 2026-01-31T00:00:00Z")]
    Expiration(String),
    /// A value is refused.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    version: String,
    #[serde(rename = "type")]
    kind: String,
    payload: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: String,
    name: String,
    expiration: String,
    value: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Box<Stored>),
    Many(Vec<Stored>),
}

/// Where imported values go, and whose they are.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The measurement set; [`DEFAULT_SET`] when absent.
    pub set: Option<&'a str>,
    /// Who registers them.
    pub owner: &'a str,
    /// Last second at which they hold, where the message does not say.
    pub expires: Option<u64>,
}

impl Target<'_> {
    fn value(&self, name: String, value: Value, expires: Option<u64>) -> ReferenceValue {
        ReferenceValue {
            name,
            set: self.set.unwrap_or(DEFAULT_SET).to_owned(),
            value,
            expires,
            source: SourceKind::Rvps,
            owner: self.owner.to_owned(),
            signer: None,
        }
    }
}

/// Reads a message.
///
/// # Errors
/// Any [`RvpsError`].
pub fn read_message(message: &[u8], into: &Target<'_>) -> Result<Vec<ReferenceValue>, RvpsError> {
    bounded(message)?;
    let message: Message = serde_json::from_slice(message).map_err(|error| RvpsError::Json(short(&error)))?;
    version(&message.version)?;
    if message.kind != "sample" {
        return Err(RvpsError::Type(text::clean(&message.kind, 32)));
    }
    let payload = STANDARD.decode(&message.payload).map_err(|error| RvpsError::Base64(error.to_string()))?;
    let Payload(values) = serde_json::from_slice(&payload).map_err(|error| RvpsError::Payload(short(&error)))?;
    Ok(checked(values.into_iter().map(|(name, value)| into.value(name, value, into.expires)).collect())?)
}

/// Reads stored values: one, or a list.
///
/// # Errors
/// Any [`RvpsError`].
pub fn read_stored(stored: &[u8], into: &Target<'_>) -> Result<Vec<ReferenceValue>, RvpsError> {
    bounded(stored)?;
    let stored = match serde_json::from_slice(stored).map_err(|error| RvpsError::Json(short(&error)))? {
        OneOrMany::One(one) => vec![*one],
        OneOrMany::Many(many) => many,
    };
    let mut values = Vec::with_capacity(stored.len());
    for Stored { version: found, name, expiration, value } in stored {
        version(&found)?;
        let last = text::seconds(&expiration).ok_or_else(|| RvpsError::Expiration(text::clean(&expiration, 40)))?;
        if values.iter().any(|value: &ReferenceValue| value.name == name) {
            return Err(ReferenceError::Twice(text::clean(&name, 80)).into());
        }
        values.push(into.value(name, value, Some(last)));
    }
    Ok(checked(values)?)
}

/// Reads arbitrary bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let into = Target { set: None, owner: "fuzz", expires: None };
    let _ = (read_message(data, &into), read_stored(data, &into));
    let _ = serde_json::from_slice::<Payload>(data);
}

fn bounded(message: &[u8]) -> Result<(), RvpsError> {
    if message.len() > MAX_MESSAGE { Err(ReferenceError::Length(message.len()).into()) } else { Ok(()) }
}

fn version(found: &str) -> Result<(), RvpsError> {
    if found == VERSION { Ok(()) } else { Err(RvpsError::Version(text::clean(found, 32))) }
}

fn short(error: &serde_json::Error) -> String {
    text::clean(&error.to_string(), 160)
}

/// An object without a name twice.
struct Payload(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Payload, A::Error> {
                let mut values = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if values.insert(name.clone(), value).is_some() {
                        return Err(de::Error::custom(format_args!("{:?} is there twice", text::clean(&name, 80))));
                    }
                }
                Ok(Payload(values))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const INTO: Target<'static> = Target { set: None, owner: "ops", expires: Some(7) };

    fn message(payload: &str) -> serde_json::Value {
        json!({ "version": "0.1.0", "type": "sample", "payload": STANDARD.encode(payload) })
    }

    fn read(message: &serde_json::Value) -> Result<Vec<ReferenceValue>, RvpsError> {
        read_message(message.to_string().as_bytes(), &INTO)
    }

    #[test]
    fn a_sample_message_is_read() {
        let values = read(&message(r#"{"snp_launch_measurement":["ab"],"major_version":1}"#)).unwrap();
        let shown: Vec<_> = values.iter().map(|v| (v.name.as_str(), v.value.clone(), v.expires)).collect();
        assert_eq!(shown, [("major_version", json!(1), Some(7)), ("snp_launch_measurement", json!(["ab"]), Some(7))]);
        assert_eq!((values[0].set.as_str(), values[0].owner.as_str()), ("default", "ops"));
    }

    #[test]
    fn each_fault_of_a_message_has_its_error() {
        let good = message(r#"{"svn":["1"]}"#);
        assert!(read(&good).is_ok());
        let with = |member: &str, value: serde_json::Value| {
            let mut bad = good.clone();
            bad[member] = value;
            read(&bad).unwrap_err()
        };
        assert_eq!(with("version", json!("0.2.0")), RvpsError::Version("0.2.0".into()));
        assert_eq!(with("type", json!("swid")), RvpsError::Type("swid".into()));
        assert!(matches!(with("payload", json!("e30")), RvpsError::Base64(_)));
        assert!(matches!(with("payload", json!(STANDARD.encode("[1]"))), RvpsError::Payload(_)));
        assert!(matches!(with("payload", json!(STANDARD.encode(r#"{"a":1,"a":2}"#))), RvpsError::Payload(_)));
        assert!(matches!(
            with("payload", json!(STANDARD.encode(r#"{"a":1} "#.to_owned() + "x"))),
            RvpsError::Payload(_)
        ));
        assert_eq!(with("payload", json!(STANDARD.encode("{}"))), ReferenceError::Empty.into());
        assert_eq!(with("payload", json!(STANDARD.encode(r#"{"a":{}}"#))), ReferenceError::Shape("a".into()).into());
        assert!(matches!(with("more", json!(1)), RvpsError::Json(_)));
        assert_eq!(
            read_message(&vec![b' '; MAX_MESSAGE + 1], &INTO),
            Err(ReferenceError::Length(MAX_MESSAGE + 1).into())
        );
    }

    #[test]
    fn a_stored_value_keeps_its_expiration() {
        let stored = |expiration: &str, name: &str| json!({ "version": "0.1.0", "name": name, "expiration": expiration, "value": ["ab"] });
        let read = |value: serde_json::Value| read_stored(value.to_string().as_bytes(), &INTO);
        let one = read(stored("2026-11-23T12:14:13Z", "svn")).unwrap();
        assert_eq!(
            (one[0].expires, one[0].holds_at(1_795_436_053), one[0].holds_at(1_795_436_054)),
            (Some(1_795_436_053), true, false)
        );
        let two = json!([stored("2026-11-23T12:14:13Z", "svn"), stored("2027-11-23T12:14:13Z", "b")]);
        assert_eq!(read(two).unwrap().len(), 2);
        let twice = json!([stored("2026-11-23T12:14:13Z", "svn"), stored("2027-11-23T12:14:13Z", "svn")]);
        assert_eq!(read(twice), Err(ReferenceError::Twice("svn".into()).into()));
        for bad in ["2026-11-23", "2026-11-23T12:14:13+01:00", ""] {
            assert_eq!(read(stored(bad, "svn")), Err(RvpsError::Expiration(bad.into())), "{bad}");
        }
        assert_eq!(read(json!([])), Err(ReferenceError::Empty.into()));
    }
}
