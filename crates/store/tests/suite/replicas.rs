//! What only PostgreSQL has: other replicas, and a server that goes away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use belljar_store::audit;
use belljar_store::{
    Batch, Change, Event, Expected, KeyProvider as _, Keys, Kind, Location, OpenError, PostgresOptions, Query, Store,
    StoreError, Watch,
};
use sqlx::Executor as _;

use crate::place::{Medium, NOW, Place, key, keys};
use crate::records::{id, tenant};
use crate::server::{Database, Server};

async fn event(watch: &mut Watch) -> Event {
    tokio::time::timeout(Duration::from_secs(30), watch.next()).await.unwrap().unwrap()
}

/// Reads events until one is this.
async fn until(watch: &mut Watch, wanted: &Event) {
    while event(watch).await != *wanted {}
}

async fn open(database: &Database) -> Store {
    Store::open(&Location::Postgres(Box::new(database.options())), keys()).await.unwrap()
}

pub async fn replicas_start_at_once() {
    let place = Place::new(Medium::Postgres).await;
    let location = place.location();
    let starting: Vec<_> = (0..8)
        .map(|n| {
            let location = location.clone();
            tokio::spawn(async move {
                let store = Store::open(&location, keys()).await.unwrap();
                // All make the tenant's first data key at once, too.
                let id = id("acme", Kind::Resource, &n.to_string());
                store.apply(Batch::new().put(id, b"x"), NOW).await.unwrap();
            })
        })
        .collect();
    for replica in starting {
        replica.await.unwrap();
    }
    let store = place.open().await;
    let page = store.list(&Query::new(&tenant("acme"), Kind::Resource), NOW).await.unwrap();
    assert_eq!(page.items.len(), 8);
    assert_eq!(store.key_uses().await.unwrap().len(), 1);
}

pub async fn replicas_see_each_other() {
    let place = Place::new(Medium::Postgres).await;
    let (one, two) = (place.open().await, place.open().await);
    let (mut first, mut second) = (one.watch(), two.watch());
    let a = id("acme", Kind::Revocation, "a");
    let revision = one.apply(Batch::new().put(a.clone(), b"x"), NOW).await.unwrap();
    assert_eq!(two.get(&a, NOW).await.unwrap().unwrap().entry.revision, revision);
    let change = Event::Changed(Change { id: a.clone(), revision, deleted: false });
    assert_eq!(event(&mut first).await, change);
    assert_eq!(event(&mut second).await, change);
    let batch = Batch::new().put(a.clone(), b"y").require(a.clone(), Expected::Revision(revision));
    let next = two.apply(batch.clone(), NOW).await.unwrap();
    assert!(matches!(one.apply(batch, NOW).await, Err(StoreError::Conflict(c)) if c.found == Some(next)));
    // Nobody but us announces here; if somebody does, everything is read again.
    let sql = "SELECT pg_notify('belljar_' || 'belljar_records'::regclass::oid, 'nonsense')";
    place.database().connect().await.execute(sql).await.unwrap();
    assert!(matches!(event(&mut first).await, Event::Changed(change) if change.revision == next));
    assert_eq!(event(&mut first).await, Event::Missed);
}

pub async fn a_log_is_followed_from_another_replica() {
    let place = Place::new(Medium::Postgres).await;
    let (one, two) = (place.open().await, place.open().await);
    let mut follow = two.audit().follow(&tenant("acme"), 0);
    for n in 1..4_u64 {
        let event = audit::Event::new(NOW, "admin", "put", &n.to_string(), "done");
        one.audit().append(&tenant("acme"), std::slice::from_ref(&event)).await.unwrap();
        let entries = tokio::time::timeout(Duration::from_secs(30), follow.next()).await.unwrap().unwrap();
        assert_eq!(entries.iter().map(|e| (e.sequence, &e.event)).collect::<Vec<_>>(), [(n, &event)]);
    }
}

pub async fn a_log_is_append_only() {
    let place = Place::new(Medium::Postgres).await;
    let store = place.open().await;
    let event = audit::Event::new(NOW, "admin", "put", "a", "done");
    store.audit().append(&tenant("acme"), &[event]).await.unwrap();
    for sql in [
        "UPDATE belljar_audit SET body = ''",
        "DELETE FROM belljar_audit",
        "TRUNCATE belljar_audit",
        "DELETE FROM belljar_audit_checkpoints",
    ] {
        let error = place.database().connect().await.execute(sql).await.unwrap_err();
        assert!(error.to_string().contains("is append-only"), "{sql}: {error}");
    }
}

/// One replica rotates, rewraps and retires while another, which has the old key in memory, goes on writing.
pub async fn a_key_is_replaced_under_the_other_replica() {
    let place = Place::new(Medium::Postgres).await;
    let (one, two) = (place.open().await, place.open_with(Keys::new(key(1)).previous(key(2))).await);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (two, stop) = (two.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let id = id("acme", Kind::Resource, &(count % 100).to_string());
                two.apply(Batch::new().put(id.clone(), count.to_be_bytes()), NOW).await.unwrap();
                assert_eq!(two.get(&id, NOW).await.unwrap().unwrap().value.as_slice(), count.to_be_bytes());
                count += 1;
            }
            count
        })
    };
    one.use_keys(Keys::new(key(2)).previous(key(1))).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(one.rotate(&tenant("acme"), NOW).await, Ok(true));
        one.rewrap(NOW).await.unwrap();
        for used in one.key_uses().await.unwrap() {
            if !used.active && one.retire(used.data_key).await == Ok(true) {
                seen.push(used.data_key);
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 50);
    assert!(seen.len() >= 4, "{seen:?}");
    let uses = one.key_uses().await.unwrap();
    assert!(uses.iter().all(|used| used.key_id == *key(2).id()), "{uses:?}");
    // What the other replica still has in memory of a retired key opens nothing any more, and is used for nothing.
    two.apply(Batch::new().put(id("acme", Kind::Resource, "last"), b"x"), NOW).await.unwrap();
    one.get(&id("acme", Kind::Resource, "last"), NOW).await.unwrap().unwrap();
}

pub async fn a_cut_connection_is_made_again() {
    let place = Place::new(Medium::Postgres).await;
    let store = place.open().await;
    let mut watch = store.watch();
    let a = id("acme", Kind::Policy, "a");
    store.apply(Batch::new().put(a.clone(), b"x"), NOW).await.unwrap();
    assert!(matches!(event(&mut watch).await, Event::Changed(_)));
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    place.database().connect().await.execute(cut).await.unwrap();
    // Idle connections were cut; the next call makes another, also one that writes.
    store.apply(Batch::new().put(a.clone(), b"y"), NOW).await.unwrap();
    assert_eq!(event(&mut watch).await, Event::Lost);
    assert_eq!(event(&mut watch).await, Event::Missed);
    let revision = store.apply(Batch::new().put(a.clone(), b"z"), NOW).await.unwrap();
    // The change before may have come when it listened again.
    until(&mut watch, &Event::Changed(Change { id: a, revision, deleted: false })).await;
}

/// What a writer did. The last value of its record that was said to be written, and one that it may be instead.
#[derive(Default)]
struct Written {
    said: u64,
    open: Option<u64>,
    away: u64,
    unknown: u64,
}

async fn write(store: Store, name: String, stop: Arc<AtomicBool>) -> Written {
    let id = id("acme", Kind::Resource, &name);
    let mut written = Written::default();
    for n in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match store.apply(Batch::new().put(id.clone(), n.to_be_bytes()), NOW).await {
            Ok(_) => (written.said, written.open) = (n, None),
            Err(error) if error.is_away() => written.away += 1,
            Err(StoreError::Unknown(_)) => {
                written.unknown += 1;
                written.open = Some(n);
            }
            Err(other) => panic!("{other}"),
        }
    }
    written
}

async fn check(store: &Store, all: &BTreeMap<String, Written>) {
    for (name, written) in all {
        let found = store.get(&id("acme", Kind::Resource, name), NOW).await.unwrap().unwrap();
        let found = u64::from_be_bytes(found.value.as_slice().try_into().unwrap());
        // One that nobody knew of may have been made, and the next said.
        assert!(found == written.said || Some(found) == written.open, "{name}: {found}, said {}", written.said);
        assert!(written.said > 0);
    }
}

pub async fn postgresql_may_go_away_for_ten_seconds() {
    let server = Server::start();
    let database = server.database().await;
    let store = open(&database).await;
    let mut watch = store.watch();
    let stop = Arc::new(AtomicBool::new(false));
    let names: Vec<String> = (0..4).map(|n| n.to_string()).collect();
    let writers: Vec<_> =
        names.iter().map(|n| tokio::spawn(write(store.clone(), n.clone(), Arc::clone(&stop)))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.stop("INT");
    until(&mut watch, &Event::Lost).await;
    let gone = Instant::now();
    let first = store.get(&id("acme", Kind::Resource, "0"), NOW).await;
    assert!(matches!(&first, Err(StoreError::Away(_))), "{first:?}");
    assert!(first.unwrap_err().is_away());
    tokio::time::sleep(Duration::from_secs(10).saturating_sub(gone.elapsed())).await;
    server.run();
    until(&mut watch, &Event::Missed).await;
    store.get(&id("acme", Kind::Resource, "0"), NOW).await.unwrap().unwrap();
    let policy = id("acme", Kind::Policy, "p");
    let revision = store.apply(Batch::new().put(policy.clone(), b"x"), NOW).await.unwrap();
    until(&mut watch, &Event::Changed(Change { id: policy, revision, deleted: false })).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = BTreeMap::new();
    for (name, writer) in names.into_iter().zip(writers) {
        all.insert(name, writer.await.unwrap());
    }
    check(&store, &all).await;
    let (away, unknown) = all.values().fold((0, 0), |(a, u), w| (a + w.away, u + w.unknown));
    // A server that is stopped in order tells what became of what it was asked.
    assert!(away > 0);
    assert!(unknown <= 4, "{unknown}");
}

pub async fn a_killed_server_loses_nothing_that_was_said_to_be_written() {
    let server = Server::start();
    let database = server.database().await;
    let store = open(&database).await;
    for _ in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        let names: Vec<String> = (0..4).map(|n| n.to_string()).collect();
        let writers: Vec<_> =
            names.iter().map(|n| tokio::spawn(write(store.clone(), n.clone(), Arc::clone(&stop)))).collect();
        tokio::time::sleep(Duration::from_millis(400)).await;
        server.stop("KILL");
        server.run();
        tokio::time::sleep(Duration::from_millis(400)).await;
        stop.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        for (name, writer) in names.into_iter().zip(writers) {
            all.insert(name, writer.await.unwrap());
        }
        check(&store, &all).await;
    }
}

pub async fn a_password_is_not_shown() {
    let place = Place::new(Medium::Postgres).await;
    let with = place.database().address.replacen("belljar@", "nobody:hunter2@", 1);
    let options = PostgresOptions::secret(&with).unwrap();
    assert!(!format!("{options:?}").contains("hunter2"));
    let error = Store::open(&Location::Postgres(Box::new(options)), keys()).await.unwrap_err();
    assert!(matches!(&error, OpenError::Store(StoreError::Away(_))), "{error:?}");
    let text = format!("{error:?} {error}");
    assert!(text.contains("nobody") && !text.contains("hunter2"), "{text}");
}

pub async fn another_version_is_refused() {
    let place = Place::new(Medium::Postgres).await;
    place.open().await.close().await;
    let mut connection = place.database().connect().await;
    let refused = async || Store::open(&place.location(), keys()).await.unwrap_err();
    let shown = place.database().options().shown().to_owned();
    let later = "INSERT INTO belljar_migrations (version, description, success, checksum, execution_time) \
         VALUES (7, 'later', true, '\\x00', 0)";
    connection.execute(later).await.unwrap();
    assert_eq!(refused().await, OpenError::Format { path: shown.clone(), found: 7, expected: 1 });
    connection.execute("DELETE FROM belljar_migrations WHERE version = 7").await.unwrap();
    place.open().await.close().await;
    connection.execute("UPDATE belljar_migrations SET checksum = '\\x00'").await.unwrap();
    assert_eq!(refused().await, OpenError::Foreign(shown));
}

/// The server speaks no TLS on its socket.
pub async fn tls_is_what_its_mode_says() {
    let place = Place::new(Medium::Postgres).await;
    for (mode, works) in [("disable", true), ("prefer", true), ("require", false), ("verify-full", false)] {
        let options = PostgresOptions::new(&format!("{}?sslmode={mode}", place.database().address)).unwrap();
        let opened = Store::open(&Location::Postgres(Box::new(options)), keys()).await;
        match opened {
            Ok(_) => assert!(works, "{mode}"),
            Err(OpenError::Store(StoreError::Away(why))) => assert!(!works && why.contains("TLS"), "{mode}: {why}"),
            Err(other) => panic!("{mode}: {other:?}"),
        }
    }
}
