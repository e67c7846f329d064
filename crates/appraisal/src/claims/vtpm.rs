//! Claims of Azure's virtual TPMs: those of the hardware, and `tpm` with the registers that the quote covers.

use belljar_evidence::Verdict;
use belljar_evidence::azure::Facts;
use belljar_evidence::dcap::Body;
use serde_json::{Map, Value, json};

use super::common::{Read, of_verdict, root_of_flags};
use super::{dcap, snp, tpm};

/// Register that is extended by the init-data digest.
const INIT_DATA: u8 = 8;

pub(super) fn snp(verdict: &Verdict<Facts>) -> Read {
    let mut ours = of_verdict(verdict, root_of_flags(verdict), Some("snp:crl-revoked"));
    let mut own = Map::new();
    if let Some(report) = &verdict.facts.fields.snp {
        own = snp::as_strings(report);
        snp::of_report(&mut ours, report, verdict.facts.vek.as_ref().map(|vek| vek.product.as_str()));
    }
    with_tpm(verdict, own, ours)
}

pub(super) fn tdx(verdict: &Verdict<Facts>) -> Read {
    let mut ours = of_verdict(verdict, root_of_flags(verdict), Some("td-quote:pck-revoked"));
    let Facts { td_quote, tcb, freshness, valid_to, .. } = &verdict.facts;
    let mut own = Map::new();
    if let Some(fields) = td_quote
        && let Body::Td(td) = &fields.quote.body
    {
        own = dcap::own_of_td(&fields.quote, td);
        dcap::of_td(&mut ours, td);
        dcap::platform(&mut ours, tcb, *freshness, fields.pck.as_ref());
        dcap::quality(&mut own, tcb, *freshness, *valid_to, fields.pck.as_ref());
    }
    with_tpm(verdict, own, ours)
}

fn with_tpm(verdict: &Verdict<Facts>, mut own: Map<String, Value>, ours: Map<String, Value>) -> Read {
    let registers = verdict.facts.registers.as_ref();
    own.insert("tpm".to_owned(), Value::Object(registers.map(tpm::values).unwrap_or_default()));
    let quote = verdict.facts.fields.tpm_quote.as_ref();
    let init_data = registers.and_then(|registers| registers.get(INIT_DATA)).map(hex::encode);
    if let Some(init_data) = &init_data
        && let Some(Value::Object(tpm)) = own.get_mut("tpm")
    {
        tpm.insert("init_data".to_owned(), json!(init_data));
    }
    Read { own: Value::Object(own), ours, report_data: quote.map(|quote| hex::encode(&quote.extra_data)), init_data }
}
