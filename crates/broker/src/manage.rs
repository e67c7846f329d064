//! What administration changes: kept first, then held in memory, and noted in the audit log.

use crate::{
    api::{Caller, workloads},
    audit::Event,
    keep::{KeepError, Kind},
    principal::Principal,
    revocation::{Revocation, Revocations},
    state::Broker,
    tenant::{self, DEFAULT_TENANT},
    workload::{Workload, WorkloadError, WorkloadId},
};
use aws_lc_rs::digest::{SHA256, digest};
use belljar_appraisal::{
    reference::{ReferenceValue, References},
    release::RuleSet,
};
use serde::Serialize;
use std::sync::Arc;
use zeroize::Zeroizing;

fn encoded(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, KeepError> {
    serde_json::to_vec(value).map(Zeroizing::new).map_err(|e| KeepError::Failed(e.to_string()))
}

impl Broker {
    /// Writes down what somebody is about to do. Nothing is done that cannot be written down.
    pub(crate) async fn audit(&self, caller: &Caller, action: &str, object: &str) -> Result<(), KeepError> {
        tracing::info!(tenant = %caller.tenant, actor = %caller.name, action, object, "audit");
        let Some(audit) = self.audit_log() else { return Ok(()) };
        audit.record(self.event(&caller.tenant, &caller.name, action, object, "done")).await
    }

    pub(crate) fn event(&self, tenant: &str, actor: &str, action: &str, object: &str, outcome: &str) -> Event {
        Event {
            tenant: tenant.to_owned(),
            actor: actor.to_owned(),
            action: action.to_owned(),
            object: object.to_owned(),
            outcome: outcome.to_owned(),
            at: self.now(),
        }
    }

    /// Reads everything that is kept.
    pub(crate) async fn load(&self) -> Result<(), KeepError> {
        let names = tenant::records(DEFAULT_TENANT, self.keep(), Kind::Tenant).await?;
        for name in names.iter().map(|kept| kept.key.as_str()).chain([DEFAULT_TENANT]) {
            let tenant = self.tenant_or_new(name);
            for kind in [Kind::Reference, Kind::Policy, Kind::Revocation, Kind::Admin, Kind::Workload] {
                tenant.load(name, self.keep(), kind).await?;
            }
        }
        Ok(())
    }

    async fn change(
        &self,
        caller: &Caller,
        kind: Kind,
        key: &str,
        value: Zeroizing<Vec<u8>>,
        action: &str,
    ) -> Result<(), KeepError> {
        self.audit(caller, action, key).await?;
        self.keep().put(&caller.tenant, kind, key, value).await?;
        self.tenant_or_new(&caller.tenant).load(&caller.tenant, self.keep(), kind).await
    }

    /// Removes one record. False when it was not there.
    pub(crate) async fn remove(&self, caller: &Caller, kind: Kind, key: &str, action: &str) -> Result<bool, KeepError> {
        if self.keep().get(&caller.tenant, kind, key).await?.is_none() {
            return Ok(false);
        }
        self.audit(caller, action, key).await?;
        let removed = self.keep().delete(&caller.tenant, kind, key).await?;
        self.tenant_or_new(&caller.tenant).load(&caller.tenant, self.keep(), kind).await?;
        Ok(removed)
    }

    pub(crate) async fn put_resource(
        &self,
        caller: &Caller,
        path: &str,
        content: Zeroizing<Vec<u8>>,
    ) -> Result<(), KeepError> {
        self.audit(caller, "resource.put", path).await?;
        self.keep().put(&caller.tenant, Kind::Resource, path, content).await.map(|_| ())
    }

    pub(crate) async fn delete_resource(&self, caller: &Caller, path: &str) -> Result<bool, KeepError> {
        if self.keep().get(&caller.tenant, Kind::Resource, path).await?.is_none() {
            return Ok(false);
        }
        self.audit(caller, "resource.delete", path).await?;
        self.keep().delete(&caller.tenant, Kind::Resource, path).await
    }

    pub(crate) async fn rule_sets(&self, tenant: &str) -> Result<Vec<RuleSet>, KeepError> {
        tenant::all(tenant, self.keep(), Kind::Policy).await
    }

    pub(crate) async fn put_rules(&self, caller: &Caller, set: RuleSet) -> Result<(), KeepError> {
        let scope = set.scope.to_string();
        self.change(caller, Kind::Policy, &scope, encoded(&set)?, "policy.put").await
    }

    pub(crate) fn references_of(&self, tenant: &str) -> Arc<References> {
        self.tenant(tenant).unwrap_or_default().references()
    }

    /// Each value is kept by itself, under a name that says what it is: the same value twice is one.
    pub(crate) async fn put_references(&self, caller: &Caller, values: Vec<ReferenceValue>) -> Result<(), KeepError> {
        for value in values {
            let bytes = encoded(&value)?;
            let hash = hex::encode(digest(&SHA256, &bytes));
            let key = format!("{}/{}/{hash:.16}", value.set, value.name);
            self.audit(caller, "reference.add", &key).await?;
            self.keep().put(&caller.tenant, Kind::Reference, &key, bytes).await?;
        }
        self.tenant_or_new(&caller.tenant).load(&caller.tenant, self.keep(), Kind::Reference).await
    }

    /// Removes the values of a set, or those of one name in it; how many there were.
    pub(crate) async fn remove_references(
        &self,
        caller: &Caller,
        set: &str,
        name: Option<&str>,
    ) -> Result<usize, KeepError> {
        let mut removed = 0;
        for kept in tenant::records(&caller.tenant, self.keep(), Kind::Reference).await? {
            let value: ReferenceValue =
                serde_json::from_slice(&kept.value).map_err(|e| KeepError::Failed(e.to_string()))?;
            if value.set == set && name.is_none_or(|name| value.name == name) {
                self.audit(caller, "reference.delete", &kept.key).await?;
                self.keep().delete(&caller.tenant, Kind::Reference, &kept.key).await?;
                removed += 1;
            }
        }
        self.tenant_or_new(&caller.tenant).load(&caller.tenant, self.keep(), Kind::Reference).await?;
        Ok(removed)
    }

    pub(crate) fn revocations_of(&self, tenant: &str) -> Arc<Revocations> {
        self.tenant(tenant).unwrap_or_default().revocations()
    }

    pub(crate) async fn revoke(&self, caller: &Caller, revocation: &Revocation) -> Result<(), KeepError> {
        let key = Revocation::key(revocation.subject, &revocation.value);
        self.change(caller, Kind::Revocation, &key, encoded(revocation)?, "revoke").await
    }

    pub(crate) fn principals_of(&self, tenant: &str) -> Arc<Vec<Principal>> {
        self.tenant(tenant).unwrap_or_default().principals()
    }

    /// The principal whose token has this hash.
    pub(crate) fn principal(&self, hash: &str) -> Option<Principal> {
        let tenants = self.tenant_names().into_iter().filter_map(|name| self.tenant(&name));
        tenants.into_iter().find_map(|tenant| tenant.principals().iter().find(|one| one.has(hash)).cloned())
    }

    pub(crate) async fn put_principal(&self, caller: &Caller, principal: Principal) -> Result<(), KeepError> {
        let (tenant, name) = (principal.tenant.clone(), principal.name.clone());
        self.audit(caller, "principal.add", &format!("{tenant}/{name} as {}", principal.role)).await?;
        self.keep().put(&tenant, Kind::Admin, &name, encoded(&principal)?).await?;
        self.tenant_or_new(&tenant).load(&tenant, self.keep(), Kind::Admin).await
    }

    pub(crate) async fn put_tenant(&self, caller: &Caller, name: &str) -> Result<(), KeepError> {
        self.audit(caller, "tenant.add", name).await?;
        self.keep().put(DEFAULT_TENANT, Kind::Tenant, name, Zeroizing::new(b"{}".to_vec())).await?;
        self.tenant_or_new(name);
        Ok(())
    }

    /// Registers a workload, and keeps it.
    pub(crate) async fn register_for(&self, caller: &Caller, workload: Workload) -> Result<WorkloadId, WorkloadError> {
        let registered = self.prepare(workload)?;
        let id = registered.id.clone();
        self.audit(caller, "workload.register", &format!("{} {id}", registered.workload.name)).await?;
        self.admit_workload(&caller.tenant, registered.clone())?;
        let order = self.keep().next_order().await?;
        let (key, value) = (id.to_string(), workloads::kept(&registered, order)?);
        if let Err(error) = self.keep().put(&caller.tenant, Kind::Workload, &key, value).await {
            self.forget_workload(&caller.tenant, &id);
            return Err(error.into());
        }
        Ok(id)
    }

    /// Withdraws a workload. False when it was not known.
    pub(crate) async fn withdraw_for(&self, caller: &Caller, id: &WorkloadId) -> Result<bool, KeepError> {
        if !self.known_of(&caller.tenant).iter().any(|known| known.id == *id) {
            return Ok(false);
        }
        self.audit(caller, "workload.withdraw", &id.to_string()).await?;
        let held = self.forget_workload(&caller.tenant, id);
        let kept = self.keep().delete(&caller.tenant, Kind::Workload, &id.to_string()).await?;
        Ok(kept || held)
    }
}
