//! Claims of SNP reports.

use belljar_evidence::Verdict;
use belljar_evidence::snp::{Facts, Report, Tcb};
use serde_json::{Map, Value, json};

use super::common::{Read, Root, of_verdict};

/// Bit of PLATFORM_INFO: simultaneous multithreading is on.
const SMT: u32 = 0;
/// Transparent SME is on.
const TSME: u32 = 1;

pub(super) fn read(verdict: &Verdict<Facts>) -> Read {
    let Facts { report, vek, root, .. } = &verdict.facts;
    let mut ours = of_verdict(verdict, Root::from(*root), Some("crl-revoked"));
    let Some(report) = report else {
        return Read { own: json!({}), ours, report_data: None, init_data: None };
    };
    of_report(&mut ours, report, vek.as_ref().map(|vek| vek.product.as_str()));
    Read {
        own: flat(report),
        ours,
        report_data: Some(hex::encode(report.report_data)),
        init_data: Some(hex::encode(report.host_data)),
    }
}

/// Ours, of a report: what policies look at whatever the TEE is.
pub(super) fn of_report(ours: &mut Map<String, Value>, report: &Report, product: Option<&str>) {
    ours.insert("measurement".to_owned(), json!(hex::encode(report.measurement)));
    ours.insert("debug".to_owned(), json!(report.policy.debug()));
    ours.insert("migratable".to_owned(), json!(report.policy.migrate_ma()));
    ours.insert("vmpl".to_owned(), json!(report.vmpl));
    ours.insert("chip".to_owned(), json!(hex::encode(report.chip_id)));
    ours.insert("signing_key".to_owned(), json!(report.signing_key.name()));
    ours.insert("id_key_digest".to_owned(), json!(hex::encode(report.id_key_digest)));
    ours.insert("author_key_digest".to_owned(), json!(hex::encode(report.author_key_digest)));
    ours.insert("guest_svn".to_owned(), json!(report.guest_svn));
    // The certificate's product is the vendor's word; a report of version 2 has none of its own.
    let line = report.cpuid.and_then(|cpuid| cpuid.product_line()).or_else(|| product.and_then(line_of));
    let mut tcb = Map::new();
    if let Some(line) = line {
        tcb.insert("product".to_owned(), json!(line));
    }
    tcb.insert("reported".to_owned(), parts(&report.reported_tcb));
    tcb.insert("committed".to_owned(), parts(&report.committed_tcb));
    ours.insert("tcb".to_owned(), Value::Object(tcb));
}

/// The product line of a certificate's product name, such as `Milan-B0`.
fn line_of(product: &str) -> Option<&'static str> {
    ["Milan", "Genoa", "Turin"].into_iter().find(|line| product.starts_with(line))
}

fn parts(tcb: &Tcb) -> Value {
    let mut parts = Map::new();
    if let Some(fmc) = tcb.fmc() {
        parts.insert("fmc".to_owned(), json!(fmc));
    }
    let rest =
        [("bootloader", tcb.bootloader()), ("tee", tcb.tee()), ("snp", tcb.snp()), ("microcode", tcb.microcode())];
    parts.extend(rest.map(|(name, svn)| (name.to_owned(), json!(svn))));
    Value::Object(parts)
}

/// Upstream's claims: the flat names that its releases to 2026 have, and under `evidence` the nested ones of newer ones.
fn flat(report: &Report) -> Value {
    let (policy, tcb) = (&report.policy, &report.reported_tcb);
    let platform = |bit: u32| report.platform_info >> bit & 1 == 1;
    let measurement = hex::encode(report.measurement);
    json!({
        "measurement": measurement,
        "chip_id": hex::encode(report.chip_id),
        "policy_abi_major": policy.abi_major(),
        "policy_abi_minor": policy.abi_minor(),
        "policy_smt_allowed": policy.smt(),
        "policy_migrate_ma": policy.migrate_ma(),
        "policy_debug_allowed": policy.debug(),
        "policy_single_socket": policy.single_socket(),
        "reported_tcb_bootloader": tcb.bootloader(),
        "reported_tcb_tee": tcb.tee(),
        "reported_tcb_snp": tcb.snp(),
        "reported_tcb_microcode": tcb.microcode(),
        "platform_smt_enabled": platform(SMT),
        "platform_tsme_enabled": platform(TSME),
        "evidence": {
            "measurement": measurement,
            "reported_tcb": parts(tcb),
            "policy": {
                "abi_major": policy.abi_major(),
                "abi_minor": policy.abi_minor(),
                "smt_allowed": policy.smt(),
                "migrate_ma_allowed": policy.migrate_ma(),
                "debug_allowed": policy.debug(),
                "single_socket_required": policy.single_socket(),
            },
            "plat_info": { "smt_enabled": platform(SMT), "tsme_enabled": platform(TSME) },
        },
    })
}

/// The claims under an Azure virtual TPM: upstream writes numbers and booleans as strings there, and base64.
pub(super) fn as_strings(report: &Report) -> Map<String, Value> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Value::Object(own) = flat(report) else { return Map::new() };
    own.into_iter()
        .filter(|(name, _)| name != "chip_id" && name != "evidence")
        .map(|(name, value)| {
            let text = match value {
                Value::String(_) => STANDARD.encode(report.measurement),
                other => other.to_string(),
            };
            (name, Value::String(text))
        })
        .collect()
}
