//! Who may get what. A workload is known by the digest of its init-data document (which holds its contract), and may run
//! as any of its reference measurements. Its rules name the resources that it gets; there are no others.

use belljar_appraisal::reference::{ReferenceValue, SourceKind, names};
use belljar_rcar::uri::is_segment;
use serde_json::Value;
use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};
use zeroize::Zeroizing;

/// Most references, resources or rules of one workload.
pub const MAX_ENTRIES: usize = 256;
/// Longest name of a workload, an owner or a reference, in characters.
pub const MAX_NAME: usize = 128;

/// The values that a launch is measured to, by the names of reference values ([`names`]): `snp_launch_measurement`,
/// `software_launch_measurement`, `mr_td`, `rtmr_1`, `mr_enclave`, … Bytes in lowercase hex, numbers in decimal.
pub type Launch = BTreeMap<String, String>;

/// A launch that is expected, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Name of the set or of the launch, such as `guest 0.1.0, 2 vCPUs`.
    pub name: String,
    /// Who computed or approved it; a denial names them.
    pub owner: String,
    /// The values that it is measured to; each of them must be found.
    pub launch: Launch,
}

impl Reference {
    /// A launch of an SNP guest.
    pub fn snp(name: impl Into<String>, owner: impl Into<String>, measurement: [u8; 48]) -> Self {
        Self::single(name, owner, names::SNP_LAUNCH, measurement)
    }

    /// A launch under the software TEE, which never serves for hardware.
    pub fn software(name: impl Into<String>, owner: impl Into<String>, measurement: [u8; 48]) -> Self {
        Self::single(name, owner, names::SOFTWARE_LAUNCH, measurement)
    }

    fn single(name: impl Into<String>, owner: impl Into<String>, value: &str, measurement: [u8; 48]) -> Self {
        let launch = Launch::from([(value.to_owned(), hex::encode(measurement))]);
        Self { name: name.into(), owner: owner.into(), launch }
    }

    /// Whether a launch is this one.
    pub fn matches(&self, found: &Launch) -> bool {
        !self.launch.is_empty() && self.launch.iter().all(|(name, value)| found.get(name) == Some(value))
    }

    /// As reference values of a set of this name.
    pub(crate) fn values(&self, set: String) -> impl Iterator<Item = ReferenceValue> {
        let value = |name: &str, value: &str| match name {
            "isv_prod_id" | "isv_svn" => value.parse::<u64>().map_or_else(|_| value.into(), Value::from),
            _ => Value::from(value),
        };
        self.launch.iter().map(move |(name, text)| ReferenceValue {
            name: name.clone(),
            set: set.clone(),
            value: value(name, text),
            expires: None,
            source: SourceKind::Admin,
            owner: self.owner.clone(),
            signer: None,
        })
    }

    /// Whether it says enough to tell one launch from another.
    fn check(&self) -> Result<(), WorkloadError> {
        let tees = ["snp", "tdx", "sgx", "az-snp-vtpm", "az-tdx-vtpm", "tpm"].map(|tee| (tee, false));
        let tables = tees.into_iter().chain([("snp", true)]).map(|(tee, software)| names::measured(tee, software));
        let fits = |table: &[names::Measured]| {
            let named = |name: &String| table.iter().any(|measured| measured.name == name);
            let required = table.iter().filter(|measured| measured.required);
            !table.is_empty()
                && self.launch.keys().all(named)
                && required.into_iter().all(|measured| self.launch.contains_key(measured.name))
        };
        if !tables.into_iter().any(fits) {
            return Err(WorkloadError::Incomplete(self.name.clone()));
        }
        let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        for (name, value) in &self.launch {
            let holds = match name.as_str() {
                names::SNP_LAUNCH | names::SOFTWARE_LAUNCH | "mr_td" | "rtmr_0" | "rtmr_1" | "rtmr_2" | "rtmr_3" => {
                    value.len() == 96 && value.bytes().all(digit)
                }
                "mr_enclave" | "mr_signer" => value.len() == 64 && value.bytes().all(digit),
                _ => !value.is_empty() && value.len() <= 4096,
            };
            if !holds {
                return Err(WorkloadError::Value(belljar_rcar::sanitize(name, 32)));
            }
        }
        self.values(self.name.clone())
            .try_for_each(|value| value.check())
            .map_err(|e| WorkloadError::Reference(e.to_string()))
    }
}

/// A secret at a path.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// `repository/type/tag`.
    pub path: String,
    /// Its content.
    pub content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resource({}, {} bytes)", self.path, self.content.len())
    }
}

/// Which resources a workload gets: `repository/type/tag`, `repository/type/*` or `repository/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What the path must start with, or be.
    stem: String,
    is_prefix: bool,
}

impl Rule {
    /// Whether this rule names the resource at `path`.
    pub fn matches(&self, path: &str) -> bool {
        if self.is_prefix { path.starts_with(&self.stem) } else { path == self.stem }
    }
}

impl FromStr for Rule {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, WorkloadError> {
        let (stem, is_prefix) = match text.strip_suffix("/*") {
            Some(stem) => (stem, true),
            None => (text, false),
        };
        let count = stem.split('/').count();
        let fits = stem.split('/').all(is_segment) && if is_prefix { count <= 2 } else { count == 3 };
        if !fits {
            return Err(WorkloadError::Rule(belljar_rcar::sanitize(text, 80)));
        }
        let stem = if is_prefix { format!("{stem}/") } else { stem.to_owned() };
        Ok(Self { stem, is_prefix })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stem, if self.is_prefix { "*" } else { "" })
    }
}

/// A workload, what it may run as, and what it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Name, for people.
    pub name: String,
    /// Whose workload it is: who can change its contract.
    pub owner: String,
    /// Digest of the init-data document as it stands in HOST_DATA: 32 bytes, SHA-256 or a longer one truncated.
    pub initdata_digest: [u8; 32],
    /// Launch measurements that are accepted; at least one.
    pub references: Vec<Reference>,
    /// Its secrets.
    pub resources: Vec<Resource>,
    /// What is released of them.
    pub rules: Vec<Rule>,
    /// How long it is known; for ever when absent.
    pub ttl: Option<Duration>,
}

/// A workload as the broker knows it: without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownWorkload {
    /// Names the registration.
    pub id: WorkloadId,
    /// Name of the workload.
    pub name: String,
    /// Who registered it.
    pub owner: String,
    /// Digest of its init-data document.
    pub initdata_digest: [u8; 32],
    /// Launches that it may run as.
    pub launches: Vec<Launch>,
    /// Paths of its resources.
    pub resources: Vec<String>,
}

/// Name of a registration, to withdraw it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkloadId(pub(crate) String);

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WorkloadId {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, WorkloadError> {
        let fits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if fits { Ok(Self(text.to_owned())) } else { Err(WorkloadError::Id) }
    }
}

/// Why a workload is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// Nothing could ever match.
    #[error("workload has no reference measurement; without one it would never be admitted")]
    NoReference,
    /// A name that is empty, too long, or not printable.
    #[error("{0} is empty, longer than {MAX_NAME} characters, or holds control characters")]
    Name(&'static str),
    /// More than [`MAX_ENTRIES`].
    #[error("workload has {found} {what}; at most {MAX_ENTRIES}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        found: usize,
    },
    /// Not a value of a launch.
    #[error("launch value {0:?} has not the form of such a value: digests are lowercase hex of their length")]
    Value(String),
    /// A reference value that is refused.
    #[error("{0}")]
    Reference(String),
    /// Too little to tell one launch from another, or values of several TEEs.
    #[error(
        "reference {0:?} does not tell one launch from another; name snp_launch_measurement (SNP), software_launch_measurement (software TEE), mr_td with rtmr_1 and rtmr_2 (TDX), mr_enclave (SGX), or what docs/appraisal.md lists for virtual TPMs"
    )]
    Incomplete(String),
    /// Not `repository/type/tag`.
    #[error("resource path {0:?} is not repository/type/tag of letters, digits, '.', '_' and '-'")]
    Path(String),
    /// Two resources at one path.
    #[error("resource {0:?} is there twice")]
    Duplicate(String),
    /// Longer than a reply can carry.
    #[error("resource {path:?} of {found} bytes is longer than {}", belljar_rcar::jwe::MAX_PLAINTEXT)]
    TooLong {
        /// Its path.
        path: String,
        /// Its length in bytes.
        found: usize,
    },
    /// Not a rule.
    #[error("rule {0:?} is none of repository/type/tag, repository/type/* and repository/*")]
    Rule(String),
    /// Not an id.
    #[error("not a workload id: 32 hexadecimal digits")]
    Id,
    /// The broker keeps no more.
    #[error("broker already knows {0} workloads; withdraw some")]
    Full(usize),
    /// No random numbers.
    #[error("no random numbers")]
    Random,
    /// It cannot be kept.
    #[error(transparent)]
    Keep(#[from] crate::keep::KeepError),
}

impl Workload {
    pub(crate) fn check(&self) -> Result<(), WorkloadError> {
        let printable = |text: &str| {
            !text.trim().is_empty()
                && text.chars().count() <= MAX_NAME
                && belljar_rcar::sanitize(text, MAX_NAME) == text
        };
        let name = |what, text: &str| if printable(text) { Ok(()) } else { Err(WorkloadError::Name(what)) };
        name("workload name", &self.name)?;
        name("workload owner", &self.owner)?;
        for reference in &self.references {
            name("reference name", &reference.name)?;
            name("reference owner", &reference.owner)?;
            reference.check()?;
        }
        for (what, found) in
            [("references", self.references.len()), ("resources", self.resources.len()), ("rules", self.rules.len())]
        {
            if found > MAX_ENTRIES {
                return Err(WorkloadError::TooMany { what, found });
            }
        }
        if self.references.is_empty() {
            return Err(WorkloadError::NoReference);
        }
        let mut seen = std::collections::HashSet::new();
        for Resource { path, content } in &self.resources {
            if path.split('/').count() != 3 || !path.split('/').all(is_segment) {
                return Err(WorkloadError::Path(belljar_rcar::sanitize(path, 80)));
            }
            if !seen.insert(path) {
                return Err(WorkloadError::Duplicate(path.clone()));
            }
            if content.len() > belljar_rcar::jwe::MAX_PLAINTEXT {
                return Err(WorkloadError::TooLong { path: path.clone(), found: content.len() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_whole_segments() {
        let rule = |text: &str| text.parse::<Rule>().unwrap();
        assert!(rule("default/key/1").matches("default/key/1"));
        assert!(!rule("default/key/1").matches("default/key/10"));
        assert!(rule("default/key/*").matches("default/key/10"));
        assert!(!rule("default/key/*").matches("default/keys/1"));
        assert!(rule("default/*").matches("default/key/1"));
        assert!(!rule("default/*").matches("default2/key/1"));
        assert_eq!(rule("default/key/*").to_string(), "default/key/*");
        for bad in ["*", "/*", "default", "default/key", "a/b/c/*", "a/b/c/d", "a/../c", "a/b/*x", "", "a//*"] {
            assert_eq!(bad.parse::<Rule>(), Err(WorkloadError::Rule(bad.into())), "{bad}");
        }
    }

    #[test]
    fn each_fault_of_a_workload_has_its_error() {
        let good = Workload {
            name: "scorer".into(),
            owner: "team".into(),
            initdata_digest: [1; 32],
            references: vec![Reference::snp("guest", "measure", [2; 48])],
            resources: vec![Resource { path: "default/key/1".into(), content: Zeroizing::new(vec![3]) }],
            rules: vec!["default/key/1".parse().unwrap()],
            ttl: None,
        };
        assert_eq!(good.check(), Ok(()));
        let with = |change: &dyn Fn(&mut Workload)| {
            let mut workload = good.clone();
            change(&mut workload);
            workload.check().unwrap_err()
        };
        assert_eq!(with(&|w| w.references.clear()), WorkloadError::NoReference);
        assert_eq!(with(&|w| w.name = " ".into()), WorkloadError::Name("workload name"));
        assert_eq!(with(&|w| w.owner = "a\nb".into()), WorkloadError::Name("workload owner"));
        assert_eq!(with(&|w| w.references[0].owner = "a".repeat(129)), WorkloadError::Name("reference owner"));
        assert_eq!(with(&|w| w.resources[0].path = "a/b".into()), WorkloadError::Path("a/b".into()));
        assert_eq!(
            with(&|w| w.resources.push(w.resources[0].clone())),
            WorkloadError::Duplicate("default/key/1".into())
        );
        assert_eq!(
            with(&|w| w.rules = vec![w.rules[0].clone(); 257]),
            WorkloadError::TooMany { what: "rules", found: 257 }
        );
        let found = belljar_rcar::jwe::MAX_PLAINTEXT + 1;
        assert_eq!(
            with(&|w| w.resources[0].content = Zeroizing::new(vec![0; found])),
            WorkloadError::TooLong { path: "default/key/1".into(), found }
        );
    }

    #[test]
    fn debug_shows_no_content() {
        let resource = Resource { path: "a/b/c".into(), content: Zeroizing::new(b"secret".to_vec()) };
        assert_eq!(format!("{resource:?}"), "Resource(a/b/c, 6 bytes)");
    }
}
