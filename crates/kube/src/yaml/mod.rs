//! YAML as Kubernetes reads it: documents to nodes and back.
//!
//! A node keeps its line for messages and the order of its keys. Scalars mean what `kubectl` takes them for (YAML 1.1 booleans and octal
//! numbers); what readers disagree about is refused. Comments and styles are not kept.

mod read;
mod scalar;
mod write;

pub use read::{MAX_DEPTH, MAX_NODES, MAX_TEXT, YamlError, read};
pub use write::write;

/// A value and the line where it stands, from 1 on; 0 when it was not read from a file.
#[derive(Debug, Clone, Eq)]
pub struct Node {
    /// The line.
    pub line: usize,
    /// The value.
    pub value: Value,
}

/// Equal values are equal wherever they stand.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// A YAML value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// Another number, as JSON writes it.
    Decimal(String),
    /// A string.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Map),
}

/// A mapping with strings as keys, in the order of the file. No key is there twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map(pub(crate) Vec<(String, Node)>);

impl Map {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The value of a key, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.0.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Sets a key: in its place when it is there, else at the end.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.get_mut(key) {
            Some(node) => node.value = value,
            None => self.0.push((key.to_owned(), Node { line: 0, value })),
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| name != key);
    }

    /// Keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// The mapping under a key; made at the end when it is not there or null. None when something else is there.
    pub(crate) fn map_mut(&mut self, key: &str) -> Option<&mut Map> {
        if self.get(key).is_none_or(|node| node.value == Value::Null) {
            self.set(key, Value::Map(Map::default()));
        }
        self.get_mut(key)?.map_mut()
    }
}

impl Node {
    /// A string.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A mapping.
    pub fn map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(crate) fn map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(crate) fn list_mut(&mut self) -> Option<&mut Vec<Node>> {
        match &mut self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The value at a path of keys.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.map()?.get(key))
    }

    pub(crate) fn at_mut(&mut self, path: &[&str]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, key| node.map_mut()?.get_mut(key))
    }
}

impl Value {
    /// What it is, for a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Integer(_) | Self::Decimal(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) => "list",
            Self::Map(_) => "mapping",
        }
    }
}

/// Reads any bytes; for fuzzing. What is read must survive being written.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(documents) = read(text) {
        let written = write(&documents);
        if written.len() <= MAX_TEXT {
            assert_eq!(read(&written).as_ref(), Ok(&documents), "writing changes the documents:\n{written}");
        }
    }
}

#[cfg(test)]
mod tests;
