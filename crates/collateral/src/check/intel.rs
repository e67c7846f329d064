//! Documents and revocation lists of Intel's provisioning certification service.

use belljar_evidence::Verdict;
use belljar_evidence::dcap::{
    Anchors, Chain, Collateral, Crl, Options, Published, QeIdentity, TcbInfo, verify_collateral,
};

use super::{Refused, same};
use crate::item::{PckCa, Tee};
use crate::ladder::Facts;

pub(super) fn tcb_info(
    tee: Tee,
    fmspc: [u8; 6],
    body: &[u8],
    chain: &[u8],
    anchors: &Anchors,
) -> Result<Facts, Refused> {
    let info = TcbInfo::parse(body).map_err(|error| malformed("TCB info", error))?;
    let collateral = Collateral { tcb_info: body.to_vec(), tcb_signing_chain: chain.to_vec(), ..Collateral::default() };
    let dates = (info.issue_date, info.next_update);
    let facts = authentic(&collateral, chain, dates, Some(info.evaluation_number), anchors)?;
    same("TEE", &tee.name().to_uppercase(), &info.id)?;
    same("FMSPC", &hex::encode(fmspc), &hex::encode(info.fmspc))?;
    Ok(facts)
}

pub(super) fn qe_identity(tee: Tee, body: &[u8], chain: &[u8], anchors: &Anchors) -> Result<Facts, Refused> {
    let identity = QeIdentity::parse(body).map_err(|error| malformed("QE identity", error))?;
    let collateral =
        Collateral { qe_identity: body.to_vec(), qe_signing_chain: chain.to_vec(), ..Collateral::default() };
    let dates = (identity.issue_date, identity.next_update);
    let facts = authentic(&collateral, chain, dates, Some(identity.evaluation_number), anchors)?;
    let expected = match tee {
        Tee::Sgx => "QE",
        Tee::Tdx => "TD_QE",
    };
    same("enclave", expected, &identity.id)?;
    Ok(facts)
}

pub(super) fn pck_crl(ca: PckCa, body: &[u8], chain: &[u8], anchors: &Anchors) -> Result<Facts, Refused> {
    let list = Crl::parse(body).map_err(|error| malformed("revocation list", error))?;
    let collateral = Collateral { pck_crl: body.to_vec(), pck_crl_chain: chain.to_vec(), ..Collateral::default() };
    let facts = authentic(&collateral, chain, (list.this_update(), list.next_update()), None, anchors)?;
    same("authority", ca.subject(), &facts.issuer)?;
    Ok(facts)
}

pub(super) fn root_crl(body: &[u8], anchors: &Anchors) -> Result<Facts, Refused> {
    let list = Crl::parse(body).map_err(|error| malformed("revocation list", error))?;
    let (signer, root) = anchors
        .certificates()
        .find(|(anchor, _)| list.is_signed_by(anchor))
        .ok_or_else(|| Refused::Signature("no trusted root signed it".to_owned()))?;
    Ok(Facts {
        issuer: signer.subject_name().to_owned(),
        root: if root.is_software() { "test" } else { "intel" },
        issued: list.this_update(),
        next_update: list.next_update(),
        expires: signer.not_after(),
        evaluation_number: None,
    })
}

/// One item with its signer's chain, judged at the moment of its issue: the dates that count are the caller's matter.
fn authentic(
    collateral: &Collateral,
    chain: &[u8],
    (issued, next_update): (u64, u64),
    evaluation_number: Option<u32>,
    anchors: &Anchors,
) -> Result<Facts, Refused> {
    if chain.is_empty() {
        return Err(Refused::Chain("the service gave no certificates beside it".to_owned()));
    }
    let signer = Chain::parse(chain).map_err(|error| malformed("certificate chain", error))?;
    let verdict = verify_collateral(collateral, anchors, issued, &Options::default());
    if let Some(failed) = verdict.failure() {
        let why = format!("{}: expected {}, found {}", failed.name, failed.expected, failed.found);
        return Err(if failed.name.ends_with("-signature") { Refused::Signature(why) } else { Refused::Chain(why) });
    }
    let (_, expires) = signer.window().unwrap_or_default();
    Ok(Facts {
        issuer: signer.leaf().map(|leaf| leaf.subject_name().to_owned()).unwrap_or_default(),
        root: root(&verdict),
        issued,
        next_update,
        expires,
        evaluation_number,
    })
}

fn root(verdict: &Verdict<Published>) -> &'static str {
    if verdict.software { "test" } else { "intel" }
}

fn malformed(what: &'static str, error: impl std::fmt::Display) -> Refused {
    Refused::Malformed { what, why: error.to_string() }
}
