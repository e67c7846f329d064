//! X.509 certificates as AMD issues them: RSA-4096 authorities that sign with RSASSA-PSS, and P-384 endorsement keys.

use std::ops::Deref;

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use serde::ser::{Serialize, SerializeMap, Serializer};
use x509_cert::der::asn1::{Ia5StringRef, ObjectIdentifier, UintRef};
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::KeyUsage;
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::report::{Layout, Tcb};
use crate::anchors::Profile;
use crate::x509::{Fault, MAX_CERTIFICATE, X509};

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// AMD 57230, "VCEK certificate format": extensions of an endorsement key certificate.
const STRUCT_VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.1");
const PRODUCT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const BL_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const SPL_4: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.4");
const SPL_5: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.5");
const SPL_6: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.6");
const SPL_7: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.7");
const UCODE_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HW_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");

/// RSASSA-PSS-params (RFC 4055 §3.1) with SHA-384, MGF1 over SHA-384 and 48 bytes of salt: AMD's newer certificates
/// leave the default trailer field out, as DER wants.
const PSS_SHA384: [u8; 54] = [
    0x30, 0x34, 0xA0, 0x0F, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00,
    0xA1, 0x1C, 0x30, 0x1A, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x08, 0x30, 0x0D, 0x06, 0x09,
    0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xA2, 0x03, 0x02, 0x01, 0x30,
];
/// The same with the trailer field written out, as in AMD's roots and older endorsement keys.
const PSS_SHA384_TRAILER: [u8; 59] = [
    0x30, 0x39, 0xA0, 0x0F, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00,
    0xA1, 0x1C, 0x30, 0x1A, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x08, 0x30, 0x0D, 0x06, 0x09,
    0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xA2, 0x03, 0x02, 0x01, 0x30, 0xA3, 0x03, 0x02,
    0x01, 0x01,
];

/// Why bytes are not a certificate that can stand in an SNP chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// Too long to be one.
    #[error("certificate has {found} bytes, more than {MAX_CERTIFICATE}: give one certificate, not a bundle")]
    Length {
        /// Length of the input.
        found: usize,
    },
    /// Not one DER-encoded X.509 certificate, or bytes follow it.
    #[error("not a DER-encoded certificate ({0}): fetch it again from its issuer")]
    Der(String),
    /// Not signed with RSASSA-PSS, SHA-384, 48 bytes of salt, or the two statements of the algorithm differ.
    #[error("certificate is not signed with RSASSA-PSS and SHA-384 as AMD signs: refuse it")]
    Algorithm,
    /// A public key that is neither RSA-4096 nor P-384.
    #[error("certificate holds a key that is neither RSA with 4096 bits nor P-384: refuse it")]
    Key,
    /// A critical extension that we do not know.
    #[error("certificate has the unknown critical extension {0}: refuse it")]
    Critical(String),
    /// An extension that an endorsement key must have is absent, twice there, or not what it should be.
    #[error("certificate lacks a well-formed extension {0}: it is not an endorsement key of AMD's layout")]
    Extension(&'static str),
    /// The subject is neither SEV-VCEK nor SEV-VLEK.
    #[error("certificate is for {found:?}, not for SEV-VCEK or SEV-VLEK: give the endorsement key's certificate")]
    Subject {
        /// Common name found.
        found: String,
    },
}

impl From<Fault> for CertError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Der(why) => Self::Der(why),
            Fault::Algorithm(_) => Self::Algorithm,
            Fault::Twice(oid) => Self::Der(format!("it has the extension {oid} twice")),
        }
    }
}

/// A public key of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    /// RSA with 4096 bits; DER of PKCS#1 RSAPublicKey.
    Rsa4096(Vec<u8>),
    /// P-384; uncompressed point.
    P384(Vec<u8>),
}

/// One certificate of AMD's profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    x509: X509,
    key: Key,
}

impl Deref for Certificate {
    type Target = X509;

    fn deref(&self) -> &X509 {
        &self.x509
    }
}

impl Profile for Certificate {
    fn read(der: &[u8]) -> Option<Self> {
        Self::parse(der).ok()
    }
}

impl Certificate {
    /// Reads one DER-encoded certificate; nothing may follow it.
    ///
    /// # Errors
    /// Any [`CertError`] but [`CertError::Extension`] and [`CertError::Subject`].
    pub fn parse(der: &[u8]) -> Result<Self, CertError> {
        if der.len() > MAX_CERTIFICATE {
            return Err(CertError::Length { found: der.len() });
        }
        let (x509, spki) = X509::read(der)?;
        let is_right = is_pss_sha384(&x509.algorithm).map_err(|error| CertError::Der(error.to_string()))?;
        if !is_right || x509.signature.is_empty() {
            return Err(CertError::Algorithm);
        }
        if let Some(oid) = x509.unknown_critical(&[]) {
            return Err(CertError::Critical(oid.to_string()));
        }
        Ok(Self { x509, key: key(&spki.algorithm, spki.subject_public_key.as_bytes())? })
    }

    /// Uncompressed point of a P-384 key; `None` for an authority.
    pub fn p384_key(&self) -> Option<&[u8]> {
        match &self.key {
            Key::P384(point) => Some(point),
            Key::Rsa4096(_) => None,
        }
    }

    /// Whether the issuer's name is that of the other certificate's subject, byte for byte.
    pub fn names_issuer(&self, issuer: &Self) -> bool {
        self.issuer == issuer.subject
    }

    /// Whether the other certificate is an authority and its key signed this one.
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        issuer.signed(KeyUsage::key_cert_sign, &self.tbs, &self.signature)
    }

    /// Whether this authority may sign revocation lists, and signed these bytes.
    pub(super) fn signed_list(&self, bytes: &[u8], signature: &[u8]) -> bool {
        self.signed(KeyUsage::crl_sign, bytes, signature)
    }

    /// Whether this is an authority whose key usage is there and allows it, and signed these bytes.
    fn signed(&self, allows: fn(&KeyUsage) -> bool, bytes: &[u8], signature: &[u8]) -> bool {
        let Key::Rsa4096(key) = &self.key else { return false };
        let may = self.authority.is_some() && self.usage.as_ref().is_some_and(allows);
        may && UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key).verify(bytes, signature).is_ok()
    }

    fn extension(&self, oid: ObjectIdentifier, name: &'static str) -> Result<Option<&[u8]>, CertError> {
        let mut found = self.extensions(oid);
        match (found.next(), found.next()) {
            (value, None) => Ok(value),
            _ => Err(CertError::Extension(name)),
        }
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::parse(data).and_then(Vek::new);
    }
}

/// Which endorsement key a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VekKind {
    /// The chip's own key.
    Vcek,
    /// The key of a cloud provider.
    Vlek,
}

/// The certificate of an endorsement key.
///
/// Serialises to an object of its extensions; those without a name of their own stand under their object identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vek {
    /// The certificate itself.
    pub certificate: Certificate,
    /// Which key.
    pub kind: VekKind,
    /// Version of the certificate's format.
    pub struct_version: u8,
    /// Product name, e.g. `Milan-B0`.
    pub product: String,
    /// The TCB that the key was derived for, in the product's layout.
    pub tcb: Tcb,
    /// Chip id of a VCEK: 64 bytes, 8 on Turin.
    pub hw_id: Option<Vec<u8>>,
    /// Cloud provider of a VLEK.
    pub csp_id: Option<String>,
}

impl Vek {
    /// Reads the extensions of an endorsement key's certificate.
    ///
    /// # Errors
    /// [`CertError::Key`], [`CertError::Subject`] or [`CertError::Extension`].
    pub fn new(certificate: Certificate) -> Result<Self, CertError> {
        if certificate.p384_key().is_none() {
            return Err(CertError::Key);
        }
        let kind = match certificate.subject_name() {
            "SEV-VCEK" => VekKind::Vcek,
            "SEV-VLEK" => VekKind::Vlek,
            other => return Err(CertError::Subject { found: other.to_owned() }),
        };
        let optional = |oid, name| certificate.extension(oid, name)?.map(|value| small(value, name)).transpose();
        let required = |oid, name| optional(oid, name)?.ok_or(CertError::Extension(name));
        let text = |oid, name| {
            certificate
                .extension(oid, name)?
                .map(|value| Ia5StringRef::from_der(value).map_err(|_| CertError::Extension(name)))
                .transpose()
        };

        let (bl, tee, snp) = (required(BL_SPL, "blSPL")?, required(TEE_SPL, "teeSPL")?, required(SNP_SPL, "snpSPL")?);
        let (spl_5, spl_6, spl_7) = (required(SPL_5, "spl_5")?, required(SPL_6, "spl_6")?, required(SPL_7, "spl_7")?);
        let ucode = required(UCODE_SPL, "ucodeSPL")?;
        let tcb = match optional(FMC_SPL, "fmcSPL")? {
            Some(fmc) => Tcb { raw: [fmc, bl, tee, snp, spl_5, spl_6, spl_7, ucode], layout: Layout::Turin },
            None => {
                let spl_4 = required(SPL_4, "spl_4")?;
                Tcb { raw: [bl, tee, spl_4, spl_5, spl_6, spl_7, snp, ucode], layout: Layout::Milan }
            }
        };
        let hw_id = certificate.extension(HW_ID, "hwID")?.map(|id| unwrapped(id).to_vec());
        let csp_id = text(CSP_ID, "cspID")?.map(|id| id.as_str().to_owned());
        let hw_id_fits = match (kind, &hw_id) {
            (VekKind::Vcek, Some(id)) => id.len() == if tcb.layout == Layout::Turin { 8 } else { 64 },
            (VekKind::Vcek, None) => false,
            (VekKind::Vlek, id) => id.is_none(),
        };
        if !hw_id_fits {
            return Err(CertError::Extension("hwID"));
        }
        if csp_id.is_some() != (kind == VekKind::Vlek) {
            return Err(CertError::Extension("cspID"));
        }
        Ok(Self {
            kind,
            struct_version: required(STRUCT_VERSION, "structVersion")?,
            product: text(PRODUCT_NAME, "productName")?.ok_or(CertError::Extension("productName"))?.as_str().to_owned(),
            tcb,
            hw_id,
            csp_id,
            certificate,
        })
    }
}

impl Serialize for Vek {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("struct_version", &self.struct_version)?;
        map.serialize_entry("product", &self.product)?;
        if let Some(fmc) = self.tcb.fmc() {
            map.serialize_entry("fmc", &fmc)?;
        }
        map.serialize_entry("bootloader", &self.tcb.bootloader())?;
        map.serialize_entry("tee", &self.tcb.tee())?;
        map.serialize_entry("snp", &self.tcb.snp())?;
        let oids = match self.tcb.layout {
            Layout::Milan => [Some(SPL_4), Some(SPL_5), Some(SPL_6), Some(SPL_7)],
            Layout::Turin => [Some(SPL_5), Some(SPL_6), Some(SPL_7), None],
        };
        for (oid, value) in oids.iter().flatten().zip(self.tcb.reserved()) {
            map.serialize_entry(&oid.to_string(), value)?;
        }
        map.serialize_entry("microcode", &self.tcb.microcode())?;
        if let Some(hw_id) = &self.hw_id {
            map.serialize_entry("hwid", &hex::encode(hw_id))?;
        }
        if let Some(csp_id) = &self.csp_id {
            map.serialize_entry("csp_id", csp_id)?;
        }
        map.end()
    }
}

pub(super) fn is_pss_sha384(algorithm: &AlgorithmIdentifierOwned) -> Result<bool, x509_cert::der::Error> {
    let Some(parameters) = &algorithm.parameters else { return Ok(false) };
    let parameters = parameters.to_der()?;
    Ok(algorithm.oid == RSASSA_PSS && (parameters == PSS_SHA384 || parameters == PSS_SHA384_TRAILER))
}

fn key(algorithm: &AlgorithmIdentifierOwned, bits: Option<&[u8]>) -> Result<Key, CertError> {
    let bits = bits.ok_or(CertError::Key)?;
    match algorithm.oid {
        RSA_ENCRYPTION => {
            let modulus_len = SliceReader::new(bits)
                .and_then(|mut reader| {
                    let length = reader.sequence(|key| {
                        let modulus = UintRef::decode(key)?;
                        UintRef::decode(key)?;
                        Ok(modulus.as_bytes().len())
                    })?;
                    reader.finish(length)
                })
                .map_err(|_| CertError::Key)?;
            if modulus_len == 512 { Ok(Key::Rsa4096(bits.to_vec())) } else { Err(CertError::Key) }
        }
        EC_PUBLIC_KEY => {
            let curve = algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
            if curve == Some(SECP384R1) && bits.len() == 97 && bits.first() == Some(&4) {
                Ok(Key::P384(bits.to_vec()))
            } else {
                Err(CertError::Key)
            }
        }
        _ => Err(CertError::Key),
    }
}

/// The hwID alone: most certificates hold its bare bytes, some wrap them in a DER OCTET STRING.
fn unwrapped(id: &[u8]) -> &[u8] {
    match id {
        [0x04, 64, bare @ ..] if bare.len() == 64 => bare,
        [0x04, 8, bare @ ..] if bare.len() == 8 => bare,
        bare => bare,
    }
}

/// A DER INTEGER from 0 to 255.
fn small(value: &[u8], name: &'static str) -> Result<u8, CertError> {
    u8::from_der(value).map_err(|_| CertError::Extension(name))
}
