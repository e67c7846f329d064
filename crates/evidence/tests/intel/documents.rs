//! TCB info and QE identity.

use belljar_testpki::intel::World;
use belljar_testpki::{NOW, rfc3339};
use serde_json::{Value, json};

use crate::{Base, Case, Change};

const TDX: Base = Base::Tdx4;
const SGX: Base = Base::Sgx3;

/// Changes a member of the TCB info.
fn info(world: &mut World, member: &str, value: Value) {
    world.tcb_info.content[member] = value;
}

/// Changes a member of the QE identity.
fn identity(world: &mut World, member: &str, value: Value) {
    world.qe_identity.content[member] = value;
}

pub const CASES: &[Case] = &[
    ("tcb_info_of_another_fmspc", TDX, Change::World(|w| info(w, "fmspc", "00906ED50001".into())), "tcb-info-fmspc"),
    ("platform_of_another_fmspc", SGX, Change::World(|w| w.sgx().fmspc = [9; 6]), "tcb-info-fmspc"),
    ("tcb_info_of_another_pce", TDX, Change::World(|w| info(w, "pceId", "0001".into())), "tcb-info-pceid"),
    ("platform_of_another_pce", TDX, Change::World(|w| w.sgx().pce_id = [1, 0]), "tcb-info-pceid"),
    (
        "tcb_info_of_sgx_for_a_td",
        TDX,
        Change::World(|w| w.tcb_info.content = belljar_testpki::intel::sgx_tcb_info()),
        "tcb-info-id",
    ),
    (
        "tcb_info_of_tdx_for_an_enclave",
        SGX,
        Change::World(|w| w.tcb_info.content = belljar_testpki::intel::tdx_tcb_info()),
        "tcb-info-id",
    ),
    ("tcb_info_of_another_version", TDX, Change::World(|w| info(w, "version", 4.into())), "tcb-info-signature"),
    ("tcb_info_expired", TDX, Change::World(|w| info(w, "nextUpdate", rfc3339(NOW - 1).into())), "tcb-info-time"),
    ("tcb_info_not_yet", SGX, Change::World(|w| info(w, "issueDate", rfc3339(NOW + 1).into())), "tcb-info-time"),
    (
        "tcb_info_with_a_broken_time",
        TDX,
        Change::World(|w| info(w, "nextUpdate", "tomorrow".into())),
        "tcb-info-signature",
    ),
    (
        "tcb_info_signed_by_another_key",
        TDX,
        Change::World(|w| w.tcb_info.signer = w.keys.other.clone()),
        "tcb-info-signature",
    ),
    (
        "tcb_info_signed_by_the_root",
        TDX,
        Change::World(|w| w.tcb_info.signer = w.keys.root.clone()),
        "tcb-info-signature",
    ),
    (
        "tcb_info_status_rewritten",
        TDX,
        Change::World(|w| w.tcb_info.altered = Some(|text| text.replacen("OutOfDate", "UpToDate", 1))),
        "tcb-info-signature",
    ),
    (
        "tcb_info_written_anew",
        TDX,
        Change::World(|w| w.tcb_info.altered = Some(|text| text.replacen("\"fmspc\":", "\"fmspc\": ", 1))),
        "tcb-info-signature",
    ),
    (
        "tcb_info_signature_zero",
        TDX,
        Change::World(|w| {
            w.tcb_info.altered = Some(|text| {
                let at = text.len() - 130;
                format!("{}{}\"}}", &text[..at], "0".repeat(128))
            });
        }),
        "tcb-info-signature",
    ),
    (
        "tcb_info_with_a_member_twice",
        TDX,
        Change::World(|w| w.tcb_info.prepared = Some(|text| text.replacen('{', "{\"fmspc\":\"00906ED50000\",", 1))),
        "tcb-info-signature",
    ),
    (
        "tcb_info_with_a_member_beside",
        TDX,
        Change::World(|w| w.tcb_info.altered = Some(|text| text.replacen('{', "{\"more\":1,", 1))),
        "tcb-info-signature",
    ),
    (
        "tcb_info_with_15_components",
        SGX,
        Change::World(|w| {
            let level = &mut w.tcb_info.content["tcbLevels"][0]["tcb"]["sgxtcbcomponents"];
            level.as_array_mut().unwrap().pop();
        }),
        "tcb-info-signature",
    ),
    (
        "tcb_info_without_tdx_components",
        TDX,
        Change::World(|w| {
            w.tcb_info.content["tcbLevels"][0]["tcb"].as_object_mut().unwrap().remove("tdxtcbcomponents");
        }),
        "tcb-info-signature",
    ),
    (
        "tcb_info_with_an_unknown_status",
        TDX,
        Change::World(|w| w.tcb_info.content["tcbLevels"][0]["tcbStatus"] = "Wonderful".into()),
        "tcb-info-signature",
    ),
    ("tcb_info_trailing_bytes", TDX, Change::Made(|m| m.collateral.tcb_info.extend(b" x")), "tcb-info-signature"),
    ("module_not_listed", TDX, Change::World(|w| info(w, "tdxModuleIdentities", json!([]))), "tdx-module"),
    ("module_of_another_major_version", TDX, Change::World(|w| w.td().tee_tcb_svn[1] = 3), "tdx-module"),
    ("module_signed_by_another", TDX, Change::World(|w| w.td().mrsigner_seam = [1; 48]), "tdx-module"),
    ("module_with_other_attributes", TDX, Change::World(|w| w.td().seam_attributes = [1; 8]), "tdx-module"),
    (
        "plain_module_signed_by_another",
        TDX,
        Change::World(|w| {
            w.td().tee_tcb_svn[1] = 0;
            w.tcb_info.content["tdxModule"]["mrsigner"] = "11".repeat(48).into();
        }),
        "tdx-module",
    ),
    (
        "identity_of_another_signer",
        TDX,
        Change::World(|w| identity(w, "mrsigner", "11".repeat(32).into())),
        "qe-identity-match",
    ),
    ("identity_of_another_product", TDX, Change::World(|w| identity(w, "isvprodid", 1.into())), "qe-identity-match"),
    (
        "identity_of_other_attributes",
        SGX,
        Change::World(|w| identity(w, "attributes", "13000000000000000000000000000000".into())),
        "qe-identity-match",
    ),
    (
        "identity_of_another_miscselect",
        TDX,
        Change::World(|w| identity(w, "miscselect", "01000000".into())),
        "qe-identity-match",
    ),
    ("identity_of_another_enclave", TDX, Change::World(|w| identity(w, "id", "QE".into())), "qe-identity-id"),
    ("identity_of_the_td_qe", SGX, Change::World(|w| identity(w, "id", "TD_QE".into())), "qe-identity-id"),
    ("identity_of_another_version", TDX, Change::World(|w| identity(w, "version", 3.into())), "qe-identity-signature"),
    (
        "identity_expired",
        TDX,
        Change::World(|w| identity(w, "nextUpdate", rfc3339(NOW - 1).into())),
        "qe-identity-time",
    ),
    ("identity_not_yet", TDX, Change::World(|w| identity(w, "issueDate", rfc3339(NOW + 1).into())), "qe-identity-time"),
    (
        "identity_signed_by_another_key",
        SGX,
        Change::World(|w| w.qe_identity.signer = w.keys.other.clone()),
        "qe-identity-signature",
    ),
    (
        "identity_rewritten",
        TDX,
        Change::World(|w| w.qe_identity.altered = Some(|text| text.replacen("\"isvsvn\":8", "\"isvsvn\":1", 1))),
        "qe-identity-signature",
    ),
    ("qe_of_another_signer", TDX, Change::World(|w| w.quote.qe.mrsigner = [1; 32]), "qe-identity-match"),
    ("qe_that_is_debuggable", SGX, Change::World(|w| w.quote.qe.attributes[0] |= 2), "qe-identity-match"),
];
