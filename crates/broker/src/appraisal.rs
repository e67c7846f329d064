//! The default appraisal: authentic evidence, bound to this handshake, from an expected launch of an expected workload,
//! that nobody can debug. Every check is made and listed, also after one has failed; the first that failed decides.

use crate::{
    initdata,
    record::{CheckRecord, Outcome},
    release::{bounded_list, describe_references},
    workload::Workload,
};
use belljar_evidence::snp::{self as evidence, Anchors, Chain, Report, SigningKey};
use belljar_rcar::{
    HashAlgorithm, InitData,
    ear::TrustVector,
    report_data,
    snp::{CertType, SnpEvidence},
    wire::RuntimeData,
};
use serde_json::{Value, json};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What the broker goes by.
pub(crate) struct Known<'a> {
    pub(crate) anchors: &'a Anchors,
    pub(crate) allow_software_tee: bool,
    pub(crate) workloads: &'a [Arc<Workload>],
    /// Unix seconds.
    pub(crate) at: u64,
}

/// What the evidence must be bound to.
pub(crate) struct Bound<'a> {
    /// The challenge's nonce, not the message's.
    pub(crate) nonce: &'a str,
    pub(crate) runtime_data: &'a RuntimeData,
    pub(crate) additional_evidence: &'a str,
    pub(crate) init_data: Option<&'a InitData>,
}

/// The appraisal.
#[derive(Debug, Default)]
pub(crate) struct Appraised {
    pub(crate) checks: Vec<CheckRecord>,
    pub(crate) trust_vector: TrustVector,
    pub(crate) software: bool,
    /// What the report says; facts only when no check of the evidence failed.
    pub(crate) report: Option<Report>,
    /// Names of the workloads behind HOST_DATA.
    pub(crate) workloads: Vec<String>,
    /// Name of the first check that decides against the workload.
    failure: Option<usize>,
}

const OWNER_BROKER: &str = "this broker's policy";

impl Appraised {
    pub(crate) fn tee(&self) -> &'static str {
        if self.software { "software-tee" } else { "snp" }
    }

    /// The check that decides against the workload.
    pub(crate) fn first_failure(&self) -> Option<&CheckRecord> {
        self.failure.and_then(|index| self.checks.get(index))
    }

    fn push(&mut self, name: &str, holds: bool, expected: String, found: String, owner: Option<String>) -> bool {
        let outcome = if holds { Outcome::Passed } else { Outcome::Failed };
        if !holds && self.failure.is_none() {
            self.failure = Some(self.checks.len());
        }
        self.checks.push(CheckRecord { name: name.into(), outcome, expected, found, owner });
        holds
    }
}

pub(crate) fn appraise(known: &Known<'_>, evidence: &SnpEvidence, bound: &Bound<'_>) -> Appraised {
    let mut appraised = Appraised::default();
    let Some(report) = authentic(&mut appraised, known, evidence) else {
        appraised.trust_vector.hardware = 97;
        return appraised;
    };
    let genuine = appraised.failure.is_none();

    let binding =
        report_data(&bound.runtime_data.tee_pubkey, bound.nonce, bound.additional_evidence, HashAlgorithm::default());
    appraised.push(
        "report_data",
        report.report_data.ct_eq(&binding).into(),
        format!("{} (digest of this session's nonce and the tee key)", hex::encode(binding)),
        hex::encode(report.report_data),
        Some("the attester".into()),
    );
    let devices = bound.additional_evidence.is_empty();
    if !devices {
        let found = format!("{} bytes", bound.additional_evidence.len());
        appraised.push("additional_evidence", false, "none".into(), found, Some(OWNER_BROKER.into()));
    }

    let known_workload = contract(&mut appraised, known, bound.init_data, &report);
    let measured = measurement(&mut appraised, known, &report);
    let closed = closed(&mut appraised, &report);

    let found = match (genuine, appraised.software) {
        (true, false) => "hardware under amd's root",
        (true, true) => "software-tee: protects nothing from its host",
        (false, _) => "not authentic",
    };
    let (expected, allowed) = match known.allow_software_tee {
        true => ("hardware under amd's root, or a software tee (allowed by --allow-software-tee)", genuine),
        false => ("hardware under amd's root", genuine && !appraised.software),
    };
    appraised.push("hardware", allowed, expected.into(), found.into(), Some(OWNER_BROKER.into()));

    // AR4SI §2.3.4. A software TEE is recognised, and its trustworthiness is contraindicated (96).
    appraised.trust_vector = TrustVector {
        hardware: match (genuine, appraised.software) {
            (true, false) => 2,
            (true, true) => 96,
            (false, _) => 97,
        },
        executables: if measured { 3 } else { 33 },
        configuration: match (closed, known_workload) {
            (false, _) => 96,
            (true, true) => 2,
            (true, false) => 36,
        },
        ..TrustVector::default()
    };
    appraised.report = Some(report);
    appraised
}

/// Verifies the evidence itself; gives what the report says, when it can be read.
fn authentic(appraised: &mut Appraised, known: &Known<'_>, evidence: &SnpEvidence) -> Option<Report> {
    let raw = match evidence.report_bytes().and_then(|raw| evidence.certificates().map(|_| raw)) {
        Ok(raw) => raw,
        Err(error) => {
            appraised.push("evidence", false, "an snp report and its chain".into(), error.to_string(), None);
            return None;
        }
    };
    let of = |kind: &CertType| evidence.certificate(kind).map(<[u8]>::to_vec).unwrap_or_default();
    let vlek = Report::parse(&raw).is_ok_and(|report| report.signing_key == SigningKey::Vlek);
    let vek = if vlek { CertType::VLEK } else { CertType::VCEK };
    let chain = Chain { ark: of(&CertType::ARK), ask: of(&CertType::ASK), vek: of(&vek), ..Chain::default() };
    let verdict = evidence::verify(&raw, &chain, known.anchors, known.at);
    for check in &verdict.checks {
        if !verdict.is_valid() && verdict.first_failure == Some(check.name) {
            appraised.failure = Some(appraised.checks.len());
        }
        appraised.checks.push(CheckRecord {
            name: check.name.into(),
            outcome: check.outcome.into(),
            expected: check.expected.clone(),
            found: check.found.clone(),
            owner: (check.name == "chain-to-anchor").then(|| "this broker's trust anchors".to_owned()),
        });
    }
    appraised.software = verdict.software;
    if !verdict.is_valid() && appraised.failure.is_none() {
        let found = verdict.verdict.to_string();
        appraised.push("evidence", false, "valid".into(), found, None);
    }
    verdict.facts.report
}

/// The init-data document is the one that the hardware bound, and it is one that we know.
fn contract(appraised: &mut Appraised, known: &Known<'_>, document: Option<&InitData>, report: &Report) -> bool {
    let bound = hex::encode(report.host_data);
    let digest = match document {
        None => Err("no init-data document was sent".to_owned()),
        Some(InitData { format, .. }) if format != "toml" => {
            Err(initdata::InitDataError::Format(belljar_rcar::sanitize(format, 32)).to_string())
        }
        Some(InitData { body, .. }) => initdata::host_data(body).map_err(|error| error.to_string()),
    };
    let sent = appraised.push(
        "init_data",
        digest.as_ref().is_ok_and(|digest| *digest == report.host_data),
        format!("{bound} (host_data of the report)"),
        digest.map_or_else(|error| error, |digest| format!("{} (digest of the document)", hex::encode(digest))),
        Some("the hardware".into()),
    );
    let mine: Vec<&Arc<Workload>> = known.workloads.iter().filter(|w| w.initdata_digest == report.host_data).collect();
    appraised.workloads = mine.iter().map(|w| w.name.clone()).collect();
    let described = |list: &mut dyn Iterator<Item = &Arc<Workload>>| {
        let mut values: Vec<String> =
            list.map(|w| format!("{} ({})", hex::encode(w.initdata_digest), w.name)).collect();
        values.dedup();
        bounded_list(&values)
    };
    let mut owners: Vec<String> =
        if mine.is_empty() { known.workloads.iter() } else { [].iter() }.map(|w| w.owner.clone()).collect();
    owners.extend(mine.iter().map(|w| w.owner.clone()));
    owners.dedup();
    let (expected, owner) = if known.workloads.is_empty() {
        ("the digest of a registered workload; there is none".to_owned(), "who registers workloads".to_owned())
    } else if mine.is_empty() {
        (described(&mut known.workloads.iter()), bounded_list(&owners))
    } else {
        (described(&mut mine.iter().copied()), bounded_list(&owners))
    };
    appraised.push("host_data", !mine.is_empty(), expected, bound, Some(owner)) && sent
}

/// The launch measurement is one that the workload may run as.
fn measurement(appraised: &mut Appraised, known: &Known<'_>, report: &Report) -> bool {
    let found = hex::encode(report.measurement);
    let mine: Vec<_> = known.workloads.iter().filter(|w| w.initdata_digest == report.host_data).collect();
    if mine.is_empty() {
        appraised.checks.push(CheckRecord {
            name: "measurement".into(),
            outcome: Outcome::NotChecked,
            expected: "the reference values of a known workload".into(),
            found: format!("{found}; not compared, because host_data names no known workload"),
            owner: None,
        });
        return false;
    }
    let references = || mine.iter().flat_map(|w| &w.references);
    let holds = references().any(|reference| reference.measurement == report.measurement);
    let (expected, owner) = describe_references(references());
    appraised.push("measurement", holds, expected, found, Some(owner))
}

/// Nobody outside can read or move the guest, and the guest's most privileged level speaks.
fn closed(appraised: &mut Appraised, report: &Report) -> bool {
    let owner = || Some(OWNER_BROKER.to_owned());
    let policy = report.policy;
    let checks = [
        ("policy_debug_allowed", !policy.debug(), "false", policy.debug().to_string()),
        ("policy_migrate_ma_allowed", !policy.migrate_ma(), "false", policy.migrate_ma().to_string()),
        ("guest_vmpl", report.vmpl == 0, "0", report.vmpl.to_string()),
    ];
    checks.into_iter().fold(true, |all, (name, holds, expected, found)| {
        appraised.push(name, holds, expected.into(), found, owner()) && all
    })
}

/// The claims of the TEE in the token, with the names of the upstream verifier; bytes in lowercase hex.
pub(crate) fn snp_claims(report: &Report, software: bool) -> Value {
    json!({
        "measurement": hex::encode(report.measurement),
        "chip_id": hex::encode(report.chip_id),
        "policy_abi_major": report.policy.abi_major(),
        "policy_abi_minor": report.policy.abi_minor(),
        "policy_smt_allowed": report.policy.smt(),
        "policy_migrate_ma": report.policy.migrate_ma(),
        "policy_debug_allowed": report.policy.debug(),
        "policy_single_socket": report.policy.single_socket(),
        "reported_tcb_bootloader": report.reported_tcb.bootloader(),
        "reported_tcb_tee": report.reported_tcb.tee(),
        "reported_tcb_snp": report.reported_tcb.snp(),
        "reported_tcb_microcode": report.reported_tcb.microcode(),
        "platform_smt_enabled": report.platform_info & 1 == 1,
        "platform_tsme_enabled": report.platform_info >> 1 & 1 == 1,
        "software_tee": software,
    })
}
