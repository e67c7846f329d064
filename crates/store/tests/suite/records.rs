//! Reading and writing.

use belljar_store::{
    Batch, BatchError, Conflict, Event, Expected, Id, Kind, MAX_VALUE, Query, Store, StoreError, Tenant, Time,
};

use crate::place::{Medium, NOW, Place};

pub fn tenant(name: &str) -> Tenant {
    Tenant::new(name).unwrap()
}

pub fn id(name: &str, kind: Kind, key: &str) -> Id {
    Id::new(&tenant(name), kind, key).unwrap()
}

async fn value(store: &Store, id: &Id, now: Time) -> Option<Vec<u8>> {
    store.get(id, now).await.unwrap().map(|record| record.value.to_vec())
}

pub async fn what_is_written_is_read(medium: Medium) {
    let place = Place::new(medium).await;
    let store = place.open().await;
    let (a, b) = (id("acme", Kind::Resource, "a/b/c"), id("acme", Kind::Policy, "a/b/c"));
    assert_eq!(store.get(&a, NOW).await, Ok(None));
    let first = store.apply(Batch::new().put(a.clone(), b"one"), NOW).await.unwrap();
    let second = store.apply(Batch::new().put(b.clone(), b"").put(a.clone(), vec![7; MAX_VALUE]), NOW).await.unwrap();
    assert!(second > first);
    let record = store.get(&a, NOW).await.unwrap().unwrap();
    assert_eq!((&record.entry.id, record.entry.revision, record.entry.expires), (&a, second, None));
    assert_eq!(record.value.as_slice(), vec![7; MAX_VALUE]);
    assert_eq!(value(&store, &b, NOW).await, Some(Vec::new()));
    // Of another tenant, kind or key there is nothing.
    for other in
        [id("acme2", Kind::Resource, "a/b/c"), id("acme", Kind::Key, "a/b/c"), id("acme", Kind::Resource, "a/b")]
    {
        assert_eq!(store.get(&other, NOW).await, Ok(None));
    }
    store.close().await;
    assert_eq!(store.get(&a, NOW).await, Err(StoreError::Closed));
    assert_eq!(store.apply(Batch::new().delete(a.clone()), NOW).await, Err(StoreError::Closed));

    let store = place.open().await;
    assert_eq!(store.get(&a, NOW).await.unwrap().unwrap().entry.revision, second);
    let third = store.apply(Batch::new().delete(a.clone()).delete(id("acme", Kind::Key, "none")), NOW).await.unwrap();
    assert!(third > second);
    assert_eq!(store.get(&a, NOW).await, Ok(None));
    assert_eq!(value(&store, &b, NOW).await, Some(Vec::new()));
    // A revision does not come back with the record.
    assert!(store.apply(Batch::new().put(a, b"again"), NOW).await.unwrap() > third);
}

pub async fn a_precondition_that_does_not_hold_changes_nothing(medium: Medium) {
    let store = Place::new(medium).await.open().await;
    let (a, b) = (id("acme", Kind::Resource, "a"), id("acme", Kind::Resource, "b"));
    let conflict =
        |id: &Id, expected, found| Err(StoreError::Conflict(Box::new(Conflict { id: id.clone(), expected, found })));
    let put = |id: &Id, expected| Batch::new().put(id.clone(), b"x").require(id.clone(), expected);
    assert_eq!(store.apply(put(&a, Expected::Present), NOW).await, conflict(&a, Expected::Present, None));
    assert_eq!(store.apply(put(&a, Expected::Revision(1)), NOW).await, conflict(&a, Expected::Revision(1), None));
    let first = store.apply(put(&a, Expected::Absent), NOW).await.unwrap();
    assert_eq!(store.apply(put(&a, Expected::Absent), NOW).await, conflict(&a, Expected::Absent, Some(first)));
    let second = store.apply(put(&a, Expected::Revision(first)), NOW).await.unwrap();
    let old = Expected::Revision(first);
    assert_eq!(store.apply(put(&a, old), NOW).await, conflict(&a, old, Some(second)));
    store.apply(put(&a, Expected::Present), NOW).await.unwrap();

    // The condition is on one record, the change on another, and another that comes first.
    let batch = Batch::new().put(b.clone(), b"y").delete(a.clone()).require(a.clone(), Expected::Absent);
    assert!(matches!(store.apply(batch, NOW).await, Err(StoreError::Conflict(c)) if c.id == a));
    assert_eq!(value(&store, &a, NOW).await, Some(b"x".to_vec()));
    assert_eq!(store.get(&b, NOW).await, Ok(None));
    let batch = Batch::new().put(b.clone(), b"y").delete(a.clone()).require(a.clone(), Expected::Present);
    store.apply(batch, NOW).await.unwrap();
    assert_eq!(value(&store, &b, NOW).await, Some(b"y".to_vec()));
    assert_eq!(store.get(&a, NOW).await, Ok(None));

    let long = Batch::new().put(a.clone(), vec![0; MAX_VALUE + 1]);
    let error = BatchError::Value { id: a, bytes: MAX_VALUE + 1 };
    assert_eq!(store.apply(long, NOW).await, Err(StoreError::Batch(error)));
}

pub async fn listings_are_in_order_and_in_parts(medium: Medium) {
    let store = Place::new(medium).await.open().await;
    let keys = ["a", "a/1", "a/2", "a/3", "a0", "b", "é", "\u{d7ff}", "\u{10ffff}", "\u{10ffff}x"];
    let mut batch = Batch::new();
    for key in keys.iter().rev() {
        batch = batch.put(id("acme", Kind::Resource, key), key.as_bytes());
    }
    batch = batch.put(id("acme", Kind::Policy, "a/1"), b"p").put(id("acme-2", Kind::Resource, "a/1"), b"other");
    batch = batch.put(id("acm", Kind::Resource, "a/1"), b"other");
    let revision = store.apply(batch, NOW).await.unwrap();

    let query = Query::new(&tenant("acme"), Kind::Resource);
    let listed = async |query: Query| {
        let page = store.list(&query, NOW).await.unwrap();
        let names = store.names(&query, NOW).await.unwrap();
        assert_eq!(page.items.iter().map(|r| r.entry.clone()).collect::<Vec<_>>(), names.items);
        assert_eq!(page.next, names.next);
        for record in &page.items {
            assert_eq!(record.value.as_slice(), record.entry.id.key().as_bytes());
            assert_eq!((record.entry.revision, record.entry.id.tenant().as_str()), (revision, "acme"));
        }
        (page.items.iter().map(|r| r.entry.id.key().to_owned()).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(listed(query.clone()).await, (keys.map(str::to_owned).to_vec(), None));
    for (prefix, expected) in [
        ("a/", &keys[1..4]),
        ("a", &keys[..5]),
        ("a/1", &keys[1..2]),
        ("a/1x", &[]),
        ("\u{d7ff}", &keys[7..8]),
        ("\u{10ffff}", &keys[8..]),
        ("c", &[]),
    ] {
        assert_eq!(listed(query.clone().prefix(prefix)).await.0, expected, "{prefix:?}");
    }
    for (after, expected) in [("a/1", &keys[2..]), ("a/1x", &keys[2..]), ("0", &keys[..]), ("\u{10ffff}x", &[])] {
        assert_eq!(listed(query.clone().after(after)).await.0, expected, "{after:?}");
    }
    assert_eq!(listed(query.clone().prefix("a/").after("a/2")).await.0, keys[3..4]);
    assert_eq!(listed(query.clone().prefix("b").after("a")).await.0, keys[5..6]);
    assert_eq!(listed(query.clone().prefix("a/").after("b")).await.0, [""; 0]);
    assert_eq!(
        listed(query.clone().prefix("a/").limit(3)).await,
        (keys[1..4].iter().map(|k| k.to_string()).collect(), None)
    );
    assert_eq!(listed(query.clone().limit(0)).await.0, [""; 0]);

    let (mut all, mut next) = (Vec::new(), None);
    loop {
        let mut part = query.clone().limit(3);
        part.after = next;
        let (items, more) = listed(part).await;
        all.extend(items);
        match more {
            Some(more) => next = Some(more),
            None => break,
        }
    }
    assert_eq!(all, keys);
}

pub async fn long_values_make_short_parts(medium: Medium) {
    let store = Place::new(medium).await.open().await;
    for n in 0..6 {
        let batch = Batch::new().put(id("acme", Kind::Resource, &format!("{n}")), vec![n; MAX_VALUE]);
        store.apply(batch, NOW).await.unwrap();
    }
    let query = Query::new(&tenant("acme"), Kind::Resource);
    let page = store.list(&query, NOW).await.unwrap();
    assert_eq!((page.items.len(), page.next.as_deref()), (4, Some("3")));
    let rest = store.list(&query.after("3"), NOW).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (2, None));
    assert_eq!(rest.items[1].value.as_slice(), vec![5; MAX_VALUE]);
}

pub async fn records_expire(medium: Medium) {
    let store = Place::new(medium).await.open().await;
    let at = |secs| Time::from_secs(NOW.secs() + secs);
    let just_before = |secs| Time::from_millis(at(secs).millis() - 1);
    let (a, b, c) = (id("acme", Kind::Session, "a"), id("acme", Kind::Session, "b"), id("acme", Kind::Session, "c"));
    let batch = Batch::new().put_until(a.clone(), b"a", at(10)).put_until(b.clone(), b"b", at(20)).put(c.clone(), b"c");
    let revision = store.apply(batch, NOW).await.unwrap();
    assert_eq!(store.get(&a, NOW).await.unwrap().unwrap().entry.expires, Some(at(10)));
    assert!(store.get(&a, just_before(10)).await.unwrap().is_some());
    assert_eq!(store.get(&a, at(10)).await, Ok(None));
    let names = async |now| {
        let page = store.names(&Query::new(&tenant("acme"), Kind::Session), now).await.unwrap();
        page.items.iter().map(|entry| entry.id.key().to_owned()).collect::<String>()
    };
    assert_eq!((names(just_before(10)).await.as_str(), names(at(10)).await.as_str()), ("abc", "bc"));

    // What has expired is absent to preconditions too, purged or not.
    let batch = |expected| Batch::new().put_until(a.clone(), b"a2", at(30)).require(a.clone(), expected);
    let absent = store.apply(batch(Expected::Absent), just_before(10)).await;
    assert!(matches!(absent, Err(StoreError::Conflict(c)) if c.found == Some(revision)));
    let present = store.apply(batch(Expected::Revision(revision)), at(10)).await;
    assert!(matches!(present, Err(StoreError::Conflict(c)) if c.found.is_none()));
    store.apply(batch(Expected::Absent), at(10)).await.unwrap();
    assert_eq!(value(&store, &a, at(29)).await, Some(b"a2".to_vec()));

    // The old end of `a` purges nothing; ends are met oldest first.
    assert_eq!(store.purge(at(19), 10).await, Ok(0));
    assert_eq!(names(at(0)).await, "abc");
    assert_eq!(store.purge(at(30), 1).await, Ok(1));
    assert_eq!(names(at(0)).await, "ac");
    assert_eq!(store.purge(at(30), 10).await, Ok(1));
    assert_eq!(store.purge(at(1_000_000), 10).await, Ok(0));
    assert_eq!(names(at(0)).await, "c");

    // An end that is taken away, and one that is deleted with its record.
    store.apply(Batch::new().put_until(a.clone(), b"", at(10)).put_until(b.clone(), b"", at(10)), NOW).await.unwrap();
    store.apply(Batch::new().put(a.clone(), b"stays").delete(b), NOW).await.unwrap();
    assert_eq!(store.purge(at(11), 10).await, Ok(0));
    assert_eq!(value(&store, &a, at(11)).await, Some(b"stays".to_vec()));
    // The same end twice.
    store.apply(Batch::new().put_until(a.clone(), b"1", at(10)), NOW).await.unwrap();
    store.apply(Batch::new().put_until(a.clone(), b"2", at(10)), NOW).await.unwrap();
    assert_eq!(store.purge(at(10), 10).await, Ok(1));
    assert_eq!(store.get(&a, NOW).await, Ok(None));
}

pub async fn watchers_see_changes(medium: Medium) {
    let store = Place::new(medium).await.open().await;
    let mut watch = store.watch();
    let (policy, session) = (id("acme", Kind::Policy, "a\u{1}ü/{\"'"), id("acme", Kind::Session, "s"));
    let first = store.apply(Batch::new().put(policy.clone(), b"p").put(session, b"s"), NOW).await.unwrap();
    let refused = Batch::new().put(policy.clone(), b"q").require(policy.clone(), Expected::Absent);
    store.apply(refused, NOW).await.unwrap_err();
    let second = store.apply(Batch::new().delete(policy.clone()), NOW).await.unwrap();
    for (revision, deleted) in [(first, false), (second, true)] {
        let event = tokio::time::timeout(std::time::Duration::from_secs(20), watch.next()).await.unwrap();
        let change = belljar_store::Change { id: policy.clone(), revision, deleted };
        assert_eq!(event, Some(Event::Changed(change)));
    }
    // One that falls behind learns that it did.
    let mut slow = store.watch();
    let (mut changes, mut missed) = (0_usize, 0_usize);
    for n in 0..20 {
        let batch =
            (0..250).fold(Batch::new(), |batch, k| batch.put(id("acme", Kind::Policy, &format!("{n}/{k}")), b""));
        store.apply(batch, NOW).await.unwrap();
    }
    let last = store.apply(Batch::new().put(policy.clone(), b"last"), NOW).await.unwrap();
    loop {
        let event = tokio::time::timeout(std::time::Duration::from_secs(20), slow.next()).await.unwrap();
        match event {
            Some(Event::Missed) => missed += 1,
            Some(Event::Changed(change)) if change.revision == last => break,
            Some(Event::Changed(_)) => changes += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(missed, 1);
    assert!(changes < 5000);
}

/// Every increment counts, whoever makes it.
pub async fn concurrent_changes_are_one_after_the_other(medium: Medium) {
    let place = Place::new(medium).await;
    let store = place.open().await;
    let counter = id("acme", Kind::Setting, "counter");
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (store, counter) = (store.clone(), counter.clone());
            tokio::spawn(async move {
                let (mut done, mut conflicts) = (0_u64, 0_u64);
                while done < 25 {
                    let (was, expected) = match store.get(&counter, NOW).await.unwrap() {
                        Some(found) => {
                            let number = u64::from_be_bytes(found.value.as_slice().try_into().unwrap());
                            (number, Expected::Revision(found.entry.revision))
                        }
                        None => (0, Expected::Absent),
                    };
                    let trace = id("acme", Kind::Setting, &format!("trace/{:08}", was + 1));
                    let batch = Batch::new()
                        .put(counter.clone(), (was + 1).to_be_bytes())
                        .put(trace.clone(), [n])
                        .require(counter.clone(), expected);
                    match store.apply(batch, NOW).await {
                        Ok(_) => done += 1,
                        Err(StoreError::Conflict(_)) => conflicts += 1,
                        Err(other) => panic!("{other}"),
                    }
                }
                conflicts
            })
        })
        .collect();
    let mut conflicts = 0;
    for task in tasks {
        conflicts += task.await.unwrap();
    }
    assert!(conflicts > 0, "they never met");
    assert_eq!(value(&store, &counter, NOW).await, Some(200_u64.to_be_bytes().to_vec()));
    let page = store.list(&Query::new(&tenant("acme"), Kind::Setting).prefix("trace/"), NOW).await.unwrap();
    assert_eq!(page.items.len(), 200);
    assert!(page.items.windows(2).all(|pair| pair[0].entry.revision < pair[1].entry.revision));
}

pub async fn a_store_in_memory_is_gone_with_it() {
    let place = Place::new(Medium::Memory).await;
    let (store, other) = (place.open().await, place.open().await);
    let a = id("acme", Kind::Resource, "a");
    store.apply(Batch::new().put(a.clone(), b"x"), NOW).await.unwrap();
    assert_eq!(value(&store, &a, NOW).await, Some(b"x".to_vec()));
    assert_eq!(value(&other, &a, NOW).await, None);
    store.close().await;
    assert_eq!(place.open().await.get(&a, NOW).await, Ok(None));
}
