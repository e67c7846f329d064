//! Certificate revocation lists as AMD issues them: one for each product line, signed by its root (AMD 57230).

use std::ops::Deref;

use super::cert::{Certificate, is_pss_sha384};
use crate::checks::Checks;
use crate::crl::{CrlError, List};
use crate::strictness::{Freshness, Options};
use crate::time::rfc3339;

/// A revocation list of an ARK: it names authorities (ASK, ASVK) and endorsement keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl(List);

impl Deref for Crl {
    type Target = List;

    fn deref(&self) -> &List {
        &self.0
    }
}

impl Crl {
    /// Reads one DER-encoded list; nothing may follow it.
    ///
    /// # Errors
    /// Any [`CrlError`].
    pub fn parse(der: &[u8]) -> Result<Self, CrlError> {
        List::parse(der, |algorithm| is_pss_sha384(algorithm).unwrap_or(false)).map(Self)
    }

    /// Whether that authority issued and signed the list.
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        let list = &self.0;
        list.issuer == authority.subject && authority.signed_list(&list.tbs, &list.signature)
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::parse(data);
    }
}

/// The list beside a report, and whether the root signed it.
#[derive(Debug)]
pub(super) struct Listed {
    list: Result<Crl, CrlError>,
    is_signed: bool,
}

impl Listed {
    /// Reads a list; `root` is the chain's, where there is one.
    pub(super) fn read(der: &[u8], root: Option<&Certificate>) -> Self {
        let list = Crl::parse(der);
        let is_signed = list.as_ref().ok().zip(root).is_some_and(|(list, root)| list.is_signed_by(root));
        Self { list, is_signed }
    }

    pub(super) fn is_signed(&self) -> bool {
        self.is_signed
    }
}

const SIGNATURE: &str = "crl-signature";
const TIME: &str = "crl-time";
const REVOKED: &str = "crl-revoked";
const REVOKES: &str = "a revocation list without these certificates";

/// What a revocation list says besides the checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dates {
    /// When it is in date: first second and next update, since 1970.
    pub(super) window: (u64, u64),
    pub(super) freshness: Freshness,
}

impl Checks {
    /// The list is the root's, in date, and names none of the certificates (endorsement key, intermediate, root).
    pub(super) fn revocation(
        &mut self,
        listed: Option<&Listed>,
        certificates: [Option<&Certificate>; 3],
        at: u64,
        options: &Options,
    ) -> Option<Dates> {
        let signed = "a revocation list signed by the root";
        let in_date = format!("a revocation list issued before {0}, next update after it", rfc3339(at));
        let Some(listed) = listed else {
            for (name, expected) in [(SIGNATURE, signed), (TIME, &in_date), (REVOKED, REVOKES)] {
                self.absent(options.missing, name, expected, "the root's revocation list");
            }
            return None;
        };
        let list = match &listed.list {
            Ok(list) => list,
            Err(error) => {
                self.compare(SIGNATURE, signed, error, false);
                self.cannot(TIME, in_date, "the list cannot be read");
                self.cannot(REVOKED, REVOKES, "the list cannot be read");
                return None;
            }
        };
        let [_, _, root] = certificates;
        match root {
            Some(root) => {
                let found = if listed.is_signed {
                    root.subject_name().to_owned()
                } else {
                    format!("it is of another issuer than {}, or its signature does not verify", root.subject_name())
                };
                self.compare(SIGNATURE, signed, found, listed.is_signed);
            }
            None => self.cannot(SIGNATURE, signed, "the root is missing"),
        }
        let window = (list.this_update(), list.next_update());
        let (freshness, found) = options.in_date(window.0, window.1, at);
        let holds = found.is_ok();
        self.compare(TIME, in_date, found.unwrap_or_else(|why| why), holds);
        if listed.is_signed {
            let revoked = certificates.into_iter().flatten().find(|certificate| list.revokes(certificate));
            let found = match revoked {
                Some(certificate) => format!(
                    "it names {}, serial number {}",
                    certificate.subject_name(),
                    hex::encode(certificate.serial())
                ),
                None => format!("{} entries, none of them these", list.len()),
            };
            self.compare(REVOKED, REVOKES, found, revoked.is_none());
        } else {
            self.cannot(REVOKED, REVOKES, "the list is not known to be the root's");
        }
        Some(Dates { window, freshness })
    }
}
