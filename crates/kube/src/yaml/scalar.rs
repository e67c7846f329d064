//! What a plain scalar is, as `kubectl` takes it (go-yaml with the types of YAML 1.1).

use super::Value;

/// Why a scalar is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ambiguous;

const TRUE: [&str; 11] = ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"];
const FALSE: [&str; 11] = ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"];

/// A scalar without quotes and without a tag. Refused is what readers take for different things: `089`, `.inf`, numbers beyond 64 bits.
pub(crate) fn plain(text: &str) -> Result<Value, Ambiguous> {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Ok(Value::Null);
    }
    if TRUE.contains(&text) {
        return Ok(Value::Bool(true));
    }
    if FALSE.contains(&text) {
        return Ok(Value::Bool(false));
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return Err(Ambiguous);
    }
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Ok(Value::Text(text.to_owned()));
    }
    number(text, unsigned)
}

fn number(text: &str, unsigned: &str) -> Result<Value, Ambiguous> {
    let digits = unsigned.replace('_', "");
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = digits.strip_prefix(prefix)
            && !rest.is_empty()
            && rest.chars().all(|c| c.is_digit(radix))
        {
            return integer(text, rest, radix);
        }
    }
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        if unsigned.starts_with('_') {
            return Err(Ambiguous);
        }
        return match digits.strip_prefix('0') {
            None | Some("") => integer(text, &digits, 10),
            // `089` is a float to some and a string to others.
            Some(octal) if octal.contains(['8', '9']) => Err(Ambiguous),
            Some(octal) => integer(text, octal, 8),
        };
    }
    if is_decimal(unsigned) {
        return decimal(text);
    }
    if is_decimal(&digits) {
        return Err(Ambiguous);
    }
    Ok(Value::Text(text.to_owned()))
}

fn integer(text: &str, digits: &str, radix: u32) -> Result<Value, Ambiguous> {
    let sign = if text.starts_with('-') { "-" } else { "" };
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map(Value::Integer).map_err(|_| Ambiguous)
}

/// Digits with a point, an exponent or both; at least one digit before the exponent.
fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let exponent_fits = exponent.is_empty() || {
        let digits = exponent.get(1..).unwrap_or_default();
        let digits = digits.strip_prefix(['+', '-']).unwrap_or(digits);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    exponent_fits && all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty())
}

/// The number as JSON writes it: a digit on both sides of the point, no plus, no leading zeros.
fn decimal(text: &str) -> Result<Value, Ambiguous> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let fraction = if fraction.is_empty() { "0" } else { fraction };
    if text.len() > 64 {
        return Err(Ambiguous);
    }
    Ok(Value::Decimal(format!("{sign}{whole}.{fraction}{}", exponent.to_ascii_lowercase())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_mean_what_kubectl_takes_them_for() {
        let text = |t: &str| Ok(Value::Text(t.to_owned()));
        for t in ["yes", "on", "True", "y"] {
            assert_eq!(plain(t), Ok(Value::Bool(true)), "{t}");
        }
        for t in ["no", "off", "FALSE", "n"] {
            assert_eq!(plain(t), Ok(Value::Bool(false)), "{t}");
        }
        for t in ["", "~", "null"] {
            assert_eq!(plain(t), Ok(Value::Null), "{t}");
        }
        for (t, number) in [
            ("0644", 0o644),
            ("0o644", 0o644),
            ("420", 420),
            ("-1", -1),
            ("+7", 7),
            ("0x1F", 31),
            ("0b101", 5),
            ("1_000", 1000),
            ("0", 0),
            ("-0", 0),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(plain(t), Ok(Value::Integer(number)), "{t}");
        }
        for (t, json) in [("0.5", "0.5"), (".5", "0.5"), ("1.", "1.0"), ("1e3", "1.0e3"), ("-01.50E-2", "-1.50e-2")] {
            assert_eq!(plain(t), Ok(Value::Decimal(json.to_owned())), "{t}");
        }
        for t in ["089", "00.5_0", ".inf", "-.INF", ".nan", "9223372036854775808", "0x8000000000000000"] {
            assert_eq!(plain(t), Err(Ambiguous), "{t}");
        }
        for t in ["100m", "1Gi", "1:30", "2001-01-01", "10.0.0.1", "yEs", "0x", "0xg", "1e", "e3", "-", "--1", "."] {
            assert_eq!(plain(t), text(t), "{t}");
        }
    }
}
