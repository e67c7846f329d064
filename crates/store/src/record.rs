//! What a store holds: records under a tenant, a kind and a key.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::audit::{Event, EventError};

/// Longest name of a tenant, in bytes.
pub const MAX_TENANT: usize = 64;
/// Longest key of a record, in bytes.
pub const MAX_KEY: usize = 1024;
/// Longest value of a record, in bytes.
pub const MAX_VALUE: usize = 4 << 20;
/// Most operations, preconditions and audit entries of a batch, together.
pub const MAX_BATCH: usize = 256;
/// Most bytes of all values of a batch.
pub const MAX_BATCH_BYTES: usize = 16 << 20;
/// Most records of one page of a listing.
pub const MAX_PAGE: usize = 1000;

/// A point in time: milliseconds since 1970 UTC. The caller says what time it is; a store reads no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// Last point that can be stored: the year 292278994.
    pub const MAX: Self = Self(i64::MAX.unsigned_abs());

    /// From milliseconds since 1970; later than [`Time::MAX`] is [`Time::MAX`].
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 { Self::MAX } else { Self(millis) }
    }

    /// From seconds since 1970; later than [`Time::MAX`] is [`Time::MAX`].
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds since 1970.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970.
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }
}

/// Why a name or a value cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A tenant's name has the wrong form.
    #[error("{0:?} is not a tenant: 1 to {MAX_TENANT} of a-z, 0-9, '-', '_' and '.', starting with a letter or digit")]
    Tenant(String),
    /// A key is empty, or holds a NUL.
    #[error("the key of a record is empty or holds a NUL")]
    Key,
    /// A key is too long.
    #[error("the key of a record has {0} bytes; {MAX_KEY} is the most")]
    KeyLength(usize),
    /// Not a kind.
    #[error("{0:?} is not a kind of record")]
    Kind(String),
}

/// Whose a record is. Nothing of one tenant can be reached through another's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(Box<str>);

impl Tenant {
    /// A tenant of this name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest =
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
        if first && rest && name.len() <= MAX_TENANT {
            Ok(Self(name.into()))
        } else {
            Err(NameError::Tenant(name.chars().take(MAX_TENANT + 1).collect()))
        }
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tenant {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Kind {
    /// A tenant and its settings.
    Tenant = 1,
    /// A resource: what is released to workloads.
    Resource = 2,
    /// A policy of attestation or of resources.
    Policy = 3,
    /// A reference value.
    Reference = 4,
    /// What is known about a workload.
    Workload = 5,
    /// A session of a handshake.
    Session = 6,
    /// A measurement, chip, workload or signer that is withdrawn.
    Revocation = 7,
    /// A key of the broker's: of tokens, of TLS, of checkpoints.
    Key = 8,
    /// Who may administer, and how they prove it.
    Admin = 9,
    /// Why something was refused.
    Explanation = 10,
    /// A setting of the broker.
    Setting = 11,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Tenant,
        Self::Resource,
        Self::Policy,
        Self::Reference,
        Self::Workload,
        Self::Session,
        Self::Revocation,
        Self::Key,
        Self::Admin,
        Self::Explanation,
        Self::Setting,
    ];

    /// As it is stored.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Tenant => 1,
            Self::Resource => 2,
            Self::Policy => 3,
            Self::Reference => 4,
            Self::Workload => 5,
            Self::Session => 6,
            Self::Revocation => 7,
            Self::Key => 8,
            Self::Admin => 9,
            Self::Explanation => 10,
            Self::Setting => 11,
        }
    }

    /// From what is stored.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Its name, for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Resource => "resource",
            Self::Policy => "policy",
            Self::Reference => "reference",
            Self::Workload => "workload",
            Self::Session => "session",
            Self::Revocation => "revocation",
            Self::Key => "key",
            Self::Admin => "admin",
            Self::Explanation => "explanation",
            Self::Setting => "setting",
        }
    }

    /// Whether changes are announced to watchers. Sessions and explanations are not: there is one with each handshake,
    /// nobody keeps copies of them, and PostgreSQL commits transactions that announce something one after the other.
    pub const fn announced(self) -> bool {
        !matches!(self, Self::Session | Self::Explanation)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| NameError::Kind(name.chars().take(MAX_TENANT).collect()))
    }
}

/// Names a record. The order is that of listings: by tenant, kind, and the bytes of the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    tenant: Tenant,
    kind: Kind,
    key: Box<str>,
}

impl Id {
    /// The record with this key. Keys are stored in the clear: a secret that names something is hashed first.
    pub fn new(tenant: &Tenant, kind: Kind, key: &str) -> Result<Self, NameError> {
        if key.is_empty() || key.contains('\0') {
            return Err(NameError::Key);
        }
        if key.len() > MAX_KEY {
            return Err(NameError::KeyLength(key.len()));
        }
        Ok(Self { tenant: tenant.clone(), kind, key: key.into() })
    }

    /// Whose it is.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// What it is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} of {}", self.kind, self.key, self.tenant)
    }
}

/// A record without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: Id,
    /// The change that wrote it. A later change of the same record has a greater one, also after it was deleted.
    pub revision: u64,
    /// When it ceases to be.
    pub expires: Option<Time>,
}

/// A record.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name, revision and end.
    pub entry: Entry,
    /// Its value.
    pub value: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Record {
    /// Without the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("entry", &self.entry).field("bytes", &self.value.len()).finish_non_exhaustive()
    }
}

/// Which records a listing shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Whose.
    pub tenant: Tenant,
    /// Of which kind.
    pub kind: Kind,
    /// Beginning of their keys; empty for all.
    pub prefix: String,
    /// Only keys behind this one: the last of the page before.
    pub after: Option<String>,
    /// Most records, [`MAX_PAGE`] at most.
    pub limit: usize,
}

impl Query {
    /// All records of a kind, from the first, a page at a time.
    pub fn new(tenant: &Tenant, kind: Kind) -> Self {
        Self { tenant: tenant.clone(), kind, prefix: String::new(), after: None, limit: MAX_PAGE }
    }

    /// Only those whose key starts with `prefix`.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Only those behind `key`.
    #[must_use]
    pub fn after(mut self, key: &str) -> Self {
        self.after = Some(key.to_owned());
        self
    }

    /// At most `limit`.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The limit that counts.
    pub(crate) fn page(&self) -> usize {
        self.limit.min(MAX_PAGE)
    }
}

/// What has to hold for a batch to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// There is no such record, or it has expired.
    Absent,
    /// The record is there, in any revision.
    Present,
    /// The record is there in exactly this revision.
    Revision(u64),
}

impl Expected {
    /// Whether it holds of a record that was found in this revision.
    pub(crate) fn holds(self, found: Option<u64>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Revision(revision) => found == Some(revision),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Present => f.write_str("present"),
            Self::Revision(revision) => write!(f, "revision {revision}"),
        }
    }
}

/// Why a batch cannot be applied to any store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Too many operations, preconditions and audit entries.
    #[error("the batch has {0} operations, preconditions and audit entries; {MAX_BATCH} is the most: divide it")]
    Operations(usize),
    /// Too many bytes.
    #[error("the values of the batch have {0} bytes; {MAX_BATCH_BYTES} is the most: divide it")]
    Bytes(usize),
    /// A value is too long.
    #[error("the value of {id} has {bytes} bytes; {MAX_VALUE} is the most")]
    Value {
        /// Whose value.
        id: Id,
        /// Its length.
        bytes: usize,
    },
    /// Something cannot be an audit entry.
    #[error(transparent)]
    Audit(#[from] EventError),
    /// A record is written or expected twice.
    #[error("{0} is named twice in one batch")]
    Twice(Id),
}

/// One change of a batch.
#[derive(Clone)]
pub(crate) enum Op {
    Put { id: Id, value: Zeroizing<Vec<u8>>, expires: Option<Time> },
    Delete { id: Id },
}

impl Op {
    pub(crate) fn id(&self) -> &Id {
        match self {
            Self::Put { id, .. } | Self::Delete { id } => id,
        }
    }
}

/// Changes that are made together or not at all.
#[derive(Clone, Default)]
pub struct Batch {
    pub(crate) expected: Vec<(Id, Expected)>,
    pub(crate) ops: Vec<Op>,
    pub(crate) audit: Vec<(Tenant, Event)>,
}

impl fmt::Debug for Batch {
    /// Without the values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&Id> = self.ops.iter().map(Op::id).collect();
        f.debug_struct("Batch").field("expected", &self.expected).field("changes", &ids).finish()
    }
}

impl Batch {
    /// Without any change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a record, whether or not it is there.
    #[must_use]
    pub fn put(mut self, id: Id, value: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op::Put { id, value: Zeroizing::new(value.into()), expires: None });
        self
    }

    /// Writes a record that ceases to be at `expires`.
    #[must_use]
    pub fn put_until(mut self, id: Id, value: impl Into<Vec<u8>>, expires: Time) -> Self {
        self.ops.push(Op::Put { id, value: Zeroizing::new(value.into()), expires: Some(expires) });
        self
    }

    /// Deletes a record, whether or not it is there.
    #[must_use]
    pub fn delete(mut self, id: Id) -> Self {
        self.ops.push(Op::Delete { id });
        self
    }

    /// Only if this holds of a record, which the batch may change or not.
    #[must_use]
    pub fn require(mut self, id: Id, expected: Expected) -> Self {
        self.expected.push((id, expected));
        self
    }

    /// Appends to a tenant's audit log, together with the changes or not at all.
    #[must_use]
    pub fn audit(mut self, tenant: &Tenant, event: Event) -> Self {
        self.audit.push((tenant.clone(), event));
        self
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.audit.is_empty()
    }

    /// Whether it keeps to the bounds.
    pub fn check(&self) -> Result<(), BatchError> {
        let count = self.ops.len().saturating_add(self.expected.len()).saturating_add(self.audit.len());
        if count > MAX_BATCH {
            return Err(BatchError::Operations(count));
        }
        let mut bytes = 0_usize;
        let mut named = HashSet::new();
        for op in &self.ops {
            if !named.insert(op.id()) {
                return Err(BatchError::Twice(op.id().clone()));
            }
            if let Op::Put { id, value, .. } = op {
                if value.len() > MAX_VALUE {
                    return Err(BatchError::Value { id: id.clone(), bytes: value.len() });
                }
                bytes = bytes.saturating_add(value.len());
            }
        }
        if bytes > MAX_BATCH_BYTES {
            return Err(BatchError::Bytes(bytes));
        }
        let mut named = HashSet::new();
        match self.expected.iter().find(|(id, _)| !named.insert(id)) {
            Some((id, _)) => Err(BatchError::Twice(id.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_form() {
        for good in ["a", "0", "acme", "acme-2.eu_west", &"a".repeat(MAX_TENANT)] {
            assert_eq!(Tenant::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "A", "ä", "a/b", "a\0", "a b", &"a".repeat(MAX_TENANT + 1)] {
            assert_eq!(Tenant::new(bad), Err(NameError::Tenant(bad.to_owned())), "{bad:?}");
        }
        let tenant = Tenant::new("acme").unwrap();
        assert_eq!(Id::new(&tenant, Kind::Key, &"k".repeat(MAX_KEY)).unwrap().key().len(), MAX_KEY);
        assert_eq!(Id::new(&tenant, Kind::Key, &"k".repeat(MAX_KEY + 1)), Err(NameError::KeyLength(MAX_KEY + 1)));
        assert_eq!(Id::new(&tenant, Kind::Key, ""), Err(NameError::Key));
        assert_eq!(Id::new(&tenant, Kind::Key, "a\0b"), Err(NameError::Key));
        assert_eq!(Id::new(&tenant, Kind::Key, "repo/type/tag").unwrap().to_string(), "key \"repo/type/tag\" of acme");
    }

    #[test]
    fn kinds_are_their_codes_and_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
            assert_eq!(kind.code(), kind as u8);
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!(Kind::from_code(0), None);
        assert_eq!(Kind::from_code(12), None);
        assert_eq!("keys".parse::<Kind>(), Err(NameError::Kind("keys".into())));
    }

    #[test]
    fn batches_keep_to_the_bounds() {
        let tenant = Tenant::new("acme").unwrap();
        let id = |n: usize| Id::new(&tenant, Kind::Resource, &format!("k{n}")).unwrap();
        let full = (0..MAX_BATCH).fold(Batch::new(), |batch, n| batch.put(id(n), []));
        assert_eq!(full.check(), Ok(()));
        assert_eq!(full.require(id(0), Expected::Absent).check(), Err(BatchError::Operations(MAX_BATCH + 1)));

        assert_eq!(Batch::new().put(id(0), vec![0; MAX_VALUE]).check(), Ok(()));
        let long = Batch::new().put(id(0), vec![0; MAX_VALUE + 1]);
        assert_eq!(long.check(), Err(BatchError::Value { id: id(0), bytes: MAX_VALUE + 1 }));

        let many = (0..4).fold(Batch::new(), |batch, n| batch.put(id(n), vec![0; MAX_VALUE]));
        assert_eq!(many.check(), Ok(()));
        assert_eq!(many.put(id(4), [0]).check(), Err(BatchError::Bytes(MAX_BATCH_BYTES + 1)));

        assert_eq!(Batch::new().put(id(1), []).require(id(1), Expected::Absent).check(), Ok(()));
        assert_eq!(Batch::new().put(id(1), []).delete(id(1)).check(), Err(BatchError::Twice(id(1))));
        let twice = Batch::new().require(id(1), Expected::Absent).require(id(1), Expected::Present);
        assert_eq!(twice.check(), Err(BatchError::Twice(id(1))));
    }
}
