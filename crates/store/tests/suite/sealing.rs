//! Keys: made, replaced, withdrawn; values that were changed or moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use belljar_store::{
    Batch, DataKey, KeyError, KeyId, KeyProvider, Keys, Kind, OpenError, RetireError, SealedError, Store, StoreError,
};

use crate::place::{Medium, NOW, Place, key, keys};
use crate::records::{id, tenant};

pub async fn nothing_is_stored_in_the_clear(medium: Medium) {
    let place = Place::new(medium).await;
    let store = place.open().await;
    for kind in Kind::ALL {
        store
            .apply(Batch::new().put(id("acme", kind, "k"), b"a canary of thirty-two bytes ...".to_vec()), NOW)
            .await
            .unwrap();
    }
    store.close().await;
    for kind in Kind::ALL {
        let sealed = place.sealed(&id("acme", kind, "k")).await;
        assert_eq!(sealed.len(), 32 + belljar_store::OVERHEAD);
        assert!(!sealed.windows(6).any(|part| part == b"canary"));
    }
}

pub async fn a_changed_or_moved_value_is_refused(medium: Medium) {
    let place = Place::new(medium).await;
    let store = place.open().await;
    let (a, b) = (id("acme", Kind::Resource, "a"), id("acme", Kind::Resource, "b"));
    let other = id("other", Kind::Resource, "a");
    let policy = id("acme", Kind::Policy, "a");
    let mut batch = Batch::new();
    for id in [&a, &b, &other, &policy] {
        batch = batch.put(id.clone(), b"secret");
    }
    store.apply(batch, NOW).await.unwrap();
    store.close().await;
    let good = place.sealed(&a).await;
    let data_key = u64::from_be_bytes(good[1..9].try_into().unwrap());

    let attempt = async |sealed: &[u8]| {
        place.tamper(&a, sealed).await;
        let store = place.open().await;
        let found = store.get(&a, NOW).await;
        store.close().await;
        found.map(|record| record.unwrap().value.to_vec())
    };
    let refused = |why| Err(StoreError::Damaged { what: a.to_string(), why });
    assert_eq!(attempt(&good).await, Ok(b"secret".to_vec()));
    // Another record's value, another kind's, another tenant's.
    assert_eq!(attempt(&place.sealed(&b).await).await, refused(SealedError::Changed(data_key)));
    assert_eq!(attempt(&place.sealed(&policy).await).await, refused(SealedError::Changed(data_key)));
    let foreign = place.sealed(&other).await;
    let foreign_key = u64::from_be_bytes(foreign[1..9].try_into().unwrap());
    assert_ne!(foreign_key, data_key);
    assert_eq!(attempt(&foreign).await, refused(SealedError::NoKey(foreign_key)));
    for n in [9, 20, 21, good.len() - 17, good.len() - 1] {
        let mut changed = good.clone();
        changed[n] ^= 0x40;
        assert_eq!(attempt(&changed).await, refused(SealedError::Changed(data_key)), "byte {n}");
    }
    let mut version = good.clone();
    version[0] = 2;
    assert_eq!(attempt(&version).await, refused(SealedError::Version(2)));
    assert_eq!(attempt(&good[..good.len() - 1]).await, refused(SealedError::Changed(data_key)));
    assert_eq!(attempt(&good[..36]).await, refused(SealedError::Short(36)));
    assert_eq!(attempt(&[]).await, refused(SealedError::Short(0)));
    assert_eq!(attempt(&good).await, Ok(b"secret".to_vec()));
    // One damaged record does not hide the others.
    place.tamper(&a, &[]).await;
    assert_eq!(place.open().await.get(&b, NOW).await.unwrap().unwrap().value.as_slice(), b"secret");
}

pub async fn another_key_does_not_open_a_store(medium: Medium) {
    let place = Place::new(medium).await;
    let store = place.open().await;
    let a = id("acme", Kind::Resource, "a");
    store.apply(Batch::new().put(a.clone(), b"secret"), NOW).await.unwrap();
    let data_key = store.key_uses().await.unwrap()[0].data_key;
    store.close().await;
    let store = place.open_with(Keys::new(key(2))).await;
    let error = KeyError::NotConfigured { id: key(1).id().clone(), data_key };
    assert_eq!(store.get(&a, NOW).await, Err(StoreError::Key(error.clone())));
    assert_eq!(store.apply(Batch::new().put(a.clone(), b"x"), NOW).await, Err(StoreError::Key(error)));
    // The old one beside it does.
    store.use_keys(Keys::new(key(2)).previous(key(1))).await.unwrap();
    assert_eq!(store.get(&a, NOW).await.unwrap().unwrap().value.as_slice(), b"secret");
}

/// From one key-encryption key to another, and from one data key to another, while it is written and read.
pub async fn keys_are_replaced_during_work(medium: Medium) {
    let place = Place::new(medium).await;
    let store = place.open().await;
    let stop = Arc::new(AtomicBool::new(false));
    let worker = |n: u8| {
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let id = id("acme", Kind::Resource, &format!("{n}/{}", count % 50));
                let value = format!("{n} wrote {count}").into_bytes();
                let revision = store.apply(Batch::new().put(id.clone(), value.clone()), NOW).await.unwrap();
                let found = store.get(&id, NOW).await.unwrap().unwrap();
                assert_eq!((found.entry.revision, found.value.as_slice()), (revision, value.as_slice()));
                count += 1;
            }
            count
        })
    };
    let quiet = id("acme", Kind::Resource, "quiet");
    let revision = store.apply(Batch::new().put(quiet.clone(), b"quiet"), NOW).await.unwrap();
    let before = store.key_uses().await.unwrap()[0].clone();
    let workers = [worker(0), worker(1), worker(2)];

    assert_eq!(store.retire(before.data_key).await, Err(RetireError::Active(before.data_key)));
    store.use_keys(Keys::new(key(2)).previous(key(1))).await.unwrap();
    assert_eq!(store.rotate(&tenant("acme"), NOW).await, Ok(true));
    // At least the quiet record still needs it.
    assert_eq!(store.retire(before.data_key).await, Err(RetireError::InUse(before.data_key)));
    let mut tries = 0;
    while store.retire(before.data_key).await.is_err() {
        store.rewrap(NOW).await.unwrap();
        tries += 1;
        assert!(tries < 50, "{:?}", store.key_uses().await);
    }
    assert_eq!(store.retire(before.data_key).await, Ok(false));
    // The old key-encryption key is of no use any more.
    store.use_keys(Keys::new(key(2))).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        assert!(worker.await.unwrap() > 0);
    }
    let uses = store.key_uses().await.unwrap();
    assert_eq!(uses.len(), 1);
    assert_eq!((uses[0].active, &uses[0].key_id), (true, key(2).id()));
    let found = store.get(&quiet, NOW).await.unwrap().unwrap();
    assert_eq!((found.entry.revision, found.value.as_slice()), (revision, &b"quiet"[..]));
    store.close().await;
    let store = place.open_with(Keys::new(key(2))).await;
    assert_eq!(store.get(&quiet, NOW).await.unwrap().unwrap().value.as_slice(), b"quiet");
}

/// A key that its owner may withdraw.
#[derive(Debug)]
struct Withdrawn {
    key: Arc<belljar_store::FileKey>,
    gone: AtomicBool,
}

#[async_trait::async_trait]
impl KeyProvider for Withdrawn {
    fn id(&self) -> &KeyId {
        self.key.id()
    }

    async fn wrap(&self, key: &DataKey, context: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.key.wrap(key, context).await
    }

    async fn unwrap(&self, wrapped: &[u8], context: &[u8]) -> Result<Option<DataKey>, KeyError> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(KeyError::Refused { id: self.id().clone(), why: "withdrawn".into() });
        }
        self.key.unwrap(wrapped, context).await
    }
}

async fn read(store: &Store, name: &str) -> Result<Vec<u8>, StoreError> {
    store.get(&id(name, Kind::Resource, "a"), NOW).await.map(|found| found.unwrap().value.to_vec())
}

pub async fn a_tenant_has_a_key_of_its_own(medium: Medium) {
    let place = Place::new(medium).await;
    let own = Arc::new(Withdrawn { key: key(7), gone: AtomicBool::new(false) });
    let with_own = || keys().tenant(tenant("own"), own.clone());
    let store = place.open_with(keys()).await;
    for name in ["own", "shared"] {
        store.apply(Batch::new().put(id(name, Kind::Resource, "a"), name), NOW).await.unwrap();
    }
    // It moves to its own key without a new data key, since it trusted the shared one until now.
    store.use_keys(with_own()).await.unwrap();
    assert_eq!(store.rewrap(NOW).await.unwrap().data_keys, 1);
    let uses = store.key_uses().await.unwrap();
    for used in &uses {
        let expected = if used.tenant == tenant("own") { key(7) } else { key(1) };
        assert_eq!((&used.key_id, used.records), (expected.id(), 1));
    }
    assert_eq!(store.rewrap(NOW).await.unwrap().data_keys, 0);

    assert_eq!(read(&store, "own").await, Ok(b"own".to_vec()));
    own.gone.store(true, Ordering::Relaxed);
    // Its data key is still known.
    assert_eq!(read(&store, "own").await, Ok(b"own".to_vec()));
    store.forget_keys();
    let refused = StoreError::Key(KeyError::Refused { id: own.id().clone(), why: "withdrawn".into() });
    assert_eq!(read(&store, "own").await, Err(refused.clone()));
    let write = store.apply(Batch::new().put(id("own", Kind::Resource, "b"), "x"), NOW).await;
    assert_eq!(write, Err(refused));
    assert_eq!(read(&store, "shared").await, Ok(b"shared".to_vec()));
    own.gone.store(false, Ordering::Relaxed);
    assert_eq!(read(&store, "own").await, Ok(b"own".to_vec()));

    // Nobody else's key opens it.
    store.close().await;
    let store = place.open_with(keys()).await;
    assert!(matches!(read(&store, "own").await, Err(StoreError::Key(KeyError::NotConfigured { .. }))));
    assert_eq!(read(&store, "shared").await, Ok(b"shared".to_vec()));
}

pub async fn a_key_that_cannot_be_used_is_told_when_the_store_opens(medium: Medium) {
    let place = Place::new(medium).await;
    let key = Arc::new(Withdrawn { key: key(7), gone: AtomicBool::new(true) });
    let error = Store::open(&place.location(), Keys::new(key.clone())).await.unwrap_err();
    let refused = KeyError::Refused { id: key.id().clone(), why: "withdrawn".into() };
    assert_eq!(error, OpenError::Store(StoreError::Key(refused)));
    key.gone.store(false, Ordering::Relaxed);
    Store::open(&place.location(), Keys::new(key)).await.unwrap();
}
