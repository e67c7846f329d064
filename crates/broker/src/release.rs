//! Who gets which resource. Default deny: a live registration of the session's init-data digest and measurement must have
//! a rule that names the path.

use crate::{
    record::{Denial, Release},
    session::State,
    state::{Broker, random_hex},
    workload::{Reference, Workload},
};
use belljar_rcar::Jwk;
use std::sync::Arc;
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
}

impl Broker {
    /// Decides about a resource.
    pub(crate) fn resolve(&self, session: &str, path: &str) -> Resolved {
        let now = self.now();
        let identity = match self.sessions().live(session, now).map(|session| session.state.clone()) {
            Some(State::Attested(identity)) if identity.token_expires > now => identity,
            _ => return Resolved::NoToken,
        };
        let deny = |claim: &str, expected: String, found: String, owner: String| {
            let denial = Denial {
                id: random_hex::<6>().unwrap_or_default(),
                refused: format!("resource {path}"),
                claim: claim.into(),
                expected,
                found,
                owner,
            };
            tracing::warn!(%denial, "resource refused");
            let release = Release { at: now, resource: path.into(), bytes: None, denial: Some(denial.clone()) };
            self.add_release(&identity.record, release);
            Resolved::Refused { denial }
        };

        // Looked up anew, so that a withdrawn or expired registration gets nothing.
        let workloads = self.workloads_of(&identity.host_data);
        if workloads.is_empty() {
            let found = hex::encode(identity.host_data);
            return deny("host_data", "a registered workload".into(), found, "who registers workloads".into());
        }
        let runs_as = |workload: &&Arc<Workload>| {
            workload.references.iter().any(|reference| reference.measurement == identity.measurement)
        };
        let admitted: Vec<_> = workloads.iter().filter(runs_as).collect();
        if admitted.is_empty() {
            let (expected, owner) = describe_references(workloads.iter().flat_map(|w| &w.references));
            return deny("measurement", expected, hex::encode(identity.measurement), owner);
        }
        let named: Vec<_> = admitted.iter().filter(|w| w.rules.iter().any(|rule| rule.matches(path))).collect();
        if named.is_empty() {
            let mut rules: Vec<String> = admitted.iter().flat_map(|w| &w.rules).map(ToString::to_string).collect();
            rules.dedup();
            let expected = if rules.is_empty() { "no resource at all".into() } else { bounded_list(&rules) };
            let mut owners: Vec<String> = admitted.iter().map(|w| w.owner.clone()).collect();
            owners.dedup();
            return deny("resource rule", expected, path.into(), bounded_list(&owners));
        }
        // The latest registration wins.
        let content =
            named.iter().rev().find_map(|w| w.resources.iter().find(|r| r.path == path)).map(|r| r.content.clone());
        match content {
            Some(content) => {
                let release = Release { at: now, resource: path.into(), bytes: Some(content.len()), denial: None };
                self.add_release(&identity.record, release);
                tracing::info!(record = %identity.record, "resource released");
                Resolved::Content { content, tee_key: identity.tee_key }
            }
            None => {
                let denial = Denial {
                    id: random_hex::<6>().unwrap_or_default(),
                    refused: format!("resource {path}"),
                    claim: "resource".into(),
                    expected: "a stored resource".into(),
                    found: "a rule names it, but it is not stored".into(),
                    owner: named.first().map(|w| w.owner.clone()).unwrap_or_default(),
                };
                let release = Release { at: now, resource: path.into(), bytes: None, denial: Some(denial) };
                self.add_release(&identity.record, release);
                Resolved::Absent
            }
        }
    }
}

/// Values with their names, and who owns them.
pub(crate) fn describe_references<'a>(references: impl Iterator<Item = &'a Reference>) -> (String, String) {
    let mut values = Vec::new();
    let mut owners = Vec::new();
    for reference in references {
        let value = format!("{} ({})", hex::encode(reference.measurement), reference.name);
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
