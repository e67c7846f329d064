//! `/belljar/v1/workloads` and `/belljar/v1/handshakes`: workloads are registered, listed, withdrawn; their handshakes are read.

use super::{Caller, Refused, body, refuse_keep};
use crate::{
    handshake::{error, json},
    keep::{KeepError, Kept},
    principal::Action,
    record::HandshakeRecord,
    state::Broker,
    tenant::Registered,
    workload::{KnownWorkload, Launch, Reference, Resource, Rule, Workload, WorkloadError, WorkloadId},
};
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::BytesRejection},
    http::StatusCode,
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use zeroize::{Zeroize, Zeroizing};

/// Longest body of a registration: the resources of one workload in base64.
pub(crate) const MAX_BODY: usize = 8 * 1024 * 1024;
/// Longest time to live, in seconds: a year.
pub(crate) const MAX_TTL: u64 = 366 * 24 * 3600;

/// A workload in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadBody {
    name: String,
    owner: String,
    /// 64 hexadecimal digits.
    initdata_digest: String,
    references: Vec<ReferenceBody>,
    resources: Vec<ResourceBody>,
    rules: Vec<String>,
    /// Absent: until it is withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceBody {
    name: String,
    owner: String,
    /// By name, see [`Launch`].
    launch: Launch,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceBody {
    path: String,
    /// Standard base64.
    content: String,
}

impl Drop for ResourceBody {
    fn drop(&mut self) {
        self.content.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct RegisteredBody {
    pub(crate) id: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct HandshakesBody<R> {
    pub(crate) handshakes: Vec<R>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct KnownBody {
    pub(crate) workloads: Vec<KnownWorkloadBody>,
}

/// A known workload in JSON; bytes in hexadecimal digits.
#[derive(Serialize, Deserialize)]
pub(crate) struct KnownWorkloadBody {
    id: String,
    name: String,
    owner: String,
    initdata_digest: String,
    launches: Vec<Launch>,
    resources: Vec<String>,
}

impl From<KnownWorkload> for KnownWorkloadBody {
    fn from(known: KnownWorkload) -> Self {
        Self {
            id: known.id.to_string(),
            name: known.name,
            owner: known.owner,
            initdata_digest: hex::encode(known.initdata_digest),
            launches: known.launches,
            resources: known.resources,
        }
    }
}

impl TryFrom<KnownWorkloadBody> for KnownWorkload {
    type Error = BodyError;

    fn try_from(body: KnownWorkloadBody) -> Result<Self, BodyError> {
        Ok(Self {
            id: body.id.parse()?,
            name: body.name,
            owner: body.owner,
            initdata_digest: bytes("initdata_digest", &body.initdata_digest)?,
            launches: body.launches,
            resources: body.resources,
        })
    }
}

/// Why a registration's body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("{0} is not hexadecimal of the right length")]
    Hex(&'static str),
    #[error("content of resource {0:?} is not base64")]
    Base64(String),
    #[error("ttl_seconds is 0 or more than {MAX_TTL}")]
    Ttl,
    #[error(transparent)]
    Workload(#[from] WorkloadError),
}

impl From<&Workload> for WorkloadBody {
    fn from(workload: &Workload) -> Self {
        let reference =
            |r: &Reference| ReferenceBody { name: r.name.clone(), owner: r.owner.clone(), launch: r.launch.clone() };
        let resource =
            |r: &Resource| ResourceBody { path: r.path.clone(), content: STANDARD.encode(r.content.as_slice()) };
        Self {
            name: workload.name.clone(),
            owner: workload.owner.clone(),
            initdata_digest: hex::encode(workload.initdata_digest),
            references: workload.references.iter().map(reference).collect(),
            resources: workload.resources.iter().map(resource).collect(),
            rules: workload.rules.iter().map(ToString::to_string).collect(),
            ttl_seconds: workload.ttl.map(|ttl| ttl.as_secs()),
        }
    }
}

impl TryFrom<WorkloadBody> for Workload {
    type Error = BodyError;

    fn try_from(body: WorkloadBody) -> Result<Self, BodyError> {
        let reference = |r: ReferenceBody| Reference { name: r.name, owner: r.owner, launch: r.launch };
        let resource = |r: &ResourceBody| {
            let content = STANDARD.decode(&r.content);
            let content = content.map_err(|_| BodyError::Base64(belljar_rcar::sanitize(&r.path, 80)))?;
            Ok(Resource { path: r.path.clone(), content: Zeroizing::new(content) })
        };
        let ttl = match body.ttl_seconds {
            Some(1..=MAX_TTL) | None => body.ttl_seconds.map(Duration::from_secs),
            Some(_) => return Err(BodyError::Ttl),
        };
        Ok(Self {
            name: body.name,
            owner: body.owner,
            initdata_digest: bytes("initdata_digest", &body.initdata_digest)?,
            references: body.references.into_iter().map(reference).collect(),
            resources: body.resources.iter().map(resource).collect::<Result<_, BodyError>>()?,
            rules: body.rules.iter().map(|rule| rule.parse::<Rule>()).collect::<Result<_, _>>()?,
            ttl,
        })
    }
}

fn bytes<const N: usize>(name: &'static str, text: &str) -> Result<[u8; N], BodyError> {
    let mut out = [0; N];
    hex::decode_to_slice(text, &mut out).map_err(|_| BodyError::Hex(name))?;
    Ok(out)
}

/// A registration as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptBody {
    /// Later registrations have greater ones.
    order: u64,
    expires: Option<u64>,
    workload: WorkloadBody,
}

/// The value under which a registration is kept.
pub(crate) fn kept(registered: &Registered, order: u64) -> Result<Zeroizing<Vec<u8>>, KeepError> {
    let body =
        KeptBody { order, expires: registered.expires, workload: WorkloadBody::from(registered.workload.as_ref()) };
    serde_json::to_vec(&body).map(Zeroizing::new).map_err(|e| KeepError::Failed(e.to_string()))
}

/// A registration out of what is kept, with its place among the others.
pub(crate) fn registered(kept: &Kept) -> Result<(u64, Registered), KeepError> {
    let failed = |e: &dyn std::fmt::Display| KeepError::Failed(format!("workload {}: {e}", kept.key));
    let body: KeptBody = serde_json::from_slice(&kept.value).map_err(|e| failed(&e))?;
    let workload = Workload::try_from(body.workload).map_err(|e| failed(&e))?;
    let id = kept.key.parse().map_err(|e: WorkloadError| failed(&e))?;
    Ok((body.order, Registered { id, expires: body.expires, workload: Arc::new(workload) }))
}

pub(super) async fn register(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    caller.may(Action::Change)?;
    let body: WorkloadBody = body(bytes, "InvalidWorkload", "the registration is too long")?;
    let workload = Workload::try_from(body);
    let registered = match workload {
        Ok(workload) => broker.register_for(&caller, workload).await,
        Err(e) => return Err(Refused::bad("InvalidWorkload", &e.to_string())),
    };
    match registered {
        Ok(id) => Ok(json(StatusCode::CREATED, &RegisteredBody { id: id.to_string() })),
        Err(e @ WorkloadError::Full(_)) => {
            Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, "TooManyWorkloads", &e.to_string()))
        }
        Err(WorkloadError::Keep(e)) => Err(refuse_keep(&e)),
        Err(e) => Err(Refused::bad("InvalidWorkload", &e.to_string())),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    #[serde(default)]
    name: Option<String>,
}

pub(super) async fn known(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    Query(filter): Query<Named>,
) -> Result<Response, Refused> {
    caller.may(Action::Read)?;
    let is_wanted = |known: &KnownWorkload| filter.name.as_ref().is_none_or(|name| known.name == *name);
    let known = broker.known_of(&caller.tenant);
    let workloads = known.into_iter().filter(is_wanted).map(KnownWorkloadBody::from).collect();
    Ok(json(StatusCode::OK, &KnownBody { workloads }))
}

pub(super) async fn withdraw(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    caller.may(Action::Change)?;
    let withdrawn = match id.parse::<WorkloadId>() {
        Ok(id) => broker.withdraw_for(&caller, &id).await.map_err(|e| refuse_keep(&e))?,
        Err(_) => false,
    };
    if !withdrawn {
        return Ok(error(StatusCode::NOT_FOUND, "NotFound", "no such workload"));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    #[serde(default)]
    initdata: Option<String>,
}

pub(super) async fn handshakes(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    Query(filter): Query<Filter>,
) -> Result<Response, Refused> {
    caller.may(Action::Read)?;
    let wanted = filter.initdata.map(|digest| digest.to_ascii_lowercase());
    let records = broker.records();
    let is_wanted =
        |record: &&HandshakeRecord| record.tenant == caller.tenant && (wanted.is_none() || record.host_data == wanted);
    let handshakes = records.iter().map(AsRef::as_ref).filter(is_wanted).collect();
    Ok(json(StatusCode::OK, &HandshakesBody { handshakes }))
}

/// A handshake by its id, or by the id of a denial of a resource in it.
pub(super) async fn handshake(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    caller.may(Action::Read)?;
    let records = broker.records();
    let names = |record: &HandshakeRecord| {
        record.id == id || record.releases.iter().any(|r| r.denial.as_ref().is_some_and(|denial| denial.id == id))
    };
    match records.iter().find(|record| record.tenant == caller.tenant && names(record)) {
        Some(record) => Ok(json(StatusCode::OK, record.as_ref())),
        None => Ok(error(StatusCode::NOT_FOUND, "NotFound", "no such handshake or denial; old ones are forgotten")),
    }
}

/// Entry for fuzzing: reads `data` as a registration, and registers it.
pub fn fuzz(data: &[u8]) {
    let Ok(body) = serde_json::from_slice::<WorkloadBody>(data) else { return };
    if let (Ok(workload), Ok(broker)) = (Workload::try_from(body), Broker::new(crate::Config::default())) {
        let _ = broker.register(workload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z]{1,5}(/[a-z.]{1,5}){0,3}", "\\PC{0,10}", Just("default/key/*".to_owned()), "[0-9a-f]{96}"]
    }

    proptest! {
        #[test]
        fn what_is_accepted_survives_the_wire(
            name in text(), digest in "[0-9a-f]{64}", measurement in "[0-9a-f]{96}",
            path in text(), rule in text(), content in proptest::collection::vec(any::<u8>(), 0..20), ttl: Option<u64>,
        ) {
            let body = WorkloadBody {
                name: name.clone(),
                owner: name.clone(),
                initdata_digest: digest,
                references: vec![ReferenceBody {
                    name: name.clone(),
                    owner: name,
                    launch: Launch::from([("snp_launch_measurement".to_owned(), measurement)]),
                }],
                resources: vec![ResourceBody { path, content: STANDARD.encode(content) }],
                rules: vec![rule],
                ttl_seconds: ttl,
            };
            let json = serde_json::to_vec(&body).unwrap();
            fuzz(&json);
            if let Ok(workload) = Workload::try_from(body) {
                let again = serde_json::to_vec(&WorkloadBody::from(&workload)).unwrap();
                prop_assert_eq!(&again, &json);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&data);
        }
    }
}
