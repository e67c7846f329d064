//! Is a TPM's quote authentic? Every check is made and listed, in a fixed order, also after one has failed.

use serde::Serialize;

use super::attest::Quote;
use super::certificate::{self, Purpose};
use super::key::PublicKey;
use super::pcrs::Pcrs;
use super::signature::{Signature, SignatureError};
use crate::checks::Checks;
use crate::strictness::Missing;
use crate::verdict::{Outcome, Verdict};

/// Why the attestation key is one of a TPM that the caller trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AkTrust {
    /// Nothing is known about the key: anybody may have made it.
    Unknown,
    /// The key is one of these, by [`PublicKey::fingerprint`]: also a key for which a TPM has activated a
    /// [`credential`](super::credential).
    List(Vec<[u8; 32]>),
    /// The key has a certificate: a chain in DER, the leaf first, for an attestation key (see [`certificate::verify`]).
    Certificate {
        /// The chain.
        chain: Vec<Vec<u8>>,
        /// Certificates that are trusted, in DER.
        anchors: Vec<Vec<u8>>,
        /// When to judge, in seconds since 1970.
        at: u64,
    },
}

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Why the key is trusted.
    pub ak_trust: AkTrust,
    /// What to do when it is not known, or when no register values were given.
    pub missing: Missing,
    /// Registers that the quote must be about, besides those that have a value.
    pub required: Vec<u8>,
    /// Qualifying data that must be in the quote.
    pub nonce: Option<Vec<u8>>,
}

/// What a quote says; facts only when the verdict is `valid`.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// The quote; `None` when it cannot be read.
    pub fields: Option<Quote>,
    /// The register values that the quote covers; `None` unless they do hash to its digest.
    pub registers: Option<Pcrs>,
    /// Fingerprint of the attestation key, lowercase hex.
    pub ak: Option<String>,
}

/// Judges a quote with its signature (TPMT_SIGNATURE or a bare RSA number, see [`Signature`]), the attestation key and
/// the values of the registers.
///
/// The checks, in order:
///
/// | name | holds when |
/// |---|---|
/// | `parse` | the message is a TPMS_ATTEST that a TPM made |
/// | `not-a-quote` | it is a quote and no other attestation |
/// | `trailing` | nothing follows it |
/// | `quote-signature` | the attestation key signed it |
/// | `pcr-selection` | it is about each register that has a value here or is required, in their bank and no other |
/// | `pcr-digest` | the values hash to its digest |
/// | `nonce` | its qualifying data is what the caller expects |
/// | `ak-trust` | the attestation key is one that the caller trusts |
pub fn verify(
    message: &[u8],
    signature: &Result<Signature, SignatureError>,
    key: &PublicKey,
    pcrs: Option<&Pcrs>,
    options: &Options,
) -> Verdict<Facts> {
    let mut checks = Checks::default();
    let (quote, registers) = checks_of_quote(&mut checks, &Names::TPM, message, signature, Some(key), pcrs, options);
    let fingerprint = key.fingerprint();
    let expected = "an attestation key that is trusted";
    let ak = hex::encode(fingerprint);
    match &options.ak_trust {
        AkTrust::List(list) => checks.compare("ak-trust", expected, &ak, list.contains(&fingerprint)),
        AkTrust::Certificate { chain, anchors, at } => {
            match certificate::verify(chain, anchors, Purpose::AttestationKey, *at) {
                Ok(certified) => {
                    let certified_ak = hex::encode(certified.fingerprint());
                    let found = format!("a certificate of the key {certified_ak} for the key {ak}");
                    checks.compare("ak-trust", expected, found, certified == *key);
                }
                Err(error) => checks.compare("ak-trust", expected, error, false),
            }
        }
        AkTrust::Unknown => {
            let why = format!("nothing says which TPM the key {ak} belongs to");
            match options.missing {
                Missing::Undecided => checks.cannot("ak-trust", expected, why),
                Missing::Allowed => checks.add("ak-trust", Outcome::NotChecked, expected, why),
            }
        }
    }
    checks.into_verdict(false, Vec::new(), Facts { fields: quote, registers, ak: Some(ak) })
}

/// Names of the checks of a quote: alone, or inside of other evidence.
#[derive(Debug)]
pub(crate) struct Names {
    parse: &'static str,
    not_a_quote: &'static str,
    trailing: &'static str,
    signature: &'static str,
    selection: &'static str,
    digest: &'static str,
    nonce: &'static str,
}

impl Names {
    pub(crate) const TPM: Self = Self {
        parse: "parse",
        not_a_quote: "not-a-quote",
        trailing: "trailing",
        signature: "quote-signature",
        selection: "pcr-selection",
        digest: "pcr-digest",
        nonce: "nonce",
    };
    pub(crate) const VTPM: Self = Self {
        parse: "tpm:parse",
        not_a_quote: "tpm:not-a-quote",
        trailing: "tpm:trailing",
        signature: "tpm:quote-signature",
        selection: "tpm:pcr-selection",
        digest: "tpm:pcr-digest",
        nonce: "nonce",
    };
}

/// The checks up to the nonce; the quote, and the register values when it covers them.
pub(crate) fn checks_of_quote(
    checks: &mut Checks,
    names: &Names,
    message: &[u8],
    signature: &Result<Signature, SignatureError>,
    key: Option<&PublicKey>,
    pcrs: Option<&Pcrs>,
    options: &Options,
) -> (Option<Quote>, Option<Pcrs>) {
    let quote = match Quote::parse(message) {
        Ok(quote) => quote,
        Err(error) => {
            checks.compare(names.parse, "an attestation of a TPM", error, false);
            let rest = [names.not_a_quote, names.trailing, names.signature, names.selection, names.digest, names.nonce];
            for name in rest {
                checks.cannot(name, "a quote", "it cannot be read");
            }
            return (None, None);
        }
    };
    checks.compare(names.parse, "an attestation of a TPM", "one", true);
    checks.compare(names.not_a_quote, "type 0x8018, a quote", format!("{:#06x}", quote.kind), quote.is_quote());
    checks.compare(names.trailing, "no byte behind the quote", quote.trailing, quote.trailing == 0);
    of_signature(checks, names.signature, &quote, signature, key);
    let registers = of_registers(checks, names, &quote, pcrs, signature, options);
    match &options.nonce {
        Some(nonce) => {
            checks.compare(names.nonce, hex::encode(nonce), hex::encode(&quote.extra_data), *nonce == quote.extra_data);
        }
        None => checks.add(names.nonce, Outcome::NotChecked, "a nonce of the caller's", "none was asked for"),
    }
    (Some(quote), registers)
}

fn of_signature(
    checks: &mut Checks,
    name: &'static str,
    quote: &Quote,
    signature: &Result<Signature, SignatureError>,
    key: Option<&PublicKey>,
) {
    let expected = "a signature by the attestation key";
    match (signature, key) {
        (Err(error), _) => checks.compare(name, expected, error, false),
        (Ok(_), None) => checks.cannot(name, expected, "the attestation key cannot be read"),
        (Ok(signature), Some(key)) => {
            let holds = key.signed(quote.as_bytes(), signature);
            let found = if holds { "it verifies" } else { "it does not verify: another key, or changed bytes" };
            checks.compare(name, expected, found, holds);
        }
    }
}

fn of_registers(
    checks: &mut Checks,
    names: &Names,
    quote: &Quote,
    pcrs: Option<&Pcrs>,
    signature: &Result<Signature, SignatureError>,
    options: &Options,
) -> Option<Pcrs> {
    let Some(pcrs) = pcrs else {
        for name in [names.selection, names.digest] {
            match options.missing {
                Missing::Undecided => checks.cannot(name, "values of the registers", "none were given"),
                Missing::Allowed => checks.add(name, Outcome::NotChecked, "values of the registers", "none were given"),
            }
        }
        return None;
    };
    // TPM 2.0 part 2, TPMS_QUOTE_INFO: the digest is made with the hash of the signature, whatever the bank's is.
    let hash = signature.as_ref().map_or(pcrs.hash, |signature| signature.hash);
    let mut wanted: Vec<u8> = pcrs.registers().chain(options.required.iter().copied()).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let expected = format!("bank {} with the registers {wanted:?}", pcrs.hash.name());
    let selected = match quote.selection.as_slice() {
        [only] if only.algorithm == pcrs.hash.number() => {
            let covered = wanted.iter().all(|register| only.registers.contains(register));
            checks.compare(names.selection, expected, format!("the registers {:?}", only.registers), covered);
            Some(&only.registers)
        }
        other => {
            let banks: Vec<String> =
                other.iter().map(|bank| format!("{:#06x} {:?}", bank.algorithm, bank.registers)).collect();
            checks.compare(names.selection, expected, format!("the banks {}", banks.join(", ")), false);
            None
        }
    };
    let values = selected.and_then(|registers| registers.iter().map(|&register| pcrs.get(register)).collect());
    let found = hex::encode(&quote.pcr_digest);
    let Some(values): Option<Vec<&[u8]>> = values else {
        checks.compare(names.digest, "a value for each register that is quoted", "some have none", false);
        return None;
    };
    let digest = hex::encode(hash.digest(&values));
    checks.compare(names.digest, &digest, &found, digest == found);
    (digest == found).then(|| pcrs.clone())
}
