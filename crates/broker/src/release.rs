//! Who gets which resource. Default deny: a live registration of the session's init-data digest and measurement must have
//! a rule that names the path.

use crate::{
    appraisal::describe_launch,
    record::{Denial, Release},
    session::{Identity, State},
    state::{Broker, random_hex},
    workload::{Launch, Reference, Workload},
};
use belljar_rcar::{Jwk, ear};
use serde::{Deserialize, Serialize};
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

/// What a client shows for having attested.
pub(crate) enum Shown {
    Cookie(String),
    Token(String),
}

/// What a token says about its holder, besides what upstream's tokens say.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Holder {
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
            kind: cpu.tee.clone()?,
            host_data: holder.contract,
            launch: holder.launch,
            who: holder.who,
            chip: holder.chip,
            tee_key: serde_json::from_value(said("/runtime_data_claims/tee-pubkey")).ok()?,
            token_issued: claims.iat,
            token_expires: claims.exp,
            record: holder.record,
        })
    }

    /// Decides about a resource.
    pub(crate) fn resolve(&self, shown: &Shown, path: &str) -> Resolved {
        let now = self.now();
        let Some(identity) = self.identify(shown, now) else { return Resolved::NoToken };
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
        let runs_as =
            |workload: &&Arc<Workload>| workload.references.iter().any(|reference| reference.matches(&identity.launch));
        let admitted: Vec<_> = workloads.iter().filter(runs_as).collect();
        if admitted.is_empty() {
            let (expected, owner) = describe_references(workloads.iter().flat_map(|w| &w.references));
            return deny("measurement", expected, describe_launch(&identity.launch), owner);
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
