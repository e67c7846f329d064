//! COSE_Sign1 (RFC 9052) around a manifest.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, UnparsedPublicKey,
};
use coset::cbor::value::Value;
use coset::{AsCborValue, CborSerializable, ContentType, CoseSign1, Header, Label, RegisteredLabelWithPrivate, iana};
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::map::Map;
use super::{CorimError, one_item, window, within};

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// Media types of a manifest, and as earlier drafts had it.
const CONTENT_TYPES: [&str; 2] = ["application/rim+cbor", "application/corim-unsigned+cbor"];
/// Labels of protected headers: corim-meta, and CWT claims (RFC 9597).
const CORIM_META: i64 = 8;
const CWT_CLAIMS: i64 = 15;

/// Why a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a SubjectPublicKeyInfo in DER.
    #[error("not a public key in der (SubjectPublicKeyInfo): write it with `openssl pkey -pubin -outform der`")]
    Form,
    /// Another key than one on P-256 or P-384.
    #[error("public key is on no curve that is read: p-256 and p-384 are")]
    Curve,
}

/// A key that may sign manifests.
#[derive(Clone, PartialEq, Eq)]
pub struct CorimKey {
    point: Vec<u8>,
    is_p384: bool,
    /// SHA-256 of the SubjectPublicKeyInfo, lowercase hex.
    fingerprint: String,
}

impl CorimKey {
    /// From a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// Any [`KeyError`].
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let spki = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| KeyError::Form)?;
        let curve = spki.algorithm.parameters_oid().map_err(|_| KeyError::Curve)?;
        let is_p384 = match (spki.algorithm.oid, curve) {
            (EC_PUBLIC_KEY, P256) => false,
            (EC_PUBLIC_KEY, P384) => true,
            _ => return Err(KeyError::Curve),
        };
        let point = spki.subject_public_key.as_bytes().ok_or(KeyError::Form)?.to_vec();
        if point.len() != if is_p384 { 97 } else { 65 } || point.first() != Some(&4) {
            return Err(KeyError::Form);
        }
        Ok(Self { point, is_p384, fingerprint: hex::encode(digest(&SHA256, der)) })
    }

    /// SHA-256 of the SubjectPublicKeyInfo, lowercase hex: the signer of reference values.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &EcdsaVerificationAlgorithm =
            if self.is_p384 { &ECDSA_P384_SHA384_FIXED } else { &ECDSA_P256_SHA256_FIXED };
        UnparsedPublicKey::new(algorithm, &self.point).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for CorimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CorimKey({})", self.fingerprint)
    }
}

/// What a signature vouches for.
pub(super) struct Opened {
    pub(super) payload: Vec<u8>,
    /// Fingerprint of the key.
    pub(super) signer: String,
    /// Last second at which the signature holds.
    pub(super) until: Option<u64>,
}

/// Verifies a COSE_Sign1 under one of the keys.
pub(super) fn open(value: Value, keys: &[CorimKey], at: u64) -> Result<Opened, CorimError> {
    let sign1 = CoseSign1::from_cbor_value(value).map_err(|_| CorimError::Shape("cose_sign1"))?;
    let header = &sign1.protected.header;
    let is_p384 = match &header.alg {
        Some(RegisteredLabelWithPrivate::Assigned(iana::Algorithm::ES256)) => false,
        Some(RegisteredLabelWithPrivate::Assigned(iana::Algorithm::ES384)) => true,
        Some(other) => return Err(CorimError::Algorithm(crate::text::clean(&format!("{other:?}"), 64))),
        None => return Err(CorimError::Algorithm("no algorithm".to_owned())),
    };
    if keys.is_empty() {
        return Err(CorimError::NoKey);
    }
    if !keys.iter().any(|key| key.is_p384 == is_p384) {
        return Err(CorimError::Algorithm(if is_p384 { "es384" } else { "es256" }.to_owned()));
    }
    let message = sign1.tbs_data(&[]);
    let signer = keys
        .iter()
        .filter(|key| key.is_p384 == is_p384)
        .find(|key| key.verifies(&message, &sign1.signature))
        .ok_or(CorimError::Signature(keys.len()))?;
    let until = headers(header, &sign1.unprotected, at)?;
    let payload = sign1.payload.ok_or(CorimError::Unsupported("a detached payload".to_owned()))?;
    Ok(Opened { payload, signer: signer.fingerprint.clone(), until })
}

/// The headers say nothing that is not read; the last second of the signature, when it holds now.
fn headers(protected: &Header, unprotected: &Header, at: u64) -> Result<Option<u64>, CorimError> {
    let unsupported = |what: &str| CorimError::Unsupported(what.to_owned());
    if !protected.crit.is_empty() {
        return Err(unsupported("critical headers"));
    }
    match &protected.content_type {
        Some(ContentType::Text(found)) if CONTENT_TYPES.contains(&found.as_str()) => {}
        // The number that is registered for application/rim+cbor is not named by coset.
        None => return Err(CorimError::Shape("content type")),
        Some(_) => return Err(unsupported("another content type than application/rim+cbor")),
    }
    for header in [protected, unprotected] {
        if !header.iv.is_empty() || !header.partial_iv.is_empty() || !header.counter_signatures.is_empty() {
            return Err(unsupported("an iv or a countersignature in its headers"));
        }
    }
    // Nobody signed these; a key id is a hint, and the key is given.
    if unprotected.alg.is_some() || unprotected.content_type.is_some() || !unprotected.crit.is_empty() {
        return Err(unsupported("an unprotected header beside the key id"));
    }
    if !unprotected.rest.is_empty() {
        return Err(unsupported("an unprotected header beside the key id"));
    }
    let mut until = None;
    for (label, value) in &protected.rest {
        let found = match label {
            Label::Int(CORIM_META) => meta(value, at)?,
            Label::Int(CWT_CLAIMS) => claims(value.clone(), at)?,
            other => {
                let label = crate::text::clean(&format!("{other:?}"), 40);
                return Err(CorimError::Unsupported(format!("the protected header {label}")));
            }
        };
        until = until.into_iter().chain(found).min();
    }
    Ok(until)
}

/// `corim-meta-map`: who signed, in words, and for how long.
fn meta(value: &Value, at: u64) -> Result<Option<u64>, CorimError> {
    let bytes = value.as_bytes().ok_or(CorimError::Shape("corim-meta"))?;
    let mut map = Map::read(one_item(bytes)?, "corim-meta-map")?;
    let mut signer = Map::read(map.required(0, "corim-meta-map's signer")?, "corim-signer-map")?;
    signer.required(0, "corim-signer-map's name")?;
    let _uri = signer.take(1);
    signer.finish()?;
    let until = match map.take(1) {
        Some(validity) => window(validity, at)?,
        None => None,
    };
    map.finish()?;
    Ok(until)
}

/// CWT claims (RFC 8392): issuer, subject, and for how long.
fn claims(value: Value, at: u64) -> Result<Option<u64>, CorimError> {
    let mut map = Map::read(value, "cwt claims")?;
    let _ = (map.take(1), map.take(2), map.take(6));
    let time = |value: Value| super::map::unsigned(&value).ok_or(CorimError::Shape("time of the cwt claims"));
    let (to, from) = (map.take(4).map(time).transpose()?, map.take(5).map(time).transpose()?);
    map.finish()?;
    within(from, to, at)
}

/// Reads arbitrary bytes as a COSE_Sign1, without a key; for fuzzing.
pub(super) fn fuzz(data: &[u8]) -> Option<()> {
    let sign1 = CoseSign1::from_slice(data).ok()?;
    headers(&sign1.protected.header, &sign1.unprotected, 0).ok().map(drop)
}
