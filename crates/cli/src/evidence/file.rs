//! Files of a user, read within bounds.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use belljar_verifier::ders;

use crate::failure::Failure;

/// Longest file that is read, in bytes.
const MAX_FILE: usize = 16 * 1024 * 1024;

/// The bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    read_most(path, MAX_FILE)
}

/// The bytes of a file that may have so many.
pub fn read_most(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(Failure::usage(format!("{} is longer than {most} bytes", path.display())));
    }
    Ok(bytes)
}

/// Certificates of a file in PEM, or the one in DER.
pub fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let all =
        ders(&read(path)?, "CERTIFICATE").map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    if all.is_empty() {
        return Err(Failure::usage(format!("{} holds no certificate: give it in PEM or DER", path.display())));
    }
    Ok(all)
}

/// The one certificate of a file in PEM or DER.
pub fn certificate(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut all = certificates(path)?;
    match (all.pop(), all.len()) {
        (Some(one), 0) => Ok(one),
        _ => Err(Failure::usage(format!("{} holds several certificates: give one", path.display()))),
    }
}

/// The one revocation list of a file in PEM or DER.
pub fn crl(path: &Path) -> Result<Vec<u8>, Failure> {
    let wrong = |why: &str| Failure::usage(format!("{}: {why}", path.display()));
    let mut all = ders(&read(path)?, "X509 CRL").map_err(|error| wrong(&error))?;
    match (all.pop(), all.len()) {
        (Some(one), 0) => Ok(one),
        _ => Err(wrong("not one revocation list: give one in PEM or DER")),
    }
}
