//! The attestation token: an EAT attestation result (draft-ietf-rats-ear) as a compact JWS (RFC 7515), ES256 with P-256.
//!
//! The claims are laid out as the upstream attestation service writes them, so that its relying parties can read them:
//! profile [`PROFILE`], one submodule for each device (`cpu0`), each with an AR4SI trust vector.

use crate::key::{Jwk, KeyError, PublicKey};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};
use zeroize::Zeroizing;

/// `eat_profile` of the token.
pub const PROFILE: &str = "tag:github.com,2024:confidential-containers/Trustee";
/// `iss` of the token.
pub const ISSUER: &str = "CoCo-Attestation-Service";
/// Longest token that is read, in bytes.
pub const MAX_TOKEN: usize = 256 * 1024;
/// The algorithm of tokens: ECDSA on P-256 with SHA-256.
pub const ES256: &str = "ES256";

/// The claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// [`PROFILE`].
    pub eat_profile: String,
    /// Issued at, Unix seconds.
    pub iat: u64,
    /// Expires at, Unix seconds; the token is not valid in this second any more.
    pub exp: u64,
    /// [`ISSUER`].
    pub iss: String,
    /// Who verified.
    #[serde(rename = "ear.verifier-id")]
    pub verifier_id: VerifierId,
    /// The appraisal of each device, by class and number: `cpu0`.
    pub submods: BTreeMap<String, Appraisal>,
}

/// The verifier's maker and build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifierId {
    /// Maker.
    pub developer: String,
    /// Program and version.
    pub build: String,
}

/// What the verifier says about one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appraisal {
    /// Worst tier of the vector.
    #[serde(rename = "ear.status")]
    pub status: Status,
    /// AR4SI claims.
    #[serde(rename = "ear.trustworthiness-vector")]
    pub trust_vector: TrustVector,
    /// Which appraisal policy was used.
    #[serde(rename = "ear.appraisal-policy-id")]
    pub policy_id: String,
    /// What the evidence said: the TEE's claims under its name, `report_data`, `init_data`, `runtime_data_claims`.
    #[serde(rename = "ear.veraison.annotated-evidence")]
    pub annotated_evidence: Value,
    /// Upstream's extension; `{"validated": {}}`.
    #[serde(rename = "ear.trustee.identifiers")]
    pub identifiers: Value,
    /// Belljar's extension: `software-tee` when no hardware stands behind the evidence, else the TEE's name.
    #[serde(rename = "belljar.tee", default, skip_serializing_if = "Option::is_none")]
    pub tee: Option<String>,
}

/// Tier of an appraisal, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing is said.
    None,
    /// As expected.
    Affirming,
    /// Not known, or with known weaknesses.
    Warning,
    /// Known, and not to be trusted.
    Contraindicated,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// AR4SI trustworthiness vector (draft-ietf-rats-ar4si §2.3.4): 2 to 31 affirm, 32 to 95 warn, from 96 on contraindicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub struct TrustVector {
    pub instance_identity: i8,
    pub configuration: i8,
    pub executables: i8,
    pub file_system: i8,
    pub hardware: i8,
    pub runtime_opaque: i8,
    pub storage_opaque: i8,
    pub sourced_data: i8,
}

impl TrustVector {
    /// The worst tier of the eight claims.
    pub fn status(&self) -> Status {
        [
            self.instance_identity,
            self.configuration,
            self.executables,
            self.file_system,
            self.hardware,
            self.runtime_opaque,
            self.storage_opaque,
            self.sourced_data,
        ]
        .into_iter()
        .map(|claim| match claim {
            -1..=1 => Status::None,
            -32..=31 => Status::Affirming,
            -96..=95 => Status::Warning,
            _ => Status::Contraindicated,
        })
        .max()
        .unwrap_or(Status::None)
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    typ: String,
    alg: String,
    jwk: Jwk,
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not three parts of base64url, or no JSON in them.
    #[error("not a compact jwt: {0}")]
    Form(String),
    /// Longer than [`MAX_TOKEN`].
    #[error("token of {0} bytes is longer than {MAX_TOKEN}")]
    TooLong(usize),
    /// Another algorithm than ES256; also `none`.
    #[error("token is signed with {0:?}; only ES256 is accepted")]
    Algorithm(String),
    /// The token names a key that is not the expected one.
    #[error("token names another signing key than the expected one")]
    OtherKey,
    /// The key in the header is refused.
    #[error("token key refused: {0}")]
    Key(#[from] KeyError),
    /// The signature does not verify.
    #[error("token signature does not verify")]
    Signature,
    /// Another profile or issuer.
    #[error("token claim {claim} is {found:?}; expected {expected:?}")]
    Claim {
        /// Which claim.
        claim: &'static str,
        /// Its expected value.
        expected: &'static str,
        /// Its value.
        found: String,
    },
    /// Issued in the future, beyond a minute of clock difference.
    #[error("token is issued at {issued}, after now ({now}); check the clocks")]
    NotYet {
        /// `iat`.
        issued: u64,
        /// The verifier's time.
        now: u64,
    },
    /// Expired.
    #[error("token expired at {expired}, now is {now}; attest again")]
    Expired {
        /// `exp`.
        expired: u64,
        /// The verifier's time.
        now: u64,
    },
    /// The library failed.
    #[error("the cryptographic library failed to {0}")]
    Library(&'static str),
}

/// A token signing key, P-256.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl TokenKey {
    /// A fresh key.
    pub fn generate() -> Result<Self, TokenError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| TokenError::Library("generate a token key"))?;
        Self::with_public(pair)
    }

    /// A fresh key in PKCS#8 DER, to be kept.
    ///
    /// # Errors
    /// [`TokenError::Library`].
    pub fn generate_pkcs8() -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let key = key.map_err(|_| TokenError::Library("generate a token key"))?;
        Ok(Zeroizing::new(key.as_ref().to_vec()))
    }

    /// From PKCS#8 DER, P-256.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, TokenError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map_err(|_| TokenError::Library("read a token key; it must be P-256 in PKCS#8"))?;
        Self::with_public(pair)
    }

    fn with_public(pair: EcdsaKeyPair) -> Result<Self, TokenError> {
        let public = PublicKey::from_point(pair.public_key().as_ref())?;
        Ok(Self { pair, public })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The token of these claims: `base64url(header).base64url(claims).base64url(r ‖ s)`.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let header = Header { typ: "JWT".into(), alg: ES256.into(), jwk: self.public.to_jwk(Some(ES256)) };
        let json = |part: serde_json::Result<Vec<u8>>| part.map_err(|_| TokenError::Library("write the token"));
        let mut token = B64.encode(json(serde_json::to_vec(&header))?);
        token.push('.');
        B64.encode_string(json(serde_json::to_vec(claims))?, &mut token);
        let signature = self
            .pair
            .sign(&SystemRandom::new(), token.as_bytes())
            .map_err(|_| TokenError::Library("sign the token"))?;
        token.push('.');
        B64.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Verifies a token against the one key that is trusted (never the key that the token brings), at `now` (Unix seconds).
pub fn verify(token: &str, key: &PublicKey, now: u64) -> Result<Claims, TokenError> {
    const CLOCK_DIFFERENCE: u64 = 60;
    let form = |problem: &str| TokenError::Form(problem.into());
    if token.len() > MAX_TOKEN {
        return Err(TokenError::TooLong(token.len()));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or_else(|| form("no signature"))?;
    let (header, claims) = signed.split_once('.').ok_or_else(|| form("no claims"))?;
    let decode = |text: &str| B64.decode(text).map_err(|_| form("a part is not base64url"));
    let json = |e: serde_json::Error| TokenError::Form(crate::sanitize(&e.to_string(), 120));

    // The algorithm is looked at first and by itself, as a header with another one may have other members.
    let raw: Value = serde_json::from_slice(&decode(header)?).map_err(json)?;
    let algorithm = raw.get("alg").and_then(Value::as_str).unwrap_or_default();
    if algorithm != ES256 {
        return Err(TokenError::Algorithm(crate::sanitize(algorithm, 32)));
    }
    let header: Header = serde_json::from_value(raw).map_err(json)?;
    if PublicKey::from_jwk(&header.jwk, ES256)? != *key {
        return Err(TokenError::OtherKey);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.point())
        .verify(signed.as_bytes(), &decode(signature)?)
        .map_err(|_| TokenError::Signature)?;

    let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(json)?;
    for (claim, expected, found) in [("eat_profile", PROFILE, &claims.eat_profile), ("iss", ISSUER, &claims.iss)] {
        if found != expected {
            return Err(TokenError::Claim { claim, expected, found: crate::sanitize(found, 80) });
        }
    }
    if claims.iat > now.saturating_add(CLOCK_DIFFERENCE) {
        return Err(TokenError::NotYet { issued: claims.iat, now });
    }
    if claims.exp <= now {
        return Err(TokenError::Expired { expired: claims.exp, now });
    }
    Ok(claims)
}
