//! Registry credentials as `docker login` writes them: the `auths` of `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
//! Credential helpers are not run; a registry whose login is in one is refused in words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use crate::error::ImageError;

/// Where credentials are looked up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials {
    /// `config.json`; none: always anonymous.
    pub(crate) file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
}

impl Credentials {
    /// The file that docker would use.
    pub(crate) fn of_user() -> Self {
        let folder = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")));
        Self { file: folder.map(|folder| folder.join("config.json")) }
    }

    /// Credentials for a registry (`HOST[:PORT]`), anonymous when there are none.
    pub(crate) fn of(&self, registry: &str) -> Result<RegistryAuth, ImageError> {
        let Some(path) = &self.file else { return Ok(RegistryAuth::Anonymous) };
        let bad = |why: &str| ImageError::Credentials { path: path.clone(), why: why.to_owned() };
        let text = match std::fs::read(path) {
            Ok(text) => zeroize::Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
            Err(error) => return Err(bad(&error.to_string())),
        };
        let config: Config = serde_json::from_slice(&text).map_err(|_| bad("it is no valid JSON of its kind"))?;
        let key = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
        let helper = config.cred_helpers.get(key).or(config.creds_store.as_ref());
        match config.auths.get(key).map(|entry| entry.auth.as_str()) {
            None if !config.cred_helpers.contains_key(key) => Ok(RegistryAuth::Anonymous),
            None | Some("") => match helper {
                Some(helper) => {
                    Err(bad(&format!("the login for {key} is in the credential helper {helper:?}, which is not run")))
                }
                None => Ok(RegistryAuth::Anonymous),
            },
            Some(encoded) => {
                let decoded = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
                let (user, password) =
                    pair.ok_or_else(|| bad(&format!("auth of {key} is not base64 of user:password")))?;
                Ok(RegistryAuth::Basic(user.to_owned(), password.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(json: &str, registry: &str) -> Result<RegistryAuth, ImageError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, json).unwrap();
        Credentials { file: Some(file) }.of(registry)
    }

    #[test]
    fn logins() {
        let json = r#"{"auths":{"r.test:5":{"auth":"dTpwOnc="},"https://index.docker.io/v1/":{"auth":"YTpi"}}}"#;
        let basic = |user: &str, password: &str| RegistryAuth::Basic(user.into(), password.into());
        assert_eq!(lookup(json, "r.test:5").unwrap(), basic("u", "p:w"));
        assert_eq!(lookup(json, "docker.io").unwrap(), basic("a", "b"));
        assert_eq!(lookup(json, "other").unwrap(), RegistryAuth::Anonymous);
        let none = Credentials { file: Some("/nonexistent/config.json".into()) };
        assert_eq!(none.of("r.test:5").unwrap(), RegistryAuth::Anonymous);
    }

    #[test]
    fn refusals() {
        for json in [
            "{",
            r#"{"auths":{"r":{"auth":"!"}}}"#,
            r#"{"auths":{"r":{}},"credsStore":"pass"}"#,
            r#"{"credHelpers":{"r":"x"}}"#,
        ] {
            assert!(matches!(lookup(json, "r"), Err(ImageError::Credentials { .. })), "{json}");
        }
        assert_eq!(
            lookup(r#"{"auths":{"r":{"auth":"YTpi"}},"credsStore":"pass"}"#, "r").unwrap(),
            RegistryAuth::Basic("a".into(), "b".into())
        );
    }
}
