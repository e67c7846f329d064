//! Certificate revocation lists as Intel issues them.

use super::cert::{Certificate, is_ecdsa_sha256};
use crate::crl::{CrlError, List};

/// A revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl(List);

impl Crl {
    /// Reads one DER-encoded list; nothing may follow it.
    ///
    /// # Errors
    /// Any [`CrlError`].
    pub fn parse(der: &[u8]) -> Result<Self, CrlError> {
        List::parse(der, is_ecdsa_sha256).map(Self)
    }

    /// When it was issued, in seconds since 1970.
    pub fn this_update(&self) -> u64 {
        self.0.this_update
    }

    /// When the next one comes at the latest, in seconds since 1970.
    pub fn next_update(&self) -> u64 {
        self.0.next_update
    }

    /// How many certificates it names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether that authority issued and signed the list.
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        let list = &self.0;
        list.issuer == authority.subject() && authority.signs_lists() && authority.signed(&list.tbs, &list.signature)
    }

    /// Whether the list is of the authority that issued the certificate, and names it.
    pub fn revokes(&self, certificate: &Certificate) -> bool {
        self.0.names(certificate.issuer(), certificate.serial())
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::parse(data);
    }
}
