//! Extended headers: POSIX.1-2017 `pax`, "pax Extended Header"; `SCHILY.xattr.*` of star; `GNU.sparse.*` of GNU tar.

use std::collections::BTreeMap;

use super::TarError;

/// What an extended header says about the entry behind it. Keys that describe nothing we keep are dropped.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: SparseKeys,
}

/// The keys of GNU's three PAX sparse formats (0.0, 0.1, 1.0).
#[derive(Debug, Default)]
pub(super) struct SparseKeys {
    pub(super) version: (Option<u64>, Option<u64>),
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Offsets and lengths one after the other, of formats 0.0 and 0.1.
    pub(super) map: Option<Vec<u64>>,
}

impl Pax {
    /// Applies the records of one header to `self`; a later key wins, an empty value takes a key back.
    pub(super) fn apply(&mut self, records: &[u8], at: u64) -> Result<(), TarError> {
        for record in (Records { rest: records, at }) {
            let (key, value) = record?;
            self.set(key, value, at)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8], at: u64) -> Result<(), TarError> {
        let kept = (!value.is_empty()).then_some(value);
        let number = |field: &'static str| -> Result<Option<u64>, TarError> {
            kept.map(|v| decimal(v).ok_or(TarError::Number { field, at })).transpose()
        };
        let id = |field: &'static str| -> Result<Option<u32>, TarError> {
            number(field)?.map(|v| u32::try_from(v).map_err(|_| TarError::Number { field, at })).transpose()
        };
        match key {
            b"path" => self.path = kept.map(<[u8]>::to_vec),
            b"linkpath" => self.link = kept.map(<[u8]>::to_vec),
            b"size" => self.size = number("size")?,
            b"uid" => self.uid = id("uid")?,
            b"gid" => self.gid = id("gid")?,
            b"mtime" => {
                self.mtime = kept.map(|v| time(v).ok_or(TarError::Number { field: "mtime", at })).transpose()?;
            }
            b"GNU.sparse.major" => self.sparse.version.0 = number("GNU.sparse.major")?,
            b"GNU.sparse.minor" => self.sparse.version.1 = number("GNU.sparse.minor")?,
            b"GNU.sparse.name" => self.sparse.name = kept.map(<[u8]>::to_vec),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = number("GNU.sparse.size")?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let value = number("GNU.sparse.offset")?.ok_or(TarError::Number { field: "GNU.sparse.offset", at })?;
                let map = self.sparse.map.get_or_insert_default();
                // Format 0.0 repeats the pair; its place in the list must fit the key.
                if map.len() % 2 != usize::from(key == b"GNU.sparse.numbytes") {
                    return Err(TarError::SparseMap { at });
                }
                map.push(value);
            }
            b"GNU.sparse.map" => {
                let list: Option<Vec<u64>> = value.split(|b| *b == b',').map(decimal).collect();
                self.sparse.map = Some(list.ok_or(TarError::SparseMap { at })?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

/// Whether a *global* extended header says something that would change an entry. Such a header is refused: GNU tar applies it,
/// docker ignores it, so its meaning depends on who reads.
pub(super) fn global_changes_entries(records: &[u8], at: u64) -> Result<bool, TarError> {
    for record in (Records { rest: records, at }) {
        let (key, _) = record?;
        let known: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
        if known.contains(&key) || key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `LENGTH SPACE KEY = VALUE NEWLINE` records, LENGTH counting the whole record.
struct Records<'a> {
    rest: &'a [u8],
    at: u64,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), TarError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = self.split();
        if parsed.is_none() {
            self.rest = &[];
        }
        Some(parsed.ok_or(TarError::PaxRecord { at: self.at }))
    }
}

impl<'a> Records<'a> {
    fn split(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.rest.iter().take(20).position(|b| *b == b' ')?;
        let len = usize::try_from(decimal(self.rest.get(..space)?)?).ok()?;
        let (record, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = body.iter().position(|b| *b == b'=')?;
        let (key, value) = body.split_at_checked(equals)?;
        (!key.is_empty()).then_some((key, value.get(1..)?))
    }
}

/// Digits only, at least one, within 63 bits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let value = digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })?;
    (value <= i64::MAX.unsigned_abs()).then_some(value)
}

/// `[-]SECONDS[.FRACTION]` to whole seconds (rounded down) and nanoseconds (further digits are cut off).
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let mut parts = value.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0_u32;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for i in 0..9 {
            nanos = nanos * 10 + fraction.get(i).map_or(0, |digit| u32::from(digit - b'0'));
        }
    }
    match (negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Pax, TarError, time};

    #[test]
    fn times() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b"."), None);
    }

    #[test]
    fn records() {
        let mut pax = Pax::default();
        pax.apply(b"12 path=a=b\n7 uid=\n", 0).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a=b"[..]));
        assert!(matches!(pax.apply(b"13 path=a=b\n", 7), Err(TarError::PaxRecord { at: 7 })));
    }
}
