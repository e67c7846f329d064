//! `/belljar/v1/audit`: the tenant's log, a page at a time, with the checkpoints and the key that verifies them.

use super::{Caller, Refused, refuse_keep};
use crate::{audit, handshake::json, principal::Action, state::Broker};
use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    #[serde(default)]
    after: u64,
}

pub(super) async fn list(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    Query(Page { after }): Query<Page>,
) -> Result<Response, Refused> {
    caller.may(Action::Read)?;
    let failed = |e| refuse_keep(&e);
    let entries = audit::entries(broker.keep(), &caller.tenant, after, 1000).await.map_err(failed)?;
    let checkpoints = audit::checkpoints(broker.keep(), &caller.tenant).await.map_err(failed)?;
    let key = broker.audit_log().map(|log| log.key());
    let body = serde_json::json!({
        "tenant": caller.tenant, "entries": entries, "checkpoints": checkpoints, "key": key,
    });
    Ok(json(StatusCode::OK, &body))
}
