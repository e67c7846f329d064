//! Nodes to text: block style, strings without quotes only where every reader takes them for strings.

use std::fmt::Write;

use super::scalar;
use super::{Node, Value};

/// Writes documents, with `---` between them. The same nodes give the same text.
pub fn write(documents: &[Node]) -> String {
    let mut out = String::new();
    for (index, document) in documents.iter().enumerate() {
        if index > 0 {
            out.push_str("---\n");
        }
        match &document.value {
            Value::Map(map) if !map.0.is_empty() => pairs(&map.0, 0, true, &mut out),
            Value::List(list) if !list.is_empty() => items(list, 0, true, &mut out),
            value => {
                leaf(value, 0, &mut out);
                out.push('\n');
            }
        }
    }
    out
}

/// `indent_first` is false when the first line follows `- `.
fn pairs(map: &[(String, Node)], indent: usize, indent_first: bool, out: &mut String) {
    for (index, (key, node)) in map.iter().enumerate() {
        if index > 0 || indent_first {
            margin(indent, out);
        }
        string(key, None, out);
        out.push(':');
        match &node.value {
            Value::Map(map) if !map.0.is_empty() => {
                out.push('\n');
                pairs(&map.0, indent.saturating_add(2), true, out);
            }
            Value::List(list) if !list.is_empty() => {
                out.push('\n');
                items(list, indent, true, out);
            }
            value => {
                out.push(' ');
                leaf(value, indent.saturating_add(2), out);
                out.push('\n');
            }
        }
    }
}

fn items(list: &[Node], indent: usize, indent_first: bool, out: &mut String) {
    for (index, node) in list.iter().enumerate() {
        if index > 0 || indent_first {
            margin(indent, out);
        }
        out.push_str("- ");
        let inner = indent.saturating_add(2);
        match &node.value {
            Value::Map(map) if !map.0.is_empty() => pairs(&map.0, inner, false, out),
            Value::List(list) if !list.is_empty() => items(list, inner, false, out),
            value => {
                leaf(value, inner, out);
                out.push('\n');
            }
        }
    }
}

fn leaf(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Integer(number) => out.push_str(&number.to_string()),
        Value::Decimal(number) => out.push_str(number),
        Value::Text(text) => string(text, Some(indent), out),
        Value::List(_) => out.push_str("[]"),
        Value::Map(_) => out.push_str("{}"),
    }
}

/// A string; with an indent, one of several lines becomes a literal block.
fn string(text: &str, indent: Option<usize>, out: &mut String) {
    if is_plain(text) {
        out.push_str(text);
    } else if let Some(indent) = indent.filter(|_| is_literal(text)) {
        let body = text.trim_end_matches('\n');
        out.push_str(match text.len().saturating_sub(body.len()) {
            0 => "|-",
            1 => "|",
            _ => "|+",
        });
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            out.push('\n');
            if !line.is_empty() {
                margin(indent, out);
                out.push_str(line);
            }
        }
    } else {
        quoted(text, out);
    }
}

/// Letters, digits and a few signs that mean nothing anywhere, and neither a boolean nor a number.
fn is_plain(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_./+@%^=,()*$ ".contains(&b);
    let first = |b: &u8| b.is_ascii_alphanumeric() || b"_./$".contains(b);
    text.len() <= 256
        && text.as_bytes().first().is_some_and(first)
        && !text.ends_with(' ')
        && text.bytes().enumerate().all(|(at, b)| {
            inner(b) || (b == b':' && text.as_bytes().get(at.saturating_add(1)).is_some_and(|next| *next != b' '))
        })
        && !text.starts_with("...")
        && !looks_like_a_number(text)
        && matches!(scalar::plain(text), Ok(Value::Text(_)))
}

/// Also what other readers than ours could take for a number or a time: `1:30`, `2001-01-01`, `0x`.
fn looks_like_a_number(text: &str) -> bool {
    let unsigned = text.trim_start_matches(['+', '-', '.']);
    unsigned.starts_with(|c: char| c.is_ascii_digit())
        && unsigned.bytes().all(|b| b.is_ascii_hexdigit() || b"xXoO_.:+- TZtz".contains(&b))
}

/// Several lines of printable text that a literal block keeps as they are.
fn is_literal(text: &str) -> bool {
    let body = text.trim_end_matches('\n');
    body.contains('\n')
        && body.split('\n').all(|line| !line.ends_with([' ', '\t']))
        && !body.starts_with([' ', '\t', '\n'])
        && text.chars().all(|c| matches!(c, '\n' | '\t' | ' '..='~' | '\u{a1}'..='\u{2027}' | '\u{2030}'..='\u{d7ff}'))
        && !body.contains("\n\t")
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            ' '..='~' | '\u{a1}'..='\u{2027}' | '\u{2030}'..='\u{d7ff}' => out.push(c),
            c => {
                let code = u32::from(c);
                // Writing into a String cannot fail.
                let _ = if code <= 0xffff { write!(out, "\\u{code:04x}") } else { write!(out, "\\U{code:08x}") };
            }
        }
    }
    out.push('"');
}

fn margin(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}
