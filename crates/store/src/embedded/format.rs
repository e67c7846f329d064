//! How records lie in the file.

use crate::record::{Entry, Id, Kind, MAX_KEY, MAX_TENANT, Query, Tenant, Time};
use crate::seal::Sealed;

/// Stands for a record without end.
const NEVER: u64 = u64::MAX;

/// The key of a record: tenant, NUL, kind, key. Its order is that of [`Id`].
pub(crate) fn key(id: &Id) -> Vec<u8> {
    [start(id.tenant(), id.kind()).as_slice(), id.key().as_bytes()].concat()
}

/// How the keys of a kind begin.
fn start(tenant: &Tenant, kind: Kind) -> Vec<u8> {
    [tenant.as_str().as_bytes(), &[0, kind.code()]].concat()
}

/// How the keys begin that a query wants, and the key that they come behind.
pub(crate) fn range(query: &Query) -> (Vec<u8>, Option<Vec<u8>>) {
    let start = start(&query.tenant, query.kind);
    let with = |text: &str| [start.as_slice(), text.as_bytes()].concat();
    (with(&query.prefix), query.after.as_deref().map(with))
}

/// The record with a key, all of which has to be one.
pub(crate) fn id(bytes: &[u8]) -> Option<Id> {
    let end = bytes.iter().take(MAX_TENANT.saturating_add(1)).position(|byte| *byte == 0)?;
    let (tenant, rest) = bytes.split_at_checked(end)?;
    let (kind, key) = rest.get(1..)?.split_first()?;
    if key.len() > MAX_KEY {
        return None;
    }
    let tenant = Tenant::new(std::str::from_utf8(tenant).ok()?).ok()?;
    Id::new(&tenant, Kind::from_code(*kind)?, std::str::from_utf8(key).ok()?).ok()
}

/// The value of a record: revision, end, sealed value.
pub(crate) fn value(revision: u64, expires: Option<Time>, sealed: &[u8]) -> Vec<u8> {
    let expires = expires.map_or(NEVER, Time::millis);
    [revision.to_be_bytes().as_slice(), &expires.to_be_bytes(), sealed].concat()
}

/// Revision and end of a stored value, and the sealed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) revision: u64,
    pub(crate) expires: Option<Time>,
    pub(crate) sealed: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Takes a stored value apart.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (revision, rest) = bytes.split_first_chunk()?;
        let (expires, sealed) = rest.split_first_chunk()?;
        let expires = match u64::from_be_bytes(*expires) {
            NEVER => None,
            millis if millis > Time::MAX.millis() => return None,
            millis => Some(Time::from_millis(millis)),
        };
        Some(Self { revision: u64::from_be_bytes(*revision), expires, sealed })
    }

    /// The id of the data key of the sealed value.
    pub(crate) fn data_key(&self) -> Option<u64> {
        Sealed::parse(self.sealed).ok().map(|sealed| sealed.data_key)
    }

    /// Whether the record has ceased to be.
    pub(crate) fn gone(&self, now: Time) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    /// As an entry of this name.
    pub(crate) fn entry(&self, id: Id) -> Entry {
        Entry { id, revision: self.revision, expires: self.expires }
    }
}

/// The key in the index of ends: end, key of the record.
pub(crate) fn end(expires: Time, key: &[u8]) -> Vec<u8> {
    [expires.millis().to_be_bytes().as_slice(), key].concat()
}

/// The key of a numbered item of a tenant: tenant, NUL, number.
pub(crate) fn numbered(tenant: &Tenant, number: u64) -> Vec<u8> {
    [tenant.as_str().as_bytes(), &[0], &number.to_be_bytes()].concat()
}

/// For the fuzzer: keys and values of any bytes.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    if let Some(id) = id(data) {
        assert_eq!(key(&id), data);
    }
    if let Some(parts) = Parts::parse(data) {
        assert_eq!(value(parts.revision, parts.expires, parts.sealed), data);
        let _ = parts.data_key();
    }
    if let Some(row) = crate::seal::DataKeyRow::decode(data) {
        assert_eq!(row.encode(), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_names() {
        let tenants = ["a", "a-", "a.b", "a0", "ab", "b"];
        let keys = ["!", "a", "a/b", "a/c", "ab", "\u{10ffff}", "é"];
        let mut ids = Vec::new();
        for tenant in tenants {
            for kind in Kind::ALL {
                for key in keys {
                    ids.push(Id::new(&Tenant::new(tenant).unwrap(), kind, key).unwrap());
                }
            }
        }
        ids.sort();
        let stored: Vec<Vec<u8>> = ids.iter().map(key).collect();
        assert!(stored.is_sorted());
        for (bytes, name) in stored.iter().zip(&ids) {
            assert_eq!(id(bytes).as_ref(), Some(name));
        }
        for bad in
            [&b""[..], b"\0\x01k", b"a", b"a\0", b"a\0\x01", b"a\0\x0ck", b"A\0\x01k", b"a\0\x01k\0", b"a\0\x01\xff"]
        {
            assert_eq!(id(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn values_are_read_as_a_whole() {
        for expires in [None, Some(Time::from_millis(0)), Some(Time::MAX)] {
            let bytes = value(3, expires, b"x");
            assert_eq!(Parts::parse(&bytes), Some(Parts { revision: 3, expires, sealed: b"x" }));
            for n in 0..16 {
                assert_eq!(Parts::parse(&bytes[..n]), None);
            }
        }
        let mut late = value(3, Some(Time::MAX), b"");
        late[8] = 0x80;
        assert_eq!(Parts::parse(&late), None);
    }
}
