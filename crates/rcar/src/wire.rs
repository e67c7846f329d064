//! The messages of `/kbs/v0`, with their mixed case: outer names are kebab-case, the two members of `tee-evidence` are
//! snake_case.
//!
//! A message is read whole: text behind it is refused, and so is a missing member. Members that are not known are
//! skipped, because later versions of the protocol add some; what they can cost is bounded by the body's length.

use crate::{binding::HashAlgorithm, key::Jwk};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{fmt, str::FromStr};

/// The version that the client names.
pub const VERSION: &str = "0.4.0";
/// Name of the session cookie.
pub const COOKIE: &str = "kbs-session-id";
/// Longest value of the session cookie, in bytes: what every client keeps (RFC 6265 §6.1). Upstream's server sends an id of
/// 32 digits; ours seals the session in it.
pub const MAX_COOKIE: usize = 4096 - COOKIE.len();
/// Longest body of `POST /kbs/v0/auth`, in bytes.
pub const MAX_AUTH: usize = 8 * 1024;
/// Longest body of `POST /kbs/v0/attest`: init-data of 256 KiB (each byte at most six in JSON, rarely more than one)
/// and evidence.
pub const MAX_ATTEST: usize = 1024 * 1024;
/// Longest answer to `auth` or `attest`, and longest error body that is read.
pub const MAX_ANSWER: usize = 1024 * 1024;
/// Longest answer to `resource`: a JWE of [`crate::jwe::MAX_PLAINTEXT`].
pub const MAX_RESOURCE_ANSWER: usize = crate::jwe::MAX_PLAINTEXT / 3 * 4 + 8 * 1024;
/// Length of the nonce before base64.
pub const NONCE: usize = 32;
const ERRORS: &str = "https://github.com/confidential-containers/kbs/errors/";

/// The TEEs of the protocol. Belljar's broker appraises [`Tee::Snp`] now; the others have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Tee {
    #[serde(rename = "az-snp-vtpm")]
    AzSnpVtpm,
    #[serde(rename = "az-tdx-vtpm")]
    AzTdxVtpm,
    Nvidia,
    Sgx,
    Snp,
    Tdx,
    Cca,
    Csv,
    Se,
    Hygondcu,
    #[serde(rename = "nvidia-dpu")]
    NvidiaDpu,
    Tpm,
    Sample,
    Sampledevice,
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// `POST /kbs/v0/auth`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Request {
    /// Version of the protocol.
    pub version: String,
    /// The TEE that will give evidence.
    pub tee: Tee,
    /// `{"supported-hash-algorithms": […]}`, or an empty string.
    pub extra_params: Value,
}

/// Answer to [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Challenge {
    /// Standard base64 of [`NONCE`] bytes.
    pub nonce: String,
    /// Empty string, or `{"selected-hash-algorithm": …}`.
    pub extra_params: Value,
}

/// `POST /kbs/v0/attest`. `E` is the JSON form of the primary evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attestation<E> {
    /// The init-data document, whose digest the evidence carries.
    #[serde(default)]
    pub init_data: Option<InitData>,
    /// What the evidence is bound to.
    pub runtime_data: RuntimeData,
    /// The evidence.
    pub tee_evidence: TeeEvidence<E>,
}

/// The init-data document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitData {
    /// `toml`.
    pub format: String,
    /// The document, byte for byte.
    pub body: String,
}

impl InitData {
    /// A TOML document.
    pub fn toml(body: impl Into<String>) -> Self {
        Self { format: "toml".into(), body: body.into() }
    }
}

/// Nonce and TEE key, as hashed into `report_data`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuntimeData {
    /// The challenge's nonce, as text.
    pub nonce: String,
    /// The public TEE key.
    pub tee_pubkey: Jwk,
}

/// Evidence of the CPU and of further devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeeEvidence<E> {
    /// Evidence of the CPU's TEE.
    pub primary_evidence: E,
    /// JSON text of the other devices' evidence, or empty.
    pub additional_evidence: String,
}

/// Answer to [`Attestation`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The attestation token, a compact JWT.
    pub token: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.token.len())
    }
}

/// Body of an answer that refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A URL whose last segment names the kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// One line for people.
    pub detail: String,
}

impl ErrorBody {
    /// The error of this kind, such as `PolicyDeny`.
    pub fn new(kind: &str, detail: impl Into<String>) -> Self {
        Self { kind: format!("{ERRORS}{kind}"), detail: detail.into() }
    }

    /// The last segment of the type's URL.
    pub fn name(&self) -> &str {
        self.kind.rsplit('/').next().unwrap_or_default()
    }
}

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not the JSON that this message is.
    #[error("{message} is not understood: {problem}")]
    Json {
        /// Which message.
        message: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Longer than this message may be.
    #[error("{message} of {found} bytes is longer than {limit}")]
    TooLong {
        /// Which message.
        message: &'static str,
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The version is outside 0.1.1 … 0.4.x.
    #[error("KBS Client Protocol Version Mismatch: expect >=0.1.1, <0.5.0 while the request is {0}")]
    Version(String),
    /// The challenge selects a hash that is not known.
    #[error("hash algorithm {0:?} is not supported; sha256, sha384 and sha512 are")]
    Hash(String),
    /// The nonce is not base64 of 32 bytes.
    #[error("nonce is not base64 of {NONCE} bytes")]
    Nonce,
}

/// Reads one message of at most `limit` bytes.
pub fn parse<T: DeserializeOwned>(message: &'static str, body: &[u8], limit: usize) -> Result<T, WireError> {
    if body.len() > limit {
        return Err(WireError::TooLong { message, found: body.len(), limit });
    }
    serde_json::from_slice(body).map_err(|e| WireError::Json { message, problem: crate::sanitize(&e.to_string(), 160) })
}

impl Request {
    /// What our client sends.
    pub fn new(tee: Tee) -> Self {
        let extra_params = json!({ "supported-hash-algorithms": ["sha256", "sha384", "sha512"] });
        Self { version: VERSION.into(), tee, extra_params }
    }

    /// Reads the body of `auth`, and checks its version.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let request: Self = parse("auth request", body, MAX_AUTH)?;
        let supported = request.version.parse::<Version>().is_ok_and(Version::is_supported);
        if !supported {
            return Err(WireError::Version(crate::sanitize(&request.version, 32)));
        }
        Ok(request)
    }
}

impl Challenge {
    /// Reads the answer of `auth`, and checks its nonce. Also gives the hash that it selects.
    pub fn parse(body: &[u8]) -> Result<(Self, HashAlgorithm), WireError> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let challenge: Self = parse("challenge", body, MAX_ANSWER)?;
        let nonce = STANDARD.decode(challenge.nonce.as_bytes()).map_err(|_| WireError::Nonce)?;
        if nonce.len() != NONCE {
            return Err(WireError::Nonce);
        }
        let hash = match challenge.extra_params.get("selected-hash-algorithm") {
            None | Some(Value::Null) => HashAlgorithm::default(),
            Some(name) => name
                .as_str()
                .and_then(HashAlgorithm::by_name)
                .ok_or_else(|| WireError::Hash(crate::sanitize(&name.to_string(), 32)))?,
        };
        Ok((challenge, hash))
    }
}

impl<E: DeserializeOwned> Attestation<E> {
    /// Reads the body of `attest`.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        parse("attestation", body, MAX_ATTEST)
    }
}

/// A version of the protocol: three decimal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u8, u8, u8);

impl Version {
    fn is_supported(self) -> bool {
        self >= Self(0, 1, 1) && self < Self(0, 5, 0)
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |part: Option<&str>| {
            let part = part.filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())).ok_or(())?;
            part.parse::<u8>().map_err(|_| ())
        };
        let mut parts = text.split('.');
        let version = Self(number(parts.next())?, number(parts.next())?, number(parts.next())?);
        if parts.next().is_some() { Err(()) } else { Ok(version) }
    }
}

/// Entry for fuzzing: reads `data` as each message.
pub fn fuzz(data: &[u8]) {
    let _ = Request::parse(data);
    let _ = Challenge::parse(data);
    let _ = Attestation::<crate::snp::SnpEvidence>::parse(data).map(|a| a.tee_evidence.primary_evidence.report_bytes());
    let _ = Attestation::<crate::tdx::TdxEvidence>::parse(data);
    let _ = parse::<Token>("token", data, MAX_ANSWER);
    let _ = parse::<ErrorBody>("error", data, MAX_ANSWER);
}
