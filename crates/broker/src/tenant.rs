//! Tenants: each with its own workloads, resources, policies, reference values, revocations and principals. What a handshake
//! needs is held in memory, and follows what is kept; resources are looked up when they are asked for.

use crate::{
    keep::{Keep, KeepError, Kept, Kind},
    principal::Principal,
    revocation::{Revocation, Revocations},
    workload::{Workload, WorkloadId},
};
use belljar_appraisal::{
    reference::{ReferenceValue, References},
    release::{Policies, RuleSet, ScopedRules},
};
use serde::de::DeserializeOwned;
use std::sync::{Arc, PoisonError, RwLock};

/// Whom a client means that names no tenant.
pub(crate) const DEFAULT_TENANT: &str = "default";
/// Longest name of a tenant, in bytes.
const MAX_TENANT: usize = 64;
/// Most records of one kind that are held in memory.
const MAX_HELD: usize = 100_000;
/// Records of one page.
const PAGE: usize = 1000;

/// A workload that was registered.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    pub(crate) id: WorkloadId,
    /// Unix seconds.
    pub(crate) expires: Option<u64>,
    pub(crate) workload: Arc<Workload>,
}

impl Registered {
    pub(crate) fn is_live(&self, now: u64) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

/// What is held of a tenant. Parts are replaced as a whole.
#[derive(Debug, Default)]
pub(crate) struct Tenant {
    workloads: RwLock<Arc<Vec<Registered>>>,
    references: RwLock<Arc<References>>,
    policies: RwLock<Arc<Policies>>,
    revocations: RwLock<Arc<Revocations>>,
    principals: RwLock<Arc<Vec<Principal>>>,
}

/// Whether a text can name a tenant: 1 to 64 of a-z, 0-9, '-', '_' and '.', the first a letter or digit.
pub(crate) fn is_tenant(name: &str) -> bool {
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= MAX_TENANT
        && name.bytes().next().is_some_and(first)
        && name.bytes().all(|b| first(b) || matches!(b, b'-' | b'_' | b'.'))
}

fn read<T>(part: &RwLock<Arc<T>>) -> Arc<T> {
    Arc::clone(&part.read().unwrap_or_else(PoisonError::into_inner))
}

fn replace<T>(part: &RwLock<Arc<T>>, new: T) {
    *part.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
}

impl Tenant {
    pub(crate) fn workloads(&self) -> Arc<Vec<Registered>> {
        read(&self.workloads)
    }

    pub(crate) fn references(&self) -> Arc<References> {
        read(&self.references)
    }

    pub(crate) fn policies(&self) -> Arc<Policies> {
        read(&self.policies)
    }

    pub(crate) fn revocations(&self) -> Arc<Revocations> {
        read(&self.revocations)
    }

    pub(crate) fn principals(&self) -> Arc<Vec<Principal>> {
        read(&self.principals)
    }

    /// Changes the registered workloads, and gives what the change gives.
    pub(crate) fn change_workloads<R>(&self, change: impl FnOnce(&mut Vec<Registered>) -> R) -> R {
        let mut place = self.workloads.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut place))
    }

    /// Reads everything of a kind anew.
    pub(crate) async fn load(&self, name: &str, keep: &Keep, kind: Kind) -> Result<(), KeepError> {
        match kind {
            Kind::Reference => {
                let values: Vec<ReferenceValue> = all(name, keep, kind).await?;
                let references = References::new(values);
                replace(&self.references, references.map_err(|e| KeepError::Failed(e.to_string()))?);
            }
            Kind::Policy => {
                let sets: Vec<RuleSet> = all(name, keep, kind).await?;
                let policies = Policies::new(sets.into_iter().map(|set| ScopedRules { set, rego: None }));
                replace(&self.policies, policies.map_err(|e| KeepError::Failed(e.to_string()))?);
            }
            Kind::Revocation => {
                replace(&self.revocations, Revocations::new(all::<Revocation>(name, keep, kind).await?));
            }
            Kind::Admin => replace(&self.principals, all::<Principal>(name, keep, kind).await?),
            Kind::Workload => {
                let mut workloads = Vec::new();
                for kept in records(name, keep, kind).await? {
                    workloads.push(crate::api::workloads::registered(&kept)?);
                }
                workloads.sort_by_key(|(order, _)| *order);
                replace(&self.workloads, workloads.into_iter().map(|(_, workload)| workload).collect());
            }
            Kind::Tenant | Kind::Resource | Kind::Key | Kind::Audit | Kind::Checkpoint => {}
        }
        Ok(())
    }
}

/// All records of a kind, in the order of their keys.
pub(crate) async fn records(tenant: &str, keep: &Keep, kind: Kind) -> Result<Vec<Kept>, KeepError> {
    let mut all: Vec<Kept> = Vec::new();
    loop {
        let after = all.last().map(|kept| kept.key.clone());
        let page = keep.list(tenant, kind, "", after.as_deref(), PAGE).await?;
        let last = page.len() < PAGE;
        all.extend(page);
        if last {
            return Ok(all);
        }
        if all.len() > MAX_HELD {
            return Err(KeepError::Failed(format!("tenant {tenant} has more than {MAX_HELD} records of {kind:?}")));
        }
    }
}

pub(crate) async fn all<T: DeserializeOwned>(tenant: &str, keep: &Keep, kind: Kind) -> Result<Vec<T>, KeepError> {
    let records = records(tenant, keep, kind).await?;
    let parse = |kept: &Kept| {
        serde_json::from_slice(&kept.value).map_err(|e| KeepError::Failed(format!("{kind:?} {}: {e}", kept.key)))
    };
    records.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tenants() {
        for good in ["default", "a", "0-b_c.d"] {
            assert!(is_tenant(good), "{good}");
        }
        for bad in ["", "-a", "A", "a/b", "a b", "ä", &"a".repeat(65)] {
            assert!(!is_tenant(bad), "{bad}");
        }
    }
}
