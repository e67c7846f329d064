//! Judges one piece of evidence by what its user gave along with it.

use belljar_evidence::dcap::{self, Collateral, Missing, Verifier};
use belljar_evidence::policy::{Policy, Subject};
use belljar_evidence::snp::{self, Chain};
use belljar_evidence::tpm::{AkTrust, Hash, Pcrs, PublicKey};
use belljar_evidence::{Check, Kind, Verdict, azure, eventlog, tpm};

use super::answer::Answer;
use crate::failure::Failure;
use belljar_verifier::{Evidence, TpmQuote};

/// An ID block, and its authentication information.
pub type IdBlockBytes = (Vec<u8>, Vec<u8>);

/// What belongs to the evidence, and what its user asks for.
#[derive(Debug, Clone)]
pub struct Terms {
    /// When to judge, in seconds since 1970.
    pub at: u64,
    /// Certificate of the endorsement key, DER.
    pub vek: Option<Vec<u8>>,
    /// Certificate of its issuer, DER.
    pub intermediate: Option<Vec<u8>>,
    /// Revocation list of AMD's root, DER; empty for none.
    pub crl: Vec<u8>,
    /// ID block of an SNP guest and who signed it.
    pub id_block: Option<IdBlockBytes>,
    /// The one root to trust, DER; without it the vendor's that are compiled in.
    pub anchor: Option<Vec<u8>>,
    /// Chain of the PCK for a quote that does not hold it, PEM.
    pub pck_chain: Option<Vec<u8>>,
    /// Intel's collateral.
    pub collateral: Collateral,
    /// What to do about collateral that was not given.
    pub missing: Missing,
    /// An event log of the boot; goes before the one that the evidence brings.
    pub event_log: Option<Vec<u8>>,
    /// Why the attestation key of a TPM is trusted.
    pub ak_trust: AkTrust,
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
        if let Some(option) = self.unused(evidence) {
            return Err(Self::no_meaning(option, evidence.kind()));
        }
        if self.id_block.is_some() && !matches!(evidence.kind(), Kind::Snp | Kind::AzSnpVtpm) {
            return Err(Failure::usage("only SNP guests have an ID block: leave --id-block out"));
        }
        match evidence {
            Evidence::Snp { report, vek, intermediate } => self.snp(report, vek, intermediate),
            Evidence::Quote { kind, quote, log } => self.quote(*kind, quote, log.as_deref()),
            Evidence::Vtpm { kind, hcl_report, tpm, vek, td_quote } => self.vtpm(*kind, hcl_report, tpm, vek, td_quote),
            Evidence::Tpm { ak, tpm } => self.tpm(ak, tpm),
            Evidence::Part { kind, .. } => Ok(Answer::part(*kind)),
        }
    }

    /// Why an option is refused.
    pub fn no_meaning(option: &str, kind: Kind) -> Failure {
        Failure::usage(format!("--{option} has no meaning for {kind} evidence: leave it out"))
    }

    /// An option that was given and that this kind of evidence would not heed.
    fn unused(&self, evidence: &Evidence) -> Option<&'static str> {
        let kind = evidence.kind();
        let (amd, quote) = (matches!(kind, Kind::Snp | Kind::AzSnpVtpm), matches!(kind, Kind::Tdx | Kind::Sgx));
        let given = [
            ("vek", self.vek.is_some() && !amd),
            ("intermediate", self.intermediate.is_some() && !amd),
            ("pck-chain", self.pck_chain.is_some() && !quote),
            ("trusted-ak", matches!(self.ak_trust, AkTrust::List(_)) && kind != Kind::Tpm),
            ("ak-certificate", matches!(self.ak_trust, AkTrust::Certificate { .. }) && kind != Kind::Tpm),
            ("event-log", self.event_log.is_some() && kind == Kind::Snp),
            ("anchor", self.anchor.is_some() && kind == Kind::Tpm),
        ];
        given.into_iter().find(|(_, unused)| *unused).map(|(option, _)| option)
    }

    fn snp(&self, report: &[u8], vek: &[u8], intermediate: &[u8]) -> Result<Answer, Failure> {
        let or = |own: &Option<Vec<u8>>, brought: &[u8]| own.clone().unwrap_or_else(|| brought.to_vec());
        let chain = Chain {
            ark: self.anchor.clone().unwrap_or_default(),
            ask: or(&self.intermediate, intermediate),
            vek: or(&self.vek, vek),
            crl: self.crl.clone(),
        };
        let anchors = self.anchor.as_deref().map_or_else(snp::Anchors::amd, snp::Anchors::only);
        let mut verdict = snp::verify(report, &chain, &anchors, self.at, &self.options(Kind::Snp));
        let fields = verdict.facts.report.clone();
        let found = fields.as_ref();
        self.expect(
            &mut verdict,
            found.map(|report| &report.report_data[..]),
            found.map(|report| &report.host_data[..]),
        );
        self.expect_id_block(&mut verdict, found);
        let measurement = found.map(|report| &report.measurement[..]);
        let subject = Found { kind: Kind::Snp, tcb: None, measurement, snp: found, registers: None };
        self.apply_policy(&mut verdict, &subject);
        Answer::new(Kind::Snp, &verdict)
    }

    fn quote(&self, kind: Kind, quote: &[u8], log: Option<&[u8]>) -> Result<Answer, Failure> {
        let anchors = self.intel_anchors();
        let holds_chain = |quote: &dcap::Quote| quote.certification.kind == dcap::PCK_CHAIN;
        if self.pck_chain.is_some() && dcap::Quote::parse(quote).is_ok_and(|quote| holds_chain(&quote)) {
            return Err(Failure::usage("this quote holds its own PCK chain: leave --pck-chain out"));
        }
        let options = self.options(kind);
        let mut verdict = dcap::verify(quote, self.pck_chain.as_deref(), &self.collateral, &anchors, self.at, &options);
        let found = verdict.facts.fields.as_ref().map(|fields| fields.quote.clone());
        if let Some(found) = &found {
            let is_td = matches!(found.body, dcap::Body::Td(_));
            verdict.require(Check::same("kind", kind.name(), if is_td { "tdx" } else { "sgx" }));
        }
        let found = found.as_ref();
        if let Some(log) = self.event_log.as_deref().or(log) {
            verdict.require(match found.map(|quote| &quote.body) {
                Some(dcap::Body::Td(td)) => eventlog::check_rtmrs(log, &td.rtmr),
                _ => Check::not_made("event-log", "a log of this td's boot", "the evidence is of no td"),
            });
        }
        self.expect(&mut verdict, found.map(|quote| &quote.report_data()[..]), found.map(|quote| quote.host_data()));
        let tcb = verdict.facts.tcb.clone();
        let measurement = found.map(|quote| match &quote.body {
            dcap::Body::Td(report) => &report.mrtd[..],
            dcap::Body::Enclave(report) => &report.mrenclave[..],
        });
        let subject = Found { kind, tcb: tcb.as_ref(), measurement, snp: None, registers: None };
        self.apply_policy(&mut verdict, &subject);
        Answer::new(kind, &verdict)
    }

    fn vtpm(
        &self,
        kind: Kind,
        hcl_report: &[u8],
        quote: &TpmQuote,
        vek: &[u8],
        td_quote: &[u8],
    ) -> Result<Answer, Failure> {
        let pcrs = match quote.registers() {
            Ok(pcrs) => pcrs,
            Err(error) => return Ok(Answer::unreadable(Some(kind), error)),
        };
        let evidence =
            azure::Evidence { hcl_report, quote: &quote.message, signature: quote.signature(), pcrs: Some(&pcrs) };
        let options = self.tpm_options();
        let mut verdict = if kind == Kind::AzSnpVtpm {
            let chain = Chain {
                ark: self.anchor.clone().unwrap_or_default(),
                ask: self.intermediate.clone().unwrap_or_default(),
                vek: self.vek.clone().unwrap_or_else(|| vek.to_vec()),
                crl: self.crl.clone(),
            };
            let anchors = self.anchor.as_deref().map_or_else(snp::Anchors::amd, snp::Anchors::only);
            azure::verify_snp(&evidence, &chain, &anchors, self.at, &self.options(kind), &options)
        } else {
            let verifier = Verifier::new(&self.collateral, self.intel_anchors());
            azure::verify_tdx(&evidence, td_quote, &verifier, self.at, &self.options(kind), &options)
        };
        let facts = verdict.facts.clone();
        self.expect_of_tpm(&mut verdict, facts.registers.as_ref());
        self.expect_id_block(&mut verdict, facts.fields.snp.as_ref());
        let td = facts.td_quote.as_ref().and_then(|fields| match &fields.quote.body {
            dcap::Body::Td(td) => Some(&td.mrtd[..]),
            dcap::Body::Enclave(_) => None,
        });
        let subject = Found {
            kind,
            tcb: facts.tcb.as_ref(),
            measurement: facts.fields.snp.as_ref().map(|report| &report.measurement[..]).or(td),
            snp: facts.fields.snp.as_ref(),
            registers: facts.registers.as_ref(),
        };
        self.apply_policy(&mut verdict, &subject);
        Answer::new(kind, &verdict)
    }

    fn tpm(&self, ak: &[u8], quote: &TpmQuote) -> Result<Answer, Failure> {
        let (key, pcrs) = match (PublicKey::from_spki(ak), quote.registers()) {
            (Ok(key), Ok(pcrs)) => (key, pcrs),
            (Err(error), _) => return Ok(Answer::unreadable(Some(Kind::Tpm), error)),
            (_, Err(error)) => return Ok(Answer::unreadable(Some(Kind::Tpm), error)),
        };
        let mut verdict = tpm::verify(&quote.message, &quote.signature(), &key, Some(&pcrs), &self.tpm_options());
        let registers = verdict.facts.registers.clone();
        self.expect_of_tpm(&mut verdict, registers.as_ref());
        let subject = Found { kind: Kind::Tpm, tcb: None, measurement: None, snp: None, registers: registers.as_ref() };
        self.apply_policy(&mut verdict, &subject);
        Answer::new(Kind::Tpm, &verdict)
    }

    /// Which roots to trust for Intel's certificates.
    fn intel_anchors(&self) -> dcap::Anchors {
        match &self.anchor {
            Some(root) => dcap::Anchors::none().with_test_root(root),
            None => dcap::Anchors::intel(),
        }
    }

    fn tpm_options(&self) -> tpm::Options {
        let ak_trust = self.ak_trust.clone();
        tpm::Options { ak_trust, missing: self.missing, required: Vec::new(), nonce: self.nonce.clone() }
    }

    /// The log of a TPM, and the digest of initdata: Confidential Containers extend register 8 by it, once.
    fn expect_of_tpm<F>(&self, verdict: &mut Verdict<F>, registers: Option<&Pcrs>) {
        const UNQUOTED: &str = "the quote covers no register values";
        if let Some(log) = &self.event_log {
            verdict.require(match registers {
                Some(registers) => eventlog::check_pcrs(log, registers),
                None => Check::not_made("event-log", "a log of these registers", UNQUOTED),
            });
        }
        if let Some(digest) = &self.host_data {
            let expected = hex::encode(Hash::Sha256.digest(&[&[0; 32], digest]));
            verdict.require(match registers.and_then(|registers| registers.get(8)) {
                Some(found) => Check::same("host-data", expected, hex::encode(found)),
                None => Check::not_made("host-data", expected, UNQUOTED),
            });
        }
    }

    /// How strictly to judge collateral: of Intel's, the terms say whether it is needed; of AMD's, the policy.
    fn options(&self, kind: Kind) -> dcap::Options {
        let options = self.policy.clone().unwrap_or_default().options(kind);
        match kind {
            Kind::Snp | Kind::AzSnpVtpm => options,
            _ => dcap::Options { missing: self.missing, ..options },
        }
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

    /// The launch is the one that the guest's owner signed.
    fn expect_id_block<F>(&self, verdict: &mut Verdict<F>, report: Option<&snp::Report>) {
        let Some((block, auth)) = &self.id_block else { return };
        match report {
            Some(report) => {
                for check in snp::check_id_block(report, block, auth) {
                    verdict.require(check);
                }
            }
            None => verdict.require(Check::not_made("id-block", "the id block of an SNP report", "there is none")),
        }
    }

    fn apply_policy<F>(&self, verdict: &mut Verdict<F>, found: &Found<'_>) {
        if let Some(policy) = &self.policy {
            let flags = verdict.flags.clone();
            let subject = Subject {
                kind: found.kind,
                flags: &flags,
                tcb: found.tcb,
                measurement: found.measurement,
                snp: found.snp,
                registers: found.registers,
            };
            for check in policy.judge(&subject) {
                verdict.require(check);
            }
        }
    }
}

/// What of the evidence a policy looks at.
struct Found<'a> {
    kind: Kind,
    tcb: Option<&'a dcap::Tcb>,
    measurement: Option<&'a [u8]>,
    snp: Option<&'a snp::Report>,
    registers: Option<&'a Pcrs>,
}
