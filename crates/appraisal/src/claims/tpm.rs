//! Claims of a TPM's quote.

use base64::{Engine, engine::general_purpose::STANDARD};
use belljar_evidence::Verdict;
use belljar_evidence::tpm::{Facts, Pcrs};
use serde_json::{Map, Value, json};

use super::common::{Read, Root, of_verdict};

/// Register that Confidential Containers extend by the init-data digest.
const INIT_DATA: u8 = 8;

pub(super) fn read(verdict: &Verdict<Facts>, ak_public: &[u8]) -> Read {
    let Facts { fields, registers, ak } = &verdict.facts;
    // A TPM has no root of a processor's vendor: which keys are trusted says a reference value. Nobody revokes them.
    let mut ours = of_verdict(verdict, Root::None, None);
    if let Some(ak) = ak {
        ours.insert("chip".to_owned(), json!(ak));
    }
    let mut own = registers.as_ref().map(values).unwrap_or_default();
    own.insert("ak_public".to_owned(), json!(STANDARD.encode(ak_public)));
    let report_data = fields.as_ref().map(|quote| hex::encode(&quote.extra_data));
    let init_data = registers.as_ref().and_then(|registers| registers.get(INIT_DATA)).map(hex::encode);
    Read { own: Value::Object(own), ours, report_data, init_data }
}

/// `pcr00` to `pcr23`.
pub(super) fn values(registers: &Pcrs) -> Map<String, Value> {
    let value = |register| Some((format!("pcr{register:02}"), json!(hex::encode(registers.get(register)?))));
    registers.registers().filter_map(value).collect()
}
