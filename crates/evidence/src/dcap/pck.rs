//! The extension of a PCK certificate that says of which platform it is.

use serde::ser::{Serialize, SerializeMap, Serializer};
use x509_cert::der::asn1::{ObjectIdentifier, OctetStringRef};
use x509_cert::der::{Decode, ErrorKind, Reader, SliceReader};

use super::cert::Certificate;

const SGX: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");
/// Most pairs in one list; the longest of Intel's has 18.
const MAX_PAIRS: usize = 32;

/// Why a certificate is not one of a PCK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PckError {
    /// It lacks the extension.
    #[error("certificate lacks the SGX extension 1.2.840.113741.1.13.1: it is not a PCK certificate")]
    Missing,
    /// The extension is not what Intel's profile says.
    #[error(
        "certificate has an SGX extension without a well-formed {0}: it is not a PCK certificate of Intel's profile"
    )]
    Malformed(&'static str),
}

/// What a PCK certificate says of its platform.
///
/// Serialises to an object; bytes are lowercase hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pck {
    /// Id of the platform, encrypted for others.
    pub ppid: [u8; 16],
    /// Security versions of the 16 components.
    pub components: [u8; 16],
    /// Security version of the PCE.
    pub pce_svn: u16,
    /// The raw CPUSVN.
    pub cpu_svn: [u8; 16],
    /// Id of the PCE.
    pub pce_id: [u8; 2],
    /// Family, model, stepping, platform type and custom SKU.
    pub fmspc: [u8; 6],
    /// 0: standard, 1: scalable, 2: scalable with integrity.
    pub sgx_type: u8,
    /// The platform can have packages added; only multi-package platforms say so.
    pub dynamic_platform: Option<bool>,
    /// The platform's root keys are kept by Intel's registration service.
    pub cached_keys: Option<bool>,
    /// Simultaneous multithreading is on.
    pub smt: Option<bool>,
}

impl Pck {
    /// Reads the extension of a certificate.
    ///
    /// # Errors
    /// Any [`PckError`].
    pub fn of(certificate: &Certificate) -> Result<Self, PckError> {
        Self::read(certificate.extension(SGX).ok_or(PckError::Missing)?)
    }

    /// Reads the extension's value: a sequence of pairs of a name and a value.
    ///
    /// # Errors
    /// [`PckError::Malformed`].
    pub fn read(value: &[u8]) -> Result<Self, PckError> {
        let all = pairs(value).ok_or(PckError::Malformed("list"))?;
        let field = |number| named(&all, &[number]);
        let tcb = field(2).and_then(pairs).ok_or(PckError::Malformed("TCB"))?;
        let tcb = |number| named(&tcb, &[2, number]);
        let configuration = match field(7) {
            Some(value) => Some(pairs(value).ok_or(PckError::Malformed("configuration"))?),
            None => None,
        };
        let flag = |number| -> Result<Option<bool>, PckError> {
            let listed = configuration.as_ref().and_then(|all| named(all, &[7, number]));
            listed.map(bool::from_der).transpose().map_err(|_| PckError::Malformed("configuration"))
        };

        let mut components = [0; 16];
        for (number, component) in (1..).zip(&mut components) {
            *component = tcb(number).and_then(|der| u8::from_der(der).ok()).ok_or(PckError::Malformed("component"))?;
        }
        Ok(Self {
            ppid: field(1).and_then(octets).ok_or(PckError::Malformed("PPID"))?,
            components,
            pce_svn: tcb(17).and_then(|der| u16::from_der(der).ok()).ok_or(PckError::Malformed("PCESVN"))?,
            cpu_svn: tcb(18).and_then(octets).ok_or(PckError::Malformed("CPUSVN"))?,
            pce_id: field(3).and_then(octets).ok_or(PckError::Malformed("PCEID"))?,
            fmspc: field(4).and_then(octets).ok_or(PckError::Malformed("FMSPC"))?,
            sgx_type: field(5).and_then(enumerated).ok_or(PckError::Malformed("SGX type"))?,
            dynamic_platform: flag(1)?,
            cached_keys: flag(2)?,
            smt: flag(3)?,
        })
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::read(data);
    }
}

impl Serialize for Pck {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ppid", &hex::encode(self.ppid))?;
        map.serialize_entry("comp", &self.components)?;
        map.serialize_entry("pcesvn", &self.pce_svn)?;
        map.serialize_entry("cpusvn", &hex::encode(self.cpu_svn))?;
        map.serialize_entry("pceid", &hex::encode(self.pce_id))?;
        map.serialize_entry("fmspc", &hex::encode(self.fmspc))?;
        map.serialize_entry("sgx_type", &self.sgx_type)?;
        map.serialize_entry("dynamic_platform", &self.dynamic_platform)?;
        map.serialize_entry("cached_keys", &self.cached_keys)?;
        map.serialize_entry("smt", &self.smt)?;
        map.end()
    }
}

/// The value under a name below the SGX extension's. Each arc is below 128, so it is one byte of the name.
fn named<'a>(all: &[(ObjectIdentifier, &'a [u8])], arcs: &[u8]) -> Option<&'a [u8]> {
    let below = |oid: &ObjectIdentifier| oid.as_bytes().strip_prefix(SGX.as_bytes()) == Some(arcs);
    all.iter().find(|(oid, _)| below(oid)).map(|(_, value)| *value)
}

/// A sequence of sequences of a name and one value; the value with its tag and length. Names are unique.
fn pairs(value: &[u8]) -> Option<Vec<(ObjectIdentifier, &[u8])>> {
    let mut reader = SliceReader::new(value).ok()?;
    let mut all: Vec<(ObjectIdentifier, &[u8])> = Vec::new();
    reader
        .sequence(|list| {
            while !list.is_finished() {
                if all.len() == MAX_PAIRS {
                    return Err(ErrorKind::Failed.into());
                }
                let pair = list.sequence(|pair| Ok((ObjectIdentifier::decode(pair)?, pair.tlv_bytes()?)))?;
                all.push(pair);
            }
            Ok(())
        })
        .and_then(|()| reader.finish(()))
        .ok()?;
    let unique = all.iter().enumerate().all(|(at, (oid, _))| all.iter().skip(at + 1).all(|(other, _)| other != oid));
    unique.then_some(all)
}

fn octets<const N: usize>(der: &[u8]) -> Option<[u8; N]> {
    OctetStringRef::from_der(der).ok()?.as_bytes().try_into().ok()
}

fn enumerated(der: &[u8]) -> Option<u8> {
    match der {
        [0x0A, 0x01, value] => Some(*value),
        _ => None,
    }
}
