//! Reference values (RFC 9334): what claims are compared with, who says so, and until when.
//!
//! A value has a *name*, the one that upstream's policies ask for (`snp_launch_measurement`, `mr_td`, `rtmr_1`, …; see
//! [`names`]), and belongs to a *measurement set*: what one guest image may look like. The default policy takes evidence
//! that agrees with one set as a whole, and never with values from two. An expired value is no value: it is neither
//! compared nor given to a policy.
//!
//! | import | reads |
//! |---|---|
//! | [`pod`] | `belljar measure pod --format json` |
//! | [`rvps`] | messages and stored values of upstream's reference value provider |
//! | [`corim`] | CoRIM manifests, unsigned or signed |

pub mod corim;
pub mod names;
pub mod pod;
pub mod rvps;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text;

/// Longest name of a value, a set, a source or a signer, in bytes.
pub const MAX_NAME: usize = 128;
/// Most scalars of one value.
pub const MAX_VALUES: usize = 1024;
/// Longest scalar, in bytes; the longest known is a TPM key in base64.
pub const MAX_SCALAR: usize = 4096;
/// Most values of one message that is imported.
pub const MAX_IMPORT: usize = 1024;
/// Longest message that is imported, in bytes.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// The set of values that name none: those of upstream's reference value provider.
pub const DEFAULT_SET: &str = "default";

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// `belljar measure pod`.
    MeasurePod,
    /// Upstream's message.
    Rvps,
    /// A CoRIM.
    Corim,
    /// Somebody who registered it by itself.
    Admin,
}

/// A reference value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValue {
    /// Its name, as policies ask for it.
    pub name: String,
    /// The measurement set that it belongs to.
    pub set: String,
    /// A scalar, or a list of scalars any of which is right.
    pub value: Value,
    /// Last second at which it holds, in seconds since 1970; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// What it was imported from.
    pub source: SourceKind,
    /// Who registered or computed it: a denial names them.
    pub owner: String,
    /// Who signed what it was imported from: the key's fingerprint or name. Absent for unsigned input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
}

/// Why a reference value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A text that is empty, too long, or not printable.
    #[error("{0} is empty, longer than {MAX_NAME} bytes, or holds control characters: give it a short name")]
    Name(&'static str),
    /// Something other than a scalar or a list of scalars.
    #[error("reference value {0:?} is no string, number or boolean, nor a list of them")]
    Shape(String),
    /// A list that is empty or too long.
    #[error("reference value {name:?} has {found} values; 1 to {MAX_VALUES} are taken")]
    Count {
        /// Its name.
        name: String,
        /// How many it has.
        found: usize,
    },
    /// A scalar that is too long.
    #[error("reference value {0:?} has a value longer than {MAX_SCALAR} bytes")]
    Long(String),
    /// More than [`MAX_IMPORT`].
    #[error("message has {0} reference values, more than {MAX_IMPORT}: split it")]
    TooMany(usize),
    /// Longer than [`MAX_MESSAGE`].
    #[error("message has {0} bytes, more than {MAX_MESSAGE}: split it")]
    Length(usize),
    /// Nothing to import.
    #[error("message has no reference value: nothing would be imported")]
    Empty,
    /// The same name twice, which JSON parsers read differently.
    #[error("message has {0:?} twice: say which is meant")]
    Twice(String),
}

impl ReferenceValue {
    /// Checks names and shape.
    ///
    /// # Errors
    /// Any [`ReferenceError`] of a single value.
    pub fn check(&self) -> Result<(), ReferenceError> {
        for (what, text) in [("name", &self.name), ("set", &self.set), ("owner", &self.owner)] {
            if !is_name(text) {
                return Err(ReferenceError::Name(what));
            }
        }
        if self.signer.as_ref().is_some_and(|signer| !is_name(signer)) {
            return Err(ReferenceError::Name("signer"));
        }
        let name = || self.name.clone();
        let scalars = scalars(&self.value);
        if !(1..=MAX_VALUES).contains(&scalars.len()) {
            return Err(ReferenceError::Count { name: name(), found: scalars.len() });
        }
        for scalar in scalars {
            match scalar {
                Value::String(text) if text.len() > MAX_SCALAR => return Err(ReferenceError::Long(name())),
                Value::String(_) | Value::Number(_) | Value::Bool(_) => {}
                Value::Null | Value::Array(_) | Value::Object(_) => return Err(ReferenceError::Shape(name())),
            }
        }
        Ok(())
    }

    /// Whether it holds at a time in seconds since 1970.
    pub fn holds_at(&self, at: u64) -> bool {
        self.expires.is_none_or(|last| at <= last)
    }

    /// The values any of which is right.
    pub fn scalars(&self) -> &[Value] {
        scalars(&self.value)
    }
}

fn scalars(value: &Value) -> &[Value] {
    match value {
        Value::Array(list) => list,
        scalar => std::slice::from_ref(scalar),
    }
}

pub(crate) fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && name.len() <= MAX_NAME && text::clean(name, MAX_NAME) == name
}

/// Checks what an import gave: the number of values, and each of them.
fn checked(values: Vec<ReferenceValue>) -> Result<Vec<ReferenceValue>, ReferenceError> {
    if values.is_empty() {
        return Err(ReferenceError::Empty);
    }
    if values.len() > MAX_IMPORT {
        return Err(ReferenceError::TooMany(values.len()));
    }
    values.iter().try_for_each(ReferenceValue::check)?;
    Ok(values)
}

/// Reference values of one tenant, looked up by name and by set.
#[derive(Debug, Clone, Default)]
pub struct References {
    values: Vec<ReferenceValue>,
    by_name: BTreeMap<String, Vec<usize>>,
    sets: BTreeMap<String, Vec<usize>>,
}

impl References {
    /// From values in the order in which they were registered.
    ///
    /// # Errors
    /// Any [`ReferenceError`] of a single value.
    pub fn new(values: impl IntoIterator<Item = ReferenceValue>) -> Result<Self, ReferenceError> {
        let mut references = Self::default();
        for value in values {
            references.add(value)?;
        }
        Ok(references)
    }

    /// Adds a value behind the others.
    ///
    /// # Errors
    /// Any [`ReferenceError`] of a single value.
    pub fn add(&mut self, value: ReferenceValue) -> Result<(), ReferenceError> {
        value.check()?;
        let index = self.values.len();
        self.by_name.entry(value.name.clone()).or_default().push(index);
        self.sets.entry(value.set.clone()).or_default().push(index);
        self.values.push(value);
        Ok(())
    }

    /// All of them, in the order in which they were registered.
    pub fn values(&self) -> &[ReferenceValue] {
        &self.values
    }

    /// What a policy's `query_reference_value(name)` gives at a time: the value as it was registered; of several, one list
    /// of all their values, each once. `None` where there is none that holds.
    pub fn query(&self, name: &str, at: u64) -> Option<Value> {
        let mut found = self.named(name).filter(|value| value.holds_at(at));
        let first = found.next()?;
        let Some(second) = found.next() else { return Some(first.value.clone()) };
        let mut list: Vec<Value> = Vec::new();
        let mut seen = BTreeSet::new();
        for value in [first, second].into_iter().chain(found) {
            for scalar in value.scalars() {
                if seen.insert(scalar.to_string()) {
                    list.push(scalar.clone());
                }
            }
        }
        Some(Value::Array(list))
    }

    /// All names with what [`Self::query`] gives: `data.reference` of older policies.
    pub fn all(&self, at: u64) -> Value {
        let named = self.by_name.keys().filter_map(|name| Some((name.clone(), self.query(name, at)?)));
        Value::Object(named.collect())
    }

    /// The values of that name, expired ones too.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &ReferenceValue> {
        self.by_name.get(name).into_iter().flatten().filter_map(|&index| self.values.get(index))
    }

    /// Measurement sets in the order of their names, each with its values, expired ones too.
    pub fn sets(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &ReferenceValue>)> {
        self.sets
            .iter()
            .map(|(name, indices)| (name.as_str(), indices.iter().filter_map(|&index| self.values.get(index))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    pub(crate) fn value(name: &str, set: &str, value: Value) -> ReferenceValue {
        ReferenceValue {
            name: name.into(),
            set: set.into(),
            value,
            expires: None,
            source: SourceKind::Admin,
            owner: "ops".into(),
            signer: None,
        }
    }

    #[test]
    fn expired_values_are_no_values() {
        let fresh = value("mr_td", "a", json!(["01"]));
        let old = ReferenceValue { expires: Some(100), ..value("mr_td", "b", json!("02")) };
        let references = References::new([fresh, old]).unwrap();
        assert_eq!(references.query("mr_td", 100), Some(json!(["01", "02"])));
        assert_eq!(references.query("mr_td", 101), Some(json!(["01"])));
        let old = ReferenceValue { expires: Some(100), ..value("mr_td", "b", json!("02")) };
        let references = References::new([old]).unwrap();
        assert_eq!((references.query("mr_td", 100), references.query("mr_td", 101)), (Some(json!("02")), None));
        assert_eq!((references.all(100), references.all(101)), (json!({ "mr_td": "02" }), json!({})));
    }

    #[test]
    fn one_value_keeps_its_shape_and_several_are_one_list() {
        let one = References::new([value("major_version", "a", json!(1))]).unwrap();
        assert_eq!(one.query("major_version", 0), Some(json!(1)));
        let two = References::new([value("svn", "a", json!(1)), value("svn", "b", json!([2, 1]))]).unwrap();
        assert_eq!(two.query("svn", 0), Some(json!([1, 2])));
        assert_eq!(two.query("svn2", 0), None);
    }

    #[test]
    fn each_fault_of_a_value_has_its_error() {
        let good = value("svn", "a", json!([1, "b", true]));
        assert_eq!(good.check(), Ok(()));
        let with = |change: &dyn Fn(&mut ReferenceValue)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.check().unwrap_err()
        };
        assert_eq!(with(&|v| v.name = " ".into()), ReferenceError::Name("name"));
        assert_eq!(with(&|v| v.set = "a\nb".into()), ReferenceError::Name("set"));
        assert_eq!(with(&|v| v.owner = "a".repeat(129)), ReferenceError::Name("owner"));
        assert_eq!(with(&|v| v.signer = Some(String::new())), ReferenceError::Name("signer"));
        assert_eq!(with(&|v| v.value = json!([])), ReferenceError::Count { name: "svn".into(), found: 0 });
        assert_eq!(with(&|v| v.value = json!({})), ReferenceError::Shape("svn".into()));
        assert_eq!(with(&|v| v.value = json!([[1]])), ReferenceError::Shape("svn".into()));
        assert_eq!(with(&|v| v.value = json!(null)), ReferenceError::Shape("svn".into()));
        assert_eq!(with(&|v| v.value = json!("a".repeat(4097))), ReferenceError::Long("svn".into()));
        let many = json!(vec![1; 1025]);
        assert_eq!(with(&|v| v.value = many.clone()), ReferenceError::Count { name: "svn".into(), found: 1025 });
    }

    proptest! {
        #[test]
        fn a_query_gives_exactly_what_holds(expiries in prop::collection::vec(prop::option::of(0_u64..50), 0..8), at in 0_u64..50) {
            let values = expiries.iter().enumerate().map(|(n, expires)| ReferenceValue {
                expires: *expires,
                ..value("svn", "s", json!([n]))
            });
            let found = References::new(values).unwrap().query("svn", at);
            let expected: Vec<usize> = (0..expiries.len()).filter(|&n| expiries[n].is_none_or(|last| at <= last)).collect();
            prop_assert_eq!(found, (!expected.is_empty()).then(|| json!(expected)));
        }
    }
}
