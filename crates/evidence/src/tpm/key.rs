//! Public keys of a TPM: the attestation key (AK) and the endorsement key (EK).

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, UnparsedPublicKey,
};
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode, Reader, SliceReader};
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::Hash;
use super::attest::sized;
use super::signature::{Scheme, Signature};
use crate::bytes::Bytes;

/// Longest key that is read, in bytes.
const MAX_KEY: usize = 4096;
const RSA: u16 = 0x0001;
const ECC: u16 = 0x0023;
const NULL: u16 = 0x0010;
/// TPMA_OBJECT: fixedTPM, fixedParent, sensitiveDataOrigin, restricted and sign.
const ATTESTATION_KEY: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 18;
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Why bytes are not a public key of a TPM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Longer than any key.
    #[error("public key has {0} bytes, more than {MAX_KEY}: give one key")]
    Length(usize),
    /// Not a whole key of the form that was asked for.
    #[error("not a public key in {0}: it was cut, or something follows it")]
    Form(&'static str),
    /// Neither RSA with 2048 to 4096 bits nor P-256 nor P-384.
    #[error("public key is neither RSA with 2048 to 4096 bits nor on P-256 or P-384: refuse it")]
    Algorithm,
    /// A key of a TPM that is not an attestation key.
    #[error("public key has the attributes {0:#010x}: an attestation key is fixed to its TPM, restricted, and signs")]
    Attributes(u32),
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA.
    Rsa {
        /// Modulus, most significant byte first, without leading zeros.
        modulus: Vec<u8>,
        /// Exponent, likewise.
        exponent: Vec<u8>,
    },
    /// P-256 or P-384.
    Ec {
        /// Length of a coordinate in bytes: 32 or 48.
        size: usize,
        /// Uncompressed point.
        point: Vec<u8>,
    },
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo, PEM or DER.
    ///
    /// # Errors
    /// Any [`KeyError`] but [`KeyError::Attributes`].
    pub fn from_spki(bytes: &[u8]) -> Result<Self, KeyError> {
        const FORM: KeyError = KeyError::Form("PEM or DER (SubjectPublicKeyInfo)");
        if bytes.len() > MAX_KEY {
            return Err(KeyError::Length(bytes.len()));
        }
        let text = bytes.trim_ascii();
        let decoded = if text.starts_with(b"-----BEGIN PUBLIC KEY-----") {
            x509_cert::der::pem::decode_vec(text).map_err(|_| FORM)?.1
        } else {
            bytes.to_vec()
        };
        let spki = SubjectPublicKeyInfoRef::from_der(&decoded).map_err(|_| FORM)?;
        let bits = spki.subject_public_key.as_bytes().ok_or(FORM)?;
        if spki.algorithm.oid == RSA_ENCRYPTION {
            let mut reader = SliceReader::new(bits).map_err(|_| FORM)?;
            let numbers = reader
                .sequence(|key| Ok((UintRef::decode(key)?.as_bytes(), UintRef::decode(key)?.as_bytes())))
                .and_then(|numbers| reader.finish(numbers));
            let (modulus, exponent) = numbers.map_err(|_| FORM)?;
            return Self::rsa(modulus, exponent);
        }
        let curve = spki.algorithm.parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        match (spki.algorithm.oid == EC_PUBLIC_KEY, curve) {
            (true, Some(SECP256R1)) => Self::ec(32, bits),
            (true, Some(SECP384R1)) => Self::ec(48, bits),
            _ => Err(KeyError::Algorithm),
        }
    }

    /// Reads the numbers of an RSA key, most significant byte first.
    ///
    /// # Errors
    /// [`KeyError::Algorithm`].
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let trim = |number: &[u8]| number.iter().copied().skip_while(|&byte| byte == 0).collect::<Vec<u8>>();
        let (modulus, exponent) = (trim(modulus), trim(exponent));
        if !(256..=512).contains(&modulus.len()) || exponent.is_empty() || exponent.len() > 8 {
            return Err(KeyError::Algorithm);
        }
        Ok(Self::Rsa { modulus, exponent })
    }

    fn ec(size: usize, point: &[u8]) -> Result<Self, KeyError> {
        let algorithm = ec_algorithm(size).ok_or(KeyError::Algorithm)?;
        // Only uncompressed points of the curve.
        if point.len() != size.saturating_mul(2).saturating_add(1) || point.first() != Some(&4) {
            return Err(KeyError::Algorithm);
        }
        aws_lc_rs::signature::ParsedPublicKey::new(algorithm, point).map_err(|_| KeyError::Algorithm)?;
        Ok(Self::Ec { size, point: point.to_vec() })
    }

    /// Reads a TPM2B_PUBLIC of an attestation key, and gives its name, too: number of the hash and digest.
    ///
    /// # Errors
    /// Any [`KeyError`].
    pub fn attestation_key(bytes: &[u8]) -> Result<(Self, Vec<u8>), KeyError> {
        let (key, name, attributes) = Self::from_tpm2b(bytes)?;
        if attributes & ATTESTATION_KEY != ATTESTATION_KEY {
            return Err(KeyError::Attributes(attributes));
        }
        Ok((key, name))
    }

    /// Reads a TPM2B_PUBLIC: the key, its name and its attributes (TPMA_OBJECT).
    ///
    /// # Errors
    /// Any [`KeyError`] but [`KeyError::Attributes`].
    pub fn from_tpm2b(bytes: &[u8]) -> Result<(Self, Vec<u8>, u32), KeyError> {
        const FORM: KeyError = KeyError::Form("TPM2B_PUBLIC");
        if bytes.len() > MAX_KEY {
            return Err(KeyError::Length(bytes.len()));
        }
        let mut outer = Bytes::new(bytes);
        let public = sized(&mut outer).filter(|_| outer.len() == 0).ok_or(FORM)?;
        let mut from = Bytes::new(&public);
        let (kind, name_hash) = (from.u16_be().ok_or(FORM)?, from.u16_be().ok_or(FORM)?);
        let attributes = from.u32_be().ok_or(FORM)?;
        sized(&mut from).ok_or(FORM)?;
        let key = match kind {
            RSA => rsa_area(&mut from).ok_or(FORM)?,
            ECC => ec_area(&mut from).ok_or(FORM)?,
            _ => return Err(KeyError::Algorithm),
        }?;
        if from.len() > 0 {
            return Err(FORM);
        }
        let hash = Hash::of(name_hash).ok_or(FORM)?;
        let mut name = name_hash.to_be_bytes().to_vec();
        name.extend(hash.digest(&[&public]));
        Ok((key, name, attributes))
    }

    /// SHA-256 over the key alone: length of the modulus (8 bytes, most significant first), modulus and exponent, or the
    /// point. It is what a list of trusted keys holds.
    pub fn fingerprint(&self) -> [u8; 32] {
        let digest = match self {
            // The length keeps a longer modulus with a shorter exponent apart from this one.
            Self::Rsa { modulus, exponent } => Hash::Sha256.digest(&[&modulus.len().to_be_bytes(), modulus, exponent]),
            Self::Ec { point, .. } => Hash::Sha256.digest(&[point]),
        };
        let mut fingerprint = [0; 32];
        fingerprint.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        fingerprint
    }

    /// Whether this key signed the message.
    pub fn signed(&self, message: &[u8], signature: &Signature) -> bool {
        match (self, signature.scheme, signature.numbers.as_slice()) {
            (Self::Rsa { modulus, exponent }, Scheme::RsaSsa | Scheme::RsaPss, [number]) => {
                let parameters = match (signature.scheme, signature.hash) {
                    (Scheme::RsaSsa, Hash::Sha256) => &RSA_PKCS1_2048_8192_SHA256,
                    (Scheme::RsaSsa, Hash::Sha384) => &RSA_PKCS1_2048_8192_SHA384,
                    (Scheme::RsaSsa, Hash::Sha512) => &RSA_PKCS1_2048_8192_SHA512,
                    (Scheme::RsaPss, Hash::Sha256) => &RSA_PSS_2048_8192_SHA256,
                    (Scheme::RsaPss, Hash::Sha384) => &RSA_PSS_2048_8192_SHA384,
                    (Scheme::RsaPss, Hash::Sha512) => &RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                PublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, number).is_ok()
            }
            (Self::Ec { size, point }, Scheme::Ecdsa, [r, s]) => {
                let fits = matches!((size, signature.hash), (32, Hash::Sha256) | (48, Hash::Sha384));
                let (Some(algorithm), true) = (ec_algorithm(*size), fits) else { return false };
                let (Some(mut numbers), Some(s)) = (padded(r, *size), padded(s, *size)) else { return false };
                numbers.extend(s);
                UnparsedPublicKey::new(algorithm, point).verify(message, &numbers).is_ok()
            }
            _ => false,
        }
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = (Self::from_spki(data), Self::from_tpm2b(data));
    }
}

fn ec_algorithm(size: usize) -> Option<&'static EcdsaVerificationAlgorithm> {
    match size {
        32 => Some(&ECDSA_P256_SHA256_FIXED),
        48 => Some(&ECDSA_P384_SHA384_FIXED),
        _ => None,
    }
}

/// The number in as many bytes, zeros before it.
fn padded(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; size.checked_sub(number.len())?];
    bytes.extend(number);
    Some(bytes)
}

/// TPMT_SYM_DEF_OBJECT and an asymmetric scheme, which say nothing about the key itself.
fn skip_schemes(from: &mut Bytes<'_>) -> Option<()> {
    if from.u16_be()? != NULL {
        from.slice(4)?;
    }
    if from.u16_be()? != NULL {
        from.slice(2)?;
    }
    Some(())
}

fn rsa_area(from: &mut Bytes<'_>) -> Option<Result<PublicKey, KeyError>> {
    skip_schemes(from)?;
    from.u16_be()?;
    let exponent = match from.u32_be()? {
        0 => 65_537,
        other => other,
    };
    let modulus = sized(from)?;
    Some(PublicKey::rsa(&modulus, &exponent.to_be_bytes()))
}

fn ec_area(from: &mut Bytes<'_>) -> Option<Result<PublicKey, KeyError>> {
    skip_schemes(from)?;
    let size = match from.u16_be()? {
        0x0003 => 32,
        0x0004 => 48,
        _ => return Some(Err(KeyError::Algorithm)),
    };
    if from.u16_be()? != NULL {
        from.slice(2)?;
    }
    let (x, y) = (sized(from)?, sized(from)?);
    let point = padded(&x, size).zip(padded(&y, size)).map(|(x, y)| [vec![4], x, y].concat());
    Some(point.ok_or(KeyError::Algorithm).and_then(|point| PublicKey::ec(size, &point)))
}
