//! Why the guest will not go on: one line for the host, and a kind that a program can tell apart.

use std::fmt;

use belljar_guest_api::{limits::one_line, names::refusal};

/// What kind of refusal it is; the words are those of [`belljar_guest_api::names::refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The initdata disk is missing or malformed, or differs from what the hardware measured.
    Initdata,
    /// The contract does not parse, or asks for what the guest cannot honour.
    Contract,
    /// No report could be had, or the broker did not accept the evidence.
    Attestation,
    /// The broker withheld a secret.
    Secret,
    /// A layer is missing, or was changed by the host.
    Layer,
    /// The broker could not be reached, or is not the one that the contract pins.
    Broker,
    /// The guest itself failed.
    Internal,
}

impl Kind {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Initdata => refusal::INITDATA,
            Self::Contract => refusal::CONTRACT,
            Self::Attestation => refusal::ATTESTATION,
            Self::Secret => refusal::SECRET,
            Self::Layer => refusal::LAYER,
            Self::Broker => refusal::BROKER,
            Self::Internal => refusal::INTERNAL,
        }
    }
}

/// A refusal. It may be read by the host, so it never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind it is.
    pub kind: Kind,
    /// One line, cause first, at most 1 KiB, without control characters.
    pub message: String,
}

impl Refusal {
    /// A refusal of `kind`; `message` is cut to one bounded line.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: one_line(&message.to_string()) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
