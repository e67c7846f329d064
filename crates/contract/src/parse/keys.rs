//! TOML tables that are emptied key by key.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::error::ContractError;
use crate::model::Permission;

/// A table that is emptied key by key, and where it stands.
pub(super) struct Keys {
    pub path: String,
    pub table: Table,
}

impl Keys {
    pub fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub fn take(&mut self, key: &str) -> Option<At> {
        self.table.remove(key).map(|value| At { path: self.at(key), value })
    }

    pub fn need(&mut self, key: &str) -> Result<At, ContractError> {
        self.take(key).ok_or_else(|| ContractError::MissingKey { key: self.at(key) })
    }

    pub fn flag(&mut self, key: &str) -> Result<bool, ContractError> {
        Ok(self.take(key).map(At::boolean).transpose()?.unwrap_or(false))
    }

    pub fn strings(&mut self, key: &str) -> Result<Vec<String>, ContractError> {
        Ok(self.take(key).map(|at| at.list(At::string)).transpose()?.unwrap_or_default())
    }

    /// Every key and its value, as `each` reads it.
    pub fn map<T>(
        mut self,
        each: impl Fn(&str, At) -> Result<T, ContractError>,
    ) -> Result<BTreeMap<String, T>, ContractError> {
        let table = std::mem::take(&mut self.table);
        table
            .into_iter()
            .map(|(name, value)| {
                let value = each(&name, At { path: self.at(&name), value })?;
                Ok((name, value))
            })
            .collect()
    }

    pub fn end(self) -> Result<(), ContractError> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => Err(ContractError::UnknownKey { key: crate::error::cut(&self.at(key)) }),
        }
    }
}

/// A value and where it stands.
pub(super) struct At {
    pub path: String,
    pub value: Value,
}

impl At {
    pub fn wrong(path: String, expected: &'static str, value: &Value) -> ContractError {
        ContractError::WrongType { key: path, expected, found: value.type_str() }
    }

    pub fn keys(self) -> Result<Keys, ContractError> {
        match self.value {
            Value::Table(table) => Ok(Keys { path: self.path, table }),
            other => Err(Self::wrong(self.path, "table", &other)),
        }
    }

    pub fn list<T>(self, each: impl Fn(At) -> Result<T, ContractError>) -> Result<Vec<T>, ContractError> {
        match self.value {
            Value::Array(values) => values
                .into_iter()
                .enumerate()
                .map(|(index, value)| each(At { path: format!("{}[{index}]", self.path), value }))
                .collect(),
            other => Err(Self::wrong(self.path, "array", &other)),
        }
    }

    pub fn string(self) -> Result<String, ContractError> {
        match self.value {
            Value::String(text) => Ok(text),
            other => Err(Self::wrong(self.path, "string", &other)),
        }
    }

    pub fn boolean(self) -> Result<bool, ContractError> {
        match self.value {
            Value::Boolean(value) => Ok(value),
            other => Err(Self::wrong(self.path, "boolean", &other)),
        }
    }

    pub fn integer(self) -> Result<i64, ContractError> {
        match self.value {
            Value::Integer(value) => Ok(value),
            other => Err(Self::wrong(self.path, "integer", &other)),
        }
    }

    pub fn unsigned(self) -> Result<u64, ContractError> {
        self.within::<u64>(i128::from(i64::MAX))
    }

    pub fn small(self) -> Result<u32, ContractError> {
        self.within::<u32>(i128::from(u32::MAX))
    }

    fn within<T: TryFrom<i64>>(self, maximum: i128) -> Result<T, ContractError> {
        let key = self.path.clone();
        let value = self.integer()?;
        T::try_from(value).map_err(|_| ContractError::OutOfBounds {
            key,
            found: i128::from(value),
            minimum: 0,
            maximum,
        })
    }

    pub fn permission(self) -> Result<Permission, ContractError> {
        let key = self.path.clone();
        match self.string()?.as_str() {
            "allow" => Ok(Permission::Allow),
            "deny" => Ok(Permission::Deny),
            other => Err(ContractError::Malformed {
                key,
                expected: "\"allow\" or \"deny\"",
                found: crate::error::cut(other),
            }),
        }
    }
}
