//! A broker by itself: `belljar broker serve`. With no settings it starts on the loopback, makes its keys once, and keeps
//! everything in its data directory.

use crate::{
    audit::Audit,
    config::{AdminToken, Config, ConfigError},
    files::{self, FileError},
    keep::{File, Keep, KeepError, Kind},
    remote::BrokerUrl,
    server::{Listening, NAME, ServeError, TlsServer},
    session::SessionKey,
    settings::{Settings, SettingsError},
    state::Broker,
    tenant::DEFAULT_TENANT,
    verify::Trust,
};
use belljar_collateral::{
    Anchors as VendorAnchors, Bundle, Cache, Collection, Document, FetchOptions, Fetcher, HttpOptions, MAX_BUNDLE,
    PublicKey, Services,
};
use belljar_evidence::{dcap, snp};
use belljar_rcar::ear::TokenKey;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// File in the data directory that says where the broker of that directory listens.
pub const URL_FILE: &str = "url";
/// File in the data directory with the owner's token.
pub const TOKEN_FILE: &str = "admin.token";

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The broker itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What is kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The network.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A key or certificate that cannot be used.
    #[error("{path}: {problem}")]
    Key {
        /// Which file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Endorsements.
    #[error("collateral: {0}")]
    Collateral(String),
}

/// A broker that runs.
#[derive(Debug)]
pub struct Standalone {
    broker: Broker,
    listening: Vec<Listening>,
    token_file: PathBuf,
    made: Vec<PathBuf>,
    background: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
}

impl Standalone {
    /// Starts a broker. `data` is the data directory where the settings name none; `software_root` is the ARK of a software
    /// TEE, which counts only where the settings allow one.
    ///
    /// # Errors
    /// Any [`StartError`].
    pub async fn start(settings: &Settings, data: &Path, software_root: Option<&[u8]>) -> Result<Self, StartError> {
        let data = settings.data.as_deref().unwrap_or(data);
        files::directory(data)?;
        let mut made = Vec::new();
        let token_file = settings.admin.token.clone().unwrap_or_else(|| data.join(TOKEN_FILE));
        let admin_token = admin_token(&token_file, &mut made)?;
        let keep = keep(settings, data, &mut made)?;
        let (certificate, key) = certificate(settings, data, &mut made)?;

        let software_root = software_root.filter(|_| settings.allow_software_tee);
        let config = Config {
            trust: trust(settings, software_root)?,
            collateral: collateral(settings)?,
            allow_software_tee: settings.allow_software_tee,
            policy: settings.policy.clone(),
            token_key: Some(token_key(settings, &keep).await?),
            admin_token: Some(admin_token),
            limits: settings.limits(),
            ..Config::default()
        };
        let audit_key = shared_key(&keep, "audit", || Ok(TokenKey::generate_pkcs8()?)).await?;
        let (audit, writer) = Audit::new(keep.clone(), &audit_key)?;
        // Never kept: which challenges were answered is not either, and one from before this start must not be good again.
        let session_key = SessionKey::generate().map_err(|_| ConfigError::Random)?;
        let broker = Broker::with_keep(config, keep, session_key)?;
        broker.start_audit(audit);
        let writer = tokio::spawn(writer);
        broker.load().await?;
        if settings.allow_software_tee {
            tracing::warn!(
                "allow_software_tee: this broker gives secrets to pods that nothing protects from their host"
            );
        }
        let mut background = Vec::new();
        if let (true, Some(cache)) = (settings.collateral.fetch, &settings.collateral.cache) {
            let fetcher = fetcher(cache)?;
            let broker = broker.clone();
            background.push(tokio::spawn(async move { broker.keep_collateral(fetcher).await }));
        }
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let addresses = if settings.listen.is_empty() { vec![loopback] } else { settings.listen.clone() };
        let server = TlsServer::with_certificate(&broker, certificate, key)?;
        let mut listening = Vec::new();
        for address in addresses {
            listening.push(server.clone().listen(address).await?);
        }
        let url = listening.first().map(|first| first.url().to_string()).unwrap_or_default();
        files::write_public(&data.join(URL_FILE), &url)?;
        Ok(Self { broker, listening, token_file, made, background, writer })
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Where it listens: what `--broker` takes.
    pub fn urls(&self) -> Vec<BrokerUrl> {
        self.listening.iter().map(Listening::url).collect()
    }

    /// The file with the owner's token.
    pub fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// Files that were made by this start.
    pub fn made(&self) -> &[PathBuf] {
        &self.made
    }

    /// Stops: no new connections, what is being answered is answered.
    pub async fn shutdown(self) {
        for task in &self.background {
            task.abort();
        }
        let mut stopping = tokio::task::JoinSet::new();
        for listening in self.listening {
            stopping.spawn(listening.shutdown());
        }
        while stopping.join_next().await.is_some() {}
        if let Some(audit) = self.broker.audit_log() {
            audit.checkpoint().await;
        }
        // Everything is written; the store is free for the next one.
        self.writer.abort();
        let _ = self.writer.await;
    }
}

fn key_error(path: &Path, problem: impl ToString) -> StartError {
    StartError::Key { path: path.display().to_string(), problem: problem.to_string() }
}

fn admin_token(file: &Path, made: &mut Vec<PathBuf>) -> Result<AdminToken, StartError> {
    let (content, new) = files::secret_or_new(file, || {
        let token = AdminToken::generate()?;
        Ok::<_, StartError>(Zeroizing::new(format!("{}\n", token.reveal()).into_bytes()))
    })?;
    if new {
        made.push(file.to_owned());
    }
    let text = std::str::from_utf8(&content).map_err(|e| key_error(file, e))?;
    AdminToken::new(Zeroizing::new(text.trim().to_owned())).map_err(|e| key_error(file, e))
}

/// The embedded store. The key is beside it and not in it, so that a copy of the store alone opens nothing.
fn keep(settings: &Settings, data: &Path, made: &mut Vec<PathBuf>) -> Result<Keep, StartError> {
    let file = settings.store.key.clone().unwrap_or_else(|| data.join("store.key"));
    let (key, new) = files::secret_or_new(&file, || {
        let mut key = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(key.as_mut()).map_err(|_| ConfigError::Random)?;
        Ok::<_, StartError>(Zeroizing::new(format!("{}\n", hex::encode(key.as_ref())).into_bytes()))
    })?;
    if new {
        made.push(file.clone());
    }
    let mut bytes = Zeroizing::new([0_u8; 32]);
    let is_hex = hex::decode_to_slice(key.trim_ascii(), bytes.as_mut()).is_ok();
    match <&[u8; 32]>::try_from(key.as_slice()) {
        Ok(raw) if !is_hex => *bytes = *raw,
        _ if is_hex => {}
        _ => return Err(key_error(&file, "not a key of 32 bytes, raw or in hexadecimal digits")),
    }
    Ok(Keep::File(File::open(&data.join("broker.redb"), &bytes)?))
}

type Certificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The server's certificate: what the settings name, or a self-signed one over a key that is made once.
fn certificate(settings: &Settings, data: &Path, made: &mut Vec<PathBuf>) -> Result<Certificate, StartError> {
    if let (Some(chain), Some(key)) = (&settings.tls.certificate, &settings.tls.key) {
        let pem = files::read_public(chain)?;
        let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|e| key_error(chain, e))?;
        if certificates.is_empty() {
            return Err(key_error(chain, "no certificate in PEM"));
        }
        let secret = files::read_secret(key)?;
        return Ok((certificates, PrivateKeyDer::from_pem_slice(&secret).map_err(|e| key_error(key, e))?));
    }
    let file = data.join("tls.key");
    let (pem, new) = files::secret_or_new(&file, || {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| key_error(&file, e))?;
        Ok::<_, StartError>(Zeroizing::new(key.serialize_pem().into_bytes()))
    })?;
    if new {
        made.push(file.clone());
    }
    let text = std::str::from_utf8(&pem).map_err(|e| key_error(&file, e))?;
    let key = KeyPair::from_pem(text).map_err(|e| key_error(&file, e))?;
    let names = std::iter::once(NAME.to_owned()).chain(settings.tls.names.clone()).collect::<Vec<_>>();
    let params = CertificateParams::new(names).map_err(|e| key_error(&file, e))?;
    let certificate = params.self_signed(&key).map_err(|e| key_error(&file, e))?;
    let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| key_error(&file, e))?;
    Ok((vec![certificate.der().clone()], secret))
}

fn trust(settings: &Settings, software_root: Option<&[u8]>) -> Result<Trust, StartError> {
    let mut amd = if settings.trust.amd { snp::Anchors::amd() } else { snp::Anchors::none() };
    if let Some(root) = software_root {
        amd = amd.with_software_root(root);
    }
    let intel = if settings.trust.intel { dcap::Anchors::intel() } else { dcap::Anchors::none() };
    let grace = u64::from(settings.collateral.grace_days).saturating_mul(86_400);
    Ok(Trust { amd, intel, tpm_keys: settings.tpm_keys()?, grace })
}

/// What a bundle and a cache hold; of an item that both have, the bundle's.
fn collateral(settings: &Settings) -> Result<Collection, StartError> {
    let failed = |e: &dyn std::fmt::Display| StartError::Collateral(e.to_string());
    let mut documents: Vec<Document> = Vec::new();
    if let (Some(bundle), Some(key)) = (&settings.collateral.bundle, &settings.collateral.bundle_key) {
        let key = PublicKey::from_pem(&files::read_public(key)?).map_err(|e| failed(&e))?;
        let bytes = files::read_most(bundle, MAX_BUNDLE)?;
        documents.extend(Bundle::open(&bytes, &key).map_err(|e| failed(&e))?.documents);
    }
    if let Some(cache) = &settings.collateral.cache {
        for found in Cache::new(cache).list().map_err(|e| failed(&e))? {
            match found {
                Ok(document) if documents.iter().all(|known| known.item != document.item) => documents.push(document),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the cache's item is not used"),
            }
        }
    }
    Ok(Collection::new(documents))
}

fn fetcher(cache: &Path) -> Result<Fetcher, StartError> {
    let http = HttpOptions::default();
    let services = Services::vendors().map_err(|e| StartError::Collateral(e.to_string()))?;
    Fetcher::new(Cache::new(cache), services, VendorAnchors::vendors(), &http, FetchOptions::default())
        .map_err(|e| StartError::Collateral(e.to_string()))
}

/// The key of that name that all brokers of a store share, made by the first.
async fn shared_key(
    keep: &Keep,
    name: &str,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, ConfigError>,
) -> Result<Zeroizing<Vec<u8>>, StartError> {
    if let Some(kept) = keep.get(DEFAULT_TENANT, Kind::Key, name).await? {
        return Ok(kept.value);
    }
    Ok(keep.put_new(DEFAULT_TENANT, Kind::Key, name, make()?).await?)
}

async fn token_key(settings: &Settings, keep: &Keep) -> Result<TokenKey, StartError> {
    if let Some(file) = &settings.token.key {
        let key = PrivateKeyDer::from_pem_slice(&files::read_secret(file)?).map_err(|e| key_error(file, e))?;
        return TokenKey::from_pkcs8(key.secret_der()).map_err(|e| key_error(file, e));
    }
    let der = shared_key(keep, "token", || Ok(TokenKey::generate_pkcs8()?)).await?;
    Ok(TokenKey::from_pkcs8(&der).map_err(ConfigError::from)?)
}
