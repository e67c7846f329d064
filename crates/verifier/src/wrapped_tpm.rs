//! TPM evidence of Confidential Containers in JSON. Bytes are hex, base64 or lists of numbers, by member and version.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use belljar_evidence::Kind;
use serde_json::Value;

use crate::input::{Evidence, InputError, TpmQuote};
use crate::pem;

/// Registers of a bank.
const REGISTERS: usize = 24;

/// `{version, tpm_quote: {signature, message, pcrs}, hcl_report, vcek | td_quote}`; version 0 has `quote`, `report`.
pub fn vtpm(document: &Value) -> Result<Evidence, InputError> {
    const KIND: &str = "az-snp-vtpm or az-tdx-vtpm";
    if let Some(version) = document.get("version").filter(|version| !matches!(version.as_u64(), Some(0..=2))) {
        return Err(wrong(KIND, &format!("version {version} is not 0, 1 or 2")));
    }
    let either = |name: &str, older: &str| document.get(name).or_else(|| document.get(older));
    let hcl_report = member(KIND, "hcl_report", either("hcl_report", "report"))?;
    let quote = either("tpm_quote", "quote").ok_or_else(|| wrong(KIND, "it has no tpm_quote"))?;
    let tpm = tpm_quote(KIND, quote, false)?;
    match (document.get("vcek"), document.get("td_quote")) {
        (Some(vcek), None) => {
            let bytes = match vcek.as_str().filter(|text| text.contains("-----BEGIN")) {
                Some(pem) => pem.as_bytes().to_vec(),
                None => member(KIND, "vcek", Some(vcek))?,
            };
            let mut ders = pem::ders(&bytes, "CERTIFICATE").map_err(|why| wrong(KIND, &why))?;
            let vek = ders.pop().unwrap_or_default();
            Ok(Evidence::Vtpm { kind: Kind::AzSnpVtpm, hcl_report, tpm, vek, td_quote: Vec::new() })
        }
        (None, Some(td_quote)) => {
            let td_quote = member(KIND, "td_quote", Some(td_quote))?;
            Ok(Evidence::Vtpm { kind: Kind::AzTdxVtpm, hcl_report, tpm, vek: Vec::new(), td_quote })
        }
        _ => Err(wrong(KIND, "it has not exactly one of vcek and td_quote")),
    }
}

/// `{ak_public, tpm_quote: {signature, message, pcrs}}`.
pub fn tpm(document: &Value) -> Result<Evidence, InputError> {
    let ak = member("tpm", "ak_public", document.get("ak_public"))?;
    let quote = document.get("tpm_quote").ok_or_else(|| wrong("tpm", "it has no tpm_quote"))?;
    Ok(Evidence::Tpm { ak, tpm: tpm_quote("tpm", quote, true)? })
}

fn tpm_quote(kind: &'static str, quote: &Value, signature_is_structured: bool) -> Result<TpmQuote, InputError> {
    let values = quote.get("pcrs").and_then(Value::as_array).filter(|values| values.len() <= REGISTERS);
    let values = values.ok_or_else(|| wrong(kind, "it has no list pcrs of at most 24 values"))?;
    Ok(TpmQuote {
        message: member(kind, "message", quote.get("message"))?,
        signature: member(kind, "signature", quote.get("signature"))?,
        signature_is_structured,
        pcrs: values.iter().map(|value| member(kind, "pcrs", Some(value))).collect::<Result<_, _>>()?,
    })
}

fn wrong(kind: &'static str, why: &str) -> InputError {
    InputError::Wrapper { kind, why: why.to_owned() }
}

/// The bytes of a member.
fn member(kind: &'static str, name: &str, value: Option<&Value>) -> Result<Vec<u8>, InputError> {
    let decoded = match value {
        Some(Value::String(text)) => decode(text),
        Some(Value::Array(numbers)) => {
            numbers.iter().map(|number| number.as_u64().and_then(|number| u8::try_from(number).ok())).collect()
        }
        _ => None,
    };
    decoded.ok_or_else(|| wrong(kind, &format!("{name} is no bytes in hex, base64 or numbers")))
}

/// Hex where all digits are, else base64, also for URLs. Hex of these members is never short enough to be base64 by
/// chance, and base64 of theirs never all hex digits.
fn decode(text: &str) -> Option<Vec<u8>> {
    hex::decode(text)
        .ok()
        .or_else(|| STANDARD.decode(text).ok())
        .or_else(|| URL_SAFE.decode(text).ok())
        .or_else(|| URL_SAFE_NO_PAD.decode(text).ok())
}
