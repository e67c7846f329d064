//! Resource paths and patterns of them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use belljar_rcar::uri::is_segment;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Segments of a resource path: repository, type, tag.
const SEGMENTS: usize = 3;
/// Longest segment, in bytes.
const MAX_SEGMENT: usize = 256;

/// Why a path or a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Not three segments.
    #[error("{0:?} is not of three segments: repository/type/tag")]
    Segments(String),
    /// A segment with another character, `.`, `..`, empty, or too long.
    #[error("segment {0:?} is not of letters, digits, '.', '_' and '-', nor a '*' by itself in a pattern")]
    Segment(String),
}

/// A resource: `repository/type/tag`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path([String; SEGMENTS]);

impl Path {
    /// The segments.
    pub fn segments(&self) -> &[String; SEGMENTS] {
        &self.0
    }
}

impl FromStr for Path {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let segments = split(text)?;
        match segments.iter().find(|segment| !is_name(segment)) {
            Some(bad) => Err(PatternError::Segment(crate::text::clean(bad, 64))),
            None => Ok(Self(segments.map(str::to_owned))),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

/// A pattern of paths; `None` is `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern([Option<String>; SEGMENTS]);

impl Pattern {
    /// Whether the pattern covers the path.
    pub fn covers(&self, path: &Path) -> bool {
        self.0.iter().zip(&path.0).all(|(own, segment)| own.as_ref().is_none_or(|own| own == segment))
    }

    /// Whether every path of the other pattern is one of this.
    pub fn contains(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(own, other)| own.is_none() || own == other)
    }

    /// Which is more specific: the one with a name where the other first has `*`. Equal for patterns with their names in
    /// the same places.
    pub fn specificity(&self, other: &Self) -> Ordering {
        let named = |pattern: &Self| pattern.0.each_ref().map(Option::is_some);
        named(self).cmp(&named(other))
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let segments = split(text)?;
        match segments.iter().find(|segment| **segment != "*" && !is_name(segment)) {
            Some(bad) => Err(PatternError::Segment(crate::text::clean(bad, 64))),
            None => Ok(Self(segments.map(|segment| (segment != "*").then(|| segment.to_owned())))),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            let slash = if index > 0 { "/" } else { "" };
            write!(f, "{slash}{}", segment.as_deref().unwrap_or("*"))?;
        }
        Ok(())
    }
}

fn split(text: &str) -> Result<[&str; SEGMENTS], PatternError> {
    let mut segments = text.splitn(SEGMENTS + 1, '/');
    match (segments.next(), segments.next(), segments.next(), segments.next()) {
        (Some(repository), Some(kind), Some(tag), None) => Ok([repository, kind, tag]),
        _ => Err(PatternError::Segments(crate::text::clean(text, 80))),
    }
}

fn is_name(segment: &str) -> bool {
    is_segment(segment) && segment.len() <= MAX_SEGMENT
}

macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(Path, Pattern);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_star_is_one_whole_segment() {
        let path: Path = "default/key/1".parse().unwrap();
        for covering in ["default/key/1", "default/key/*", "default/*/1", "*/key/1", "*/*/*"] {
            assert!(pattern(covering).covers(&path), "{covering}");
            assert_eq!(pattern(covering).to_string(), covering);
        }
        for other in ["default/key/10", "default/keys/*", "Default/key/1", "*/*/2"] {
            assert!(!pattern(other).covers(&path), "{other}");
        }
        for bad in ["default/*", "*", "", "default/key/1/2", "a/b/c/", "/a/b/c", "a//c"] {
            let error = bad.parse::<Pattern>().unwrap_err();
            assert!(matches!(error, PatternError::Segments(_) | PatternError::Segment(_)), "{bad}");
        }
        for (bad, segment) in
            [("a/b/c*", "c*"), ("a/b/**", "**"), ("a/../c", ".."), ("a/b/%2e", "%2e"), ("a/b/ c", " c")]
        {
            assert_eq!(bad.parse::<Pattern>(), Err(PatternError::Segment(segment.into())), "{bad}");
        }
        assert_eq!("a/b/*".parse::<Path>(), Err(PatternError::Segment("*".into())));
    }

    #[test]
    fn the_leftmost_name_is_the_more_specific() {
        let order = ["a/b/c", "a/b/*", "a/*/c", "a/*/*", "*/b/c", "*/b/*", "*/*/c", "*/*/*"];
        for (first, more) in order.iter().enumerate() {
            for (second, less) in order.iter().enumerate() {
                let expected = second.cmp(&first);
                assert_eq!(pattern(more).specificity(&pattern(less)), expected, "{more} {less}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_but_its_own_segments_matches(own in "[a-c*]/[a-c*]/[a-c*]", path in "[a-c]/[a-c]/[a-c]") {
            let expected = own.split('/').zip(path.split('/')).all(|(own, segment)| own == "*" || own == segment);
            prop_assert_eq!(pattern(&own).covers(&path.parse().unwrap()), expected);
        }

        #[test]
        fn parsing_never_panics_and_reads_back(text in "([a-c.*_%\\-]{0,3}/?){0,5}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string(), text.clone());
            }
            if let Ok(path) = text.parse::<Path>() {
                prop_assert_eq!(path.to_string(), text);
            }
        }

        #[test]
        fn containing_is_covering_whatever_the_other_covers(a in "[ab*]/[ab*]/[ab*]", b in "[ab*]/[ab*]/[ab*]") {
            let all: Vec<Path> = (0..8).map(|n: u8| {
                let segment = |bit: u8| if n >> bit & 1 == 0 { "a" } else { "c" };
                format!("{}/{}/{}", segment(0), segment(1), segment(2)).parse().unwrap()
            }).collect();
            let (a, b) = (pattern(&a), pattern(&b));
            if a.contains(&b) {
                prop_assert!(all.iter().all(|path| !b.covers(path) || a.covers(path)));
            }
        }
    }
}
