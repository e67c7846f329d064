//! How single values are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::{Change, Kind};
use crate::canonical;
use crate::model::{HostType, Permission};

/// Differences that were found.
#[derive(Default)]
pub(super) struct Out(pub Vec<Change>);

impl Out {
    pub fn push(&mut self, kind: Kind, key: impl Display, words: impl Into<String>) {
        self.0.push(Change { kind, key: key.to_string(), words: words.into() });
    }

    pub fn widened(&mut self, key: impl Display, words: impl Into<String>) {
        self.push(Kind::Widened, key, words);
    }

    pub fn narrowed(&mut self, key: impl Display, words: impl Into<String>) {
        self.push(Kind::Narrowed, key, words);
    }

    pub fn changed(&mut self, key: impl Display, words: impl Into<String>) {
        self.push(Kind::Changed, key, words);
    }
}

/// The full path of a key below another.
pub(super) fn below(key: &str, name: &str) -> String {
    format!("{key}.{}", canonical::key(name))
}

/// A switch; `true` allows more. The words say what holds when it is on, and when it is off.
pub(super) fn flag(out: &mut Out, key: &str, old: bool, new: bool, [on, off]: [&str; 2]) {
    match (old, new) {
        (false, true) => out.widened(key, on),
        (true, false) => out.narrowed(key, off),
        _ => {}
    }
}

/// As [`flag`], for a permission.
pub(super) fn permission(out: &mut Out, key: &str, old: Permission, new: Permission, words: [&str; 2]) {
    flag(out, key, old.allowed(), new.allowed(), words);
}

/// A value where a greater one allows more; `what` says what the value is.
pub(super) fn wider<T: PartialOrd>(out: &mut Out, key: &str, old: &T, new: &T, words: impl Fn(&T, &T) -> String) {
    if new > old {
        out.widened(key, words(old, new));
    } else if new < old {
        out.narrowed(key, words(old, new));
    }
}

/// A value where another one is merely another one.
pub(super) fn other<T: PartialEq>(out: &mut Out, key: &str, old: &T, new: &T, words: impl Fn(&T, &T) -> String) {
    if old != new {
        out.changed(key, words(old, new));
    }
}

/// A list in which each entry allows something. The order alone is a change.
pub(super) fn list<T: Ord>(out: &mut Out, key: &str, old: &[T], new: &[T], words: impl Fn(&T, bool) -> String) {
    let (before, after): (BTreeSet<&T>, BTreeSet<&T>) = (old.iter().collect(), new.iter().collect());
    for entry in after.difference(&before) {
        out.widened(key, words(entry, true));
    }
    for entry in before.difference(&after) {
        out.narrowed(key, words(entry, false));
    }
    if before == after && old != new {
        out.changed(key, "the same entries stand in another order, or another number of times");
    }
}

/// Entries by name, compared one by one; `each` gets `None` where there is none.
pub(super) fn map<T: PartialEq>(
    out: &mut Out,
    key: &str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    each: impl Fn(&mut Out, &str, &str, Option<&T>, Option<&T>),
) {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (old, new) = (old.get(name), new.get(name));
        if old != new {
            each(out, &below(key, name), name, old, new);
        }
    }
}

/// Which way a type of the host's values goes: whether one takes all that the other takes.
pub(super) fn kind_of_types(old: &HostType, new: &HostType) -> Kind {
    match (takes_all_of(new, old), takes_all_of(old, new)) {
        (true, false) => Kind::Widened,
        (false, true) => Kind::Narrowed,
        _ => Kind::Changed,
    }
}

fn takes_all_of(wide: &HostType, narrow: &HostType) -> bool {
    use HostType::{Any, DnsLabel, DnsName, Integer, Ip, IpList, Port, Protocol, Uuid};
    matches!(
        (wide, narrow),
        (Any, _)
            | (IpList, Ip)
            | (DnsName, DnsLabel | Uuid | Protocol | Port)
            | (DnsLabel, Uuid | Protocol | Port)
            | (Integer, Port)
    )
}
