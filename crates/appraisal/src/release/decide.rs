//! The decision.

use belljar_rcar::ear::Status;
use serde::{Deserialize, Serialize};

use super::pattern::{Path, Pattern};
use super::rule::{Rule, RuleError, RuleSet};
use crate::text::listed;
use crate::{Claims, Finding, Owner, policy::Judgement};

/// Most rules whose conditions are listed in a denial.
const MAX_EXPLAINED: usize = 16;

/// What is known of the workload that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// TEE of its evidence.
    pub tee: String,
    /// No hardware stands behind it.
    pub software: bool,
    /// It was admitted: every rule of the attestation policy holds.
    pub admitted: bool,
    /// Tier of its appraisal.
    pub status: Status,
    /// Digest of its init-data document, when the hardware carries it.
    pub contract: Option<String>,
    /// Key that signed its contract.
    pub signer: Option<String>,
    /// Its namespace, as the contract says.
    pub namespace: Option<String>,
    /// Measurement sets that it agrees with.
    pub sets: Vec<String>,
}

impl Identity {
    /// Out of claims and what a policy made of them.
    pub fn of(claims: &Claims, judgement: &Judgement) -> Self {
        let contract = |name: &str| {
            let bound = claims.at(&["belljar", "contract", "bound"]) == Some(&serde_json::Value::Bool(true));
            let value = claims.at(&["belljar", "contract", name]).filter(|_| bound);
            value.and_then(|value| value.as_str()).map(str::to_owned)
        };
        Self {
            tee: claims.tee().to_owned(),
            software: claims.is_software(),
            admitted: judgement.is_admitted(),
            status: judgement.status(),
            contract: contract("digest"),
            signer: contract("signer"),
            namespace: contract("namespace"),
            sets: judgement.sets.clone(),
        }
    }

    /// The tier that rules go by. A software TEE that was admitted passes for affirming: the verifier was started with
    /// `--allow-software-tee`, and says so in every token.
    fn effective_status(&self) -> Status {
        if self.software && self.admitted { Status::Affirming } else { self.status }
    }
}

/// A request for a resource.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The resource.
    pub path: &'a Path,
    /// Who asks.
    pub identity: &'a Identity,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// That rule allows it; `rego` for a set's Rego policy.
    Allow {
        /// Scope of the set that decided.
        scope: String,
        /// Id of the rule.
        rule: String,
    },
    /// Nothing allows it.
    Deny {
        /// Scope of the set that decided; absent where no scope covers the path.
        scope: Option<String>,
        /// What would have allowed it, and why it did not.
        findings: Vec<Finding>,
    },
}

impl Decision {
    /// Whether the resource may be released.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

/// A set of rules, with the Rego policy of the same scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopedRules {
    /// Scope and rules.
    pub set: RuleSet,
    /// Text of a Rego policy in upstream's form, asked when no rule allows.
    pub rego: Option<String>,
}

/// All sets of one tenant.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    /// The most specific first.
    sets: Vec<ScopedRules>,
}

impl Policies {
    /// From sets in any order.
    ///
    /// # Errors
    /// Any [`RuleError`] of rules, and [`RuleError::ScopeTwice`].
    pub fn new(sets: impl IntoIterator<Item = ScopedRules>) -> Result<Self, RuleError> {
        let mut sets: Vec<ScopedRules> = sets.into_iter().collect();
        for (index, scoped) in sets.iter().enumerate() {
            scoped.set.check()?;
            if sets.iter().take(index).any(|other| other.set.scope == scoped.set.scope) {
                return Err(RuleError::ScopeTwice(scoped.set.scope.to_string()));
            }
        }
        sets.sort_by(|a, b| b.set.scope.specificity(&a.set.scope));
        Ok(Self { sets })
    }

    /// The set that decides about a path: the most specific one whose scope covers it. Of two equally specific scopes at
    /// most one covers a path, so the order in which they were given never matters.
    pub fn deciding(&self, path: &Path) -> Option<&ScopedRules> {
        self.sets.iter().find(|scoped| scoped.set.scope.covers(path))
    }

    /// Decides by rules, and by `rego` where the deciding set has a Rego policy and no rule allows: it is given the
    /// policy's text, and answers with `Ok` to allow or the reason why not.
    pub fn decide<F>(&self, request: &Request<'_>, rego: F) -> Decision
    where
        F: FnOnce(&str) -> Result<(), Box<Finding>>,
    {
        let Some(ScopedRules { set, rego: policy }) = self.deciding(request.path) else {
            return Decision::Deny {
                scope: None,
                findings: vec![uncovered(request, self.sets.iter().map(|s| &s.set.scope))],
            };
        };
        let scope = set.scope.to_string();
        let about = || set.rules.iter().filter(|rule| rule.resource.covers(request.path));
        if let Some(rule) = about().find(|rule| rule.holds(request.identity)) {
            return Decision::Allow { scope, rule: rule.id.clone() };
        }
        let mut findings: Vec<Finding> =
            about().take(MAX_EXPLAINED).flat_map(|rule| rule.unmet(request.identity)).collect();
        if let Some(policy) = policy {
            let status = request.identity.effective_status();
            if !takes(set.rego_status, status) {
                findings.push(tier(Owner::Policy, "rego", set.rego_status, status));
            } else {
                match rego(policy) {
                    Ok(()) => return Decision::Allow { scope, rule: "rego".to_owned() },
                    Err(finding) => findings.push(*finding),
                }
            }
        }
        if findings.is_empty() {
            findings.push(uncovered(request, set.rules.iter().map(|rule| &rule.resource)));
        }
        Decision::Deny { scope: Some(scope), findings }
    }
}

fn uncovered<'a>(request: &Request<'_>, patterns: impl Iterator<Item = &'a Pattern>) -> Finding {
    let patterns: Vec<String> = patterns.map(ToString::to_string).collect();
    Finding {
        claim: "resource".to_owned(),
        rule: "resource rule".to_owned(),
        expected: if patterns.is_empty() { "a rule; there is none".to_owned() } else { listed(patterns) },
        found: request.path.to_string(),
        owner: Owner::Policy,
        passed: false,
    }
}

/// One list of a rule: the claim, what is taken, what was found.
type Condition<'a> = (&'static str, &'a [String], &'a [String]);

impl Rule {
    /// The lists that ask for something.
    fn conditions<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = Condition<'a>> {
        let all: [Condition<'a>; 5] = [
            ("contract", &self.contract, identity.contract.as_slice()),
            ("signer", &self.signer, identity.signer.as_slice()),
            ("namespace", &self.namespace, identity.namespace.as_slice()),
            ("measurement set", &self.measurement_set, &identity.sets),
            ("tee", &self.tee, std::slice::from_ref(&identity.tee)),
        ];
        all.into_iter().filter(|(_, taken, _)| !taken.is_empty())
    }

    fn holds(&self, identity: &Identity) -> bool {
        takes(self.status, identity.effective_status()) && self.conditions(identity).all(|condition| is_met(&condition))
    }

    /// What does not hold of the rule, with what was found.
    fn unmet(&self, identity: &Identity) -> Vec<Finding> {
        let owner = self.owner.clone().map_or(Owner::Policy, Owner::Named);
        let finding = |claim: &str, expected: String, found: String| Finding {
            claim: claim.to_owned(),
            rule: self.id.clone(),
            expected,
            found,
            owner: owner.clone(),
            passed: false,
        };
        let mut unmet = Vec::new();
        let status = identity.effective_status();
        if !takes(self.status, status) {
            unmet.push(tier(owner.clone(), &self.id, self.status, status));
        }
        for (claim, taken, found) in self.conditions(identity).filter(|condition| !is_met(condition)) {
            let shown = if found.is_empty() { "nothing".to_owned() } else { listed(found.iter().cloned()) };
            unmet.push(finding(claim, listed(taken.iter().cloned()), shown));
        }
        unmet
    }
}

/// Whether a tier is good enough.
fn takes(least: Status, found: Status) -> bool {
    found != Status::None && found <= least
}

/// A tier that is not.
fn tier(owner: Owner, rule: &str, least: Status, found: Status) -> Finding {
    let tiers = [Status::Affirming, Status::Warning, Status::Contraindicated];
    Finding {
        claim: "status".to_owned(),
        rule: rule.to_owned(),
        expected: listed(tiers.iter().filter(|tier| takes(least, **tier)).map(ToString::to_string)),
        found: found.to_string(),
        owner,
        passed: false,
    }
}

fn is_met((_, taken, found): &Condition<'_>) -> bool {
    found.iter().any(|found| taken.contains(found))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity {
            tee: "snp".into(),
            software: false,
            admitted: true,
            status: Status::Affirming,
            contract: Some("0a".repeat(32)),
            signer: Some("key".into()),
            namespace: Some("payments".into()),
            sets: vec!["guest".into()],
        }
    }

    fn rule(id: &str, resource: &str) -> Rule {
        Rule {
            id: id.into(),
            resource: resource.parse().unwrap(),
            contract: vec!["0a".repeat(32)],
            signer: vec![],
            measurement_set: vec![],
            namespace: vec![],
            tee: vec![],
            status: Status::Affirming,
            any_contract: false,
            owner: None,
        }
    }

    fn set(scope: &str, rules: Vec<Rule>) -> ScopedRules {
        ScopedRules {
            set: RuleSet { scope: scope.parse().unwrap(), rules, rego_status: Status::Affirming },
            rego: None,
        }
    }

    fn decide(policies: &Policies, path: &str, identity: &Identity) -> Decision {
        let no_rego = |_: &str| panic!("no set has a rego policy");
        policies.decide(&Request { path: &path.parse().unwrap(), identity }, no_rego)
    }

    fn failed(decision: Decision) -> Vec<String> {
        match decision {
            Decision::Deny { findings, .. } => findings.into_iter().map(|finding| finding.claim).collect(),
            Decision::Allow { rule, .. } => panic!("allowed by {rule}"),
        }
    }

    #[test]
    fn nothing_is_released_without_a_rule() {
        let none = Policies::default();
        assert_eq!(failed(decide(&none, "default/key/1", &identity())), ["resource"]);
        let other = Policies::new([set("default/key/*", vec![rule("a", "default/key/1")])]).unwrap();
        assert!(decide(&other, "default/key/1", &identity()).is_allowed());
        for path in ["default/key/2", "default/keys/1", "default2/key/1"] {
            assert_eq!(failed(decide(&other, path, &identity())), ["resource"], "{path}");
        }
    }

    #[test]
    fn each_condition_decides_by_itself() {
        let all = Rule {
            signer: vec!["key".into()],
            measurement_set: vec!["guest".into()],
            namespace: vec!["payments".into()],
            tee: vec!["snp".into()],
            ..rule("a", "*/*/*")
        };
        let policies = Policies::new([set("*/*/*", vec![all])]).unwrap();
        assert!(decide(&policies, "a/b/c", &identity()).is_allowed());
        let refused = |change: &dyn Fn(&mut Identity)| {
            let mut identity = identity();
            change(&mut identity);
            failed(decide(&policies, "a/b/c", &identity))
        };
        assert_eq!(refused(&|i| i.contract = Some("0b".repeat(32))), ["contract"]);
        assert_eq!(refused(&|i| i.contract = None), ["contract"]);
        assert_eq!(refused(&|i| i.signer = Some("Key".into())), ["signer"]);
        assert_eq!(refused(&|i| i.namespace = None), ["namespace"]);
        assert_eq!(refused(&|i| i.sets = vec![]), ["measurement set"]);
        assert_eq!(refused(&|i| i.tee = "tdx".into()), ["tee"]);
        for status in [Status::None, Status::Warning, Status::Contraindicated] {
            assert_eq!(refused(&|i| i.status = status), ["status"], "{status}");
        }
    }

    #[test]
    fn a_software_tee_gets_something_only_when_it_was_admitted() {
        let policies = Policies::new([set("*/*/*", vec![rule("a", "*/*/*")])]).unwrap();
        let software = |admitted| Identity { software: true, admitted, status: Status::Contraindicated, ..identity() };
        assert!(decide(&policies, "a/b/c", &software(true)).is_allowed());
        assert_eq!(failed(decide(&policies, "a/b/c", &software(false))), ["status"]);
    }

    #[test]
    fn a_lower_tier_is_taken_only_where_the_rule_says_so() {
        let warned = Rule { status: Status::Warning, ..rule("a", "*/*/*") };
        let policies = Policies::new([set("*/*/*", vec![warned])]).unwrap();
        let with = |status| decide(&policies, "a/b/c", &Identity { status, ..identity() }).is_allowed();
        assert_eq!(
            [Status::Affirming, Status::Warning, Status::Contraindicated, Status::None].map(with),
            [true, true, false, false]
        );
    }

    #[test]
    fn the_most_specific_scope_decides_alone() {
        let sets = [
            set("*/*/*", vec![rule("wide", "*/*/*")]),
            set("default/key/*", vec![]),
            set("default/*/1", vec![rule("narrow", "default/*/1")]),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let policies = Policies::new(order.map(|index: usize| sets[index].clone())).unwrap();
            let allowed = |path: &str| match decide(&policies, path, &identity()) {
                Decision::Allow { rule, .. } => Some(rule),
                Decision::Deny { .. } => None,
            };
            assert_eq!(allowed("a/b/c").as_deref(), Some("wide"));
            // `default/key/*` is more specific than `default/*/1`, and has no rule.
            assert_eq!(allowed("default/key/1"), None);
            assert_eq!(allowed("default/cert/1").as_deref(), Some("narrow"));
            assert_eq!(allowed("default/cert/2").as_deref(), Some("wide"));
        }
        let twice = [set("a/b/*", vec![]), set("a/b/*", vec![])];
        assert_eq!(Policies::new(twice).unwrap_err(), RuleError::ScopeTwice("a/b/*".into()));
    }

    #[test]
    fn rego_is_asked_only_when_no_rule_allows() {
        let mut with = set("*/*/*", vec![rule("a", "a/b/c")]);
        with.rego = Some("text".into());
        let policies = Policies::new([with]).unwrap();
        let ask = |path: &str, answer: Result<(), Box<Finding>>| {
            policies.decide(&Request { path: &path.parse().unwrap(), identity: &identity() }, |text| {
                assert_eq!((text, path), ("text", "a/b/d"));
                answer
            })
        };
        let finding = Box::new(Finding {
            claim: "allow".into(),
            rule: "rego".into(),
            expected: "true".into(),
            found: "false".into(),
            owner: Owner::Policy,
            passed: false,
        });
        assert!(ask("a/b/c", Err(finding.clone())).is_allowed());
        assert!(ask("a/b/d", Ok(())).is_allowed());
        assert_eq!(failed(ask("a/b/d", Err(finding))), ["allow"]);
    }

    #[test]
    fn rego_is_asked_only_for_a_tier_that_the_set_takes() {
        let ask = |rego_status, status| {
            let mut with = set("*/*/*", vec![]);
            with.rego = Some("text".into());
            with.set.rego_status = rego_status;
            let identity = Identity { status, ..identity() };
            let request = Request { path: &"a/b/c".parse().unwrap(), identity: &identity };
            Policies::new([with]).unwrap().decide(&request, |_| Ok(()))
        };
        assert!(ask(Status::Affirming, Status::Affirming).is_allowed());
        for status in [Status::None, Status::Warning, Status::Contraindicated] {
            assert_eq!(failed(ask(Status::Affirming, status)), ["status"], "{status}");
        }
        assert!(ask(Status::Warning, Status::Warning).is_allowed());
        assert_eq!(failed(ask(Status::Warning, Status::Contraindicated)), ["status"]);
    }

    fn some_rule() -> impl Strategy<Value = Rule> {
        ("[ab*]/[ab*]/[ab*]", any::<bool>(), any::<bool>(), any::<bool>(), 0..3_u8).prop_map(
            |(resource, c, s, n, status)| {
                let yes = |right: bool, value: &str| vec![if right { value.to_owned() } else { "other".to_owned() }];
                Rule {
                    contract: vec![if c { "0a" } else { "0b" }.repeat(32)],
                    signer: yes(s, "key"),
                    namespace: yes(n, "payments"),
                    status: [Status::Affirming, Status::Warning, Status::Contraindicated][usize::from(status)],
                    ..rule("r", &resource)
                }
            },
        )
    }

    fn numbered(rules: Vec<Rule>) -> Vec<Rule> {
        rules.into_iter().enumerate().map(|(n, rule)| Rule { id: n.to_string(), ..rule }).collect()
    }

    proptest! {
        #[test]
        fn one_more_rule_takes_nothing_away(rules in prop::collection::vec(some_rule(), 0..6), more in some_rule(), path in "[abc]/[abc]/[abc]") {
            let fewer = Policies::new([set("*/*/*", numbered(rules.clone()))]).unwrap();
            let with = Policies::new([set("*/*/*", numbered([rules, vec![more]].concat()))]).unwrap();
            if decide(&fewer, &path, &identity()).is_allowed() {
                prop_assert!(decide(&with, &path, &identity()).is_allowed());
            }
        }

        #[test]
        fn an_answer_is_the_answer_of_the_model(sets in prop::collection::vec(("[ab*]/[ab*]/[ab*]", prop::collection::vec(some_rule(), 0..4)), 0..5), path in "[abc]/[abc]/[abc]", status in 0..4_u8) {
            let status = [Status::None, Status::Affirming, Status::Warning, Status::Contraindicated][usize::from(status)];
            let identity = Identity { status, ..identity() };
            let mut scoped: Vec<ScopedRules> = Vec::new();
            for (scope, rules) in sets {
                let scope: Pattern = scope.parse().unwrap();
                let rules = numbered(rules.into_iter().filter(|rule| scope.contains(&rule.resource)).collect());
                if scoped.iter().all(|other| other.set.scope != scope) {
                    scoped.push(ScopedRules { set: RuleSet { scope, rules, rego_status: Status::Affirming }, rego: None });
                }
            }
            let policies = Policies::new(scoped.clone()).unwrap();
            let covers = |pattern: &str| pattern.split('/').zip(path.split('/')).all(|(own, other)| own == "*" || own == other);
            // The model: names of the scope as a number, the leftmost worth most.
            let worth = |pattern: &str| pattern.split('/').fold(0, |sum, segment| sum * 2 + u8::from(segment != "*"));
            let deciding = scoped.iter().filter(|s| covers(&s.set.scope.to_string())).max_by_key(|s| worth(&s.set.scope.to_string()));
            let taken = |rule: &Rule| {
                covers(&rule.resource.to_string())
                    && rule.contract == ["0a".repeat(32)] && rule.signer == ["key"] && rule.namespace == ["payments"]
                    && status != Status::None && status <= rule.status
            };
            let expected = deciding.is_some_and(|scoped| scoped.set.rules.iter().any(taken));
            prop_assert_eq!(decide(&policies, &path, &identity).is_allowed(), expected);
        }
    }
}
