//! TLS 1.3 with raw public keys (RFC 7250) on both sides. Who the server is says its evidence, not a certificate; who the operator is says
//! the contract. The handshake's signatures are verified as always: each side holds its private key.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig,
    SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        aws_lc_rs::{default_provider, kx_group, sign::any_ecdsa_type},
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

/// A key that cannot be used, or a configuration that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tls key: {0}")]
pub struct KeyError(String);

fn failed(error: impl std::fmt::Display) -> KeyError {
    KeyError(error.to_string())
}

/// A P-256 key for TLS, on either side.
#[derive(Clone)]
pub struct Key {
    certified: Arc<CertifiedKey>,
    spki: Vec<u8>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.spki_sha256())
    }
}

impl Key {
    /// A fresh key, and its PKCS #8 form.
    ///
    /// # Errors
    /// [`KeyError`] without random numbers.
    pub fn generate() -> Result<(Self, Zeroizing<Vec<u8>>), KeyError> {
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).map_err(failed)?;
        let pkcs8 = Zeroizing::new(made.as_ref().to_vec());
        Ok((Self::from_pkcs8(&pkcs8)?, pkcs8))
    }

    /// From its PKCS #8 form.
    ///
    /// # Errors
    /// [`KeyError`] when it is none of P-256.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map_err(failed)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
        let signing = any_ecdsa_type(&der).map_err(failed)?;
        let spki = signing.public_key().ok_or_else(|| failed("it has no public key"))?.as_ref().to_vec();
        // In the place of a certificate stands the key itself.
        let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki.clone())], signing));
        Ok(Self { certified, spki })
    }

    /// The DER `SubjectPublicKeyInfo`.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Its SHA-256, 64 lowercase hex digits.
    pub fn spki_sha256(&self) -> String {
        spki_sha256(&self.spki)
    }
}

/// SHA-256 of a `SubjectPublicKeyInfo`, 64 lowercase hex digits: how a contract names an operator.
pub fn spki_sha256(spki: &[u8]) -> String {
    hex::encode(digest(&SHA256, spki))
}

fn provider() -> CryptoProvider {
    // The host carries these connections and may keep them: the hybrid with ML-KEM-768 comes first, so that a quantum computer of
    // tomorrow does not open what is said today.
    CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    }
}

/// The guest's side. Any client may connect; one that has a key shows it, and the caller compares it with the contract's operator.
///
/// # Errors
/// [`KeyError`].
pub fn server(key: &Key) -> Result<Arc<ServerConfig>, KeyError> {
    let provider = provider();
    let verifier = Arc::new(AnyRawKey { provider: provider.clone(), seen: OnceLock::new() });
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key.certified.clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The user's side, for one connection: the server's key is what the receiver of [`ServerKey::get`] judges by the evidence.
///
/// # Errors
/// [`KeyError`].
pub fn client(operator: Option<&Key>) -> Result<(Arc<ClientConfig>, ServerKey), KeyError> {
    let provider = provider();
    let verifier = Arc::new(AnyRawKey { provider: provider.clone(), seen: OnceLock::new() });
    let resolver: Arc<dyn ResolvesClientCert> = match operator {
        Some(key) => Arc::new(AlwaysResolvesClientRawPublicKeys::new(key.certified.clone())),
        None => Arc::new(Nobody),
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_cert_resolver(resolver);
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok((Arc::new(config), ServerKey(verifier)))
}

/// The key that the server has shown in the handshake.
#[derive(Debug, Clone)]
pub struct ServerKey(Arc<AnyRawKey>);

impl ServerKey {
    /// Its `SubjectPublicKeyInfo`; nothing before the handshake.
    pub fn get(&self) -> Option<&[u8]> {
        self.0.seen.get().map(Vec::as_slice)
    }
}

/// Accepts every key whose owner signs the handshake with it; the decision comes after, from evidence or contract.
#[derive(Debug)]
struct AnyRawKey {
    provider: CryptoProvider,
    /// On the client's side, of its one connection.
    seen: OnceLock<Vec<u8>>,
}

impl AnyRawKey {
    fn signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let spki = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signature, &self.provider.signature_verification_algorithms)
    }

    fn schemes() -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

const NO_TLS12: &str = "tls 1.2 is not spoken";

impl ServerCertVerifier for AnyRawKey {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self.seen.set(key.to_vec()) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(_) => Err(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General(NO_TLS12.into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for AnyRawKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General(NO_TLS12.into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A client without a key.
#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    /// Said in the handshake, as the server speaks of raw keys only.
    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        false
    }
}
