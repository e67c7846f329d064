//! The broker of a run: one inside this process, or another that the user named. Either way it is told what to expect
//! before the pod exists.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use belljar_broker::{
    AdminToken, Anchors, Broker, BrokerUrl, Config, HandshakeRecord, Reference, RemoteBroker, RemoteError, Resource,
    TlsServer, Trust, Workload, WorkloadId, own_machines,
};
use belljar_contract::BrokerPin;
use belljar_guest_api::limits::MAX_CHUNK;
use belljar_launch::Tunnel;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::run::options::RunOptions;
use crate::run::plan::GivenSecret;

/// How long another broker keeps a run's secrets when nobody withdraws them: a killed `belljar` cannot. The guest asks for
/// them at its start, which takes at most some minutes.
const REMOTE_LIFE: Duration = Duration::from_secs(3600);

/// The broker of a run.
#[derive(Debug)]
pub enum RunBroker {
    /// In this process.
    Here {
        /// Verifier and relying party.
        broker: Broker,
        /// Its TLS side.
        server: Arc<TlsServer>,
        /// Ends it when dropped.
        stop: watch::Sender<bool>,
    },
    /// Elsewhere.
    There {
        /// Its admin API.
        remote: RemoteBroker,
        /// What was registered there, to withdraw it.
        registered: Option<WorkloadId>,
    },
}

/// Where tunnels to the broker end.
#[derive(Debug, Clone)]
pub enum BrokerEnd {
    /// In this process; the receiver tells it to stop.
    Here(Arc<TlsServer>, watch::Receiver<bool>),
    /// Elsewhere.
    There(BrokerUrl),
}

impl BrokerEnd {
    /// Carries a connection of the guest.
    pub async fn carry(self, tunnel: Tunnel) -> Result<(), String> {
        match self {
            Self::Here(server, stop) => {
                let (ours, theirs) = tokio::io::duplex(MAX_CHUNK);
                let serving = tokio::spawn(async move { server.serve_stream(theirs, stop).await });
                let ended = tunnel.carry(ours).await;
                serving.abort();
                ended.map_err(|e| e.to_string())
            }
            Self::There(url) => match url.connect().await {
                Ok(stream) => tunnel.carry(stream).await.map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            },
        }
    }
}

/// What the broker is told to expect.
#[derive(Debug)]
pub struct Expectation {
    /// Name of the workload, for people.
    pub name: String,
    /// HOST_DATA.
    pub initdata_digest: [u8; 32],
    /// The launch measurement, and for which launch it was computed.
    pub measurement: ([u8; 48], String),
    /// Whether it is a launch under the software TEE.
    pub software: bool,
}

impl RunBroker {
    /// The broker that the options ask for. `software_root` is the software TEE's ARK, where that TEE is used.
    pub fn open(options: &RunOptions, software_root: Option<&[u8]>) -> Result<Self, Failure> {
        if let Some(url) = &options.broker {
            let url: BrokerUrl = url.parse().map_err(Failure::usage)?;
            let token = options.broker_token.as_ref().ok_or_else(|| Failure::usage("--broker needs --broker-token"))?;
            return Ok(Self::There { remote: RemoteBroker::new(url, read_token(token)?), registered: None });
        }
        let anchors = match software_root {
            Some(root) => Anchors::amd().with_software_root(root),
            None => Anchors::amd(),
        };
        let config = Config {
            trust: Trust { amd: anchors, ..Trust::default() },
            allow_software_tee: software_root.is_some(),
            policy: own_machines(),
            ..Config::default()
        };
        let broker = Broker::new(config).map_err(Failure::undecided)?;
        let server = Arc::new(TlsServer::new(&broker).map_err(Failure::undecided)?);
        Ok(Self::Here { broker, server, stop: watch::Sender::new(false) })
    }

    /// The key that the contract pins.
    pub fn pin(&self) -> BrokerPin {
        let pin = match self {
            Self::Here { server, .. } => server.pin(),
            Self::There { remote, .. } => remote.url().pin,
        };
        BrokerPin { spki_sha256: pin.to_string() }
    }

    /// Where tunnels end.
    pub fn end(&self) -> BrokerEnd {
        match self {
            Self::Here { server, stop, .. } => BrokerEnd::Here(server.clone(), stop.subscribe()),
            Self::There { remote, .. } => BrokerEnd::There(remote.url().clone()),
        }
    }

    /// Tells the broker what to expect, and which secrets this workload gets.
    pub async fn expect(&mut self, expectation: &Expectation, secrets: Vec<GivenSecret>) -> Result<(), Failure> {
        match self {
            Self::Here { broker, .. } => {
                broker.register(workload(expectation, secrets, None)?).map_err(Failure::usage)?;
            }
            Self::There { remote, registered } => {
                let workload = workload(expectation, secrets, Some(REMOTE_LIFE))?;
                *registered = Some(remote.register(&workload).await.map_err(Failure::undecided)?);
            }
        }
        Ok(())
    }

    /// The last handshake of this workload, if one got that far.
    pub async fn record(&self, initdata_digest: &[u8; 32]) -> Option<HandshakeRecord> {
        match self {
            Self::Here { broker, .. } => broker.records().last().map(|record| (**record).clone()),
            Self::There { remote, .. } => remote.handshakes(initdata_digest).await.ok()?.pop(),
        }
    }

    /// Withdraws what was registered elsewhere.
    pub async fn withdraw(self) {
        if let Self::There { remote, registered: Some(id) } = self
            && let Err(error) = remote.withdraw(&id).await
            // A long run: it has expired there.
            && !matches!(error, RemoteError::Refused { status: 404, .. })
        {
            eprintln!("belljar: the broker still knows this workload ({id}): {error}");
        }
    }
}

fn workload(expectation: &Expectation, secrets: Vec<GivenSecret>, ttl: Option<Duration>) -> Result<Workload, Failure> {
    let owner = std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "this user".to_owned());
    let mut rules = Vec::new();
    for secret in &secrets {
        rules.push(secret.resource.parse().map_err(Failure::usage)?);
    }
    let (measurement, name) = expectation.measurement.clone();
    let reference = if expectation.software { Reference::software } else { Reference::snp };
    Ok(Workload {
        name: expectation.name.clone(),
        owner: owner.clone(),
        initdata_digest: expectation.initdata_digest,
        references: vec![reference(name, owner, measurement)],
        resources: secrets
            .into_iter()
            .map(|secret| Resource { path: secret.resource, content: secret.content })
            .collect(),
        rules,
        ttl,
    })
}

/// The admin token in a file.
pub fn read_token(file: &Path) -> Result<AdminToken, Failure> {
    let broken = |e: std::io::Error| Failure::usage(format!("admin token {}: {e}", file.display()));
    let mode = std::fs::metadata(file).map_err(broken)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Failure::usage(format!("admin token {} has mode {mode:o}: others may read it", file.display()))
            .hint(format!("chmod 600 {}", file.display())));
    }
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(broken)?);
    AdminToken::new(Zeroizing::new(text.trim().to_owned())).map_err(Failure::usage)
}

/// What the last refusal of a handshake was, in one line.
pub fn denial(record: &HandshakeRecord) -> Option<String> {
    let released = record.releases.iter().rev().find_map(|release| release.denial.as_ref());
    record.denial.as_ref().or(released).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar_broker::serve_standalone;

    /// What a killed `belljar` leaves at another broker.
    #[test]
    fn an_admin_token_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("belljar-token-{}", std::process::id()));
        std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
        let with = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            read_token(&file)
        };
        assert!(with(0o600).is_ok());
        let refused = with(0o640).unwrap_err();
        assert!(refused.cause.ends_with("has mode 640: others may read it"), "{}", refused.cause);
        std::fs::remove_file(&file).unwrap();
    }

    #[tokio::test]
    async fn secrets_at_another_broker_expire() {
        let token = AdminToken::generate().unwrap();
        let config = Config { admin_token: Some(token.clone()), ..Config::default() };
        let broker = Broker::new(config).unwrap();
        let listening = serve_standalone(&broker, ([127, 0, 0, 1], 0)).await.unwrap();
        let expectation = Expectation {
            name: "pod".into(),
            initdata_digest: [1; 32],
            measurement: ([2; 48], "guest image".into()),
            software: true,
        };
        let secret = || GivenSecret {
            name: "key".into(),
            resource: "run/pod/key".into(),
            content: Zeroizing::new(b"x".to_vec()),
        };
        assert_eq!(workload(&expectation, vec![secret()], None).unwrap().ttl, None);
        let there = workload(&expectation, vec![secret()], Some(REMOTE_LIFE)).unwrap();
        assert_eq!(there.ttl, Some(Duration::from_secs(3600)));
        assert!(there.rules.iter().all(|rule| rule.matches("run/pod/key") && !rule.matches("run/pod/other")));
        // The broker accepts that life, and forgets it when it is withdrawn.
        let mut remote = RunBroker::There { remote: RemoteBroker::new(listening.url(), token), registered: None };
        remote.expect(&expectation, vec![secret()]).await.unwrap();
        let RunBroker::There { remote, registered: Some(id) } = &remote else { panic!("it is not registered") };
        remote.withdraw(id).await.unwrap();
        assert!(matches!(remote.withdraw(id).await, Err(RemoteError::Refused { status: 404, .. })));
    }
}
