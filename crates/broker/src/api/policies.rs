//! `/belljar/v1/policies`: who gets which resource. Rules of one scope are replaced together.

use super::{Caller, Refused, bytes, no_content, refuse_keep};
use crate::{
    handshake::{error, json},
    keep::Kind,
    principal::Action,
    state::Broker,
};
use axum::{
    Extension,
    body::Bytes,
    extract::{Query, State, rejection::BytesRejection},
    http::StatusCode,
    response::Response,
};
use belljar_appraisal::release;
use serde::Deserialize;

pub(super) async fn list(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refused> {
    caller.may(Action::Read)?;
    let sets = broker.rule_sets(&caller.tenant).await.map_err(|e| refuse_keep(&e))?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "sets": sets })))
}

/// Rules in TOML: each of its sets replaces that of the same scope.
pub(super) async fn put(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    caller.may(Action::Change)?;
    let bytes = bytes(body, "InvalidPolicy", "the rules are too long")?;
    let bad = |why: &dyn std::fmt::Display| Refused::bad("InvalidPolicy", &why.to_string());
    let text = std::str::from_utf8(&bytes).map_err(|e| bad(&e))?;
    let sets = release::parse(text).map_err(|e| bad(&e))?;
    if sets.is_empty() {
        return Err(bad(&"there is no [[set]] in it"));
    }
    for set in sets {
        broker.put_rules(&caller, set).await.map_err(|e| refuse_keep(&e))?;
    }
    Ok(no_content())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scope {
    scope: String,
}

pub(super) async fn delete(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    Query(Scope { scope }): Query<Scope>,
) -> Result<Response, Refused> {
    caller.may(Action::Change)?;
    match broker.remove(&caller, Kind::Policy, &scope, "policy.delete").await.map_err(|e| refuse_keep(&e))? {
        true => Ok(no_content()),
        false => Ok(error(StatusCode::NOT_FOUND, "NotFound", "no rules of that scope")),
    }
}
