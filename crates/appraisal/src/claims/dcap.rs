//! Claims of quotes: TDX and SGX.

use belljar_evidence::dcap::{Body, EnclaveReport, Facts, Freshness, Pck, Quote, Status, Tcb, TdReport};
use belljar_evidence::eventlog::{Log, check_rtmrs_of};
use belljar_evidence::{Outcome, Verdict};
use serde_json::{Map, Value, json};

use super::common::{Read, Root, of_verdict};
use super::eventlog;
use crate::text;

/// Bits of a TD's attributes (Intel TDX Module Base Architecture Specification, ATTRIBUTES).
mod attribute {
    pub(super) const SEPT_VE_DISABLE: u32 = 28;
    pub(super) const MIGRATABLE: u32 = 29;
    pub(super) const PKS: u32 = 30;
    pub(super) const KEY_LOCKER: u32 = 31;
    pub(super) const PERFMON: u32 = 63;
}

pub(super) fn tdx(verdict: &Verdict<Facts>, log: Option<&Log>) -> Read {
    let mut ours = of_verdict(verdict, Root::from(verdict.facts.root), Some("pck-revoked"));
    let empty = |ours| Read { own: json!({}), ours, report_data: None, init_data: None };
    let Some(fields) = &verdict.facts.fields else { return empty(ours) };
    let Body::Td(td) = &fields.quote.body else {
        // An enclave's quote is no TD's, whatever the message called it.
        ours.insert("authentic".to_owned(), json!(false));
        return empty(ours);
    };
    of_td(&mut ours, td);
    platform(&mut ours, &verdict.facts.tcb, verdict.facts.freshness, fields.pck.as_ref());
    let mut own = own_of_td(&fields.quote, td);
    quality(&mut own, &verdict.facts.tcb, verdict.facts.freshness, verdict.facts.valid_to, fields.pck.as_ref());
    let replayed = log.map(|log| (log, check_rtmrs_of(log, &td.rtmr).outcome == Outcome::Passed));
    ours.insert(
        "event_log".to_owned(),
        json!(match replayed {
            None => "absent",
            Some((_, true)) => "replayed",
            Some((_, false)) => "does not replay to the registers",
        }),
    );
    if let Some((log, true)) = replayed {
        ours.insert("event_log_events".to_owned(), json!(log.events.len()));
        own.insert("uefi_event_logs".to_owned(), eventlog::claims(log));
    }
    Read {
        own: Value::Object(own),
        ours,
        report_data: Some(hex::encode(td.report_data)),
        init_data: Some(hex::encode(td.mr_config_id)),
    }
}

pub(super) fn sgx(verdict: &Verdict<Facts>) -> Read {
    let mut ours = of_verdict(verdict, Root::from(verdict.facts.root), Some("pck-revoked"));
    let empty = |ours| Read { own: json!({}), ours, report_data: None, init_data: None };
    let Some(fields) = &verdict.facts.fields else { return empty(ours) };
    let Body::Enclave(enclave) = &fields.quote.body else {
        ours.insert("authentic".to_owned(), json!(false));
        return empty(ours);
    };
    ours.insert("measurement".to_owned(), json!(hex::encode(enclave.mrenclave)));
    ours.insert("enclave_signer".to_owned(), json!(hex::encode(enclave.mrsigner)));
    ours.insert("debug".to_owned(), json!(enclave.debug()));
    ours.insert("migratable".to_owned(), json!(false));
    platform(&mut ours, &verdict.facts.tcb, verdict.facts.freshness, fields.pck.as_ref());
    let mut own = Map::new();
    own.insert("header".to_owned(), sgx_header(&fields.quote));
    own.insert("body".to_owned(), sgx_body(&fields.quote, enclave));
    quality(&mut own, &verdict.facts.tcb, verdict.facts.freshness, verdict.facts.valid_to, fields.pck.as_ref());
    Read {
        own: Value::Object(own),
        ours,
        report_data: Some(hex::encode(enclave.report_data)),
        init_data: Some(hex::encode(enclave.config_id)),
    }
}

/// Ours, of a TD.
pub(super) fn of_td(ours: &mut Map<String, Value>, td: &TdReport) {
    ours.insert("measurement".to_owned(), json!(hex::encode(td.mrtd)));
    ours.insert("debug".to_owned(), json!(td.debug()));
    ours.insert("migratable".to_owned(), json!(has(td, attribute::MIGRATABLE)));
}

/// Ours, of an Intel platform: `tcb`, `freshness`, `chip` (the PPID).
pub(super) fn platform(
    ours: &mut Map<String, Value>,
    tcb: &Option<Tcb>,
    freshness: Option<Freshness>,
    pck: Option<&Pck>,
) {
    if let Some(tcb) = tcb {
        ours.insert(
            "tcb".to_owned(),
            json!({
                "status": tcb.combined.name(),
                "eval_number": tcb.tcb_eval_number,
                "advisories": advisories(tcb),
                "relaunch_advised": tcb.relaunch_advised,
            }),
        );
    }
    if let Some(freshness) = freshness {
        ours.insert("freshness".to_owned(), json!(rung(freshness)));
    }
    if let Some(pck) = pck {
        ours.insert("chip".to_owned(), json!(hex::encode(pck.ppid)));
    }
}

/// The name of a rung in claims and settings.
pub(super) fn rung(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Fresh => "fresh",
        Freshness::InGrace => "in_grace",
        Freshness::Stale => "stale",
    }
}

fn advisories(tcb: &Tcb) -> Vec<&str> {
    let all = tcb.advisories.iter().flatten().chain(&tcb.tdx_module_advisories).chain(&tcb.qe_advisories);
    let mut all: Vec<&str> = all.map(String::as_str).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn has(td: &TdReport, bit: u32) -> bool {
    u64::from_le_bytes(td.td_attributes) >> bit & 1 == 1
}

/// Upstream's claims of a TD's quote.
pub(super) fn own_of_td(quote: &Quote, td: &TdReport) -> Map<String, Value> {
    let mut body = Map::new();
    let mut put = |name: &str, bytes: &[u8]| body.insert(name.to_owned(), Value::String(hex::encode(bytes)));
    put("tcb_svn", &td.tee_tcb_svn);
    put("mr_seam", &td.mr_seam);
    put("mrsigner_seam", &td.mrsigner_seam);
    put("seam_attributes", &td.seam_attributes);
    put("td_attributes", &td.td_attributes);
    put("xfam", &td.xfam);
    put("mr_td", &td.mrtd);
    put("mr_config_id", &td.mr_config_id);
    put("mr_owner", &td.mr_owner);
    put("mr_owner_config", &td.mr_owner_config);
    for (name, rtmr) in ["rtmr_0", "rtmr_1", "rtmr_2", "rtmr_3"].iter().zip(&td.rtmr) {
        put(name, rtmr);
    }
    put("report_data", &td.report_data);
    if let Some(extension) = &td.extension {
        put("tee_tcb_svn2", &extension.tee_tcb_svn2);
        put("mr_servicetd", &extension.mr_service_td);
    }
    let mut own = Map::new();
    let mut inside = Map::new();
    inside.insert("header".to_owned(), header(quote));
    inside.insert("body".to_owned(), Value::Object(body));
    if let Some((kind, size)) = quote.body_type {
        inside.insert("type".to_owned(), json!(hex::encode(kind.to_le_bytes())));
        inside.insert("size".to_owned(), json!(hex::encode(size.to_le_bytes())));
    }
    own.insert("quote".to_owned(), Value::Object(inside));
    own.insert(
        "td_attributes".to_owned(),
        json!({
            "debug": td.debug(),
            "key_locker": has(td, attribute::KEY_LOCKER),
            "perfmon": has(td, attribute::PERFMON),
            "protection_keys": has(td, attribute::PKS),
            "septve_disable": has(td, attribute::SEPT_VE_DISABLE),
        }),
    );
    own
}

/// Offsets of the header's fields are the same in version 4 and 5 (Intel TDX DCAP Quoting Library API, A.3.1).
fn header(quote: &Quote) -> Value {
    let raw = |from: usize, to: usize| hex::encode(quote.signed_bytes().get(from..to).unwrap_or_default());
    json!({
        "version": raw(0, 2),
        "att_key_type": raw(2, 4),
        "tee_type": raw(4, 8),
        "reserved": raw(8, 12),
        "vendor_id": hex::encode(quote.qe_vendor_id),
        "user_data": hex::encode(quote.user_data),
    })
}

/// Version 3 (Intel SGX ECDSA QuoteLibReference DCAP API, A.4) has security versions where later ones have reserved bytes.
fn sgx_header(quote: &Quote) -> Value {
    let raw = |from: usize, to: usize| hex::encode(quote.signed_bytes().get(from..to).unwrap_or_default());
    json!({
        "version": raw(0, 2),
        "att_key_type": raw(2, 4),
        "att_key_data_0": raw(4, 8),
        "qe_svn": raw(8, 10),
        "pce_svn": raw(10, 12),
        "vendor_id": hex::encode(quote.qe_vendor_id),
        "user_data": hex::encode(quote.user_data),
    })
}

fn sgx_body(quote: &Quote, enclave: &EnclaveReport) -> Value {
    const LENGTH: usize = 384;
    let signed = quote.signed_bytes();
    let body = signed.get(signed.len().saturating_sub(LENGTH)..).unwrap_or_default();
    let raw = |from: usize, to: usize| hex::encode(body.get(from..to).unwrap_or_default());
    json!({
        "cpu_svn": raw(0, 16),
        "misc_select": raw(16, 20),
        "reserved1": raw(20, 32),
        "isv_ext_prod_id": raw(32, 48),
        "attributes": { "flags": raw(48, 56), "xfrm": raw(56, 64) },
        "mr_enclave": hex::encode(enclave.mrenclave),
        "reserved2": raw(96, 128),
        "mr_signer": hex::encode(enclave.mrsigner),
        "reserved3": raw(160, 192),
        "config_id": hex::encode(enclave.config_id),
        "isv_prod_id": raw(256, 258),
        "isv_svn": raw(258, 260),
        "config_svn": raw(260, 262),
        "reserved4": raw(262, 304),
        "isv_family_id": raw(304, 320),
        "report_data": hex::encode(enclave.report_data),
    })
}

/// What Intel's quote verification library calls supplemental data, as far as it is known here.
pub(super) fn quality(
    own: &mut Map<String, Value>,
    tcb: &Option<Tcb>,
    freshness: Option<Freshness>,
    valid_to: Option<u64>,
    pck: Option<&Pck>,
) {
    let mut put = |name: &str, value: Value| own.insert(name.to_owned(), value);
    if let Some(tcb) = tcb {
        put("tcb_status", json!(status(tcb)));
        put("tcb_eval_num", json!(tcb.tcb_eval_number));
        put("advisory_ids", json!(advisories(tcb)));
        if let Some(date) = &tcb.platform_tcb_date {
            put("tcb_date", json!(date));
        }
    }
    if let Some(freshness) = freshness {
        // "0" where nothing of the collateral has expired.
        put("collateral_expiration_status", json!(if freshness == Freshness::Fresh { "0" } else { "1" }));
    }
    if let Some(valid_to) = valid_to {
        put("earliest_expiration_date", json!(text::time(valid_to)));
    }
    if let Some(pck) = pck {
        put("platform_provider_id", json!(hex::encode(pck.ppid)));
        let kind = match pck.sgx_type {
            0 => "Standard",
            1 => "Scalable",
            _ => "Scalable with Integrity",
        };
        put("sgx_type", json!(kind));
        let flags = [
            ("is_dynamic_platform", pck.dynamic_platform),
            ("is_cached_keys", pck.cached_keys),
            ("is_smt_enabled", pck.smt),
        ];
        for (name, flag) in flags {
            if let Some(flag) = flag {
                put(name, json!(flag));
            }
        }
    }
}

/// Intel's library has a status of its own for a TD that was launched before the platform was updated.
fn status(tcb: &Tcb) -> &'static str {
    match (tcb.relaunch_advised, tcb.combined) {
        (true, Status::OutOfDate) => "TDRelaunchAdvised",
        (true, Status::OutOfDateConfigurationNeeded) => "TDRelaunchAdvisedConfigurationNeeded",
        (_, status) => status.name(),
    }
}
