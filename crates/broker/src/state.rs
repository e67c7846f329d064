use crate::{
    appraisal::{self, Appraised, Known},
    config::{AdminToken, Clock, Config, ConfigError, Limits},
    record::{CertificateRecord, CheckRecord, Denial, HandshakeRecord, Outcome, Release, Ring},
    session::{Identity, Sessions, State},
    workload::{KnownWorkload, Workload, WorkloadError, WorkloadId},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use belljar_evidence::snp::Anchors;
use belljar_rcar::{
    InitData, Jwk, PublicKey, Tee,
    ear::{Appraisal, Claims, ISSUER, PROFILE, Status, TokenKey, TrustVector, VerifierId},
    snp::SnpEvidence,
    wire::Attestation,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::broadcast;

/// A broker. Clones are handles of the same one.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    anchors: Anchors,
    allow_software_tee: bool,
    token_key: TokenKey,
    admin_token: Option<AdminToken>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    sessions: Mutex<Sessions>,
    workloads: Mutex<Vec<Registered>>,
    records: Mutex<Ring>,
    events: broadcast::Sender<Arc<HandshakeRecord>>,
}

struct Registered {
    id: WorkloadId,
    /// Unix seconds.
    expires: Option<u64>,
    workload: Arc<Workload>,
}

/// What an attestation ends in.
pub(crate) enum Answer {
    Admitted { token: String, expires: u64 },
    Refused { denial: Denial },
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("allow_software_tee", &self.inner.allow_software_tee).finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker with this configuration.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { anchors, allow_software_tee, token_key, workloads, admin_token, limits, clock } = config;
        for (name, limit) in [
            ("sessions", limits.sessions),
            ("records", limits.records),
            ("workloads", limits.workloads),
            ("connections", limits.connections),
        ] {
            if limit == 0 {
                return Err(ConfigError::Limit(name));
            }
        }
        let token_key = token_key.map_or_else(TokenKey::generate, Ok)?;
        let inner = Inner {
            anchors,
            allow_software_tee,
            token_key,
            admin_token,
            limits,
            clock,
            sessions: Mutex::new(Sessions::new(limits.sessions)),
            workloads: Mutex::new(Vec::new()),
            records: Mutex::new(Ring::new(limits.records)),
            events: broadcast::channel(64).0,
        };
        let broker = Self { inner: Arc::new(inner) };
        for workload in workloads {
            broker.register(workload)?;
        }
        Ok(broker)
    }

    /// Makes a workload known, from now on.
    pub fn register(&self, workload: Workload) -> Result<WorkloadId, WorkloadError> {
        workload.check()?;
        let now = self.now();
        let id = WorkloadId(random_hex::<16>().ok_or(WorkloadError::Random)?);
        let expires = workload.ttl.map(|ttl| now.saturating_add(ttl.as_secs()));
        let mut workloads = lock(&self.inner.workloads);
        workloads.retain(|known| known.is_live(now));
        if workloads.len() >= self.inner.limits.workloads {
            return Err(WorkloadError::Full(workloads.len()));
        }
        tracing::info!(workload = %workload.name, %id, "workload registered");
        workloads.push(Registered { id: id.clone(), expires, workload: Arc::new(workload) });
        Ok(id)
    }

    /// Forgets a workload: its sessions get nothing from now on. False when it was not known.
    pub fn withdraw(&self, id: &WorkloadId) -> bool {
        let mut workloads = lock(&self.inner.workloads);
        let before = workloads.len();
        workloads.retain(|known| known.id != *id);
        workloads.len() < before
    }

    /// The workloads that are known now, oldest registration first.
    pub fn known(&self) -> Vec<KnownWorkload> {
        let now = self.now();
        let workloads = lock(&self.inner.workloads);
        let live = workloads.iter().filter(|registered| registered.is_live(now));
        live.map(|Registered { id, workload, .. }| KnownWorkload {
            id: id.clone(),
            name: workload.name.clone(),
            owner: workload.owner.clone(),
            initdata_digest: workload.initdata_digest,
            measurements: workload.references.iter().map(|reference| reference.measurement).collect(),
            resources: workload.resources.iter().map(|resource| resource.path.clone()).collect(),
        })
        .collect()
    }

    /// The last handshakes, oldest first.
    pub fn records(&self) -> Vec<Arc<HandshakeRecord>> {
        lock(&self.inner.records).all()
    }

    /// Every record when it is made, and again with each release. A receiver that falls behind by more than 64 misses some.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<HandshakeRecord>> {
        self.inner.events.subscribe()
    }

    /// The key that verifies this broker's tokens.
    pub fn token_key(&self) -> &PublicKey {
        self.inner.token_key.public()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn admin_token(&self) -> Option<&AdminToken> {
        self.inner.admin_token.as_ref()
    }

    pub(crate) fn now(&self) -> u64 {
        self.inner.clock.now()
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.inner.sessions)
    }

    /// The workloads behind a HOST_DATA value.
    pub(crate) fn workloads_of(&self, host_data: &[u8; 32]) -> Vec<Arc<Workload>> {
        let now = self.now();
        let workloads = lock(&self.inner.workloads);
        let of = |known: &&Registered| known.is_live(now) && known.workload.initdata_digest == *host_data;
        workloads.iter().filter(of).map(|known| known.workload.clone()).collect()
    }

    /// Appraises evidence for a session whose nonce was just used up. `nonce` is the challenge's.
    pub(crate) fn attest(&self, session: &str, nonce: &str, message: Attestation<SnpEvidence>) -> Answer {
        let now = self.now();
        let workloads = lock(&self.inner.workloads);
        let live: Vec<Arc<Workload>> =
            workloads.iter().filter(|known| known.is_live(now)).map(|known| known.workload.clone()).collect();
        drop(workloads);
        let Attestation { init_data, runtime_data, tee_evidence } = message;
        let evidence = &tee_evidence.primary_evidence;
        let appraised = appraisal::appraise(
            &Known {
                anchors: &self.inner.anchors,
                allow_software_tee: self.inner.allow_software_tee,
                workloads: &live,
                at: now,
            },
            evidence,
            &appraisal::Bound {
                nonce,
                runtime_data: &runtime_data,
                additional_evidence: &tee_evidence.additional_evidence,
                init_data: init_data.as_ref(),
            },
        );
        let mut record = new_record(now, &appraised, evidence, init_data);
        let token_expires = now.saturating_add(self.inner.limits.token.as_secs());
        let token = match (&record.denial, &appraised.report) {
            (None, Some(_)) => self.token(now, token_expires, &appraised, &runtime_data.tee_pubkey, nonce),
            _ => None,
        };
        let answer = match (record.denial.clone(), token, &appraised.report) {
            (Some(denial), ..) => {
                tracing::warn!(%denial, "attestation refused");
                Answer::Refused { denial }
            }
            (None, Some(token), Some(report)) => {
                record.admitted = true;
                record.token = Some(token.clone());
                let identity = Identity {
                    host_data: report.host_data,
                    measurement: report.measurement,
                    tee_key: runtime_data.tee_pubkey,
                    token_expires,
                    record: record.id.clone(),
                };
                let mut sessions = self.sessions();
                let mut expires = token_expires;
                if let Some(session) = sessions.live(session, now) {
                    session.state = State::Attested(Box::new(identity));
                    expires = session.expires;
                }
                tracing::info!(record = %record.id, tee = %record.tee, "workload admitted");
                Answer::Admitted { token, expires }
            }
            (None, ..) => {
                let denial = Denial {
                    id: record.id.clone(),
                    refused: "attestation".into(),
                    claim: "token".into(),
                    expected: "a signed token".into(),
                    found: "the token could not be made".into(),
                    owner: "this broker".into(),
                };
                record.denial = Some(denial.clone());
                Answer::Refused { denial }
            }
        };
        self.publish(record);
        answer
    }

    /// Records an attestation that could not even be appraised, and gives its denial.
    pub(crate) fn refuse_message(&self, tee: Tee, claim: &str, expected: &str, found: String) -> Denial {
        let id = random_hex::<6>().unwrap_or_default();
        let denial = Denial {
            id: id.clone(),
            refused: "attestation".into(),
            claim: claim.into(),
            expected: expected.into(),
            found,
            owner: "the workload's agent".into(),
        };
        tracing::warn!(%denial, "attestation refused");
        let check = CheckRecord {
            name: claim.into(),
            outcome: Outcome::Failed,
            expected: denial.expected.clone(),
            found: denial.found.clone(),
            owner: Some(denial.owner.clone()),
        };
        self.publish(HandshakeRecord {
            id,
            at: self.now(),
            tee: tee.to_string(),
            admitted: false,
            status: Status::None,
            trust_vector: TrustVector::default(),
            checks: vec![check],
            denial: Some(denial.clone()),
            workloads: Vec::new(),
            host_data: None,
            measurement: None,
            init_data: None,
            report: None,
            chain: Vec::new(),
            token: None,
            releases: Vec::new(),
        });
        denial
    }

    fn token(&self, iat: u64, exp: u64, appraised: &Appraised, tee_key: &Jwk, nonce: &str) -> Option<String> {
        let report = appraised.report.as_ref()?;
        let appraisal = Appraisal {
            status: appraised.trust_vector.status(),
            trust_vector: appraised.trust_vector,
            policy_id: "default".into(),
            annotated_evidence: json!({
                "snp": appraisal::snp_claims(report, appraised.software),
                "report_data": hex::encode(report.report_data),
                "init_data": hex::encode(report.host_data),
                "runtime_data_claims": { "tee-pubkey": tee_key, "nonce": nonce, "additional-evidence": "" },
            }),
            identifiers: json!({ "validated": {} }),
            tee: Some(appraised.tee().into()),
        };
        let claims = Claims {
            eat_profile: PROFILE.into(),
            iat,
            exp,
            iss: ISSUER.into(),
            verifier_id: VerifierId {
                developer: "Belljar".into(),
                build: concat!("belljar-broker ", env!("CARGO_PKG_VERSION")).into(),
            },
            submods: BTreeMap::from([("cpu0".into(), appraisal)]),
        };
        self.inner.token_key.sign(&claims).map_err(|error| tracing::error!(%error, "no token")).ok()
    }

    fn publish(&self, record: HandshakeRecord) {
        let record = Arc::new(record);
        lock(&self.inner.records).push(record.clone());
        // Nobody may be listening.
        let _ = self.inner.events.send(record);
    }

    pub(crate) fn add_release(&self, record: &str, release: Release) {
        let changed = lock(&self.inner.records).add_release(record, release);
        if let Some(record) = changed {
            let _ = self.inner.events.send(record);
        }
    }
}

impl Registered {
    fn is_live(&self, now: u64) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

fn new_record(at: u64, appraised: &Appraised, evidence: &SnpEvidence, init_data: Option<InitData>) -> HandshakeRecord {
    let id = random_hex::<6>().unwrap_or_default();
    let denial = appraised.first_failure().map(|check| Denial {
        id: id.clone(),
        refused: "attestation".into(),
        claim: check.name.clone(),
        expected: check.expected.clone(),
        found: check.found.clone(),
        owner: check.owner.clone().unwrap_or_else(|| "the hardware's specification".into()),
    });
    let certificate = |entry: &belljar_rcar::snp::CertEntry| CertificateRecord {
        kind: format!("{:?}", entry.cert_type),
        der: STANDARD.encode(&entry.data),
    };
    HandshakeRecord {
        id,
        at,
        tee: appraised.tee().into(),
        admitted: false,
        status: appraised.trust_vector.status(),
        trust_vector: appraised.trust_vector,
        checks: appraised.checks.clone(),
        denial,
        workloads: appraised.workloads.clone(),
        host_data: appraised.report.as_ref().map(|report| hex::encode(report.host_data)),
        measurement: appraised.report.as_ref().map(|report| hex::encode(report.measurement)),
        init_data: init_data.map(|document| document.body),
        report: evidence.report_bytes().ok().map(hex::encode),
        chain: evidence.certificates().unwrap_or_default().iter().map(certificate).collect(),
        token: None,
        releases: Vec::new(),
    }
}

/// `N` random bytes in hexadecimal digits.
pub(crate) fn random_hex<const N: usize>() -> Option<String> {
    let mut bytes = [0_u8; N];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(hex::encode(bytes))
}

/// A lock whose holder panicked is taken over: each change under it is complete by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
