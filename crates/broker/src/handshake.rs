//! The routes of `/kbs/v0`. Statuses and error bodies are those that upstream's client knows: 401 where it should attest
//! again or give up.

use crate::{
    admin,
    release::Resolved,
    session::{NoSession, State as Phase},
    state::{Answer, Broker},
};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Request as HttpRequest, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use belljar_rcar::{
    Tee,
    jwe::Jwe,
    key::{ALGORITHM, PublicKey},
    snp::SnpEvidence,
    uri::is_segment,
    wire::{self, Attestation, Challenge, ErrorBody, Request, RuntimeData, Token},
};
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

impl Broker {
    /// The HTTP service: `/kbs/v0`, and `/belljar/v1` when there is an admin token.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/kbs/v0/auth", post(auth).layer(DefaultBodyLimit::max(wire::MAX_AUTH)))
            .route("/kbs/v0/attest", post(attest).layer(DefaultBodyLimit::max(wire::MAX_ATTEST)))
            .route("/kbs/v0/resource/{repository}/{kind}/{tag}", get(resource))
            .merge(admin::routes(self))
            .fallback(async || error(StatusCode::NOT_FOUND, "NotFound", "no such path"))
            .layer(middleware::from_fn_with_state(self.clone(), in_time))
            .with_state(self.clone())
    }
}

/// A client that sends its body slowly does not hold a handler for ever.
async fn in_time(State(broker): State<Broker>, request: HttpRequest, next: Next) -> Response {
    match tokio::time::timeout(broker.limits().request, next.run(request)).await {
        Ok(response) => response,
        Err(_) => error(StatusCode::REQUEST_TIMEOUT, "Timeout", "the request took too long"),
    }
}

async fn auth(State(broker): State<Broker>, body: Result<Bytes, BytesRejection>) -> Response {
    let refuse = |why: &str| {
        let detail = format!("Attestation error: RCAR handshake Auth failed: {why}");
        error(StatusCode::UNAUTHORIZED, "AttestationError", &detail)
    };
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return rejected(&rejection),
    };
    let request = match Request::parse(&body) {
        Ok(request) => request,
        Err(e) => return refuse(&e.to_string()),
    };
    if request.tee != Tee::Snp {
        return refuse(&format!("tee {} is not verified by this broker; snp is", request.tee));
    }
    let now = broker.now();
    let lifetime = broker.limits().session.as_secs();
    let opened = broker.sessions().open(request.tee, now, lifetime);
    match opened {
        Ok((id, nonce)) => {
            let challenge = Challenge { nonce, extra_params: Value::String(String::new()) };
            with_cookie(json(StatusCode::OK, &challenge), &id, now.saturating_add(lifetime))
        }
        Err(NoSession::Full) => {
            let mut response = error(StatusCode::TOO_MANY_REQUESTS, "TooManySessions", "too many sessions; try later");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            response
        }
        Err(NoSession::Random) => error(StatusCode::INTERNAL_SERVER_ERROR, "Internal", "no random numbers"),
    }
}

async fn attest(State(broker): State<Broker>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let refuse = |why: &str| {
        let detail = format!("Attestation error: RCAR handshake Attest failed: {why}");
        error(StatusCode::UNAUTHORIZED, "AttestationError", &detail)
    };
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return rejected(&rejection),
    };
    let Some(id) = session_id(&headers) else { return refuse("no session cookie") };
    let now = broker.now();
    // The nonce is used up before anything is looked at: one challenge, one try.
    let (nonce, tee) = {
        let mut sessions = broker.sessions();
        let Some(session) = sessions.live(&id, now) else { return refuse("session is unknown or expired") };
        match std::mem::replace(&mut session.state, Phase::Used) {
            Phase::Challenged { nonce } => (nonce, session.tee),
            state => {
                session.state = state;
                return refuse("the challenge was used before; ask for a new one");
            }
        }
    };
    let refuse_message = |claim: &str, expected: &str, found: String, why: &str| {
        let denial = broker.refuse_message(tee, claim, expected, found);
        refuse(&format!("{why} (denial {})", denial.id))
    };
    let message = match Attestation::<SnpEvidence>::parse(&body) {
        Ok(message) => message,
        Err(e) => return refuse_message("message", "an attestation with snp evidence", e.to_string(), &e.to_string()),
    };
    let RuntimeData { nonce: found, tee_pubkey } = &message.runtime_data;
    if *found != nonce {
        let found = belljar_rcar::sanitize(found, 64);
        return refuse_message("nonce", &nonce, found, "the nonce is not this session's");
    }
    if let Err(e) = PublicKey::from_jwk(tee_pubkey, ALGORITHM) {
        return refuse_message("tee-pubkey", "an ec key on p-256", e.to_string(), &e.to_string());
    }
    match broker.attest(&id, &nonce, message) {
        Answer::Admitted { token, expires } => with_cookie(json(StatusCode::OK, &Token { token }), &id, expires),
        Answer::Refused { denial } => refuse(&format!("{} is not as expected (denial {})", denial.claim, denial.id)),
    }
}

async fn resource(
    State(broker): State<Broker>,
    headers: HeaderMap,
    Path((repository, kind, tag)): Path<(String, String, String)>,
) -> Response {
    let no_token = || error(StatusCode::UNAUTHORIZED, "TokenNotFound", "Attestation Token not found");
    let Some(id) = session_id(&headers) else { return no_token() };
    let segments = [repository, kind, tag];
    if !segments.iter().all(|segment| is_segment(segment)) {
        return error(StatusCode::BAD_REQUEST, "InvalidRequest", "not a resource path: repository/type/tag");
    }
    match broker.resolve(&id, &segments.join("/")) {
        Resolved::NoToken => no_token(),
        Resolved::Refused { denial } => {
            let detail = format!("Access denied by policy: {} (denial {})", denial.claim, denial.id);
            error(StatusCode::UNAUTHORIZED, "PolicyDeny", &detail)
        }
        Resolved::Absent => error(StatusCode::NOT_FOUND, "ResourceNotFound", "the resource is not stored"),
        Resolved::Content { content, tee_key } => match Jwe::encrypt(&tee_key, &content) {
            Ok(jwe) => json(StatusCode::OK, &jwe),
            Err(e) => error(StatusCode::UNAUTHORIZED, "JWEError", &format!("cannot encrypt to the tee key: {e}")),
        },
    }
}

/// The session cookie's value.
fn session_id(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == wire::COOKIE).map(|(_, value)| value.to_owned())
}

fn with_cookie(mut response: Response, id: &str, expires: u64) -> Response {
    // Beyond the year 9999 there is no such date; a clock that is there has other troubles.
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(expires.min(253_402_300_799)));
    let cookie = format!("{}={id}; Expires={date}", wire::COOKIE);
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

fn rejected(rejection: &BytesRejection) -> Response {
    let (status, kind) = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => (StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge"),
        _ => (StatusCode::BAD_REQUEST, "InvalidRequest"),
    };
    error(status, kind, "the body cannot be read or is too long")
}

pub(crate) fn error(status: StatusCode, kind: &str, detail: &str) -> Response {
    json(status, &ErrorBody::new(kind, detail))
}

pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (status, body),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
