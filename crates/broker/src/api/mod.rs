//! The admin API: other processes, and people by `belljar`, administer a tenant.
//!
//! | request | who may | answer |
//! |---|---|---|
//! | `POST /belljar/v1/workloads` | operator | 201 its id |
//! | `GET /belljar/v1/workloads?name=NAME` | auditor | 200, oldest registration first, without secrets |
//! | `DELETE /belljar/v1/workloads/{id}` | operator | 204, or 404 |
//! | `GET /belljar/v1/handshakes?initdata=HEX`, `…/handshakes/{id}` | auditor | 200, oldest first; one by its id or a denial's |
//! | `GET /belljar/v1/resources?prefix=&after=` | auditor | 200 names and lengths, 1000 at most |
//! | `PUT`, `DELETE /belljar/v1/resources/{repository}/{type}/{tag}` | operator | 204, or 404 |
//! | `GET /belljar/v1/resources/{repository}/{type}/{tag}` | owner | 200 the bytes |
//! | `GET /belljar/v1/policies` | auditor | 200 rules of each scope |
//! | `PUT`, `DELETE /belljar/v1/policies?scope=PATTERN` | operator | 204, or 404 |
//! | `GET /belljar/v1/references` | auditor | 200 all values, expired ones too |
//! | `POST /belljar/v1/references` | publisher | 201 how many were added |
//! | `DELETE /belljar/v1/references?set=&name=` | operator | 200 how many were removed |
//! | `GET`, `POST`, `DELETE /belljar/v1/revocations` | auditor, operator | 200, 201, 204 |
//! | `GET`, `POST`, `DELETE /belljar/v1/principals` | owner | 200, 201 with the token, 204 |
//! | `GET /belljar/v1/audit?after=` | auditor | 200 entries, 1000 at most, checkpoints and their key |
//! | `GET`, `POST /belljar/v1/tenants` | owner of the broker | 200, 201 with the token of its first owner |
//!
//! Each needs `Authorization: Bearer TOKEN`; without an admin token the paths do not exist. The broker's own token is the owner
//! of every tenant, and says whose by `Belljar-Tenant: NAME`.

mod audit;
mod policies;
mod principals;
mod references;
mod resources;
mod revocations;
pub(crate) mod workloads;

use crate::{
    handshake::{bearer, error},
    keep::KeepError,
    principal::{Action, Principal, Role},
    state::Broker,
    tenant::DEFAULT_TENANT,
};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use serde::de::DeserializeOwned;

pub use workloads::fuzz;

/// Longest body of an import or of rules.
const MAX_BODY: usize = 1024 * 1024;
/// Says for which tenant the broker's owner speaks.
pub(crate) const TENANT_HEADER: &str = "belljar-tenant";

/// Who makes a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The owner of the broker, and so of every tenant.
    pub(crate) root: bool,
}

impl Caller {
    /// Refuses what the role does not allow.
    pub(crate) fn may(&self, action: Action) -> Result<(), Refused> {
        if self.role.may(action) {
            return Ok(());
        }
        let detail = format!("{} is {} and may not do this; ask an owner", self.name, self.role);
        Err(Refused::new(StatusCode::FORBIDDEN, "Role", &detail))
    }
}

/// An answer that refuses.
#[derive(Debug)]
pub(crate) struct Refused(StatusCode, &'static str, String);

impl Refused {
    pub(crate) fn new(status: StatusCode, kind: &'static str, detail: &str) -> Self {
        Self(status, kind, belljar_rcar::sanitize(detail, 400))
    }

    pub(crate) fn bad(kind: &'static str, detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, detail)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        error(self.0, self.1, &self.2)
    }
}

/// The answer to a keeper's failure.
pub(crate) fn refuse_keep(failure: &KeepError) -> Refused {
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "Store", &failure.to_string())
}

/// The bytes of a body.
fn bytes(body: Result<Bytes, BytesRejection>, kind: &'static str, long: &str) -> Result<Bytes, Refused> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge", long),
        _ => Refused::bad(kind, "the body cannot be read"),
    })
}

/// A body in JSON.
fn body<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    kind: &'static str,
    long: &str,
) -> Result<T, Refused> {
    let bytes = bytes(body, kind, long)?;
    serde_json::from_slice(&bytes).map_err(|e| Refused::bad(kind, &e.to_string()))
}

fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

pub(crate) fn routes(broker: &Broker) -> Router<Broker> {
    if broker.admin_token().is_none() {
        return Router::new();
    }
    let path = "/belljar/v1/resources/{repository}/{type}/{tag}";
    let most = DefaultBodyLimit::max(workloads::MAX_BODY);
    Router::new()
        .route("/belljar/v1/workloads", get(workloads::known).post(workloads::register).layer(most))
        .route("/belljar/v1/workloads/{id}", delete(workloads::withdraw))
        .route("/belljar/v1/handshakes", get(workloads::handshakes))
        .route("/belljar/v1/handshakes/{id}", get(workloads::handshake))
        .route("/belljar/v1/resources", get(resources::list))
        .route(
            path,
            get(resources::reveal)
                .put(resources::put)
                .delete(resources::delete)
                .layer(DefaultBodyLimit::max(belljar_rcar::jwe::MAX_PLAINTEXT)),
        )
        .route(
            "/belljar/v1/policies",
            get(policies::list).put(policies::put).delete(policies::delete).layer(DefaultBodyLimit::max(MAX_BODY)),
        )
        .route(
            "/belljar/v1/references",
            get(references::list)
                .post(references::add)
                .delete(references::remove)
                .layer(DefaultBodyLimit::max(MAX_BODY)),
        )
        .route("/belljar/v1/revocations", get(revocations::list).post(revocations::add).delete(revocations::remove))
        .route("/belljar/v1/principals", get(principals::list).post(principals::add))
        .route("/belljar/v1/principals/{name}", delete(principals::remove))
        .route("/belljar/v1/audit", get(audit::list))
        .route("/belljar/v1/tenants", get(principals::tenants).post(principals::add_tenant))
        .layer(middleware::from_fn_with_state(broker.clone(), authorized))
}

async fn authorized(State(broker): State<Broker>, mut request: Request, next: Next) -> Response {
    match caller(&broker, request.headers()) {
        Some(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        None => error(StatusCode::UNAUTHORIZED, "AdminToken", "no or another admin token"),
    }
}

/// Who shows this token. Somebody who asks for another tenant is told the same as somebody whom nobody knows.
pub(crate) fn caller(broker: &Broker, headers: &HeaderMap) -> Option<Caller> {
    let token = bearer(headers)?;
    let asked = headers.get(TENANT_HEADER).map(|value| value.to_str().unwrap_or_default());
    if broker.admin_token().is_some_and(|admin| admin.matches(token)) {
        let tenant = asked.unwrap_or(DEFAULT_TENANT);
        broker.tenant(tenant)?;
        return Some(Caller { tenant: tenant.to_owned(), name: "admin".into(), role: Role::Owner, root: true });
    }
    let Principal { name, tenant, role, .. } = broker.principal(&Principal::hash(token))?;
    asked.is_none_or(|asked| asked == tenant).then_some(Caller { tenant, name, role, root: false })
}
