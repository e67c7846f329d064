//! `belljar measure pod --format json`: the launch digests of every VM shape of a guest image, as one measurement set.

use serde::Deserialize;
use serde_json::json;

use super::{MAX_MESSAGE, ReferenceError, ReferenceValue, SourceKind, checked, names};

/// Most launches of a table.
const MAX_LAUNCHES: usize = 256;

/// Why a table is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// Not the verb's JSON.
    #[error("not what `belljar measure pod --format json` prints: {0}")]
    Json(String),
    /// A TEE without launch digests.
    #[error("measurement is of the tee {0:?}; snp and software are read")]
    Tee(String),
    /// Not 48 bytes of lowercase hex.
    #[error("measurement for {tee} with {vcpus} vcpus is not 96 lowercase hexadecimal digits")]
    Digest {
        /// The TEE.
        tee: String,
        /// The shape.
        vcpus: u32,
    },
    /// A value is refused.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    guest_image: String,
    command_line: String,
    references: Vec<Launch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Launch {
    tee: String,
    vcpus: u32,
    measurement: String,
}

/// Reads a table. The set is named as the caller says, else after the guest image. A command line is part of the launch
/// digest, so that a table of a debugging command line has other values; it is not kept.
///
/// # Errors
/// Any [`PodError`].
pub fn read(
    message: &[u8],
    set: Option<&str>,
    owner: &str,
    expires: Option<u64>,
) -> Result<Vec<ReferenceValue>, PodError> {
    if message.len() > MAX_MESSAGE {
        return Err(ReferenceError::Length(message.len()).into());
    }
    let table: Table = serde_json::from_slice(message).map_err(|error| PodError::Json(short(&error)))?;
    if table.command_line.len() > MAX_MESSAGE || table.references.len() > MAX_LAUNCHES {
        return Err(ReferenceError::TooMany(table.references.len()).into());
    }
    let (mut snp, mut software) = (Vec::new(), Vec::new());
    for Launch { tee, vcpus, measurement } in table.references {
        let list = match tee.as_str() {
            "snp" => &mut snp,
            "software" => &mut software,
            _ => return Err(PodError::Tee(crate::text::clean(&tee, 32))),
        };
        if measurement.len() != 96 || !measurement.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(PodError::Digest { tee, vcpus });
        }
        if !list.contains(&measurement) {
            list.push(measurement);
        }
    }
    let set = set.unwrap_or(&table.guest_image);
    let value = |name: &str, list: Vec<String>| ReferenceValue {
        name: name.to_owned(),
        set: set.to_owned(),
        value: json!(list),
        expires,
        source: SourceKind::MeasurePod,
        owner: owner.to_owned(),
        signer: None,
    };
    let lists = [(names::SNP_LAUNCH, snp), (names::SOFTWARE_LAUNCH, software)];
    Ok(checked(lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| value(name, list)).collect())?)
}

/// Reads arbitrary bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = read(data, None, "fuzz", None);
}

fn short(error: &serde_json::Error) -> String {
    crate::text::clean(&error.to_string(), 160)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(references: serde_json::Value) -> Vec<u8> {
        json!({ "guest_image": "guest-0.1.0-abc", "command_line": "quiet", "references": references })
            .to_string()
            .into_bytes()
    }

    #[test]
    fn a_table_becomes_one_set_with_a_value_for_each_tee() {
        let (a, b, c) = ("0a".repeat(48), "0b".repeat(48), "0c".repeat(48));
        let message = table(json!([
            { "tee": "software", "vcpus": 1, "measurement": a },
            { "tee": "snp", "vcpus": 1, "measurement": b },
            { "tee": "snp", "vcpus": 2, "measurement": c },
        ]));
        let values = read(&message, None, "ops", Some(9)).unwrap();
        let shown: Vec<_> =
            values.iter().map(|v| (v.name.as_str(), v.set.as_str(), v.value.clone(), v.expires)).collect();
        assert_eq!(
            shown,
            [
                (names::SNP_LAUNCH, "guest-0.1.0-abc", json!([b, c]), Some(9)),
                (names::SOFTWARE_LAUNCH, "guest-0.1.0-abc", json!([a]), Some(9)),
            ]
        );
        assert_eq!(read(&message, Some("other"), "ops", None).unwrap()[0].set, "other");
    }

    #[test]
    fn each_fault_of_a_table_has_its_error() {
        let one = |tee: &str, digest: &str| table(json!([{ "tee": tee, "vcpus": 1, "measurement": digest }]));
        let good = "0a".repeat(48);
        assert!(read(&one("snp", &good), None, "ops", None).is_ok());
        assert_eq!(read(&one("tdx", &good), None, "ops", None), Err(PodError::Tee("tdx".into())));
        let digest = PodError::Digest { tee: "snp".into(), vcpus: 1 };
        for bad in ["0A".repeat(48), "0a".repeat(47), "0a".repeat(49), "zz".repeat(48)] {
            assert_eq!(read(&one("snp", &bad), None, "ops", None), Err(digest.clone()), "{bad}");
        }
        assert_eq!(read(&table(json!([])), None, "ops", None), Err(ReferenceError::Empty.into()));
        assert_eq!(read(&one("snp", &good), Some(""), "ops", None), Err(ReferenceError::Name("set").into()));
        let more = br#"{"guest_image":"a","command_line":"","references":[],"more":1}"#;
        assert!(matches!(read(more, None, "ops", None), Err(PodError::Json(_))));
        let mut behind = one("snp", &good);
        behind.push(b'x');
        assert!(matches!(read(&behind, None, "ops", None), Err(PodError::Json(_))));
    }
}
