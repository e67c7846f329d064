//! What only the embedded store has: a file.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};

use belljar_store::{Batch, Kind, OpenError, Query, Store};
use redb::{Database, TableDefinition};

use crate::place::{Medium, NOW, Place, keys};
use crate::records::{id, tenant};

/// Names the file for a process that writes until it is killed.
pub const WRITER: &str = "BELLJAR_STORE_TEST_WRITER";

pub async fn only_its_owner_may_use_it() {
    let place = Place::new(Medium::File).await;
    place.open().await.close().await;
    let (file, folder) = (place.file(), place.file().parent().unwrap().to_owned());
    let mode = |path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&file), mode(&folder)), (0o600, 0o700));
    for (path, bad, good) in
        [(&file, 0o640, 0o600), (&file, 0o602, 0o600), (&folder, 0o750, 0o700), (&folder, 0o701, 0o700)]
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(bad)).unwrap();
        let error = OpenError::Open { path: path.display().to_string(), mode: bad, expected: good };
        assert_eq!(Store::open(&place.location(), keys()).await.unwrap_err(), error);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(good)).unwrap();
        place.open().await.close().await;
    }
}

pub async fn one_process_has_it() {
    let place = Place::new(Medium::File).await;
    let store = place.open().await;
    let error = Store::open(&place.location(), keys()).await.unwrap_err();
    assert_eq!(error, OpenError::InUse(place.file().display().to_string()));
    store.close().await;
    // Dropped is closed.
    drop(place.open().await);
    place.open().await;
}

pub async fn another_format_is_refused() {
    let meta: TableDefinition<&str, u64> = TableDefinition::new("meta");
    let place = Place::new(Medium::File).await;
    let path = place.file().display().to_string();
    place.open().await.close().await;
    let set = |format| {
        let database = Database::open(place.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(meta).unwrap().insert("format", format).unwrap();
        transaction.commit().unwrap();
    };
    set(2);
    let error = Store::open(&place.location(), keys()).await.unwrap_err();
    assert_eq!(error, OpenError::Format { path: path.clone(), found: 2, expected: 1 });
    set(1);
    place.open().await.close().await;

    // Files of other programs.
    for bytes in [b"SQLite format 3\0".repeat(64), vec![0; 4096], b"x".to_vec()] {
        std::fs::write(place.file(), &bytes).unwrap();
        let error = Store::open(&place.location(), keys()).await.unwrap_err();
        assert_eq!(error, OpenError::Foreign(path.clone()), "{} bytes", bytes.len());
    }
    std::fs::remove_file(place.file()).unwrap();
    {
        let database = Database::create(place.file()).unwrap();
        std::fs::set_permissions(place.file(), std::fs::Permissions::from_mode(0o600)).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap();
        transaction.commit().unwrap();
    }
    assert_eq!(Store::open(&place.location(), keys()).await.unwrap_err(), OpenError::Foreign(path));
}

/// Writes pairs until it is killed, and says what is written.
pub async fn write_until_killed(path: std::path::PathBuf) {
    let store = Store::open(&belljar_store::Location::File(path), keys()).await.unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0_u64.. {
                    let name = format!("{task}/{n}");
                    let value = vec![7; usize::try_from(n * 37 % 3000).unwrap()];
                    let batch = Batch::new()
                        .put(id("acme", Kind::Resource, &name), value)
                        .put(id("acme", Kind::Policy, &name), n.to_be_bytes());
                    store.apply(batch, NOW).await.unwrap();
                    println!("{name}");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

pub async fn what_was_said_to_be_written_survives_kill_9() {
    let place = Place::new(Medium::File).await;
    let mut said = Vec::new();
    for round in 0..6_u64 {
        place.open().await.close().await;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(WRITER, place.file())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed at the moment at which it has said so much.
        for _ in 0..20 + round * 17 {
            said.push(lines.next().unwrap().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        said.extend(lines.map_while(Result::ok));

        let store = place.open().await;
        for name in &said {
            let n: u64 = name.split_once('/').unwrap().1.parse().unwrap();
            let value = store.get(&id("acme", Kind::Policy, name), NOW).await.unwrap().unwrap();
            assert_eq!(value.value.as_slice(), n.to_be_bytes());
            let value = store.get(&id("acme", Kind::Resource, name), NOW).await.unwrap().unwrap();
            assert_eq!(value.value.len(), usize::try_from(n * 37 % 3000).unwrap());
        }
        // Every batch is there as a whole.
        let names = async |kind| {
            let (mut all, mut query) = (Vec::new(), Query::new(&tenant("acme"), kind));
            loop {
                let page = store.names(&query, NOW).await.unwrap();
                all.extend(page.items.iter().map(|e| (e.id.key().to_owned(), e.revision)));
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => return all,
                }
            }
        };
        let pairs = names(Kind::Policy).await;
        assert_eq!(pairs, names(Kind::Resource).await);
        let uses = store.key_uses().await.unwrap();
        assert_eq!(uses[0].records, 2 * u64::try_from(pairs.len()).unwrap());
        store.close().await;
    }
}
