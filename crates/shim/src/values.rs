//! Which environment variables of a bundle go to the guest: those whose values the contract leaves to the host, and no others. The guest
//! checks each for its type.

use std::collections::HashMap;

use belljar_contract::{Container, check_service_link};
use belljar_guest_api::limits::MAX_ENV_BYTES;

use crate::error::ShimError;

/// The values for one container, out of `NAME=value` lines. Variables of Services that are not of their type are left out: a container
/// starts without them as well.
///
/// # Errors
/// [`ShimError::Refused`] when they are too long together.
pub fn of(lines: &[String], container: &Container) -> Result<HashMap<String, String>, ShimError> {
    let mut values = HashMap::new();
    for line in lines {
        let Some((name, value)) = line.split_once('=') else { continue };
        let delegated = container.env_from_host.contains_key(name);
        let link = container.service_links
            && !container.env.contains_key(name)
            && check_service_link(name, value.as_bytes()).is_ok();
        if delegated || link {
            values.insert(name.to_owned(), value.to_owned());
        }
    }
    let bytes: usize = values.iter().map(|(name, value)| name.len() + value.len()).sum();
    match bytes <= MAX_ENV_BYTES {
        true => Ok(values),
        false => Err(ShimError::Refused(format!(
            "the environment that the contract leaves to the host has {bytes} bytes, at most {MAX_ENV_BYTES}; set enableServiceLinks: false"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use belljar_contract::{Contract, HostType};

    fn container() -> Container {
        let text = format!(
            "version = 1\n[containers.a]\nimage = \"a\"\nimage_digest = \"sha256:{0}\"\nargs = [\"a\"]\n\
             [[containers.a.layers]]\nverity_root = \"{0}\"\nsalt = \"\"\ndata_blocks = 1\n",
            "0".repeat(64)
        );
        Contract::parse(&text).unwrap().containers.remove("a").unwrap()
    }

    #[test]
    fn only_what_the_contract_leaves_to_the_host_is_sent() {
        let lines: Vec<String> =
            ["POD_IP=10.1.2.3", "PATH=/evil", "LD_PRELOAD=/x", "REDIS_SERVICE_HOST=10.0.0.1", "A_SERVICE_HOST=x"]
                .map(str::to_owned)
                .to_vec();
        let mut container = container();
        assert_eq!(of(&lines, &container), Ok(HashMap::new()));
        container.env_from_host.insert("POD_IP".into(), HostType::Ip);
        assert_eq!(of(&lines, &container), Ok(HashMap::from([("POD_IP".into(), "10.1.2.3".into())])));
        container.service_links = true;
        let both = HashMap::from([
            ("POD_IP".to_owned(), "10.1.2.3".to_owned()),
            ("REDIS_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned()),
        ]);
        assert_eq!(of(&lines, &container), Ok(both));
        container.env.insert("REDIS_SERVICE_HOST".into(), "fixed".into());
        assert_eq!(of(&lines, &container).unwrap().len(), 1);
        let long = vec![format!("POD_IP={}", "x".repeat(MAX_ENV_BYTES))];
        assert!(of(&long, &container).unwrap_err().to_string().contains("enableServiceLinks"));
    }
}
