//! The result of an appraisal as a token carries it (draft-ietf-rats-ear): a submodule for each device, named by its class
//! and its number within the class. Signing is `belljar_rcar::ear`'s.

use std::collections::BTreeMap;

use belljar_rcar::ear::{Appraisal, ISSUER, PROFILE, Status, VerifierId};
use serde_json::{Value, json};

use crate::Claims;
use crate::policy::Judgement;

/// Longest annotated evidence of one device, in bytes of JSON; a token has at most 256 KiB.
const MAX_EVIDENCE: usize = 96 * 1024;

/// A device with its judgement.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    /// What it claims.
    pub claims: &'a Claims,
    /// What a policy made of it.
    pub judgement: &'a Judgement,
    /// `ear.trustee.identifiers`, where the policy gave them.
    pub identifiers: Option<&'a Value>,
}

/// The claims of a token that says so; `policy` names the policy, `at` is in seconds since 1970, `lifetime` in seconds.
pub fn token<'a>(
    devices: impl IntoIterator<Item = Device<'a>>,
    policy: &str,
    verifier: VerifierId,
    at: u64,
    lifetime: u64,
) -> belljar_rcar::ear::Claims {
    belljar_rcar::ear::Claims {
        eat_profile: PROFILE.to_owned(),
        iat: at,
        exp: at.saturating_add(lifetime),
        iss: ISSUER.to_owned(),
        verifier_id: verifier,
        submods: submods(devices, policy),
    }
}

/// The submodules: `cpu0`, `gpu0`, `gpu1`, …
pub fn submods<'a>(devices: impl IntoIterator<Item = Device<'a>>, policy: &str) -> BTreeMap<String, Appraisal> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut submods = BTreeMap::new();
    for device in devices {
        let count = counts.entry(device.claims.class()).or_default();
        submods.insert(format!("{}{count}", device.claims.class()), appraisal(&device, policy));
        *count = count.saturating_add(1);
    }
    submods
}

/// Worst tier of all submodules; nothing is said where there is none.
pub fn status(submods: &BTreeMap<String, Appraisal>) -> Status {
    submods.values().map(|submod| submod.status).max().unwrap_or(Status::None)
}

fn appraisal(device: &Device<'_>, policy: &str) -> Appraisal {
    Appraisal {
        status: device.judgement.status(),
        trust_vector: device.judgement.vector,
        policy_id: policy.to_owned(),
        annotated_evidence: annotated(device.claims),
        identifiers: device.identifiers.cloned().unwrap_or_else(|| json!({ "validated": {} })),
        tee: Some(device.claims.tee_or_software().to_owned()),
    }
}

/// The claims as a token carries them: without the raw data of events and the evidence of other devices, and without the
/// events where they are too many; `belljar.left_out` says so.
pub fn annotated(claims: &Claims) -> Value {
    let mut value = claims.value().clone();
    let mut left_out = Vec::new();
    if let Some(runtime) = value.get_mut("runtime_data_claims").and_then(Value::as_object_mut)
        && runtime.get("additional-evidence").is_some_and(|evidence| evidence != "")
    {
        runtime.remove("additional-evidence");
        left_out.push("runtime_data_claims.additional-evidence".to_owned());
    }
    let tee = claims.tee();
    if let Some(Value::Array(events)) = value.get_mut(tee).and_then(|own| own.get_mut("uefi_event_logs")) {
        for event in events.iter_mut().filter_map(Value::as_object_mut) {
            event.remove("event");
        }
        left_out.push(format!("{tee}.uefi_event_logs[].event"));
    }
    let is_long = |value: &Value| value.to_string().len() > MAX_EVIDENCE;
    if is_long(&value)
        && let Some(own) = value.get_mut(tee).and_then(Value::as_object_mut)
        && own.remove("uefi_event_logs").is_some()
    {
        left_out = vec![format!("{tee}.uefi_event_logs")];
    }
    if is_long(&value)
        && let Some(all) = value.as_object_mut()
        && all.remove("init_data_claims").is_some()
    {
        left_out.push("init_data_claims".to_owned());
    }
    if !left_out.is_empty()
        && let Some(ours) = value.get_mut("belljar").and_then(Value::as_object_mut)
    {
        ours.insert("left_out".to_owned(), json!(left_out));
    }
    value
}
