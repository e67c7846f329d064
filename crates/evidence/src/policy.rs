//! Judging authentic evidence: what of it a user takes. Everything that is not named is refused.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Kind;
use crate::dcap::{Status, Tcb};
use crate::snp::{Report, Tcb as SnpTcb};
use crate::strictness::{Freshness, Missing, Options};
use crate::tpm::Pcrs;
use crate::verdict::{Check, Outcome};

/// What a user takes, as it stands in a policy file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Intel's combined TCB statuses that are taken.
    pub tcb_status: Vec<Status>,
    /// Advisories that may be open; `None` for any, as the status speaks for them.
    pub advisories: Option<Vec<String>>,
    /// Least number of Intel's TCB evaluation.
    pub min_tcb_eval_number: Option<u32>,
    /// Whether SNP evidence needs a revocation list of AMD's.
    pub require_snp_crl: bool,
    /// Worst freshness of collateral that is taken: of Intel's, and of AMD's revocation list.
    pub freshness: Freshness,
    /// For how many days after its next update collateral counts as in grace.
    pub grace_days: u32,
    /// Flags of a verdict that are taken, e.g. `vlek`, `vmpl-1`.
    pub flags: Vec<String>,
    /// Launch measurements that are taken, lowercase hex: SNP MEASUREMENT, MRTD, MRENCLAVE; none for any.
    pub measurements: Vec<String>,
    /// Values that registers of a TPM must have, by name (`pcr00` to `pcr23`), lowercase hex.
    pub pcrs: BTreeMap<String, String>,
    /// Least TCB of an SNP platform: the reported one, which the endorsement key was derived for, the committed one, below
    /// which the platform cannot fall back, and the launch's must all reach it.
    pub min_snp_tcb: Option<MinSnpTcb>,
    /// Digests of ID keys of SNP guests that are taken, lowercase hex; none for any.
    pub snp_id_keys: Vec<String>,
    /// Digests of authors' keys of SNP guests that are taken, lowercase hex; none for any.
    pub snp_author_keys: Vec<String>,
}

/// Least security versions of an SNP platform; what is not named is not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MinSnpTcb {
    /// Of the FMC; only Turin and later have one.
    pub fmc: u8,
    /// Of the boot loader.
    pub bootloader: u8,
    /// Of the PSP's operating system.
    pub tee: u8,
    /// Of the SNP firmware.
    pub snp: u8,
    /// Of the microcode.
    pub microcode: u8,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tcb_status: vec![Status::UpToDate],
            advisories: None,
            min_tcb_eval_number: None,
            require_snp_crl: false,
            freshness: Freshness::Fresh,
            grace_days: 7,
            flags: Vec::new(),
            measurements: Vec::new(),
            pcrs: BTreeMap::new(),
            min_snp_tcb: None,
            snp_id_keys: Vec::new(),
            snp_author_keys: Vec::new(),
        }
    }
}

/// What of a verdict a policy looks at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Kind of the evidence.
    pub kind: Kind,
    /// The verdict's flags.
    pub flags: &'a [String],
    /// Intel's rating.
    pub tcb: Option<&'a Tcb>,
    /// The launch measurement.
    pub measurement: Option<&'a [u8]>,
    /// The SNP report.
    pub snp: Option<&'a Report>,
    /// Register values that a TPM's quote covers.
    pub registers: Option<&'a Pcrs>,
}

impl Policy {
    /// How strictly to verify evidence of that kind: Intel's collateral is always needed, AMD's revocation list where the
    /// policy says so.
    pub fn options(&self, kind: Kind) -> Options {
        let optional = matches!(kind, Kind::Snp | Kind::AzSnpVtpm) && !self.require_snp_crl;
        Options {
            missing: if optional { Missing::Allowed } else { Missing::Undecided },
            grace: u64::from(self.grace_days).saturating_mul(86_400),
            accept: self.freshness,
        }
    }

    /// The policy's demands on authentic evidence, each with how it ended, in this order: `policy-flags`,
    /// `policy-tcb-status`, `policy-tcb-eval-number`, `policy-advisories`, `policy-snp-tcb`, `policy-snp-id-key`,
    /// `policy-snp-author-key`, `policy-measurement`, `policy-pcrs`.
    /// What collateral there must be and how fresh is not among them: it is asked for while verifying ([`Self::options`]).
    pub fn judge(&self, subject: &Subject<'_>) -> Vec<Check> {
        let mut checks = vec![self.flags(subject.flags)];
        if matches!(subject.kind, Kind::Tdx | Kind::Sgx | Kind::AzTdxVtpm) {
            checks.extend(self.intel(subject.tcb));
        }
        if let Some(least) = &self.min_snp_tcb
            && matches!(subject.kind, Kind::Snp | Kind::AzSnpVtpm)
        {
            checks.push(least.check(subject.snp));
        }
        if matches!(subject.kind, Kind::Snp | Kind::AzSnpVtpm) {
            let digests = [
                ("policy-snp-id-key", &self.snp_id_keys, subject.snp.map(|report| report.id_key_digest)),
                ("policy-snp-author-key", &self.snp_author_keys, subject.snp.map(|report| report.author_key_digest)),
            ];
            for (name, taken, found) in digests.into_iter().filter(|(_, taken, _)| !taken.is_empty()) {
                let expected = taken.join(" or ");
                checks.push(match found.map(hex::encode) {
                    Some(found) => check(name, expected, &found, taken.contains(&found)),
                    None => Check::not_made(name, expected, "the report cannot be read"),
                });
            }
        }
        if !self.measurements.is_empty() {
            let expected = self.measurements.join(" or ");
            checks.push(match subject.measurement.map(hex::encode) {
                Some(found) => check("policy-measurement", expected, &found, self.measurements.contains(&found)),
                None => Check::not_made("policy-measurement", expected, "this evidence has no launch measurement"),
            });
        }
        if !self.pcrs.is_empty() {
            checks.push(self.registers(subject.registers));
        }
        checks
    }

    fn registers(&self, found: Option<&Pcrs>) -> Check {
        const NAME: &str = "policy-pcrs";
        let expected = self.pcrs.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(" ");
        let Some(found) = found else {
            return Check::not_made(NAME, expected, "this evidence covers no register values");
        };
        let value = |name: &str| {
            let register = name.strip_prefix("pcr").and_then(|number| number.parse().ok());
            register.and_then(|register| found.get(register)).map_or_else(|| "nothing".to_owned(), hex::encode)
        };
        let found: Vec<String> = self.pcrs.keys().map(|name| format!("{name} {}", value(name))).collect();
        Check::same(NAME, expected, found.join(" "))
    }

    fn flags(&self, flags: &[String]) -> Check {
        let refused: Vec<&str> = flags.iter().filter(|flag| !self.flags.contains(flag)).map(String::as_str).collect();
        let expected = if self.flags.is_empty() { "no flags".to_owned() } else { self.flags.join(", ") };
        let found = if refused.is_empty() { "nothing else".to_owned() } else { refused.join(", ") };
        check("policy-flags", expected, &found, refused.is_empty())
    }

    fn intel(&self, tcb: Option<&Tcb>) -> Vec<Check> {
        const NAMES: [&str; 3] = ["policy-tcb-status", "policy-tcb-eval-number", "policy-advisories"];
        let statuses = self.tcb_status.iter().map(|status| status.name()).collect::<Vec<_>>().join(" or ");
        let Some(tcb) = tcb else {
            return vec![Check::not_made(NAMES[0], statuses, "no TCB info for this platform was given")];
        };
        let mut checks = vec![check(NAMES[0], statuses, tcb.combined.name(), self.tcb_status.contains(&tcb.combined))];
        if let Some(least) = self.min_tcb_eval_number {
            let found = tcb.tcb_eval_number;
            checks.push(check(NAMES[1], format!("at least {least}"), &found.to_string(), found >= least));
        }
        if let Some(taken) = &self.advisories {
            let all = tcb.advisories.iter().flatten().chain(&tcb.tdx_module_advisories).chain(&tcb.qe_advisories);
            let refused: Vec<&str> = all.filter(|id| !taken.contains(id)).map(String::as_str).collect();
            let expected = if taken.is_empty() { "none".to_owned() } else { taken.join(", ") };
            let found = if refused.is_empty() { "nothing else".to_owned() } else { refused.join(", ") };
            checks.push(check(NAMES[2], expected, &found, refused.is_empty()));
        }
        checks
    }
}

impl MinSnpTcb {
    fn check(&self, report: Option<&Report>) -> Check {
        const NAME: &str = "policy-snp-tcb";
        let expected = format!(
            "reported, committed and at launch at least bootloader {}, tee {}, snp {}, microcode {}{}",
            self.bootloader,
            self.tee,
            self.snp,
            self.microcode,
            if self.fmc == 0 { String::new() } else { format!(", fmc {}", self.fmc) }
        );
        let Some(report) = report else {
            return Check::not_made(NAME, expected, "the report cannot be read");
        };
        // Whoever holds the key of an old TCB can write what he likes into a report, but for the TCB of that key: the
        // reported one. So the committed one alone would prove nothing.
        let (reported, committed, launch) = (&report.reported_tcb, &report.committed_tcb, &report.launch_tcb);
        let found = if reported == committed && committed == launch {
            describe(reported)
        } else {
            let [reported, committed, launch] = [reported, committed, launch].map(describe);
            format!("reported {reported}; committed {committed}; at launch {launch}")
        };
        let reached = [reported, committed, launch].into_iter().all(|tcb| self.is_reached_by(tcb));
        check(NAME, expected, &found, reached)
    }

    fn is_reached_by(&self, tcb: &SnpTcb) -> bool {
        tcb.fmc().unwrap_or(0) >= self.fmc
            && tcb.bootloader() >= self.bootloader
            && tcb.tee() >= self.tee
            && tcb.snp() >= self.snp
            && tcb.microcode() >= self.microcode
    }
}

fn describe(tcb: &SnpTcb) -> String {
    let fmc = tcb.fmc().map(|fmc| format!(", fmc {fmc}")).unwrap_or_default();
    format!("bootloader {}, tee {}, snp {}, microcode {}{fmc}", tcb.bootloader(), tcb.tee(), tcb.snp(), tcb.microcode())
}

fn check(name: &'static str, expected: String, found: &str, holds: bool) -> Check {
    let outcome = if holds { Outcome::Passed } else { Outcome::Failed };
    Check { name, outcome, expected, found: found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcb(combined: Status) -> Tcb {
        Tcb {
            platform: combined,
            platform_tcb_date: None,
            advisories: Some(vec!["INTEL-SA-00001".to_owned()]),
            tcb_eval_number: 17,
            tdx_module: None,
            tdx_module_advisories: Vec::new(),
            qe: None,
            qe_advisories: vec!["INTEL-SA-00002".to_owned()],
            combined,
            relaunch_advised: false,
        }
    }

    /// The first demand that does not hold.
    fn refusal(policy: &Policy, kind: Kind, flags: &[&str], tcb: Option<&Tcb>) -> Option<&'static str> {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let subject = Subject { kind, flags: &flags, tcb, measurement: Some(&[0xAB]), snp: None, registers: None };
        policy.judge(&subject).into_iter().find(|check| check.outcome != Outcome::Passed).map(|check| check.name)
    }

    #[test]
    fn by_default_only_an_up_to_date_platform_without_flags_is_taken() {
        let policy = Policy::default();
        let (good, bad) = (tcb(Status::UpToDate), tcb(Status::OutOfDate));
        assert_eq!(refusal(&policy, Kind::Tdx, &[], Some(&good)), None);
        assert_eq!(refusal(&policy, Kind::Tdx, &[], Some(&bad)), Some("policy-tcb-status"));
        assert_eq!(refusal(&policy, Kind::Tdx, &[], None), Some("policy-tcb-status"));
        assert_eq!(refusal(&policy, Kind::Snp, &[], None), None);
        for flag in ["td-debug", "enclave-debug", "debug-policy", "vmpl-1", "vlek", "test-root", "software-tee"] {
            assert_eq!(refusal(&policy, Kind::Tdx, &[flag], Some(&good)), Some("policy-flags"), "{flag}");
            let taken = Policy { flags: vec![flag.to_owned()], ..Policy::default() };
            assert_eq!(refusal(&taken, Kind::Tdx, &[flag], Some(&good)), None, "{flag}");
        }
    }

    #[test]
    fn a_revocation_list_of_amds_is_needed_where_the_policy_says_so() {
        let policy = |require_snp_crl| Policy { require_snp_crl, grace_days: 2, ..Policy::default() };
        let missing = |require, kind| policy(require).options(kind).missing;
        for kind in [Kind::Snp, Kind::AzSnpVtpm] {
            assert_eq!((missing(false, kind), missing(true, kind)), (Missing::Allowed, Missing::Undecided));
        }
        assert_eq!((missing(false, Kind::Tdx), missing(false, Kind::Sgx)), (Missing::Undecided, Missing::Undecided));
        let options = policy(true).options(Kind::Snp);
        assert_eq!((options.grace, options.accept), (2 * 86_400, Freshness::Fresh));
    }

    #[test]
    fn each_demand_has_its_twin() {
        let found = tcb(Status::UpToDate);
        let refused = |policy: Policy| refusal(&policy, Kind::Tdx, &[], Some(&found));
        let newest = |least| Policy { min_tcb_eval_number: Some(least), ..Policy::default() };
        assert_eq!((refused(newest(17)), refused(newest(18))), (None, Some("policy-tcb-eval-number")));
        let open = |ids: &[&str]| Policy {
            advisories: Some(ids.iter().map(|&id| id.to_owned()).collect()),
            ..Policy::default()
        };
        assert_eq!(refused(open(&["INTEL-SA-00001", "INTEL-SA-00002"])), None);
        assert_eq!(refused(open(&["INTEL-SA-00001"])), Some("policy-advisories"));
        let launch = |hex: &str| Policy { measurements: vec![hex.to_owned()], ..Policy::default() };
        assert_eq!((refused(launch("ab")), refused(launch("ac"))), (None, Some("policy-measurement")));
    }

    #[test]
    fn no_tcb_of_a_report_may_be_below_the_least() {
        let policy = Policy { min_snp_tcb: Some(MinSnpTcb { snp: 8, ..MinSnpTcb::default() }), ..Policy::default() };
        // The places of REPORTED_TCB, COMMITTED_TCB and LAUNCH_TCB, and in them that of SNP on Milan.
        let outcome = |versions: [u8; 3]| {
            let mut bytes = [0; crate::snp::REPORT_LEN];
            bytes[0] = 3;
            for (at, version) in [0x180, 0x1E0, 0x1F0].into_iter().zip(versions) {
                bytes[at + 6] = version;
            }
            let report = Report::parse(&bytes).unwrap();
            let subject = Subject {
                kind: Kind::Snp,
                flags: &[],
                tcb: None,
                measurement: None,
                snp: Some(&report),
                registers: None,
            };
            policy.judge(&subject).into_iter().find(|check| check.name == "policy-snp-tcb").map(|check| check.outcome)
        };
        assert_eq!(outcome([8, 8, 8]), Some(Outcome::Passed));
        // Whoever holds the key of an old TCB can write any committed one, and only that reported one.
        for below in [[7, 8, 8], [8, 7, 8], [8, 8, 7]] {
            assert_eq!(outcome(below), Some(Outcome::Failed), "{below:?}");
        }
    }

    #[test]
    fn registers_must_have_the_values_that_are_named() {
        let mut registers = Pcrs::none(crate::tpm::Hash::Sha256);
        registers.set(8, vec![8; 32]).unwrap();
        let outcome = |name: &str, value: &[u8], found: Option<&Pcrs>| {
            let pcrs = BTreeMap::from([(name.to_owned(), hex::encode(value))]);
            let policy = Policy { pcrs, ..Policy::default() };
            let subject =
                Subject { kind: Kind::Tpm, flags: &[], tcb: None, measurement: None, snp: None, registers: found };
            policy.judge(&subject).into_iter().find(|check| check.name == "policy-pcrs").map(|check| check.outcome)
        };
        assert_eq!(outcome("pcr08", &[8; 32], Some(&registers)), Some(Outcome::Passed));
        assert_eq!(outcome("pcr08", &[9; 32], Some(&registers)), Some(Outcome::Failed));
        assert_eq!(outcome("pcr09", &[8; 32], Some(&registers)), Some(Outcome::Failed));
        assert_eq!(outcome("register 8", &[8; 32], Some(&registers)), Some(Outcome::Failed));
        assert_eq!(outcome("pcr08", &[8; 32], None), Some(Outcome::NotChecked));
    }
}
