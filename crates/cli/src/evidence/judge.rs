//! Judges one piece of evidence by what its user gave along with it.

use belljar_evidence::dcap::{self, Collateral, Missing};
use belljar_evidence::policy::{Policy, Subject};
use belljar_evidence::snp::{self, Chain};
use belljar_evidence::{Check, Kind, Verdict};

use super::answer::Answer;
use super::input::Evidence;
use crate::failure::Failure;

/// What belongs to the evidence, and what its user asks for.
#[derive(Debug, Clone)]
pub struct Terms {
    /// When to judge, in seconds since 1970.
    pub at: u64,
    /// Certificate of the endorsement key, DER.
    pub vek: Option<Vec<u8>>,
    /// Certificate of its issuer, DER.
    pub intermediate: Option<Vec<u8>>,
    /// The one root to trust, DER; without it the vendor's that are compiled in.
    pub anchor: Option<Vec<u8>>,
    /// Chain of the PCK for a quote that does not hold it, PEM.
    pub pck_chain: Option<Vec<u8>>,
    /// Intel's collateral.
    pub collateral: Collateral,
    /// What to do about collateral that was not given.
    pub missing: Missing,
    /// What the attester had to include.
    pub nonce: Option<Vec<u8>>,
    /// What the host had to set at launch.
    pub host_data: Option<Vec<u8>>,
    /// What of authentic evidence is taken.
    pub policy: Option<Policy>,
}

impl Terms {
    /// Judges evidence.
    pub fn judge(&self, evidence: &Evidence) -> Result<Answer, Failure> {
        match evidence {
            Evidence::Snp { report, vek, intermediate } => self.snp(report, vek, intermediate),
            Evidence::Quote { kind, quote, .. } => self.quote(*kind, quote),
        }
    }

    fn snp(&self, report: &[u8], vek: &[u8], intermediate: &[u8]) -> Result<Answer, Failure> {
        let or = |own: &Option<Vec<u8>>, brought: &[u8]| own.clone().unwrap_or_else(|| brought.to_vec());
        let chain = Chain {
            ark: self.anchor.clone().unwrap_or_default(),
            ask: or(&self.intermediate, intermediate),
            vek: or(&self.vek, vek),
        };
        let anchors = self.anchor.as_deref().map_or_else(snp::Anchors::amd, snp::Anchors::only);
        let mut verdict = snp::verify(report, &chain, &anchors, self.at);
        let fields = verdict.facts.report.clone();
        let found = fields.as_ref();
        self.expect(
            &mut verdict,
            found.map(|report| &report.report_data[..]),
            found.map(|report| &report.host_data[..]),
        );
        let measurement = found.map(|report| &report.measurement[..]);
        self.apply_policy(&mut verdict, Kind::Snp, None, measurement, found);
        Answer::new(Kind::Snp, &verdict)
    }

    fn quote(&self, kind: Kind, quote: &[u8]) -> Result<Answer, Failure> {
        let anchors = match &self.anchor {
            Some(root) => dcap::Anchors::none().with_test_root(root),
            None => dcap::Anchors::intel(),
        };
        let holds_chain = |quote: &dcap::Quote| quote.certification.kind == dcap::PCK_CHAIN;
        if self.pck_chain.is_some() && dcap::Quote::parse(quote).is_ok_and(|quote| holds_chain(&quote)) {
            return Err(Failure::usage("this quote holds its own PCK chain: leave --pck-chain out"));
        }
        let options = self.options();
        let mut verdict = dcap::verify(quote, self.pck_chain.as_deref(), &self.collateral, &anchors, self.at, &options);
        let found = verdict.facts.fields.as_ref().map(|fields| fields.quote.clone());
        if let Some(found) = &found {
            let is_td = matches!(found.body, dcap::Body::Td(_));
            verdict.require(Check::same("kind", kind.name(), if is_td { "tdx" } else { "sgx" }));
        }
        let found = found.as_ref();
        self.expect(&mut verdict, found.map(|quote| &quote.report_data()[..]), found.map(|quote| quote.host_data()));
        let tcb = verdict.facts.tcb.clone();
        let measurement = found.map(|quote| match &quote.body {
            dcap::Body::Td(report) => &report.mrtd[..],
            dcap::Body::Enclave(report) => &report.mrenclave[..],
        });
        self.apply_policy(&mut verdict, kind, tcb.as_ref(), measurement, None);
        Answer::new(kind, &verdict)
    }

    /// How strictly to judge collateral.
    fn options(&self) -> dcap::Options {
        let (accept, days) = match &self.policy {
            Some(policy) => (policy.freshness, policy.grace_days),
            None => (dcap::Freshness::Fresh, Policy::default().grace_days),
        };
        dcap::Options { missing: self.missing, grace: u64::from(days).saturating_mul(86_400), accept }
    }

    fn expect<F>(&self, verdict: &mut Verdict<F>, report_data: Option<&[u8]>, host_data: Option<&[u8]>) {
        for (name, expected, found) in [("nonce", &self.nonce, report_data), ("host-data", &self.host_data, host_data)]
        {
            if let Some(expected) = expected {
                verdict.require(match found {
                    Some(found) => Check::padded(name, expected, found),
                    None => Check::not_made(name, hex::encode(expected), "the evidence cannot be read"),
                });
            }
        }
    }

    fn apply_policy<F>(
        &self,
        verdict: &mut Verdict<F>,
        kind: Kind,
        tcb: Option<&dcap::Tcb>,
        measurement: Option<&[u8]>,
        snp: Option<&snp::Report>,
    ) {
        if let Some(policy) = &self.policy {
            let flags = verdict.flags.clone();
            for check in policy.judge(&Subject { kind, flags: &flags, tcb, measurement, snp }) {
                verdict.require(check);
            }
        }
    }
}
