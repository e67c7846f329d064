//! Quantities of Kubernetes: `100m`, `1.5`, `64Mi`, `1e3` (`k8s.io/apimachinery/pkg/api/resource`).

use crate::yaml::Value;

/// A quantity in thousand-millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity(i128);

/// Nothing.
impl Quantity {
    pub(crate) const ZERO: Self = Self(0);
}

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// A number or string of a manifest.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(number) => Some(Self(i128::from(*number).checked_mul(NANO)?)),
            Value::Decimal(text) | Value::Text(text) => Self::parse(text),
            _ => None,
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let end = text
            .char_indices()
            .find(|(at, c)| !(c.is_ascii_digit() || *c == '.' || (*at == 0 && matches!(c, '+' | '-'))))
            .map_or(text.len(), |(at, _)| at);
        let (number, suffix) = text.split_at_checked(end)?;
        let (sign, digits) = match number.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let fits = whole.len() <= 19 && fraction.len() <= 19 && !(whole.is_empty() && fraction.is_empty());
        if !fits || fraction.contains('.') {
            return None;
        }
        let mut value = read(whole)?.checked_mul(NANO)?;
        // Behind the ninth digit it is rounded up, as Kubernetes does.
        let nanos = format!("{fraction:0<9}");
        let (kept, rest) = nanos.split_at_checked(9)?;
        value = value.checked_add(read(kept)?)?.checked_add(i128::from(rest.bytes().any(|b| b != b'0')))?;
        let (factor, divisor) = scale(suffix)?;
        let product = value.checked_mul(factor)?;
        Some(Self(sign * (product + divisor - 1).div_euclid(divisor)))
    }

    /// In whole units, rounded up; none when it is negative.
    pub(crate) fn units(self) -> Option<u64> {
        self.in_units_of(Self(NANO))
    }

    /// In thousandths, rounded up; none when it is negative.
    pub(crate) fn millis(self) -> Option<u64> {
        self.in_units_of(Self(NANO / 1000))
    }

    /// How many of `divisor`, rounded up; none when that is no natural number.
    pub(crate) fn in_units_of(self, divisor: Self) -> Option<u64> {
        if self.0 < 0 || divisor.0 <= 0 {
            return None;
        }
        u64::try_from(self.0.checked_add(divisor.0 - 1)?.div_euclid(divisor.0)).ok()
    }
}

fn read(digits: &str) -> Option<i128> {
    if digits.is_empty() { Some(0) } else { digits.parse().ok() }
}

/// Factor and divisor of a suffix.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1_i128 << (10 * power), 1));
    let decimal = |power: u32| Some((1000_i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let power: i32 = digits.strip_prefix('+').unwrap_or(digits).parse().ok()?;
            let size = 10_i128.pow(power.unsigned_abs().min(18));
            match power {
                0..=18 => Some((size, 1)),
                -9..0 => Some((1, size)),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, millis) in
            [("1", 1000), ("100m", 100), ("0.5", 500), ("1.5", 1500), ("2e0", 2000), ("1u", 1), ("0", 0), (".25", 250)]
        {
            assert_eq!(Quantity::parse(text).and_then(Quantity::millis), Some(millis), "{text}");
        }
        for (text, bytes) in [
            ("64Mi", 64 << 20),
            ("1Gi", 1 << 30),
            ("128M", 128_000_000),
            ("1e3", 1000),
            ("0.5Gi", 512 << 20),
            ("100k", 100_000),
            ("1500m", 2),
            ("1Ei", 1 << 60),
        ] {
            assert_eq!(Quantity::parse(text).and_then(Quantity::units), Some(bytes), "{text}");
        }
        for text in ["", "x", "1K", "1 Gi", "Gi", "1.2.3", "--1", "1e", "1e99", "1mi", "99999999999999999999"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
        assert_eq!(Quantity::parse("-1").and_then(Quantity::units), None);
        let mi = Quantity::parse("1Mi").unwrap();
        assert_eq!(Quantity::parse("65Mi").unwrap().in_units_of(mi), Some(65));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-+]?[0-9.]{0,22}[a-zA-Z]{0,2}[-+]?[0-9]{0,3}") {
            if let Some(quantity) = Quantity::parse(&text) {
                let _ = (quantity.units(), quantity.millis());
            }
        }
    }
}
