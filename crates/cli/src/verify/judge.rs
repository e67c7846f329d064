//! From evidence to a judgement: what was checked, what was expected, what was found.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use belljar_attested::{report_data, wire::EvidenceReply};
use belljar_contract::{Contract, Initdata, digest};
use belljar_evidence::snp::{self, Anchors, Chain, Report, Root, SigningKey};
use belljar_evidence::{Decision, Missing, Options};
use belljar_guest_image::GuestImage;
use belljar_launch::{predict_snp, predict_software};
use belljar_rcar::snp::{CertType, SnpEvidence};
use belljar_verifier::Evidence;
use belljar_vmm::machine::SHAPES;
use serde::Serialize;
use subtle::ConstantTimeEq;

use crate::evidence::collateral::Store;
use crate::failure::Failure;
use crate::paths::Paths;
use crate::verbs::guest;
use crate::verify::Common;
use crate::verify::expected::{Comparison, Expected};

/// What the user trusts.
#[derive(Debug)]
pub struct Trust {
    roots: Roots,
    image: GuestImage,
}

/// Whose evidence counts.
#[derive(Debug)]
struct Roots {
    anchors: Anchors,
    allow_software: bool,
    /// What has the revocation lists of AMD's roots, which are then needed.
    collateral: Option<Store>,
}

impl Trust {
    /// AMD's roots, the software root that was asked for, and the guest image that pods must have been started from.
    pub fn load(common: &Common, paths: &Paths) -> Result<Self, Failure> {
        let image = guest::open(&common.image.clone().unwrap_or_else(|| paths.guest()))?;
        let mut anchors = Anchors::amd();
        if common.allow_software_tee {
            let file = common.software_root.clone().unwrap_or_else(|| paths.softtee().join("v1/ark.der"));
            anchors = anchors.with_software_root(&read_root(&file)?);
        }
        let open = |path: &PathBuf| Store::open(path, common.bundle_key.as_deref());
        let collateral = common.collateral.as_ref().map(open).transpose()?;
        Ok(Self { roots: Roots { anchors, allow_software: common.allow_software_tee, collateral }, image })
    }
}

fn read_root(file: &Path) -> Result<Vec<u8>, Failure> {
    const MAX_ROOT: u64 = 64 * 1024;
    let broken = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("root of the software tee {}: {why}", file.display()))
            .hint("copy softtee/v1/ark.der from the data directory of who starts the pods (on a node /var/lib/belljar), and name it with --software-root")
    };
    let length = std::fs::metadata(file).map_err(|error| broken(&error))?.len();
    if length > MAX_ROOT {
        return Err(broken(&format!("{length} bytes, at most {MAX_ROOT}")));
    }
    std::fs::read(file).map_err(|error| broken(&error))
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// What had to be there.
    pub expected: String,
    /// What was there.
    pub found: String,
}

/// What the evidence shows. Nothing in it is to be believed when a check has failed.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The checks that decide, in order.
    pub checks: Vec<Check>,
    /// Whether it is the evidence of a software TEE.
    pub software: bool,
    /// Of the initdata document, as HOST_DATA has it, hex.
    pub initdata_digest: String,
    /// The launch measurement, hex, and which launch it is, where it is known.
    pub measurement: String,
    /// `guest image …, 1 vCPU`
    pub launch: Option<String>,
    /// The contract in the document.
    pub contract: Contract,
    /// The comparison with the user's file; nothing without one.
    pub comparison: Option<Comparison>,
}

impl Judged {
    /// The first check that failed.
    pub fn failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.passed)
    }
}

struct Checks(Vec<Check>);

impl Checks {
    fn push(&mut self, name: &str, passed: bool, expected: impl Into<String>, found: impl Into<String>) {
        self.0.push(Check { name: name.to_owned(), passed, expected: expected.into(), found: found.into() });
    }
}

/// Judges a reply to `nonce` on a connection whose server holds the key `spki`.
///
/// # Errors
/// Evidence that cannot be read, or that this version cannot judge: no verdict.
pub fn judge(
    reply: &EvidenceReply,
    nonce: &[u8],
    spki: &[u8],
    trust: &Trust,
    expected: Option<&Expected>,
) -> Result<Judged, Failure> {
    if reply.tee != "snp" {
        let tee = crate::failure::one_line(&reply.tee);
        return Err(Failure::undecided(format!("evidence of {tee} cannot be verified by this version, only snp")));
    }
    let evidence: SnpEvidence = serde_json::from_value(reply.evidence.clone())
        .map_err(|error| Failure::refused(format!("the evidence cannot be read: {error}")))?;
    let initdata = reply.initdata.as_bytes();
    let document = Initdata::parse(initdata).and_then(|document| document.contract());
    let contract = document.map_err(|error| Failure::refused(format!("the pod's initdata cannot be read: {error}")))?;
    let computed = digest(initdata).map_err(|error| Failure::refused(error.to_string()))?.host_data();

    let mut checks = Checks(Vec::new());
    let (report, software) = authentic(&mut checks, &evidence, &trust.roots)?;
    let wanted = report_data(nonce, spki);
    checks.push(
        "report-data",
        report.report_data.ct_eq(&wanted).into(),
        format!("{} (this nonce and the tls key of this connection)", hex::encode(wanted)),
        hex::encode(report.report_data),
    );
    let policy = report.policy;
    checks.push("policy-debug", !policy.debug(), "false", policy.debug().to_string());
    checks.push("policy-migrate-ma", !policy.migrate_ma(), "false", policy.migrate_ma().to_string());
    checks.push("vmpl", report.vmpl == 0, "0", report.vmpl.to_string());
    let launch = launch(trust, software, contract.debug, &report.measurement)?;
    checks.push(
        "measurement",
        launch.is_some(),
        format!("a launch of guest image {}", short(trust.image.id())),
        hex::encode(report.measurement),
    );
    checks.push(
        "host-data",
        computed.ct_eq(&report.host_data).into(),
        format!("{} (digest of the initdata that the pod sent)", hex::encode(computed)),
        hex::encode(report.host_data),
    );
    let comparison = expected.map(|expected| expected.compare(&contract, &report.host_data));
    Ok(Judged {
        checks: checks.0,
        software,
        initdata_digest: hex::encode(report.host_data),
        measurement: hex::encode(report.measurement),
        launch,
        contract,
        comparison,
    })
}

/// Whether the evidence itself is authentic, under which root.
fn authentic(checks: &mut Checks, evidence: &SnpEvidence, trust: &Roots) -> Result<(Report, bool), Failure> {
    let unreadable = |error: &dyn std::fmt::Display| Failure::refused(format!("the evidence cannot be read: {error}"));
    let raw = evidence.report_bytes().map_err(|error| unreadable(&error))?;
    evidence.certificates().map_err(|error| unreadable(&error))?;
    let report = Report::parse(&raw).map_err(|error| unreadable(&error))?;
    let of = |kind: &CertType| evidence.certificate(kind).map(<[u8]>::to_vec).unwrap_or_default();
    let vek = if report.signing_key == SigningKey::Vlek { CertType::VLEK } else { CertType::VCEK };
    let mut chain = Chain { ark: of(&CertType::ARK), ask: of(&CertType::ASK), vek: of(&vek), ..Chain::default() };
    let mut options = Options::UNASKED;
    // Nobody publishes a list for a software TEE.
    if let Some(store) = &trust.collateral
        && trust.anchors.root(&chain.ark) != Some(Root::Software)
    {
        let named = Evidence::Snp { report: raw.to_vec(), vek: chain.vek.clone(), intermediate: chain.ask.clone() };
        chain.crl = store.offer(&named, None, None)?.crl;
        options.missing = Missing::Undecided;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Failure::undecided)?.as_secs();
    let verdict = snp::verify(&raw, &chain, &trust.anchors, now, &options);
    match verdict.failure() {
        None if verdict.is_valid() => {}
        Some(missing) if verdict.verdict == Decision::Undecided && missing.name.starts_with("crl-") => {
            return Err(Failure::undecided(format!("{}: {}", missing.name, missing.found)).hint(
                "run `belljar collateral fetch` for this chip's product line, and name its result with --collateral",
            ));
        }
        Some(failure) => checks.push(failure.name, false, failure.expected.clone(), failure.found.clone()),
        None => checks.push("evidence", false, "valid", verdict.verdict.to_string()),
    }
    if verdict.is_valid() {
        let root = if verdict.software { "software tee" } else { "amd" };
        let expected = if trust.allow_software { "amd, or a software tee (--allow-software-tee)" } else { "amd" };
        checks.push("root", trust.allow_software || !verdict.software, expected, root);
    }
    Ok((report, verdict.software))
}

/// Which launch of the guest image has this measurement. A debugging launch counts only where the contract allows it.
fn launch(trust: &Trust, software: bool, debug: bool, found: &[u8; 48]) -> Result<Option<String>, Failure> {
    let lines: &[bool] = if debug { &[false, true] } else { &[false] };
    for debug in lines {
        for vcpus in SHAPES {
            let predict = if software { predict_software } else { predict_snp };
            let predicted = predict(&trust.image, *debug, vcpus).map_err(Failure::undecided)?;
            if predicted.ct_eq(found).into() {
                let plural = if vcpus == 1 { "vCPU" } else { "vCPUs" };
                let debugging = if *debug { ", debugging" } else { "" };
                let id = short(trust.image.id());
                return Ok(Some(format!("guest image {id}, {vcpus} {plural}{debugging}")));
            }
        }
    }
    Ok(None)
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests;
