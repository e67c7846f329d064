//! The REST interface for secrets inside the guest, on `127.0.0.1:8006`, as workloads of Confidential Containers know it
//! (`api-server-rest`): `GET /cdh/resource/<repository>/<type>/<tag>` gives the resource's bytes, and
//! `GET /aa/token?token_type=kbs` a JSON object with the broker's `token`.
//!
//! Only resources that the contract lists for a container with `secret_api` are served; they were fetched at the start.
//! Containers of a pod share this address, so they share these resources. Unlike upstream, the token comes without
//! `tee_keypair`: the key that it is bound to never leaves the agent.

use std::{collections::BTreeMap, convert::Infallible, io, net::Ipv4Addr, sync::Arc, time::Duration};

use belljar_contract::Contract;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use zeroize::Zeroizing;

use crate::attest::Released;

/// Port of the interface.
pub const PORT: u16 = 8006;
/// Most connections at one time; more wait.
const MAX_CONNECTIONS: usize = 16;
/// Longest time for a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// What is served. Its contents are not printable.
pub struct SecretApi {
    resources: BTreeMap<String, Arc<Zeroizing<Vec<u8>>>>,
    token: Option<Arc<Zeroizing<String>>>,
}

impl std::fmt::Debug for SecretApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretApi").field("resources", &self.resources.keys()).finish_non_exhaustive()
    }
}

impl SecretApi {
    /// The interface for the containers that have it; `None` when none has.
    pub fn of(contract: &Contract, released: &Released) -> Option<Self> {
        let mut with = contract.containers.values().filter(|container| container.secret_api).peekable();
        with.peek()?;
        let path = |uri: &str| uri.strip_prefix("kbs:///").map(|path| format!("/cdh/resource/{path}"));
        let resources = with
            .flat_map(|container| &container.secrets)
            .filter_map(|secret| Some((path(&secret.resource)?, released.resources.get(&secret.resource)?.clone())))
            .collect();
        Some(Self { resources, token: released.token.clone() })
    }

    /// Listens on the guest's loopback and serves for ever.
    pub async fn serve(self) -> io::Result<()> {
        self.serve_on(TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).await?).await
    }

    async fn serve_on(self, listener: TcpListener) -> io::Result<()> {
        let (this, slots) = (Arc::new(self), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        loop {
            let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let this = this.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = this.answer(&request);
                    async { Ok::<_, Infallible>(response) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_LIMIT)
                    .max_buf_size(16 * 1024)
                    .serve_connection(TokioIo::new(stream), service);
                // A broken connection is its client's business.
                let _ = connection.await;
                drop(slot);
            });
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        }
        match request.uri().path() {
            "/aa/token" => match (request.uri().query(), &self.token) {
                (Some("token_type=kbs"), Some(token)) => {
                    let body = serde_json::json!({ "token": token.as_str() }).to_string();
                    reply(StatusCode::OK, "application/json", body.into())
                }
                (Some("token_type=kbs"), None) => {
                    plain(StatusCode::NOT_FOUND, "no broker was asked, so there is no token\n")
                }
                _ => plain(StatusCode::BAD_REQUEST, "only token_type=kbs is known\n"),
            },
            path => match self.resources.get(path) {
                Some(content) => reply(StatusCode::OK, "application/octet-stream", Bytes::copy_from_slice(content)),
                None => plain(StatusCode::NOT_FOUND, "the contract lists no such resource\n"),
            },
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    reply(status, "text/plain", Bytes::from_static(text.as_bytes()))
}

fn reply(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn api() -> SecretApi {
        let content = Arc::new(Zeroizing::new(b"model key".to_vec()));
        let token = Some(Arc::new(Zeroizing::new("a.b.c".to_owned())));
        SecretApi { resources: [("/cdh/resource/default/key/1".to_owned(), content)].into(), token }
    }

    async fn ask(head: &str) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(api().serve_on(listener));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn only_listed_resources_are_given() {
        let found = ask("GET /cdh/resource/default/key/1").await;
        assert!(found.starts_with("HTTP/1.1 200 OK\r\n") && found.ends_with("\r\n\r\nmodel key"), "{found}");
        assert!(ask("GET /cdh/resource/default/key/2").await.starts_with("HTTP/1.1 404"));
        assert!(ask("GET /cdh/resource/default/key/../key/1").await.starts_with("HTTP/1.1 404"));
        assert!(ask("POST /cdh/resource/default/key/1").await.starts_with("HTTP/1.1 405"));
    }

    #[tokio::test]
    async fn the_token_is_json() {
        let found = ask("GET /aa/token?token_type=kbs").await;
        assert!(found.contains("content-type: application/json") && found.ends_with(r#"{"token":"a.b.c"}"#), "{found}");
        assert!(ask("GET /aa/token?token_type=coco_as").await.starts_with("HTTP/1.1 400"));
        assert!(ask("GET /aa/token").await.starts_with("HTTP/1.1 400"));
    }
}
