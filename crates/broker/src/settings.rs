//! `broker.toml`: what a standalone broker is told. Every key is documented in [`EXAMPLE`], which is also what is read when
//! there is no file: a test holds both together. Unknown keys are refused, and secrets are never written in it: each is in a
//! file of its own or in the environment.

use crate::config::Limits;
use belljar_appraisal::policy::Settings as Policy;
use serde::Deserialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// A documented `broker.toml` in which every key has its default.
pub const EXAMPLE: &str = include_str!("broker.toml");
/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// A `broker.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where to listen; a free port of the loopback when empty.
    pub listen: Vec<SocketAddr>,
    /// Where keys and the embedded store are kept.
    pub data: Option<PathBuf>,
    /// Admit evidence of a software TEE.
    pub allow_software_tee: bool,
    /// The server's certificate.
    pub tls: Tls,
    /// Attestation tokens.
    pub token: Token,
    /// Who administers the broker.
    pub admin: Admin,
    /// Where everything is kept.
    pub store: Store,
    /// The vendors' endorsements.
    pub collateral: CollateralSettings,
    /// Whose evidence counts.
    pub trust: TrustSettings,
    /// What the default policy takes beside what is always right.
    pub policy: Policy,
    /// Bounds.
    pub limits: LimitSettings,
}

/// The server's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Chain in PEM, the server's first; made once when absent.
    pub certificate: Option<PathBuf>,
    /// Its key in PEM (PKCS#8).
    pub key: Option<PathBuf>,
    /// Names and addresses for the certificate that is made.
    pub names: Vec<String>,
}

/// Attestation tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Token {
    /// Key that signs them, P-256 in PEM (PKCS#8); made once when absent.
    pub key: Option<PathBuf>,
    /// For how long a token is good.
    pub lifetime_seconds: u64,
}

impl Default for Token {
    fn default() -> Self {
        Self { key: None, lifetime_seconds: 300 }
    }
}

/// Who administers the broker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// File with the first owner's token; made once when absent.
    pub token: Option<PathBuf>,
}

/// Where everything is kept: a file in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// File with the key that encrypts secrets at rest: 32 bytes, raw or in hex; made once when absent.
    pub key: Option<PathBuf>,
}

/// The vendors' endorsements.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollateralSettings {
    /// A signed bundle of `belljar collateral bundle`.
    pub bundle: Option<PathBuf>,
    /// The key that signed it.
    pub bundle_key: Option<PathBuf>,
    /// A cache of `belljar collateral fetch`.
    pub cache: Option<PathBuf>,
    /// Fetch what is missing from the vendors, in the background, into that cache.
    pub fetch: bool,
    /// For how many days after its next update collateral counts as in grace.
    pub grace_days: u32,
}

impl Default for CollateralSettings {
    fn default() -> Self {
        Self { bundle: None, bundle_key: None, cache: None, fetch: false, grace_days: 7 }
    }
}

/// Whose evidence counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrustSettings {
    /// AMD's roots.
    pub amd: bool,
    /// Intel's root.
    pub intel: bool,
    /// SHA-256 fingerprints of attestation keys of TPMs.
    pub tpm_keys: Vec<String>,
}

impl Default for TrustSettings {
    fn default() -> Self {
        Self { amd: true, intel: true, tpm_keys: Vec::new() }
    }
}

/// Bounds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Connections at once.
    pub connections: usize,
    /// Attestations within the lifetime of a session.
    pub attestations: usize,
    /// Lifetime of a session.
    pub session_seconds: u64,
    /// Handshakes that are kept for explanations.
    pub records: usize,
    /// Workloads that are registered at once.
    pub workloads: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            connections: limits.connections,
            attestations: limits.sessions,
            session_seconds: limits.session.as_secs(),
            records: limits.records,
            workloads: limits.workloads,
        }
    }
}

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("{path}: {cause}")]
    Read {
        /// Which file.
        path: String,
        /// What the system says.
        cause: String,
    },
    /// Not the TOML that settings are.
    #[error("{path}: {problem}; `belljar broker config --example` documents every key")]
    Toml {
        /// Which file.
        path: String,
        /// What is wrong, with its line.
        problem: String,
    },
    /// Two keys that need each other, or exclude each other.
    #[error("{0}")]
    Together(&'static str),
    /// A value that is out of range.
    #[error("{key} is {found}; {expected}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is there.
        found: String,
        /// What may be there.
        expected: &'static str,
    },
}

impl Settings {
    /// Reads a file. Relative paths in it are from its directory.
    ///
    /// # Errors
    /// Any [`SettingsError`].
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let failed =
            |cause: std::io::Error| SettingsError::Read { path: path.display().to_string(), cause: cause.to_string() };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > MAX_FILE {
            let cause = std::io::Error::other(format!("{length} bytes are more than {MAX_FILE}"));
            return Err(failed(cause));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let mut settings = Self::parse(&text, &path.display().to_string())?;
        settings.resolve(path.parent().unwrap_or(Path::new(".")));
        Ok(settings)
    }

    /// Reads a text; `name` is for errors.
    ///
    /// # Errors
    /// [`SettingsError::Toml`], [`SettingsError::Together`] or [`SettingsError::Value`].
    pub fn parse(text: &str, name: &str) -> Result<Self, SettingsError> {
        let wrong = |error: toml::de::Error| {
            let line = error.span().map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            SettingsError::Toml {
                path: name.to_owned(),
                problem: format!("{line}{}", belljar_rcar::sanitize(error.message(), 300)),
            }
        };
        let settings: Self = toml::from_str(text).map_err(wrong)?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        if self.policy.allow_software_tee {
            return Err(SettingsError::Together(
                "policy.allow_software_tee is no setting of a policy: write allow_software_tee = true at the top",
            ));
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(SettingsError::Together("tls.certificate and tls.key belong together: give both or none"));
        }
        if self.tls.certificate.is_some() && !self.tls.names.is_empty() {
            return Err(SettingsError::Together("tls.names are for the certificate that is made: leave them out"));
        }
        if self.collateral.bundle.is_some() != self.collateral.bundle_key.is_some() {
            return Err(SettingsError::Together(
                "collateral.bundle and collateral.bundle_key belong together: give both or none",
            ));
        }
        if self.collateral.fetch && self.collateral.cache.is_none() {
            return Err(SettingsError::Together(
                "collateral.fetch needs collateral.cache, where it keeps what it gets",
            ));
        }
        let range = |key, found: u64, range: std::ops::RangeInclusive<u64>, expected| {
            if range.contains(&found) {
                return Ok(());
            }
            Err(SettingsError::Value { key, found: found.to_string(), expected })
        };
        range("token.lifetime_seconds", self.token.lifetime_seconds, 10..=86_400, "10 to 86400 are possible")?;
        range("limits.session_seconds", self.limits.session_seconds, 10..=3600, "10 to 3600 are possible")?;
        for (key, found) in [
            ("limits.connections", self.limits.connections),
            ("limits.attestations", self.limits.attestations),
            ("limits.records", self.limits.records),
            ("limits.workloads", self.limits.workloads),
        ] {
            range(key, u64::try_from(found).unwrap_or(u64::MAX), 1..=10_000_000, "1 to 10000000 are possible")?;
        }
        self.tpm_keys().map(|_| ())
    }

    /// The fingerprints of TPMs' attestation keys.
    ///
    /// # Errors
    /// [`SettingsError::Value`].
    pub fn tpm_keys(&self) -> Result<Vec<[u8; 32]>, SettingsError> {
        let key = |text: &String| {
            let mut key = [0; 32];
            hex::decode_to_slice(text, &mut key).map_err(|_| SettingsError::Value {
                key: "trust.tpm_keys",
                found: belljar_rcar::sanitize(text, 80),
                expected: "each is 64 hexadecimal digits",
            })?;
            Ok(key)
        };
        self.trust.tpm_keys.iter().map(key).collect()
    }

    /// The bounds, with those that are no setting.
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.limits.connections,
            sessions: self.limits.attestations,
            session: Duration::from_secs(self.limits.session_seconds),
            token: Duration::from_secs(self.token.lifetime_seconds),
            records: self.limits.records,
            workloads: self.limits.workloads,
            ..Limits::default()
        }
    }

    fn resolve(&mut self, directory: &Path) {
        let paths = [
            &mut self.data,
            &mut self.tls.certificate,
            &mut self.tls.key,
            &mut self.token.key,
            &mut self.admin.token,
            &mut self.store.key,
            &mut self.collateral.bundle,
            &mut self.collateral.bundle_key,
            &mut self.collateral.cache,
        ];
        for path in paths.into_iter().flatten() {
            *path = directory.join(&*path);
        }
    }
}

/// Entry for fuzzing: reads `data` as settings.
pub fn fuzz(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Settings::parse(text, "fuzz").map(|settings| settings.limits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example with the keys that stand behind a '#'.
    fn full() -> String {
        let line = |line: &str| {
            let key = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
            key.unwrap_or(line).to_owned() + "\n"
        };
        EXAMPLE.lines().map(line).collect()
    }

    #[test]
    fn the_example_is_the_default_and_has_every_key() {
        assert_eq!(Settings::parse(EXAMPLE, "example").unwrap(), Settings::default());
        assert_eq!(Settings::parse("", "empty").unwrap(), Settings::default());
        // The debug form names every field, and None those that the example left out.
        let Settings { policy, .. } = Settings::parse(&full().replace("names = []", ""), "full").unwrap();
        assert_eq!(policy.min_snp_tcb["Milan"].snp, 27);
        let all: toml::Table = full().parse().unwrap();
        let mut named: Vec<&str> = all
            .iter()
            .flat_map(|(key, value)| match value {
                toml::Value::Table(table) => table.keys().map(String::as_str).collect(),
                _ => vec![key.as_str()],
            })
            .collect();
        named.retain(|key| *key != "Milan");
        let debug = format!("{:#?}", Settings::default());
        let mut fields: Vec<&str> = debug
            .lines()
            .filter(|line| !line.ends_with('{'))
            .filter_map(|line| line.trim().split_once(": "))
            .map(|(key, _)| key)
            .collect();
        // That of a policy is refused: it is the broker's own.
        let policys = fields.iter().rposition(|key| *key == "allow_software_tee").unwrap();
        fields.remove(policys);
        named.sort_unstable();
        fields.sort_unstable();
        assert_eq!(named, fields);
    }

    #[test]
    fn each_fault_is_told() {
        let told = |text: &str| Settings::parse(text, "broker.toml").map(|_| ()).unwrap_err().to_string();
        let help = "; `belljar broker config --example` documents every key";
        assert_eq!(
            told("[token]\nlifetime = 3"),
            format!("broker.toml: line 2: unknown field `lifetime`, expected `key` or `lifetime_seconds`{help}")
        );
        assert_eq!(told("[tls]\nkey = \"a\""), "tls.certificate and tls.key belong together: give both or none");
        assert_eq!(
            told("[tls]\nkey = \"a\"\ncertificate = \"b\"\nnames = [\"c\"]"),
            "tls.names are for the certificate that is made: leave them out"
        );
        assert_eq!(
            told("[collateral]\nbundle = \"a\""),
            "collateral.bundle and collateral.bundle_key belong together: give both or none"
        );
        assert_eq!(
            told("[collateral]\nfetch = true"),
            "collateral.fetch needs collateral.cache, where it keeps what it gets"
        );
        assert_eq!(told("[token]\nlifetime_seconds = 9"), "token.lifetime_seconds is 9; 10 to 86400 are possible");
        assert_eq!(told("[limits]\nrecords = 0"), "limits.records is 0; 1 to 10000000 are possible");
        assert_eq!(told("[trust]\ntpm_keys = [\"ab\"]"), "trust.tpm_keys is ab; each is 64 hexadecimal digits");
        let key = format!("[trust]\ntpm_keys = [\"{}\"]", "ab".repeat(32));
        assert_eq!(Settings::parse(&key, "t").unwrap().tpm_keys(), Ok(vec![[0xab; 32]]));
    }

    #[test]
    fn paths_are_from_the_files_directory() {
        let folder = std::env::temp_dir().join(format!("belljar-settings-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("broker.toml");
        std::fs::write(&file, "data = \"x\"\n[store]\nkey = \"/y\"\n").unwrap();
        let settings = Settings::read(&file).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((settings.data, settings.store.key), (Some(folder.join("x")), Some(PathBuf::from("/y"))));
        let gone = Settings::read(&file).unwrap_err().to_string();
        assert!(gone.contains("broker.toml: No such file"), "{gone}");
    }
}
