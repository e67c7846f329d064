//! Which broker an administrator means.

use std::path::PathBuf;

use belljar_broker::{BrokerUrl, Method, RemoteBroker, TOKEN_FILE, URL_FILE};
use clap::Args;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::paths::Paths;
use crate::run::broker::read_token;
use crate::verbs::kube::register;

/// The broker and the right to administer it; without options, the broker that this user runs on this machine.
#[derive(Debug, Args)]
pub struct Target {
    /// The broker, as `belljar broker serve` prints it
    #[arg(long, value_name = "URL", env = "BELLJAR_BROKER")]
    pub broker: Option<BrokerUrl>,
    /// A file with an administrator's token
    #[arg(long, value_name = "FILE", env = "BELLJAR_BROKER_TOKEN_FILE")]
    pub broker_token: Option<PathBuf>,
    /// Whose affairs, where the broker has several tenants; only its owner may name one
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
}

impl Target {
    /// The broker.
    pub fn open(&self, paths: &Paths) -> Result<RemoteBroker, Failure> {
        let data = paths.broker();
        let url = match &self.broker {
            Some(url) => url.clone(),
            None => {
                let file = data.join(URL_FILE);
                let text = std::fs::read_to_string(&file).map_err(|_| {
                    Failure::usage("which broker is not said, and none of this user's has run here")
                        .hint("give --broker URL, or start one: belljar broker serve")
                })?;
                text.trim().parse().map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?
            }
        };
        let token = match (&self.broker_token, &self.broker) {
            (Some(file), _) => read_token(file)?,
            (None, None) => read_token(&data.join(TOKEN_FILE))?,
            (None, Some(_)) => {
                return Err(Failure::usage("an administrator needs a token")
                    .hint("give --broker-token FILE or BELLJAR_BROKER_TOKEN_FILE"));
            }
        };
        Ok(RemoteBroker::new(url, token).of_tenant(self.tenant.clone()))
    }

    /// Sends a request, and gives the bytes of its answer.
    pub async fn call(
        &self,
        paths: &Paths,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        self.open(paths)?.call(method, path, body).await.map_err(register::failure)
    }

    /// Sends a request, and reads its answer.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        paths: &Paths,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        let answer = self.call(paths, method, path, body).await?;
        serde_json::from_slice(&answer)
            .map_err(|e| Failure::undecided(format!("the broker answered something else than its api says: {e}")))
    }
}

/// A value of a query (RFC 3986, unreserved characters as they are).
pub fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
