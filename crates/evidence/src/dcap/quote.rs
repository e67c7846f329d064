//! The quote: header, body, and what is signed by whom. Reading it says nothing about its truth.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::body::{ENCLAVE_LEN, EnclaveReport, TD_15_EXTENDED_LEN, TD_15_LEN, TD_LEN, TdReport};
use crate::bytes::Bytes;

/// Longest quote that is read, in bytes; real ones have 4 to 8 KiB.
pub const MAX_QUOTE: usize = 64 * 1024;
/// Length of the header in every version.
const HEADER_LEN: usize = 48;
/// Attestation key type 2: ECDSA on P-256.
const ECDSA_P256: u16 = 2;
/// Certification data of type 6 holds the QE report and what certifies it.
const QE_REPORT_CERTIFICATION: u16 = 6;
const TEE_SGX: u32 = 0;
const TEE_TDX: u32 = 0x81;

/// Why bytes are not a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// Longer than any quote.
    #[error("quote has {found} bytes, more than {MAX_QUOTE}: give the quote alone, without a wrapper")]
    Length {
        /// Length of the input.
        found: usize,
    },
    /// The input ends inside of that part.
    #[error("quote ends inside its {0}: it was cut, or is no quote")]
    Short(&'static str),
    /// A version that this program does not read.
    #[error("quote has version {0}, known are 3, 4 and 5: update this program, or refuse the evidence")]
    Version(u16),
    /// A key type that this program does not read.
    #[error("quote has attestation key type {0}, known is 2 (ECDSA P-256): refuse the evidence")]
    KeyType(u16),
    /// A TEE that this program does not know.
    #[error("quote is of TEE type {0:#x}, known are 0 (SGX) and 0x81 (TDX): refuse the evidence")]
    Tee(u32),
    /// A body type that this program does not know, or a size that is not that type's.
    #[error("quote has a body of type {kind} with {size} bytes, known are 1 (384), 2 (584), 3 (648) and 4 (885)")]
    BodyType {
        /// Type of the body.
        kind: u16,
        /// Size that the quote says it has.
        size: u32,
    },
    /// Version 4 and 5 hold the QE report as certification data of type 6.
    #[error("quote has certification data of type {0} where 6 (QE report) belongs: refuse the evidence")]
    Certification(u16),
    /// A length field that does not agree with the parts inside of it.
    #[error("quote has {0} bytes too many inside its {1}: refuse the evidence")]
    Inside(usize, &'static str),
}

/// What the quote is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A trust domain.
    Td(Box<TdReport>),
    /// An enclave.
    Enclave(Box<EnclaveReport>),
}

/// What certifies the key that signed the QE report, as it stands in the quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificationData {
    /// 1 to 3: identifiers of the platform; 5: the PCK certificate chain in PEM.
    pub kind: u16,
    /// The bytes.
    pub data: Vec<u8>,
}

/// A quote of version 3, 4 or 5.
///
/// Serialises to one object of its fields; bytes are lowercase hex in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// 3, 4 or 5.
    pub version: u16,
    /// 2, ECDSA on P-256.
    pub att_key_type: u16,
    /// 0 for SGX, 0x81 for TDX; of version 5, what the header says (the body has a type of its own).
    pub tee_type: u32,
    /// Security versions of the QE and the PCE; version 3 only.
    pub svns: Option<(u16, u16)>,
    /// Whose QE this is.
    pub qe_vendor_id: [u8; 16],
    /// First 16 bytes: id of the platform for the QE.
    pub user_data: [u8; 20],
    /// Type and size of the body; version 5 only.
    pub body_type: Option<(u16, u32)>,
    /// What the quote is about.
    pub body: Body,
    /// Signature over header and body by the attestation key: r and s, 32 bytes each, most significant first.
    pub signature: [u8; 64],
    /// The attestation key: x and y, 32 bytes each, most significant first.
    pub attestation_key: [u8; 64],
    /// Report of the QE.
    pub qe: EnclaveReport,
    /// Signature over the QE's report by the PCK.
    pub qe_signature: [u8; 64],
    /// Data of the QE that the attestation key is bound with.
    pub qe_auth: Vec<u8>,
    /// What certifies the PCK.
    pub certification: CertificationData,
    /// How many bytes follow the signature data. Nothing signs them and nothing reads them; published quotes have some.
    pub trailing_bytes: usize,
    signed: Vec<u8>,
    qe_signed: [u8; ENCLAVE_LEN],
}

impl Quote {
    /// Reads a quote.
    ///
    /// # Errors
    /// Any [`QuoteError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE {
            return Err(QuoteError::Length { found: bytes.len() });
        }
        let mut from = Bytes::new(bytes);
        let header = Header::read(&mut from).ok_or(QuoteError::Short("header"))?;
        let (body_type, length) = header.body(&mut from)?;
        let body = from.slice(length).ok_or(QuoteError::Short("body"))?;
        let signed = bytes.get(..bytes.len().saturating_sub(from.len())).unwrap_or_default();
        let body = match length {
            ENCLAVE_LEN => EnclaveReport::read(body).map(|report| Body::Enclave(Box::new(report))),
            _ => TdReport::read(body).map(|report| Body::Td(Box::new(report))),
        };
        let body = body.ok_or(QuoteError::Short("body"))?;

        let length = length_field(&mut from).ok_or(QuoteError::Short("signature length"))?;
        let mut data = Bytes::new(from.slice(length).ok_or(QuoteError::Short("signature data"))?);
        let trailing_bytes = from.len();
        let signature = data.array().ok_or(QuoteError::Short("signature"))?;
        let attestation_key = data.array().ok_or(QuoteError::Short("attestation key"))?;
        if header.version != 3 {
            let kind = data.u16_le().ok_or(QuoteError::Short("certification data"))?;
            if kind != QE_REPORT_CERTIFICATION {
                return Err(QuoteError::Certification(kind));
            }
            let length = length_field(&mut data).ok_or(QuoteError::Short("certification data"))?;
            let inner = data.slice(length).ok_or(QuoteError::Short("certification data"))?;
            if data.len() > 0 {
                return Err(QuoteError::Inside(data.len(), "signature data"));
            }
            data = Bytes::new(inner);
        }
        let qe_signed: [u8; ENCLAVE_LEN] = data.array().ok_or(QuoteError::Short("QE report"))?;
        let qe = EnclaveReport::read(&qe_signed).ok_or(QuoteError::Short("QE report"))?;
        let qe_signature = data.array().ok_or(QuoteError::Short("QE report's signature"))?;
        let auth_len = data.u16_le().ok_or(QuoteError::Short("QE authentication data"))?;
        let qe_auth = data.slice(usize::from(auth_len)).ok_or(QuoteError::Short("QE authentication data"))?;
        let kind = data.u16_le().ok_or(QuoteError::Short("certification data"))?;
        let length = length_field(&mut data).ok_or(QuoteError::Short("certification data"))?;
        let certification = data.slice(length).ok_or(QuoteError::Short("certification data"))?;
        if data.len() > 0 {
            return Err(QuoteError::Inside(data.len(), "signature data"));
        }
        Ok(Self {
            version: header.version,
            att_key_type: header.att_key_type,
            tee_type: header.tee_type,
            svns: (header.version == 3).then_some(header.svns),
            qe_vendor_id: header.qe_vendor_id,
            user_data: header.user_data,
            body_type,
            body,
            signature,
            attestation_key,
            qe,
            qe_signature,
            qe_auth: qe_auth.to_vec(),
            certification: CertificationData { kind, data: certification.to_vec() },
            trailing_bytes,
            signed: signed.to_vec(),
            qe_signed,
        })
    }

    /// The bytes that the attestation key signed: header and body.
    pub fn signed_bytes(&self) -> &[u8] {
        &self.signed
    }

    /// The bytes that the PCK signed: the QE's report.
    pub fn qe_signed_bytes(&self) -> &[u8] {
        &self.qe_signed
    }

    /// What the guest or the enclave had included.
    pub fn report_data(&self) -> &[u8; 64] {
        match &self.body {
            Body::Td(report) => &report.report_data,
            Body::Enclave(report) => &report.report_data,
        }
    }

    /// What the host set at launch: MRCONFIGID (48 bytes) of a TD, CONFIGID (64 bytes) of an enclave.
    pub fn host_data(&self) -> &[u8] {
        match &self.body {
            Body::Td(report) => &report.mr_config_id,
            Body::Enclave(report) => &report.config_id,
        }
    }

    /// Whether the header's TEE type is the one of the body.
    pub fn tee_type_agrees(&self) -> bool {
        match self.body {
            Body::Td(_) => self.tee_type == TEE_TDX,
            Body::Enclave(_) => self.tee_type == TEE_SGX,
        }
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        if let Ok(quote) = Self::parse(data) {
            let _ = super::Chain::parse(&quote.certification.data);
        }
    }
}

struct Header {
    version: u16,
    att_key_type: u16,
    tee_type: u32,
    svns: (u16, u16),
    qe_vendor_id: [u8; 16],
    user_data: [u8; 20],
}

impl Header {
    fn read(from: &mut Bytes<'_>) -> Option<Self> {
        let mut header = Bytes::new(from.slice(HEADER_LEN)?);
        Some(Self {
            version: header.u16_le()?,
            att_key_type: header.u16_le()?,
            tee_type: header.u32_le()?,
            svns: (header.u16_le()?, header.u16_le()?),
            qe_vendor_id: header.array()?,
            user_data: header.array()?,
        })
    }

    /// Type of the body where the quote has one, and its length.
    fn body(&self, from: &mut Bytes<'_>) -> Result<(Option<(u16, u32)>, usize), QuoteError> {
        if !(3..=5).contains(&self.version) {
            return Err(QuoteError::Version(self.version));
        }
        if self.att_key_type != ECDSA_P256 {
            return Err(QuoteError::KeyType(self.att_key_type));
        }
        match (self.version, self.tee_type) {
            (3, _) | (4, TEE_SGX) => Ok((None, ENCLAVE_LEN)),
            (4, TEE_TDX) => Ok((None, TD_LEN)),
            (4, other) => Err(QuoteError::Tee(other)),
            _ => {
                let kind = from.u16_le().ok_or(QuoteError::Short("body type"))?;
                let size = from.u32_le().ok_or(QuoteError::Short("body size"))?;
                let length = match kind {
                    1 => ENCLAVE_LEN,
                    2 => TD_LEN,
                    3 => TD_15_LEN,
                    4 => TD_15_EXTENDED_LEN,
                    _ => return Err(QuoteError::BodyType { kind, size }),
                };
                if usize::try_from(size) != Ok(length) {
                    return Err(QuoteError::BodyType { kind, size });
                }
                Ok((Some((kind, size)), length))
            }
        }
    }
}

fn length_field(from: &mut Bytes<'_>) -> Option<usize> {
    from.u32_le().and_then(|length| usize::try_from(length).ok())
}

impl Quote {
    pub(super) fn serialize_into<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("version", &self.version)?;
        map.serialize_entry("att_key_type", &self.att_key_type)?;
        map.serialize_entry("tee_type", &self.tee_type)?;
        if let Some((qe_svn, pce_svn)) = self.svns {
            map.serialize_entry("qe_svn", &qe_svn)?;
            map.serialize_entry("pce_svn", &pce_svn)?;
        }
        map.serialize_entry("qe_vendor_id", &hex::encode(self.qe_vendor_id))?;
        map.serialize_entry("user_data", &hex::encode(self.user_data))?;
        if let Some((kind, size)) = self.body_type {
            map.serialize_entry("body_type", &kind)?;
            map.serialize_entry("body_size", &size)?;
        }
        match &self.body {
            Body::Td(report) => report.serialize_into(map)?,
            Body::Enclave(report) => report.serialize_into(map)?,
        }
        map.serialize_entry("cert_data_type", &self.certification.kind)?;
        map.serialize_entry("qe", &self.qe)?;
        map.serialize_entry("trailing_bytes", &self.trailing_bytes)
    }
}

impl Serialize for Quote {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.serialize_into(&mut map)?;
        map.end()
    }
}
