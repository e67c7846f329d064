//! `/belljar/v1/references`: what evidence is compared with.

use super::{Caller, Refused, body, refuse_keep};
use crate::{handshake::json, principal::Action, state::Broker};
use axum::{
    Extension,
    body::Bytes,
    extract::{Query, State, rejection::BytesRejection},
    http::StatusCode,
    response::Response,
};
use belljar_appraisal::reference::ReferenceValue;
use serde::Deserialize;

pub(super) async fn list(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refused> {
    caller.may(Action::Read)?;
    let references = broker.references_of(&caller.tenant);
    Ok(json(StatusCode::OK, &serde_json::json!({ "references": references.values() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    references: Vec<ReferenceValue>,
}

pub(super) async fn add(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    caller.may(Action::Publish)?;
    let Body { references } = body(bytes, "InvalidReference", "the reference values are too long: split them")?;
    let added = references.len();
    if added == 0 {
        return Err(Refused::bad("InvalidReference", "there is no reference value in it"));
    }
    for value in &references {
        value.check().map_err(|e| Refused::bad("InvalidReference", &e.to_string()))?;
    }
    broker.put_references(&caller, references).await.map_err(|e| refuse_keep(&e))?;
    Ok(json(StatusCode::CREATED, &serde_json::json!({ "added": added })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    set: String,
    #[serde(default)]
    name: Option<String>,
}

pub(super) async fn remove(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    Query(which): Query<Which>,
) -> Result<Response, Refused> {
    caller.may(Action::Change)?;
    let removed = broker.remove_references(&caller, &which.set, which.name.as_deref());
    let removed = removed.await.map_err(|e| refuse_keep(&e))?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "removed": removed })))
}
