//! The default appraisal: authentic evidence, bound to this handshake, from an expected launch of an expected workload,
//! that nobody can debug. Every check is made and listed, also after one has failed; the first that failed decides.

use crate::{
    collateral::Shelf,
    initdata,
    record::{CheckRecord, Outcome},
    release::{bounded_list, describe_references},
    verify::{self, Field, Said, Trust, Verified},
    workload::Workload,
};
use belljar_rcar::{HashAlgorithm, InitData, ear::TrustVector, report_data, wire::RuntimeData};
use belljar_verifier::Evidence;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What the broker goes by.
pub(crate) struct Known<'a> {
    pub(crate) trust: &'a Trust,
    pub(crate) shelf: &'a Shelf,
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
#[derive(Debug)]
pub(crate) struct Appraised {
    /// `snp`, `tdx`, …
    kind: &'static str,
    /// The verification, with the appraisal's checks behind its own.
    pub(crate) verified: Verified,
    pub(crate) trust_vector: TrustVector,
    /// First 32 bytes of the init-data digest that the hardware bound; only when the document is known to be that one.
    pub(crate) host_data: Option<[u8; 32]>,
    /// Names of the workloads behind HOST_DATA.
    pub(crate) workloads: Vec<String>,
}

const OWNER_BROKER: &str = "this broker's policy";

impl Appraised {
    pub(crate) fn tee(&self) -> &'static str {
        if self.verified.software { "software-tee" } else { self.kind }
    }

    /// The check that decides against the workload.
    pub(crate) fn first_failure(&self) -> Option<&CheckRecord> {
        self.verified.failure.and_then(|index| self.verified.checks.get(index))
    }

    fn push(&mut self, name: &str, holds: bool, expected: String, found: String, owner: Option<String>) -> bool {
        let outcome = if holds { Outcome::Passed } else { Outcome::Failed };
        let Verified { checks, failure, .. } = &mut self.verified;
        if !holds && failure.is_none() {
            *failure = Some(checks.len());
        }
        checks.push(CheckRecord { name: name.into(), outcome, expected, found, owner });
        holds
    }
}

pub(crate) fn appraise(known: &Known<'_>, evidence: &Evidence, bound: &Bound<'_>) -> Appraised {
    let verified = verify::verify(evidence, known.trust, known.shelf, known.at);
    let trust_vector = TrustVector { hardware: 97, ..TrustVector::default() };
    let kind = evidence.kind().name();
    let mut appraised = Appraised { kind, verified, trust_vector, host_data: None, workloads: Vec::new() };
    let Some(said) = appraised.verified.said.clone() else { return appraised };
    let genuine = appraised.verified.failure.is_none();

    binding(&mut appraised, bound, &said);
    let known_workload = contract(&mut appraised, known, bound.init_data, &said);
    let measured = measurement(&mut appraised, known, &said);
    let closed = said.closed.iter().fold(true, |all, (name, holds, expected, found)| {
        appraised.push(name, *holds, expected.clone(), found.clone(), Some(OWNER_BROKER.into())) && all
    });

    let software = appraised.verified.software;
    let vendor = if kind.contains("snp") { "amd's root" } else { "the vendor's root" };
    let found = match (genuine, software) {
        (true, false) => format!("hardware under {vendor}"),
        (true, true) => "software-tee: protects nothing from its host".to_owned(),
        (false, _) => "not authentic".to_owned(),
    };
    let (expected, allowed) = match known.allow_software_tee {
        true => (format!("hardware under {vendor}, or a software tee (allowed by --allow-software-tee)"), genuine),
        false => (format!("hardware under {vendor}"), genuine && !software),
    };
    appraised.push("hardware", allowed, expected, found, Some(OWNER_BROKER.into()));

    // AR4SI §2.3.4. A software TEE is recognised, and its trustworthiness is contraindicated (96).
    appraised.trust_vector = TrustVector {
        hardware: match (genuine, software) {
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
    appraised
}

/// The evidence answers this session's challenge, and vouches for this key.
fn binding(appraised: &mut Appraised, bound: &Bound<'_>, said: &Said) {
    let digest =
        report_data(&bound.runtime_data.tee_pubkey, bound.nonce, bound.additional_evidence, HashAlgorithm::default());
    // The digest has 48 bytes, filled up to 64; a TPM's quote carries it without the filling, a bare TPM's 32 bytes of it.
    let expected = match (&said.report_data, appraised.kind) {
        (Field::Padded(_), _) => digest.to_vec(),
        (_, "tpm") => digest.iter().take(32).copied().collect(),
        _ => digest.iter().take(48).copied().collect(),
    };
    let found = said.report_data.found();
    appraised.push(
        "report_data",
        found.ct_eq(&expected).into(),
        format!("{} (digest of this session's nonce and the tee key)", hex::encode(&expected)),
        hex::encode(found),
        Some("the attester".into()),
    );
    if !bound.additional_evidence.is_empty() {
        let found = format!("{} bytes", bound.additional_evidence.len());
        appraised.push("additional_evidence", false, "none".into(), found, Some(OWNER_BROKER.into()));
    }
}

/// The init-data document is the one that the hardware bound, and it is one that we know.
fn contract(appraised: &mut Appraised, known: &Known<'_>, document: Option<&InitData>, said: &Said) -> bool {
    let bound = hex::encode(said.host_data.found());
    let digest = match document {
        None => Err("no init-data document was sent".to_owned()),
        Some(InitData { format, .. }) if format != "toml" => {
            Err(initdata::InitDataError::Format(belljar_rcar::sanitize(format, 32)).to_string())
        }
        Some(InitData { body, .. }) => initdata::digest(body).map_err(|error| error.to_string()),
    };
    let sent = appraised.push(
        "init_data",
        digest.as_ref().is_ok_and(|digest| said.host_data.of(digest) == said.host_data.found()),
        format!("{bound} (host_data of the report)"),
        digest.as_ref().map_or_else(Clone::clone, |digest| {
            format!("{} (digest of the document)", hex::encode(said.host_data.of(digest)))
        }),
        Some("the hardware".into()),
    );
    // What names the workload: the document's digest when it is the bound one, else what stands in the register.
    let id = match &digest {
        Ok(digest) if sent => initdata::truncated(digest),
        _ => initdata::truncated(said.host_data.found()),
    };
    appraised.host_data = Some(id);
    let mine: Vec<&Arc<Workload>> = known.workloads.iter().filter(|w| w.initdata_digest == id).collect();
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
    appraised.push("host_data", !mine.is_empty(), expected, hex::encode(id), Some(owner)) && sent
}

/// The launch measurement is one that the workload may run as.
fn measurement(appraised: &mut Appraised, known: &Known<'_>, said: &Said) -> bool {
    let found = describe_launch(&said.launch);
    let id = appraised.host_data;
    let mine: Vec<_> = known.workloads.iter().filter(|w| Some(w.initdata_digest) == id).collect();
    if mine.is_empty() {
        appraised.verified.checks.push(CheckRecord {
            name: "measurement".into(),
            outcome: Outcome::NotChecked,
            expected: "the reference values of a known workload".into(),
            found: format!("{found}; not compared, because host_data names no known workload"),
            owner: None,
        });
        return false;
    }
    let references = || mine.iter().flat_map(|w| &w.references);
    let holds = references().any(|reference| reference.matches(&said.launch));
    let (expected, owner) = describe_references(references());
    appraised.push("measurement", holds, expected, found, Some(owner))
}

/// A launch in one line: the one value of SNP by itself, several with their names.
pub(crate) fn describe_launch(launch: &verify::Launch) -> String {
    match launch.iter().next() {
        Some((name, value)) if launch.len() == 1 && name == "measurement" => value.clone(),
        None => "nothing".to_owned(),
        _ => launch.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", "),
    }
}
