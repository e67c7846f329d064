//! `/belljar/v1/principals` and `/belljar/v1/tenants`: who administers.

use super::{Caller, Refused, body, no_content, refuse_keep};
use crate::{
    config::AdminToken,
    handshake::{error, json},
    keep::Kind,
    principal::{Action, Principal, Role},
    state::Broker,
    tenant::is_tenant,
};
use axum::{
    Extension,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;
use serde_json::json as object;

pub(super) async fn list(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refused> {
    caller.may(Action::Read)?;
    let principals = broker.principals_of(&caller.tenant);
    let shown: Vec<_> = principals.iter().map(|one| object!({ "name": one.name, "role": one.role })).collect();
    Ok(json(StatusCode::OK, &object!({ "principals": shown })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    name: String,
    role: Role,
}

pub(super) async fn add(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    caller.may(Action::Govern)?;
    let Body { name, role } = body(bytes, "InvalidPrincipal", "the principal is too long")?;
    let token = make(&broker, &caller, &caller.tenant, name, role).await?;
    Ok(json(StatusCode::CREATED, &object!({ "token": token.reveal() })))
}

/// Makes a principal with a fresh token, which is shown this once.
async fn make(broker: &Broker, by: &Caller, tenant: &str, name: String, role: Role) -> Result<AdminToken, Refused> {
    if !is_tenant(&name) {
        let form = "a principal's name is 1 to 64 of a-z, 0-9, '-', '_' and '.', the first a letter or digit";
        return Err(Refused::bad("InvalidPrincipal", form));
    }
    if name == "admin" || broker.principals_of(tenant).iter().any(|known| known.name == name) {
        let detail = format!("{name} is there already: remove it first, or choose another name");
        return Err(Refused::new(StatusCode::CONFLICT, "Exists", &detail));
    }
    let failed = |e: crate::ConfigError| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", &e.to_string());
    let token = AdminToken::generate().map_err(failed)?;
    let principal = Principal { name, tenant: tenant.to_owned(), role, token: Principal::hash(token.reveal()) };
    broker.put_principal(by, principal).await.map_err(|e| refuse_keep(&e))?;
    Ok(token)
}

pub(super) async fn remove(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    caller.may(Action::Govern)?;
    match broker.remove(&caller, Kind::Admin, &name, "principal.delete").await.map_err(|e| refuse_keep(&e))? {
        true => Ok(no_content()),
        false => Ok(error(StatusCode::NOT_FOUND, "NotFound", "no such principal")),
    }
}

/// Tenants exist for the broker's owner only; everybody else is told what a path that does not exist tells.
fn root(caller: &Caller) -> Result<(), Refused> {
    if caller.root { Ok(()) } else { Err(Refused::new(StatusCode::NOT_FOUND, "NotFound", "no such path")) }
}

pub(super) async fn tenants(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refused> {
    root(&caller)?;
    Ok(json(StatusCode::OK, &object!({ "tenants": broker.tenant_names() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    name: String,
}

pub(super) async fn add_tenant(
    State(broker): State<Broker>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    root(&caller)?;
    let NewTenant { name } = body(bytes, "InvalidTenant", "the tenant is too long")?;
    if !is_tenant(&name) {
        let form = "a tenant's name is 1 to 64 of a-z, 0-9, '-', '_' and '.', the first a letter or digit";
        return Err(Refused::bad("InvalidTenant", form));
    }
    if broker.tenant(&name).is_some() {
        return Err(Refused::new(StatusCode::CONFLICT, "Exists", &format!("tenant {name} is there already")));
    }
    broker.put_tenant(&caller, &name).await.map_err(|e| refuse_keep(&e))?;
    let token = make(&broker, &caller, &name, "owner".into(), Role::Owner).await?;
    Ok(json(StatusCode::CREATED, &object!({ "tenant": name, "token": token.reveal() })))
}
