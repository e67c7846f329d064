//! Proxies and TLS, against a proxy and a TLS server of ours.

use std::sync::Arc;
use std::time::Duration;

use belljar_collateral::{
    Anchors, Cache, FetchError, FetchOptions, Fetcher, HttpError, HttpOptions, Item, Limits, Proxies, Services,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::FakeClock;
use crate::fake::{Fake, Reply, proxy};
use crate::intel::{Claims, Intel, NOW};

const ROOT_LIST: &str = "/sgx/certification/v4/rootcacrl";

/// A server for a name, with the CA that vouches for it.
fn tls(name: &str) -> (TlsAcceptor, Vec<u8>) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), pem.into_bytes())
}

fn fetcher(folder: &tempfile::TempDir, intel: &Intel, base: &str, proxies: Proxies, ca: Option<Vec<u8>>) -> Fetcher {
    let services = Services::vendors().unwrap().with_pccs(base).unwrap();
    let anchors = Anchors::vendors().with_test_root(&intel.root).unwrap();
    let http = HttpOptions { proxies, ca, ..HttpOptions::default() };
    let options = FetchOptions { max_wait: 0, ..FetchOptions::default() };
    Fetcher::new(Cache::new(folder.path()), services, anchors, &http, options).unwrap().with_clock(FakeClock::at(NOW))
}

#[tokio::test]
async fn https_goes_through_the_proxys_tunnel_and_trusts_the_added_ca() {
    let intel = Intel::new();
    let (acceptor, ca) = tls("pccs.example");
    let fake = Fake::start_with(Some(acceptor)).await;
    fake.on(ROOT_LIST, [Reply::Body(Vec::new(), intel.root_list(&Claims::of("")))]);
    let (proxy, asked) = proxy(fake.address).await;
    let proxies = || Proxies { https: Some(format!("http://{proxy}")), ..Proxies::default() };
    let obtain = async |proxies: Proxies, ca: Option<Vec<u8>>| {
        let folder = tempfile::tempdir().unwrap();
        let fetcher = fetcher(&folder, &intel, "https://pccs.example:8081", proxies, ca);
        fetcher.obtain(&Item::RootCrl, false).await.map(|obtained| obtained.fetched)
    };
    assert!(obtain(proxies(), Some(ca.clone())).await.unwrap());
    assert_eq!(*asked.lock().unwrap(), ["CONNECT pccs.example:8081 HTTP/1.1"]);

    // Without the CA, or with that of another server, TLS fails behind the tunnel.
    for (ca, fault) in [(None, "UnknownIssuer"), (Some(tls("pccs.example").1), "BadSignature")] {
        let error = obtain(proxies(), ca).await.unwrap_err();
        let FetchError::Http(HttpError::Connect { host, why }) = error else { panic!("{error}") };
        assert_eq!(host, "pccs.example:8081");
        assert!(why.contains(fault), "{why}");
    }
    assert_eq!(asked.lock().unwrap().len(), 3);

    // NO_PROXY leaves the proxy out: the name then does not resolve.
    let error = obtain(Proxies { no_proxy: Some("example".to_owned()), ..proxies() }, Some(ca)).await.unwrap_err();
    assert!(matches!(error, FetchError::Http(HttpError::Connect { .. })), "{error}");
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn http_goes_to_the_proxy_as_a_whole_address() {
    let intel = Intel::new();
    let fake = Fake::start().await;
    let base = "http://pccs.example:8081";
    fake.on(&format!("{base}{ROOT_LIST}"), [Reply::Body(Vec::new(), intel.root_list(&Claims::of("")))]);
    let folder = tempfile::tempdir().unwrap();
    let proxies = Proxies { http: Some(fake.base()), ..Proxies::default() };
    assert!(fetcher(&folder, &intel, base, proxies, None).obtain(&Item::RootCrl, false).await.unwrap().fetched);
    assert_eq!(fake.asked(), [format!("{base}{ROOT_LIST}")]);
}

#[tokio::test]
async fn a_name_of_another_server_is_no_service() {
    let intel = Intel::new();
    for (name, reached) in [("127.0.0.1", true), ("127.0.0.2", false)] {
        let (acceptor, ca) = tls(name);
        let fake = Fake::start_with(Some(acceptor)).await;
        fake.on(ROOT_LIST, [Reply::Body(Vec::new(), intel.root_list(&Claims::of("")))]);
        let folder = tempfile::tempdir().unwrap();
        let base = format!("https://{}", fake.address);
        let outcome = fetcher(&folder, &intel, &base, Proxies::default(), Some(ca)).obtain(&Item::RootCrl, false).await;
        match outcome {
            Ok(obtained) => assert!(reached && obtained.fetched),
            Err(FetchError::Http(HttpError::Connect { why, .. })) => {
                assert!(!reached && why.contains("not valid for name"), "{why}")
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn options_that_cannot_be_honoured_are_errors() {
    let make = |http: HttpOptions| {
        let fetcher = Fetcher::new(
            Cache::new("/nowhere"),
            Services::vendors().unwrap(),
            Anchors::vendors(),
            &http,
            FetchOptions::default(),
        );
        fetcher.map(|_| ())
    };
    assert_eq!(make(HttpOptions::default()), Ok(()));
    let ca = HttpOptions { ca: Some(b"no certificate".to_vec()), ..HttpOptions::default() };
    assert_eq!(make(ca), Err(HttpError::Setup("the CA file holds no certificate in PEM".to_owned())));
    let proxies = Proxies { https: Some("::".to_owned()), ..Proxies::default() };
    assert!(matches!(make(HttpOptions { proxies, ..HttpOptions::default() }), Err(HttpError::Setup(_))));
}

#[tokio::test]
async fn a_server_that_does_not_finish_its_greeting_is_left() {
    let intel = Intel::new();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://{}", silent.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let services = Services::vendors().unwrap().with_pccs(&base).unwrap();
    let anchors = Anchors::vendors().with_test_root(&intel.root).unwrap();
    let limits = Limits { connect: Duration::from_millis(100), ..Limits::default() };
    let http = HttpOptions { limits, ca: Some(tls("127.0.0.1").1), ..HttpOptions::default() };
    let options = FetchOptions { max_wait: 0, ..FetchOptions::default() };
    let fetcher = Fetcher::new(Cache::new(folder.path()), services, anchors, &http, options).unwrap();
    let error = fetcher.with_clock(FakeClock::at(NOW)).obtain(&Item::RootCrl, false).await.unwrap_err();
    let FetchError::Http(HttpError::Connect { host, why }) = error else { panic!("{error}") };
    assert_eq!(format!("https://{host}"), base);
    assert!(why.contains("timed out"), "{why}");
}
