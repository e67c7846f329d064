//! Numbers of several runs.

use serde::Serialize;

/// Median and range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stats {
    /// Half of the values are not above it.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Stats {
    /// Of these values; zeros when there are none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let half = sorted.len() / 2;
        let median =
            if sorted.len().is_multiple_of(2) { (at(half.saturating_sub(1)) + at(half)) / 2.0 } else { at(half) };
        Self { median, min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }

    /// Of one value.
    pub fn one(value: f64) -> Self {
        Self { median: value, min: value, max: value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Stats::of(&[3.0, 1.0, 2.0]), Stats { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Stats::of(&[4.0, 1.0]), Stats { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Stats::of(&[7.0]), Stats::one(7.0));
    }
}
