//! The requests of the attested service.

use std::{convert::Infallible, sync::Arc, time::Duration};

use belljar_attested::wire::{self, ErrorReply, EvidenceRequest, WireError};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
    time::timeout,
};

use super::{Attested, Denied, Part};

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
    let client = Arc::new(client);
    let service = service_fn(|request| {
        let (attested, client) = (attested.clone(), client.clone());
        async move { Ok::<_, Infallible>(answer(&attested, client.as_deref(), request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(16 * 1024)
        .max_headers(32)
        .serve_connection(TokioIo::new(stream), service);
    // A broken connection is its client's business.
    let _ = timeout(LIFE_LIMIT, connection).await;
    drop(place);
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
    #[error("this version of the guest does not serve that")]
    NotServed,
    #[error("request body is longer than {} bytes, or did not arrive in time", wire::MAX_REQUEST)]
    Body,
    #[error("no evidence: {0}")]
    Evidence(String),
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::Wire(_) | Self::Body => StatusCode::BAD_REQUEST,
            Self::Denied(Denied::NoKey { .. }) => StatusCode::UNAUTHORIZED,
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotServed => StatusCode::NOT_IMPLEMENTED,
            Self::Evidence(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(attested: &Arc<Attested>, client: Option<&str>, request: Request<Incoming>) -> Answer {
    let outcome = match request.uri().path() {
        wire::EVIDENCE => evidence(attested, request).await,
        wire::LOGS => attested.authorise(client, Part::Logs).map_err(Refused::Denied).and(Err(Refused::NotServed)),
        wire::EXEC => attested.authorise(client, Part::Exec).map_err(Refused::Denied).and(Err(Refused::NotServed)),
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

fn expect(request: &Request<Incoming>, method: Method) -> Result<(), Refused> {
    if *request.method() == method { Ok(()) } else { Err(Refused::Method(method)) }
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}
