//! Where a test keeps its store.

use std::path::PathBuf;
use std::sync::Arc;

use belljar_store::{FileKey, Id, Keys, Location, Store, Time};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};

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

fn file_key(id: &Id) -> Vec<u8> {
    let kind = id.kind() as u8;
    [id.tenant().as_str().as_bytes(), &[0, kind], id.key().as_bytes()].concat()
}
