//! The rules of the default policy.

use std::fmt::Write;

use belljar_rcar::ear::TrustVector;
use serde_json::Value;

use super::{Judgement, Rung, Settings};
use crate::reference::names::{Measured, measured};
use crate::reference::{ReferenceValue, References};
use crate::text::{listed, shown, time};
use crate::{Claims, Finding, Owner};

/// Flags that have a rule of their own.
const OWN_RULE: [&str; 7] =
    ["debug-policy", "td-debug", "enclave-debug", "migration-policy", "td-migratable", "software-tee", "test-root"];
/// AR4SI values.
const AFFIRMED: i8 = 2;
const APPROVED_EXECUTABLES: i8 = 3;
const KNOWN_WEAKNESS: i8 = 32;
const UNRECOGNISED_EXECUTABLES: i8 = 33;
const UNKNOWN_CONFIGURATION: i8 = 36;
const CONTRAINDICATED: i8 = 96;
const UNRECOGNISED_HARDWARE: i8 = 97;
const CRYPTOGRAPHY_FAILED: i8 = 99;

pub(super) struct Rules<'a> {
    claims: &'a Claims,
    references: &'a References,
    settings: &'a Settings,
    at: u64,
    vector: TrustVector,
    findings: Vec<Finding>,
}

/// Names of the measurement sets that the claims agree with.
pub(super) fn agreeing_sets(claims: &Claims, references: &References, at: u64) -> Vec<String> {
    let table = measured(claims.tee(), claims.is_software());
    let found: Vec<Option<&Value>> = table.iter().map(|measured| claims.at(measured.claim)).collect();
    let agreeing = references
        .sets()
        .filter_map(|(name, values)| Score::of(table, &found, values, at).agrees(table).then_some(name));
    agreeing.map(str::to_owned).collect()
}

/// Takes the worse of two AR4SI values; ours are never negative.
fn worsen(claim: &mut i8, value: i8) {
    *claim = (*claim).max(value);
}

impl<'a> Rules<'a> {
    pub(super) fn new(claims: &'a Claims, references: &'a References, settings: &'a Settings, at: u64) -> Self {
        Self { claims, references, settings, at, vector: TrustVector::default(), findings: Vec::with_capacity(16) }
    }

    pub(super) fn judge(mut self) -> Judgement {
        if !self.evidence() {
            self.vector.hardware = CRYPTOGRAPHY_FAILED;
            return Judgement { vector: self.vector, findings: self.findings, sets: Vec::new() };
        }
        self.session();
        self.vector.hardware = AFFIRMED;
        self.root();
        if !self.claims.is_software() {
            self.revocation();
            self.tcb();
            if self.is_intel() {
                self.tcb_eval_number();
                self.advisories();
                self.freshness();
            }
        }
        let sets = self.measurement();
        self.vector.configuration = AFFIRMED;
        self.closed("debug", "debug");
        self.closed("migration", "migratable");
        self.flags();
        self.init_data();
        Judgement { vector: self.vector, findings: self.findings, sets }
    }

    pub(super) fn guard(mut self) -> Judgement {
        if self.evidence() {
            self.session();
            if self.claims.is_software() {
                self.root();
            }
        } else {
            self.vector.hardware = CRYPTOGRAPHY_FAILED;
        }
        Judgement { vector: self.vector, findings: self.findings, sets: Vec::new() }
    }

    fn push(&mut self, rule: &str, claim: &str, passed: bool, expected: String, found: String, owner: Owner) -> bool {
        let (rule, claim) = (rule.to_owned(), claim.to_owned());
        self.findings.push(Finding { claim, rule, expected, found, owner, passed });
        passed
    }

    fn text(&self, name: &str) -> &'a str {
        self.claims.ours(name).and_then(Value::as_str).unwrap_or("nothing")
    }

    fn is_intel(&self) -> bool {
        matches!(self.claims.tee(), "tdx" | "sgx" | "az-tdx-vtpm")
    }

    fn evidence(&mut self) -> bool {
        let failure = self.claims.ours("first_failure").and_then(Value::as_str);
        let mut found = self.text("verdict").to_owned();
        if let Some(failure) = failure {
            let _ = write!(found, " ({failure})");
        }
        self.push("evidence", "belljar.authentic", self.claims.is_authentic(), "valid".into(), found, Owner::Attester)
    }

    fn session(&mut self) {
        let bound = self.claims.ours("session_bound") == Some(&Value::Bool(true));
        let expected = "the digest of this session's nonce and key in the report data".to_owned();
        let found = if bound { "it" } else { "something else" }.to_owned();
        if !self.push("session", "belljar.session_bound", bound, expected, found, Owner::Attester) {
            self.vector.instance_identity = CRYPTOGRAPHY_FAILED;
        }
    }

    fn root(&mut self) {
        let software = self.claims.is_software();
        let found = match self.text("root") {
            "software" => "a software tee, which protects nothing from its host".to_owned(),
            "test" => "a root for tests, which protects nothing from its host".to_owned(),
            other => other.to_owned(),
        };
        let hardware = found == "hardware";
        let allowed = self.settings.allow_software_tee;
        let expected = if allowed {
            "hardware, or a software tee (this verifier was started with --allow-software-tee)"
        } else {
            "hardware"
        };
        let passed = hardware || software && allowed;
        self.push("root", "belljar.root", passed, expected.into(), found, Owner::Verifier);
        match (hardware, software) {
            (true, _) => {}
            (false, true) => worsen(&mut self.vector.hardware, CONTRAINDICATED),
            (false, false) => worsen(&mut self.vector.hardware, UNRECOGNISED_HARDWARE),
        }
    }

    fn revocation(&mut self) {
        let checked = self.claims.ours("revocation_checked") == Some(&Value::Bool(true));
        let (expected, passed) = match self.settings.require_revocation {
            true => ("certificates that no revocation list of their issuer names", checked),
            false => ("a look into a revocation list, or none", true),
        };
        let found = if checked { "such certificates" } else { "no list was looked into" };
        if !self.push(
            "revocation",
            "belljar.revocation_checked",
            passed,
            expected.into(),
            found.into(),
            Owner::Verifier,
        ) {
            worsen(&mut self.vector.hardware, KNOWN_WEAKNESS);
        }
    }

    fn tcb(&mut self) {
        let tcb = self.claims.ours("tcb");
        if self.is_intel() {
            let found = tcb.and_then(|tcb| tcb.get("status")).and_then(Value::as_str);
            let passed = found.is_some_and(|status| self.settings.tcb_status.iter().any(|taken| taken == status));
            let expected = listed(self.settings.tcb_status.iter().cloned());
            let shown = found.unwrap_or("no rating: no tcb info for this platform").to_owned();
            if !self.push("tcb", "belljar.tcb.status", passed, expected, shown, Owner::Platform) {
                let known_bad = matches!(found, Some("Revoked" | "NotSupported"));
                worsen(&mut self.vector.hardware, if known_bad { CONTRAINDICATED } else { KNOWN_WEAKNESS });
            }
            return;
        }
        let line = tcb.and_then(|tcb| tcb.get("product")).and_then(Value::as_str);
        let floor = line.and_then(|line| self.settings.min_snp_tcb.get(line));
        let svn = |which: &str, part: &str| tcb?.get(which)?.get(part)?.as_u64();
        let reaches = |which: &str| {
            floor.is_some_and(|floor| {
                let parts = floor.parts();
                parts.iter().all(|(part, least)| svn(which, part).unwrap_or(0) >= u64::from(*least))
                    && svn(which, "snp").is_some()
            })
        };
        let passed = reaches("reported") && reaches("committed");
        let expected = match (line, floor) {
            (Some(line), Some(floor)) => {
                let parts: Vec<String> = floor.parts().iter().map(|(part, least)| format!("{part} {least}")).collect();
                format!("{line}: at least {}", parts.join(", "))
            }
            (Some(line), None) => format!("the floor of {line}, which the policy does not set (min_snp_tcb)"),
            (None, _) => "the floor of a product line".to_owned(),
        };
        let found = match tcb {
            Some(tcb) => {
                let of = |which: &str| tcb.get(which).map_or_else(|| "nothing".to_owned(), shown);
                format!("reported {}, committed {}", of("reported"), of("committed"))
            }
            None => "no tcb".to_owned(),
        };
        let owner = if floor.is_some() { Owner::Platform } else { Owner::Policy };
        if !self.push("tcb", "belljar.tcb", passed, expected, found, owner) {
            worsen(&mut self.vector.hardware, KNOWN_WEAKNESS);
        }
    }

    fn tcb_eval_number(&mut self) {
        let Some(least) = self.settings.min_tcb_eval_number else { return };
        let found = self.claims.at(&["belljar", "tcb", "eval_number"]).and_then(Value::as_u64);
        let passed = found.is_some_and(|found| found >= u64::from(least));
        let shown = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
        let expected = format!("at least {least}");
        if !self.push("tcb-eval-number", "belljar.tcb.eval_number", passed, expected, shown, Owner::Verifier) {
            worsen(&mut self.vector.hardware, KNOWN_WEAKNESS);
        }
    }

    fn advisories(&mut self) {
        let Some(taken) = &self.settings.advisories else { return };
        let open = self.claims.at(&["belljar", "tcb", "advisories"]).and_then(Value::as_array);
        let refused: Vec<String> = open
            .into_iter()
            .flatten()
            .filter(|id| !id.as_str().is_some_and(|id| taken.iter().any(|taken| taken == id)))
            .map(shown)
            .collect();
        let passed = open.is_some() && refused.is_empty();
        let expected = if taken.is_empty() { "none".to_owned() } else { listed(taken.iter().cloned()) };
        let found = match (open, refused.is_empty()) {
            (None, _) => "no rating: no tcb info for this platform".to_owned(),
            (Some(_), true) => "nothing else".to_owned(),
            (Some(_), false) => listed(refused),
        };
        if !self.push("advisories", "belljar.tcb.advisories", passed, expected, found, Owner::Platform) {
            worsen(&mut self.vector.hardware, KNOWN_WEAKNESS);
        }
    }

    fn freshness(&mut self) {
        let found = self.text("freshness");
        let passed = Rung::of(found).is_some_and(|rung| rung <= self.settings.freshness);
        let worst = self.settings.freshness;
        let expected = if worst == Rung::Fresh { "fresh".to_owned() } else { format!("{} or better", worst.name()) };
        if !self.push("freshness", "belljar.freshness", passed, expected, found.into(), Owner::Verifier) {
            worsen(&mut self.vector.hardware, KNOWN_WEAKNESS);
        }
    }

    fn measurement(&mut self) -> Vec<String> {
        let table = measured(self.claims.tee(), self.claims.is_software());
        let found: Vec<Option<&Value>> = table.iter().map(|measured| self.claims.at(measured.claim)).collect();
        let mut agreeing = Vec::new();
        let mut nearest: Option<(Score, &str)> = None;
        for (name, values) in self.references.sets() {
            let score = Score::of(table, &found, values, self.at);
            if score.agrees(table) {
                agreeing.push(name.to_owned());
            }
            if score.present != 0 && nearest.is_none_or(|(best, _)| score.rank(table) > best.rank(table)) {
                nearest = Some((score, name));
            }
        }
        match nearest {
            Some((score, name)) => self.explain(table, &found, score, name),
            None => {
                let shown = found.first().copied().flatten().map_or_else(|| "nothing".to_owned(), shown);
                let (claim, found) = match table.first() {
                    Some(first) => (first.claim.join("."), shown),
                    None => ("belljar.kind".to_owned(), format!("{}, of which nothing is compared", self.claims.tee())),
                };
                let expected = "a value of a measurement set; none is registered for this tee".to_owned();
                self.push("measurement", &claim, false, expected, found, Owner::Policy);
            }
        }
        self.vector.executables = if agreeing.is_empty() { UNRECOGNISED_EXECUTABLES } else { APPROVED_EXECUTABLES };
        agreeing
    }

    /// One finding for each claim that the set is about.
    fn explain(&mut self, table: &[Measured], found: &[Option<&Value>], score: Score, set: &str) {
        for (row, (measured, found)) in table.iter().zip(found).enumerate() {
            if !measured.required && !has(score.present, row) {
                continue;
            }
            let values: Vec<_> = self.references.named(measured.name).filter(|value| value.set == set).collect();
            let holding: Vec<&Value> =
                values.iter().filter(|value| value.holds_at(self.at)).flat_map(|value| value.scalars()).collect();
            let name = measured.name;
            let expected = match (holding.is_empty(), values.iter().filter_map(|value| value.expires).max()) {
                (false, _) => format!("{} ({name} of set {set})", listed(holding.into_iter().map(shown))),
                (true, Some(last)) => {
                    format!("a value for {name} in set {set}, whose last one expired at {}", time(last))
                }
                (true, None) => format!("a value for {name} in set {set}, which has none"),
            };
            let owner = values.first().map_or(Owner::Policy, |value| Owner::Reference(value.owner.clone()));
            let found = found.map_or_else(|| "nothing".to_owned(), shown);
            self.push("measurement", &measured.claim.join("."), has(score.matched, row), expected, found, owner);
        }
    }

    /// Nobody outside can read or move the guest.
    fn closed(&mut self, rule: &str, name: &str) {
        let found = self.claims.ours(name);
        let passed = found == Some(&Value::Bool(false));
        let shown = found.map_or_else(|| "not known".to_owned(), shown);
        if !self.push(rule, &format!("belljar.{name}"), passed, "false".into(), shown, Owner::Workload) {
            let value = if found.is_some() { CONTRAINDICATED } else { UNKNOWN_CONFIGURATION };
            worsen(&mut self.vector.configuration, value);
        }
    }

    fn flags(&mut self) {
        let flags = self.claims.ours("flags").and_then(Value::as_array);
        let refused: Vec<String> = flags
            .into_iter()
            .flatten()
            .filter(|flag| {
                !flag.as_str().is_some_and(|flag| {
                    OWN_RULE.contains(&flag) || self.settings.flags.iter().any(|taken| taken == flag)
                })
            })
            .map(shown)
            .collect();
        let expected = if self.settings.flags.is_empty() {
            "none".to_owned()
        } else {
            listed(self.settings.flags.iter().cloned())
        };
        let passed = flags.is_some() && refused.is_empty();
        let found = if refused.is_empty() { "nothing else".to_owned() } else { listed(refused) };
        if !self.push("flags", "belljar.flags", passed, expected, found, Owner::Platform) {
            worsen(&mut self.vector.configuration, UNKNOWN_CONFIGURATION);
        }
    }

    fn init_data(&mut self) {
        let of = |name: &str| self.claims.at(&["belljar", "contract", name]);
        let is = |name: &str| of(name) == Some(&Value::Bool(true));
        let register = self.claims.value().get("init_data").map_or_else(|| "nothing".to_owned(), shown);
        let (passed, found, value) = match (is("sent"), is("bound")) {
            (true, true) => (true, "its digest".to_owned(), AFFIRMED),
            (true, false) => {
                let found = of("found").map_or_else(|| "another document".to_owned(), shown);
                (false, found, CONTRAINDICATED)
            }
            (false, _) => {
                let found = "no document was sent".to_owned();
                (!self.settings.require_init_data, found, UNKNOWN_CONFIGURATION)
            }
        };
        let mut expected = format!("{register} (what the hardware carries)");
        if !self.settings.require_init_data {
            expected.push_str(", or no document");
        }
        if !self.push("init-data", "belljar.contract", passed, expected, found, Owner::Workload) {
            worsen(&mut self.vector.configuration, value);
        }
    }
}

/// One measurement set against the claims: a bit for each row of the table.
#[derive(Clone, Copy)]
struct Score {
    /// The set has a value of that name, if only an expired one. Expiry never asks for less.
    present: u32,
    /// A value that holds is the claim's.
    matched: u32,
}

fn has(bits: u32, row: usize) -> bool {
    bits.checked_shr(u32::try_from(row).unwrap_or(u32::MAX)).unwrap_or(0) & 1 == 1
}

impl Score {
    fn of<'r>(
        table: &[Measured],
        found: &[Option<&Value>],
        values: impl Iterator<Item = &'r ReferenceValue>,
        at: u64,
    ) -> Self {
        let mut score = Self { present: 0, matched: 0 };
        for value in values {
            let Some(row) = table.iter().position(|measured| measured.name == value.name) else { continue };
            let bit = u32::try_from(row).ok().and_then(|row| 1_u32.checked_shl(row)).unwrap_or(0);
            score.present |= bit;
            let claim = found.get(row).copied().flatten();
            if claim.is_some_and(|claim| value.holds_at(at) && value.scalars().contains(claim)) {
                score.matched |= bit;
            }
        }
        score
    }

    /// Every claim that the set must be about, and every one that it is about.
    fn agrees(self, table: &[Measured]) -> bool {
        let mut rows = table.iter().enumerate();
        self.present != 0
            && rows.all(|(row, measured)| has(self.matched, row) || !measured.required && !has(self.present, row))
    }

    /// The more matches the nearer; one that agrees is nearest.
    fn rank(self, table: &[Measured]) -> (bool, u32) {
        (self.agrees(table), self.matched.count_ones())
    }
}
