//! `/bin/probe` in the test image: what the busybox beside it cannot do. One static program, also the pause container under runc.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

const USAGE: &str = "usage: probe pause | serve PORT | echo PORT | allocate MIB | get URL [--ca FILE] [--token FILE]";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["pause"] => loop {
            std::thread::park();
        },
        ["serve", port] => serve(port.parse().expect(USAGE)),
        ["echo", port] => echo(port.parse().expect(USAGE)),
        ["allocate", mib] => allocate(mib.parse().expect(USAGE)),
        ["get", url, options @ ..] => std::process::exit(get(url, options)),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}

/// Answers each request with the host name; `/exists/PATH` with 200 or 503, by whether that file exists.
fn serve(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    println!("listening on {port}");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || answer(stream));
    }
}

fn answer(mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
    let Some(Ok(request)) = lines.next() else { return };
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let path = request.split(' ').nth(1).unwrap_or("/");
    let there = path.strip_prefix("/exists").is_none_or(|file| Path::new(file).exists());
    let status = if there { "200 OK" } else { "503 Service Unavailable" };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let length = host.len();
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{host}");
}

/// Sends back what comes.
fn echo(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    println!("listening on {port}");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut from = stream.try_clone().expect("a socket");
            let mut to = stream;
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
}

/// Touches so much memory, and stays.
fn allocate(mib: usize) {
    let mut held = Vec::new();
    for n in 0..mib {
        held.push(vec![1u8; 1 << 20]);
        if n % 8 == 7 {
            println!("{} MiB", n + 1);
        }
    }
    println!("all {} MiB", held.len());
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// One request; prints the body. 0 for status 200, 1 for another. Over TLS the server's certificate must come from `--ca`.
fn get(url: &str, options: &[&str]) -> i32 {
    let option = |name: &str| options.iter().position(|word| *word == name).map(|at| options[at + 1]);
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let token = option("--token").map(|file| std::fs::read_to_string(file).expect("a token"));
    let authorization = token.map(|token| format!("Authorization: Bearer {}\r\n", token.trim())).unwrap_or_default();
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n{authorization}\r\n");
    let with_port = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:{}", if scheme == "https" { 443 } else { 80 })
    };
    let mut tcp = TcpStream::connect(&with_port).unwrap_or_else(|e| panic!("{with_port}: {e}"));
    tcp.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let mut answer = Vec::new();
    if scheme == "https" {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(option("--ca").expect("--ca")).expect("a CA file") {
            roots.add(certificate.expect("a certificate")).expect("which is a CA's");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let host = with_port.rsplit_once(':').map(|(host, _)| host.to_owned()).expect("a host");
        let name = ServerName::try_from(host).expect("a server's name");
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a connection");
        let mut stream = rustls::Stream::new(&mut connection, &mut tcp);
        stream.write_all(request.as_bytes()).unwrap_or_else(|e| panic!("{with_port}: {e}"));
        // Go's server may close without a TLS goodbye.
        let _ = stream.read_to_end(&mut answer);
    } else {
        tcp.write_all(request.as_bytes()).expect("it takes the request");
        let _ = tcp.read_to_end(&mut answer);
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
    print!("{body}");
    let status = head.split(' ').nth(1).unwrap_or_default();
    eprintln!("status {status}");
    i32::from(status != "200")
}
