//! Audit logs: whole, and broken in every way.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use belljar_store::audit::{
    AuditError, AuditKey, AuditPublicKey, Broken, Checkpoint, Event, EventError, ExportError, Hash, Verified,
    verify_export,
};
use belljar_store::{Batch, BatchError, Expected, Kind, MAX_PAGE, Store, StoreError, Time};

use crate::place::{LogChange, Medium, NOW, Place};
use crate::records::{id, tenant};

fn event(n: u64) -> Event {
    let time = Time::from_millis(NOW.millis() + n);
    Event::new(time, "admin", "secret put", &format!("a/b/{n}"), "done").detail("n", &n.to_string())
}

async fn append(store: &Store, name: &str, numbers: impl IntoIterator<Item = u64>) {
    let events: Vec<Event> = numbers.into_iter().map(event).collect();
    store.audit().append(&tenant(name), &events).await.unwrap();
}

pub async fn a_log_is_appended_read_and_followed(medium: Medium) {
    let store = Place::new(medium).await.open().await;
    let audit = store.audit();
    let acme = tenant("acme");
    assert_eq!(audit.entries(&acme, 0, 10).await, Ok(vec![]));
    assert_eq!(audit.end(&acme).await.unwrap().0, 0);
    append(&store, "acme", 1..=3).await;
    append(&store, "other", 1..=1).await;
    append(&store, "acme", 4..=5).await;
    let numbers = |entries: &[belljar_store::audit::AuditEntry]| entries.iter().map(|e| e.sequence).collect::<Vec<_>>();
    let all = audit.entries(&acme, 0, 10).await.unwrap();
    assert_eq!(numbers(&all), [1, 2, 3, 4, 5]);
    assert!(all.iter().all(|entry| entry.event == event(entry.sequence)));
    assert_eq!(audit.end(&acme).await, Ok((5, all[4].hash)));
    assert_eq!(numbers(&audit.entries(&acme, 2, 2).await.unwrap()), [3, 4]);
    assert_eq!(numbers(&audit.entries(&acme, 5, 2).await.unwrap()), [0; 0]);
    assert_eq!(audit.tenants().await, Ok(vec![acme.clone(), tenant("other")]));
    // Each tenant has a chain of its own.
    let other = audit.entries(&tenant("other"), 0, 10).await.unwrap();
    assert_eq!((other[0].sequence, other.len()), (1, 1));
    assert_ne!(other[0].hash, all[0].hash);

    let mut follow = audit.follow(&acme, 3);
    assert_eq!(numbers(&follow.next().await.unwrap()), [4, 5]);
    let waiting = tokio::spawn(async move {
        let next = follow.next().await.unwrap();
        (follow, next)
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    append(&store, "acme", 6..=7).await;
    let (mut follow, next) = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap();
    assert_eq!(numbers(&next), [6, 7]);
    append(&store, "acme", 8..=8).await;
    assert_eq!(numbers(&follow.next().await.unwrap()), [8]);

    let long = Event::new(NOW, "admin", "x", &"x".repeat(1025), "done");
    let refused = audit.append(&acme, &[event(9), long]).await;
    assert!(matches!(refused, Err(AuditError::Event(EventError::Text("object", 1025)))));
    assert_eq!(audit.end(&acme).await.unwrap().0, 8);
}

pub async fn a_log_and_a_change_go_together(medium: Medium) {
    let store = Place::new(medium).await.open().await;
    let a = id("acme", Kind::Resource, "a");
    let (acme, system) = (tenant("acme"), tenant("system"));
    let batch = |expected| {
        Batch::new()
            .put(a.clone(), b"x")
            .require(a.clone(), expected)
            .audit(&acme, event(1))
            .audit(&system, event(2))
            .audit(&acme, event(3))
    };
    store.apply(batch(Expected::Absent), NOW).await.unwrap();
    let entries = store.audit().entries(&acme, 0, 10).await.unwrap();
    assert_eq!(entries.iter().map(|e| e.event.clone()).collect::<Vec<_>>(), [event(1), event(3)]);
    assert_eq!(store.audit().entries(&system, 0, 10).await.unwrap().len(), 1);
    store.apply(batch(Expected::Absent), NOW).await.unwrap_err();
    assert_eq!(store.audit().end(&acme).await.unwrap().0, 2);
    // An entry without a change.
    store.apply(Batch::new().audit(&acme, event(4)), NOW).await.unwrap();
    assert_eq!(store.audit().verify(&acme, &[], &[]).await.unwrap().entries, 3);
    let long = Event::new(NOW, &"x".repeat(1025), "x", "x", "done");
    let refused = store.apply(Batch::new().put(a.clone(), b"y").audit(&acme, long), NOW).await;
    assert_eq!(refused, Err(StoreError::Batch(BatchError::Audit(EventError::Text("actor", 1025)))));
    assert_eq!(store.get(&a, NOW).await.unwrap().unwrap().value.as_slice(), b"x");
}

/// Several tasks, and on PostgreSQL several replicas, append to two logs by both ways.
pub async fn appends_are_one_after_the_other(medium: Medium) {
    let place = Place::new(medium).await;
    let mut stores = vec![place.open().await];
    if medium == Medium::Postgres {
        stores.extend([place.open().await, place.open().await]);
    }
    let tasks: Vec<_> = (0..9_usize)
        .map(|task| {
            let store = stores[task % stores.len()].clone();
            tokio::spawn(async move {
                for n in 0..20_u64 {
                    let number = u64::try_from(task).unwrap() * 100 + n;
                    let (name, other) = if n % 3 == 0 { ("one", "two") } else { ("two", "one") };
                    if task % 3 == 0 {
                        let batch =
                            Batch::new().audit(&tenant(name), event(number)).audit(&tenant(other), event(number));
                        store.apply(batch, NOW).await.unwrap();
                    } else {
                        append(&store, name, [number, number]).await;
                        append(&store, other, [number]).await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut total = 0;
    for name in ["one", "two"] {
        let verified = stores[0].audit().verify(&tenant(name), &[], &[]).await.unwrap();
        total += verified.entries;
        let entries = stores[0].audit().entries(&tenant(name), 0, MAX_PAGE).await.unwrap();
        // What was appended together stands together, and each task's entries are in its order.
        for task in 0..9_u64 {
            let mine: Vec<(u64, u64)> = entries
                .iter()
                .map(|e| (e.sequence, e.event.details["n"].parse::<u64>().unwrap()))
                .filter(|(_, n)| n / 100 == task)
                .collect();
            assert!(mine.windows(2).all(|pair| pair[0].1 <= pair[1].1));
            for pair in mine.windows(2).filter(|pair| pair[0].1 == pair[1].1) {
                assert_eq!(pair[0].0 + 1, pair[1].0);
            }
        }
    }
    assert_eq!(total, 3 * 20 * 2 + 6 * 20 * 3);
}

/// A log of twelve entries, with checkpoints at 5 and 10.
async fn log(place: &Place) -> (Store, AuditKey, Vec<Checkpoint>) {
    let store = place.open().await;
    let (key, _) = AuditKey::generate().unwrap();
    let mut checkpoints = Vec::new();
    for numbers in [1..=5, 6..=10] {
        append(&store, "acme", numbers).await;
        checkpoints.extend(store.audit().checkpoint(&tenant("acme"), &key, NOW).await.unwrap());
    }
    append(&store, "acme", 11..=12).await;
    assert_eq!(checkpoints.len(), 2);
    (store, key, checkpoints)
}

pub async fn a_whole_log_verifies(medium: Medium) {
    let place = Place::new(medium).await;
    let (store, key, checkpoints) = log(&place).await;
    let (audit, acme) = (store.audit(), tenant("acme"));
    let (end, hash) = audit.end(&acme).await.unwrap();
    let good = Verified { entries: 12, hash, signed: 10, checkpoints: 2 };
    assert_eq!(end, 12);
    assert_eq!(audit.verify(&acme, &[key.public()], &[]).await.unwrap(), good);
    assert_eq!(audit.verify(&acme, &[key.public()], &checkpoints[..1]).await.unwrap().checkpoints, 3);
    assert_eq!(audit.checkpoints(&acme).await.unwrap(), checkpoints);
    // A key that is not trusted proves nothing.
    let other = AuditKey::generate().unwrap().0;
    let error = audit.verify(&acme, &[other.public()], &[]).await.unwrap_err();
    let expected = Broken::Signature { sequence: 5, key: key.public().id() };
    assert!(matches!(&error, AuditError::Broken(broken) if *broken == expected), "{error}");
    assert_eq!(audit.verify(&acme, &[other.public(), key.public()], &[]).await.unwrap(), good);
    // There is nothing to sign twice, and nothing in an empty log.
    assert!(audit.checkpoint(&acme, &key, NOW).await.unwrap().is_some());
    assert_eq!(audit.checkpoint(&acme, &key, NOW).await.unwrap(), None);
    assert_eq!(audit.checkpoint(&tenant("none"), &key, NOW).await.unwrap(), None);
    assert_eq!(audit.verify(&tenant("none"), &[], &[]).await.unwrap().entries, 0);
}

/// A log past the store: what an intruder may write.
#[derive(Clone)]
struct Log {
    entries: Vec<(u64, Hash, Vec<u8>)>,
    checkpoints: Vec<Checkpoint>,
    end: (u64, Hash),
}

impl Log {
    /// Makes all hashes anew from an entry on, and the end with them.
    fn rehash(&mut self, from: usize) {
        for n in from..self.entries.len() {
            let previous = match n {
                0 => digest(&SHA256, b"belljar audit log 1\0acme").as_ref().try_into().unwrap(),
                _ => self.entries[n - 1].1,
            };
            let (sequence, hash, body) = &mut self.entries[n];
            *sequence = u64::try_from(n).unwrap() + 1;
            let bytes = [&previous[..], &sequence.to_be_bytes(), body].concat();
            *hash = digest(&SHA256, &bytes).as_ref().try_into().unwrap();
        }
        let last = self.entries.last().unwrap();
        self.end = (last.0, last.1);
    }

    fn changes(&self) -> Vec<LogChange> {
        let mut changes: Vec<LogChange> = self
            .entries
            .iter()
            .map(|(sequence, hash, body)| LogChange::Entry {
                sequence: *sequence,
                hash: hash.to_vec(),
                body: body.clone(),
            })
            .collect();
        changes.push(LogChange::End { sequence: self.end.0, hash: self.end.1.to_vec() });
        for checkpoint in &self.checkpoints {
            let body = [
                &[1][..],
                &checkpoint.time.millis().to_be_bytes(),
                &checkpoint.hash,
                &checkpoint.key.0,
                &checkpoint.signature,
            ]
            .concat();
            changes.push(LogChange::Checkpoint { sequence: checkpoint.sequence, body });
        }
        changes
    }
}

pub async fn the_first_broken_entry_is_named(medium: Medium) {
    let place = Place::new(medium).await;
    let (store, key, checkpoints) = log(&place).await;
    let acme = tenant("acme");
    let entries = store.audit().entries(&acme, 0, 100).await.unwrap();
    let entries: Vec<_> = entries.into_iter().map(|e| (e.sequence, e.hash, e.event.body().unwrap())).collect();
    let good = Log { end: (12, entries[11].1), entries, checkpoints: checkpoints.clone() };
    store.close().await;

    let verify = async |log: &Log, known: &[Checkpoint]| -> Result<Verified, Broken> {
        let mut changes: Vec<LogChange> = Vec::new();
        for sequence in 1..=13_u64 {
            // First something is there, so that all can be taken away.
            changes.push(LogChange::Entry { sequence, hash: vec![0; 32], body: vec![] });
            changes.push(LogChange::NoEntry(sequence));
        }
        for sequence in [5, 10, 12] {
            changes.push(LogChange::Checkpoint { sequence, body: vec![] });
            changes.push(LogChange::NoCheckpoint(sequence));
        }
        changes.extend(log.changes());
        place.tamper_log("acme", &changes).await;
        let store = place.open().await;
        let verified = store.audit().verify(&acme, &[key.public()], known).await;
        store.close().await;
        verified.map_err(|error| match error {
            AuditError::Broken(broken) => broken,
            other => panic!("{other}"),
        })
    };
    assert_eq!(verify(&good, &checkpoints).await.unwrap().signed, 10);
    let change = |make: &dyn Fn(&mut Log)| {
        let mut log = good.clone();
        make(&mut log);
        log
    };
    let other_body = event(99).body().unwrap();

    // Changed: its time, which is in the body, its hash, its whole body.
    for n in [0, 4, 11] {
        let sequence = u64::try_from(n).unwrap() + 1;
        assert_eq!(verify(&change(&|log| log.entries[n].2[8] ^= 1), &[]).await, Err(Broken::Changed(sequence)));
        assert_eq!(verify(&change(&|log| log.entries[n].1[31] ^= 1), &[]).await, Err(Broken::Changed(sequence)));
        let body = change(&|log| log.entries[n].2.clone_from(&other_body));
        assert_eq!(verify(&body, &[]).await, Err(Broken::Changed(sequence)));
        assert_eq!(verify(&change(&|log| log.entries[n].2[0] = 2), &[]).await, Err(Broken::Malformed(sequence)));
    }
    // Changed with a hash that fits: the next one does not.
    let one = change(&|log| {
        log.entries[6].2.clone_from(&other_body);
        let mut only = Log { entries: log.entries[..7].to_vec(), ..log.clone() };
        only.rehash(6);
        log.entries[6] = only.entries[6].clone();
    });
    assert_eq!(verify(&one, &[]).await, Err(Broken::Changed(8)));
    // Removed, at the beginning, in the middle; removed and the rest moved up.
    assert_eq!(
        verify(&change(&|log| drop(log.entries.remove(0))), &[]).await,
        Err(Broken::Place { expected: 1, found: 2 })
    );
    assert_eq!(
        verify(&change(&|log| drop(log.entries.remove(6))), &[]).await,
        Err(Broken::Place { expected: 7, found: 8 })
    );
    let moved = change(&|log| {
        log.entries.remove(6);
        log.entries[6..].iter_mut().for_each(|entry| entry.0 -= 1);
        log.end.0 = 11;
    });
    assert_eq!(verify(&moved, &[]).await, Err(Broken::Changed(7)));
    // Reordered.
    let swapped = change(&|log| {
        log.entries.swap(2, 3);
        (log.entries[2].0, log.entries[3].0) = (3, 4);
    });
    assert_eq!(verify(&swapped, &[]).await, Err(Broken::Changed(3)));
    // Put in, with all behind it moved down.
    let put_in = change(&|log| {
        log.entries.insert(7, (8, [0; 32], other_body.clone()));
        log.entries[8..].iter_mut().for_each(|entry| entry.0 += 1);
        log.end.0 = 13;
    });
    assert_eq!(verify(&put_in, &[]).await, Err(Broken::Changed(8)));

    // All hashes made anew: the next checkpoint tells.
    let rewritten = |from: usize| {
        change(&|log| {
            log.entries[from].2.clone_from(&other_body);
            log.rehash(from);
        })
    };
    let early = rewritten(2);
    assert_eq!(
        verify(&early, &[]).await,
        Err(Broken::Rewritten {
            sequence: 5,
            signed: 0,
            expected: hex::encode(checkpoints[0].hash),
            found: hex::encode(early.entries[4].1)
        })
    );
    let late = rewritten(7);
    assert_eq!(
        verify(&late, &[]).await,
        Err(Broken::Rewritten {
            sequence: 10,
            signed: 5,
            expected: hex::encode(checkpoints[1].hash),
            found: hex::encode(late.entries[9].1)
        })
    );
    // Behind the last checkpoint nothing tells, and the result says so.
    assert_eq!(verify(&rewritten(10), &[]).await.unwrap().signed, 10);

    // Cut, with and without the end of the log changed to that, behind and before the last checkpoint.
    let cut = |to: usize, end: bool| {
        change(&|log| {
            log.entries.truncate(to);
            if end {
                log.end = (log.entries[to - 1].0, log.entries[to - 1].1);
            }
        })
    };
    let truncated = |missing, to, by| Err(Broken::Truncated { missing, to, by });
    assert_eq!(verify(&cut(11, false), &[]).await, truncated(12, 12, "the log's end"));
    assert_eq!(verify(&cut(11, true), &[]).await.unwrap().entries, 11);
    assert_eq!(verify(&cut(9, true), &[]).await, truncated(10, 10, "a signed checkpoint"));
    assert_eq!(verify(&cut(9, false), &[]).await, truncated(10, 10, "a signed checkpoint"));
    assert_eq!(verify(&cut(4, true), &[]).await, truncated(5, 10, "a signed checkpoint"));
    // With its checkpoint taken away only one that was kept elsewhere tells.
    let mut both = cut(9, true);
    both.checkpoints.pop();
    assert_eq!(verify(&both, &[]).await.unwrap().signed, 5);
    assert_eq!(verify(&both, &checkpoints[1..]).await, truncated(10, 10, "a signed checkpoint"));
    // The end of the log is not where its entries end.
    assert_eq!(verify(&change(&|log| log.end.1[0] ^= 1), &[]).await, Err(Broken::End(12)));

    // A checkpoint of another hash, of another log's, or at another place.
    let signature = |sequence| Err(Broken::Signature { sequence, key: key.public().id() });
    let forged = change(&|log| log.checkpoints[0].hash = log.entries[3].1);
    assert_eq!(verify(&forged, &[]).await, signature(5));
    let elsewhere = change(&|log| log.checkpoints[1].sequence = 12);
    assert_eq!(verify(&elsewhere, &[]).await, signature(12));
    let foreign = Checkpoint { tenant: tenant("other"), ..checkpoints[0].clone() };
    let expected = Broken::Tenant { sequence: 5, expected: acme.clone(), found: tenant("other") };
    assert_eq!(verify(&good, &[foreign]).await, Err(expected));
    assert_eq!(verify(&good, &checkpoints).await.unwrap().signed, 10);
}

fn check(export: &[u8], keys: &[AuditPublicKey], known: &[Checkpoint]) -> Result<Verified, ExportError> {
    verify_export(|| Ok(export), keys, known).map(|(found, verified)| {
        assert_eq!(found, tenant("acme"));
        verified
    })
}

pub async fn exports_verify_by_themselves(medium: Medium) {
    let place = Place::new(medium).await;
    let (store, key, checkpoints) = log(&place).await;
    let keys = [key.public()];
    let mut export = Vec::new();
    assert_eq!(store.audit().export(&tenant("acme"), &mut export).await.unwrap(), 12);
    let verified = check(&export, &keys, &[]).unwrap();
    assert_eq!((verified.entries, verified.signed, verified.checkpoints), (12, 10, 2));
    assert_eq!(check(&export, &keys, &checkpoints).unwrap().checkpoints, 4);
    let text = String::from_utf8(export.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 12 + 2 + 1);
    assert!(lines[1].starts_with("{\"sequence\":1,\"time\":1700000000001,\"actor\":\"admin\","));

    let with = |make: &dyn Fn(&mut Vec<String>)| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        make(&mut lines);
        check((lines.join("\n") + "\n").as_bytes(), &keys, &[])
    };
    let broken = |result: Result<Verified, ExportError>| match result {
        Err(ExportError::Broken(broken)) => broken,
        other => panic!("{other:?}"),
    };
    let line = |result: Result<Verified, ExportError>| match result {
        Err(ExportError::Line { line, expected, .. }) => (line, expected),
        other => panic!("{other:?}"),
    };
    assert_eq!(with(&|_| ()).unwrap().entries, 12);
    assert_eq!(broken(with(&|l| l[3] = l[3].replace("admin", "nobody"))), Broken::Changed(3));
    assert_eq!(broken(with(&|l| l[3] = l[3].replace("\"n\":\"3\"", "\"n\":\"4\""))), Broken::Changed(3));
    assert_eq!(broken(with(&|l| drop(l.remove(3)))), Broken::Place { expected: 3, found: 4 });
    assert_eq!(broken(with(&|l| l.swap(3, 4))), Broken::Place { expected: 3, found: 4 });
    assert_eq!(broken(with(&|l| drop(l.remove(12)))), Broken::Truncated { missing: 12, to: 12, by: "the log's end" });
    let signature = Broken::Signature { sequence: 5, key: key.public().id() };
    assert_eq!(broken(with(&|l| l[13] = l[13].replace("\"time\":17", "\"time\":18"))), signature);
    // What is no line of an export, or stands in a wrong place.
    let twice = |l: &mut Vec<String>| l[3] = l[3].replace("\"n\":\"3\"", "\"n\":\"x\",\"n\":\"3\"");
    assert_eq!(line(with(&twice)), (4, "an entry"));
    assert_eq!(line(with(&|l| l[3] = l[3].replace("{\"seq", "{\"x\":1,\"seq"))).0, 4);
    assert_eq!(line(with(&|l| l[3] = l[3].replace(",\"actor", ",\"x\":1,\"actor"))), (4, "an entry"));
    assert_eq!(line(with(&|l| l.swap(12, 13))), (14, "an entry, a checkpoint or the end in its place"));
    assert_eq!(line(with(&|l| l[0] = l[0].replace("audit-1", "audit-2"))), (1, "the head of an export"));
    assert_eq!(line(with(&|l| l[15] = "{\"end\":11}".into())), (16, "the end"));
    assert_eq!(line(with(&|l| l.push("{}".into()))), (16, "the end"));
    let long = "x".repeat(600_000);
    assert_eq!(line(with(&|l| l[3] = l[3].replace("admin", &long))), (3, "of any line's length"));
    // Cut anywhere.
    for end in (0..export.len()).step_by(97).chain([export.len() - 1]) {
        let cut = check(&export[..end], &keys, &[]);
        assert!(matches!(cut, Err(ExportError::Cut(_))), "{end}: {cut:?}");
    }
}
