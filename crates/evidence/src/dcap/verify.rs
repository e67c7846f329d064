//! Is a quote authentic? Every check is made and listed, in a fixed order, also after one has failed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::anchors::Anchors;
use super::cert::Chain;
use super::collateral::{Collateral, Prepared};
use super::json::TcbInfo;
use super::pck::Pck;
use super::platform;
use super::quote::{Body, Quote};
use super::tcb::{Status, Tcb};
use crate::anchors::Root;
use crate::checks::Checks;
use crate::strictness::{Freshness, Options};
use crate::time::rfc3339;
use crate::verdict::Verdict;

/// Vendor id of Intel's quoting enclaves.
const INTEL_QE: &str = "939a7233f79c4ca9940a0db3957f0607";
/// Common name of a PCK's certificate.
const PCK: &str = "Intel SGX PCK Certificate";
/// Type of certification data that holds the PCK chain itself.
pub const PCK_CHAIN: u16 = 5;
/// Most chains that a verifier remembers.
const MAX_CHAINS: usize = 4096;

/// What a quote, its certificates and the collateral say; facts only when the verdict is `valid`.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// The quote and what its PCK certificate says; `None` when the quote cannot be read.
    pub fields: Option<Fields>,
    /// How Intel rates the platform; `None` without TCB info that is authentic and for this platform.
    pub tcb: Option<Tcb>,
    /// Whether the collateral is in date; `None` without any.
    pub freshness: Option<Freshness>,
    /// Whose root the PCK chain ends in; `None` when it ends in none that is trusted.
    pub root: Option<Root>,
    /// First second at which certificates and collateral are all valid, in seconds since 1970.
    pub valid_from: Option<u64>,
    /// Last second at which they all are.
    pub valid_to: Option<u64>,
}

/// Fields of a quote with those of its PCK certificate.
#[derive(Clone, Debug)]
pub struct Fields {
    /// The quote.
    pub quote: Quote,
    /// The PCK certificate's extension.
    pub pck: Option<Pck>,
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.quote.serialize_into(&mut map)?;
        if let Some(pck) = &self.pck {
            map.serialize_entry("pck", pck)?;
        }
        map.end()
    }
}

/// A PCK chain that was read and followed.
#[derive(Debug)]
pub(super) struct PckChain {
    pub(super) chain: Chain,
    pub(super) root: Result<Root, String>,
    pub(super) pck: Result<Pck, String>,
    key: Option<ParsedPublicKey>,
}

impl PckChain {
    fn read(pem: &[u8], anchors: &Anchors) -> Result<Self, String> {
        let mut chain = Chain::parse_under(pem, anchors).map_err(|error| error.to_string())?;
        let leaf = chain.leaf().ok_or("the chain is empty")?;
        let pck = Pck::of(leaf).map_err(|error| error.to_string());
        let key = leaf.fixed_key();
        let root = if leaf.subject_name() == PCK {
            chain.complete(anchors)
        } else {
            Err(format!("the leaf is for {}, not for {PCK}", leaf.subject_name()))
        };
        Ok(Self { chain, root, pck, key })
    }
}

/// Judges quotes under one set of collateral. What does not change from quote to quote is checked once: the signatures
/// of the collateral here, those of a PCK chain when it is first met.
#[derive(Debug)]
pub struct Verifier {
    anchors: Anchors,
    prepared: Prepared,
    /// TCB info was put in, see [`Self::suppose`].
    supposes: bool,
    /// By SHA-256 of the chain's bytes.
    chains: Mutex<HashMap<[u8; 32], Arc<PckChain>>>,
}

impl Verifier {
    /// Reads collateral and checks its signatures.
    pub fn new(collateral: &Collateral, anchors: Anchors) -> Self {
        Self { prepared: Prepared::new(collateral, &anchors), anchors, supposes: false, chains: Mutex::default() }
    }

    /// Judges as if Intel had published this TCB info, whose signature is not looked at. For questions of the kind "what
    /// if"; every verdict has the flag `supposed-tcb-info`, which no policy names by default.
    #[must_use]
    pub fn suppose(mut self, info: TcbInfo) -> Self {
        self.prepared.suppose(info);
        self.supposes = true;
        self
    }

    /// Judges a quote at a time in seconds since 1970. `pck_chain` (PEM, leaf first) is for quotes that do not hold
    /// their chain (certification data of type 1 to 3); for others it is not read.
    ///
    /// The checks, in order:
    ///
    /// | name | holds when |
    /// |---|---|
    /// | `parse` | quote and certificates can be read |
    /// | `qe-vendor` | the quoting enclave is of Intel's kind |
    /// | `cert-type` | the certification data is of a type that leads to a PCK chain |
    /// | `ak-not-on-curve` | the attestation key is a point on P-256 |
    /// | `quote-signature` | the attestation key signed header and body |
    /// | `qe-report-signature` | the PCK signed the QE's report |
    /// | `ak-binding` | the QE's report data is SHA-256 of the attestation key and the QE's authentication data, then zeros |
    /// | `tee-type` | the header's TEE type is that of the body |
    /// | `pck-chain` | the PCK's certificate leads to an anchor |
    /// | `pck-time` | the certificates of that chain are valid at the time |
    /// | `pck-extension` | the certificate says of which platform it is |
    /// | `pck-crl-signature` | the authority that issued the PCK's certificate signed its revocation list |
    /// | `pck-crl-time` | that list is in date |
    /// | `pck-revoked` | it does not name the PCK's certificate |
    /// | `root-crl-signature` | the anchor that the PCK's certificate leads to signed its revocation list |
    /// | `root-crl-time` | that list is in date |
    /// | `ca-revoked` | it names none of the authorities and signers |
    /// | `tcb-info-signature` | Intel's TCB signer signed the exact bytes of the TCB info, under the same anchor |
    /// | `tcb-info-time` | it and its certificates are in date |
    /// | `tcb-info-id` | it is for this kind of TEE |
    /// | `tcb-info-fmspc` | it is for the platform of the PCK |
    /// | `tcb-info-pceid` | it is for the PCE of the PCK |
    /// | `tdx-module` | the TDX module is one that it lists: signer and attributes |
    /// | `qe-identity-signature` | Intel's TCB signer signed the exact bytes of the identity, under the same anchor |
    /// | `qe-identity-time` | it and its certificates are in date |
    /// | `qe-identity-id` | it is for the quoting enclave of this kind of TEE |
    /// | `qe-identity-match` | signer, product, MISCSELECT and attributes of the quoting enclave are as it says |
    ///
    /// The TCB status, debug and trailing bytes are facts, not failures.
    pub fn verify(&self, quote: &[u8], pck_chain: Option<&[u8]>, at: u64, options: &Options) -> Verdict<Facts> {
        let mut checks = Checks::default();
        let parsed = Quote::parse(quote);
        let chain = self.pck_chain(parsed.as_ref().ok(), pck_chain);
        of_bytes(&mut checks, &parsed, &chain);
        let quote = parsed.ok();
        of_signatures(&mut checks, quote.as_ref(), chain.read());
        of_chain(&mut checks, chain.read(), at);
        let chain = chain.read().ok();
        let pck = chain.and_then(|chain| chain.pck.as_ref().ok());
        let found = platform::judge(&mut checks, &self.prepared, quote.as_ref(), chain, at, options);

        let root = chain.and_then(|chain| chain.root.as_ref().ok()).copied();
        let mut flags = flags(quote.as_ref(), root, found.tcb.as_ref());
        if self.supposes {
            flags.push("supposed-tcb-info".to_owned());
        }
        let fields = quote.map(|quote| Fields { quote, pck: pck.cloned() });
        let (valid_from, valid_to) = found.window.unzip();
        let facts = Facts { fields, tcb: found.tcb, freshness: found.freshness, root, valid_from, valid_to };
        checks.into_verdict(root.is_some_and(Root::is_software), flags, facts)
    }

    fn pck_chain(&self, quote: Option<&Quote>, beside: Option<&[u8]>) -> Given {
        let Some(quote) = quote else { return Given::Absent("the quote cannot be read") };
        let pem = match quote.certification.kind {
            PCK_CHAIN => &quote.certification.data,
            1..=3 => match beside {
                Some(pem) => pem,
                None => {
                    return Given::Absent("the quote does not hold the PCK's certificate: give it beside the quote");
                }
            },
            _ => return Given::Absent("the certification data is of another type"),
        };
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, pem).as_ref());
        let known = self.chains.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(chain) = known {
            return Given::Read(chain);
        }
        match PckChain::read(pem, &self.anchors) {
            Ok(chain) => {
                let chain = Arc::new(chain);
                let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
                // Only chains that lead to an anchor are kept: nobody else can fill the memory.
                if chain.root.is_ok() {
                    if chains.len() >= MAX_CHAINS {
                        chains.clear();
                    }
                    chains.insert(key, Arc::clone(&chain));
                }
                Given::Read(chain)
            }
            Err(why) => Given::Malformed(why),
        }
    }
}

/// Judges one quote with its collateral: [`Verifier::verify`] without a memory.
pub fn verify(
    quote: &[u8],
    pck_chain: Option<&[u8]>,
    collateral: &Collateral,
    anchors: &Anchors,
    at: u64,
    options: &Options,
) -> Verdict<Facts> {
    Verifier::new(collateral, anchors.clone()).verify(quote, pck_chain, at, options)
}

/// The PCK chain of a quote.
enum Given {
    Absent(&'static str),
    Malformed(String),
    Read(Arc<PckChain>),
}

impl Given {
    /// The chain, or why there is none.
    fn read(&self) -> Result<&PckChain, &'static str> {
        match self {
            Self::Read(chain) => Ok(chain),
            Self::Absent(why) => Err(why),
            Self::Malformed(_) => Err("the PCK's certificate cannot be read"),
        }
    }
}

fn of_bytes(checks: &mut Checks, quote: &Result<Quote, super::QuoteError>, chain: &Given) {
    const READABLE: &str = "a quote of version 3, 4 or 5 with readable certificates";
    match (quote, chain) {
        (Err(error), _) => checks.compare("parse", READABLE, error, false),
        (Ok(_), Given::Malformed(why)) => checks.compare("parse", READABLE, why, false),
        (Ok(quote), _) => checks.compare("parse", READABLE, format!("version {}", quote.version), true),
    }
    let Ok(quote) = quote else {
        checks.cannot("qe-vendor", INTEL_QE, "the quote cannot be read");
        checks.cannot("cert-type", "1, 2, 3 or 5", "the quote cannot be read");
        return;
    };
    let vendor = hex::encode(quote.qe_vendor_id);
    checks.compare("qe-vendor", INTEL_QE, &vendor, vendor == INTEL_QE);
    let kind = quote.certification.kind;
    checks.compare("cert-type", "1, 2, 3 or 5", kind, matches!(kind, 1..=3 | PCK_CHAIN));
}

fn of_signatures(checks: &mut Checks, quote: Option<&Quote>, chain: Result<&PckChain, &str>) {
    const NO_QUOTE: &str = "the quote cannot be read";
    let on_curve = "an attestation key on P-256";
    let by_key = "a signature by the attestation key over header and body";
    let by_pck = "a signature by the PCK over the QE's report";
    let Some(quote) = quote else {
        checks.cannot("ak-not-on-curve", on_curve, NO_QUOTE);
        checks.cannot("quote-signature", by_key, NO_QUOTE);
        checks.cannot("qe-report-signature", by_pck, NO_QUOTE);
        checks.cannot("ak-binding", "SHA-256 of the attestation key and the QE's data", NO_QUOTE);
        checks.cannot("tee-type", "the body's TEE", NO_QUOTE);
        return;
    };
    let mut point = [4; 65];
    if let Some(numbers) = point.get_mut(1..) {
        numbers.copy_from_slice(&quote.attestation_key);
    }
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok();
    let found = if key.is_some() { "it is" } else { "no point of the curve" };
    checks.compare("ak-not-on-curve", on_curve, found, key.is_some());
    let verifies = |holds| if holds { "it verifies" } else { "it does not verify: another key, or changed bytes" };
    let signed = key.is_some_and(|key| key.verify_sig(quote.signed_bytes(), &quote.signature).is_ok());
    checks.compare("quote-signature", by_key, verifies(signed), signed);
    match chain.map(|chain| chain.key.as_ref()) {
        Ok(key) => {
            let holds = key.is_some_and(|key| key.verify_sig(quote.qe_signed_bytes(), &quote.qe_signature).is_ok());
            checks.compare("qe-report-signature", by_pck, verifies(holds), holds);
        }
        Err(why) => checks.cannot("qe-report-signature", by_pck, why),
    }
    let mut bound = aws_lc_rs::digest::Context::new(&SHA256);
    bound.update(&quote.attestation_key);
    bound.update(&quote.qe_auth);
    let mut expected = [0; 64];
    expected.iter_mut().zip(bound.finish().as_ref()).for_each(|(to, from)| *to = *from);
    let found = quote.qe.report_data;
    checks.compare("ak-binding", hex::encode(expected), hex::encode(found), expected == found);
    let agrees = quote.tee_type_agrees();
    let of_body = match quote.body {
        Body::Td(_) => "0x81, as the body is a TD's",
        Body::Enclave(_) => "0x0, as the body is an enclave's",
    };
    checks.compare("tee-type", of_body, format!("{:#x}", quote.tee_type), agrees);
}

fn of_chain(checks: &mut Checks, chain: Result<&PckChain, &str>, at: u64) {
    let to_anchor = "a PCK certificate that leads to an anchor";
    let in_time = format!("certificates valid at {}", rfc3339(at));
    let chain = match chain {
        Ok(chain) => chain,
        Err(why) => {
            checks.cannot("pck-chain", to_anchor, why);
            checks.cannot("pck-time", in_time, why);
            return checks.cannot("pck-extension", "the SGX extension", why);
        }
    };
    match &chain.root {
        Ok(_) => checks.compare("pck-chain", to_anchor, "it does", true),
        Err(why) => checks.compare("pck-chain", to_anchor, why, false),
    }
    match chain.chain.outside(at) {
        None => checks.compare("pck-time", in_time, "they are", true),
        Some(one) => checks.compare("pck-time", in_time, one.window_in_words(), false),
    }
    match &chain.pck {
        Ok(pck) => {
            checks.compare("pck-extension", "the SGX extension", format!("FMSPC {}", hex::encode(pck.fmspc)), true)
        }
        Err(why) => checks.compare("pck-extension", "the SGX extension", why, false),
    }
}

fn flags(quote: Option<&Quote>, root: Option<Root>, tcb: Option<&Tcb>) -> Vec<String> {
    let mut flags: Vec<String> = root.and_then(Root::flag).map(str::to_owned).into_iter().collect();
    match quote.map(|quote| &quote.body) {
        Some(Body::Td(report)) => {
            let facts = [("td-debug", report.debug()), ("td-migratable", report.migratable())];
            flags.extend(facts.into_iter().filter(|(_, holds)| *holds).map(|(flag, _)| flag.to_owned()));
        }
        Some(Body::Enclave(report)) if report.debug() => flags.push("enclave-debug".to_owned()),
        _ => {}
    }
    if tcb.is_some_and(|tcb| tcb.platform == Status::NotSupported) {
        flags.push("tcb-not-supported".to_owned());
    }
    flags
}
