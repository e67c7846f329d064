//! Backups: whole, on either medium, and refused when they are not whole.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use belljar_store::audit::{AuditKey, Event};
use belljar_store::{
    Backup, Batch, Event as Change, KeyProvider as _, Keys, Kind, MAX_VALUE, Query, RestoreError, Store, Time,
    verify_backup,
};

use crate::place::{Medium, NOW, Place, key, keys};
use crate::records::{id, tenant};

fn media() -> Vec<Medium> {
    match crate::server::programs() {
        Some(_) => vec![Medium::File, Medium::Memory, Medium::Postgres],
        None => vec![Medium::File, Medium::Memory],
    }
}

/// Records of several tenants and kinds, some of which end, two data keys, a log with a checkpoint and one without.
async fn fill(store: &Store) {
    for (name, count) in [("acme", 1200), ("acme-2", 3), ("b", 1)] {
        for part in (0..count).collect::<Vec<u32>>().chunks(200) {
            let batch = part.iter().fold(Batch::new(), |batch, n| {
                let (kind, key) = (Kind::ALL[*n as usize % 11], format!("k/{n}"));
                let value = format!("{name} {n}").repeat(*n as usize % 7);
                if n % 5 == 0 {
                    batch.put_until(id(name, kind, &key), value, Time::from_secs(NOW.secs() + u64::from(*n)))
                } else {
                    batch.put(id(name, kind, &key), value)
                }
            });
            store.apply(batch, NOW).await.unwrap();
        }
    }
    store.rotate(&tenant("acme"), NOW).await.unwrap();
    store.apply(Batch::new().put(id("acme", Kind::Resource, "large"), vec![9; MAX_VALUE]), NOW).await.unwrap();
    store.apply(Batch::new().delete(id("acme", Kind::Resource, "k/1")), NOW).await.unwrap();
    let (audit_key, _) = AuditKey::generate().unwrap();
    for n in 0..3_u64 {
        let events: Vec<Event> =
            (0..500).map(|k| Event::new(NOW, "admin", "put", &format!("{n}/{k}"), "done")).collect();
        store.audit().append(&tenant("acme"), &events).await.unwrap();
        store.audit().append(&tenant("b"), &events[..1]).await.unwrap();
        store.audit().checkpoint(&tenant("acme"), &audit_key, NOW).await.unwrap().unwrap();
    }
}

async fn backup(store: &Store) -> (Vec<u8>, Backup) {
    let mut file = Vec::new();
    let (backup, bytes) = store.backup(&mut file, NOW).await.unwrap();
    assert_eq!(bytes, u64::try_from(file.len()).unwrap());
    (file, backup)
}

async fn all(store: &Store) -> Vec<(String, u64, Option<Time>, Vec<u8>)> {
    let mut all = Vec::new();
    for name in ["acme", "acme-2", "b"] {
        for kind in Kind::ALL {
            let mut query = Query::new(&tenant(name), kind);
            loop {
                let page = store.list(&query, NOW).await.unwrap();
                all.extend(
                    page.items
                        .into_iter()
                        .map(|r| (r.entry.id.to_string(), r.entry.revision, r.entry.expires, r.value.to_vec())),
                );
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
        }
    }
    all
}

pub async fn a_backup_comes_back_on_every_medium(medium: Medium) {
    let place = Place::new(medium).await;
    let store = place.open().await;
    fill(&store).await;
    let (file, made) = backup(&store).await;
    assert_eq!((made.records, made.entries, made.time), (1204, 1503, NOW));
    assert_eq!(store.state_hash().await, Ok(made.state));
    assert_eq!(verify_backup(Cursor::new(file.clone()), &keys()).await.unwrap(), made);
    // Nothing of it can be read.
    for part in ["acme", "k/17", "admin"] {
        assert!(!file.windows(part.len()).any(|window| window == part.as_bytes()), "{part}");
    }
    let before = all(&store).await;
    for other in media() {
        let target = Place::new(other).await.open().await;
        let mut watch = target.watch();
        assert_eq!(target.restore(Cursor::new(file.clone())).await.unwrap(), made);
        while watch.next().await != Some(Change::Missed) {}
        assert_eq!(target.state_hash().await, Ok(made.state));
        assert_eq!(all(&target).await, before);
        assert_eq!(target.key_uses().await.unwrap(), store.key_uses().await.unwrap());
        for name in ["acme", "b"] {
            let name = tenant(name);
            assert_eq!(target.audit().end(&name).await, store.audit().end(&name).await);
            assert_eq!(target.audit().checkpoints(&name).await, store.audit().checkpoints(&name).await);
        }
        // And it goes on: revisions, ends, data keys, logs.
        let last = before.iter().map(|record| record.1).max().unwrap();
        assert!(target.apply(Batch::new().put(id("b", Kind::Key, "new"), b"x"), NOW).await.unwrap() > last);
        assert_eq!(target.purge(Time::MAX, 10_000).await.unwrap(), 242);
        target.rewrap(NOW).await.unwrap();
        assert_eq!(target.key_uses().await.unwrap().iter().filter(|used| used.records > 0).count(), 3);
        let event = Event::new(NOW, "admin", "put", "more", "done");
        target.audit().append(&tenant("acme"), &[event]).await.unwrap();
        assert_eq!(target.audit().end(&tenant("acme")).await.unwrap().0, 1501);
        let again = target.restore(Cursor::new(file.clone())).await;
        assert!(matches!(again, Err(RestoreError::NotEmpty)), "{again:?}");
    }
}

pub async fn a_state_hash_is_of_everything(medium: Medium) {
    let place = Place::new(medium).await;
    let store = place.open().await;
    let mut seen = vec![store.state_hash().await.unwrap()];
    let a = id("acme", Kind::Policy, "a");
    let mut changed = async |what: &str| {
        let hash = store.state_hash().await.unwrap();
        assert!(!seen.contains(&hash), "{what}");
        seen.push(hash);
    };
    store.apply(Batch::new().put(a.clone(), b"x"), NOW).await.unwrap();
    changed("a record").await;
    store.apply(Batch::new().put(a.clone(), b"x"), NOW).await.unwrap();
    changed("the same value again").await;
    store.apply(Batch::new().put_until(a.clone(), b"x", Time::MAX), NOW).await.unwrap();
    changed("an end").await;
    store.audit().append(&tenant("acme"), &[Event::new(NOW, "a", "b", "c", "d")]).await.unwrap();
    changed("an audit entry").await;
    store.rotate(&tenant("acme"), NOW).await.unwrap();
    store.rewrap(NOW).await.unwrap();
    changed("a value that is sealed anew").await;
    // What changes nothing.
    store.use_keys(Keys::new(key(2)).previous(key(1))).await.unwrap();
    assert_eq!(store.rewrap(NOW).await.unwrap().data_keys, 2);
    assert_eq!(store.state_hash().await.unwrap(), *seen.last().unwrap());
}

/// A backup is of one moment, while the store goes on.
pub async fn a_backup_is_of_one_moment(medium: Medium) {
    let store = Place::new(medium).await.open().await;
    let stop = Arc::new(AtomicBool::new(false));
    let pair = |n: u64| {
        (id("acme", Kind::Key, &format!("{:04}", n % 800)), id("acme", Kind::Resource, &format!("{:04}", n % 800)))
    };
    for n in 0..800 {
        let (a, b) = pair(n);
        store.apply(Batch::new().put(a, n.to_be_bytes()).put(b, n.to_be_bytes()), NOW).await.unwrap();
    }
    let writer = {
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            for n in 800.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (a, b) = pair(n);
                store.apply(Batch::new().put(a, n.to_be_bytes()).put(b, n.to_be_bytes()), NOW).await.unwrap();
            }
        })
    };
    for _ in 0..3 {
        let (file, made) = backup(&store).await;
        let copy = Place::new(Medium::Memory).await.open().await;
        assert_eq!(copy.restore(Cursor::new(file)).await.unwrap(), made);
        // Both halves of each pair are of one change.
        let keys = copy.list(&Query::new(&tenant("acme"), Kind::Key), NOW).await.unwrap().items;
        let resources = copy.list(&Query::new(&tenant("acme"), Kind::Resource), NOW).await.unwrap().items;
        assert_eq!(keys.len(), 800);
        for (a, b) in keys.iter().zip(&resources) {
            assert_eq!((a.entry.revision, &a.value), (b.entry.revision, &b.value));
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
}

pub async fn a_backup_that_is_not_whole_is_refused(medium: Medium) {
    let place = Place::new(medium).await;
    let store = place.open().await;
    fill(&store).await;
    let (file, made) = backup(&store).await;
    let target = Place::new(medium).await.open().await;
    let restore = async |file: &[u8]| target.restore(Cursor::new(file.to_vec())).await;

    // The header: its magic, the key's id and the wrapped key.
    let flip = |at: usize| {
        let mut changed = file.clone();
        changed[at] ^= 1;
        changed
    };
    assert!(matches!(restore(&flip(0)).await, Err(RestoreError::Foreign)));
    assert!(matches!(restore(b"").await, Err(RestoreError::Foreign)));
    assert!(matches!(restore(&flip(24)).await, Err(RestoreError::NotConfigured(_))));
    let id_end = 17 + 2 + key(1).id().as_str().len();
    assert!(matches!(restore(&flip(id_end + 10)).await, Err(RestoreError::Wrapped(id)) if id == *key(1).id()));
    // Chunks: bounds of each.
    let start = id_end + 2 + 60;
    let mut bounds = vec![start];
    while let Some(length) = file[*bounds.last().unwrap()..].first_chunk() {
        bounds.push(bounds.last().unwrap() + 4 + u32::from_be_bytes(*length) as usize);
    }
    assert_eq!(*bounds.last().unwrap(), file.len());
    let chunks: Vec<&[u8]> = bounds.windows(2).map(|pair| &file[pair[0]..pair[1]]).collect();
    assert!(chunks.len() > 10);
    let with = |order: &[usize]| {
        let parts: Vec<&[u8]> = std::iter::once(&file[..start]).chain(order.iter().map(|n| chunks[*n])).collect();
        parts.concat()
    };
    let order: Vec<usize> = (0..chunks.len()).collect();
    let last = order.len() - 1;
    assert_eq!(with(&order), file);
    let changed = |number| move |result: Result<Backup, RestoreError>| matches!(result, Err(RestoreError::Changed(n)) if n == number);
    assert!(changed(0)(restore(&flip(start + 4)).await));
    assert!(changed(3)(restore(&flip(bounds[3] + 200)).await));
    let end = u64::try_from(last).unwrap();
    assert!(changed(end)(restore(&flip(file.len() - 1)).await));
    assert!(changed(2)(restore(&with(&[&[0, 1, 3, 2][..], &order[4..]].concat())).await));
    assert!(changed(1)(restore(&with(&[&[0][..], &order[2..]].concat())).await));
    assert!(changed(1)(restore(&with(&[&[0, 0][..], &order[1..]].concat())).await));
    assert!(changed(end + 1)(restore(&with(&[&order[..], &[last]].concat())).await));
    assert!(changed(end + 1)(restore(&[&file[..], b"\n"].concat()).await));
    // Cut between chunks, within one, and of another backup of the same store.
    for cut in [start, bounds[1], bounds[last], file.len() - 1, bounds[2] + 2, bounds[2] + 100, 30] {
        let result = restore(&file[..cut]).await;
        assert!(matches!(result, Err(RestoreError::Cut)), "{cut}: {result:?}");
    }
    let (other, _) = backup(&store).await;
    let mixed = [&file[..bounds[2]], &other[bounds[2]..]].concat();
    assert!(changed(2)(restore(&mixed).await));

    // Keys: another one, and one of the same kind that is not configured.
    let foreign = Place::new(medium).await.open_with(Keys::new(key(2))).await;
    let result = foreign.restore(Cursor::new(file.clone())).await;
    assert!(matches!(result, Err(RestoreError::NotConfigured(id)) if id == *key(1).id()));
    // After all that nothing is in the store, and the genuine one is taken.
    assert_eq!(target.key_uses().await.unwrap(), []);
    assert_eq!(restore(&file).await.unwrap(), made);
}
