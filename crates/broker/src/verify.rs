//! Is evidence authentic, and what does it say? One answer for every kind, from the verifiers of `belljar-evidence`.

use crate::{
    collateral::Shelf,
    record::{CertificateRecord, CheckRecord, Outcome},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use belljar_evidence::{
    self as evidence, Kind, Verdict, azure,
    dcap::{self, Body, Freshness, Tcb},
    eventlog,
    policy::{Policy, Subject},
    snp::{self, Chain, Report},
    tpm::{self, AkTrust, Hash, Pcrs, PublicKey, Signature},
};
use belljar_verifier::{Evidence, TpmQuote};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a broker trusts.
#[derive(Debug, Clone)]
pub struct Trust {
    /// AMD's roots. A software root counts only with `allow_software_tee`.
    pub amd: snp::Anchors,
    /// Intel's root.
    pub intel: dcap::Anchors,
    /// Fingerprints of attestation keys of TPMs; without them no bare TPM is trusted.
    pub tpm_keys: Vec<[u8; 32]>,
    /// What of authentic evidence is taken: TCB statuses, advisories, flags, least versions, freshness.
    pub platform: Policy,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            amd: snp::Anchors::amd(),
            intel: dcap::Anchors::intel(),
            tpm_keys: Vec::new(),
            // A VLEK is AMD's as much as a VCEK is; what else is flagged is refused.
            platform: Policy { flags: vec!["vlek".into()], ..Policy::default() },
        }
    }
}

/// The values that a launch was measured to, by name: `measurement` (SNP), `mrtd` and `rtmr0` to `rtmr3` (TDX),
/// `mrenclave`, `mrsigner`, `isv_prod_id` and `isv_svn` (SGX), `pcr00` to `pcr23` (TPM). Bytes in lowercase hex.
pub type Launch = BTreeMap<String, String>;

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

/// What evidence says. Facts only when nothing failed.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    /// What the guest had included.
    pub(crate) report_data: Field,
    /// What the host bound at the launch.
    pub(crate) host_data: Field,
    pub(crate) launch: Launch,
    /// Names the platform, for revocations: chip id, PPID, fingerprint of the attestation key. Empty when it does not say.
    pub(crate) chip: Vec<u8>,
    /// Rules about the guest's own settings: name, whether it holds, expected, found.
    pub(crate) closed: Vec<(&'static str, bool, String, String)>,
    /// Claims in upstream's names.
    pub(crate) claims: Value,
}

/// A verification's result.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) checks: Vec<CheckRecord>,
    /// The first check that decides against it.
    pub(crate) failure: Option<usize>,
    pub(crate) software: bool,
    pub(crate) flags: Vec<String>,
    pub(crate) tcb: Option<Tcb>,
    pub(crate) freshness: Option<Freshness>,
    pub(crate) said: Option<Said>,
    /// The main part of the evidence.
    pub(crate) raw: Vec<u8>,
    pub(crate) chain: Vec<CertificateRecord>,
}

/// Verifies evidence at a time in Unix seconds.
pub(crate) fn verify(evidence: &Evidence, trust: &Trust, shelf: &Shelf, at: u64) -> Verified {
    match evidence {
        Evidence::Snp { report, vek, intermediate } => of_snp(report, vek, intermediate, trust, shelf, at),
        Evidence::Quote { kind, quote, log } => of_quote(*kind, quote, log.as_deref(), trust, shelf, at),
        Evidence::Vtpm { kind, hcl_report, tpm, vek, td_quote } => {
            of_vtpm(*kind, hcl_report, tpm, vek, td_quote, trust, shelf, at)
        }
        Evidence::Tpm { ak, tpm } => of_tpm(ak, tpm, trust),
        Evidence::Part { kind, .. } => Verified::unreadable(format!("a part of {kind} evidence, not the whole of it")),
    }
}

fn of_snp(report: &[u8], vek: &[u8], intermediate: &[u8], trust: &Trust, shelf: &Shelf, at: u64) -> Verified {
    let mut chain = Chain { vek: vek.to_vec(), ask: intermediate.to_vec(), ..Chain::default() };
    shelf.complete(report, &mut chain);
    let mut verdict = shelf.snp().verify(report, &chain, at);
    if verdict.is_valid() && chain.crl.is_empty() {
        shelf.miss_list(report, &chain.vek);
    }
    let found = verdict.facts.report.clone();
    let subject = Subject {
        kind: Kind::Snp,
        flags: &others(&verdict.flags),
        tcb: None,
        measurement: found.as_ref().map(|report| &report.measurement[..]),
        snp: found.as_ref(),
        registers: None,
    };
    apply(&mut verdict, &trust.platform, &subject);
    let said = found.as_ref().map(|report| said_of_snp(report, verdict.software));
    let mut verified = Verified::of(&verdict, said, report);
    verified.chain = [("VEK", &chain.vek), ("ASK", &chain.ask), ("ARK", &chain.ark)]
        .into_iter()
        .filter(|(_, der)| !der.is_empty())
        .map(|(kind, der)| CertificateRecord { kind: kind.into(), der: STANDARD.encode(der) })
        .collect();
    verified
}

fn of_quote(kind: Kind, quote: &[u8], log: Option<&[u8]>, trust: &Trust, shelf: &Shelf, at: u64) -> Verified {
    let mut verdict = shelf.dcap(quote).verify(quote, None, at, &Shelf::options(&trust.platform));
    if verdict.facts.root.is_some() {
        shelf.miss(quote);
    }
    let fields = verdict.facts.fields.clone();
    let tcb = verdict.facts.tcb.clone();
    let freshness = verdict.facts.freshness;
    if let (Some(log), Some(fields)) = (log, &fields) {
        verdict.require(match &fields.quote.body {
            Body::Td(td) => eventlog::check_rtmrs(log, &td.rtmr),
            Body::Enclave(_) => evidence::Check::not_made("event-log", "a log of a td's boot", "this is an enclave"),
        });
    }
    let subject = Subject {
        kind,
        flags: &others(&verdict.flags),
        tcb: tcb.as_ref(),
        measurement: None,
        snp: None,
        registers: None,
    };
    apply(&mut verdict, &trust.platform, &subject);
    let said = fields.as_ref().map(said_of_quote);
    let mut verified = Verified::of(&verdict, said, quote);
    (verified.tcb, verified.freshness) = (tcb, freshness);
    verified
}

#[allow(clippy::too_many_arguments)]
fn of_vtpm(
    kind: Kind,
    hcl_report: &[u8],
    quote: &TpmQuote,
    vek: &[u8],
    td_quote: &[u8],
    trust: &Trust,
    shelf: &Shelf,
    at: u64,
) -> Verified {
    let pcrs = match registers(quote) {
        Ok(pcrs) => pcrs,
        Err(error) => return Verified::unreadable(error.to_string()),
    };
    let evidence =
        azure::Evidence { hcl_report, quote: &quote.message, signature: signature(quote), pcrs: Some(&pcrs) };
    // The paravisor's key is bound by the hardware's report, and register 8 holds the init-data.
    let options =
        tpm::Options { ak_trust: AkTrust::Unknown, missing: dcap::Missing::Undecided, required: vec![8], nonce: None };
    let mut verdict = if kind == Kind::AzSnpVtpm {
        let mut chain = Chain { vek: vek.to_vec(), ..Chain::default() };
        if let Ok(hcl) = azure::HclReport::parse(hcl_report) {
            shelf.complete(&hcl.hardware, &mut chain);
        }
        azure::verify_snp(&evidence, &chain, &trust.amd, at, &options)
    } else {
        azure::verify_tdx(&evidence, td_quote, &shelf.dcap(td_quote), at, &Shelf::options(&trust.platform), &options)
    };
    let facts = verdict.facts.clone();
    let subject = Subject {
        kind,
        flags: &others(&verdict.flags),
        tcb: facts.tcb.as_ref(),
        measurement: None,
        snp: facts.fields.snp.as_ref(),
        registers: facts.registers.as_ref(),
    };
    apply(&mut verdict, &trust.platform, &subject);
    let said = match (&facts.fields.tpm_quote, &facts.registers) {
        (Some(quote), Some(registers)) => {
            let inner = match (&facts.fields.snp, &facts.td_quote) {
                (Some(report), _) => Some(said_of_snp(report, verdict.software)),
                (None, Some(fields)) => Some(said_of_quote(fields)),
                _ => None,
            };
            inner.map(|inner| said_of_vtpm(kind, inner, quote, registers))
        }
        _ => None,
    };
    let mut verified = Verified::of(&verdict, said, hcl_report);
    (verified.tcb, verified.freshness) = (facts.tcb, facts.freshness);
    verified
}

fn of_tpm(ak: &[u8], quote: &TpmQuote, trust: &Trust) -> Verified {
    let (key, pcrs) = match (PublicKey::from_spki(ak), registers(quote)) {
        (Ok(key), Ok(pcrs)) => (key, pcrs),
        (Err(error), _) => return Verified::unreadable(error.to_string()),
        (_, Err(error)) => return Verified::unreadable(error.to_string()),
    };
    let options = tpm::Options {
        ak_trust: AkTrust::List(trust.tpm_keys.clone()),
        missing: dcap::Missing::Undecided,
        required: vec![8],
        nonce: None,
    };
    let mut verdict = tpm::verify(&quote.message, &signature(quote), &key, Some(&pcrs), &options);
    let facts = verdict.facts.clone();
    let subject = Subject {
        kind: Kind::Tpm,
        flags: &others(&verdict.flags),
        tcb: None,
        measurement: None,
        snp: None,
        registers: facts.registers.as_ref(),
    };
    apply(&mut verdict, &trust.platform, &subject);
    let said = match (&facts.fields, &facts.registers) {
        (Some(quote), Some(registers)) => {
            let launch = of_registers(registers);
            let mut claims = registers_claims(registers);
            claims.insert("ak_public".into(), STANDARD.encode(ak).into());
            Some(Said {
                report_data: Field::Exact(quote.extra_data.clone()),
                host_data: Field::Extended(registers.get(8).unwrap_or_default().to_vec()),
                launch,
                chip: key.fingerprint().to_vec(),
                closed: Vec::new(),
                claims: json!({ "tpm": claims }),
            })
        }
        _ => None,
    };
    Verified::of(&verdict, said, &quote.message)
}

/// Flags that the appraisal judges by rules of its own, which say more: debugging, privilege level, whose root.
fn is_judged_elsewhere(flag: &str) -> bool {
    matches!(flag, "debug-policy" | "td-debug" | "enclave-debug" | "software-tee" | "test-root")
        || flag.starts_with("vmpl-")
}

fn others(flags: &[String]) -> Vec<String> {
    flags.iter().filter(|flag| !is_judged_elsewhere(flag)).cloned().collect()
}

fn apply<F>(verdict: &mut Verdict<F>, policy: &Policy, subject: &Subject<'_>) {
    for check in policy.judge(subject) {
        verdict.require(check);
    }
}

fn registers(quote: &TpmQuote) -> Result<Pcrs, tpm::PcrsError> {
    Pcrs::from_first(Hash::Sha256, quote.pcrs.iter().cloned())
}

fn signature(quote: &TpmQuote) -> Result<Signature, tpm::SignatureError> {
    if quote.signature_is_structured {
        Signature::parse(&quote.signature)
    } else {
        Ok(Signature::raw_rsa(&quote.signature))
    }
}

fn said_of_snp(report: &Report, software: bool) -> Said {
    let policy = report.policy;
    Said {
        report_data: Field::Padded(report.report_data.to_vec()),
        host_data: Field::Padded(report.host_data.to_vec()),
        launch: BTreeMap::from([("measurement".to_owned(), hex::encode(report.measurement))]),
        chip: if report.chip_id == [0; 64] { Vec::new() } else { report.chip_id.to_vec() },
        closed: vec![
            ("policy_debug_allowed", !policy.debug(), "false".into(), policy.debug().to_string()),
            ("policy_migrate_ma_allowed", !policy.migrate_ma(), "false".into(), policy.migrate_ma().to_string()),
            ("guest_vmpl", report.vmpl == 0, "0".into(), report.vmpl.to_string()),
        ],
        claims: json!({ "snp": {
            "measurement": hex::encode(report.measurement),
            "chip_id": hex::encode(report.chip_id),
            "policy_abi_major": policy.abi_major(),
            "policy_abi_minor": policy.abi_minor(),
            "policy_smt_allowed": policy.smt(),
            "policy_migrate_ma": policy.migrate_ma(),
            "policy_debug_allowed": policy.debug(),
            "policy_single_socket": policy.single_socket(),
            "reported_tcb_bootloader": report.reported_tcb.bootloader(),
            "reported_tcb_tee": report.reported_tcb.tee(),
            "reported_tcb_snp": report.reported_tcb.snp(),
            "reported_tcb_microcode": report.reported_tcb.microcode(),
            "platform_smt_enabled": report.platform_info & 1 == 1,
            "platform_tsme_enabled": report.platform_info >> 1 & 1 == 1,
            "software_tee": software,
        } }),
    }
}

fn said_of_quote(fields: &dcap::Fields) -> Said {
    let quote = &fields.quote;
    let chip = fields.pck.as_ref().map(|pck| pck.ppid.to_vec()).unwrap_or_default();
    let report_data = Field::Padded(quote.report_data().to_vec());
    let host_data = Field::Padded(quote.host_data().to_vec());
    match &quote.body {
        Body::Td(td) => {
            let mut launch = BTreeMap::from([("mrtd".to_owned(), hex::encode(td.mrtd))]);
            let names = ["rtmr0", "rtmr1", "rtmr2", "rtmr3"].into_iter();
            launch.extend(names.zip(td.rtmr).map(|(name, value)| (name.to_owned(), hex::encode(value))));
            let debug = td.debug();
            Said {
                report_data,
                host_data,
                launch,
                chip,
                closed: vec![("td_attributes_debug", !debug, "false".into(), debug.to_string())],
                claims: json!({ "tdx": { "quote": { "body": {
                    "mr_td": hex::encode(td.mrtd),
                    "mr_seam": hex::encode(td.mr_seam),
                    "mrsigner_seam": hex::encode(td.mrsigner_seam),
                    "seam_attributes": hex::encode(td.seam_attributes),
                    "td_attributes": hex::encode(td.td_attributes),
                    "xfam": hex::encode(td.xfam),
                    "mr_config_id": hex::encode(td.mr_config_id),
                    "mr_owner": hex::encode(td.mr_owner),
                    "mr_owner_config": hex::encode(td.mr_owner_config),
                    "rtmr_0": hex::encode(td.rtmr[0]),
                    "rtmr_1": hex::encode(td.rtmr[1]),
                    "rtmr_2": hex::encode(td.rtmr[2]),
                    "rtmr_3": hex::encode(td.rtmr[3]),
                    "report_data": hex::encode(td.report_data),
                    "tcb_svn": hex::encode(td.tee_tcb_svn),
                } }, "td_attributes": { "debug": debug } } }),
            }
        }
        Body::Enclave(enclave) => {
            let debug = enclave.debug();
            Said {
                report_data,
                host_data,
                launch: BTreeMap::from([
                    ("mrenclave".to_owned(), hex::encode(enclave.mrenclave)),
                    ("mrsigner".to_owned(), hex::encode(enclave.mrsigner)),
                    ("isv_prod_id".to_owned(), enclave.isv_prod_id.to_string()),
                    ("isv_svn".to_owned(), enclave.isv_svn.to_string()),
                ]),
                chip,
                closed: vec![("attributes_debug", !debug, "false".into(), debug.to_string())],
                claims: json!({ "sgx": { "body": {
                    "mr_enclave": hex::encode(enclave.mrenclave),
                    "mr_signer": hex::encode(enclave.mrsigner),
                    "cpu_svn": hex::encode(enclave.cpu_svn),
                    "misc_select": hex::encode(enclave.misc_select),
                    "attributes": hex::encode(enclave.attributes),
                    "config_id": hex::encode(enclave.config_id),
                    "config_svn": enclave.config_svn,
                    "isv_prod_id": enclave.isv_prod_id,
                    "isv_svn": enclave.isv_svn,
                    "isv_ext_prod_id": hex::encode(enclave.isv_ext_prod_id),
                    "isv_family_id": hex::encode(enclave.isv_family_id),
                    "report_data": hex::encode(enclave.report_data),
                } } }),
            }
        }
    }
}

/// The registers and the hardware's own values together; what the guest included is in the TPM's quote.
fn said_of_vtpm(kind: Kind, inner: Said, quote: &tpm::Quote, registers: &Pcrs) -> Said {
    let mut launch = inner.launch;
    launch.extend(of_registers(registers));
    let mut claims = serde_json::Map::new();
    if let Value::Object(of_hardware) = inner.claims {
        claims.extend(of_hardware);
    }
    claims.insert(kind.name().to_owned(), json!({ "tpm": registers_claims(registers) }));
    Said {
        report_data: Field::Exact(quote.extra_data.clone()),
        host_data: Field::Extended(registers.get(8).unwrap_or_default().to_vec()),
        launch,
        chip: inner.chip,
        // A virtual TPM's guest runs below the paravisor, which speaks at the highest level.
        closed: inner.closed.into_iter().filter(|(name, ..)| *name != "guest_vmpl").collect(),
        claims: Value::Object(claims),
    }
}

fn of_registers(registers: &Pcrs) -> Launch {
    let value = |register: u8| registers.get(register).map(|value| (format!("pcr{register:02}"), hex::encode(value)));
    registers.registers().filter_map(value).collect()
}

fn registers_claims(registers: &Pcrs) -> serde_json::Map<String, Value> {
    of_registers(registers).into_iter().map(|(name, value)| (name, Value::String(value))).collect()
}

impl Verified {
    fn of<F>(verdict: &Verdict<F>, said: Option<Said>, raw: &[u8]) -> Self {
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
                owner: (check.name == "chain-to-anchor" || check.name == "pck-chain")
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
            said,
            raw: raw.to_vec(),
            chain: Vec::new(),
        }
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
            said: None,
            raw: Vec::new(),
            chain: Vec::new(),
        }
    }
}
