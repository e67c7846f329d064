//! A file of evidence: raw, or in one of the JSON wrappers of Confidential Containers.

use belljar_evidence::Kind;
use belljar_evidence::snp::{Report, SigningKey};
use belljar_evidence::tpm::{Hash, Pcrs, PcrsError, Signature, SignatureError};
use belljar_rcar::snp::{CertType, SnpEvidence};
use belljar_rcar::tdx::TdxEvidence;
use serde_json::Value;

use crate::{pem, wrapped_tpm};

/// Evidence with what its file brings along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// An SNP report with its certificates, DER; empty ones were not there.
    Snp {
        /// The report.
        report: Vec<u8>,
        /// The endorsement key's certificate.
        vek: Vec<u8>,
        /// The intermediate.
        intermediate: Vec<u8>,
    },
    /// A TDX or SGX quote, and a CC event log.
    Quote {
        /// Which of both.
        kind: Kind,
        /// The quote.
        quote: Vec<u8>,
        /// The event log.
        log: Option<Vec<u8>>,
    },
    /// Evidence of Azure's virtual TPM.
    Vtpm {
        /// On SNP or on TDX.
        kind: Kind,
        /// The paravisor's report.
        hcl_report: Vec<u8>,
        /// The quote with its parts.
        tpm: TpmQuote,
        /// Certificate of the endorsement key, DER; SNP.
        vek: Vec<u8>,
        /// The TD's quote; TDX.
        td_quote: Vec<u8>,
    },
    /// A quote of a TPM.
    Tpm {
        /// The attestation key, PEM or DER.
        ak: Vec<u8>,
        /// The quote with its parts.
        tpm: TpmQuote,
    },
    /// One part of evidence by itself: it can be decoded, and not judged.
    Part {
        /// What it is a part of.
        kind: Kind,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// A TPM's quote, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmQuote {
    /// TPMS_ATTEST.
    pub message: Vec<u8>,
    /// Its signature.
    pub signature: Vec<u8>,
    /// Whether that is a TPMT_SIGNATURE; else it is a bare RSA number.
    pub signature_is_structured: bool,
    /// Values of the registers 0, 1, 2 and so on of the SHA-256 bank.
    pub pcrs: Vec<Vec<u8>>,
}

impl TpmQuote {
    /// The values of its registers.
    ///
    /// # Errors
    /// Any [`PcrsError`].
    pub fn registers(&self) -> Result<Pcrs, PcrsError> {
        Pcrs::from_first(Hash::Sha256, self.pcrs.iter().cloned())
    }

    /// Its signature, in the form that it came in.
    ///
    /// # Errors
    /// Any [`SignatureError`].
    pub fn signature(&self) -> Result<Signature, SignatureError> {
        if self.signature_is_structured {
            Signature::parse(&self.signature)
        } else {
            Ok(Signature::raw_rsa(&self.signature))
        }
    }
}

/// Why a file is no evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// Nothing that we know begins like this.
    #[error("no evidence of a kind that belljar knows: {0}")]
    Unknown(String),
    /// A JSON wrapper that is not what its first members promise.
    #[error("{kind} evidence in json: {why}")]
    Wrapper {
        /// Kind of the wrapper.
        kind: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A kind of evidence that is named and cannot be judged.
    #[error("{0} evidence cannot be judged by belljar: {1}")]
    Foreign(&'static str, &'static str),
}

impl Evidence {
    /// Recognises the bytes of a file; `kind` is what the user says they are.
    pub fn read(bytes: &[u8], kind: Option<Kind>) -> Result<Self, InputError> {
        if let Some(document) = json(bytes)? {
            let evidence = Self::of_document(&document)?;
            return match kind {
                Some(kind) if kind != evidence.kind() => Err(InputError::Wrapper {
                    kind: kind.name(),
                    why: format!("it holds {} evidence", evidence.kind()),
                }),
                _ => Ok(evidence),
            };
        }
        match kind.or_else(|| Kind::of(bytes)) {
            Some(Kind::Snp) => Ok(Self::Snp { report: bytes.to_vec(), vek: Vec::new(), intermediate: Vec::new() }),
            Some(kind @ (Kind::Tdx | Kind::Sgx)) => Ok(Self::Quote { kind, quote: bytes.to_vec(), log: None }),
            Some(kind) => Ok(Self::Part { kind, bytes: bytes.to_vec() }),
            None => Err(InputError::Unknown(format!("{} bytes that begin with {}", bytes.len(), beginning(bytes)))),
        }
    }

    /// SNP evidence that was read already.
    ///
    /// # Errors
    /// [`InputError::Wrapper`].
    pub fn of_snp(evidence: &SnpEvidence) -> Result<Self, InputError> {
        of_snp(evidence)
    }

    /// The certificate of AMD's endorsement key, DER, where it came along.
    pub fn vek(&self) -> Option<&[u8]> {
        match self {
            Self::Snp { vek, .. } | Self::Vtpm { vek, .. } if !vek.is_empty() => Some(vek),
            _ => None,
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Snp { .. } => Kind::Snp,
            Self::Quote { kind, .. } | Self::Vtpm { kind, .. } | Self::Part { kind, .. } => *kind,
            Self::Tpm { .. } => Kind::Tpm,
        }
    }

    /// A document of the Key Broker Service protocol: the evidence itself, or a message that holds it.
    pub fn of_document(document: &Value) -> Result<Self, InputError> {
        for member in ["tee-evidence", "primary_evidence", "evidence"] {
            if let Some(inner) = document.get(member).filter(|inner| inner.is_object()) {
                return Self::of_document(inner);
            }
        }
        let has = |member: &str| document.get(member).is_some();
        if has("attestation_report") {
            return snp(document);
        }
        if has("hcl_report") || has("report") && has("vcek") {
            return wrapped_tpm::vtpm(document);
        }
        if has("ak_public") {
            return wrapped_tpm::tpm(document);
        }
        if has("quote") {
            return quote(document);
        }
        if has("svn") && has("report_data") {
            return Err(InputError::Foreign("sample", "it is made without any hardware, by anyone"));
        }
        if has("device_evidence_list") {
            return Err(InputError::Foreign("nvidia", "only CPUs and TPMs are known"));
        }
        if has("token") {
            return Err(InputError::Foreign("cca", "only AMD, Intel and TPMs are known"));
        }
        let members: Vec<&str> =
            document.as_object().into_iter().flat_map(|object| object.keys()).map(String::as_str).take(8).collect();
        Err(InputError::Unknown(format!("json with the members {}", members.join(", "))))
    }
}

/// The document, when the bytes are JSON.
fn json(bytes: &[u8]) -> Result<Option<Value>, InputError> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Ok(None);
    }
    serde_json::from_slice(bytes).map(Some).map_err(|error| InputError::Unknown(format!("broken json ({error})")))
}

fn snp(document: &Value) -> Result<Evidence, InputError> {
    let wrong = |why: String| InputError::Wrapper { kind: "snp", why };
    let evidence: SnpEvidence = serde_json::from_value(document.clone()).map_err(|error| wrong(error.to_string()))?;
    Evidence::of_snp(&evidence)
}

fn of_snp(evidence: &SnpEvidence) -> Result<Evidence, InputError> {
    let wrong = |why: String| InputError::Wrapper { kind: "snp", why };
    let report = evidence.report_bytes().map_err(|error| wrong(error.to_string()))?.to_vec();
    evidence.certificates().map_err(|error| wrong(error.to_string()))?;
    let of = |kinds: &[CertType]| -> Result<Vec<u8>, InputError> {
        let found = kinds.iter().find_map(|kind| evidence.certificate(kind)).unwrap_or_default();
        let mut ders = pem::ders(found, "CERTIFICATE").map_err(wrong)?;
        Ok(ders.pop().unwrap_or_default())
    };
    // Of both, the one that the report names.
    let mut keys = [CertType::VCEK, CertType::VLEK];
    if Report::parse(&report).is_ok_and(|report| report.signing_key == SigningKey::Vlek) {
        keys.reverse();
    }
    Ok(Evidence::Snp { vek: of(&keys)?, intermediate: of(&[CertType::ASK])?, report })
}

fn quote(document: &Value) -> Result<Evidence, InputError> {
    let wrong = |why: String| InputError::Wrapper { kind: "tdx or sgx", why };
    let evidence: TdxEvidence = serde_json::from_value(document.clone()).map_err(|error| wrong(error.to_string()))?;
    let quote = evidence.quote().map_err(|error| wrong(error.to_string()))?;
    let log = evidence.eventlog().map_err(|error| wrong(error.to_string()))?;
    match Kind::of(&quote) {
        Some(kind @ (Kind::Tdx | Kind::Sgx)) => Ok(Evidence::Quote { kind, quote, log }),
        _ => Err(wrong(format!("the quote begins with {}", beginning(&quote)))),
    }
}

fn beginning(bytes: &[u8]) -> String {
    if bytes.is_empty() { "nothing".to_owned() } else { hex::encode(bytes.iter().take(8).copied().collect::<Vec<_>>()) }
}

/// Reads arbitrary bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = Evidence::read(data, None);
}
