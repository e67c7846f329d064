//! Compiled policies by the SHA-256 of their text.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use super::{AttestationPolicy, Limits, PolicyHash, RegoError, ResourcePolicy};

/// Most policies of a kind that are kept; the one that was used longest ago goes first.
const MAX_KEPT: usize = 256;

/// Compiles policies, each text once.
#[derive(Debug, Default)]
pub struct Policies {
    limits: Limits,
    attestation: Mutex<Kept<AttestationPolicy>>,
    resource: Mutex<Kept<ResourcePolicy>>,
}

#[derive(Debug)]
struct Kept<T> {
    policies: HashMap<PolicyHash, (Arc<T>, u64)>,
    used: u64,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { policies: HashMap::new(), used: 0 }
    }
}

impl<T> Kept<T> {
    fn find(&mut self, hash: &PolicyHash) -> Option<Arc<T>> {
        self.used = self.used.saturating_add(1);
        let (policy, used) = self.policies.get_mut(hash)?;
        *used = self.used;
        Some(Arc::clone(policy))
    }

    fn keep(&mut self, hash: PolicyHash, policy: &Arc<T>) {
        if self.policies.len() >= MAX_KEPT
            && let Some(oldest) = self.policies.iter().min_by_key(|(_, (_, used))| *used).map(|(hash, _)| *hash)
        {
            self.policies.remove(&oldest);
        }
        self.policies.insert(hash, (Arc::clone(policy), self.used));
    }
}

impl Policies {
    /// With bounds of each policy.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The attestation policy with this text.
    ///
    /// # Errors
    /// Any [`RegoError`] of compiling. A text that cannot be compiled is tried again the next time.
    pub fn attestation(&self, text: &str) -> Result<Arc<AttestationPolicy>, RegoError> {
        find(&self.attestation, text, || AttestationPolicy::compile(text, self.limits))
    }

    /// The resource policy with this text.
    ///
    /// # Errors
    /// Any [`RegoError`] of compiling.
    pub fn resource(&self, text: &str) -> Result<Arc<ResourcePolicy>, RegoError> {
        find(&self.resource, text, || ResourcePolicy::compile(text, self.limits))
    }
}

fn find<T>(
    kept: &Mutex<Kept<T>>,
    text: &str,
    compile: impl FnOnce() -> Result<T, RegoError>,
) -> Result<Arc<T>, RegoError> {
    let hash = hash(text);
    if let Some(policy) = kept.lock().unwrap_or_else(PoisonError::into_inner).find(&hash) {
        return Ok(policy);
    }
    let policy = Arc::new(compile()?);
    kept.lock().unwrap_or_else(PoisonError::into_inner).keep(hash, &policy);
    Ok(policy)
}

/// SHA-256 of a text.
pub(super) fn hash(text: &str) -> PolicyHash {
    let mut hash = [0; 32];
    hash.iter_mut().zip(digest(&SHA256, text.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_compiled_once_and_the_oldest_goes() {
        let policies = Policies::default();
        let text = |n: usize| format!("package policy\nallow := {n} == 1\n");
        let first = policies.resource(&text(0)).unwrap();
        assert!(Arc::ptr_eq(&first, &policies.resource(&text(0)).unwrap()));
        for n in 1..MAX_KEPT {
            policies.resource(&text(n)).unwrap();
        }
        // Used again, so that the second is the oldest.
        assert!(Arc::ptr_eq(&first, &policies.resource(&text(0)).unwrap()));
        let second = policies.resource(&text(1)).unwrap();
        policies.resource(&text(2)).unwrap();
        policies.resource(&text(MAX_KEPT)).unwrap();
        assert_eq!(policies.resource.lock().unwrap().policies.len(), MAX_KEPT);
        assert!(Arc::ptr_eq(&first, &policies.resource(&text(0)).unwrap()));
        assert!(Arc::ptr_eq(&second, &policies.resource(&text(1)).unwrap()));
        assert!(!policies.resource.lock().unwrap().policies.contains_key(&hash(&text(3))));
        assert!(policies.resource("package policy\nallow := (").is_err());
    }
}
