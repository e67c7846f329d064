//! Where a test keeps its store.

use std::path::PathBuf;
use std::sync::Arc;

use belljar_store::{FileKey, Id, Keys, Location, Store, Time};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use sqlx::Executor as _;

use crate::server::{Database, Server};

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");

/// The time of most tests.
pub const NOW: Time = Time::from_secs(1_700_000_000);

/// One of the media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    File,
    Memory,
    Postgres,
}

/// An empty place for a store, which goes away with the test.
pub struct Place {
    pub medium: Medium,
    folder: tempfile::TempDir,
    database: Option<Database>,
}

pub fn key(byte: u8) -> Arc<FileKey> {
    Arc::new(FileKey::new(&std::array::from_fn(|n| byte ^ u8::try_from(n).unwrap())).unwrap())
}

pub fn keys() -> Keys {
    Keys::new(key(1))
}

impl Place {
    pub async fn new(medium: Medium) -> Self {
        let database = match medium {
            Medium::Postgres => Some(Server::shared().database().await),
            Medium::File | Medium::Memory => None,
        };
        Self { medium, folder: tempfile::tempdir().unwrap(), database }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("state").join("store.redb")
    }

    pub fn database(&self) -> &Database {
        self.database.as_ref().unwrap()
    }

    pub fn location(&self) -> Location {
        match self.medium {
            Medium::File => Location::File(self.file()),
            Medium::Memory => Location::Memory,
            Medium::Postgres => Location::Postgres(Box::new(self.database().options())),
        }
    }

    pub async fn open(&self) -> Store {
        self.open_with(keys()).await
    }

    pub async fn open_with(&self, keys: Keys) -> Store {
        Store::open(&self.location(), keys).await.unwrap()
    }

    /// The sealed value of a record, past the store. Stores of the file have to be closed.
    pub async fn sealed(&self, id: &Id) -> Vec<u8> {
        match self.medium {
            Medium::File => {
                let database = redb::Database::open(self.file()).unwrap();
                let table = database.begin_read().unwrap().open_table(RECORDS).unwrap();
                let value = table.get(file_key(id).as_slice()).unwrap().unwrap().value().to_vec();
                value[16..].to_vec()
            }
            Medium::Memory => panic!("memory is not looked into"),
            Medium::Postgres => {
                let sql = "SELECT value FROM belljar_records WHERE tenant = $1 AND kind = $2 AND key = $3";
                sqlx::query_scalar(sql)
                    .bind(id.tenant().as_str())
                    .bind(id.kind() as i16)
                    .bind(id.key().as_bytes())
                    .fetch_one(&mut self.database().connect().await)
                    .await
                    .unwrap()
            }
        }
    }

    /// Replaces the sealed value of a record, past the store.
    pub async fn tamper(&self, id: &Id, sealed: &[u8]) {
        match self.medium {
            Medium::File => {
                let database = redb::Database::open(self.file()).unwrap();
                let transaction = database.begin_write().unwrap();
                {
                    let mut table = transaction.open_table(RECORDS).unwrap();
                    let key = file_key(id);
                    let head = table.get(key.as_slice()).unwrap().unwrap().value()[..16].to_vec();
                    table.insert(key.as_slice(), [&head, sealed].concat().as_slice()).unwrap();
                }
                transaction.commit().unwrap();
            }
            Medium::Memory => panic!("memory is not changed"),
            Medium::Postgres => {
                let sql = "UPDATE belljar_records SET value = $4 WHERE tenant = $1 AND kind = $2 AND key = $3";
                let done = sqlx::query(sql)
                    .bind(id.tenant().as_str())
                    .bind(id.kind() as i16)
                    .bind(id.key().as_bytes())
                    .bind(sealed)
                    .execute(&mut self.database().connect().await)
                    .await
                    .unwrap();
                assert_eq!(done.rows_affected(), 1);
            }
        }
    }
}

/// A change of a log, past the store.
#[derive(Clone)]
pub enum LogChange {
    Entry { sequence: u64, hash: Vec<u8>, body: Vec<u8> },
    NoEntry(u64),
    End { sequence: u64, hash: Vec<u8> },
    Checkpoint { sequence: u64, body: Vec<u8> },
    NoCheckpoint(u64),
}

impl Place {
    /// Makes changes of a log, past the store. Stores of the file have to be closed.
    pub async fn tamper_log(&self, tenant: &str, changes: &[LogChange]) {
        match self.medium {
            Medium::File => {
                let database = redb::Database::open(self.file()).unwrap();
                let transaction = database.begin_write().unwrap();
                for change in changes {
                    change.in_file(tenant, &transaction);
                }
                transaction.commit().unwrap();
            }
            Medium::Memory => panic!("memory is not changed"),
            Medium::Postgres => {
                let mut connection = self.database().connect().await;
                connection.execute("SET session_replication_role = replica").await.unwrap();
                for change in changes {
                    change.in_database(tenant, &mut connection).await;
                }
            }
        }
    }
}

impl LogChange {
    fn in_file(&self, tenant: &str, transaction: &redb::WriteTransaction) {
        let key = |number: u64| [tenant.as_bytes(), &[0], &number.to_be_bytes()].concat();
        let table = |name| transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(name)).unwrap();
        match self {
            Self::Entry { sequence, hash, body } => {
                table("audit").insert(key(*sequence).as_slice(), [&hash[..], body].concat().as_slice()).unwrap();
            }
            Self::NoEntry(sequence) => drop(table("audit").remove(key(*sequence).as_slice()).unwrap()),
            Self::End { sequence, hash } => {
                let mut ends = transaction.open_table(TableDefinition::<&str, &[u8]>::new("audit ends")).unwrap();
                ends.insert(tenant, [&sequence.to_be_bytes()[..], hash].concat().as_slice()).unwrap();
            }
            Self::Checkpoint { sequence, body } => {
                table("checkpoints").insert(key(*sequence).as_slice(), body.as_slice()).unwrap();
            }
            Self::NoCheckpoint(sequence) => drop(table("checkpoints").remove(key(*sequence).as_slice()).unwrap()),
        }
    }

    async fn in_database(&self, tenant: &str, connection: &mut sqlx::PgConnection) {
        let (sql, sequence, first, second): (_, u64, &[u8], &[u8]) = match self {
            Self::Entry { sequence, hash, body } => (
                "INSERT INTO belljar_audit VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (tenant, sequence) DO UPDATE SET hash = $3, body = $4",
                *sequence,
                hash,
                body,
            ),
            Self::NoEntry(sequence) => {
                ("DELETE FROM belljar_audit WHERE tenant = $1 AND sequence = $2 AND $3 = $4", *sequence, &[], &[])
            }
            Self::End { sequence, hash } => (
                "UPDATE belljar_audit_heads SET sequence = $2, hash = $3 WHERE tenant = $1 AND $4 = ''",
                *sequence,
                hash,
                &[],
            ),
            Self::Checkpoint { sequence, body } => (
                "INSERT INTO belljar_audit_checkpoints SELECT $1, $2, $3 WHERE $4 = '' \
                 ON CONFLICT (tenant, sequence) DO UPDATE SET body = $3",
                *sequence,
                body,
                &[],
            ),
            Self::NoCheckpoint(sequence) => (
                "DELETE FROM belljar_audit_checkpoints WHERE tenant = $1 AND sequence = $2 AND $3 = $4",
                *sequence,
                &[],
                &[],
            ),
        };
        let done = sqlx::query(sql)
            .bind(tenant)
            .bind(i64::try_from(sequence).unwrap())
            .bind(first)
            .bind(second)
            .execute(connection)
            .await
            .unwrap();
        assert_eq!(done.rows_affected(), 1);
    }
}

fn file_key(id: &Id) -> Vec<u8> {
    let kind = id.kind() as u8;
    [id.tenant().as_str().as_bytes(), &[0, kind], id.key().as_bytes()].concat()
}
