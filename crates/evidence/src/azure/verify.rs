//! Is evidence of a virtual TPM authentic? Every check is made and listed, in a fixed order, also after one has failed.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use super::hcl::{HclError, HclReport, TdReportStruct, TeeType};
use super::names;
use crate::checks::Checks;
use crate::tpm::{self, Names, Options, Pcrs, PublicKey, Quote, Signature, SignatureError};
use crate::verdict::{Decision, Outcome, Verdict};
use crate::{dcap, snp};

/// Key id of the attestation key in the runtime data.
const AK: &str = "HCLAkPub";

/// Evidence of a virtual TPM.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// The paravisor's report.
    pub hcl_report: &'a [u8],
    /// TPMS_ATTEST.
    pub quote: &'a [u8],
    /// Its signature.
    pub signature: Result<Signature, SignatureError>,
    /// Values of the registers.
    pub pcrs: Option<&'a Pcrs>,
}

/// Fields of the evidence, as far as it can be read.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// The paravisor's report.
    pub hcl: Option<HclReport>,
    /// The runtime data, when it is JSON.
    pub runtime_data: Option<Value>,
    /// The SNP report inside.
    pub snp: Option<snp::Report>,
    /// The TDREPORT inside.
    pub td_report: Option<TdReportStruct>,
    /// The TPM's quote.
    pub tpm_quote: Option<Quote>,
}

/// What the evidence says; facts only when the verdict is `valid`.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Fields of the evidence.
    pub fields: Fields,
    /// Intel's rating; TDX with TCB info only.
    pub tcb: Option<dcap::Tcb>,
    /// Fields of the TD quote; TDX only.
    pub td_quote: Option<dcap::Fields>,
    /// Certificate of the endorsement key; SNP only.
    pub vek: Option<snp::Vek>,
    /// The register values that the quote covers; `None` unless they do hash to its digest.
    pub registers: Option<Pcrs>,
    /// How far the collateral is in date; `None` without any.
    pub freshness: Option<dcap::Freshness>,
    /// First second at which certificates and collateral are all valid, in seconds since 1970.
    pub valid_from: Option<u64>,
    /// Last second at which they all are.
    pub valid_to: Option<u64>,
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(hcl) = &self.hcl {
            map.serialize_entry("hcl_version", &hcl.version)?;
            map.serialize_entry("hcl_request_type", &hcl.request_type)?;
            map.serialize_entry("igvm_report_type", if hcl.tee == TeeType::Snp { "snp" } else { "tdx" })?;
            map.serialize_entry("hash_type", hcl.hash.name())?;
            map.serialize_entry("var_data_hash", &hex::encode(hcl.runtime_data_digest()))?;
        }
        if let Some(data) = &self.runtime_data {
            map.serialize_entry("var_data", data)?;
        }
        if let Some(report) = &self.snp {
            map.serialize_entry("snp", report)?;
        }
        if let Some(report) = &self.td_report {
            map.serialize_entry("td_report", report)?;
        }
        if let Some(quote) = &self.tpm_quote {
            map.serialize_entry("tpm_quote", quote)?;
        }
        map.end()
    }
}

/// Judges evidence of a virtual TPM on SNP, at a time in seconds since 1970. `strictness` is that of the report.
///
/// The checks, in order:
///
/// | name | holds when |
/// |---|---|
/// | `hcl-parse` | the paravisor's report can be read and holds an SNP report |
/// | `var-data` | its runtime data is JSON with one RSA attestation key |
/// | `snp:…` | the checks of [`snp::verify`] on the report inside |
/// | `var-data-hash` | the SNP report's report data is the digest of the runtime data, then zeros |
/// | `tpm:…` | the checks of [`tpm::verify`] on the quote, under that attestation key |
/// | `nonce` | the quote's qualifying data is what the caller expects |
pub fn verify_snp(
    evidence: &Evidence<'_>,
    chain: &snp::Chain,
    anchors: &snp::Anchors,
    at: u64,
    strictness: &snp::Options,
    options: &Options,
) -> Verdict<Facts> {
    let mut checks = Checks::default();
    let (hcl, key, runtime_data) = of_report(&mut checks, evidence.hcl_report, TeeType::Snp);
    let hardware = hcl.as_ref().map(|hcl| hcl.hardware.as_slice()).unwrap_or_default();
    let inner = snp::verify(hardware, chain, anchors, at, strictness);
    inherit(&mut checks, &inner, names::snp);
    let found = inner.facts.report.as_ref().map(|report| report.report_data);
    of_binding(&mut checks, hcl.as_ref(), found);
    let (tpm_quote, registers) = of_tpm(&mut checks, evidence, key.as_ref(), options);
    let fields = Fields { hcl, runtime_data, snp: inner.facts.report, td_report: None, tpm_quote };
    let facts = Facts {
        fields,
        tcb: None,
        td_quote: None,
        vek: inner.facts.vek,
        registers,
        freshness: inner.facts.freshness,
        valid_from: inner.facts.valid_from,
        valid_to: inner.facts.valid_to,
    };
    checks.into_verdict(inner.software, inner.flags, facts)
}

/// Judges evidence of a virtual TPM on TDX, at a time in seconds since 1970. `verifier` and `strictness` are those of
/// the TD's quote.
///
/// The checks are those of [`verify_snp`], with `td-quote:…` for the checks of [`dcap::Verifier::verify`] on the quote,
/// and `td-quote-vs-td-report:…` for each field of the TDREPORT that the quote repeats.
pub fn verify_tdx(
    evidence: &Evidence<'_>,
    td_quote: &[u8],
    verifier: &dcap::Verifier,
    at: u64,
    strictness: &dcap::Options,
    options: &Options,
) -> Verdict<Facts> {
    let mut checks = Checks::default();
    let (hcl, key, runtime_data) = of_report(&mut checks, evidence.hcl_report, TeeType::Tdx);
    let inner = verifier.verify(td_quote, None, at, strictness);
    inherit(&mut checks, &inner, names::td_quote);
    let td_report = hcl.as_ref().and_then(|hcl| TdReportStruct::read(&hcl.hardware));
    let td = inner.facts.fields.as_ref().and_then(|fields| match &fields.quote.body {
        dcap::Body::Td(td) => Some(td.as_ref()),
        dcap::Body::Enclave(_) => None,
    });
    of_td_report(&mut checks, td_report.as_ref(), td);
    of_binding(&mut checks, hcl.as_ref(), td.map(|td| td.report_data));
    let (tpm_quote, registers) = of_tpm(&mut checks, evidence, key.as_ref(), options);
    let fields = Fields { hcl, runtime_data, snp: None, td_report, tpm_quote };
    let facts = Facts {
        fields,
        tcb: inner.facts.tcb,
        td_quote: inner.facts.fields,
        vek: None,
        registers,
        freshness: inner.facts.freshness,
        valid_from: inner.facts.valid_from,
        valid_to: inner.facts.valid_to,
    };
    checks.into_verdict(inner.software, inner.flags, facts)
}

/// The attestation key in runtime data; why there is none, in words.
pub(super) fn attestation_key(runtime_data: &[u8]) -> Result<(PublicKey, Value), String> {
    let data: Value = serde_json::from_slice(runtime_data).map_err(|error| format!("not json: {error}"))?;
    let keys = data.get("keys").and_then(Value::as_array).ok_or("no list of keys")?;
    let mut named = keys.iter().filter(|key| key.get("kid").and_then(Value::as_str) == Some(AK));
    let (Some(key), None) = (named.next(), named.next()) else { return Err(format!("not exactly one key {AK}")) };
    if key.get("kty").and_then(Value::as_str) != Some("RSA") {
        return Err(format!("{AK} is no RSA key"));
    }
    let number = |name: &str| key.get(name).and_then(Value::as_str).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let (Some(modulus), Some(exponent)) = (number("n"), number("e")) else {
        return Err(format!("the numbers of {AK} are not base64"));
    };
    let key = PublicKey::rsa(&modulus, &exponent).map_err(|error| error.to_string())?;
    Ok((key, data))
}

fn of_report(checks: &mut Checks, bytes: &[u8], tee: TeeType) -> (Option<HclReport>, Option<PublicKey>, Option<Value>) {
    let expected = match tee {
        TeeType::Snp => "a report of the paravisor with an snp report",
        TeeType::Tdx => "a report of the paravisor with a td report",
    };
    let report = match HclReport::parse(bytes) {
        Ok(report) => {
            let found = if report.tee == TeeType::Snp { "one with an snp report" } else { "one with a td report" };
            checks.compare("hcl-parse", expected, found, report.tee == tee);
            report
        }
        Err(error) => {
            let error: HclError = error;
            checks.compare("hcl-parse", expected, error, false);
            checks.cannot("var-data", "runtime data with an attestation key", "the report cannot be read");
            return (None, None, None);
        }
    };
    match attestation_key(&report.runtime_data) {
        Ok((key, data)) => {
            let found = format!("the key {}", hex::encode(key.fingerprint()));
            checks.compare("var-data", "runtime data with an attestation key", found, true);
            (Some(report), Some(key), Some(data))
        }
        Err(why) => {
            checks.compare("var-data", "runtime data with an attestation key", why, false);
            (Some(report), None, None)
        }
    }
}

/// Takes over the checks of the evidence inside.
fn inherit<F>(checks: &mut Checks, inner: &Verdict<F>, rename: fn(&str) -> &'static str) {
    for check in &inner.checks {
        let name = rename(check.name);
        let decides = inner.verdict == Decision::Undecided && inner.first_failure == Some(check.name);
        if decides {
            checks.cannot(name, &check.expected, &check.found);
        } else {
            checks.add(name, check.outcome, &check.expected, &check.found);
        }
    }
}

fn of_td_report(checks: &mut Checks, report: Option<&TdReportStruct>, td: Option<&dcap::TdReport>) {
    let (Some(report), Some(td)) = (report, td) else {
        checks.cannot(
            "td-quote-vs-td-report:mrtd",
            "the td report's values",
            "the quote or the td report cannot be read",
        );
        return;
    };
    let pairs: [(&'static str, &[u8], &[u8]); 11] = [
        ("td-quote-vs-td-report:report-data", &report.report_data, &td.report_data),
        ("td-quote-vs-td-report:attributes", &report.td_attributes, &td.td_attributes),
        ("td-quote-vs-td-report:xfam", &report.xfam, &td.xfam),
        ("td-quote-vs-td-report:mrtd", &report.mrtd, &td.mrtd),
        ("td-quote-vs-td-report:mr-config-id", &report.mr_config_id, &td.mr_config_id),
        ("td-quote-vs-td-report:mr-owner", &report.mr_owner, &td.mr_owner),
        ("td-quote-vs-td-report:mr-owner-config", &report.mr_owner_config, &td.mr_owner_config),
        ("td-quote-vs-td-report:rtmr0", &report.rtmr[0], &td.rtmr[0]),
        ("td-quote-vs-td-report:rtmr1", &report.rtmr[1], &td.rtmr[1]),
        ("td-quote-vs-td-report:rtmr2", &report.rtmr[2], &td.rtmr[2]),
        ("td-quote-vs-td-report:rtmr3", &report.rtmr[3], &td.rtmr[3]),
    ];
    for (name, in_report, in_quote) in pairs {
        checks.compare(name, hex::encode(in_quote), hex::encode(in_report), in_report == in_quote);
    }
}

/// The runtime data's digest in the report data.
fn of_binding(checks: &mut Checks, hcl: Option<&HclReport>, report_data: Option<[u8; 64]>) {
    const NAME: &str = "var-data-hash";
    let (Some(hcl), Some(found)) = (hcl, report_data) else {
        checks.cannot(NAME, "the digest of the runtime data", "a report cannot be read");
        return;
    };
    let mut expected = [0; 64];
    expected.iter_mut().zip(hcl.runtime_data_digest()).for_each(|(to, from)| *to = from);
    checks.compare(NAME, hex::encode(expected), hex::encode(found), expected == found);
}

fn of_tpm(
    checks: &mut Checks,
    evidence: &Evidence<'_>,
    key: Option<&PublicKey>,
    options: &Options,
) -> (Option<Quote>, Option<Pcrs>) {
    let found =
        tpm::checks_of_quote(checks, &Names::VTPM, evidence.quote, &evidence.signature, key, evidence.pcrs, options);
    let bound = "a key that the hardware report binds";
    match key {
        Some(key) => checks.add("ak-trust", Outcome::Passed, bound, hex::encode(key.fingerprint())),
        None => checks.cannot("ak-trust", bound, "the key cannot be read"),
    }
    found
}
