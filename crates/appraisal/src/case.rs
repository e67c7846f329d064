//! One appraisal with all that went into it: enough to explain a refusal in full, and to judge the same evidence again by
//! another policy, offline and later. A case holds no secret: claims are what the evidence and a public key say, init-data
//! came through the hands of the host.

use belljar_rcar::ear::{Status, TrustVector};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

use crate::policy::{self, Judgement, Settings};
use crate::reference::{ReferenceError, ReferenceValue, References, names};
use crate::rego::{AttestationPolicy, Lookup, RegoError};
use crate::release::Identity;
use crate::{Claims, Finding};

/// Longest case, in bytes of JSON.
pub const MAX_CASE: usize = 1024 * 1024;
/// Version of the form.
const VERSION: u32 = 1;

/// What judges.
#[derive(Debug, Clone, Copy)]
pub enum Policy<'a> {
    /// The default policy, in code.
    Default,
    /// A policy in Rego, with its name.
    Rego(&'a str, &'a AttestationPolicy),
}

/// Which policy judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyName {
    /// Its name.
    pub name: String,
    /// SHA-256 of its text, lowercase hex; absent for the default policy in code.
    pub sha256: Option<String>,
}

impl Policy<'_> {
    /// Its name and hash.
    pub fn name(&self) -> PolicyName {
        match self {
            Self::Default => PolicyName { name: policy::DEFAULT.to_owned(), sha256: None },
            Self::Rego(name, policy) => {
                PolicyName { name: (*name).to_owned(), sha256: Some(hex::encode(policy.hash())) }
            }
        }
    }
}

/// Why a case is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// Longer than [`MAX_CASE`].
    #[error("case of {0} bytes is longer than {MAX_CASE}")]
    Length(usize),
    /// Not the JSON of a case.
    #[error("not a case: {0}")]
    Json(String),
    /// Another version.
    #[error("case has version {0}; {VERSION} is read: use the program that wrote it")]
    Version(u32),
    /// Claims that are none.
    #[error("case has no claims: {0}")]
    Claims(#[from] crate::claims::ClaimsError),
    /// Reference values that are none.
    #[error("case has a reference value that is none: {0}")]
    Reference(#[from] ReferenceError),
    /// The policy gives no answer.
    #[error("policy gives no answer: {0}")]
    Rego(#[from] RegoError),
}

/// An appraisal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    version: u32,
    /// When it was judged, in seconds since 1970.
    at: u64,
    class: String,
    tee: String,
    claims: Value,
    references: Vec<ReferenceValue>,
    /// How many reference values were left out, as they are for other TEEs and the case would be too long with them.
    references_left_out: usize,
    settings: Settings,
    policy: PolicyName,
}

/// What a policy makes of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Which policy.
    pub policy: PolicyName,
    /// Whether it is the one that judged then: by its hash, not by its name.
    pub same_policy: bool,
    /// Tier.
    pub status: Status,
    /// Whether every rule holds.
    pub admitted: bool,
    /// No hardware stands behind the evidence.
    pub software_tee: bool,
    /// AR4SI claims.
    pub trust_vector: TrustVector,
    /// Every rule, in order.
    pub findings: Vec<Finding>,
    /// Measurement sets that the evidence agrees with.
    pub measurement_sets: Vec<String>,
    /// Reference values that a Rego policy asked for.
    pub lookups: Vec<Lookup>,
}

impl Case {
    /// The case of an appraisal. Where all reference values would make it too long, those for other TEEs are left out.
    ///
    /// # Errors
    /// [`CaseError::Length`].
    pub fn new(
        claims: &Claims,
        references: &References,
        settings: &Settings,
        policy: &Policy<'_>,
        at: u64,
    ) -> Result<Self, CaseError> {
        let mut case = Self {
            version: VERSION,
            at,
            class: claims.class().to_owned(),
            tee: claims.tee().to_owned(),
            claims: claims.value().clone(),
            references: references.values().to_vec(),
            references_left_out: 0,
            settings: settings.clone(),
            policy: policy.name(),
        };
        if case.to_json().is_err() {
            let table = names::measured(claims.tee(), claims.is_software());
            let all = case.references.len();
            case.references.retain(|value| table.iter().any(|measured| measured.name == value.name));
            case.references_left_out = all.saturating_sub(case.references.len());
        }
        case.to_json()?;
        Ok(case)
    }

    /// As JSON.
    ///
    /// # Errors
    /// [`CaseError::Length`].
    pub fn to_json(&self) -> Result<Vec<u8>, CaseError> {
        let json = serde_json::to_vec(self).map_err(|error| CaseError::Json(error.to_string()))?;
        if json.len() > MAX_CASE { Err(CaseError::Length(json.len())) } else { Ok(json) }
    }

    /// From JSON.
    ///
    /// # Errors
    /// Any [`CaseError`].
    pub fn from_json(json: &[u8]) -> Result<Self, CaseError> {
        if json.len() > MAX_CASE {
            return Err(CaseError::Length(json.len()));
        }
        let case: Self = serde_json::from_slice(json)
            .map_err(|error| CaseError::Json(crate::text::clean(&error.to_string(), 160)))?;
        if case.version != VERSION {
            return Err(CaseError::Version(case.version));
        }
        case.parts()?;
        Ok(case)
    }

    /// When it was judged, in seconds since 1970.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The policy that judged.
    pub fn policy(&self) -> &PolicyName {
        &self.policy
    }

    /// How many reference values were left out.
    pub fn references_left_out(&self) -> usize {
        self.references_left_out
    }

    /// The claims.
    ///
    /// # Errors
    /// [`CaseError::Claims`].
    pub fn claims(&self) -> Result<Claims, CaseError> {
        Ok(Claims::from_json(&self.class, &self.tee, self.claims.clone())?)
    }

    /// Judges the case by a policy, at the time and with the reference values and settings of then.
    ///
    /// # Errors
    /// Any [`CaseError`].
    pub fn replay(&self, policy: &Policy<'_>) -> Result<Explanation, CaseError> {
        let (claims, references) = self.parts()?;
        let (judgement, lookups) = match policy {
            Policy::Default => (policy::judge(&claims, &references, &self.settings, self.at), Vec::new()),
            Policy::Rego(_, policy) => {
                let appraised = policy.appraise(&claims, &Arc::new(references), &self.settings, self.at)?;
                (appraised.judgement, appraised.lookups)
            }
        };
        let name = policy.name();
        Ok(Explanation {
            same_policy: name.sha256 == self.policy.sha256,
            policy: name,
            status: judgement.status(),
            admitted: judgement.is_admitted(),
            software_tee: claims.is_software(),
            trust_vector: judgement.vector,
            findings: judgement.findings,
            measurement_sets: judgement.sets,
            lookups,
        })
    }

    /// Whom rules of release see, by an explanation of this case.
    ///
    /// # Errors
    /// [`CaseError::Claims`].
    pub fn identity(&self, explanation: &Explanation) -> Result<Identity, CaseError> {
        let judgement = Judgement {
            vector: explanation.trust_vector,
            findings: explanation.findings.clone(),
            sets: explanation.measurement_sets.clone(),
        };
        Ok(Identity::of(&self.claims()?, &judgement))
    }

    fn parts(&self) -> Result<(Claims, References), CaseError> {
        Ok((self.claims()?, References::new(self.references.iter().cloned())?))
    }
}

/// Reads arbitrary bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    if let Ok(case) = Case::from_json(data) {
        let _ = case.replay(&Policy::Default);
    }
}
