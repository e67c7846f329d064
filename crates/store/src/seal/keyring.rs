//! The data keys of a store: one in use for each tenant, older ones until nothing is sealed with them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::{DataKey, KeyError, KeyId, KeyProvider, MAX_WRAPPED, OpenKey, SealedError};
use crate::backend::Backend;
use crate::error::StoreError;
use crate::record::{Tenant, Time};

/// Tries to agree with other replicas about a key.
const TRIES: usize = 4;

/// The key-encryption keys of a store.
#[derive(Clone)]
pub struct Keys {
    current: Arc<dyn KeyProvider>,
    previous: Vec<Arc<dyn KeyProvider>>,
    tenants: BTreeMap<Tenant, Arc<dyn KeyProvider>>,
}

impl fmt::Debug for Keys {
    /// By name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let previous: Vec<&KeyId> = self.previous.iter().map(|key| key.id()).collect();
        let tenants: BTreeMap<&Tenant, &KeyId> = self.tenants.iter().map(|(tenant, key)| (tenant, key.id())).collect();
        f.debug_struct("Keys")
            .field("current", self.current.id())
            .field("previous", &previous)
            .field("tenants", &tenants)
            .finish()
    }
}

impl Keys {
    /// One key for all tenants.
    pub fn new(current: Arc<dyn KeyProvider>) -> Self {
        Self { current, previous: Vec::new(), tenants: BTreeMap::new() }
    }

    /// A key that still unwraps, and wraps nothing any more. A key that is about to become current is given to all
    /// replicas in this way before the first of them makes it current.
    #[must_use]
    pub fn previous(mut self, key: Arc<dyn KeyProvider>) -> Self {
        self.previous.push(key);
        self
    }

    /// A tenant's own key, which wraps all its data keys from now on.
    #[must_use]
    pub fn tenant(mut self, tenant: Tenant, key: Arc<dyn KeyProvider>) -> Self {
        self.tenants.insert(tenant, key);
        self
    }

    /// What wraps the data keys of a tenant.
    pub(crate) fn of(&self, tenant: &Tenant) -> &Arc<dyn KeyProvider> {
        self.tenants.get(tenant).unwrap_or(&self.current)
    }

    /// What wraps what belongs to no tenant.
    pub(crate) fn current(&self) -> &Arc<dyn KeyProvider> {
        &self.current
    }

    /// The key of this name.
    pub(crate) fn named(&self, id: &KeyId) -> Option<&Arc<dyn KeyProvider>> {
        let all = std::iter::once(&self.current).chain(&self.previous).chain(self.tenants.values());
        all.into_iter().find(|key| key.id() == id)
    }
}

/// A data key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataKeyRow {
    pub(crate) id: u64,
    pub(crate) tenant: Tenant,
    pub(crate) key_id: KeyId,
    pub(crate) wrapped: Vec<u8>,
    pub(crate) created: Time,
    /// Whether new values are sealed with it. A tenant has one such key at most.
    pub(crate) active: bool,
}

impl DataKeyRow {
    /// As bytes: for the embedded store and for backups.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.wrapped.len().saturating_add(128));
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.created.millis().to_be_bytes());
        bytes.push(u8::from(self.active));
        for text in [self.tenant.as_str(), self.key_id.as_str()] {
            bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(&self.wrapped);
        bytes
    }

    /// From bytes, all of which have to be a row.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (created, rest) = rest.split_first_chunk()?;
        let (active, mut rest) = rest.split_first()?;
        let mut text = || {
            let (length, after) = rest.split_first_chunk()?;
            let (text, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
            rest = after;
            std::str::from_utf8(text).ok()
        };
        let tenant = Tenant::new(text()?).ok()?;
        let key_id = KeyId::new(text()?).ok()?;
        let created = u64::from_be_bytes(*created);
        (*active <= 1 && rest.len() <= MAX_WRAPPED && created <= Time::MAX.millis()).then(|| Self {
            id: u64::from_be_bytes(*id),
            tenant,
            key_id,
            wrapped: rest.to_vec(),
            created: Time::from_millis(created),
            active: *active == 1,
        })
    }

    /// What its wrapping is bound to.
    fn context(id: u64, tenant: &Tenant) -> Vec<u8> {
        let mut context = b"belljar data key\x01".to_vec();
        context.extend(id.to_be_bytes());
        context.extend(tenant.as_str().as_bytes());
        context
    }

    async fn make(keys: &Keys, tenant: &Tenant, now: Time) -> Result<(Self, Arc<OpenKey>), KeyError> {
        let mut id = [0; 8];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| KeyError::Library("random number"))?;
        // Positive as a signed number too, as databases have them.
        let id = u64::from_be_bytes(id) >> 1;
        let key = DataKey::generate()?;
        let provider = keys.of(tenant);
        let wrapped = provider.wrap(&key, &Self::context(id, tenant)).await?;
        if wrapped.len() > MAX_WRAPPED {
            let why = format!("a wrapped key of {} bytes, {MAX_WRAPPED} is the most", wrapped.len());
            return Err(KeyError::Refused { id: provider.id().clone(), why });
        }
        let open = Arc::new(OpenKey::new(id, &key)?);
        let key_id = provider.id().clone();
        Ok((Self { id, tenant: tenant.clone(), key_id, wrapped, created: now, active: true }, open))
    }

    async fn unwrap(&self, keys: &Keys) -> Result<DataKey, KeyError> {
        let provider = keys
            .named(&self.key_id)
            .ok_or_else(|| KeyError::NotConfigured { id: self.key_id.clone(), data_key: self.id })?;
        let key = provider.unwrap(&self.wrapped, &Self::context(self.id, &self.tenant)).await?;
        key.ok_or_else(|| KeyError::Wrapped { id: self.key_id.clone(), data_key: self.id })
    }
}

/// What a data key is used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// The data key.
    pub data_key: u64,
    /// Whose values it seals.
    pub tenant: Tenant,
    /// The key-encryption key that wraps it.
    pub key_id: KeyId,
    /// When it was made.
    pub created: Time,
    /// Whether new values are sealed with it.
    pub active: bool,
    /// Values that are sealed with it.
    pub records: u64,
}

#[derive(Default)]
struct Cache {
    /// Grows with the data keys that are in use: one for each tenant, and one more during a rotation.
    by_id: HashMap<(Tenant, u64), Arc<OpenKey>>,
    active: HashMap<Tenant, Arc<OpenKey>>,
}

/// The keys of one open store.
pub(crate) struct Keyring {
    keys: RwLock<Arc<Keys>>,
    cache: RwLock<Cache>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys().fmt(f)
    }
}

impl Keyring {
    pub(crate) fn new(keys: Keys) -> Self {
        Self { keys: RwLock::new(Arc::new(keys)), cache: RwLock::default() }
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes other key-encryption keys, and forgets what the old ones opened.
    pub(crate) fn set(&self, keys: Keys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        self.forget();
    }

    /// Forgets all data keys; they are unwrapped again when they are needed.
    pub(crate) fn forget(&self) {
        *self.cache.write().unwrap_or_else(PoisonError::into_inner) = Cache::default();
    }

    /// Forgets which keys of these tenants are in use, since another replica made new ones.
    pub(crate) fn outdated<'a>(&self, tenants: impl IntoIterator<Item = &'a Tenant>) {
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        for tenant in tenants {
            cache.active.remove(tenant);
        }
    }

    fn keep(&self, tenant: &Tenant, key: &Arc<OpenKey>, active: bool) {
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        cache.by_id.insert((tenant.clone(), key.id), Arc::clone(key));
        if active {
            cache.active.insert(tenant.clone(), Arc::clone(key));
        }
    }

    fn cached(&self, tenant: &Tenant, id: u64) -> Option<Arc<OpenKey>> {
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        cache.by_id.get(&(tenant.clone(), id)).cloned()
    }

    async fn unwrap(&self, row: &DataKeyRow) -> Result<Arc<OpenKey>, KeyError> {
        if let Some(key) = self.cached(&row.tenant, row.id) {
            return Ok(key);
        }
        let key = row.unwrap(&self.keys()).await?;
        Ok(Arc::new(OpenKey::new(row.id, &key)?))
    }

    /// The key that seals new values of a tenant; it is made where there is none.
    pub(crate) async fn sealing(
        &self,
        backend: &Backend,
        tenant: &Tenant,
        now: Time,
    ) -> Result<Arc<OpenKey>, StoreError> {
        let cached = self.cache.read().unwrap_or_else(PoisonError::into_inner).active.get(tenant).cloned();
        if let Some(key) = cached {
            return Ok(key);
        }
        for _ in 0..TRIES {
            let rows = backend.data_keys(Some(tenant)).await?;
            let key = match rows.iter().find(|row| row.active) {
                Some(row) => self.unwrap(row).await?,
                None => {
                    let (row, key) = DataKeyRow::make(&self.keys(), tenant, now).await?;
                    if !backend.add_data_key(&row, None).await? {
                        continue;
                    }
                    key
                }
            };
            self.keep(tenant, &key, true);
            return Ok(key);
        }
        Err(StoreError::Away(format!("the data key of {tenant} is changing")))
    }

    /// The key that sealed a value of a tenant.
    pub(crate) async fn opening(
        &self,
        backend: &Backend,
        tenant: &Tenant,
        id: u64,
    ) -> Result<Result<Arc<OpenKey>, SealedError>, StoreError> {
        if let Some(key) = self.cached(tenant, id) {
            return Ok(Ok(key));
        }
        let rows = backend.data_keys(Some(tenant)).await?;
        let Some(row) = rows.iter().find(|row| row.id == id) else { return Ok(Err(SealedError::NoKey(id))) };
        let key = self.unwrap(row).await?;
        self.keep(tenant, &key, false);
        Ok(Ok(key))
    }

    /// Makes a new data key for a tenant, with which everything is sealed from now on. False when another replica did so
    /// at the same time.
    pub(crate) async fn rotate(&self, backend: &Backend, tenant: &Tenant, now: Time) -> Result<bool, StoreError> {
        let rows = backend.data_keys(Some(tenant)).await?;
        let active = rows.iter().find(|row| row.active).map(|row| row.id);
        let (row, key) = DataKeyRow::make(&self.keys(), tenant, now).await?;
        let added = backend.add_data_key(&row, active).await?;
        if added {
            self.keep(tenant, &key, true);
        } else {
            self.outdated([tenant]);
        }
        Ok(added)
    }

    /// Wraps every data key with the key-encryption key that its tenant has now. How many were wrapped anew.
    pub(crate) async fn rewrap(&self, backend: &Backend) -> Result<u64, StoreError> {
        let keys = self.keys();
        let mut count = 0_u64;
        for row in backend.data_keys(None).await? {
            let provider = keys.of(&row.tenant);
            if *provider.id() == row.key_id {
                continue;
            }
            let key = row.unwrap(&keys).await?;
            let wrapped = provider.wrap(&key, &DataKeyRow::context(row.id, &row.tenant)).await?;
            if backend.rewrap_data_key(&row, provider.id(), &wrapped).await? {
                count = count.saturating_add(1);
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_a_whole() {
        let row = DataKeyRow {
            id: 7,
            tenant: Tenant::new("acme").unwrap(),
            key_id: KeyId::new("file:00").unwrap(),
            wrapped: vec![1; 60],
            created: Time::from_secs(5),
            active: true,
        };
        let bytes = row.encode();
        assert_eq!(DataKeyRow::decode(&bytes), Some(row.clone()));
        let fixed = bytes.len() - 60;
        for n in 0..fixed {
            assert_eq!(DataKeyRow::decode(&bytes[..n]), None, "cut at {n}");
        }
        let mut changed = bytes.clone();
        changed[16] = 2;
        assert_eq!(DataKeyRow::decode(&changed), None);
        let long = DataKeyRow { wrapped: vec![1; MAX_WRAPPED + 1], ..row };
        assert_eq!(DataKeyRow::decode(&long.encode()), None);
    }
}
