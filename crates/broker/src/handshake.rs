//! The routes of `/kbs/v0`. Statuses and error bodies are those that upstream's client knows: 401 where it should attest
//! again or give up.

use crate::{
    api,
    release::{Resolved, Shown},
    session::{State as Phase, Use},
    state::{Answer, Broker, Message},
    tenant::{DEFAULT_TENANT, is_tenant},
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
use belljar_verifier::Evidence;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

/// The TEEs whose evidence is verified.
const VERIFIED: [Tee; 6] = [Tee::Snp, Tee::Tdx, Tee::Sgx, Tee::AzSnpVtpm, Tee::AzTdxVtpm, Tee::Tpm];

impl Broker {
    /// The HTTP service: `/kbs/v0`, and `/belljar/v1` when there is an admin token.
    pub fn router(&self) -> Router {
        Router::new()
            .merge(protocol(""))
            .merge(protocol("/t/{tenant}"))
            .route("/.well-known/jwks.json", get(keys))
            .merge(api::routes(self))
            .fallback(async || error(StatusCode::NOT_FOUND, "NotFound", "no such path"))
            .layer(middleware::from_fn_with_state(self.clone(), in_time))
            .with_state(self.clone())
    }
}

/// The protocol under a prefix that names the tenant, or under none for the default one.
fn protocol(prefix: &str) -> Router<Broker> {
    Router::new()
        .route(&format!("{prefix}/kbs/v0/auth"), post(auth).layer(DefaultBodyLimit::max(wire::MAX_AUTH)))
        .route(&format!("{prefix}/kbs/v0/attest"), post(attest).layer(DefaultBodyLimit::max(wire::MAX_ATTEST)))
        .route(&format!("{prefix}/kbs/v0/resource/{{repository}}/{{kind}}/{{tag}}"), get(resource))
}

/// Parts of the path; without a tenant it is the default one.
#[derive(Deserialize)]
struct Named {
    #[serde(default = "default_tenant")]
    tenant: String,
}

fn default_tenant() -> String {
    DEFAULT_TENANT.to_owned()
}

/// The same with a resource.
#[derive(Deserialize)]
struct Resource {
    #[serde(default = "default_tenant")]
    tenant: String,
    repository: String,
    kind: String,
    tag: String,
}

/// A client that sends its body slowly does not hold a handler for ever.
async fn in_time(State(broker): State<Broker>, request: HttpRequest, next: Next) -> Response {
    match tokio::time::timeout(broker.limits().request, next.run(request)).await {
        Ok(response) => response,
        Err(_) => error(StatusCode::REQUEST_TIMEOUT, "Timeout", "the request took too long"),
    }
}

async fn auth(
    State(broker): State<Broker>,
    Path(Named { tenant }): Path<Named>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
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
    if !VERIFIED.contains(&request.tee) {
        let known: Vec<String> = VERIFIED.iter().map(ToString::to_string).collect();
        return refuse(&format!("tee {} is not verified by this broker; {} are", request.tee, known.join(", ")));
    }
    // Whether there is such a tenant shows nowhere: a challenge is the same for all.
    if !is_tenant(&tenant) {
        return refuse("the path names no tenant");
    }
    let expires = broker.now().saturating_add(broker.limits().session.as_secs());
    match broker.session_key().open(&tenant, request.tee, expires) {
        Ok((cookie, nonce)) => {
            let challenge = Challenge { nonce, extra_params: Value::String(String::new()) };
            with_cookie(json(StatusCode::OK, &challenge), &cookie, expires)
        }
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, "Internal", &e.to_string()),
    }
}

async fn attest(
    State(broker): State<Broker>,
    Path(Named { tenant }): Path<Named>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let refuse = |why: &str| {
        let detail = format!("Attestation error: RCAR handshake Attest failed: {why}");
        error(StatusCode::UNAUTHORIZED, "AttestationError", &detail)
    };
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return rejected(&rejection),
    };
    let Some(cookie) = session_cookie(&headers) else { return refuse("no session cookie") };
    let now = broker.now();
    let Some(session) = broker.session_key().live(&cookie, now).filter(|session| session.tenant == tenant) else {
        return refuse("session is unknown or expired");
    };
    let Phase::Challenged { nonce } = session.state.clone() else {
        return refuse("the challenge was used before; ask for a new one");
    };
    // The nonce is used up before anything is looked at: one challenge, one try.
    let spent = broker.used().spend(&session, now);
    match spent {
        Use::First => {}
        Use::Again => return refuse("the challenge was used before; ask for a new one"),
        Use::Full => {
            let mut response = error(StatusCode::TOO_MANY_REQUESTS, "TooManySessions", "too many sessions; try later");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            return response;
        }
    }
    let tee = session.tee;
    let refuse_message = |claim: &str, expected: &str, found: String, why: &str| {
        let denial = broker.refuse_message(&tenant, tee, claim, expected, found);
        refuse(&format!("{why} (denial {})", denial.id))
    };
    let message = match read_attestation(tee, &body) {
        Ok(message) => message,
        Err(why) => {
            return refuse_message("message", &format!("an attestation with {tee} evidence"), why.clone(), &why);
        }
    };
    let RuntimeData { nonce: found, tee_pubkey } = &message.runtime_data;
    if *found != nonce {
        let found = belljar_rcar::sanitize(found, 64);
        return refuse_message("nonce", &nonce, found, "the nonce is not this session's");
    }
    if let Err(e) = PublicKey::from_jwk(tee_pubkey, ALGORITHM) {
        return refuse_message("tee-pubkey", "an ec key on p-256", e.to_string(), &e.to_string());
    }
    match broker.attest(session, &nonce, message) {
        Answer::Admitted { token, cookie, expires, record } => {
            broker.note(&tenant, &record, "attest", "", "admitted").await;
            with_cookie(json(StatusCode::OK, &Token { token }), &cookie, expires)
        }
        Answer::Refused { denial, authentic } => {
            // The log is kept for ever: what anybody can send without a TEE is no part of it.
            if authentic {
                broker.note(&tenant, &denial.id, "attest", &denial.claim, "refused").await;
            }
            refuse(&format!("{} is not as expected (denial {})", denial.claim, denial.id))
        }
    }
}

/// The message of `attest`, with evidence of the TEE that the session is for.
fn read_attestation(tee: Tee, body: &[u8]) -> Result<Message, String> {
    let message = |init_data, runtime_data, evidence, additional_evidence| Message {
        init_data,
        runtime_data,
        evidence,
        additional_evidence,
    };
    if tee == Tee::Snp {
        // The most frequent one, and the longest in JSON: read into its own type.
        let parsed = Attestation::<SnpEvidence>::parse(body).map_err(|e| e.to_string())?;
        let belljar_rcar::wire::TeeEvidence { primary_evidence, additional_evidence } = parsed.tee_evidence;
        let evidence = Evidence::of_snp(&primary_evidence).map_err(|e| e.to_string())?;
        return Ok(message(parsed.init_data, parsed.runtime_data, evidence, additional_evidence));
    }
    let parsed = Attestation::<Value>::parse(body).map_err(|e| e.to_string())?;
    let belljar_rcar::wire::TeeEvidence { primary_evidence, additional_evidence } = parsed.tee_evidence;
    let evidence = Evidence::of_document(&primary_evidence).map_err(|e| belljar_rcar::sanitize(&e.to_string(), 200))?;
    if evidence.kind().name() != tee.to_string() {
        return Err(format!("the evidence is {}, not {tee}", evidence.kind()));
    }
    Ok(message(parsed.init_data, parsed.runtime_data, evidence, additional_evidence))
}

async fn resource(
    State(broker): State<Broker>,
    headers: HeaderMap,
    Path(Resource { tenant, repository, kind, tag }): Path<Resource>,
) -> Response {
    let no_token = || error(StatusCode::UNAUTHORIZED, "TokenNotFound", "Attestation Token not found");
    let shown = match (session_cookie(&headers), bearer(&headers)) {
        (Some(cookie), _) => Shown::Cookie(cookie),
        (None, Some(token)) => Shown::Token(token.to_owned()),
        (None, None) => return no_token(),
    };
    let segments = [repository, kind, tag];
    if !segments.iter().all(|segment| is_segment(segment)) {
        return error(StatusCode::BAD_REQUEST, "InvalidRequest", "not a resource path: repository/type/tag");
    }
    match broker.resolve(&tenant, &shown, &segments.join("/")).await {
        Resolved::NoToken => no_token(),
        Resolved::Away => error(StatusCode::SERVICE_UNAVAILABLE, "Store", "the store is away; try again later"),
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
fn session_cookie(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == wire::COOKIE).map(|(_, value)| value.to_owned())
}

/// The bearer's token.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// The keys that verify tokens (RFC 7517 §5).
async fn keys(State(broker): State<Broker>) -> Response {
    let mut key = serde_json::to_value(broker.token_key().to_jwk(Some(belljar_rcar::ear::ES256))).unwrap_or_default();
    if let Some(members) = key.as_object_mut() {
        members.insert("use".into(), "sig".into());
    }
    json(StatusCode::OK, &serde_json::json!({ "keys": [key] }))
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
