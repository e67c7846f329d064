//! Gradient-boosted trees: each tree is fitted to what the ones before it still get wrong.
//!
//! Logistic loss, second-order steps (Friedman 2001; Chen and Guestrin 2016), histograms of at most 64 bins per feature.
//! Nothing is random and nothing depends on the machine, so the same rows give the same bytes.

use crate::math::{ln, sigmoid, to_i32};
use crate::metrics::Outcome;
use crate::model::{DEPTH, LEAVES, MAX_LEAF, Model, SPLITS, Split, Tree};
use crate::transaction::{FEATURES, Transaction};

/// Trees in a model.
pub const TREES: usize = 96;
const LEARNING_RATE: f64 = 0.12;
/// Pulls the values of leaves with few rows towards zero.
const SHRINKAGE: f64 = 4.0;
/// A leaf needs at least this much evidence (sum of second derivatives).
const MIN_EVIDENCE: f64 = 1.0;
const BINS: usize = 64;

/// Fits a model to `rows`, and chooses the threshold that does best (by F1) on `tune`, which must be other rows.
#[must_use]
pub fn train(rows: &[Transaction], tune: &[Transaction]) -> Model {
    let features: Vec<_> = rows.iter().map(Transaction::features).collect();
    let columns: Vec<Column> = (0..FEATURES).map(|f| Column::new(&features, f)).collect();
    let frauds = rows.iter().filter(|t| t.is_fraud()).count() as f64;
    let base = fixed(ln((frauds + 1.0) / (rows.len() as f64 - frauds + 1.0)));
    let mut scores = vec![base; rows.len()];
    let mut trees = Vec::with_capacity(TREES);
    for _ in 0..TREES {
        let slopes: Vec<Slope> = rows.iter().zip(&scores).map(|(t, s)| Slope::of(t.is_fraud(), *s)).collect();
        let tree = grow(&columns, &features, &slopes);
        for (score, row) in scores.iter_mut().zip(&features) {
            *score = score.saturating_add(tree.value(row));
        }
        trees.push(tree);
    }
    let mut model = Model { base, threshold: 0, trees };
    model.threshold = best_threshold(&model, tune);
    model
}

/// Log odds in the unit of the file format.
fn fixed(log_odds: f64) -> i32 {
    to_i32((log_odds * 65536.0).round()).clamp(-MAX_LEAF, MAX_LEAF)
}

/// First and second derivative of the loss at a row, or sums of them.
#[derive(Debug, Clone, Copy, Default)]
struct Slope {
    first: f64,
    second: f64,
}

impl Slope {
    fn of(fraud: bool, score: i32) -> Self {
        let p = sigmoid(f64::from(score) / 65536.0);
        Self { first: p - f64::from(u8::from(fraud)), second: p * (1.0 - p) }
    }

    fn add(&mut self, other: Self) {
        self.first += other.first;
        self.second += other.second;
    }

    fn minus(self, other: Self) -> Self {
        Self { first: self.first - other.first, second: self.second - other.second }
    }

    /// How much the loss falls when these rows get a leaf of their own.
    fn gain(self) -> f64 {
        self.first * self.first / (self.second + SHRINKAGE)
    }
}

/// A feature of all rows, cut into bins.
#[derive(Debug)]
struct Column {
    feature: u8,
    /// Upper bounds of all bins but the last.
    bounds: Vec<i32>,
    bins: Vec<usize>,
}

impl Column {
    fn new(rows: &[[i32; FEATURES]], feature: usize) -> Self {
        let values: Vec<i32> = rows.iter().filter_map(|row| row.get(feature).copied()).collect();
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let mut bounds: Vec<i32> = (1..BINS).filter_map(|bin| sorted.get(sorted.len() * bin / BINS).copied()).collect();
        // Rare large values matter most here, and quantiles would put them all into the last bin.
        bounds.extend(
            (1..BINS / 4).filter_map(|i| sorted.get(sorted.len() - 1 - sorted.len() * i / (BINS * 8)).copied()),
        );
        bounds.sort_unstable();
        bounds.dedup();
        bounds.truncate(BINS * 2);
        let bins = values.iter().map(|v| bounds.partition_point(|b| b < v)).collect();
        Self { feature: u8::try_from(feature).unwrap_or(u8::MAX), bounds, bins }
    }
}

/// Grows one tree, level by level.
fn grow(columns: &[Column], features: &[[i32; FEATURES]], slopes: &[Slope]) -> Tree {
    // A split that nothing passes: the default where no split is worth it.
    let mut tree = Tree { splits: [Split { feature: 0, bound: i32::MAX }; SPLITS], leaves: [0; LEAVES] };
    let mut node_of_row = vec![0usize; slopes.len()];
    for depth in 0..DEPTH {
        let width = 1usize << depth;
        let mut best = vec![(1e-9, Split { feature: 0, bound: i32::MAX }); width];
        for column in columns {
            best_splits(column, &node_of_row, slopes, &mut best);
        }
        for (slot, (_, split)) in tree.splits.iter_mut().skip(width - 1).zip(&best) {
            *slot = *split;
        }
        for (node, row) in node_of_row.iter_mut().zip(features) {
            let right = best.get(*node).is_some_and(|(_, split)| {
                row.get(usize::from(split.feature)).is_some_and(|value| *value > split.bound)
            });
            *node = 2 * *node + usize::from(right);
        }
    }
    let mut sums = [Slope::default(); LEAVES];
    for (node, slope) in node_of_row.iter().zip(slopes) {
        if let Some(sum) = sums.get_mut(*node) {
            sum.add(*slope);
        }
    }
    tree.leaves = sums.map(|sum| fixed(-LEARNING_RATE * sum.first / (sum.second + SHRINKAGE)));
    tree
}

/// Replaces the entries of `best` (gain, split), one for each node of this level, where `column` does better.
fn best_splits(column: &Column, node_of_row: &[usize], slopes: &[Slope], best: &mut [(f64, Split)]) {
    let bins = column.bounds.len() + 1;
    let mut histogram = vec![Slope::default(); bins * best.len()];
    for ((bin, node), slope) in column.bins.iter().zip(node_of_row).zip(slopes) {
        if let Some(sum) = histogram.get_mut(node * bins + bin) {
            sum.add(*slope);
        }
    }
    for (node, best) in histogram.chunks_exact(bins).zip(best) {
        let mut total = Slope::default();
        node.iter().for_each(|sum| total.add(*sum));
        let mut left = Slope::default();
        for (sum, bound) in node.iter().zip(&column.bounds) {
            left.add(*sum);
            let right = total.minus(left);
            let gain = left.gain() + right.gain() - total.gain();
            if left.second >= MIN_EVIDENCE && right.second >= MIN_EVIDENCE && gain > best.0 {
                *best = (gain, Split { feature: column.feature, bound: *bound });
            }
        }
    }
}

fn best_threshold(model: &Model, tune: &[Transaction]) -> i32 {
    let scored: Vec<(i32, bool)> = tune.iter().map(|t| (model.score(t), t.is_fraud())).collect();
    let mut best = (0.0, 0);
    // Log odds from -4 (2 %) to 2 (88 %) in steps of 1/8.
    for step in -32..=16 {
        let threshold = step * (65536 / 8);
        let f1 = Outcome::count(scored.iter().map(|(score, fraud)| (*score >= threshold, *fraud))).f1();
        if f1 > best.0 {
            best = (f1, threshold);
        }
    }
    best.1
}
