//! `/belljar/v1/revocations`: what is withdrawn.

use super::{Caller, Refused, body, no_content, refuse_keep};
use crate::{
    handshake::{error, json},
    keep::Kind,
    principal::Action,
    revocation::{Revocation, Subject},
    state::Broker,
};
use axum::{
    Extension,
    body::Bytes,
    extract::{Query, State, rejection::BytesRejection},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;

pub(super) async fn list(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refused> {
    caller.may(Action::Read)?;
    let revocations = broker.revocations_of(&caller.tenant);
    let mut all: Vec<&Revocation> = revocations.all().collect();
    all.sort_by(|a, b| (a.at, &a.value).cmp(&(b.at, &b.value)));
    Ok(json(StatusCode::OK, &serde_json::json!({ "revocations": all })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    subject: Subject,
    value: String,
    #[serde(default)]
    reason: String,
}

pub(super) async fn add(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    caller.may(Action::Change)?;
    let Body { subject, value, reason } = body(bytes, "InvalidRevocation", "the revocation is too long")?;
    let revocation = Revocation { subject, value, reason, at: broker.now(), by: caller.name.clone() };
    revocation.check().map_err(|e| Refused::bad("InvalidRevocation", &e.to_string()))?;
    broker.revoke(&caller, &revocation).await.map_err(|e| refuse_keep(&e))?;
    Ok(json(StatusCode::CREATED, &revocation))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    subject: Subject,
    value: String,
}

pub(super) async fn remove(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    Query(Which { subject, value }): Query<Which>,
) -> Result<Response, Refused> {
    caller.may(Action::Change)?;
    let key = Revocation::key(subject, &value);
    match broker.remove(&caller, Kind::Revocation, &key, "revocation.delete").await.map_err(|e| refuse_keep(&e))? {
        true => Ok(no_content()),
        false => Ok(error(StatusCode::NOT_FOUND, "NotFound", "nothing of that is revoked")),
    }
}
