//! The values of the host, checked against what the contract leaves to it.

use std::collections::BTreeMap;

use super::HostValues;
use crate::error::{ContractError, cut};
use crate::host_value::{HostValueError, check_service_link, service_link_type};
use crate::model::{Container, Contract, HostType, MAX_ENV, MAX_TEXT};

const HOSTNAME: &str = "the host name";

/// The whole environment and the host name.
pub(super) fn apply<'a>(
    contract: &'a Contract,
    name: &str,
    container: &'a Container,
    host: &'a HostValues,
) -> Result<(BTreeMap<&'a str, &'a str>, &'a str), ContractError> {
    let refused =
        |variable: &str, reason| ContractError::HostValue { container: name.to_owned(), name: cut(variable), reason };
    let unknown = |variable: &str| ContractError::HostValueUnknown { container: name.to_owned(), name: cut(variable) };
    let missing = |variable: &str, kind: &HostType| ContractError::HostValueMissing {
        container: name.to_owned(),
        name: variable.to_owned(),
        expected: kind.in_words(),
    };
    let hostname = match (&host.hostname, contract.pod.hostname_from_host) {
        (None, false) => container.hostname.as_str(),
        (Some(_), false) => return Err(unknown(HOSTNAME)),
        (None, true) => return Err(missing(HOSTNAME, &HostType::DnsLabel)),
        (Some(hostname), true) => {
            HostType::DnsLabel.check(hostname.as_bytes()).map_err(|reason| refused(HOSTNAME, reason))?;
            hostname
        }
    };
    let mut env: BTreeMap<&str, &str> =
        container.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for (variable, value) in &host.env {
        match container.env_from_host.get(variable) {
            Some(kind) => check_text(kind, value).map_err(|reason| refused(variable, reason))?,
            None if container.service_links
                && !env.contains_key(variable.as_str())
                && service_link_type(variable).is_some() =>
            {
                check_service_link(variable, value.as_bytes()).map_err(|reason| refused(variable, reason))?;
            }
            None => return Err(unknown(variable)),
        }
    }
    if let Some((variable, kind)) =
        container.env_from_host.iter().find(|(variable, _)| !host.env.contains_key(*variable))
    {
        return Err(missing(variable, kind));
    }
    env.extend(host.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if contract.pod.hostname_from_host {
        env.entry("HOSTNAME").or_insert(hostname);
    }
    if env.len() > MAX_ENV {
        let found = i128::try_from(env.len()).unwrap_or(i128::MAX);
        let maximum = i128::try_from(MAX_ENV).unwrap_or_default();
        let key = format!("environment of container {name}");
        return Err(ContractError::OutOfBounds { key, found, minimum: 0, maximum });
    }
    Ok((env, hostname))
}

/// A value that the kernel can take as a C string, and of the type.
fn check_text(kind: &HostType, value: &str) -> Result<(), HostValueError> {
    if value.len() > MAX_TEXT || value.contains('\0') {
        let expected = format!("{}, without NUL and of at most {MAX_TEXT} bytes", kind.in_words());
        return Err(HostValueError { expected, found: format!("{} bytes", value.len()) });
    }
    kind.check(value.as_bytes())
}
