//! CoRIM (draft-ietf-rats-corim): reference values of a manifest, unsigned or signed.
//!
//! What is read: `#6.501(corim-map)`, also inside of `#6.500`; `#6.18(COSE_Sign1)`, also inside of `#6.502` and `#6.500`,
//! with ES256 or ES384 under a key that the caller trusts, whose payload is a `corim-map`. Of it, CoMIDs (`#6.506`) with
//! reference triples. A triple's measurement becomes a reference value:
//!
//! | environment | `mkey` | value | name |
//! |---|---|---|---|
//! | class by vendor and model, or any class-id without a meaning here | text | `digests`, `svn`, or `raw-value` | the text |
//! | class-id of AMD's profile (VCEK or VLEK) | 0 | `digests` of SHA-384 | `snp_launch_measurement` |
//! | the same | 5, 6 | `raw-value` | `snp_id_key_digest`, `snp_author_key_digest` |
//!
//! A profile other than AMD's is refused. Digests and raw values are lowercase hex (base64 for `measurement`, which is Azure's). Everything else that a manifest
//! can say is refused by name: a part that is left out could be the one that takes a value back.

mod map;
mod sign1;

pub use sign1::{CorimKey, KeyError};

use base64::{Engine, engine::general_purpose::STANDARD};
use coset::cbor::de::from_reader_with_recursion_limit;
use coset::cbor::value::Value;

use self::map::Map;
use super::rvps::Target;
use super::{MAX_MESSAGE, ReferenceError, ReferenceValue, SourceKind, checked, names};
use crate::text;

/// Deepest nesting that is read; a manifest has about ten levels.
const MAX_NESTING: usize = 32;
/// CBOR tags.
const CORIM: u64 = 500;
const UNSIGNED: u64 = 501;
const SIGNED: u64 = 502;
const SIGN1: u64 = 18;
const COMID: u64 = 506;
const UUID: u64 = 37;
const EPOCH_TIME: u64 = 1;
const SVN: u64 = 552;
const RAW_BYTES: u64 = 560;
/// Class-ids of AMD's profile (draft-deeglaze-amd-sev-snp-corim-profile): reports signed by a VCEK, and by a VLEK.
const AMD_CLASSES: [&str; 2] = ["d05e6d1b9f464ae2a610ce3e6ee7e153", "89a7a1f0e7044faaacbd81c86df8a961"];
/// Names of that profile in its drafts.
const AMD_PROFILES: [&str; 2] = ["http://amd.com/please-permalink-me", "tag:amd.com,2024:snp-corim-profile"];
const URI: u64 = 32;
/// SHA-384 in the registry of named information.
const SHA384: i128 = 7;

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorimError {
    /// Not CBOR, or more than one item.
    #[error("not cbor of one item: {0}")]
    Cbor(String),
    /// Something is not what the schema says.
    #[error("corim has no well-formed {0}: refuse it")]
    Shape(&'static str),
    /// A part that is not read.
    #[error("corim has {0}, which is not read: leave it out, or import its values another way")]
    Unsupported(String),
    /// A map with a label twice.
    #[error("corim has label {label} twice in its {map}: refuse it")]
    Twice {
        /// The label.
        label: i128,
        /// The map.
        map: &'static str,
    },
    /// A key was given, and the manifest is not signed.
    #[error("corim is not signed, and a signing key was given: give none to import it unsigned")]
    NotSigned,
    /// It is signed, and no key was given.
    #[error("corim is signed, and no signing key was given: give the key that is trusted")]
    NoKey,
    /// It is signed with an algorithm that is not read, or that none of the keys is for.
    #[error("corim is signed with {0}; es256 and es384 are read, under a key of that curve")]
    Algorithm(String),
    /// None of the keys signed it.
    #[error("corim's signature does not verify under any of the {0} keys given")]
    Signature(usize),
    /// It does not hold yet.
    #[error("corim holds from {0}: check the clock, or wait")]
    NotYet(String),
    /// It holds no more.
    #[error("corim has expired at {0}: get a new one")]
    Expired(String),
    /// One name with values of two kinds.
    #[error("corim has values of two kinds for {0:?}: say which is meant")]
    TwoKinds(String),
    /// A value is refused.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// Reads a manifest at a time in seconds since 1970. With `keys`, it must be signed by one of them; without, it must not be
/// signed. The set is named as the caller says, else by the manifest's id.
///
/// # Errors
/// Any [`CorimError`].
pub fn read(
    message: &[u8],
    keys: &[CorimKey],
    target: &Target<'_>,
    at: u64,
) -> Result<Vec<ReferenceValue>, CorimError> {
    if message.len() > MAX_MESSAGE {
        return Err(ReferenceError::Length(message.len()).into());
    }
    let mut item = one_item(message)?;
    if let Value::Tag(CORIM, inner) = item {
        item = *inner;
    }
    let (manifest, signer, signed_until) = match item {
        Value::Tag(UNSIGNED, manifest) => {
            if !keys.is_empty() {
                return Err(CorimError::NotSigned);
            }
            (*manifest, None, None)
        }
        Value::Tag(SIGNED, inner) => match *inner {
            Value::Tag(SIGN1, sign1) => signed(*sign1, keys, at)?,
            _ => return Err(CorimError::Shape("cose_sign1")),
        },
        Value::Tag(SIGN1, sign1) => signed(*sign1, keys, at)?,
        Value::Tag(tag, _) => return Err(CorimError::Unsupported(format!("tag {tag}"))),
        _ => return Err(CorimError::Shape("tag 501 (corim-map) or 18 (cose_sign1)")),
    };
    let mut manifest = Manifest::read(manifest, at)?;
    manifest.until = manifest.until.into_iter().chain(signed_until).min();
    manifest.values(signer, target)
}

/// Reads arbitrary bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let target = Target { set: None, owner: "fuzz", expires: None };
    let _ = read(data, &[], &target, 0);
    let _ = CorimKey::from_spki(data);
    if let Ok(item) = one_item(data) {
        let _ = Manifest::read(item, 0);
    }
    let _ = sign1::fuzz(data);
}

fn one_item(bytes: &[u8]) -> Result<Value, CorimError> {
    let mut rest = bytes;
    let item = from_reader_with_recursion_limit(&mut rest, MAX_NESTING)
        .map_err(|error| CorimError::Cbor(text::clean(&error.to_string(), 120)))?;
    if rest.is_empty() { Ok(item) } else { Err(CorimError::Cbor(format!("{} bytes behind it", rest.len()))) }
}

/// The payload of a signature, who made it, and until when it holds.
fn signed(sign1: Value, keys: &[CorimKey], at: u64) -> Result<(Value, Option<String>, Option<u64>), CorimError> {
    let opened = sign1::open(sign1, keys, at)?;
    let manifest = match one_item(&opened.payload)? {
        Value::Tag(UNSIGNED, manifest) => *manifest,
        // Earlier drafts sign the map without its tag.
        bare @ Value::Map(_) => bare,
        _ => return Err(CorimError::Shape("corim-map in its payload")),
    };
    Ok((manifest, Some(opened.signer), opened.until))
}

/// What is read of a manifest.
struct Manifest {
    id: String,
    /// Last second at which it holds.
    until: Option<u64>,
    measurements: Vec<Measurement>,
}

struct Measurement {
    name: String,
    kind: Kind,
    values: Vec<serde_json::Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Digests,
    Svn,
    Raw,
}

impl Manifest {
    fn read(value: Value, at: u64) -> Result<Self, CorimError> {
        let mut map = Map::read(value, "corim-map")?;
        let id = id(map.required(0, "corim-map's id")?)?;
        let tags =
            map.required(1, "corim-map's tags")?.into_array().map_err(|_| CorimError::Shape("corim-map's tags"))?;
        map.refuse(2, "dependent-rims")?;
        if let Some(profile) = map.take(3) {
            self::profile(profile)?;
        }
        let until = match map.take(4) {
            Some(validity) => window(validity, at)?,
            None => None,
        };
        // Who made the manifest is words; who signed it is known by the key.
        entities(map.take(5))?;
        map.finish()?;
        if tags.is_empty() {
            return Err(CorimError::Shape("corim-map's tags"));
        }
        let mut measurements = Vec::new();
        for tag in tags {
            let Value::Tag(number, inner) = tag else { return Err(CorimError::Shape("tag of the corim-map's tags")) };
            match (number, *inner) {
                (COMID, Value::Bytes(comid)) => comid_measurements(one_item(&comid)?, &mut measurements)?,
                (COMID, _) => return Err(CorimError::Shape("comid")),
                (505, _) => return Err(CorimError::Unsupported("a coswid (tag 505)".to_owned())),
                (507, _) => return Err(CorimError::Unsupported("a trust anchor store (tag 507)".to_owned())),
                (508, _) => return Err(CorimError::Unsupported("a list of tags (tag 508)".to_owned())),
                (other, _) => return Err(CorimError::Unsupported(format!("tag {other} among its tags"))),
            }
        }
        Ok(Self { id, until, measurements })
    }

    fn values(self, signer: Option<String>, target: &Target<'_>) -> Result<Vec<ReferenceValue>, CorimError> {
        let mut named: Vec<Measurement> = Vec::new();
        for measurement in self.measurements {
            match named.iter_mut().find(|other| other.name == measurement.name) {
                Some(other) if other.kind != measurement.kind => {
                    return Err(CorimError::TwoKinds(text::clean(&measurement.name, 80)));
                }
                Some(other) => {
                    let new: Vec<_> =
                        measurement.values.into_iter().filter(|value| !other.values.contains(value)).collect();
                    other.values.extend(new);
                }
                None => named.push(measurement),
            }
        }
        let expires = self.until.into_iter().chain(target.expires).min();
        let values = named.into_iter().map(|measurement| ReferenceValue {
            name: measurement.name,
            set: target.set.unwrap_or(&self.id).to_owned(),
            value: measurement.values.into(),
            expires,
            source: SourceKind::Corim,
            owner: target.owner.to_owned(),
            signer: signer.clone(),
        });
        Ok(checked(values.collect())?)
    }
}

/// A profile changes what a manifest means.
fn profile(value: Value) -> Result<(), CorimError> {
    let name = match value {
        Value::Tag(URI, inner) => inner.into_text().map_err(|_| CorimError::Shape("profile"))?,
        Value::Tag(111, _) => return Err(CorimError::Unsupported("a profile by its oid".to_owned())),
        _ => return Err(CorimError::Shape("profile")),
    };
    if AMD_PROFILES.contains(&name.as_str()) {
        return Ok(());
    }
    Err(CorimError::Unsupported(format!("the profile {:?}", text::clean(&name, 80))))
}

/// A text, or a UUID as a person writes it.
fn id(value: Value) -> Result<String, CorimError> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Tag(UUID, inner) => match *inner {
            Value::Bytes(bytes) if bytes.len() == 16 => {
                let hex = hex::encode(bytes);
                let part = |from, to| hex.get(from..to).unwrap_or_default();
                Ok([part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-"))
            }
            _ => Err(CorimError::Shape("id")),
        },
        _ => Err(CorimError::Shape("id")),
    }
}

/// `validity-map`: the last second, when it holds now.
fn window(value: Value, at: u64) -> Result<Option<u64>, CorimError> {
    let mut map = Map::read(value, "validity-map")?;
    let time = |value: Value| match value {
        Value::Tag(EPOCH_TIME, inner) => map::unsigned(&inner).ok_or(CorimError::Shape("time of the validity-map")),
        _ => Err(CorimError::Shape("time of the validity-map")),
    };
    let from = map.take(0).map(time).transpose()?;
    let to = time(map.required(1, "validity-map's not-after")?)?;
    map.finish()?;
    within(from, Some(to), at)
}

/// The last second of a window that holds now.
fn within(from: Option<u64>, to: Option<u64>, at: u64) -> Result<Option<u64>, CorimError> {
    match (from, to) {
        (Some(from), _) if at < from => Err(CorimError::NotYet(text::time(from))),
        (_, Some(to)) if at > to => Err(CorimError::Expired(text::time(to))),
        _ => Ok(to),
    }
}

/// `entities`: names, addresses and roles, which decide nothing here.
fn entities(value: Option<Value>) -> Result<(), CorimError> {
    let Some(value) = value else { return Ok(()) };
    for entity in value.into_array().map_err(|_| CorimError::Shape("entities"))? {
        let mut map = Map::read(entity, "entity-map")?;
        map.required(0, "entity-map's name")?;
        let _ = (map.take(1), map.take(2));
        map.finish()?;
    }
    Ok(())
}

fn comid_measurements(value: Value, measurements: &mut Vec<Measurement>) -> Result<(), CorimError> {
    let mut map = Map::read(value, "concise-mid-tag")?;
    let _language = map.take(0);
    let mut identity = Map::read(map.required(1, "concise-mid-tag's identity")?, "tag-identity-map")?;
    id(identity.required(0, "tag-identity-map's id")?)?;
    let _version = identity.take(1);
    identity.finish()?;
    entities(map.take(2))?;
    map.refuse(3, "linked-tags")?;
    let mut triples = Map::read(map.required(4, "concise-mid-tag's triples")?, "triples-map")?;
    map.finish()?;
    let others = [
        (1, "endorsed-triples"),
        (2, "identity-triples"),
        (3, "attest-key-triples"),
        (4, "dependency-triples"),
        (5, "membership-triples"),
        (6, "coswid-triples"),
        (8, "conditional-endorsement-series-triples"),
        (10, "conditional-endorsement-triples"),
    ];
    for (label, name) in others {
        triples.refuse(label, name)?;
    }
    let references = triples.required(0, "triples-map's reference-triples")?;
    triples.finish()?;
    for triple in references.into_array().map_err(|_| CorimError::Shape("reference-triples"))? {
        let Ok([environment, claims]) = <[Value; 2]>::try_from(triple.into_array().unwrap_or_default()) else {
            return Err(CorimError::Shape("reference-triple-record"));
        };
        let environment = Environment::read(environment)?;
        let claims = claims.into_array().map_err(|_| CorimError::Shape("measurements of a reference triple"))?;
        if claims.is_empty() {
            return Err(CorimError::Shape("measurements of a reference triple"));
        }
        for claim in claims {
            measurements.push(environment.measurement(claim)?);
        }
    }
    Ok(())
}

/// What a triple is about.
struct Environment {
    is_amd: bool,
}

impl Environment {
    fn read(value: Value) -> Result<Self, CorimError> {
        let mut map = Map::read(value, "environment-map")?;
        let mut class = Map::read(map.required(0, "environment-map's class")?, "class-map")?;
        // Values for one chip would be taken for all of them.
        map.refuse(1, "an instance in its environment-map")?;
        map.refuse(2, "a group in its environment-map")?;
        map.finish()?;
        let is_amd = match class.take(0) {
            Some(Value::Tag(UUID, inner)) => {
                matches!(*inner, Value::Bytes(bytes) if AMD_CLASSES.contains(&hex::encode(&bytes).as_str()))
            }
            _ => false,
        };
        let _ = (class.take(1), class.take(2));
        class.refuse(3, "a layer in its class-map")?;
        class.refuse(4, "an index in its class-map")?;
        class.finish()?;
        Ok(Self { is_amd })
    }

    fn measurement(&self, value: Value) -> Result<Measurement, CorimError> {
        let mut map = Map::read(value, "measurement-map")?;
        let key = map.take(0);
        let mut values = Map::read(map.required(1, "measurement-map's values")?, "measurement-values-map")?;
        map.refuse(2, "authorized-by")?;
        map.finish()?;
        let others = [
            (0, "a version"),
            (3, "flags"),
            (5, "a mask of a raw value"),
            (6, "a mac address"),
            (7, "an ip address"),
            (8, "a serial number"),
            (9, "a ueid"),
            (10, "a uuid"),
            (11, "a name"),
            (13, "cryptographic keys"),
            (14, "integrity registers"),
            (15, "a range of integers"),
        ];
        for (label, name) in others {
            values.refuse(label, name)?;
        }
        let (svn, digests, raw) = (values.take(1), values.take(2), values.take(4));
        values.finish()?;
        let (kind, found) = match (svn, digests, raw) {
            (None, Some(digests), None) => (Kind::Digests, self::digests(digests)?),
            (Some(svn), None, None) => (Kind::Svn, vec![Found::Number(self::svn(svn)?)]),
            (None, None, Some(raw)) => (Kind::Raw, vec![Found::Bytes(raw_bytes(raw)?, None)]),
            (None, None, None) => return Err(CorimError::Shape("measurement value")),
            _ => return Err(CorimError::Unsupported("a measurement with values of two kinds".to_owned())),
        };
        let name = self.name(key, kind, &found)?;
        let values = found.into_iter().map(|found| found.json(&name)).collect();
        Ok(Measurement { name, kind, values })
    }

    fn name(&self, key: Option<Value>, kind: Kind, found: &[Found]) -> Result<String, CorimError> {
        match (key, self.is_amd) {
            (Some(Value::Text(name)), false) => Ok(name),
            (Some(Value::Integer(number)), true) => match (i128::from(number), kind) {
                (0, Kind::Digests) if found.iter().all(|found| matches!(found, Found::Bytes(_, Some(SHA384)))) => {
                    Ok(names::SNP_LAUNCH.to_owned())
                }
                (5, Kind::Raw) => Ok("snp_id_key_digest".to_owned()),
                (6, Kind::Raw) => Ok("snp_author_key_digest".to_owned()),
                (number, _) => Err(CorimError::Unsupported(format!("measurement {number} of amd's profile"))),
            },
            (None, _) => Err(CorimError::Unsupported("a measurement without an mkey".to_owned())),
            (Some(_), _) => Err(CorimError::Unsupported("an mkey of another type than its class has".to_owned())),
        }
    }
}

enum Found {
    Number(u64),
    /// Bytes, and of a digest the number of its algorithm.
    Bytes(Vec<u8>, Option<i128>),
}

impl Found {
    fn json(self, name: &str) -> serde_json::Value {
        match self {
            Self::Number(number) => number.into(),
            // The one claim of upstream's that is base64.
            Self::Bytes(bytes, _) if name == "measurement" => STANDARD.encode(bytes).into(),
            Self::Bytes(bytes, _) => hex::encode(bytes).into(),
        }
    }
}

/// `digests-type`: pairs of an algorithm and a value.
fn digests(value: Value) -> Result<Vec<Found>, CorimError> {
    let list = value.into_array().map_err(|_| CorimError::Shape("digests"))?;
    if list.is_empty() {
        return Err(CorimError::Shape("digests"));
    }
    let one = |pair: Value| {
        let Ok([algorithm, digest]) = <[Value; 2]>::try_from(pair.into_array().unwrap_or_default()) else {
            return Err(CorimError::Shape("digest"));
        };
        let digest = digest.into_bytes().map_err(|_| CorimError::Shape("digest"))?;
        let (number, length) = match &algorithm {
            Value::Integer(number) if i128::from(*number) == 1 => (1, 32),
            Value::Integer(number) if i128::from(*number) == SHA384 => (SHA384, 48),
            Value::Integer(number) if i128::from(*number) == 8 => (8, 64),
            Value::Text(name) if name == "sha-256" => (1, 32),
            Value::Text(name) if name == "sha-384" => (SHA384, 48),
            Value::Text(name) if name == "sha-512" => (8, 64),
            Value::Integer(number) => {
                return Err(CorimError::Unsupported(format!("a digest of algorithm {}", i128::from(*number))));
            }
            Value::Text(name) => {
                return Err(CorimError::Unsupported(format!("a digest of algorithm {:?}", text::clean(name, 32))));
            }
            _ => return Err(CorimError::Shape("digest")),
        };
        if digest.len() != length {
            return Err(CorimError::Shape("digest of its algorithm's length"));
        }
        Ok(Found::Bytes(digest, Some(number)))
    };
    list.into_iter().map(one).collect()
}

/// An exact security version; a least one is no value to compare with.
fn svn(value: Value) -> Result<u64, CorimError> {
    match value {
        Value::Tag(SVN, inner) => map::unsigned(&inner).ok_or(CorimError::Shape("svn")),
        Value::Tag(553, _) => Err(CorimError::Unsupported("a least svn (tag 553)".to_owned())),
        other => map::unsigned(&other).ok_or(CorimError::Shape("svn")),
    }
}

fn raw_bytes(value: Value) -> Result<Vec<u8>, CorimError> {
    match value {
        Value::Tag(RAW_BYTES, inner) => inner.into_bytes().map_err(|_| CorimError::Shape("raw value")),
        Value::Tag(563, _) => Err(CorimError::Unsupported("a masked raw value (tag 563)".to_owned())),
        _ => Err(CorimError::Shape("raw value")),
    }
}
