//! `/belljar/v1/resources`: what is released to workloads. Names are listed; contents are shown to owners only.

use super::{Caller, Refused, bytes, no_content, refuse_keep};
use crate::{
    handshake::{error, json},
    keep::Kind,
    principal::Action,
    state::Broker,
};
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::BytesRejection},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use belljar_rcar::uri::is_segment;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

type Segments = Path<(String, String, String)>;

/// The path of a resource.
pub(crate) fn path(Path((repository, kind, tag)): Segments) -> Result<String, Refused> {
    let segments = [repository, kind, tag];
    if !segments.iter().all(|segment| is_segment(segment)) {
        return Err(Refused::bad("InvalidResource", "not a resource path: repository/type/tag"));
    }
    Ok(segments.join("/"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Page {
    prefix: String,
    after: Option<String>,
}

#[derive(Serialize)]
struct Named {
    path: String,
    bytes: usize,
    revision: u64,
}

pub(super) async fn list(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    Query(page): Query<Page>,
) -> Result<Response, Refused> {
    caller.may(Action::Read)?;
    let names = broker.keep().names(&caller.tenant, Kind::Resource, &page.prefix, page.after.as_deref(), 1000);
    let names = names.await.map_err(|e| refuse_keep(&e))?;
    let named = |one: crate::keep::Named| Named { path: one.key, bytes: one.bytes, revision: one.revision };
    let resources: Vec<Named> = names.into_iter().map(named).collect();
    Ok(json(StatusCode::OK, &serde_json::json!({ "resources": resources })))
}

pub(super) async fn put(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    segments: Segments,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    caller.may(Action::Change)?;
    let path = path(segments)?;
    let content = bytes(body, "InvalidResource", "the resource is too long")?;
    broker.put_resource(&caller, &path, Zeroizing::new(content.to_vec())).await.map_err(|e| refuse_keep(&e))?;
    Ok(no_content())
}

pub(super) async fn delete(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    segments: Segments,
) -> Result<Response, Refused> {
    caller.may(Action::Change)?;
    let path = path(segments)?;
    match broker.delete_resource(&caller, &path).await.map_err(|e| refuse_keep(&e))? {
        true => Ok(no_content()),
        false => Ok(error(StatusCode::NOT_FOUND, "NotFound", "no such resource")),
    }
}

pub(super) async fn reveal(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    segments: Segments,
) -> Result<Response, Refused> {
    caller.may(Action::Reveal)?;
    let path = path(segments)?;
    let kept = broker.keep().get(&caller.tenant, Kind::Resource, &path).await.map_err(|e| refuse_keep(&e))?;
    let Some(kept) = kept else { return Ok(error(StatusCode::NOT_FOUND, "NotFound", "no such resource")) };
    broker.audit(&caller, "resource.reveal", &path).await.map_err(|e| refuse_keep(&e))?;
    let mut response = Response::new(Body::from(kept.value.to_vec()));
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
