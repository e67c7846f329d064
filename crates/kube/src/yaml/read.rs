//! Text to nodes, within bounds.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::scalar;
use super::{Map, Node, Value};

/// Longest text in bytes.
pub const MAX_TEXT: usize = 8 << 20;
/// Most nodes of all documents, after aliases are replaced by what they stand for.
pub const MAX_NODES: usize = 200_000;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 64;

/// Why a text is not read. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum YamlError {
    /// Longer than [`MAX_TEXT`].
    #[error("YAML of {0} bytes is longer than {MAX_TEXT}")]
    TooLong(usize),
    /// Not YAML.
    #[error("line {line}: not valid YAML: {message}")]
    Syntax {
        /// Where.
        line: usize,
        /// The parser's message.
        message: String,
    },
    /// More than [`MAX_NODES`], perhaps by aliases of aliases.
    #[error("line {line}: more than {MAX_NODES} values, aliases included")]
    TooMany {
        /// Where.
        line: usize,
    },
    /// Deeper than [`MAX_DEPTH`].
    #[error("line {line}: nested deeper than {MAX_DEPTH}")]
    TooDeep {
        /// Where.
        line: usize,
    },
    /// A key that is there twice; which of the two counts differs between readers.
    #[error("line {line}: the key {key:?} is there twice in one mapping")]
    DuplicateKey {
        /// Where the second is.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key that is not a string.
    #[error("line {line}: a key is a {found}, expected a string: put it into quotes")]
    Key {
        /// Where.
        line: usize,
        /// What it is.
        found: &'static str,
    },
    /// A scalar that readers take for different things.
    #[error("line {line}: readers take {text:?} for different things: put it into quotes, or write the number out")]
    Ambiguous {
        /// Where.
        line: usize,
        /// The scalar.
        text: String,
    },
    /// A tag other than `!!str`, or a merge key.
    #[error("line {line}: {what} is not read: write the value out")]
    NotRead {
        /// Where.
        line: usize,
        /// What it is.
        what: String,
    },
}

/// Reads all documents; empty ones are left out.
///
/// # Errors
/// [`YamlError`] for the first thing that is wrong.
pub fn read(text: &str) -> Result<Vec<Node>, YamlError> {
    if text.len() > MAX_TEXT {
        return Err(YamlError::TooLong(text.len()));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(_), _) => {
                reader.anchors.clear();
                let (event, span) = reader.next()?;
                let node = reader.node(event, span, 0)?;
                if node.value != Value::Null {
                    documents.push(node);
                }
            }
            _ => {}
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Finished nodes by anchor, with the number of nodes in each.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.parser.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, YamlError> {
        let line = span.start.line();
        if depth > MAX_DEPTH {
            return Err(YamlError::TooDeep { line });
        }
        let before = self.nodes;
        self.count(1, line)?;
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                let alias = || YamlError::NotRead { line, what: "an alias inside of what it stands for".to_owned() };
                let (node, nodes) = self.anchors.get(&anchor).cloned().ok_or_else(alias)?;
                self.count(nodes, line)?;
                // A deep node may stand deeper here than where it was read.
                bounded(&node, depth).then_some(()).ok_or(YamlError::TooDeep { line })?;
                return Ok(Node { line, value: node.value });
            }
            Event::Scalar(text, style, anchor, tag) => (scalar(&text, style, tag.as_deref(), line)?, anchor),
            Event::SequenceStart(anchor, tag) => {
                untagged(tag.as_deref(), "seq", line)?;
                (self.list(depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                untagged(tag.as_deref(), "map", line)?;
                (self.map(depth)?, anchor)
            }
            _ => return Err(YamlError::Syntax { line, message: "a value is missing".to_owned() }),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes.saturating_sub(before)));
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(list)),
                (event, span) => list.push(self.node(event, span, depth.saturating_add(1))?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut map = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Map(Map(map)));
            }
            let line = span.start.line();
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = match self.node(event, span, depth.saturating_add(1))?.value {
                Value::Text(_) if is_merge => {
                    return Err(YamlError::NotRead { line, what: "a merge key `<<`".to_owned() });
                }
                Value::Text(key) => key,
                other => return Err(YamlError::Key { line, found: other.kind() }),
            };
            if !seen.insert(key.clone()) {
                return Err(YamlError::DuplicateKey { line, key: cut(&key) });
            }
            let (event, span) = self.next()?;
            map.push((key, self.node(event, span, depth.saturating_add(1))?));
        }
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES { Err(YamlError::TooMany { line }) } else { Ok(()) }
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Value, YamlError> {
    let is_string = match tag {
        None => style != ScalarStyle::Plain,
        Some(tag) if is_core(tag, "str") => true,
        Some(tag) => return Err(YamlError::NotRead { line, what: format!("the tag {}", cut(&tag.to_string())) }),
    };
    if is_string {
        return Ok(Value::Text(text.to_owned()));
    }
    scalar::plain(text).map_err(|scalar::Ambiguous| YamlError::Ambiguous { line, text: cut(text) })
}

fn untagged(tag: Option<&Tag>, kind: &str, line: usize) -> Result<(), YamlError> {
    match tag {
        Some(tag) if !is_core(tag, kind) => {
            Err(YamlError::NotRead { line, what: format!("the tag {}", cut(&tag.to_string())) })
        }
        _ => Ok(()),
    }
}

fn is_core(tag: &Tag, name: &str) -> bool {
    tag.is_yaml_core_schema() && tag.suffix == name
}

fn bounded(node: &Node, depth: usize) -> bool {
    let next = depth.saturating_add(1);
    depth <= MAX_DEPTH
        && match &node.value {
            Value::List(list) => list.iter().all(|node| bounded(node, next)),
            Value::Map(map) => map.iter().all(|(_, node)| bounded(node, next)),
            _ => true,
        }
}

fn syntax(error: &ScanError) -> YamlError {
    YamlError::Syntax { line: error.marker().line(), message: cut(error.info()) }
}

/// Text from the file, cut for a message.
fn cut(text: &str) -> String {
    crate::error::cut(text)
}
