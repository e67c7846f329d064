//! Users and groups by name.
//!
//! An image may say `USER app`, and only its own `/etc/passwd` knows what that means. The host's word is worth nothing here,
//! so the contract keeps the text and the guest resolves it from the root file system whose layers it has verified.
//! The rules are those of `docker run`: `USER[:GROUP]`, each a name or a number; a number without an entry stands for
//! itself; without a group it is the entry's own, else 0; supplementary groups are those that list the user's name,
//! unless a group was given.

use std::collections::BTreeSet;

use crate::check::malformed;
use crate::error::{ContractError, cut};
use crate::model::{MAX_ID, User};

/// Most supplementary groups (`NGROUPS_MAX` of Linux is 65536; no image needs that many).
const MAX_GROUPS: usize = 1024;

/// A user as the kernel wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, ascending.
    pub additional_gids: Vec<u32>,
    /// Home directory of the user's entry, or `/`.
    pub home: String,
}

impl User {
    /// Reads the text of an image's `User` or of `--user`. Two numbers (or nothing) are numeric; everything else keeps its name.
    ///
    /// # Errors
    /// [`ContractError::Malformed`] when it is not `USER[:GROUP]`, or an id is out of bounds.
    pub fn from_text(key: &str, text: &str) -> Result<Self, ContractError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        check_name(key, text)?;
        if let Some((user, group)) = text.split_once(':')
            && let (Some(uid), Some(gid)) = (number(user), number(group))
        {
            return Ok(Self { uid, gid, ..Self::default() });
        }
        Ok(Self { name: Some(text.to_owned()), ..Self::default() })
    }

    /// Resolves against the text of the image's `/etc/passwd` and `/etc/group` (empty when the image has none).
    ///
    /// # Errors
    /// [`ContractError::UnknownUser`] for a name that is not there, [`ContractError::OutOfBounds`] for too many groups.
    pub fn resolve(&self, passwd: &str, group: &str) -> Result<ResolvedUser, ContractError> {
        let (user, wanted_group) = match &self.name {
            None => (self.uid.to_string(), Some(self.gid.to_string())),
            Some(name) => match name.split_once(':') {
                Some((user, group)) => (user.to_owned(), Some(group.to_owned())),
                None => (name.clone(), None),
            },
        };
        let entry = passwd_entry(passwd, &user);
        let uid = match (&entry, number(&user)) {
            (Some(entry), _) => entry.uid,
            (None, Some(uid)) => uid,
            (None, None) => return unknown("user", &user, "/etc/passwd"),
        };
        let mut additional: BTreeSet<u32> = self.additional_gids.iter().copied().collect();
        let gid = match wanted_group {
            Some(wanted) => match (number(&wanted), group_entries(group).find(|entry| entry.name == wanted)) {
                (_, Some(entry)) => entry.gid,
                (Some(gid), None) => gid,
                (None, None) => return unknown("group", &wanted, "/etc/group"),
            },
            None => {
                if let Some(entry) = &entry {
                    let member = |found: &GroupEntry<'_>| found.members.split(',').any(|name| name == entry.name);
                    additional.extend(group_entries(group).filter(member).map(|found| found.gid));
                }
                entry.as_ref().map_or(0, |entry| entry.gid)
            }
        };
        additional.remove(&gid);
        if additional.len() > MAX_GROUPS {
            let found = i128::try_from(additional.len()).unwrap_or(i128::MAX);
            let maximum = i128::try_from(MAX_GROUPS).unwrap_or_default();
            return Err(ContractError::OutOfBounds { key: "user.additional_gids".into(), found, minimum: 0, maximum });
        }
        let home = entry.map(|entry| entry.home).filter(|home| home.starts_with('/')).unwrap_or("/").to_owned();
        Ok(ResolvedUser { uid, gid, additional_gids: additional.into_iter().collect(), home })
    }
}

/// `USER[:GROUP]`, each part 1 to 64 characters that a passwd file can hold.
pub(crate) fn check_name(key: &str, text: &str) -> Result<(), ContractError> {
    let part = |part: &str| {
        (1..=64).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'$'))
            && (!part.bytes().all(|b| b.is_ascii_digit()) || number(part).is_some())
    };
    let good = match text.split_once(':') {
        Some((user, group)) => part(user) && part(group),
        None => part(text),
    };
    if good { Ok(()) } else { malformed(key, "USER or USER:GROUP, each a name or a number up to 2147483647", text) }
}

fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The entry with this name, else the first with this number. A line that is no entry is skipped, as the C library does.
fn passwd_entry<'a>(passwd: &'a str, user: &str) -> Option<PasswdEntry<'a>> {
    let entries = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
            let (_gecos, home) = (fields.next()?, fields.next()?);
            Some(PasswdEntry { name, uid, gid, home })
        })
    };
    entries().find(|entry| entry.name == user).or_else(|| {
        let uid = number(user)?;
        entries().find(|entry| entry.uid == uid)
    })
}

fn group_entries(group: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = number(fields.next()?)?;
        Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default().trim_end() })
    })
}

fn unknown<T>(kind: &'static str, name: &str, file: &'static str) -> Result<T, ContractError> {
    Err(ContractError::UnknownUser { kind, name: cut(name), file })
}
