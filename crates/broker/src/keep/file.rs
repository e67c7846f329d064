//! A keeper in one file (`redb`), each value sealed under a key that is not in it: who has the file has names and lengths.

use super::{KeepError, Kept, Kind, Named};
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, backends::FileBackend};
use std::{
    fs::OpenOptions,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};
use zeroize::Zeroizing;

/// Tenant, NUL, kind, key: the order of listings. The value: revision (8 bytes, big endian), nonce, ciphertext and tag.
const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
/// `format` and `revision`.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
const REVISION: usize = 8;
/// Memory of the file that is held at most, in bytes.
const CACHE: usize = 8 * 1024 * 1024;

/// The keeper. Clones are handles of the same one.
#[derive(Clone)]
pub(crate) struct File {
    database: Arc<Database>,
    key: Arc<LessSafeKey>,
}

fn failed(cause: impl std::fmt::Display) -> KeepError {
    KeepError::Failed(cause.to_string())
}

fn name(tenant: &str, kind: Kind, key: &str) -> Vec<u8> {
    [tenant.as_bytes(), &[0, kind.code()], key.as_bytes()].concat()
}

impl File {
    /// Opens the file at `path`, made where there is none; `key` opens its values.
    pub(crate) fn open(path: &Path, key: &[u8; 32]) -> Result<Self, KeepError> {
        let told = |cause: &dyn std::fmt::Display| KeepError::Failed(format!("{}: {cause}", path.display()));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|e| told(&e))?;
        let mode = file.metadata().map_err(|e| told(&e))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(told(&format!("it has mode {mode:o}, and others may read it: chmod 600 it")));
        }
        let opened =
            FileBackend::new(file).and_then(|file| Builder::new().set_cache_size(CACHE).create_with_backend(file));
        let database = match opened {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(told(
                    &"another broker has it open: stop that one, or give this one another data directory",
                ));
            }
            Err(e) => return Err(told(&e)),
        };
        let key = UnboundKey::new(&AES_256_GCM_SIV, key).map_err(|_| told(&"no memory for the cipher"))?;
        let keep = Self { database: Arc::new(database), key: Arc::new(LessSafeKey::new(key)) };
        keep.prepare().map_err(|e| told(&e))?;
        Ok(keep)
    }

    /// Makes the tables; a value that is there from the first start tells the right key from another.
    fn prepare(&self) -> Result<(), KeepError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut meta = write.open_table(META).map_err(failed)?;
            let found = meta.get("format").map_err(failed)?.map(|value| value.value());
            match found {
                None => {
                    meta.insert("format", FORMAT).map_err(failed)?;
                    meta.insert("revision", 0).map_err(failed)?;
                }
                Some(FORMAT) => {}
                Some(other) => {
                    return Err(KeepError::Failed(format!(
                        "it has format {other}, and this program reads {FORMAT}: use the program that wrote it"
                    )));
                }
            }
            write.open_table(RECORDS).map_err(failed)?;
        }
        write.commit().map_err(failed)?;
        match self.read("default", Kind::Key, "check") {
            Ok(Some(_)) => Ok(()),
            Ok(None) => self.write("default", Kind::Key, "check", b"belljar").map(|_| ()),
            Err(_) => Err(KeepError::Failed("it is sealed under another key than the given one".into())),
        }
    }

    pub(crate) fn read(&self, tenant: &str, kind: Kind, key: &str) -> Result<Option<Kept>, KeepError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(RECORDS).map_err(failed)?;
        let name = name(tenant, kind, key);
        let found = table.get(name.as_slice()).map_err(failed)?;
        found.map(|value| self.unseal(&name, key, value.value())).transpose()
    }

    pub(crate) fn list(
        &self,
        tenant: &str,
        kind: Kind,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Kept>, KeepError> {
        self.page(tenant, kind, prefix, after, limit, |name, key, value| self.unseal(name, key, value))
    }

    /// The same without the values.
    pub(crate) fn names(
        &self,
        tenant: &str,
        kind: Kind,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Named>, KeepError> {
        self.page(tenant, kind, prefix, after, limit, |_, key, value| {
            let damaged = || failed(format!("the record {key:?} was not written by this broker: restore a backup"));
            let (revision, rest) = value.split_first_chunk::<REVISION>().ok_or_else(damaged)?;
            let bytes = rest.len().checked_sub(NONCE_LEN + MAX_TAG_LEN).ok_or_else(damaged)?;
            Ok(Named { key: key.to_owned(), revision: u64::from_be_bytes(*revision), bytes })
        })
    }

    /// Records of a page, each read by `read` from its whole name, its key and what is stored.
    fn page<T>(
        &self,
        tenant: &str,
        kind: Kind,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        read: impl Fn(&[u8], &str, &[u8]) -> Result<T, KeepError>,
    ) -> Result<Vec<T>, KeepError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let table = transaction.open_table(RECORDS).map_err(failed)?;
        let (all, stem) = (name(tenant, kind, ""), name(tenant, kind, prefix));
        let first = name(tenant, kind, after.unwrap_or_default().max(prefix));
        let mut page = Vec::new();
        for entry in table.range(first.as_slice()..).map_err(failed)? {
            let (found, value) = entry.map_err(failed)?;
            let found = found.value();
            if !found.starts_with(&stem) || page.len() >= limit {
                break;
            }
            let key = found.strip_prefix(all.as_slice()).and_then(|key| std::str::from_utf8(key).ok());
            let key = key.ok_or_else(|| failed("a key is not text"))?;
            if after.is_none_or(|after| key > after) {
                page.push(read(found, key, value.value())?);
            }
        }
        Ok(page)
    }

    pub(crate) fn write(&self, tenant: &str, kind: Kind, key: &str, value: &[u8]) -> Result<u64, KeepError> {
        self.put([(name(tenant, kind, key), value)])
    }

    /// Several values in one commit.
    pub(crate) fn write_all(
        &self,
        kind: Kind,
        values: &[(String, String, Zeroizing<Vec<u8>>)],
    ) -> Result<(), KeepError> {
        let named = values.iter().map(|(tenant, key, value)| (name(tenant, kind, key), value.as_slice()));
        self.put(named).map(|_| ())
    }

    /// Puts values under their whole names; the last one's revision.
    fn put<'a>(&self, values: impl IntoIterator<Item = (Vec<u8>, &'a [u8])>) -> Result<u64, KeepError> {
        let write = self.database.begin_write().map_err(failed)?;
        let revision = {
            let mut meta = write.open_table(META).map_err(failed)?;
            let mut revision = meta.get("revision").map_err(failed)?.map_or(0, |value| value.value());
            let mut table = write.open_table(RECORDS).map_err(failed)?;
            for (name, value) in values {
                revision = revision.saturating_add(1);
                table.insert(name.as_slice(), self.seal(&name, revision, value)?.as_slice()).map_err(failed)?;
            }
            meta.insert("revision", revision).map_err(failed)?;
            revision
        };
        write.commit().map_err(failed)?;
        Ok(revision)
    }

    /// A revision that nothing has.
    pub(crate) fn next(&self) -> Result<u64, KeepError> {
        let write = self.database.begin_write().map_err(failed)?;
        let next = {
            let mut meta = write.open_table(META).map_err(failed)?;
            let last = meta.get("revision").map_err(failed)?.map_or(0, |value| value.value());
            let next = last.saturating_add(1);
            meta.insert("revision", next).map_err(failed)?;
            next
        };
        write.commit().map_err(failed)?;
        Ok(next)
    }

    pub(crate) fn delete(&self, tenant: &str, kind: Kind, key: &str) -> Result<bool, KeepError> {
        let write = self.database.begin_write().map_err(failed)?;
        let was_there = {
            let mut table = write.open_table(RECORDS).map_err(failed)?;
            let removed = table.remove(name(tenant, kind, key).as_slice()).map_err(failed)?;
            removed.is_some()
        };
        write.commit().map_err(failed)?;
        Ok(was_there)
    }

    /// The name and the revision are authenticated with the value: a value under another name, or an older one in the place of
    /// a newer with its revision, is none.
    fn seal(&self, name: &[u8], revision: u64, value: &[u8]) -> Result<Vec<u8>, KeepError> {
        let mut nonce = [0_u8; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| failed("no random numbers"))?;
        let revision = revision.to_be_bytes();
        let mut sealed = Zeroizing::new(Vec::with_capacity(value.len() + MAX_TAG_LEN));
        sealed.extend_from_slice(value);
        let context = Aad::from([name, &revision].concat());
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), context, &mut *sealed)
            .map_err(|_| failed("the cipher failed"))?;
        Ok([&revision[..], &nonce, &sealed].concat())
    }

    fn unseal(&self, name: &[u8], key: &str, value: &[u8]) -> Result<Kept, KeepError> {
        let damaged = || failed(format!("the record {key:?} was not written by this broker: restore a backup"));
        let (revision, rest) = value.split_first_chunk::<REVISION>().ok_or_else(damaged)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(damaged)?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        let context = Aad::from([name, revision].concat());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key.open_in_place(nonce, context, &mut plain).map_err(|_| damaged())?.len();
        plain.truncate(length);
        Ok(Kept { key: key.to_owned(), revision: u64::from_be_bytes(*revision), value: plain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("belljar-keep-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn what_is_kept_is_there_after_the_process() {
        let path = place("stays");
        {
            let file = File::open(&path, &[1; 32]).unwrap();
            assert_eq!(file.write("a", Kind::Resource, "x/y/z", b"secret").unwrap(), 2);
            let again = File::open(&path, &[1; 32]).err().unwrap().to_string();
            assert!(
                again.ends_with("another broker has it open: stop that one, or give this one another data directory"),
                "{again}"
            );
        }
        let file = File::open(&path, &[1; 32]).unwrap();
        let kept = file.read("a", Kind::Resource, "x/y/z").unwrap().unwrap();
        assert_eq!((kept.revision, kept.value.as_slice()), (2, &b"secret"[..]));
        for (tenant, kind, key) in
            [("b", Kind::Resource, "x/y/z"), ("a", Kind::Policy, "x/y/z"), ("a", Kind::Resource, "x/y/")]
        {
            assert!(file.read(tenant, kind, key).unwrap().is_none());
        }
        assert_eq!(
            (file.delete("a", Kind::Resource, "x/y/z").unwrap(), file.delete("a", Kind::Resource, "x/y/z").unwrap()),
            (true, false)
        );
        drop(file);
        let other = File::open(&path, &[2; 32]).err().unwrap().to_string();
        assert!(other.ends_with("it is sealed under another key than the given one"), "{other}");
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = File::open(&path, &[1; 32]).err().unwrap().to_string();
        assert!(open.contains("it has mode 644"), "{open}");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_value_in_the_place_of_another_is_refused() {
        let path = place("moved");
        let file = File::open(&path, &[1; 32]).unwrap();
        file.write("a", Kind::Resource, "one", b"1").unwrap();
        file.write("b", Kind::Resource, "one", b"2").unwrap();
        let put = |from: &[u8], to: &[u8]| {
            let write = file.database.begin_write().unwrap();
            {
                let mut table = write.open_table(RECORDS).unwrap();
                let value = table.get(from).unwrap().unwrap().value().to_vec();
                table.insert(to, value.as_slice()).unwrap();
            }
            write.commit().unwrap();
        };
        let (a, b) = (name("a", Kind::Resource, "one"), name("b", Kind::Resource, "one"));
        put(&a, &a);
        assert!(file.read("a", Kind::Resource, "one").unwrap().is_some());
        put(&b, &a);
        let told = file.read("a", Kind::Resource, "one").err().unwrap().to_string();
        assert!(told.contains("was not written by this broker"), "{told}");
        std::fs::remove_file(&path).unwrap();
    }
}
