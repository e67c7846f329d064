//! The signature structure of an enclave.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
use serde::Serialize;

use super::wide::{LIMBS, Wide, difference, from_le, is_less, product};

/// Length of a SIGSTRUCT in bytes.
pub const SIGSTRUCT_LEN: usize = 1808;
/// Longest signed enclave that is searched, in bytes.
pub const MAX_ENCLAVE: usize = 256 * 1024 * 1024;
/// HEADER, and HEADER2 at offset 24.
const HEADER: [u8; 16] = [6, 0, 0, 0, 0xE1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
const HEADER_2: [u8; 16] = [1, 1, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 1, 0, 0, 0];

/// Why bytes are not a signature structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SigstructError {
    /// Another length.
    #[error("{0} bytes are no sigstruct, which has {SIGSTRUCT_LEN}: give a .sig file or a signed enclave")]
    Length(usize),
    /// The constant headers are not there.
    #[error("no sigstruct: its constant headers are missing")]
    Header,
    /// An exponent that EINIT does not take.
    #[error("sigstruct has the exponent {0}, EINIT takes 3 only: refuse it")]
    Exponent(u32),
    /// A signed enclave without one.
    #[error("no sigstruct in this file: it is no signed enclave")]
    None,
    /// A file with more than one.
    #[error("this file holds several sigstructs: give the .sig file of the enclave that is meant")]
    Several,
    /// Longer than any enclave.
    #[error("file has {0} bytes, more than {MAX_ENCLAVE}: it is no enclave")]
    TooLong(usize),
}

/// A signature structure. Serialises to an object; bytes are lowercase hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sigstruct {
    /// Measurement of the enclave.
    #[serde(serialize_with = "hex::serde::serialize")]
    pub mrenclave: [u8; 32],
    /// SHA-256 of the signer's modulus.
    #[serde(serialize_with = "hex::serde::serialize")]
    pub mrsigner: [u8; 32],
    /// Flags (8 bytes) and XFRM (8 bytes) that the enclave must have.
    #[serde(serialize_with = "hex::serde::serialize")]
    pub attributes: [u8; 16],
    /// Which of them.
    #[serde(serialize_with = "hex::serde::serialize")]
    pub attributes_mask: [u8; 16],
    /// MISCSELECT.
    #[serde(serialize_with = "hex::serde::serialize")]
    pub misc_select: [u8; 4],
    /// Which of its bits.
    #[serde(serialize_with = "hex::serde::serialize")]
    pub misc_mask: [u8; 4],
    /// Product id.
    pub isv_prod_id: u16,
    /// Security version.
    pub isv_svn: u16,
    /// Family id (KSS).
    #[serde(serialize_with = "hex::serde::serialize")]
    pub isv_family_id: [u8; 16],
    /// Extended product id (KSS).
    #[serde(serialize_with = "hex::serde::serialize")]
    pub isv_ext_prod_id: [u8; 16],
    /// Date of the signature as it stands there: year, month and day in hex digits.
    pub date: String,
    /// 0x8086 for Intel, else 0.
    pub vendor: u32,
    /// DEBUG is set, or not asked for: such an enclave may be debugged.
    pub may_debug: bool,
    /// KSS is set.
    pub kss: bool,
    /// Whether the RSA signature verifies.
    pub signature_verifies: bool,
    /// Whether Q1 and Q2 are what EINIT computes with.
    pub q1_q2_hold: bool,
}

impl Sigstruct {
    /// Reads a structure of 1808 bytes and checks its signature as EINIT does.
    ///
    /// # Errors
    /// [`SigstructError::Length`], [`SigstructError::Header`] or [`SigstructError::Exponent`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SigstructError> {
        let bytes: &[u8; SIGSTRUCT_LEN] = bytes.try_into().map_err(|_| SigstructError::Length(bytes.len()))?;
        if !begins(bytes) {
            return Err(SigstructError::Header);
        }
        let exponent = u32::from_le_bytes(at(bytes, 512));
        if exponent != 3 {
            return Err(SigstructError::Exponent(exponent));
        }
        let (modulus, signature): ([u8; 384], [u8; 384]) = (at(bytes, 128), at(bytes, 516));
        let signed = [part(bytes, 0, 128), part(bytes, 900, 1028)].concat();
        let attributes: [u8; 16] = at(bytes, 928);
        let attributes_mask: [u8; 16] = at(bytes, 944);
        let mut mrsigner = [0; 32];
        mrsigner.copy_from_slice(digest(&SHA256, &modulus).as_ref());
        Ok(Self {
            mrenclave: at(bytes, 960),
            mrsigner,
            attributes,
            attributes_mask,
            misc_select: at(bytes, 900),
            misc_mask: at(bytes, 904),
            isv_prod_id: u16::from_le_bytes(at(bytes, 1024)),
            isv_svn: u16::from_le_bytes(at(bytes, 1026)),
            isv_family_id: at(bytes, 912),
            isv_ext_prod_id: at(bytes, 1008),
            date: format!("{:08x}", u32::from_le_bytes(at(bytes, 20))),
            vendor: u32::from_le_bytes(at(bytes, 16)),
            may_debug: attributes[0] & 2 != 0 || attributes_mask[0] & 2 == 0,
            kss: attributes[0] & 0x80 != 0,
            signature_verifies: verifies(&modulus, &signed, &signature),
            q1_q2_hold: quotients_hold(&modulus, &signature, part(bytes, 1040, 1424), part(bytes, 1424, 1808)),
        })
    }

    /// Whether EINIT would take it, as far as the structure itself goes.
    pub fn is_signed(&self) -> bool {
        self.signature_verifies && self.q1_q2_hold
    }
}

/// The one signature structure in a file: the file itself, or inside of a signed enclave.
///
/// # Errors
/// Any [`SigstructError`].
pub fn find_sigstruct(file: &[u8]) -> Result<Sigstruct, SigstructError> {
    if file.len() == SIGSTRUCT_LEN {
        return Sigstruct::parse(file);
    }
    if file.len() > MAX_ENCLAVE {
        return Err(SigstructError::TooLong(file.len()));
    }
    let mut found = file.windows(SIGSTRUCT_LEN).filter(|window| begins(window));
    match (found.next(), found.next()) {
        (Some(one), None) => Sigstruct::parse(one),
        (None, _) => Err(SigstructError::None),
        _ => Err(SigstructError::Several),
    }
}

fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(&HEADER) && bytes.get(24..40) == Some(&HEADER_2[..])
}

fn part(bytes: &[u8; SIGSTRUCT_LEN], from: usize, to: usize) -> &[u8] {
    bytes.get(from..to).unwrap_or_default()
}

/// The `N` bytes at a constant offset; every caller stays within the structure.
fn at<const N: usize>(bytes: &[u8; SIGSTRUCT_LEN], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    if let Some(found) = bytes.get(offset..offset.saturating_add(N)) {
        field.copy_from_slice(found);
    }
    field
}

/// PKCS#1 v1.5 with SHA-256; the numbers are least significant byte first.
fn verifies(modulus: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    let reversed = |number: &[u8]| number.iter().rev().copied().collect::<Vec<u8>>();
    let key = PublicKeyComponents { n: reversed(modulus), e: vec![3] };
    key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, &reversed(signature)).is_ok()
}

/// Q1 = signature² / modulus, Q2 = (signature² mod modulus) × signature / modulus, both rounded down.
fn quotients_hold(modulus: &[u8], signature: &[u8], q1: &[u8], q2: &[u8]) -> bool {
    let (modulus, signature) = (from_le(modulus), from_le(signature));
    let rest = |dividend: &Wide, quotient: &[u8]| {
        let rest = difference(dividend, &product(&from_le(quotient), &modulus))?;
        is_less(&rest, &modulus).then(|| rest.into_iter().take(LIMBS).collect::<Wide>())
    };
    let first = rest(&product(&signature, &signature), q1);
    first.and_then(|first| rest(&product(&first, &signature), q2)).is_some()
}

/// Reads arbitrary bytes; for fuzzing.
pub fn fuzz(data: &[u8]) {
    let _ = (find_sigstruct(data), super::enclave_hash(data));
}
