//! The model: a sum of small decision trees over integer features, and its file format.
//!
//! Scoring is integer arithmetic alone: comparisons and additions, so that it is fast on an emulated CPU and gives the
//! same answer on every machine.
//!
//! # File format, version 1
//!
//! All integers little-endian.
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | `BJFM` |
//! | u16 | version, 1 |
//! | u16 | number of features, 11 |
//! | u16 | number of trees, 1 to 1024 |
//! | u16 | reserved, 0 |
//! | i32 | base: log odds, in 1/65536 |
//! | i32 | threshold: a transaction is flagged when its score reaches it |
//! | 67 × trees | seven splits in breadth-first order (u8 feature, i32 bound: right when the value is greater), then eight leaves (i32 log odds, in 1/65536, magnitude at most 2²⁰) |

use crate::math::sigmoid;
use crate::transaction::{FEATURES, Transaction};

/// Levels of splits in each tree.
pub const DEPTH: u32 = 3;
/// Splits of each tree.
pub const SPLITS: usize = (1 << DEPTH) - 1;
/// Leaves of each tree.
pub const LEAVES: usize = 1 << DEPTH;
/// More trees than this are refused.
pub const MAX_TREES: usize = 1024;
/// Largest magnitude of a leaf, base and threshold divided by [`MAX_TREES`]: sums of the most trees fit 32 bits.
pub const MAX_LEAF: i32 = 1 << 20;

const MAGIC: [u8; 4] = *b"BJFM";
const VERSION: u16 = 1;
const FEATURES_U16: u16 = 11;
const _: () = assert!(FEATURES == FEATURES_U16 as usize);

/// Why a model file is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// It does not start with the magic bytes.
    #[error("not a model file; make one with fraud-train")]
    Magic,
    /// Its version is another.
    #[error("model version {0} is unknown, expected {VERSION}; train it again with this version's fraud-train")]
    Version(u16),
    /// It was trained on other features.
    #[error("the model wants {0} features, transactions have {FEATURES}; train it again")]
    Features(u16),
    /// No trees, or too many.
    #[error("the model has {0} trees, expected 1 to {MAX_TREES}")]
    Trees(u16),
    /// Reserved bytes are not zero.
    #[error("reserved bytes of the model are not zero")]
    Reserved,
    /// A split names a feature that does not exist.
    #[error("a split names feature {0}, there are {FEATURES}")]
    SplitFeature(u8),
    /// A leaf, the base or the threshold is out of bounds.
    #[error("the value {0} in the model is out of bounds")]
    Value(i32),
    /// It ends too early.
    #[error("the model ends too early")]
    Truncated,
    /// Bytes follow the last tree.
    #[error("{0} bytes follow the model")]
    Surplus(usize),
}

/// One question of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Split {
    /// Index of the feature, below [`FEATURES`].
    pub feature: u8,
    /// Go right when the feature is greater than this.
    pub bound: i32,
}

/// A complete binary tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tree {
    /// Breadth first.
    pub splits: [Split; SPLITS],
    /// Left to right, log odds in 1/65536.
    pub leaves: [i32; LEAVES],
}

impl Tree {
    /// Which leaf the features lead to.
    #[must_use]
    pub fn leaf(&self, features: &[i32; FEATURES]) -> usize {
        let mut node = 0;
        for _ in 0..DEPTH {
            let right = self.splits.get(node).is_some_and(|split| {
                features.get(usize::from(split.feature)).is_some_and(|value| *value > split.bound)
            });
            node = 2 * node + 1 + usize::from(right);
        }
        node - SPLITS
    }

    /// Value of that leaf.
    #[must_use]
    pub fn value(&self, features: &[i32; FEATURES]) -> i32 {
        self.leaves.get(self.leaf(features)).copied().unwrap_or(0)
    }
}

/// A trained model. Its parts are within the bounds of the file format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub(crate) base: i32,
    pub(crate) threshold: i32,
    pub(crate) trees: Vec<Tree>,
}

impl Model {
    /// Log odds of fraud, in 1/65536.
    #[must_use]
    pub fn score(&self, transaction: &Transaction) -> i32 {
        let features = transaction.features();
        self.trees.iter().fold(self.base, |sum, tree| sum.saturating_add(tree.value(&features)))
    }

    /// Whether that score is suspicious.
    #[must_use]
    pub fn flags(&self, score: i32) -> bool {
        score >= self.threshold
    }

    /// The score as a probability.
    #[must_use]
    pub fn probability(score: i32) -> f64 {
        sigmoid(f64::from(score) / 65536.0)
    }

    /// Number of trees.
    #[must_use]
    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    /// The file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let trees = u16::try_from(self.trees.len()).unwrap_or(u16::MAX);
        for field in [VERSION, FEATURES_U16, trees, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(self.base.to_le_bytes());
        bytes.extend(self.threshold.to_le_bytes());
        for tree in &self.trees {
            for split in tree.splits {
                bytes.push(split.feature);
                bytes.extend(split.bound.to_le_bytes());
            }
            for leaf in tree.leaves {
                bytes.extend(leaf.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads the file, all of it.
    ///
    /// # Errors
    /// [`ModelError`] when anything but an exact model of this version is found.
    pub fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        let mut input = Input(bytes);
        if input.take::<4>().map_err(|_| ModelError::Magic)? != MAGIC {
            return Err(ModelError::Magic);
        }
        match input.u16()? {
            VERSION => {}
            other => return Err(ModelError::Version(other)),
        }
        match input.u16()? {
            n if usize::from(n) == FEATURES => {}
            other => return Err(ModelError::Features(other)),
        }
        let count = input.u16()?;
        if count == 0 || usize::from(count) > MAX_TREES {
            return Err(ModelError::Trees(count));
        }
        if input.u16()? != 0 {
            return Err(ModelError::Reserved);
        }
        let base = input.value()?;
        let threshold = input.i32()?;
        let mut trees = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let mut tree = Tree::default();
            for split in &mut tree.splits {
                let [feature] = input.take()?;
                if usize::from(feature) >= FEATURES {
                    return Err(ModelError::SplitFeature(feature));
                }
                *split = Split { feature, bound: input.i32()? };
            }
            for leaf in &mut tree.leaves {
                *leaf = input.value()?;
            }
            trees.push(tree);
        }
        if !input.0.is_empty() {
            return Err(ModelError::Surplus(input.0.len()));
        }
        Ok(Self { base, threshold, trees })
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(ModelError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, ModelError> {
        self.take().map(u16::from_le_bytes)
    }

    fn i32(&mut self) -> Result<i32, ModelError> {
        self.take().map(i32::from_le_bytes)
    }

    fn value(&mut self) -> Result<i32, ModelError> {
        let value = self.i32()?;
        if value.unsigned_abs() > MAX_LEAF.unsigned_abs() { Err(ModelError::Value(value)) } else { Ok(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model() -> Model {
        let mut tree = Tree::default();
        tree.splits[0] = Split { feature: 7, bound: 100 };
        tree.leaves = [1, 2, 3, 4, 5, 6, 7, 8];
        Model { base: -10, threshold: 5, trees: vec![tree; 3] }
    }

    #[test]
    fn walks_to_the_right_leaf() {
        let mut features = [0; FEATURES];
        let tree = model().trees[0];
        assert_eq!(tree.leaf(&features), 0);
        features[7] = 100;
        assert_eq!(tree.leaf(&features), 0);
        features[7] = 101;
        assert_eq!(tree.leaf(&features), 4);
        assert_eq!(tree.value(&features), 5);
    }

    #[test]
    fn each_broken_byte_has_its_error() {
        let good = model().to_bytes();
        assert_eq!(Model::parse(&good), Ok(model()));
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Model::parse(&bytes)
        };
        assert_eq!(with(0, b'X'), Err(ModelError::Magic));
        assert_eq!(with(4, 2), Err(ModelError::Version(2)));
        assert_eq!(with(6, 12), Err(ModelError::Features(12)));
        assert_eq!(with(8, 0), Err(ModelError::Trees(0)));
        assert_eq!(with(9, 8), Err(ModelError::Trees(2051)));
        assert_eq!(with(8, 4), Err(ModelError::Truncated));
        assert_eq!(with(8, 2), Err(ModelError::Surplus(67)));
        assert_eq!(with(10, 1), Err(ModelError::Reserved));
        assert_eq!(with(15, 0x7f), Err(ModelError::Value(0x7fff_fff6)));
        assert_eq!(with(20, 11), Err(ModelError::SplitFeature(11)));
        assert_eq!(with(20, 10).map(|m| m.trees[0].splits[0].feature), Ok(10));
        assert_eq!(Model::parse(&[&good[..], b"x"].concat()), Err(ModelError::Surplus(1)));
        assert_eq!(Model::parse(b""), Err(ModelError::Magic));
        for end in 4..good.len() {
            assert_eq!(Model::parse(&good[..end]), Err(ModelError::Truncated), "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic_and_what_parses_is_canonical(data in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..221, value: u8) {
            let _ = Model::parse(&data);
            let mut bytes = model().to_bytes();
            bytes[at] = value;
            if let Ok(parsed) = Model::parse(&bytes) {
                prop_assert_eq!(parsed.to_bytes(), bytes);
            }
        }
    }
}
