//! Who gets which resource. Default deny: a live registration of the session's init-data digest and measurement must have
//! a rule that names the path.

use crate::{
    appraisal::describe_launch,
    keep::Kind,
    record::{Denial, Release},
    session::{Identity, State},
    state::{Broker, random_hex},
    tenant::Tenant,
    workload::{Launch, Reference, Workload},
};
use belljar_appraisal::{
    Finding, Owner,
    reference::{References, names::measured},
    release::{Decision, Request},
};
use belljar_rcar::{Jwk, ear};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};
use zeroize::Zeroizing;

/// What a request for a resource ends in.
pub(crate) enum Resolved {
    Content {
        content: Zeroizing<Vec<u8>>,
        tee_key: Jwk,
    },
    /// A rule names it, and it is not there.
    Absent,
    Refused {
        denial: Denial,
    },
    /// There is no admitted session.
    NoToken,
    /// The store is away.
    Away,
}

/// What a client shows for having attested.
pub(crate) enum Shown {
    Cookie(String),
    Token(String),
}

/// What a token says about its holder, besides what upstream's tokens say.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) tenant: String,
    #[serde(with = "hex")]
    pub(crate) contract: [u8; 32],
    pub(crate) launch: Launch,
    #[serde(with = "hex")]
    pub(crate) chip: Vec<u8>,
    pub(crate) who: belljar_appraisal::release::Identity,
    pub(crate) record: String,
}

impl Broker {
    /// Who shows this, as long as it is good.
    fn identify(&self, shown: &Shown, now: u64) -> Option<Box<Identity>> {
        let identity = match shown {
            Shown::Cookie(cookie) => {
                let session = self.session_key().live(cookie, now)?;
                match session.state {
                    State::Attested(identity) => identity,
                    State::Challenged { .. } => self.used().admitted(&session.id)?,
                }
            }
            Shown::Token(token) => Box::new(self.holder(token, now)?),
        };
        (identity.token_expires > now).then_some(identity)
    }

    /// The holder of a token that this broker signed.
    fn holder(&self, token: &str, now: u64) -> Option<Identity> {
        let claims =
            ear::verify(token, self.token_key(), now).map_err(|error| tracing::debug!(%error, "token refused")).ok()?;
        let cpu = claims.submods.get("cpu0")?;
        let said = |pointer: &str| cpu.annotated_evidence.pointer(pointer).cloned().unwrap_or_default();
        let holder: Holder = serde_json::from_value(said("/belljar.holder")).ok()?;
        Some(Identity {
            tenant: holder.tenant,
            host_data: holder.contract,
            launch: holder.launch,
            who: holder.who,
            chip: holder.chip,
            tee_key: serde_json::from_value(said("/runtime_data_claims/tee-pubkey")).ok()?,
            token_expires: claims.exp,
            record: holder.record,
        })
    }

    /// Decides about a resource.
    pub(crate) async fn resolve(&self, tenant: &str, shown: &Shown, path: &str) -> Resolved {
        let now = self.now();
        let Some(identity) = self.identify(shown, now) else { return Resolved::NoToken };
        // What was admitted by one tenant is nobody to another.
        let Some(tenant) = self.tenant(&identity.tenant).filter(|_| identity.tenant == tenant) else {
            return Resolved::NoToken;
        };
        if let Some(revoked) = tenant.revocations().of_identity(&identity) {
            tracing::warn!(record = %identity.record, subject = %revoked.subject, "session of something revoked");
            return Resolved::NoToken;
        }
        // Looked up anew, so that a withdrawn or expired registration gets nothing.
        let workloads = self.workloads_of(&tenant, &identity.host_data);
        let decided = match decide(&tenant, &workloads, &identity, path, now) {
            Ok(decided) => decided,
            Err(Why { claim, expected, found, owner }) => {
                let denial = self.denial(path, claim, expected, found, owner);
                tracing::warn!(%denial, "resource refused");
                self.note(&identity.tenant, &identity.record, "release", &format!("{path} {}", denial.id), "denied")
                    .await;
                self.add(&identity, path, now, None, Some(denial.clone()));
                return Resolved::Refused { denial };
            }
        };
        let (content, owner) = match decided {
            Decided::Own(content) => (Some(content), String::new()),
            Decided::Kept { owner } => match self.keep().get(&identity.tenant, Kind::Resource, path).await {
                Ok(kept) => (kept.map(|kept| kept.value), owner),
                Err(error) => {
                    tracing::error!(%error, "resource cannot be read");
                    return Resolved::Away;
                }
            },
        };
        match content {
            Some(content) => {
                // Nothing leaves that is not written down.
                if let Some(audit) = self.audit_log() {
                    let actor = format!("workload {}", identity.record);
                    let event = self.event(&identity.tenant, &actor, "release", path, "released");
                    if let Err(error) = audit.record(event).await {
                        tracing::error!(%error, "resource not released");
                        return Resolved::Away;
                    }
                }
                self.add(&identity, path, now, Some(content.len()), None);
                tracing::info!(record = %identity.record, "resource released");
                Resolved::Content { content, tee_key: identity.tee_key }
            }
            None => {
                let (expected, found) = ("a stored resource", "a rule names it, but it is not stored");
                let denial = self.denial(path, "resource".into(), expected.into(), found.into(), owner);
                self.add(&identity, path, now, None, Some(denial));
                Resolved::Absent
            }
        }
    }

    fn denial(&self, path: &str, claim: String, expected: String, found: String, owner: String) -> Denial {
        let id = random_hex::<6>().unwrap_or_default();
        Denial { id, refused: format!("resource {path}"), claim, expected, found, owner }
    }

    fn add(&self, identity: &Identity, path: &str, at: u64, bytes: Option<usize>, denial: Option<Denial>) {
        self.add_release(&identity.record, Release { at, resource: path.into(), bytes, denial });
    }
}

/// Where an allowed resource is.
enum Decided {
    /// It came with the workload's registration.
    Own(Zeroizing<Vec<u8>>),
    /// The tenant keeps it, or nobody does.
    Kept {
        /// Who can store it.
        owner: String,
    },
}

/// Why nothing is released.
struct Why {
    claim: String,
    expected: String,
    found: String,
    owner: String,
}

/// By the rules of a registered workload, and then by those of the tenant.
fn decide(
    tenant: &Tenant,
    workloads: &[Arc<Workload>],
    identity: &Identity,
    path: &str,
    now: u64,
) -> Result<Decided, Why> {
    let why = |claim: &str, expected: String, found: String, owner: String| Why {
        claim: claim.to_owned(),
        expected,
        found,
        owner,
    };
    let policies = tenant.policies();
    let runs_as =
        |workload: &&Arc<Workload>| workload.references.iter().any(|reference| reference.matches(&identity.launch));
    let admitted: Vec<_> = workloads.iter().filter(runs_as).collect();
    if !workloads.is_empty() && admitted.is_empty() {
        let (expected, owner) = describe_references(workloads.iter().flat_map(|w| &w.references));
        return Err(why("measurement", expected, describe_launch(&identity.launch), owner));
    }
    let named: Vec<_> = admitted.iter().filter(|w| w.rules.iter().any(|rule| rule.matches(path))).collect();
    if !named.is_empty() {
        // The latest registration wins.
        let own = named.iter().rev().find_map(|w| w.resources.iter().find(|r| r.path == path));
        let owner = named.first().map(|w| w.owner.clone()).unwrap_or_default();
        return Ok(own.map_or(Decided::Kept { owner }, |own| Decided::Own(own.content.clone())));
    }
    if workloads.is_empty() && !still_agrees(&tenant.references(), identity, now) {
        let found = hex::encode(identity.host_data);
        return Err(why("host_data", "a registered workload".into(), found, "who registers workloads".into()));
    }
    let Ok(asked) = path.parse() else {
        return Err(why("resource", "repository/type/tag".into(), path.to_owned(), "the workload".into()));
    };
    let request = Request { path: &asked, identity: &identity.who };
    let no_rego = |_: &str| Err(Box::new(no_rego()));
    match policies.decide(&request, no_rego) {
        Decision::Allow { rule, .. } => Ok(Decided::Kept { owner: format!("who wrote rule {rule}") }),
        Decision::Deny { scope: None, .. } if !admitted.is_empty() => {
            let mut rules: Vec<String> = admitted.iter().flat_map(|w| &w.rules).map(ToString::to_string).collect();
            rules.dedup();
            let expected = if rules.is_empty() { "no resource at all".into() } else { bounded_list(&rules) };
            let mut owners: Vec<String> = admitted.iter().map(|w| w.owner.clone()).collect();
            owners.dedup();
            Err(why("resource rule", expected, path.to_owned(), bounded_list(&owners)))
        }
        Decision::Deny { findings, .. } => match findings.into_iter().find(|finding| !finding.passed) {
            Some(finding) => Err(why(&finding.claim, finding.expected, finding.found, finding.owner.to_string())),
            None => Err(why("resource rule", "a rule".into(), path.to_owned(), "who wrote the policy".into())),
        },
    }
}

/// What a policy in Rego says while there is none.
fn no_rego() -> Finding {
    Finding {
        claim: "allow".into(),
        rule: "rego".into(),
        expected: "a policy that can be run".into(),
        found: "none".into(),
        owner: Owner::Policy,
        passed: false,
    }
}

/// Whether a set that the launch agreed with still holds for it: nothing of it was removed or has expired since.
fn still_agrees(references: &References, identity: &Identity, now: u64) -> bool {
    let same = |found: &str, value: &Value| match value {
        Value::String(text) => text == found,
        Value::Number(number) => number.to_string().as_str() == found,
        other => other == found,
    };
    let table = measured(&identity.who.tee, identity.who.software);
    references.sets().filter(|(name, _)| identity.who.sets.iter().any(|set| set == name)).any(|(_, values)| {
        // As the default policy has it: a name whose values have all expired is one that nothing agrees with.
        let mut named: BTreeMap<&str, bool> = BTreeMap::new();
        for value in values.filter(|value| table.iter().any(|measured| measured.name == value.name)) {
            let found = identity.launch.get(&value.name).filter(|_| value.holds_at(now));
            let agrees = found.is_some_and(|found| value.scalars().iter().any(|scalar| same(found, scalar)));
            *named.entry(&value.name).or_default() |= agrees;
        }
        let required = table.iter().filter(|measured| measured.required);
        !named.is_empty()
            && named.values().all(|agrees| *agrees)
            && required.into_iter().all(|measured| named.contains_key(measured.name))
    })
}

/// Values with their names, and who owns them.
pub(crate) fn describe_references<'a>(references: impl Iterator<Item = &'a Reference>) -> (String, String) {
    let mut values = Vec::new();
    let mut owners = Vec::new();
    for reference in references {
        let value = format!("{} ({})", describe_launch(&reference.launch), reference.name);
        if !values.contains(&value) {
            values.push(value);
        }
        if !owners.contains(&reference.owner) {
            owners.push(reference.owner.clone());
        }
    }
    (bounded_list(&values), bounded_list(&owners))
}

/// The first eight of a list.
pub(crate) fn bounded_list(items: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar_appraisal::reference::{ReferenceValue, SourceKind};
    use belljar_rcar::{TeeKey, ear::Status};

    #[test]
    fn a_set_of_which_something_has_expired_or_is_gone_agrees_no_more() {
        let names = ["mr_td", "rtmr_1", "rtmr_2"];
        let identity = Identity {
            tenant: "default".into(),
            host_data: [0; 32],
            launch: names.map(|name| (name.to_owned(), name.to_owned())).into(),
            who: belljar_appraisal::release::Identity {
                tee: "tdx".into(),
                software: false,
                admitted: true,
                status: Status::Affirming,
                contract: None,
                signer: None,
                namespace: None,
                sets: vec!["guest".into()],
            },
            chip: Vec::new(),
            tee_key: TeeKey::generate().unwrap().jwk(),
            token_expires: 0,
            record: String::new(),
        };
        let value = |name: &str, value: &str, expires| ReferenceValue {
            name: name.into(),
            set: "guest".into(),
            value: value.into(),
            expires,
            source: SourceKind::Admin,
            owner: "me".into(),
            signer: None,
        };
        let agrees = |rtmr_1: Option<ReferenceValue>| {
            let others = [value("mr_td", "mr_td", None), value("rtmr_2", "rtmr_2", None)];
            still_agrees(&References::new(others.into_iter().chain(rtmr_1)).unwrap(), &identity, 10)
        };
        assert!(agrees(Some(value("rtmr_1", "rtmr_1", Some(10)))));
        assert!(!agrees(Some(value("rtmr_1", "rtmr_1", Some(9)))));
        assert!(!agrees(Some(value("rtmr_1", "other", None))));
        assert!(!agrees(None));
    }
}
