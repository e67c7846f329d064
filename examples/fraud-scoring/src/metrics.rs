//! How well scores separate frauds from the rest.

/// Area under the ROC curve: the chance that a random fraud scores higher than a random honest transaction, ties
/// counted half. `None` unless both kinds are present. Pairs are (score, is fraud).
#[must_use]
pub fn auc<S: Copy + PartialOrd>(pairs: &[(S, bool)]) -> Option<f64> {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(std::cmp::Ordering::Equal));
    let (mut honest_below, mut twice_wins, mut frauds) = (0u64, 0u64, 0u64);
    for group in sorted.chunk_by(|a, b| a.0 == b.0) {
        let positive = group.iter().filter(|(_, fraud)| *fraud).count() as u64;
        let negative = group.len() as u64 - positive;
        twice_wins += positive * (2 * honest_below + negative);
        honest_below += negative;
        frauds += positive;
    }
    (frauds > 0 && honest_below > 0).then(|| twice_wins as f64 / (2 * frauds * honest_below) as f64)
}

/// What a threshold does to labelled transactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Frauds that were flagged.
    pub caught: u64,
    /// Frauds that were not flagged.
    pub missed: u64,
    /// Honest transactions that were flagged.
    pub false_alarms: u64,
}

impl Outcome {
    /// Counts pairs of (flagged, is fraud).
    pub fn count(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut outcome = Self::default();
        for pair in pairs {
            match pair {
                (true, true) => outcome.caught += 1,
                (false, true) => outcome.missed += 1,
                (true, false) => outcome.false_alarms += 1,
                (false, false) => {}
            }
        }
        outcome
    }

    /// Share of the flagged that are frauds; 0 when nothing is flagged.
    #[must_use]
    pub fn precision(&self) -> f64 {
        self.caught as f64 / (self.caught + self.false_alarms).max(1) as f64
    }

    /// Share of the frauds that are flagged; 0 when there are none.
    #[must_use]
    pub fn recall(&self) -> f64 {
        self.caught as f64 / (self.caught + self.missed).max(1) as f64
    }

    /// Harmonic mean of precision and recall.
    #[must_use]
    pub fn f1(&self) -> f64 {
        2.0 * self.caught as f64 / (2 * self.caught + self.missed + self.false_alarms).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_by_definition() {
        assert_eq!(auc(&[(1, false), (2, true)]), Some(1.0));
        assert_eq!(auc(&[(2, false), (1, true)]), Some(0.0));
        assert_eq!(auc(&[(1, false), (1, true)]), Some(0.5));
        assert_eq!(auc(&[(1, false), (3, false), (2, true), (4, true)]), Some(0.75));
        assert_eq!(auc(&[(1, true)]), None);
        assert_eq!(auc::<i32>(&[]), None);
    }

    #[test]
    fn outcome_counts() {
        let o = Outcome::count([(true, true), (true, true), (false, true), (true, false), (false, false)]);
        assert_eq!(o, Outcome { caught: 2, missed: 1, false_alarms: 1 });
        assert!((o.precision() - 2.0 / 3.0).abs() < 1e-12 && (o.recall() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(Outcome::default().precision(), 0.0);
    }
}
