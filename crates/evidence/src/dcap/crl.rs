//! Certificate revocation lists as Intel issues them.

use std::ops::Deref;

use super::cert::{Certificate, is_ecdsa_sha256};
use crate::crl::{CrlError, List};

/// A revocation list.
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
        List::parse(der, is_ecdsa_sha256).map(Self)
    }

    /// Whether that authority issued and signed the list.
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        let list = &self.0;
        list.issuer == authority.subject && authority.signs_lists() && authority.signed(&list.tbs, &list.signature)
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::parse(data);
    }
}
