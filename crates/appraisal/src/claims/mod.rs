//! One form of claims for every TEE.
//!
//! The claims are a JSON object: the TEE's own under its name, with the names and encodings of the upstream attestation
//! service, so that its policies read them unchanged; beside them `report_data`, `init_data`, `runtime_data_claims` and
//! `init_data_claims`; and ours under `belljar`, the same for every TEE: bytes are lowercase hex, numbers are numbers.
//! `docs/appraisal.md` lists all of them.
//!
//! Claims of evidence that is not authentic are only what its bytes say: `belljar.authentic` is false then, and each
//! policy must look at it. The default policy does; the policies of others are kept from such evidence by
//! [`Claims::is_authentic`], which [`crate::policy`] and the broker ask before they run them.

mod common;
mod dcap;
mod eventlog;
mod snp;
mod tpm;
mod vtpm;

use belljar_evidence::{Kind, Verdict, azure, dcap as intel, eventlog::Log, snp as amd, tpm as tcg};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use common::Root;

/// A verdict with what it was about.
#[derive(Debug, Clone, Copy)]
pub enum Evidence<'a> {
    /// An SNP report.
    Snp(&'a Verdict<amd::Facts>),
    /// A TD's quote, and the event log that came with it.
    Tdx {
        /// The verdict.
        verdict: &'a Verdict<intel::Facts>,
        /// The CC event log. Its events become claims only when its replay gives the quote's RTMRs.
        log: Option<&'a Log>,
    },
    /// An enclave's quote.
    Sgx(&'a Verdict<intel::Facts>),
    /// An SNP report that binds a virtual TPM.
    AzSnpVtpm(&'a Verdict<azure::Facts>),
    /// A TD's quote that binds a virtual TPM.
    AzTdxVtpm(&'a Verdict<azure::Facts>),
    /// A TPM's quote.
    Tpm {
        /// The verdict.
        verdict: &'a Verdict<tcg::Facts>,
        /// The attestation key as it came, SubjectPublicKeyInfo in DER.
        ak_public: &'a [u8],
    },
}

impl Evidence<'_> {
    /// What kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Snp(_) => Kind::Snp,
            Self::Tdx { .. } => Kind::Tdx,
            Self::Sgx(_) => Kind::Sgx,
            Self::AzSnpVtpm(_) => Kind::AzSnpVtpm,
            Self::AzTdxVtpm(_) => Kind::AzTdxVtpm,
            Self::Tpm { .. } => Kind::Tpm,
        }
    }
}

/// What the init-data register of the hardware says of the document that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitData {
    /// No document was sent.
    Absent,
    /// The hardware carries the digest of the document.
    Bound {
        /// What the document says, for policies; `Null` for nothing.
        claims: Value,
    },
    /// The hardware carries something else.
    NotBound {
        /// Digest of the document, lowercase hex, or why there is none.
        found: String,
    },
}

/// Who the contract of a bound init-data document says that it is. All of it is the document's word, and worth what the
/// document is worth: a digest or a signer must be trusted before a namespace means anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    /// Digest of the init-data document, lowercase hex, as the hardware carries it (a longer hash is truncated).
    pub digest: String,
    /// Fingerprint of the key that signed the contract, when a signature was there and verified.
    pub signer: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Name of the workload.
    pub name: Option<String>,
}

/// What the caller found about this handshake, beside the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The evidence's report data (a TPM's nonce) is the digest of this session's challenge and key.
    pub session_bound: bool,
    /// What the runtime data say: the challenge's nonce and the TEE's public key.
    pub runtime_data: Value,
    /// The init-data document.
    pub init_data: InitData,
    /// What the bound document says of itself; ignored unless it is bound.
    pub contract: Option<Contract>,
}

/// Claims of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `cpu`, or the class of a device: `gpu`, `switch`, …
    class: String,
    /// Name of the TEE, under which its claims stand.
    tee: String,
    value: Value,
}

/// Why claims cannot be taken from JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimsError {
    /// Not an object with the TEE's claims under its name.
    #[error("claims are no object with the member {0:?}: they are not claims of that tee")]
    NoTee(String),
    /// A class that could not be the name of a submodule.
    #[error("device class {0:?} is not of one to sixteen lowercase letters")]
    Class(String),
}

impl Claims {
    /// The claims of CPU evidence.
    pub fn of(evidence: Evidence<'_>, context: &Context) -> Self {
        let tee = evidence.kind().name();
        let read = match evidence {
            Evidence::Snp(verdict) => snp::read(verdict),
            Evidence::Tdx { verdict, log } => dcap::tdx(verdict, log),
            Evidence::Sgx(verdict) => dcap::sgx(verdict),
            Evidence::AzSnpVtpm(verdict) => vtpm::snp(verdict),
            Evidence::AzTdxVtpm(verdict) => vtpm::tdx(verdict),
            Evidence::Tpm { verdict, ak_public } => tpm::read(verdict, ak_public),
        };
        let common::Read { own, mut ours, report_data, init_data } = read;
        let mut value = Map::new();
        value.insert(tee.to_owned(), own);
        if let Some(report_data) = report_data {
            value.insert("report_data".to_owned(), Value::String(report_data));
            value.insert("runtime_data_claims".to_owned(), context.runtime_data.clone());
        }
        let bound = matches!(context.init_data, InitData::Bound { .. });
        if let Some(init_data) = init_data {
            value.insert("init_data".to_owned(), Value::String(init_data));
            if let InitData::Bound { claims } = &context.init_data
                && !claims.is_null()
            {
                value.insert("init_data_claims".to_owned(), claims.clone());
            }
        }
        ours.insert("kind".to_owned(), json!(tee));
        ours.insert("session_bound".to_owned(), json!(context.session_bound));
        ours.insert("contract".to_owned(), contract(context, bound));
        value.insert("belljar".to_owned(), Value::Object(ours));
        Self { class: "cpu".to_owned(), tee: tee.to_owned(), value: Value::Object(value) }
    }

    /// Claims of a device that somebody else verified, or claims that were stored. `value` has the device's own claims
    /// under `tee`.
    ///
    /// # Errors
    /// Any [`ClaimsError`].
    pub fn from_json(class: &str, tee: &str, value: Value) -> Result<Self, ClaimsError> {
        if !(1..=16).contains(&class.len()) || !class.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err(ClaimsError::Class(crate::text::clean(class, 32)));
        }
        if !value.get(tee).is_some_and(Value::is_object) {
            return Err(ClaimsError::NoTee(crate::text::clean(tee, 32)));
        }
        Ok(Self { class: class.to_owned(), tee: tee.to_owned(), value })
    }

    /// Class of the device.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Name of the TEE.
    pub fn tee(&self) -> &str {
        &self.tee
    }

    /// The whole object: what policies take as `input`, and what a token carries as annotated evidence.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The claim at a path of member names.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(&self.value, |value, name| value.get(name))
    }

    /// One of ours: `belljar.<name>`.
    pub fn ours(&self, name: &str) -> Option<&Value> {
        self.value.get("belljar")?.get(name)
    }

    /// Whether the verification of the evidence came to the verdict that it is authentic.
    pub fn is_authentic(&self) -> bool {
        self.ours("authentic") == Some(&Value::Bool(true))
    }

    /// Whether the evidence ends in a root that is no vendor's: it says nothing about hardware.
    pub fn is_software(&self) -> bool {
        self.ours("root").and_then(Value::as_str).is_some_and(Root::is_software_name)
    }

    /// The TEE's name for tokens and pages: `software-tee` where no hardware stands behind the evidence.
    pub fn tee_or_software(&self) -> &str {
        if self.is_software() { "software-tee" } else { &self.tee }
    }
}

fn contract(context: &Context, bound: bool) -> Value {
    let mut claims = Map::new();
    claims.insert("bound".to_owned(), json!(bound));
    claims.insert("sent".to_owned(), json!(context.init_data != InitData::Absent));
    if let InitData::NotBound { found } = &context.init_data {
        claims.insert("found".to_owned(), json!(crate::text::clean(found, 256)));
    }
    if let Some(Contract { digest, signer, namespace, name }) = context.contract.as_ref().filter(|_| bound) {
        claims.insert("digest".to_owned(), json!(digest));
        for (member, value) in [("signer", signer), ("namespace", namespace), ("name", name)] {
            if let Some(value) = value {
                claims.insert(member.to_owned(), json!(value));
            }
        }
    }
    Value::Object(claims)
}
