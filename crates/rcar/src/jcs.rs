//! JSON Canonicalization Scheme, RFC 8785: members sorted by their UTF-16 code units, no white space, the shortest
//! string escapes.
//!
//! Of numbers, only integers up to 2^53 are written: no message of the handshake hashes another, and how to round the
//! digits of a double is where implementations differ.

use serde_json::{Number, Value};

/// Why a value has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JcsError {
    /// RFC 8785 §3.2.2.3: numbers are IEEE 754 doubles. This one has a fraction or an exponent, or is not exactly one.
    #[error("number {0} is not an integer within 2^53; write it as a string")]
    Number(String),
}

/// The canonical text of `value`.
pub fn to_string(value: &Value) -> Result<String, JcsError> {
    let mut out = String::with_capacity(256);
    write_value(&mut out, value)?;
    Ok(out)
}

fn write_value(out: &mut String, value: &Value) -> Result<(), JcsError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number)?,
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, item)?;
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(out, name);
                out.push(':');
                write_value(out, member)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

/// RFC 8785 §3.2.2.2.
fn write_text(out: &mut String, text: &str) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' => {
                let code = u32::from(c);
                out.push_str(if code < 16 { "\\u000" } else { "\\u001" });
                out.extend(HEX.get((code % 16) as usize));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// RFC 8785 §3.2.2.3, for integers.
fn write_number(out: &mut String, number: &Number) -> Result<(), JcsError> {
    const EXACT: u64 = 1 << 53;
    match number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs)) {
        Some(magnitude) if magnitude <= EXACT => {
            out.push_str(&number.to_string());
            Ok(())
        }
        _ => Err(JcsError::Number(number.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        to_string(&serde_json::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn sorts_members_by_utf16_units() {
        // RFC 8785 §3.2.3: U+1F600 sorts before U+FB33 as UTF-16, and after it as UTF-8.
        assert_eq!(
            canonical(r#"{"\ufb33":1,"\ud83d\ude00":2,"1":3,"\r":4}"#),
            "{\"\\r\":4,\"1\":3,\"😀\":2,\"\u{fb33}\":1}"
        );
    }

    #[test]
    fn integers_that_are_exact_doubles_and_no_other_numbers() {
        for text in ["0", "-1", "9007199254740992", "-9007199254740992"] {
            assert_eq!(canonical(text), text);
        }
        for text in ["9007199254740993", "-9007199254740993", "18446744073709551615", "1.5", "1e3"] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(to_string(&value), Err(JcsError::Number(value.to_string())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back_and_is_a_fixed_point(text in "\\PC*", name in ".*", number in -(1_i64 << 53)..=1 << 53, flag: bool) {
            let value = serde_json::json!({ name: [text, flag, null], "n": number });
            let once = to_string(&value).unwrap();
            let back: Value = serde_json::from_str(&once).unwrap();
            prop_assert_eq!(to_string(&back).unwrap(), once);
        }
    }
}
