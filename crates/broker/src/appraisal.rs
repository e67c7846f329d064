//! The appraisal of one handshake: the evidence is authentic, bound to this session, and what the policy takes. Every check
//! is made and listed, also after one has failed; the first that failed decides. The rules are `belljar-appraisal`'s.

use crate::{
    collateral::Shelf,
    initdata,
    record::{CheckRecord, Outcome},
    release::bounded_list,
    revocation::Revocations,
    verify::{self, Carried, Field, Trust, Verified},
    workload::{Launch, Workload},
};
use belljar_appraisal::{
    Claims, Finding,
    claims::{Context, Contract, InitData as Sent},
    policy::{self, Judgement, Settings},
    reference::{References, names::measured},
    release::Identity,
};
use belljar_rcar::{HashAlgorithm, InitData, ear::TrustVector, report_data, wire::RuntimeData};
use belljar_verifier::Evidence;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};
use subtle::ConstantTimeEq;

/// What the broker goes by.
pub(crate) struct Known<'a> {
    pub(crate) trust: &'a Trust,
    pub(crate) settings: &'a Settings,
    pub(crate) shelf: &'a Shelf,
    /// The tenant's own reference values: for workloads that nobody registered.
    pub(crate) references: &'a References,
    pub(crate) revocations: &'a Revocations,
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
    /// First 32 bytes of what the hardware bound: the digest of the init-data document when it is that one, which the check
    /// `init_data` says.
    pub(crate) host_data: Option<[u8; 32]>,
    /// Names of the workloads behind HOST_DATA.
    pub(crate) workloads: Vec<String>,
    /// What the launch was measured to, by the names of reference values.
    pub(crate) launch: Launch,
    pub(crate) claims: Option<Claims>,
    /// Who attested, for releases.
    pub(crate) identity: Option<Identity>,
}

const OWNER_BROKER: &str = "this broker's policy";
/// Rules of the policy that are listed here by checks of their own, which say more.
const LISTED: [&str; 3] = ["evidence", "session", "init-data"];

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

    fn note(&mut self, name: &str, expected: &str, found: String) {
        self.verified.checks.push(CheckRecord {
            name: name.into(),
            outcome: Outcome::NotChecked,
            expected: expected.into(),
            found,
            owner: None,
        });
    }
}

pub(crate) fn appraise(known: &Known<'_>, evidence: &Evidence, bound: &Bound<'_>) -> Appraised {
    let verified = verify::verify(evidence, known.trust, known.settings, known.shelf, known.at);
    let carried = verified.carried.clone();
    let mut appraised = Appraised {
        kind: evidence.kind().name(),
        verified,
        trust_vector: TrustVector { hardware: 97, ..TrustVector::default() },
        host_data: None,
        workloads: Vec::new(),
        launch: Launch::new(),
        claims: None,
        identity: None,
    };
    let Some(carried) = carried else { return appraised };
    let session_bound = binding(&mut appraised, bound, &carried);
    let init_data = init_data(&mut appraised, bound.init_data, &carried);
    let mine = contract(&mut appraised, known);
    let contract = appraised.host_data.map(|digest| Contract { digest: hex::encode(digest), ..Contract::default() });
    let runtime_data = json!({
        "tee-pubkey": bound.runtime_data.tee_pubkey,
        "nonce": bound.nonce,
        "additional-evidence": bound.additional_evidence,
    });
    let context = Context { session_bound, runtime_data, init_data, contract };
    let Some(claims) = appraised.verified.claims(&context) else { return appraised };

    // A registered workload runs as its own references say, and as nobody else's.
    let registered = references(&mine);
    let references = if mine.is_empty() { known.references } else { &registered };
    let judgement = policy::judge(&claims, references, known.settings, known.at);
    appraised.trust_vector = judgement.vector;
    list(&mut appraised, &judgement);
    appraised.launch = launch(&claims);
    let identity = Identity::of(&claims, &judgement);
    if let Some(id) = appraised.host_data {
        let revoked = known.revocations.of(&appraised.launch, &carried.chip, &id, identity.signer.as_deref());
        let found = match revoked {
            Some(one) => {
                format!("{} {} is revoked since {} by {}: {}", one.subject, one.value, one.at, one.by, one.reason)
            }
            None => "nothing that is revoked".to_owned(),
        };
        let owner = revoked.map(|one| one.by.clone());
        appraised.push("revocation-list", revoked.is_none(), "nothing that is revoked".into(), found, owner);
    }
    appraised.identity = Some(identity);
    appraised.claims = Some(claims);
    appraised
}

/// The policy's findings among the checks.
fn list(appraised: &mut Appraised, judgement: &Judgement) {
    for Finding { rule, expected, found, owner, passed, .. } in &judgement.findings {
        // Evidence that is not authentic has failed already, and says nothing more.
        let known = LISTED.contains(&rule.as_str()) && (*passed || appraised.verified.failure.is_some());
        if !known {
            appraised.push(rule, *passed, expected.clone(), found.clone(), Some(owner.to_string()));
        }
    }
}

/// The evidence answers this session's challenge, and vouches for this key.
fn binding(appraised: &mut Appraised, bound: &Bound<'_>, carried: &Carried) -> bool {
    let digest =
        report_data(&bound.runtime_data.tee_pubkey, bound.nonce, bound.additional_evidence, HashAlgorithm::default());
    // The digest has 48 bytes, filled up to 64; a TPM's quote carries it without the filling, a bare TPM's 32 bytes of it.
    let expected = match (&carried.report_data, appraised.kind) {
        (Field::Padded(_), _) => digest.to_vec(),
        (_, "tpm") => digest.iter().take(32).copied().collect(),
        _ => digest.iter().take(48).copied().collect(),
    };
    let found = carried.report_data.found();
    let holds = appraised.push(
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
    holds
}

/// The init-data document is the one that the hardware bound.
fn init_data(appraised: &mut Appraised, document: Option<&InitData>, carried: &Carried) -> Sent {
    let bound = hex::encode(carried.host_data.found());
    let digest = match document {
        None => Err("no init-data document was sent".to_owned()),
        Some(InitData { format, .. }) if format != "toml" => {
            Err(initdata::InitDataError::Format(belljar_rcar::sanitize(format, 32)).to_string())
        }
        Some(InitData { body, .. }) => initdata::digest(body).map_err(|error| error.to_string()),
    };
    let holds = appraised.push(
        "init_data",
        digest.as_ref().is_ok_and(|digest| carried.host_data.of(digest) == carried.host_data.found()),
        format!("{bound} (host_data of the report)"),
        digest.as_ref().map_or_else(Clone::clone, |digest| {
            format!("{} (digest of the document)", hex::encode(carried.host_data.of(digest)))
        }),
        Some("the hardware".into()),
    );
    // What names the workload: the document's digest when it is the bound one, else what stands in the register.
    let id = match &digest {
        Ok(digest) if holds => initdata::truncated(digest),
        _ => initdata::truncated(carried.host_data.found()),
    };
    appraised.host_data = Some(id);
    match (document, digest) {
        (None, _) => Sent::Absent,
        (Some(document), _) if holds => Sent::Bound { claims: initdata::claims(&document.body) },
        (Some(_), Ok(digest)) => Sent::NotBound { found: hex::encode(digest) },
        (Some(_), Err(why)) => Sent::NotBound { found: why },
    }
}

/// The workloads that were registered for what the hardware bound.
fn contract(appraised: &mut Appraised, known: &Known<'_>) -> Vec<Arc<Workload>> {
    let Some(id) = appraised.host_data else { return Vec::new() };
    let mine: Vec<Arc<Workload>> = known.workloads.iter().filter(|w| w.initdata_digest == id).cloned().collect();
    appraised.workloads = mine.iter().map(|w| w.name.clone()).collect();
    let described = |list: &[Arc<Workload>]| {
        let mut values: Vec<String> =
            list.iter().map(|w| format!("{} ({})", hex::encode(w.initdata_digest), w.name)).collect();
        values.dedup();
        bounded_list(&values)
    };
    let owners = |list: &[Arc<Workload>]| {
        let mut owners: Vec<String> = list.iter().map(|w| w.owner.clone()).collect();
        owners.dedup();
        bounded_list(&owners)
    };
    let found = hex::encode(id);
    if !mine.is_empty() {
        appraised.push("host_data", true, described(&mine), found, Some(owners(&mine)));
    } else if !known.references.values().is_empty() {
        let expected = "a registered workload, or any under the tenant's reference values";
        appraised.note("host_data", expected, format!("{found}, which is no registered workload"));
    } else if known.workloads.is_empty() {
        let expected = "the digest of a registered workload; there is none".to_owned();
        appraised.push("host_data", false, expected, found, Some("who registers workloads".to_owned()));
    } else {
        let (expected, owner) = (described(known.workloads), owners(known.workloads));
        appraised.push("host_data", false, expected, found, Some(owner));
    }
    mine
}

/// The reference values of registered workloads, each launch a set of its own.
fn references(workloads: &[Arc<Workload>]) -> References {
    let mut sets = BTreeSet::new();
    let mut values = Vec::new();
    for reference in workloads.iter().flat_map(|w| &w.references) {
        // Two launches may have one name, and are two sets all the same.
        let mut set = reference.name.clone();
        if !sets.insert(set.clone()) {
            set = format!("{:.100} #{}", reference.name, sets.len());
        }
        values.extend(reference.values(set));
    }
    // They were checked when they were registered.
    References::new(values).unwrap_or_default()
}

/// The claims that are compared with reference values.
fn launch(claims: &Claims) -> Launch {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let all = measured(claims.tee(), claims.is_software()).iter();
    all.filter_map(|measured| Some((measured.name.to_owned(), text(claims.at(measured.claim)?)))).collect()
}

/// A launch in one line: one value by itself, several with their names.
pub(crate) fn describe_launch(launch: &Launch) -> String {
    let mut values: Vec<&String> = launch.values().collect();
    values.dedup();
    match values[..] {
        [] => "nothing".to_owned(),
        [value] => value.clone(),
        _ => launch.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", "),
    }
}
