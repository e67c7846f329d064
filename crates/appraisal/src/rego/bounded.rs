//! Builtins that the engine does not get to run as it likes: those that depend on something other than their arguments,
//! and those whose result can be far longer than their arguments. The engine asks for each call of them.

use std::io::{self, Write};
use std::sync::LazyLock;

use regorus::{Engine, Value};

/// Longest string that a builtin may make, in bytes.
const MAX_STRING: usize = 1024 * 1024;
/// Most items that a builtin may make.
const MAX_ITEMS: usize = 64 * 1024;
/// Widest shift, in bits, and widest field of a format.
const MAX_SHIFT: u64 = 4096;
const MAX_WIDTH: usize = 256;

/// What answers a call.
pub(super) enum Call {
    /// `query_reference_value`.
    ReferenceValue,
    /// `time.now_ns`.
    Now,
    /// `time.parse_rfc3339_ns`.
    ParseTime,
    /// The engine's own builtin, when its result fits.
    Bounded(&'static Builtin),
}

/// Names with the number of arguments, for the compiler.
pub(super) fn names() -> Vec<(&'static str, usize)> {
    let ours = [("query_reference_value", 1), ("time.now_ns", 0), ("time.parse_rfc3339_ns", 1)];
    ours.into_iter().chain(BUILTINS.iter().map(|builtin| (builtin.name, builtin.arity))).collect()
}

pub(super) fn call(name: &str) -> Option<Call> {
    Some(match name {
        "query_reference_value" => Call::ReferenceValue,
        "time.now_ns" => Call::Now,
        "time.parse_rfc3339_ns" => Call::ParseTime,
        other => Call::Bounded(BUILTINS.iter().find(|builtin| builtin.name == other)?),
    })
}

/// A builtin of the engine.
pub(super) struct Builtin {
    name: &'static str,
    arity: usize,
    fits: fn(&[&Value]) -> bool,
    engine: LazyLock<Result<Engine, String>>,
}

macro_rules! builtins {
    ($($name:literal, $arity:literal, $fits:expr;)*) => {
        static BUILTINS: LazyLock<Vec<Builtin>> = LazyLock::new(|| vec![
            $(Builtin { name: $name, arity: $arity, fits: $fits, engine: LazyLock::new(|| compile($name, $arity)) },)*
        ]);
    };
}

builtins! {
    "concat", 2, |all| match all {
        [delimiter, items] => {
            let items: Vec<&Value> = items_of(items);
            let strings: usize = items.iter().map(|item| length(item)).sum();
            strings.saturating_add(length(delimiter).saturating_mul(items.len())) <= MAX_STRING
        }
        _ => false,
    };
    "replace", 3, |all| match all {
        [text, old, new] => replaced(length(text), length(old), length(new)),
        _ => false,
    };
    "regex.replace", 3, |all| match all {
        // A pattern can match the empty string, and a template can name a group many times.
        [text, _, template] => replaced(length(text), 1, length(template).saturating_mul(length(text).max(1))),
        _ => false,
    };
    "strings.replace_n", 2, |all| match all {
        [patterns, text] => match patterns.as_object() {
            Ok(patterns) => {
                let fits = |length: usize, (old, new): (&Value, &Value)| {
                    replaced(length, self::length(old), self::length(new)).then(|| {
                        length.saturating_add(length.saturating_add(1).saturating_mul(self::length(new)))
                    })
                };
                patterns.iter().try_fold(length(text), fits).is_some()
            }
            Err(_) => true,
        },
        _ => false,
    };
    "sprintf", 2, |all| match all {
        [format, arguments] => {
            let wide = |field: &str| {
                let digits: String = field.trim_start_matches('.').chars().take_while(char::is_ascii_digit).collect();
                digits.parse().unwrap_or(if digits.is_empty() { 0 } else { usize::MAX })
            };
            let format = format.as_string().map(ToString::to_string).unwrap_or_default();
            let widest: usize = format.split('%').skip(1).map(wide).max().unwrap_or(0);
            // A character that is a number elsewhere would be one to the engine, too.
            let plain = format.split('%').skip(1).all(|field| field.chars().next().is_none_or(|c| !c.is_numeric() || c.is_ascii_digit()));
            plain && widest <= MAX_WIDTH && format.len() <= MAX_STRING && json_fits(arguments, MAX_STRING)
        }
        _ => false,
    };
    "numbers.range", 2, |all| match all {
        [from, to] => match (from.as_i64(), to.as_i64()) {
            (Ok(from), Ok(to)) => from.abs_diff(to) < items(),
            _ => false,
        },
        _ => false,
    };
    "numbers.range_step", 3, |all| match all {
        [from, to, step] => match (from.as_i64(), to.as_i64(), step.as_i64()) {
            (Ok(from), Ok(to), Ok(step)) => step > 0 && from.abs_diff(to) < items(),
            _ => false,
        },
        _ => false,
    };
    "bits.lsh", 2, |all| match all {
        [_, shift] => shift.as_u64().is_ok_and(|shift| shift <= MAX_SHIFT),
        _ => false,
    };
    "array.concat", 2, |all| all.iter().map(|array| items_of(array).len()).sum::<usize>() <= MAX_ITEMS;
    "json.marshal", 1, |all| all.iter().all(|value| json_fits(value, MAX_STRING));
    "json.marshal_with_options", 2, |all| all.iter().all(|value| json_fits(value, MAX_STRING / 16));
}

impl Builtin {
    /// Whether the result is within bounds.
    pub(super) fn fits(&self, arguments: &[Value]) -> bool {
        let all: Vec<&Value> = arguments.iter().collect();
        (self.fits)(&all)
    }

    /// The engine's result; undefined where the engine has none.
    pub(super) fn evaluate(&self, arguments: &[Value]) -> Result<Value, String> {
        let mut engine = self.engine.as_ref().map_err(Clone::clone)?.clone();
        engine.set_input(arguments.to_vec().into());
        engine.eval_rule(RESULT.to_owned()).map_err(|error| error.to_string())
    }
}

const RESULT: &str = "data.bounded.result";

/// A policy that calls the builtin with the members of its input.
fn compile(name: &str, arity: usize) -> Result<Engine, String> {
    let arguments: Vec<String> = (0..arity).map(|index| format!("input[{index}]")).collect();
    let text = format!("package bounded\nimport rego.v1\nresult := {name}({})\n", arguments.join(", "));
    let mut engine = Engine::new();
    engine.add_policy("bounded.rego".to_owned(), text).map_err(|error| error.to_string())?;
    engine.compile_with_entrypoint(&RESULT.into()).map_err(|error| error.to_string())?;
    Ok(engine)
}

fn items() -> u64 {
    u64::try_from(MAX_ITEMS).unwrap_or(u64::MAX)
}

/// Bytes of a string; nothing else is long where a string belongs.
fn length(value: &Value) -> usize {
    value.as_string().map_or(0, |text| text.len())
}

fn items_of(value: &Value) -> Vec<&Value> {
    match (value.as_array(), value.as_set()) {
        (Ok(array), _) => array.iter().collect(),
        (_, Ok(set)) => set.iter().collect(),
        _ => Vec::new(),
    }
}

/// Whether a text is short enough with each occurrence replaced; an empty string occurs before each character.
fn replaced(text: usize, old: usize, new: usize) -> bool {
    let times = text.checked_div(old).unwrap_or_else(|| text.saturating_add(1));
    text.saturating_add(times.saturating_mul(new)) <= MAX_STRING
}

fn json_fits(value: &Value, limit: usize) -> bool {
    to_json(value, limit).is_some()
}

/// A value as JSON, when it has at most so many bytes. It is written no further than that: values share their parts, and
/// a short policy can make one whose JSON has no end.
pub(super) fn to_json(value: &Value, limit: usize) -> Option<Vec<u8>> {
    struct Short {
        bytes: Vec<u8>,
        limit: usize,
    }
    impl Write for Short {
        fn write(&mut self, more: &[u8]) -> io::Result<usize> {
            if self.bytes.len().saturating_add(more.len()) > self.limit {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            self.bytes.extend_from_slice(more);
            Ok(more.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut short = Short { bytes: Vec::new(), limit };
    serde_json::to_writer(&mut short, value).ok()?;
    Some(short.bytes)
}

/// Nanoseconds since 1970 of an RFC 3339 time: `2026-11-27T02:00:00[.fraction](Z|±hh:mm)`.
pub(super) fn nanoseconds(text: &str) -> Option<i64> {
    let (main, rest) = text.split_at_checked(19)?;
    let seconds = i64::try_from(crate::text::seconds(&format!("{main}Z"))?).ok()?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, zone) = rest.split_at_checked(digits)?;
            if digits.is_empty() {
                return None;
            }
            (format!("{digits:0<9}").get(..9)?.parse::<i64>().ok()?, zone)
        }
        None => (0, rest),
    };
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|digit| digit.is_ascii_digit()) => {
            let two =
                |tens: &u8, ones: &u8| i64::from(tens.wrapping_sub(b'0')) * 10 + i64::from(ones.wrapping_sub(b'0'));
            let (hours, minutes) = (two(h1, h2), two(m1, m2));
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    seconds.checked_sub(offset)?.checked_mul(1_000_000_000)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_as_rfc_3339_has_them() {
        let base = 1_795_436_053_000_000_000;
        for (text, expected) in [
            ("2026-11-23T12:14:13Z", base),
            ("2026-11-23T12:14:13.5Z", base + 500_000_000),
            ("2026-11-23T12:14:13.123456789123Z", base + 123_456_789),
            ("2026-11-23T13:14:13+01:00", base),
            ("2026-11-23T09:44:13.000-02:30", base),
        ] {
            assert_eq!(nanoseconds(text), Some(expected), "{text}");
        }
        for wrong in [
            "",
            "2026-11-23",
            "2026-11-23T12:14:13",
            "2026-11-23T12:14:13.Z",
            "2026-11-23T12:14:13+24:00",
            "2026-11-23T12:14:13é",
        ] {
            assert_eq!(nanoseconds(wrong), None, "{wrong}");
        }
    }

    fn builtin(name: &str) -> &'static Builtin {
        BUILTINS.iter().find(|builtin| builtin.name == name).unwrap()
    }

    fn array(json: serde_json::Value) -> Vec<Value> {
        super::super::machine::value(&json).unwrap().as_array().unwrap().to_vec()
    }

    #[test]
    fn each_builtin_gives_what_the_engine_gives() {
        use serde_json::json;
        let cases = [
            ("concat", json!([",", ["a", "b"]]), json!("a,b")),
            ("replace", json!(["aXb", "X", "-"]), json!("a-b")),
            ("regex.replace", json!(["a1b", "[0-9]", "-"]), json!("a-b")),
            ("strings.replace_n", json!([{ "a": "b" }, "aa"]), json!("bb")),
            ("sprintf", json!(["%s-%d", ["a", 1]]), json!("a-1")),
            ("numbers.range", json!([1, 3]), json!([1, 2, 3])),
            ("numbers.range_step", json!([1, 5, 2]), json!([1, 3, 5])),
            ("bits.lsh", json!([1, 4]), json!(16)),
            ("array.concat", json!([[1], [2]]), json!([1, 2])),
            ("json.marshal", json!([{ "a": 1 }]), json!("{\"a\":1}")),
        ];
        for (name, arguments, expected) in cases {
            let arguments = array(arguments);
            assert!(builtin(name).fits(&arguments), "{name}");
            let found = builtin(name).evaluate(&arguments).unwrap();
            assert_eq!(to_json(&found, 100).unwrap(), expected.to_string().into_bytes(), "{name}");
        }
    }

    #[test]
    fn what_would_be_too_long_does_not_fit() {
        use serde_json::json;
        let long = "a".repeat(1100);
        let cases = [
            ("concat", json!([long, vec!["a"; 1000]])),
            ("replace", json!([long, "a", long])),
            ("replace", json!([long, "", long])),
            ("regex.replace", json!([long, "", "$0$0"])),
            ("strings.replace_n", json!([{ "a": long, "b": "c" }, long])),
            ("sprintf", json!(["%257d", [1]])),
            ("sprintf", json!(["%99999999999999999999d", [1]])),
            ("sprintf", json!(["%.999d", [1]])),
            ("sprintf", json!(["%٣d", [1]])),
            ("numbers.range", json!([0, 70000])),
            ("numbers.range", json!([i64::MIN, i64::MAX])),
            ("numbers.range", json!([0.5, 2])),
            ("numbers.range_step", json!([0, 70000, 1])),
            ("numbers.range_step", json!([0, 7, 0])),
            ("bits.lsh", json!([1, 4097])),
            ("array.concat", json!([vec![0; 40_000], vec![0; 40_000]])),
            ("json.marshal", json!([vec![long; 1000]])),
        ];
        for (name, arguments) in cases {
            assert!(!builtin(name).fits(&array(arguments.clone())), "{name} {}", crate::text::shown(&arguments));
        }
    }

    proptest! {
        #[test]
        fn what_fits_is_short(text in "[ab]{0,40}", old in "[ab]{0,3}", new in "[abc]{0,9}", pattern in "[ab?*]{0,3}") {
            let arguments = array(serde_json::json!([text, old, new]));
            prop_assert!(builtin("replace").fits(&arguments));
            let found = builtin("replace").evaluate(&arguments).unwrap();
            let bound = text.len() + text.len().checked_div(old.len()).unwrap_or(text.len() + 1) * new.len();
            prop_assert!(length(&found) <= bound);
            let _ = builtin("regex.replace").evaluate(&array(serde_json::json!([text, pattern, new])));
        }
    }
}
