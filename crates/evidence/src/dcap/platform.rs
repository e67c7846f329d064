//! What Intel's collateral says of the platform that a quote is from.

use serde::Serialize;

use super::anchors::Anchors;
use super::body::{EnclaveReport, TdReport};
use super::cert::{Certificate, Chain};
use super::collateral::{Collateral, Document, Item, Prepared};
use super::crl::Crl;
use super::json::QeIdentity;
use super::quote::{Body, Quote};
use super::tcb::{self, Status, Tcb};
use super::verify::PckChain;
use crate::anchors::Root;
use crate::checks::Checks;
use crate::strictness::{Freshness, Missing, Options};
use crate::time::rfc3339;
use crate::verdict::Verdict;

/// What was found besides the checks.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) tcb: Option<Tcb>,
    pub(super) freshness: Option<Freshness>,
    /// When everything that was given is valid at once.
    pub(super) window: Option<(u64, u64)>,
}

/// Looks at lists, TCB info and identity, in this order.
pub(super) fn judge(
    checks: &mut Checks,
    prepared: &Prepared,
    quote: Option<&Quote>,
    chain: Option<&PckChain>,
    at: u64,
    options: &Options,
) -> Found {
    let mut judge = Judge { checks, prepared, quote, chain, at, options, found: Found::default() };
    judge.note_window(chain.and_then(|chain| chain.chain.window()));
    judge.pck_crl();
    judge.root_crl();
    judge.tcb_info();
    judge.qe_identity();
    judge.found
}

/// Collateral by itself, without a quote; facts of what is authentic.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Published {
    /// For which platforms the TCB info is, 6 bytes in lowercase hex.
    pub fmspc: Option<String>,
    /// `SGX` or `TDX`.
    pub tcb_info: Option<String>,
    /// `QE` or `TD_QE`.
    pub qe_identity: Option<String>,
    /// Number of Intel's evaluation, of the TCB info.
    pub tcb_eval_number: Option<u32>,
    /// Whether all that was given is in date.
    pub freshness: Option<Freshness>,
    /// When everything that was given is valid at once, in seconds since 1970.
    pub valid_from: Option<u64>,
    /// Last second of that.
    pub valid_to: Option<u64>,
}

/// Judges collateral without a quote, at a time in seconds since 1970. Items that were not given are not asked for; a
/// document without its signer's chain leaves the verdict undecided.
///
/// The names of the checks are those of [`super::Verifier::verify`]; `options` say what of stale collateral is taken.
pub fn verify_collateral(collateral: &Collateral, anchors: &Anchors, at: u64, options: &Options) -> Verdict<Published> {
    let prepared = Prepared::new(collateral, anchors);
    let mut checks = Checks::default();
    let options = Options { missing: Missing::Undecided, ..*options };
    let mut judge = Judge {
        checks: &mut checks,
        prepared: &prepared,
        quote: None,
        chain: None,
        at,
        options: &options,
        found: Found::default(),
    };
    let mut authority = Item::of(&collateral.pck_crl_chain, Chain::parse);
    let by_authority = pck_crl_signer(&prepared, &mut authority, anchors);
    if !collateral.pck_crl.is_empty() {
        judge.pck_crl_alone(by_authority.as_ref(), authority.read());
    }
    if !collateral.root_crl.is_empty() {
        judge.root_crl();
    }
    if !collateral.tcb_info.is_empty() {
        judge.signed_in_time(["tcb-info-signature", "tcb-info-time"], "the TCB info", &prepared.tcb_info, |info| {
            (info.issue_date, info.next_update)
        });
    }
    if !collateral.qe_identity.is_empty() {
        let names = ["qe-identity-signature", "qe-identity-time"];
        judge.signed_in_time(names, "the QE identity", &prepared.qe_identity, |identity| {
            (identity.issue_date, identity.next_update)
        });
    }
    let found = judge.found;
    let info = prepared.tcb_info.content.read();
    let (valid_from, valid_to) = found.window.unzip();
    let facts = Published {
        fmspc: info.map(|info| hex::encode(info.fmspc)),
        tcb_info: info.map(|info| info.id.clone()),
        qe_identity: prepared.qe_identity.content.read().map(|identity| identity.id.clone()),
        tcb_eval_number: info.map(|info| info.evaluation_number),
        freshness: found.freshness,
        valid_from,
        valid_to,
    };
    let signers = [prepared.tcb_info.signed.as_ref(), prepared.qe_identity.signed.as_ref(), by_authority.as_ref()];
    let roots = signers.into_iter().flatten().filter_map(|signed| signed.as_ref().ok());
    let of_list = prepared.root_crl_signer.as_ref().map(|(_, root)| root);
    // One part that is not Intel's is enough.
    let flag = roots.chain(of_list).find_map(|root| root.flag());
    checks.into_verdict(flag.is_some(), flag.map(str::to_owned).into_iter().collect(), facts)
}

/// Whose root the authority of the PCK's revocation list leads to, when it signed that; why not, in words. `None` where
/// the list or the authority was not given.
fn pck_crl_signer(prepared: &Prepared, authority: &mut Item<Chain>, anchors: &Anchors) -> Option<Result<Root, String>> {
    let chain = match authority {
        Item::Absent => return None,
        Item::Malformed(why) => return Some(Err(why.clone())),
        Item::Read(chain) => chain,
    };
    prepared.pck_crl.read()?;
    if !chain.leaf().is_some_and(|leaf| prepared.pck_crl_is_signed_by(leaf)) {
        return Some(Err("it does not verify: another authority, or changed bytes".to_owned()));
    }
    Some(chain.complete(anchors))
}

struct Judge<'a> {
    checks: &'a mut Checks,
    prepared: &'a Prepared,
    quote: Option<&'a Quote>,
    chain: Option<&'a PckChain>,
    at: u64,
    options: &'a Options,
    found: Found,
}

impl Judge<'_> {
    fn note_window(&mut self, window: Option<(u64, u64)>) {
        let Some((from, to)) = window else { return };
        self.found.window = match self.found.window {
            Some((other_from, other_to)) => Some((from.max(other_from), to.min(other_to))),
            None => Some((from, to)),
        };
    }

    fn cannot_all(&mut self, names: &[&'static str], expected: &str, what: &str) {
        for name in names {
            self.checks.absent(self.options.missing, name, expected, what);
        }
    }

    /// The time of an item with its own next update and the certificates of its signer.
    fn time(&mut self, name: &'static str, issued: u64, next: u64, signer: Option<&Chain>) {
        self.note_window(Some((issued, next)));
        self.note_window(signer.and_then(Chain::window));
        let (at, outside) = (self.at, signer.and_then(|signer| signer.outside(self.at)));
        let (freshness, found) = self.options.in_date(issued, next, at);
        self.found.freshness = self.found.freshness.max(Some(freshness));
        let expected = format!("issued before {0}, next update after it", rfc3339(at));
        match (found, outside) {
            (Ok(_), Some(one)) => self.checks.compare(name, expected, one.window_in_words(), false),
            (Ok(found), None) => self.checks.compare(name, expected, found, true),
            (Err(found), _) => self.checks.compare(name, expected, found, false),
        }
    }

    fn pck_crl(&mut self) {
        let names = ["pck-crl-signature", "pck-crl-time", "pck-revoked"];
        let expected = "a revocation list of the authority that issued the PCK's certificate";
        let list = match &self.prepared.pck_crl {
            Item::Absent => return self.cannot_all(&names, expected, "the PCK's revocation list"),
            Item::Malformed(why) => return self.malformed(&names, expected, why),
            Item::Read(list) => list,
        };
        match self.chain.map(|chain| chain.chain.issuer()) {
            Some(Some(authority)) => {
                let signed = self.prepared.pck_crl_is_signed_by(authority);
                let found =
                    if signed { "it verifies" } else { "it does not verify: another authority, or changed bytes" };
                self.checks.compare(names[0], expected, found, signed);
            }
            Some(None) => self.checks.compare(names[0], expected, "the PCK chain holds no authority", false),
            None => self.checks.cannot(names[0], expected, "the PCK's certificate is missing"),
        }
        self.time(names[1], list.this_update(), list.next_update(), None);
        match self.chain.and_then(|chain| chain.chain.leaf()) {
            Some(leaf) => self.revoked(names[2], list, &[leaf]),
            None => {
                self.checks.cannot(names[2], "a certificate that is not revoked", "the PCK's certificate is missing")
            }
        }
    }

    fn pck_crl_alone(&mut self, signed: Option<&Result<Root, String>>, authority: Option<&Chain>) {
        let names = ["pck-crl-signature", "pck-crl-time"];
        let expected = "a revocation list of an authority that leads to an anchor";
        let list = match &self.prepared.pck_crl {
            Item::Absent => return,
            Item::Malformed(why) => return self.malformed(&names, expected, why),
            Item::Read(list) => list,
        };
        match signed {
            Some(Ok(_)) => self.checks.compare(names[0], expected, "it verifies", true),
            Some(Err(why)) => self.checks.compare(names[0], expected, why, false),
            None => self.cannot_all(&names[..1], expected, "the chain of its authority"),
        }
        self.time(names[1], list.this_update(), list.next_update(), authority);
    }

    fn signed_in_time<T>(
        &mut self,
        names: [&'static str; 2],
        what: &str,
        document: &Document<T>,
        window: impl FnOnce(&T) -> (u64, u64),
    ) {
        if self.signature(&names, "a document that Intel's TCB signer signed", what, document)
            && let Some(content) = document.content.read()
        {
            let (issued, next) = window(content);
            self.time(names[1], issued, next, document.signer.chain.read());
        }
    }

    fn root_crl(&mut self) {
        let names = ["root-crl-signature", "root-crl-time", "ca-revoked"];
        let expected = "a revocation list of the anchor that the PCK's certificate leads to";
        let list = match &self.prepared.root_crl {
            Item::Absent => return self.cannot_all(&names, expected, "the root's revocation list"),
            Item::Malformed(why) => return self.malformed(&names, expected, why),
            Item::Read(list) => list,
        };
        let (found, signed) = match &self.prepared.root_crl_signer {
            Some((signer, _)) if self.is_anchor(signer) => ("it verifies", true),
            Some(_) => ("it is of another anchor", false),
            None => ("it does not verify: another authority, or changed bytes", false),
        };
        self.checks.compare(names[0], expected, found, signed);
        self.time(names[1], list.this_update(), list.next_update(), None);
        let chains = [
            self.chain.map(|chain| &chain.chain),
            self.prepared.tcb_info.signer.chain.read(),
            self.prepared.qe_identity.signer.chain.read(),
        ];
        let all: Vec<&Certificate> = chains.into_iter().flatten().flat_map(Chain::certificates).collect();
        self.revoked(names[2], list, &all);
    }

    /// Whether a certificate is the anchor that the PCK's leads to; without that chain, any anchor is.
    fn is_anchor(&self, certificate: &Certificate) -> bool {
        let followed = self.chain.filter(|chain| chain.root.is_ok());
        followed.and_then(|chain| chain.chain.last()).is_none_or(|anchor| anchor.der() == certificate.der())
    }

    /// Whether a document is signed, under the anchor that the PCK's certificate leads to.
    fn is_authentic<T>(&self, document: &Document<T>) -> bool {
        let anchor = document.signer.chain.read().and_then(Chain::last);
        matches!(document.signed, Some(Ok(_))) && anchor.is_none_or(|anchor| self.is_anchor(anchor))
    }

    fn revoked(&mut self, name: &'static str, list: &Crl, certificates: &[&Certificate]) {
        let expected = "no certificate that the list names";
        match certificates.iter().find(|one| list.revokes(one)) {
            None => self.checks.compare(name, expected, format!("none of its {}", list.len()), true),
            Some(one) => {
                let found = format!("{} with serial {} is revoked", one.subject_name(), hex::encode(one.serial()));
                self.checks.compare(name, expected, found, false);
            }
        }
    }

    fn malformed(&mut self, names: &[&'static str], expected: &str, why: &str) {
        if let Some((first, others)) = names.split_first() {
            self.checks.compare(first, expected, why, false);
            for name in others {
                self.checks.cannot(name, expected, "it cannot be read");
            }
        }
    }

    /// The signature of a document; false when the checks that follow cannot be made.
    fn signature<T>(&mut self, names: &[&'static str], expected: &str, what: &str, document: &Document<T>) -> bool {
        match (&document.content, &document.signer.chain, &document.signed) {
            (Item::Absent, ..) => self.cannot_all(names, expected, what),
            (Item::Malformed(why), ..) => self.malformed(names, expected, why),
            (Item::Read(_), Item::Absent, _) | (_, _, None) => {
                self.cannot_all(names, expected, &format!("the chain of {what}'s signer"));
            }
            (Item::Read(_), _, Some(signed)) => {
                if let Some(first) = names.first() {
                    match signed {
                        Ok(_) if !self.is_authentic(document) => {
                            let found = "its signer leads to another anchor than the PCK's certificate";
                            self.checks.compare(first, expected, found, false);
                        }
                        Ok(_) => self.checks.compare(first, expected, "it verifies", true),
                        Err(why) => self.checks.compare(first, expected, why, false),
                    }
                }
                return true;
            }
        }
        false
    }

    fn tcb_info(&mut self) {
        let names =
            ["tcb-info-signature", "tcb-info-time", "tcb-info-id", "tcb-info-fmspc", "tcb-info-pceid", "tdx-module"];
        let td = self.quote.and_then(|quote| match &quote.body {
            Body::Td(td) => Some(td.as_ref()),
            Body::Enclave(_) => None,
        });
        let names = if td.is_some() { &names[..] } else { &names[..5] };
        let document = &self.prepared.tcb_info;
        if !self.signature(names, "TCB info that Intel's TCB signer signed", "the TCB info", document) {
            return;
        }
        let Some(info) = document.content.read() else { return };
        self.time("tcb-info-time", info.issue_date, info.next_update, document.signer.chain.read());
        let (Some(_), Some(Ok(pck))) = (self.quote, self.chain.map(|chain| chain.pck.as_ref())) else {
            for name in names.iter().skip(2) {
                self.checks.cannot(
                    name,
                    "TCB info of this platform",
                    "the quote or its PCK certificate cannot be read",
                );
            }
            return;
        };
        let id = if td.is_some() { "TDX" } else { "SGX" };
        self.checks.compare("tcb-info-id", id, &info.id, info.id == id);
        let fmspc = info.fmspc == pck.fmspc;
        self.checks.compare("tcb-info-fmspc", hex::encode(pck.fmspc), hex::encode(info.fmspc), fmspc);
        let pce = info.pce_id == pck.pce_id;
        self.checks.compare("tcb-info-pceid", hex::encode(pck.pce_id), hex::encode(info.pce_id), pce);
        if let Some(td) = td {
            self.tdx_module(info, td);
        }
        if self.is_authentic(document) && fmspc && pce && info.id == id {
            self.found.tcb = Some(tcb::assess(info, pck, td));
        }
    }

    fn tdx_module(&mut self, info: &super::TcbInfo, td: &TdReport) {
        const NAME: &str = "tdx-module";
        let Some(module) = tcb::module_of(info, td) else {
            let found = format!("TEE TCB SVN {}: no module of that major version", hex::encode(td.tee_tcb_svn));
            self.checks.compare(NAME, "a TDX module that the TCB info lists", found, false);
            return;
        };
        let masked = |attributes: &[u8; 8]| hex::encode(masked(attributes, &module.attributes_mask));
        let describe =
            |signer: &[u8; 48], attributes: String| format!("signer {}, attributes {attributes}", hex::encode(signer));
        let expected = describe(&module.mrsigner, masked(&module.attributes));
        let found = describe(&td.mrsigner_seam, masked(&td.seam_attributes));
        self.checks.compare(NAME, &expected, &found, expected == found);
    }

    fn qe_identity(&mut self) {
        let names = ["qe-identity-signature", "qe-identity-time", "qe-identity-id", "qe-identity-match"];
        let document = &self.prepared.qe_identity;
        if !self.signature(&names, "an identity that Intel's TCB signer signed", "the QE identity", document) {
            return;
        }
        let Some(identity) = document.content.read() else { return };
        self.time(names[1], identity.issue_date, identity.next_update, document.signer.chain.read());
        let Some(quote) = self.quote else {
            for name in [names[2], names[3]] {
                self.checks.cannot(name, "the identity of this quote's QE", "the quote cannot be read");
            }
            return;
        };
        let id = match quote.body {
            Body::Td(_) => "TD_QE",
            Body::Enclave(_) => "QE",
        };
        self.checks.compare(names[2], id, &identity.id, identity.id == id);
        let (expected, found) = compared(identity, &quote.qe);
        let matches = expected == found;
        self.checks.compare(names[3], expected, found, matches);
        if !self.is_authentic(document) || identity.id != id || !matches {
            return;
        }
        let rating = tcb::isv_rating(&identity.levels, quote.qe.isv_svn);
        let status = rating.map_or(Status::NotSupported, |rating| rating.status);
        if let Some(tcb) = &mut self.found.tcb {
            tcb.qe = Some(status);
            tcb.qe_advisories = rating.map(|rating| rating.advisories.clone()).unwrap_or_default();
            tcb.combined = tcb.combined.lowered_by(status);
        }
    }
}

/// The identity's values, and the quoting enclave's where the identity's masks have ones.
fn compared(identity: &QeIdentity, qe: &EnclaveReport) -> (String, String) {
    let describe = |signer: &[u8], product: u16, misc: &[u8; 4], attributes: &[u8; 16]| {
        let misc = hex::encode(masked(misc, &identity.misc_select_mask));
        let attributes = hex::encode(masked(attributes, &identity.attributes_mask));
        format!("signer {}, product {product}, MISCSELECT {misc}, attributes {attributes}", hex::encode(signer))
    };
    (
        describe(&identity.mrsigner, identity.isv_prod_id, &identity.misc_select, &identity.attributes),
        describe(&qe.mrsigner, qe.isv_prod_id, &qe.misc_select, &qe.attributes),
    )
}

fn masked<const N: usize>(value: &[u8; N], mask: &[u8; N]) -> [u8; N] {
    let mut masked = *value;
    masked.iter_mut().zip(mask).for_each(|(value, mask)| *value &= mask);
    masked
}
