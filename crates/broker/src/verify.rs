//! Is evidence authentic, and what does it carry? One answer for every kind, from the verifiers of `belljar-evidence`.

use crate::{
    collateral::Shelf,
    record::{CertificateRecord, CheckRecord, Outcome},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use belljar_appraisal::{
    Claims,
    claims::{self, Context},
    policy::{Rung, Settings},
};
use belljar_evidence::{
    Kind, Verdict, azure,
    dcap::{self, Freshness, Missing},
    eventlog::{self, Log},
    snp::{self, Chain},
    tpm::{self, AkTrust, Hash, PublicKey},
};
use belljar_verifier::{Evidence, TpmQuote};

/// What a broker trusts.
#[derive(Debug, Clone)]
pub struct Trust {
    /// AMD's roots. A software root counts only with `allow_software_tee`.
    pub amd: snp::Anchors,
    /// Intel's root; the same holds.
    pub intel: dcap::Anchors,
    /// Fingerprints of attestation keys of TPMs; without them no bare TPM is trusted.
    pub tpm_keys: Vec<[u8; 32]>,
    /// For how many seconds after its next update collateral is in grace.
    pub grace: u64,
}

impl Default for Trust {
    fn default() -> Self {
        Self { amd: snp::Anchors::amd(), intel: dcap::Anchors::intel(), tpm_keys: Vec::new(), grace: 7 * 86_400 }
    }
}

/// How the evidence carries what the guest and the host put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    /// A field of fixed length, filled up with zeros.
    Padded(Vec<u8>),
    /// The bytes themselves.
    Exact(Vec<u8>),
    /// A register of a TPM, extended once from zero.
    Extended(Vec<u8>),
}

impl Field {
    /// What the field holds when these bytes were put into it, cut where it is too short for them.
    pub(crate) fn of(&self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Padded(found) => {
                let mut out = bytes.to_vec();
                out.resize(found.len(), 0);
                out
            }
            Self::Exact(_) => bytes.to_vec(),
            Self::Extended(_) => Hash::Sha256.digest(&[&[0; 32], bytes]),
        }
    }

    /// What it holds.
    pub(crate) fn found(&self) -> &[u8] {
        match self {
            Self::Padded(found) | Self::Exact(found) | Self::Extended(found) => found,
        }
    }
}

/// What evidence carries, as far as it can be read.
#[derive(Debug, Clone)]
pub(crate) struct Carried {
    /// What the guest had included.
    pub(crate) report_data: Field,
    /// What the host bound at the launch.
    pub(crate) host_data: Field,
    /// Names the platform, for revocations: chip id, PPID, fingerprint of the attestation key. Empty when it does not say.
    pub(crate) chip: Vec<u8>,
}

#[derive(Debug)]
enum AnyVerdict {
    Snp(Verdict<snp::Facts>),
    Tdx(Verdict<dcap::Facts>, Option<Log>),
    Sgx(Verdict<dcap::Facts>),
    AzSnp(Verdict<azure::Facts>),
    AzTdx(Verdict<azure::Facts>),
    Tpm(Verdict<tpm::Facts>, Vec<u8>),
}

/// A verification's result.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) checks: Vec<CheckRecord>,
    /// The first check that decides against it.
    pub(crate) failure: Option<usize>,
    pub(crate) software: bool,
    pub(crate) flags: Vec<String>,
    pub(crate) tcb: Option<String>,
    pub(crate) freshness: Option<String>,
    pub(crate) carried: Option<Carried>,
    /// The main part of the evidence.
    pub(crate) raw: Vec<u8>,
    pub(crate) chain: Vec<CertificateRecord>,
    verdict: Option<AnyVerdict>,
}

/// Verifies evidence at a time in Unix seconds.
pub(crate) fn verify(evidence: &Evidence, trust: &Trust, settings: &Settings, shelf: &Shelf, at: u64) -> Verified {
    let options = options(trust, settings);
    match evidence {
        Evidence::Snp { report, vek, intermediate } => of_snp(report, vek, intermediate, shelf, at, &options),
        Evidence::Quote { kind, quote, log } => of_quote(*kind, quote, log.as_deref(), shelf, at, &options),
        Evidence::Vtpm { kind, hcl_report, tpm, vek, td_quote } => match tpm.registers() {
            Ok(pcrs) => {
                let evidence =
                    azure::Evidence { hcl_report, quote: &tpm.message, signature: tpm.signature(), pcrs: Some(&pcrs) };
                if *kind == Kind::AzSnpVtpm {
                    of_az_snp(&evidence, vek, trust, shelf, at, &options)
                } else {
                    of_az_tdx(&evidence, td_quote, shelf, at, &options)
                }
            }
            Err(error) => Verified::unreadable(error.to_string()),
        },
        Evidence::Tpm { ak, tpm } => of_tpm(ak, tpm, trust),
        Evidence::Part { kind, .. } => Verified::unreadable(format!("a part of {kind} evidence, not the whole of it")),
    }
}

/// How strictly collateral is judged. What is missing decides against the evidence.
fn options(trust: &Trust, settings: &Settings) -> dcap::Options {
    let accept = match settings.freshness {
        Rung::Fresh => Freshness::Fresh,
        Rung::InGrace => Freshness::InGrace,
        Rung::Stale => Freshness::Stale,
    };
    dcap::Options { missing: Missing::Undecided, grace: trust.grace, accept }
}

/// The same of AMD's revocation list, which is fetched once a report has shown which: until then it is not asked for.
fn of_amd(options: &dcap::Options) -> snp::Options {
    snp::Options { missing: Missing::Allowed, ..*options }
}

fn of_snp(report: &[u8], vek: &[u8], intermediate: &[u8], shelf: &Shelf, at: u64, options: &dcap::Options) -> Verified {
    let mut chain = Chain { vek: vek.to_vec(), ask: intermediate.to_vec(), ..Chain::default() };
    shelf.complete(report, &mut chain);
    let verdict = shelf.snp().verify(report, &chain, at, &of_amd(options));
    if verdict.is_valid() && chain.crl.is_empty() {
        shelf.miss_list(report, &chain.vek);
    }
    let carried = verdict.facts.report.as_ref().map(of_report);
    let mut verified = Verified::of(&verdict, carried, report);
    verified.chain = [("VEK", &chain.vek), ("ASK", &chain.ask), ("ARK", &chain.ark)]
        .into_iter()
        .filter(|(_, der)| !der.is_empty())
        .map(|(kind, der)| CertificateRecord { kind: kind.into(), der: STANDARD.encode(der) })
        .collect();
    verified.rated(None, verdict.facts.freshness);
    verified.verdict = Some(AnyVerdict::Snp(verdict));
    verified
}

fn of_report(report: &snp::Report) -> Carried {
    Carried {
        report_data: Field::Padded(report.report_data.to_vec()),
        host_data: Field::Padded(report.host_data.to_vec()),
        chip: if report.chip_id == [0; 64] { Vec::new() } else { report.chip_id.to_vec() },
    }
}

fn of_quote(kind: Kind, quote: &[u8], log: Option<&[u8]>, shelf: &Shelf, at: u64, options: &dcap::Options) -> Verified {
    let mut verdict = shelf.dcap(quote).verify(quote, None, at, options);
    if verdict.facts.root.is_some() {
        shelf.miss(quote);
    }
    let fields = verdict.facts.fields.clone();
    let mut events = None;
    if let (Some(log), Some(dcap::Body::Td(td))) = (log, fields.as_ref().map(|fields| &fields.quote.body)) {
        verdict.require(eventlog::check_rtmrs(log, &td.rtmr));
        events = Log::parse(log).ok();
    }
    let carried = fields.as_ref().map(|fields| Carried {
        report_data: Field::Padded(fields.quote.report_data().to_vec()),
        host_data: Field::Padded(fields.quote.host_data().to_vec()),
        chip: fields.pck.as_ref().map(|pck| pck.ppid.to_vec()).unwrap_or_default(),
    });
    let mut verified = Verified::of(&verdict, carried, quote);
    verified.rated(verdict.facts.tcb.as_ref(), verdict.facts.freshness);
    verified.verdict =
        Some(if kind == Kind::Sgx { AnyVerdict::Sgx(verdict) } else { AnyVerdict::Tdx(verdict, events) });
    verified
}

/// The paravisor's key is bound by the hardware's report, and register 8 holds the init-data.
fn vtpm_options(ak_trust: AkTrust) -> tpm::Options {
    tpm::Options { ak_trust, missing: Missing::Undecided, required: vec![8], nonce: None }
}

fn of_az_snp(
    evidence: &azure::Evidence<'_>,
    vek: &[u8],
    trust: &Trust,
    shelf: &Shelf,
    at: u64,
    options: &dcap::Options,
) -> Verified {
    let mut chain = Chain { vek: vek.to_vec(), ..Chain::default() };
    if let Ok(hcl) = azure::HclReport::parse(evidence.hcl_report) {
        shelf.complete(&hcl.hardware, &mut chain);
    }
    let verdict =
        azure::verify_snp(evidence, &chain, &trust.amd, at, &of_amd(options), &vtpm_options(AkTrust::Unknown));
    let chip = verdict.facts.fields.snp.as_ref().map(|report| of_report(report).chip);
    let mut verified = Verified::of(&verdict, of_registers(&verdict.facts, chip), evidence.hcl_report);
    verified.rated(None, verdict.facts.freshness);
    verified.verdict = Some(AnyVerdict::AzSnp(verdict));
    verified
}

fn of_az_tdx(
    evidence: &azure::Evidence<'_>,
    td_quote: &[u8],
    shelf: &Shelf,
    at: u64,
    options: &dcap::Options,
) -> Verified {
    let verifier = shelf.dcap(td_quote);
    let verdict = azure::verify_tdx(evidence, td_quote, &verifier, at, options, &vtpm_options(AkTrust::Unknown));
    if verdict.facts.tcb.is_none() && verdict.facts.td_quote.is_some() {
        shelf.miss(td_quote);
    }
    let pck = verdict.facts.td_quote.as_ref().and_then(|fields| fields.pck.as_ref());
    let chip = pck.map(|pck| pck.ppid.to_vec());
    let mut verified = Verified::of(&verdict, of_registers(&verdict.facts, chip), evidence.hcl_report);
    verified.rated(verdict.facts.tcb.as_ref(), verdict.facts.freshness);
    verified.verdict = Some(AnyVerdict::AzTdx(verdict));
    verified
}

fn of_registers(facts: &azure::Facts, chip: Option<Vec<u8>>) -> Option<Carried> {
    let (quote, registers) = (facts.fields.tpm_quote.as_ref()?, facts.registers.as_ref()?);
    Some(Carried {
        report_data: Field::Exact(quote.extra_data.clone()),
        host_data: Field::Extended(registers.get(8).unwrap_or_default().to_vec()),
        chip: chip.unwrap_or_default(),
    })
}

fn of_tpm(ak: &[u8], quote: &TpmQuote, trust: &Trust) -> Verified {
    let (key, pcrs) = match (PublicKey::from_spki(ak), quote.registers()) {
        (Ok(key), Ok(pcrs)) => (key, pcrs),
        (Err(error), _) => return Verified::unreadable(error.to_string()),
        (_, Err(error)) => return Verified::unreadable(error.to_string()),
    };
    let options = vtpm_options(AkTrust::List(trust.tpm_keys.clone()));
    let verdict = tpm::verify(&quote.message, &quote.signature(), &key, Some(&pcrs), &options);
    let carried = match (&verdict.facts.fields, &verdict.facts.registers) {
        (Some(quote), Some(registers)) => Some(Carried {
            report_data: Field::Exact(quote.extra_data.clone()),
            host_data: Field::Extended(registers.get(8).unwrap_or_default().to_vec()),
            chip: key.fingerprint().to_vec(),
        }),
        _ => None,
    };
    let mut verified = Verified::of(&verdict, carried, &quote.message);
    verified.verdict = Some(AnyVerdict::Tpm(verdict, ak.to_vec()));
    verified
}

impl Verified {
    fn of<F>(verdict: &Verdict<F>, carried: Option<Carried>, raw: &[u8]) -> Self {
        let mut failure = None;
        let mut checks = Vec::with_capacity(verdict.checks.len());
        for check in &verdict.checks {
            if !verdict.is_valid() && failure.is_none() && verdict.first_failure == Some(check.name) {
                failure = Some(checks.len());
            }
            checks.push(CheckRecord {
                name: check.name.into(),
                outcome: check.outcome.into(),
                expected: check.expected.clone(),
                found: check.found.clone(),
                owner: matches!(check.name, "chain-to-anchor" | "pck-chain")
                    .then(|| "this broker's trust anchors".to_owned()),
            });
        }
        if !verdict.is_valid() && failure.is_none() {
            failure = Some(checks.len());
            checks.push(CheckRecord {
                name: "evidence".into(),
                outcome: Outcome::Failed,
                expected: "valid".into(),
                found: verdict.verdict.to_string(),
                owner: None,
            });
        }
        Self {
            checks,
            failure,
            software: verdict.software,
            flags: verdict.flags.clone(),
            tcb: None,
            freshness: None,
            carried,
            raw: raw.to_vec(),
            chain: Vec::new(),
            verdict: None,
        }
    }

    fn rated(&mut self, tcb: Option<&dcap::Tcb>, freshness: Option<Freshness>) {
        self.tcb = tcb.map(|tcb| tcb.combined.name().to_owned());
        self.freshness = freshness.map(|freshness| freshness.name().to_owned());
    }

    /// Of evidence that cannot be read.
    pub(crate) fn unreadable(why: String) -> Self {
        let check = CheckRecord {
            name: "evidence".into(),
            outcome: Outcome::Failed,
            expected: "evidence of the tee that was named".into(),
            found: why,
            owner: None,
        };
        Self {
            checks: vec![check],
            failure: Some(0),
            software: false,
            flags: Vec::new(),
            tcb: None,
            freshness: None,
            carried: None,
            raw: Vec::new(),
            chain: Vec::new(),
            verdict: None,
        }
    }

    /// The claims, with what the caller found about this handshake; none for evidence that cannot be read.
    pub(crate) fn claims(&self, context: &Context) -> Option<Claims> {
        let evidence = match self.verdict.as_ref()? {
            AnyVerdict::Snp(verdict) => claims::Evidence::Snp(verdict),
            AnyVerdict::Tdx(verdict, log) => claims::Evidence::Tdx { verdict, log: log.as_ref() },
            AnyVerdict::Sgx(verdict) => claims::Evidence::Sgx(verdict),
            AnyVerdict::AzSnp(verdict) => claims::Evidence::AzSnpVtpm(verdict),
            AnyVerdict::AzTdx(verdict) => claims::Evidence::AzTdxVtpm(verdict),
            AnyVerdict::Tpm(verdict, ak_public) => claims::Evidence::Tpm { verdict, ak_public },
        };
        Some(Claims::of(evidence, context))
    }
}
