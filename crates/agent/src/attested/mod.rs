//! The attested service: TLS on an inward tunnel whose key the hardware's evidence vouches for, so that whoever has verified that evidence
//! talks to this guest and to nobody in between. Evidence is for everybody; output and further commands are for the operator of the
//! contract. docs/attested-service.md has the format.

mod exec;
mod http;
mod output;

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use belljar_attested::{
    report_data,
    tls::{self, Key},
    wire::{EvidenceReply, PROTOCOL},
};
use belljar_contract::{Operator, Permission};
use rustls::{ServerConfig, pki_types::CertificateDer};
use subtle::ConstantTimeEq;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{guest::Guest, initdata::Bound, tee::Attester};

/// Most connections at one time.
pub const MAX_CONNECTIONS: usize = 16;
/// Longest time for a TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// The service of this guest.
#[derive(Debug)]
pub struct Attested {
    guest: Weak<Guest>,
    attester: Arc<dyn Attester>,
    document: String,
    operator: Option<Operator>,
    /// Made at its first use: a pod that nobody verifies pays nothing.
    tls: OnceLock<Result<Tls, String>>,
    slots: Arc<Semaphore>,
    /// Reports are made one after the other, also for clients that have gone meanwhile.
    reporting: Arc<tokio::sync::Mutex<()>>,
}

/// The service's key: its TLS side, and its `SubjectPublicKeyInfo`.
#[derive(Debug)]
struct Tls {
    config: Arc<ServerConfig>,
    spki: Vec<u8>,
}

/// Why the operator's part of the service is closed to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The contract has no operator.
    #[error("operator expected nobody by the contract, found a client: the contract names no operator")]
    NoOperator,
    /// The client has shown no key.
    #[error("operator expected key {expected} by the contract, found no client key: connect with the operator's key")]
    NoKey {
        /// SHA-256 of its SPKI.
        expected: String,
    },
    /// Another key.
    #[error("operator expected key {expected} by the contract, found {found}")]
    OtherKey {
        /// SHA-256 of the operator's SPKI.
        expected: String,
        /// SHA-256 of the client's.
        found: String,
    },
    /// The contract does not allow it.
    #[error("{claim} expected allow by the contract, found deny")]
    Permission {
        /// Field of the contract.
        claim: &'static str,
    },
}

/// A part of the service that is the operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Logs,
    Exec,
}

impl Attested {
    /// The service of a guest whose launch `bound` is bound to.
    pub fn new(guest: Weak<Guest>, bound: &Bound, attester: Arc<dyn Attester>) -> Arc<Self> {
        Arc::new(Self {
            guest,
            attester,
            document: bound.document.clone(),
            operator: bound.contract.operator.clone(),
            tls: OnceLock::new(),
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            reporting: Arc::default(),
        })
    }

    /// A place for one more connection; none when there are [`MAX_CONNECTIONS`].
    pub fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }

    /// Serves one connection to its end.
    pub async fn serve<S>(self: Arc<Self>, stream: S, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let acceptor = match self.tls() {
            Ok(tls) => TlsAcceptor::from(tls.config.clone()),
            Err(error) => return tracing::error!(error, "attested service has no tls key"),
        };
        let Ok(Ok(stream)) = timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await else { return };
        let key = stream.get_ref().1.peer_certificates().and_then(|keys| keys.first());
        let client = key.map(|key: &CertificateDer<'_>| tls::spki_sha256(key));
        http::serve(self, client, stream, place).await;
    }

    fn tls(&self) -> Result<&Tls, &str> {
        let made = self.tls.get_or_init(|| {
            let (key, _) = Key::generate().map_err(|error| error.to_string())?;
            let config = tls::server(&key).map_err(|error| error.to_string())?;
            Ok(Tls { config, spki: key.spki().to_vec() })
        });
        made.as_ref().map_err(String::as_str)
    }

    /// Evidence that carries the nonce and the key of the service.
    async fn evidence(&self, nonce: &[u8]) -> Result<EvidenceReply, String> {
        let report_data = report_data(nonce, &self.tls()?.spki);
        let turn = self.reporting.clone().lock_owned().await;
        let attester = self.attester.clone();
        let report = tokio::task::spawn_blocking(move || {
            // Not given back before the report is made: dropping this future does not end it.
            let _turn = turn;
            let report = attester.report(&report_data)?;
            report.register(&report_data)?;
            report.evidence()
        });
        let evidence = report.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let text = |value: serde_json::Result<serde_json::Value>| value.map_err(|error| error.to_string());
        let tee = text(serde_json::to_value(evidence.tee()))?;
        Ok(EvidenceReply {
            protocol: PROTOCOL,
            tee: tee.as_str().unwrap_or_default().to_owned(),
            evidence: text(serde_json::to_value(&evidence))?,
            initdata: self.document.clone(),
        })
    }

    /// Whether the client with this key may use `part`.
    fn authorise(&self, client: Option<&str>, part: Part) -> Result<(), Denied> {
        let operator = self.operator.as_ref().ok_or(Denied::NoOperator)?;
        let expected = operator.spki_sha256.clone();
        let found = client.ok_or_else(|| Denied::NoKey { expected: expected.clone() })?;
        if !bool::from(found.as_bytes().ct_eq(expected.as_bytes())) {
            return Err(Denied::OtherKey { expected, found: found.to_owned() });
        }
        let (claim, permission) = match part {
            Part::Logs => ("operator.logs", operator.logs),
            Part::Exec => ("operator.exec", operator.exec),
        };
        match permission {
            Permission::Allow => Ok(()),
            Permission::Deny => Err(Denied::Permission { claim }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tee::{Format, RawReport, TeeError};
    use belljar_attested::{Client, ClientError};
    use belljar_contract::{Contract, Initdata};
    use belljar_rcar::snp::SnpEvidence;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A TEE whose reports say what they were asked to carry, unsigned.
    #[derive(Debug)]
    struct Echo;

    impl Attester for Echo {
        fn format(&self) -> Format {
            Format::Snp
        }

        fn report(&self, report_data: &[u8; 64]) -> Result<RawReport, TeeError> {
            let mut report = vec![0; 1184];
            report[0] = 3;
            report[0x188..0x18b].copy_from_slice(&[0x19, 1, 1]);
            report[0x1a0..0x1e0].fill(1);
            report[0x50..0x90].copy_from_slice(report_data);
            Ok(RawReport { format: Format::Snp, report, aux: Vec::new() })
        }
    }

    fn bound(operator: Option<Operator>) -> Bound {
        let text = format!(
            "version = 1\n[containers.main]\nimage = \"i\"\nimage_digest = \"sha256:{digest}\"\nargs = [\"/a\"]\n\
             [[containers.main.layers]]\nverity_root = \"{digest}\"\nsalt = \"\"\ndata_blocks = 1\n",
            digest = "0".repeat(64)
        );
        let mut contract = Contract::parse(&text).unwrap();
        contract.operator = operator;
        Bound { document: Initdata::with_contract(&contract).to_toml(), contract }
    }

    async fn connect(attested: &Arc<Attested>, key: Option<&Key>) -> Client {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(attested.clone().serve(theirs, attested.admit().unwrap()));
        Client::connect(ours, key).await.unwrap()
    }

    #[tokio::test]
    async fn evidence_carries_the_nonce_and_the_key_of_the_connection() {
        let bound = bound(None);
        let attested = Attested::new(Weak::new(), &bound, Arc::new(Echo));
        assert!(attested.tls.get().is_none(), "nobody has asked yet");
        let mut client = connect(&attested, None).await;
        let nonce = [9; 32];
        let reply = client.evidence(&nonce).await.unwrap();
        assert_eq!((reply.protocol, reply.tee.as_str(), &reply.initdata), (PROTOCOL, "snp", &bound.document));
        let evidence: SnpEvidence = serde_json::from_value(reply.evidence).unwrap();
        let found = evidence.report_bytes().unwrap()[0x50..0x90].to_vec();
        assert_eq!(found, report_data(&nonce, client.spki()));
        assert_ne!(found, report_data(&[8; 32], client.spki()), "another nonce");
        let other = connect(&Attested::new(Weak::new(), &bound, Arc::new(Echo)), None).await;
        assert_ne!(found, report_data(&nonce, other.spki()), "another guest's key");
        // The key stays as long as the guest.
        assert_eq!(connect(&attested, None).await.spki(), client.spki());
        let error = client.evidence(&[9; 31]).await.unwrap_err().to_string();
        assert_eq!(error, "the pod refused (400): nonce expected 32 to 64 bytes in base64, found 31 bytes");
        client.close().await;
    }

    #[test]
    fn only_the_operator_may_and_only_what_the_contract_allows() {
        let operator = |logs| Operator { spki_sha256: "aa".repeat(32), exec: Permission::Deny, logs };
        let ask = |operator: Option<Operator>, client: Option<&str>, part| {
            Attested::new(Weak::new(), &bound(operator), Arc::new(Echo)).authorise(client, part)
        };
        let (key, other) = ("aa".repeat(32), "ab".repeat(32));
        let allowed = || Some(operator(Permission::Allow));
        assert_eq!(ask(allowed(), Some(&key), Part::Logs), Ok(()));
        assert_eq!(ask(None, Some(&key), Part::Logs), Err(Denied::NoOperator));
        assert_eq!(ask(allowed(), None, Part::Logs), Err(Denied::NoKey { expected: key.clone() }));
        let denied = Denied::OtherKey { expected: key.clone(), found: other.clone() };
        assert_eq!(ask(allowed(), Some(&other), Part::Logs), Err(denied));
        let denied = Denied::Permission { claim: "operator.logs" };
        assert_eq!(ask(Some(operator(Permission::Deny)), Some(&key), Part::Logs), Err(denied));
        assert_eq!(ask(allowed(), Some(&key), Part::Exec), Err(Denied::Permission { claim: "operator.exec" }));
    }

    #[tokio::test]
    async fn a_client_must_hold_the_key_that_it_shows() {
        let (key, _) = Key::generate().unwrap();
        let (other, _) = Key::generate().unwrap();
        let operator = Operator { spki_sha256: key.spki_sha256(), exec: Permission::Deny, logs: Permission::Deny };
        let attested = Attested::new(Weak::new(), &bound(Some(operator)), Arc::new(Echo));
        let query = || belljar_attested::wire::LogsQuery { container: "main".into(), follow: false };
        let refused = async |key: Option<&Key>| match connect(&attested, key).await.logs(&query()).await {
            Err(ClientError::Refused { status, message }) => (status, message),
            other => panic!("{:?}", other.map(|_| ())),
        };
        let found = refused(Some(&key)).await;
        assert_eq!(found, (403, "operator.logs expected allow by the contract, found deny".into()));
        let (status, message) = refused(Some(&other)).await;
        assert_eq!(status, 403);
        assert!(message.ends_with(&format!("found {}", other.spki_sha256())), "{message}");
        assert_eq!(refused(None).await.0, 401);
    }

    /// A TEE that takes its time.
    #[derive(Debug, Default)]
    struct Slow {
        running: AtomicUsize,
        most: AtomicUsize,
        made: AtomicUsize,
    }

    impl Attester for Slow {
        fn format(&self) -> Format {
            Format::Snp
        }

        fn report(&self, report_data: &[u8; 64]) -> Result<RawReport, TeeError> {
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(running, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
            self.running.fetch_sub(1, Ordering::SeqCst);
            self.made.fetch_add(1, Ordering::SeqCst);
            Echo.report(report_data)
        }
    }

    #[tokio::test]
    async fn clients_that_go_leave_no_pile_of_reports() {
        let slow = Arc::new(Slow::default());
        let attested = Attested::new(Weak::new(), &bound(None), slow.clone());
        for _ in 0..8 {
            // Long enough to begin where there is nobody else.
            assert!(timeout(Duration::from_millis(10), attested.evidence(&[1; 32])).await.is_err());
        }
        assert!(attested.evidence(&[2; 32]).await.is_ok());
        assert_eq!(slow.most.load(Ordering::SeqCst), 1);
        assert!(slow.made.load(Ordering::SeqCst) < 8, "who went while waiting is forgotten");
    }

    #[tokio::test]
    async fn connections_are_bounded() {
        let attested = Attested::new(Weak::new(), &bound(None), Arc::new(Echo));
        let places: Vec<_> = (0..MAX_CONNECTIONS).map(|_| attested.admit().unwrap()).collect();
        assert!(attested.admit().is_none());
        drop(places);
        assert!(attested.admit().is_some());
    }
}
