//! The keys of the software TEE: made once per user, then only read.
//!
//! A folder with mode 0700 holds the certificates of a root (ARK), an intermediate (ASK) and an endorsement key (VCEK) of
//! one imagined chip, and the last one's private key, in files with mode 0600. The private keys of root and intermediate
//! are forgotten as soon as they have signed: nothing is ever issued under them again. Processes that start at once agree on one set: the first makes it under a lock, in a
//! folder of its own that is renamed when it is complete.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use belljar_evidence::snp::{Anchors, CertKind, CertTable, Certificate, Chain, Vek};
use zeroize::Zeroizing;

use crate::certificates::{self, ARK, ASK, Issuer};

/// Folder of the complete set below the given one; its name changes with the format.
const SET: &str = "v1";
/// Longest file of a set in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// A file or folder cannot be made or read.
    #[error("cannot use {} for the software TEE's keys ({source}): check space, owner and mode", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others may read or change a file or folder.
    #[error("{} is open to other users (mode {mode:o}, owner {owner}): remove it, new keys will be made", path.display())]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// User that owns it.
        owner: u32,
    },
    /// A stored set that does not fit together.
    #[error("the software TEE's keys in {} are damaged ({reason}): remove the folder, new keys will be made", path.display())]
    Damaged {
        /// Folder of the set.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Making a key or a certificate failed.
    #[error(
        "cannot make keys for the software TEE ({0}): check that the system gives random numbers and its clock is set"
    )]
    Generate(&'static str),
}

/// The keys of the software TEE, ready to sign reports.
pub struct Keys {
    ark: Vec<u8>,
    ask: Vec<u8>,
    vcek: Vec<u8>,
    chip_id: [u8; 64],
    signer: EcdsaKeyPair,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("chip_id", &hex::encode(self.chip_id)).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the user's keys, and makes them when there are none yet, which takes some seconds.
    ///
    /// # Errors
    /// Any [`KeysError`].
    pub fn load_or_create(folder: &Path) -> Result<Self, KeysError> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
        refuse_exposed(folder)?;
        let set = folder.join(SET);
        if !set.is_dir() {
            let path = folder.join("lock");
            let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
            let lock = lock.map_err(io(&path))?;
            lock.lock().map_err(io(&path))?;
            // Another process may have made them while this one waited. The lock ends with the file.
            if !set.is_dir() {
                create(folder, &set)?;
            }
        }
        Self::load(&set)
    }

    /// The root's certificate, DER: what a verifier must be told to trust.
    pub fn ark(&self) -> &[u8] {
        &self.ark
    }

    /// All certificates, for a verifier.
    pub fn chain(&self) -> Chain {
        Chain { ark: self.ark.clone(), ask: self.ask.clone(), vek: self.vcek.clone(), ..Chain::default() }
    }

    /// Id of the imagined chip, random per user.
    pub fn chip_id(&self) -> &[u8; 64] {
        &self.chip_id
    }

    /// The certificates as an extended guest request gives them; `None` when they are too long for a table.
    pub(crate) fn cert_table(&self) -> Option<Vec<u8>> {
        let entries =
            [(CertKind::Vcek, self.vcek.clone()), (CertKind::Ask, self.ask.clone()), (CertKind::Ark, self.ark.clone())];
        CertTable::new(entries).encode().ok()
    }

    /// Signs with the endorsement key: 48 bytes of r and 48 bytes of s, most significant first.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<[u8; 96]> {
        let signature = self.signer.sign(&SystemRandom::new(), message).ok()?;
        signature.as_ref().try_into().ok()
    }

    fn load(set: &Path) -> Result<Self, KeysError> {
        refuse_exposed(set)?;
        let damaged = |reason: String| KeysError::Damaged { path: set.to_owned(), reason };
        let [ark, ask, vcek] = [read(&set.join("ark.der"))?, read(&set.join("ask.der"))?, read(&set.join("vcek.der"))?];
        let key = read(&set.join("vcek.key"))?;
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key)
            .map_err(|error| damaged(format!("vcek.key: {error}")))?;
        let certificate = Certificate::parse(&vcek).and_then(Vek::new);
        let vek = certificate.map_err(|error| damaged(format!("vcek.der: {error}")))?;
        if vek.certificate.p384_key() != Some(signer.public_key().as_ref()) {
            return Err(damaged("vcek.key is not the key of vcek.der".to_owned()));
        }
        let chip_id = vek.hw_id.and_then(|id| id.try_into().ok());
        let chip_id = chip_id.ok_or_else(|| damaged("vcek.der has no chip id".to_owned()))?;
        Ok(Self { ark: ark.to_vec(), ask: ask.to_vec(), vcek: vcek.to_vec(), chip_id, signer })
    }

    /// The anchors that trust this user's software TEE beside AMD's roots.
    pub fn anchors(&self) -> Anchors {
        Anchors::amd().with_software_root(&self.ark)
    }
}

/// Makes a set in a folder of its own, and moves it into place when every byte is on disk.
fn create(folder: &Path, set: &Path) -> Result<(), KeysError> {
    tracing::info!("making the software TEE's keys, once for this user: two RSA keys with 4096 bits take some seconds");
    let started = Instant::now();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| KeysError::Generate("clock before 1970"))?;
    let now = now.as_secs();
    let rsa = || RsaKeyPair::generate(KeySize::Rsa4096).map_err(|_| KeysError::Generate("RSA key"));
    // Two at once: each takes seconds.
    let (ark_key, ask_key) = std::thread::scope(|scope| {
        let other = scope.spawn(rsa);
        let ark_key = rsa();
        (ark_key, other.join().unwrap_or(Err(KeysError::Generate("RSA key"))))
    });
    let (ark_key, ask_key) = (ark_key?, ask_key?);
    let vcek_key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING);
    let vcek_key = vcek_key.map_err(|_| KeysError::Generate("P-384 key"))?;
    let mut chip_id = [0; 64];
    aws_lc_rs::rand::fill(&mut chip_id).map_err(|_| KeysError::Generate("chip id"))?;

    let certificate = |_| KeysError::Generate("certificate");
    let root = Issuer { common_name: ARK, key: &ark_key };
    let intermediate = Issuer { common_name: ASK, key: &ask_key };
    let ark = certificates::authority(root, root, now).map_err(certificate)?;
    let ask = certificates::authority(intermediate, root, now).map_err(certificate)?;
    let point = vcek_key.public_key().as_ref();
    let vcek = certificates::vcek(point, &chip_id, intermediate, now).map_err(certificate)?;

    // What an earlier process left when it was killed; the lock says that none is at it now.
    let making = folder.join("new");
    if making.exists() {
        std::fs::remove_dir_all(&making).map_err(io(&making))?;
    }
    DirBuilder::new().mode(0o700).create(&making).map_err(io(&making))?;
    for (name, bytes) in [("ark.der", &ark), ("ask.der", &ask), ("vcek.der", &vcek)] {
        write(&making.join(name), bytes)?;
    }
    let der = vcek_key.to_pkcs8v1().map_err(|_| KeysError::Generate("P-384 key"))?;
    write(&making.join("vcek.key"), der.as_ref())?;
    std::fs::rename(&making, set).map_err(io(set))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io(folder))?;
    tracing::info!(seconds = started.elapsed().as_secs_f32(), "made the software TEE's keys");
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all())).map_err(io(path))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    refuse_exposed(path)?;
    // Room for the longest file at once: a buffer that grows would leave parts of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE).unwrap_or_default()));
    File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)).map_err(io(path))?;
    Ok(bytes)
}

/// Refuses what other users may read or write, or what belongs to one of them.
fn refuse_exposed(path: &Path) -> Result<(), KeysError> {
    let metadata = std::fs::metadata(path).map_err(io(path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeysError::Exposed { path: path.to_owned(), mode, owner: metadata.uid() });
    }
    Ok(())
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> KeysError {
    move |source| KeysError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_start_at_once_agree_and_later_ones_read() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("below").join("softtee");
        let all: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| Keys::load_or_create(&keys).unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let again = Keys::load_or_create(&keys).unwrap();
        for other in &all {
            assert_eq!((other.chain(), other.chip_id()), (again.chain(), again.chip_id()));
        }
        for entry in std::fs::read_dir(keys.join(SET)).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        }
        for kept in [keys.clone(), keys.join(SET)] {
            assert_eq!(std::fs::metadata(kept).unwrap().permissions().mode() & 0o7777, 0o700);
        }
        assert!(!keys.join("new").exists());
        assert!(!format!("{again:?}").contains("PrivateKey"));

        let mut names: Vec<_> =
            std::fs::read_dir(keys.join(SET)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["ark.der", "ask.der", "vcek.der", "vcek.key"]);

        // A key that others could have read is not used; closed again, it is (the twin).
        let secret = keys.join(SET).join("vcek.key");
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Keys::load_or_create(&keys).unwrap_err();
        assert!(matches!(&error, KeysError::Exposed { path, mode: 0o640, .. } if *path == secret), "{error}");
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        Keys::load_or_create(&keys).unwrap();

        // Another user's key beside this user's certificate.
        let other = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        std::fs::write(&secret, other.to_pkcs8v1().unwrap()).unwrap();
        let error = Keys::load_or_create(&keys).unwrap_err();
        assert!(matches!(&error, KeysError::Damaged { reason, .. } if reason.contains("not the key")), "{error}");
        std::fs::write(&secret, b"").unwrap();
        let error = Keys::load_or_create(&keys).unwrap_err();
        assert!(matches!(&error, KeysError::Damaged { reason, .. } if reason.starts_with("vcek.key")), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = Keys::load_or_create(&file.join("keys")).unwrap_err();
        assert!(matches!(&error, KeysError::Io { path, .. } if *path == file.join("keys")), "{error}");
    }
}
