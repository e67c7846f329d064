//! The requests of the attested service.

use std::{convert::Infallible, sync::Arc, time::Duration};

use belljar_attested::wire::{self, ErrorReply, EvidenceRequest, LogsQuery, WireError};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
    time::timeout,
};

use super::{Attested, Denied, Part, exec, output};
use crate::guest::Guest;

/// Longest time for a request's head, and between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for a request's body.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for a connection that asks for evidence; upgraded ones may stay.
const LIFE_LIMIT: Duration = Duration::from_secs(300);

/// One connection to its end, by a client that has shown the key of that SHA-256.
pub(super) async fn serve<S>(attested: Arc<Attested>, client: Option<String>, stream: S, place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, place) = (Arc::new(client), Arc::new(place));
    let service = service_fn(|request| {
        let (attested, client, place) = (attested.clone(), client.clone(), place.clone());
        async move { Ok::<_, Infallible>(answer(&attested, client.as_deref(), request, place).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(16 * 1024)
        .max_headers(32)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A broken connection is its client's business.
    let _ = timeout(LIFE_LIMIT, connection).await;
}

/// Why a request gets no other answer.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("no such path")]
    Path,
    #[error("method expected {0}")]
    Method(Method),
    #[error("upgrade expected {}", wire::UPGRADE)]
    Upgrade,
    #[error("request body is longer than {} bytes, or did not arrive in time", wire::MAX_REQUEST)]
    Body,
    #[error("the contract has no container {0:?}")]
    Container(String),
    #[error("the pod is stopping")]
    Stopping,
    #[error("no evidence: {0}")]
    Evidence(String),
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::Wire(_) | Self::Body => StatusCode::BAD_REQUEST,
            Self::Denied(Denied::NoKey { .. }) => StatusCode::UNAUTHORIZED,
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Path | Self::Container(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Upgrade => StatusCode::UPGRADE_REQUIRED,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Evidence(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(
    attested: &Arc<Attested>,
    client: Option<&str>,
    request: Request<Incoming>,
    place: Arc<OwnedSemaphorePermit>,
) -> Answer {
    let outcome = match request.uri().path() {
        wire::EVIDENCE => evidence(attested, request).await,
        wire::LOGS => logs(attested, client, request, place),
        wire::EXEC => exec(attested, client, request, place),
        _ => Err(Refused::Path),
    };
    outcome.unwrap_or_else(|refused| json(refused.status(), &ErrorReply { error: refused.to_string() }))
}

async fn evidence(attested: &Attested, request: Request<Incoming>) -> Result<Answer, Refused> {
    expect(&request, Method::POST)?;
    let body = timeout(BODY_LIMIT, Limited::new(request.into_body(), wire::MAX_REQUEST).collect()).await;
    let body = body.map_err(|_| Refused::Body)?.map_err(|_| Refused::Body)?.to_bytes();
    let nonce = EvidenceRequest::parse(&body)?;
    let reply = attested.evidence(&nonce).await.map_err(Refused::Evidence)?;
    Ok(json(StatusCode::OK, &reply))
}

fn logs(
    attested: &Attested,
    client: Option<&str>,
    mut request: Request<Incoming>,
    place: Arc<OwnedSemaphorePermit>,
) -> Result<Answer, Refused> {
    expect(&request, Method::GET)?;
    attested.authorise(client, Part::Logs)?;
    let query = LogsQuery::parse(request.uri().query().unwrap_or_default())?;
    let guest = attested.guest()?;
    let pod = guest.pod.get().ok_or(Refused::Stopping)?;
    let log = pod.logs().get(&query.container).cloned().ok_or(Refused::Container(query.container))?;
    let upgrade = upgrade(&mut request)?;
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            output::send(TokioIo::new(stream), &log, query.follow).await;
        }
        drop(place);
    });
    Ok(switching())
}

fn exec(
    attested: &Attested,
    client: Option<&str>,
    mut request: Request<Incoming>,
    place: Arc<OwnedSemaphorePermit>,
) -> Result<Answer, Refused> {
    expect(&request, Method::POST)?;
    attested.authorise(client, Part::Exec)?;
    let guest = attested.guest()?;
    let upgrade = upgrade(&mut request)?;
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            exec::run(TokioIo::new(stream), &guest).await;
        }
        drop(place);
    });
    Ok(switching())
}

fn expect(request: &Request<Incoming>, method: Method) -> Result<(), Refused> {
    if *request.method() == method { Ok(()) } else { Err(Refused::Method(method)) }
}

/// The stream behind a request that asks for it and has no body.
fn upgrade(request: &mut Request<Incoming>) -> Result<OnUpgrade, Refused> {
    let wanted = request.headers().get(header::UPGRADE).is_some_and(|value| value == wire::UPGRADE);
    let empty = hyper::body::Body::is_end_stream(request.body());
    if wanted && empty { Ok(hyper::upgrade::on(request)) } else { Err(Refused::Upgrade) }
}

fn switching() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static(wire::UPGRADE));
    answer
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

impl Attested {
    fn guest(&self) -> Result<Arc<Guest>, Refused> {
        self.guest.upgrade().ok_or(Refused::Stopping)
    }
}
