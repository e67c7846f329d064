//! The crate `dcap-qvl` on the same quotes with the same collateral. Where it judges otherwise, this says so: the list
//! is why `dcap` is not built on it (docs/adr/0013-dcap-by-hand.md), and a change of it is news.

use belljar_evidence::dcap::{QeIdentity, TcbInfo};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::dcap::Evidence;
use crate::index::{Index, der};

/// Genuine evidence that the peer refuses: by id, a part of what it says.
const REFUSED: &[(&str, &str)] = &[
    // Authentic, and below every TCB level: an error without a report, where a policy would want to see both.
    ("tdx-v4-google-spr", "No matching TCB level found"),
    ("tdx-v5-trustee", "No matching TCB level found"),
    ("tdx-v4-teekit-90c06f", "No matching TCB level found"),
    // Authentic, and debuggable: likewise.
    ("tdx-v4-trustee-spr", "Debug mode is enabled"),
    ("sgx-v3-occlum", "Debug mode is enabled"),
    ("sgx-v3-00a067-b", "Debug mode is enabled"),
    // Authentic, and without SEPT_VE_DISABLE, as all TDs of that cloud: likewise.
    ("tdx-v4-azure", "SEPT_VE_DISABLE is not enabled"),
    ("tdx-v4-azure-b", "SEPT_VE_DISABLE is not enabled"),
    // A revocation list of a test root without the extensions that RFC 5280 asks for; Intel's have them.
    ("syn-tdx4-control", "MalformedExtensions"),
    ("syn-tdx4-tcb-revoked", "MalformedExtensions"),
    ("syn-tdx4-tcb-outofdate", "MalformedExtensions"),
    ("syn-tdx4-tcb-swhardeningneeded", "MalformedExtensions"),
    ("syn-tdx4-td-debug", "MalformedExtensions"),
];
/// Altered evidence that it takes: the type of the outer certification data is not looked at.
const TAKEN: &[&str] = &["tdx-v4-phala-neg-outer-type-5", "tdx-v5-google-neg-outer-type-5"];

/// One trial over all quotes whose collateral is complete.
pub fn trials(index: &Index) -> Vec<Trial> {
    let index = index.clone();
    vec![Trial::test("dcap_qvl::all_quotes", move || agrees(&index))]
}

fn agrees(index: &Index) -> Result<(), Failed> {
    let (mut news, mut judged) = (Vec::new(), 0);
    for entry in index.of_kind("tdx").chain(index.of_kind("sgx")) {
        let id = entry["id"].as_str().unwrap();
        let Some(answer) = judge(index, entry) else { continue };
        judged += 1;
        let refused = REFUSED.iter().find(|(other, _)| *other == id);
        let expected = match (entry["expect"]["verdict"].as_str().unwrap(), refused) {
            ("valid", Some((_, why))) => answer.as_ref().is_err_and(|error| error.contains(why)),
            ("valid", None) => answer.is_ok(),
            ("invalid", _) => answer.is_ok() == TAKEN.contains(&id),
            _ => true,
        };
        if !expected {
            news.push(format!("{id}: {answer:?}"));
        }
    }
    if judged < 100 {
        return Err(format!("only {judged} quotes judged").into());
    }
    if news.is_empty() { Ok(()) } else { Err(news.join("\n").into()) }
}

fn judge(index: &Index, entry: &Value) -> Option<Result<(), String>> {
    let evidence = Evidence::read(index, entry);
    let collateral = collateral(&evidence)?;
    let root = der(index.file(&entry["files"]["anchor"]));
    let verified = QuoteVerifier::new(root).verify(&evidence.quote, &collateral, evidence.at);
    Some(verified.map(drop).map_err(|error| format!("{error:#}")))
}

/// Collateral as the peer takes it; `None` when a part of it was not published or cannot be read.
pub fn collateral(evidence: &Evidence) -> Option<QuoteCollateralV3> {
    let raw = &evidence.collateral;
    let (info, identity) = (TcbInfo::parse(&raw.tcb_info).ok()?, QeIdentity::parse(&raw.qe_identity).ok()?);
    let text = |bytes: &[u8]| (!bytes.is_empty()).then(|| String::from_utf8(bytes.to_vec()).unwrap());
    Some(QuoteCollateralV3 {
        pck_crl_issuer_chain: text(&raw.pck_crl_chain)?,
        root_ca_crl: raw.root_crl.clone(),
        pck_crl: raw.pck_crl.clone(),
        tcb_info_issuer_chain: text(&raw.tcb_signing_chain)?,
        tcb_info: text(&info.signed.text)?,
        tcb_info_signature: info.signed.signature.to_vec(),
        qe_identity_issuer_chain: text(&raw.qe_signing_chain)?,
        qe_identity: text(&identity.signed.text)?,
        qe_identity_signature: identity.signed.signature.to_vec(),
        pck_certificate_chain: evidence.pck_chain.as_deref().and_then(text),
    })
}
