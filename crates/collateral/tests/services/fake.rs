//! A service on loopback that answers each path as a test says, and counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// What to do with a request.
#[derive(Clone)]
pub enum Reply {
    /// 200 with headers and a body.
    Body(Vec<(&'static str, String)>, Vec<u8>),
    /// Another status, with headers.
    Status(u16, Vec<(&'static str, String)>),
    /// No answer, the connection stays.
    Hang,
    /// The head of an answer, then nothing.
    HeadThenHang,
    /// An answer that says it has so many bytes, of which these come before the connection ends.
    Cut(usize, Vec<u8>),
    /// A chunked answer of so many bytes, whose length no header tells.
    Chunked(usize),
}

#[derive(Default)]
struct State {
    /// By path and query: replies in order, the last one for good.
    replies: HashMap<String, Vec<Reply>>,
    /// Every request, in order.
    asked: Vec<String>,
}

/// The service.
#[derive(Clone)]
pub struct Fake {
    pub address: std::net::SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Over TLS with the acceptor, else plain.
    pub async fn start_with(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&fake.state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (Arc::clone(&state), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, state).await;
                            }
                        }
                        None => serve(stream, state).await,
                    }
                });
            }
        });
        fake
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Sets the replies to a path.
    pub fn on(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        self.state.lock().unwrap().replies.insert(path.to_owned(), replies.into_iter().collect());
    }

    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, state: Arc<Mutex<State>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let reply = {
            let mut state = state.lock().unwrap();
            state.asked.push(path.clone());
            match state.replies.get_mut(&path) {
                Some(replies) if replies.len() > 1 => replies.remove(0),
                Some(replies) => replies[0].clone(),
                None => Reply::Status(404, Vec::new()),
            }
        };
        let lines = |headers: &[(&str, String)]| -> String {
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
        };
        match reply {
            Reply::Body(headers, body) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{}\r\n", body.len(), lines(&headers));
                if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&body).await.is_err() {
                    return;
                }
            }
            Reply::Status(status, headers) => {
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{}\r\n", lines(&headers));
                stream.write_all(head.as_bytes()).await.unwrap();
            }
            Reply::Hang => std::future::pending().await,
            Reply::HeadThenHang => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await.unwrap();
                std::future::pending().await
            }
            Reply::Cut(length, body) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&body).await.unwrap();
                let _ = stream.shutdown().await;
                return;
            }
            Reply::Chunked(length) => {
                if stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.is_err() {
                    return;
                }
                let piece = [format!("{:x}\r\n", 65536).into_bytes(), vec![b'x'; 65536], b"\r\n".to_vec()].concat();
                for _ in 0..length / 65536 {
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                }
                let _ = stream.write_all(b"0\r\n\r\n").await;
            }
        }
    }
}

/// A proxy on loopback: it opens tunnels (CONNECT) to one address, whatever host is asked for, and notes the hosts.
pub async fn proxy(target: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let line = String::from_utf8(head).unwrap().lines().next().unwrap().to_owned();
                noted.lock().unwrap().push(line);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut to = tokio::net::TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
            });
        }
    });
    (address, asked)
}
