//! Who administers a broker: principals of a tenant, each with a role and a bearer token. Only a token's hash is kept.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use subtle::ConstantTimeEq;

/// What a principal may do in its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, also making and removing principals, and reading secrets.
    Owner,
    /// Workloads, resources, policies, reference values and revocations; secrets are written and not read.
    Operator,
    /// Reads everything but secrets.
    Auditor,
    /// Adds reference values, and nothing else.
    Publisher,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Reads what is no secret.
    Read,
    /// Reads a secret.
    Reveal,
    /// Changes workloads, resources, policies, reference values, revocations.
    Change,
    /// Adds reference values.
    Publish,
    /// Makes and removes principals, tenants, backups.
    Govern,
}

impl Role {
    /// Whether the role allows it.
    pub(crate) fn may(self, action: Action) -> bool {
        match self {
            Self::Owner => true,
            Self::Operator => matches!(action, Action::Read | Action::Change | Action::Publish),
            Self::Auditor => action == Action::Read,
            Self::Publisher => action == Action::Publish,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Owner, Self::Operator, Self::Auditor, Self::Publisher];
        let found = all.into_iter().find(|role| role.to_string() == text);
        found.ok_or_else(|| "not a role: owner, operator, auditor and publisher are".to_owned())
    }
}

/// A principal, without its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// Name, for people and the audit log.
    pub name: String,
    /// Whose principal.
    pub tenant: String,
    /// What it may do there.
    pub role: Role,
    /// SHA-256 of its token, lowercase hex.
    pub(crate) token: String,
}

impl Principal {
    /// Whether the token with this hash is the principal's.
    pub(crate) fn has(&self, hash: &str) -> bool {
        self.token.as_bytes().ct_eq(hash.as_bytes()).into()
    }

    /// The hash under which a token is kept. Tokens are random, so a plain hash says nothing about them.
    pub(crate) fn hash(token: &str) -> String {
        hex::encode(digest(&SHA256, token.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_what_it_is_for_and_nothing_else() {
        use Action::{Change, Govern, Publish, Read, Reveal};
        let all = [Read, Reveal, Change, Publish, Govern];
        let may = |role: Role| all.map(|action| role.may(action));
        assert_eq!(may(Role::Owner), [true; 5]);
        assert_eq!(may(Role::Operator), [true, false, true, true, false]);
        assert_eq!(may(Role::Auditor), [true, false, false, false, false]);
        assert_eq!(may(Role::Publisher), [false, false, false, true, false]);
        for role in [Role::Owner, Role::Operator, Role::Auditor, Role::Publisher] {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
