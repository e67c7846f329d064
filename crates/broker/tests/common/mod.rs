//! A broker on loopback, a guest with evidence of the software TEE, and a clock that can be set.

#![allow(dead_code)]

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair},
};
use belljar_broker::{
    AdminToken, Anchors, Broker, Clock, Config, HandshakeRecord, Limits, Listening, Reference, Resource, SystemClock,
    Trust, Workload,
};
use belljar_rcar::{
    Attester, Client, ClientError, Evidence, InitData, Tee,
    snp::{CertEntry, CertType, SnpError, SnpEvidence},
};
use belljar_softtee::Keys;
use belljar_testpki::amd;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

pub const DOCUMENT: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"contract.toml\" = \"version = 1\"\n";
pub const MEASUREMENT: [u8; 48] = [0xa1; 48];
pub const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
pub const PATH: &str = "default/key/1";
pub const URI: &str = "kbs:///default/key/1";
pub const ADMIN: &str = "an-admin-token-of-more-than-32-characters";

#[derive(Debug)]
pub struct TestClock(AtomicU64);

impl TestClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(SystemClock.now())))
    }

    pub fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::SeqCst);
    }

    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The keys of a software TEE, made once for all tests.
pub struct Chip {
    pub keys: Keys,
    signer: EcdsaKeyPair,
}

impl Chip {
    pub fn new() -> Self {
        Self::of("softtee-keys")
    }

    pub fn of(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let keys = Keys::load_or_create(&folder).unwrap();
        let key = std::fs::read(folder.join("v1/vcek.key")).unwrap();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key).unwrap();
        Self { keys, signer }
    }

    /// A report of the layout that the software TEE writes, changed by `edit` before it is signed.
    pub fn report(&self, report_data: [u8; 64], edit: &dyn Fn(&mut [u8; 1184])) -> [u8; 1184] {
        let mut report = amd::Report {
            report_data,
            measurement: MEASUREMENT,
            host_data: host_data(DOCUMENT),
            tcb: [1, 1, 0, 0, 0, 0, 1, 1],
            chip_id: *self.keys.chip_id(),
            ..amd::Report::of(amd::Product::Milan)
        }
        .bytes();
        edit(&mut report);
        amd::sign(&mut report, &self.signer);
        report
    }

    pub fn chain(&self) -> Vec<CertEntry> {
        let chain = self.keys.chain();
        [(CertType::VCEK, chain.vek), (CertType::ASK, chain.ask), (CertType::ARK, chain.ark)]
            .into_iter()
            .map(|(cert_type, data)| CertEntry { cert_type, data })
            .collect()
    }

    pub fn evidence(&self, report_data: [u8; 64], edit: &dyn Fn(&mut [u8; 1184])) -> Evidence {
        SnpEvidence::with_chain(&self.report(report_data, edit), Some(self.chain())).unwrap().into()
    }
}

impl Attester for Chip {
    type Error = SnpError;

    async fn evidence(&self, report_data: [u8; 64]) -> Result<Evidence, SnpError> {
        Ok(SnpEvidence::with_chain(&self.report(report_data, &|_| ()), Some(self.chain()))?.into())
    }
}

pub fn host_data(document: &str) -> [u8; 32] {
    digest(&SHA256, document.as_bytes()).as_ref().try_into().unwrap()
}

pub fn workload() -> Workload {
    Workload {
        name: "scorer".into(),
        owner: "fraud team".into(),
        initdata_digest: host_data(DOCUMENT),
        references: vec![Reference::software("guest 0.1.0, 1 vCPU", "belljar measure", MEASUREMENT)],
        resources: vec![
            Resource { path: PATH.into(), content: Zeroizing::new(SECRET.to_vec()) },
            Resource { path: "default/key/unnamed".into(), content: Zeroizing::new(vec![1]) },
        ],
        rules: vec![PATH.parse().unwrap(), "default/absent/*".parse().unwrap()],
        ttl: None,
    }
}

/// A broker that admits the software TEE, and its neighbourhood.
pub struct World {
    pub chip: Chip,
    pub clock: Arc<TestClock>,
    pub broker: Broker,
    pub listening: Listening,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let chip = Chip::new();
        let clock = TestClock::new();
        let mut config = Config {
            trust: Trust { amd: Anchors::amd().with_software_root(chip.keys.ark()), ..Trust::default() },
            allow_software_tee: true,
            workloads: vec![workload()],
            admin_token: Some(AdminToken::new(Zeroizing::new(ADMIN.into())).unwrap()),
            limits: Limits::default(),
            clock: clock.clone(),
            ..Config::default()
        };
        change(&mut config);
        let broker = Broker::new(config).unwrap();
        let listening = broker.listen(([127, 0, 0, 1], 0)).await.unwrap();
        Self { chip, clock, broker, listening }
    }

    pub async fn stream(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listening.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.stream().await, self.listening.pin()).await.unwrap()
    }

    pub async fn connection(&self) -> belljar_rcar::Connection {
        belljar_rcar::Connection::open(self.stream().await, self.listening.pin()).await.unwrap()
    }

    /// A client that was challenged and sends this evidence.
    pub async fn attest(&self, edit: &dyn Fn(&mut [u8; 1184])) -> Result<Client, ClientError> {
        self.attest_with(edit, Some(DOCUMENT)).await
    }

    pub async fn attest_with(
        &self,
        edit: &dyn Fn(&mut [u8; 1184]),
        document: Option<&str>,
    ) -> Result<Client, ClientError> {
        let mut client = self.client().await;
        let report_data = client.auth(Tee::Snp).await?;
        client.attest(&self.chip.evidence(report_data, edit), document.map(InitData::toml)).await?;
        Ok(client)
    }

    pub fn last(&self) -> Arc<HandshakeRecord> {
        self.broker.records().last().unwrap().clone()
    }
}

/// The kind and the reason of a refusal.
pub fn refusal(error: ClientError) -> (u16, String, String) {
    match error {
        ClientError::Refused { status, kind, detail, .. } => (status, kind, detail),
        other => panic!("not a refusal: {other:?}"),
    }
}

/// A client's side of TLS 1.3 that takes this key and no other, with this cryptography.
pub fn connector(provider: rustls::crypto::CryptoProvider, pin: belljar_rcar::SpkiPin) -> tokio_rustls::TlsConnector {
    use rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, ServerName, UnixTime},
    };
    #[derive(Debug)]
    struct Anything(belljar_rcar::SpkiPin);

    impl ServerCertVerifier for Anything {
        fn verify_server_cert(
            &self,
            cert: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            assert_eq!(belljar_rcar::SpkiPin::of_certificate(cert), Some(self.0));
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            panic!("tls 1.2 was spoken")
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(pin)))
        .with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}
