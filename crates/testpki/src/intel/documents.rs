//! TCB info and QE identity before they are signed.

use serde_json::{Value, json};

use crate::{EcKey, NOW, rfc3339};

/// A document with its signer.
#[derive(Clone, Debug)]
pub struct Document {
    /// Name of the member that holds the content: `tcbInfo` or `enclaveIdentity`.
    pub member: &'static str,
    /// The content.
    pub content: Value,
    /// The key that signs.
    pub signer: EcKey,
    /// Changes the text of the whole document after it was signed.
    pub altered: Option<fn(String) -> String>,
    /// Changes the text of the content before it is signed.
    pub prepared: Option<fn(String) -> String>,
}

impl Document {
    /// The document as the service would answer it.
    pub fn text(&self) -> Vec<u8> {
        let content = self.content.to_string();
        let content = self.prepared.map_or(content.clone(), |change| change(content));
        let signature = hex::encode(self.signer.sign_fixed(content.as_bytes()));
        let text = format!("{{\"{}\":{content},\"signature\":\"{signature}\"}}", self.member);
        self.altered.map_or(text.clone(), |change| change(text)).into_bytes()
    }
}

fn components(svns: [u8; 16]) -> Value {
    svns.iter().map(|svn| json!({ "svn": svn })).collect()
}

/// One level: the two newest of these levels are reached by the platform of [`super::Sgx`] and its TD.
fn level(sgx: u8, pce: u16, tdx: Option<[u8; 16]>, status: &str) -> Value {
    let mut tcb = json!({ "sgxtcbcomponents": components([sgx; 16]), "pcesvn": pce });
    if let Some(tdx) = tdx {
        tcb["tdxtcbcomponents"] = components(tdx);
    }
    json!({ "tcb": tcb, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status })
}

/// TCB info of version 3 for SGX: level 5 is up to date, 3 is out of date.
pub fn sgx_tcb_info() -> Value {
    json!({
        "id": "SGX",
        "version": 3,
        "issueDate": rfc3339(NOW - 1000),
        "nextUpdate": rfc3339(NOW + 1000),
        "fmspc": "00906ED50000",
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 20,
        "tcbLevels": [level(5, 13, None, "UpToDate"), level(3, 11, None, "OutOfDate")],
    })
}

/// TCB info of version 3 for TDX: the same, with a TDX module of major version 1 whose level 4 is up to date.
pub fn tdx_tcb_info() -> Value {
    let mut info = sgx_tcb_info();
    info["id"] = "TDX".into();
    let tdx = |first: u8| {
        let mut svns = [0; 16];
        svns[0] = first;
        svns[2] = first;
        Some(svns)
    };
    info["tcbLevels"] = json!([level(5, 13, tdx(4), "UpToDate"), level(3, 11, tdx(2), "OutOfDate")]);
    info["tdxModule"] = json!({
        "mrsigner": "00".repeat(48), "attributes": "00".repeat(8), "attributesMask": "FF".repeat(8),
    });
    let isv = |svn: u16, status: &str| json!({ "tcb": { "isvsvn": svn }, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status });
    info["tdxModuleIdentities"] = json!([{
        "id": "TDX_01",
        "mrsigner": "00".repeat(48),
        "attributes": "00".repeat(8),
        "attributesMask": "FF".repeat(8),
        "tcbLevels": [isv(4, "UpToDate"), isv(2, "OutOfDate")],
    }]);
    info
}

/// Identity of a quoting enclave: level 8 is up to date, 6 is out of date.
pub fn qe_identity(id: &str) -> Value {
    json!({
        "id": id,
        "version": 2,
        "issueDate": rfc3339(NOW - 1000),
        "nextUpdate": rfc3339(NOW + 1000),
        "tcbEvaluationDataNumber": 20,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "DC9E2A7C6F948F17474E34A7FC43ED030F7C1563F1BABDDF6340C82E0E54A8C5",
        "isvprodid": 2,
        "tcbLevels": [
            { "tcb": { "isvsvn": 8 }, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate" },
            { "tcb": { "isvsvn": 6 }, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "OutOfDate" },
        ],
    })
}
