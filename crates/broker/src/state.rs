use crate::{
    appraisal::{self, Appraised, Known},
    audit::Audit,
    collateral::{self, Shelf},
    config::{AdminToken, Clock, Config, ConfigError, Limits},
    keep::Keep,
    record::{CheckRecord, Denial, HandshakeRecord, Outcome, Release, Ring},
    release::Holder,
    session::{Identity, Session, SessionKey, State, Used},
    tenant::{DEFAULT_TENANT, Registered, Tenant},
    verify::Trust,
    workload::{KnownWorkload, Workload, WorkloadError, WorkloadId},
};
use belljar_appraisal::{Claims as EvidenceClaims, policy::Settings};
use belljar_rcar::{
    InitData, PublicKey, Tee,
    ear::{Appraisal, Claims, ISSUER, PROFILE, Status, TokenKey, TrustVector, VerifierId},
    wire::RuntimeData,
};
use belljar_verifier::Evidence;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
};
use tokio::sync::broadcast;

/// A broker. Clones are handles of the same one.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    trust: Trust,
    shelf: Arc<Shelf>,
    policy: Settings,
    keep: Keep,
    tenants: RwLock<BTreeMap<String, Arc<Tenant>>>,
    token_key: TokenKey,
    admin_token: Option<AdminToken>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    audit: OnceLock<Audit>,
    session_key: SessionKey,
    used: Mutex<Used>,
    records: Mutex<Ring>,
    events: broadcast::Sender<Arc<HandshakeRecord>>,
}

/// A message of `attest` that was understood.
pub(crate) struct Message {
    pub(crate) init_data: Option<InitData>,
    pub(crate) runtime_data: RuntimeData,
    pub(crate) evidence: Evidence,
    pub(crate) additional_evidence: String,
}

/// What an attestation ends in.
pub(crate) enum Answer {
    Admitted {
        token: String,
        cookie: String,
        expires: u64,
        record: String,
    },
    Refused {
        denial: Denial,
        /// The evidence itself was in order: somebody with a TEE was refused, and not anybody at all.
        authentic: bool,
    },
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("allow_software_tee", &self.inner.policy.allow_software_tee)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker with this configuration.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let session_key = SessionKey::generate().map_err(|_| ConfigError::Random)?;
        Self::with_keep(config, Keep::default(), session_key)
    }

    /// A broker that keeps what it is told, and whose sessions are sealed by this key.
    pub(crate) fn with_keep(config: Config, keep: Keep, session_key: SessionKey) -> Result<Self, ConfigError> {
        let Config { trust, collateral, allow_software_tee, policy, token_key, workloads, admin_token, limits, clock } =
            config;
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
            shelf: Arc::new(Shelf::new(trust.amd.clone(), trust.intel.clone(), collateral)),
            trust,
            policy: Settings { allow_software_tee, ..policy },
            keep,
            tenants: RwLock::new(BTreeMap::from([(DEFAULT_TENANT.to_owned(), Arc::default())])),
            token_key,
            admin_token,
            limits,
            clock,
            audit: OnceLock::new(),
            session_key,
            used: Mutex::new(Used::new(limits.sessions)),
            records: Mutex::new(Ring::new(limits.records)),
            events: broadcast::channel(64).0,
        };
        let broker = Self { inner: Arc::new(inner) };
        for workload in workloads {
            broker.register(workload)?;
        }
        Ok(broker)
    }

    /// Makes a workload known, from now on and for as long as this broker lives: it is not kept in the store.
    ///
    /// # Errors
    /// Any [`WorkloadError`].
    pub fn register(&self, workload: Workload) -> Result<WorkloadId, WorkloadError> {
        let registered = self.prepare(workload)?;
        let id = registered.id.clone();
        self.admit_workload(DEFAULT_TENANT, registered)?;
        Ok(id)
    }

    /// A registration that is checked and has its name.
    pub(crate) fn prepare(&self, workload: Workload) -> Result<Registered, WorkloadError> {
        workload.check()?;
        let id = WorkloadId(random_hex::<16>().ok_or(WorkloadError::Random)?);
        let expires = workload.ttl.map(|ttl| self.now().saturating_add(ttl.as_secs()));
        Ok(Registered { id, expires, workload: Arc::new(workload) })
    }

    /// Puts a registration among the live ones; its number among all.
    pub(crate) fn admit_workload(&self, tenant: &str, registered: Registered) -> Result<(), WorkloadError> {
        let (now, most) = (self.now(), self.inner.limits.workloads);
        let tenant = self.tenant(tenant).ok_or(WorkloadError::Id)?;
        tenant.change_workloads(|workloads| {
            workloads.retain(|known| known.is_live(now));
            if workloads.len() >= most {
                return Err(WorkloadError::Full(workloads.len()));
            }
            tracing::info!(workload = %registered.workload.name, id = %registered.id, "workload registered");
            workloads.push(registered);
            Ok(())
        })
    }

    /// Forgets a workload: its sessions get nothing from now on. False when it was not known.
    pub fn withdraw(&self, id: &WorkloadId) -> bool {
        self.forget_workload(DEFAULT_TENANT, id)
    }

    pub(crate) fn forget_workload(&self, tenant: &str, id: &WorkloadId) -> bool {
        let Some(tenant) = self.tenant(tenant) else { return false };
        tenant.change_workloads(|workloads| {
            let before = workloads.len();
            workloads.retain(|known| known.id != *id);
            workloads.len() < before
        })
    }

    /// Fetches endorsements that evidence needs and that are not at hand, and renews those that grow old, for as long as
    /// the future is polled. No handshake waits for it.
    pub async fn keep_collateral(&self, fetcher: belljar_collateral::Fetcher) {
        collateral::keep(Arc::clone(&self.inner.shelf), fetcher).await;
    }

    /// The workloads that are known now, oldest registration first.
    pub fn known(&self) -> Vec<KnownWorkload> {
        self.known_of(DEFAULT_TENANT)
    }

    pub(crate) fn known_of(&self, tenant: &str) -> Vec<KnownWorkload> {
        let now = self.now();
        let workloads = self.tenant(tenant).map(|tenant| tenant.workloads()).unwrap_or_default();
        let live = workloads.iter().filter(|registered| registered.is_live(now));
        live.map(|Registered { id, workload, .. }| KnownWorkload {
            id: id.clone(),
            name: workload.name.clone(),
            owner: workload.owner.clone(),
            initdata_digest: workload.initdata_digest,
            launches: workload.references.iter().map(|reference| reference.launch.clone()).collect(),
            resources: workload.resources.iter().map(|resource| resource.path.clone()).collect(),
        })
        .collect()
    }

    /// A tenant, when there is one of this name.
    pub(crate) fn tenant(&self, name: &str) -> Option<Arc<Tenant>> {
        self.inner.tenants.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn tenant_names(&self) -> Vec<String> {
        self.inner.tenants.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// The tenant of this name, made when there is none.
    pub(crate) fn tenant_or_new(&self, name: &str) -> Arc<Tenant> {
        let mut tenants = self.inner.tenants.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tenants.entry(name.to_owned()).or_default())
    }

    /// The audit log; a broker inside another process has none.
    pub(crate) fn audit_log(&self) -> Option<&Audit> {
        self.inner.audit.get()
    }

    /// Writes everything down from now on.
    pub(crate) fn start_audit(&self, audit: Audit) {
        let _ = self.inner.audit.set(audit);
    }

    pub(crate) fn keep(&self) -> &Keep {
        &self.inner.keep
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

    pub(crate) fn session_key(&self) -> &SessionKey {
        &self.inner.session_key
    }

    pub(crate) fn used(&self) -> MutexGuard<'_, Used> {
        lock(&self.inner.used)
    }

    /// The workloads behind a HOST_DATA value.
    pub(crate) fn workloads_of(&self, tenant: &Tenant, host_data: &[u8; 32]) -> Vec<Arc<Workload>> {
        let now = self.now();
        let of = |known: &&Registered| known.is_live(now) && known.workload.initdata_digest == *host_data;
        tenant.workloads().iter().filter(of).map(|known| known.workload.clone()).collect()
    }

    /// Appraises evidence for a session whose nonce was just used up. `nonce` is the challenge's.
    pub(crate) fn attest(&self, session: Session, nonce: &str, message: Message) -> Answer {
        let now = self.now();
        // A tenant that is not there knows nothing, and answers like one that is.
        let tenant = self.tenant(&session.tenant).unwrap_or_default();
        let workloads = tenant.workloads();
        let live: Vec<Arc<Workload>> =
            workloads.iter().filter(|known| known.is_live(now)).map(|known| known.workload.clone()).collect();
        let (references, revocations) = (tenant.references(), tenant.revocations());
        let Message { init_data, runtime_data, evidence, additional_evidence } = message;
        let appraised = appraisal::appraise(
            &Known {
                trust: &self.inner.trust,
                settings: &self.inner.policy,
                shelf: &self.inner.shelf,
                references: &references,
                revocations: &revocations,
                workloads: &live,
                at: now,
            },
            &evidence,
            &appraisal::Bound {
                nonce,
                runtime_data: &runtime_data,
                additional_evidence: &additional_evidence,
                init_data: init_data.as_ref(),
            },
        );
        let mut record = new_record(&session.tenant, now, &appraised, init_data);
        if let Some(denial) = record.denial.clone() {
            tracing::warn!(%denial, "attestation refused");
            self.publish(record);
            let authentic = appraised.claims.as_ref().is_some_and(EvidenceClaims::is_authentic);
            return Answer::Refused { denial, authentic };
        }
        let said = match (&appraised.claims, &appraised.identity, &appraised.verified.carried, appraised.host_data) {
            (Some(claims), Some(who), Some(carried), Some(host_data)) => Some((claims, who, carried, host_data)),
            _ => None,
        };
        let token_expires = now.saturating_add(self.inner.limits.token.as_secs());
        let admitted = said.and_then(|(claims, who, carried, host_data)| {
            let holder = Holder {
                tenant: session.tenant.clone(),
                contract: host_data,
                launch: appraised.launch.clone(),
                chip: carried.chip.clone(),
                who: who.clone(),
                record: record.id.clone(),
            };
            let token = self.token(now, token_expires, &appraised, claims, &holder)?;
            let identity = Identity {
                tenant: session.tenant.clone(),
                host_data,
                launch: appraised.launch.clone(),
                who: who.clone(),
                chip: carried.chip.clone(),
                tee_key: runtime_data.tee_pubkey.clone(),
                token_expires,
                record: record.id.clone(),
            };
            self.used().admit(&session.id, &identity);
            let session = Session { state: State::Attested(Box::new(identity)), ..session };
            let expires = session.expires;
            let cookie = self.inner.session_key.seal(&session).ok()?;
            Some((token, cookie, expires))
        });
        let answer = match admitted {
            Some((token, cookie, expires)) => {
                record.admitted = true;
                record.token = Some(token.clone());
                tracing::info!(record = %record.id, tee = %record.tee, "workload admitted");
                Answer::Admitted { token, cookie, expires, record: record.id.clone() }
            }
            None => {
                let denial = Denial {
                    id: record.id.clone(),
                    refused: "attestation".into(),
                    claim: "token".into(),
                    expected: "a signed token".into(),
                    found: "the token could not be made".into(),
                    owner: "this broker".into(),
                };
                record.denial = Some(denial.clone());
                Answer::Refused { denial, authentic: true }
            }
        };
        self.publish(record);
        answer
    }

    /// Writes down what came of a handshake's request.
    pub(crate) async fn note(&self, tenant: &str, record: &str, action: &str, object: &str, outcome: &str) {
        // Of a tenant that is not there nothing is kept.
        if let (Some(audit), Some(_)) = (self.audit_log(), self.tenant(tenant)) {
            audit.note(self.event(tenant, &format!("workload {record}"), action, object, outcome)).await;
        }
    }

    /// Records an attestation that could not even be appraised, and gives its denial.
    pub(crate) fn refuse_message(&self, tenant: &str, tee: Tee, claim: &str, expected: &str, found: String) -> Denial {
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
            tenant: tenant.to_owned(),
            at: self.now(),
            tee: tee.to_string(),
            admitted: false,
            status: Status::None,
            trust_vector: TrustVector::default(),
            checks: vec![check],
            denial: Some(denial.clone()),
            who: None,
            workloads: Vec::new(),
            host_data: None,
            launch: Default::default(),
            flags: Vec::new(),
            tcb: None,
            freshness: None,
            init_data: None,
            evidence: None,
            chain: Vec::new(),
            token: None,
            releases: Vec::new(),
        });
        denial
    }

    fn token(
        &self,
        iat: u64,
        exp: u64,
        appraised: &Appraised,
        claims: &EvidenceClaims,
        holder: &Holder,
    ) -> Option<String> {
        let mut evidence = claims.value().clone();
        let holder = serde_json::to_value(holder).ok()?;
        evidence.as_object_mut()?.insert("belljar.holder".to_owned(), holder);
        let appraisal = Appraisal {
            status: appraised.trust_vector.status(),
            trust_vector: appraised.trust_vector,
            policy_id: "default".into(),
            annotated_evidence: evidence,
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

fn new_record(tenant: &str, at: u64, appraised: &Appraised, init_data: Option<InitData>) -> HandshakeRecord {
    let id = random_hex::<6>().unwrap_or_default();
    let denial = appraised.first_failure().map(|check| Denial {
        id: id.clone(),
        refused: "attestation".into(),
        claim: check.name.clone(),
        expected: check.expected.clone(),
        found: check.found.clone(),
        owner: check.owner.clone().unwrap_or_else(|| "the hardware's specification".into()),
    });
    let verified = &appraised.verified;
    HandshakeRecord {
        id,
        tenant: tenant.to_owned(),
        at,
        tee: appraised.tee().into(),
        admitted: false,
        status: appraised.trust_vector.status(),
        trust_vector: appraised.trust_vector,
        checks: verified.checks.clone(),
        denial,
        who: appraised.identity.clone(),
        workloads: appraised.workloads.clone(),
        host_data: appraised.host_data.map(hex::encode),
        launch: appraised.launch.clone(),
        flags: verified.flags.clone(),
        tcb: verified.tcb.clone(),
        freshness: verified.freshness.clone(),
        init_data: init_data.map(|document| document.body),
        evidence: (!verified.raw.is_empty()).then(|| hex::encode(&verified.raw)),
        chain: verified.chain.clone(),
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
