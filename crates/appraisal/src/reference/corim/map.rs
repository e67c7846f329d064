//! Maps with integer labels, of which nothing may be left over.

use coset::cbor::value::Value;

use super::CorimError;

/// A map of a known schema while it is read.
pub(super) struct Map {
    name: &'static str,
    entries: Vec<(i128, Value)>,
}

impl Map {
    pub(super) fn read(value: Value, name: &'static str) -> Result<Self, CorimError> {
        let Value::Map(found) = value else { return Err(CorimError::Shape(name)) };
        let mut entries: Vec<(i128, Value)> = Vec::with_capacity(found.len());
        for (label, value) in found {
            let label = match label {
                Value::Integer(label) => i128::from(label),
                Value::Text(label) => {
                    let label = crate::text::clean(&label, 64);
                    return Err(CorimError::Unsupported(format!("{label:?} in its {name}")));
                }
                _ => return Err(CorimError::Shape(name)),
            };
            if entries.iter().any(|(known, _)| *known == label) {
                return Err(CorimError::Twice { label, map: name });
            }
            entries.push((label, value));
        }
        Ok(Self { name, entries })
    }

    pub(super) fn take(&mut self, label: i128) -> Option<Value> {
        let index = self.entries.iter().position(|(known, _)| *known == label)?;
        Some(self.entries.swap_remove(index).1)
    }

    pub(super) fn required(&mut self, label: i128, what: &'static str) -> Result<Value, CorimError> {
        self.take(label).ok_or(CorimError::Shape(what))
    }

    /// A member that has a meaning which is not read.
    pub(super) fn refuse(&mut self, label: i128, what: &str) -> Result<(), CorimError> {
        match self.take(label) {
            Some(_) => Err(CorimError::Unsupported(what.to_owned())),
            None => Ok(()),
        }
    }

    /// Nothing else is there.
    pub(super) fn finish(self) -> Result<(), CorimError> {
        match self.entries.first() {
            Some((label, _)) => Err(CorimError::Unsupported(format!("label {label} in its {}", self.name))),
            None => Ok(()),
        }
    }
}

pub(super) fn unsigned(value: &Value) -> Option<u64> {
    value.as_integer().and_then(|number| u64::try_from(number).ok())
}
