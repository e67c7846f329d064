//! A store does what a map of all records would do.

use std::collections::BTreeMap;

use belljar_store::{Batch, Expected, Id, Kind, Query, Store, StoreError, Tenant, Time};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::place::{Medium, Place};

#[derive(Debug, Clone)]
enum Step {
    Apply { ops: Vec<(Id, Option<Vec<u8>>, Option<u64>)>, expected: Vec<(Id, Want)> },
    List { query: Query },
    Purge { limit: usize },
    Wait { secs: u64 },
    Rotate { tenant: Tenant },
    Rewrap,
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Want {
    Absent,
    Present,
    /// The revision in which it is now, or one less.
    Current(bool),
}

fn ids() -> impl Strategy<Value = Id> {
    let tenant = prop::sample::select(&["a", "a.b", "b"][..]).prop_map(|name| Tenant::new(name).unwrap());
    let kind = prop_oneof![Just(Kind::Resource), Just(Kind::Session), Just(Kind::Setting)];
    let key = prop_oneof!["[ab/]{1,3}", "\u{10ffff}?[aé]{1,2}"];
    (tenant, kind, key).prop_map(|(tenant, kind, key)| Id::new(&tenant, kind, &key).unwrap())
}

fn steps() -> impl Strategy<Value = Step> {
    let op =
        (ids(), prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 0..20)), prop::option::of(0..30_u64));
    let want = prop_oneof![
        2 => Just(Want::Absent), 2 => Just(Want::Present), 6 => Just(Want::Current(true)), 1 => Just(Want::Current(false))
    ];
    let apply = (prop::collection::vec(op, 1..6), prop::collection::vec((ids(), want), 0..2))
        .prop_map(|(ops, expected)| Step::Apply { ops, expected });
    let list = (ids(), 0..3_usize, prop::option::of(ids()), 0..5_usize).prop_map(|(id, prefix, after, limit)| {
        let prefix: String = id.key().chars().take(prefix).collect();
        let mut query = Query::new(id.tenant(), id.kind()).prefix(&prefix).limit(limit);
        query.after = after.map(|id| id.key().to_owned());
        Step::List { query }
    });
    prop_oneof![
        12 => apply,
        6 => list,
        1 => (0..4_usize).prop_map(|limit| Step::Purge { limit }),
        2 => (0..10_u64).prop_map(|secs| Step::Wait { secs }),
        1 => ids().prop_map(|id| Step::Rotate { tenant: id.tenant().clone() }),
        1 => Just(Step::Rewrap),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Kept {
    revision: u64,
    value: Vec<u8>,
    expires: Option<Time>,
}

#[derive(Default)]
struct Model {
    records: BTreeMap<Id, Kept>,
    last: u64,
}

impl Model {
    fn seen(&self, id: &Id, now: Time) -> Option<&Kept> {
        self.records.get(id).filter(|kept| kept.expires.is_none_or(|end| end > now))
    }
}

pub async fn a_store_is_a_map(medium: Medium) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(24);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        runner.run(&prop::collection::vec(steps(), 1..60), |steps| {
            handle.block_on(run(medium, steps));
            Ok(())
        })
    })
    .unwrap();
}

async fn run(medium: Medium, steps: Vec<Step>) {
    let place = Place::new(medium).await;
    let mut store = place.open().await;
    let mut model = Model::default();
    let mut now = Time::from_secs(1000);
    for step in steps {
        match step {
            Step::Apply { ops, expected } => apply(&store, &mut model, now, ops, expected).await,
            Step::List { query } => {
                let limit = query.limit;
                let all: Vec<(Id, Kept)> = model
                    .records
                    .iter()
                    .filter(|(id, _)| *id.tenant() == query.tenant && id.kind() == query.kind)
                    .filter(|(id, _)| id.key().starts_with(&query.prefix))
                    .filter(|(id, _)| query.after.as_deref().is_none_or(|after| id.key() > after))
                    .filter(|(id, _)| model.seen(id, now).is_some())
                    .map(|(id, kept)| (id.clone(), kept.clone()))
                    .collect();
                let page = store.list(&query, now).await.unwrap();
                let found: Vec<(Id, Kept)> = page
                    .items
                    .into_iter()
                    .map(|r| {
                        let (revision, expires) = (r.entry.revision, r.entry.expires);
                        (r.entry.id, Kept { revision, value: r.value.to_vec(), expires })
                    })
                    .collect();
                assert_eq!(found, all[..limit.min(all.len())]);
                let next = (all.len() > limit && limit > 0).then(|| all[limit - 1].0.key().to_owned());
                if limit > 0 {
                    assert_eq!(page.next, next);
                }
            }
            Step::Purge { limit } => {
                let mut due: Vec<(Time, Id)> = model
                    .records
                    .iter()
                    .filter_map(|(id, kept)| kept.expires.filter(|end| *end <= now).map(|end| (end, id.clone())))
                    .collect();
                due.sort();
                due.truncate(limit);
                assert_eq!(store.purge(now, limit).await, Ok(u64::try_from(due.len()).unwrap()));
                for (_, id) in due {
                    model.records.remove(&id);
                }
            }
            Step::Wait { secs } => now = Time::from_secs(now.secs() + secs),
            Step::Rotate { tenant } => assert_eq!(store.rotate(&tenant, now).await, Ok(true)),
            Step::Rewrap => {
                store.rewrap(now).await.unwrap();
                for key in store.key_uses().await.unwrap() {
                    assert!(key.active || key.records == 0, "{key:?}");
                    assert_eq!(store.retire(key.data_key).await.is_ok(), !key.active);
                }
            }
            Step::Reopen => {
                store.close().await;
                store = place.open().await;
            }
        }
    }
    for id in model.records.keys() {
        let found = store.get(id, now).await.unwrap();
        let found =
            found.map(|r| Kept { revision: r.entry.revision, expires: r.entry.expires, value: r.value.to_vec() });
        assert_eq!(found.as_ref(), model.seen(id, now));
    }
    let uses = store.key_uses().await.unwrap();
    assert_eq!(uses.iter().map(|key| key.records).sum::<u64>(), u64::try_from(model.records.len()).unwrap());
    store.close().await;
}

async fn apply(
    store: &Store,
    model: &mut Model,
    now: Time,
    ops: Vec<(Id, Option<Vec<u8>>, Option<u64>)>,
    wants: Vec<(Id, Want)>,
) {
    // A batch names a record once.
    let ops: BTreeMap<Id, _> = ops.into_iter().map(|(id, value, end)| (id, (value, end))).collect();
    let wants: BTreeMap<Id, Want> = wants.into_iter().collect();
    let mut batch = Batch::new();
    for (id, (value, end)) in &ops {
        batch = match (value, end) {
            (Some(value), Some(end)) => batch.put_until(id.clone(), value.clone(), Time::from_secs(now.secs() + end)),
            (Some(value), None) => batch.put(id.clone(), value.clone()),
            (None, _) => batch.delete(id.clone()),
        };
    }
    let mut holds = true;
    for (id, want) in wants {
        let found = model.seen(&id, now).map(|kept| kept.revision);
        let expected = match want {
            Want::Absent => Expected::Absent,
            Want::Present => Expected::Present,
            Want::Current(true) => found.map_or(Expected::Absent, Expected::Revision),
            Want::Current(false) => Expected::Revision(found.unwrap_or(1) - 1),
        };
        holds &= match expected {
            Expected::Absent => found.is_none(),
            Expected::Present => found.is_some(),
            Expected::Revision(revision) => found == Some(revision),
        };
        batch = batch.require(id, expected);
    }
    match store.apply(batch, now).await {
        Ok(revision) => {
            assert!(holds);
            assert!(revision > model.last);
            model.last = revision;
            for (id, (value, end)) in ops {
                match value {
                    Some(value) => {
                        let expires = end.map(|end| Time::from_secs(now.secs() + end));
                        model.records.insert(id, Kept { revision, value, expires });
                    }
                    None => drop(model.records.remove(&id)),
                }
            }
        }
        Err(StoreError::Conflict(_)) => assert!(!holds),
        Err(other) => panic!("{other}"),
    }
}
