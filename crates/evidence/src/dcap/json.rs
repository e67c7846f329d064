//! TCB info and QE identity: JSON that Intel signs. The signature covers the exact bytes of the inner object.

use std::str::FromStr;

use serde::Deserialize;
use serde_json::value::RawValue;
use x509_cert::der::DateTime;

use super::tcb::Status;

/// Longest document that is read, in bytes; real ones have 3 to 30 KiB.
const MAX_JSON: usize = 1024 * 1024;

/// Why bytes are not signed JSON of Intel's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Too long to be read.
    #[error("document has {found} bytes, more than {MAX_JSON}: refuse it")]
    Length {
        /// Length of the input.
        found: usize,
    },
    /// Not the JSON that belongs here.
    #[error("not a signed document of Intel's service ({0}): fetch it again")]
    Json(String),
    /// A member with a value that it cannot have.
    #[error("document has no well-formed {0}: fetch it again")]
    Member(&'static str),
}

/// A document as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The bytes that the signature covers.
    pub text: Vec<u8>,
    /// r and s, 32 bytes each, most significant first.
    pub signature: [u8; 64],
}

/// Status and date of one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rating {
    /// How Intel rates it.
    pub status: Status,
    /// As of when, as in the document.
    pub date: String,
    /// Ids of the advisories that it is open to.
    pub advisories: Vec<String>,
}

/// A level of TCB info: all parts must reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Least security versions of the 16 SGX components.
    pub sgx: [u8; 16],
    /// Least security version of the PCE.
    pub pce_svn: u16,
    /// Least security versions of the 16 TDX components; TDX only.
    pub tdx: Option<[u8; 16]>,
    /// What it is worth.
    pub rating: Rating,
}

/// A level of an enclave or a module with one security version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsvLevel {
    /// Least security version.
    pub isv_svn: u16,
    /// What it is worth.
    pub rating: Rating,
}

/// What a TDX module must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxModule {
    /// `TDX_` and the major version in two hex digits; `None` for the module without one.
    pub id: Option<String>,
    /// Its signer.
    pub mrsigner: [u8; 48],
    /// Its attributes, where the mask has ones.
    pub attributes: [u8; 8],
    /// Which bits of the attributes count.
    pub attributes_mask: [u8; 8],
    /// Its levels, the newest first; none for the module without an id.
    pub levels: Vec<IsvLevel>,
}

/// TCB info of one FMSPC, versions 2 (SGX) and 3 (SGX and TDX).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcbInfo {
    /// The signature and what it covers.
    pub signed: Signed,
    /// `SGX` or `TDX`.
    pub id: String,
    /// 2 or 3.
    pub version: u32,
    /// When it was issued, in seconds since 1970.
    pub issue_date: u64,
    /// When the next one comes at the latest, in seconds since 1970.
    pub next_update: u64,
    /// Which platforms it is for.
    pub fmspc: [u8; 6],
    /// Which PCE it is for.
    pub pce_id: [u8; 2],
    /// Number of the evaluation; higher is newer.
    pub evaluation_number: u32,
    /// The TDX modules; the first without an id is for quotes that name no major version.
    pub modules: Vec<TdxModule>,
    /// Its levels, the newest first.
    pub levels: Vec<Level>,
}

/// Identity of a quoting enclave, version 1 and 2 (service API 3 and 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QeIdentity {
    /// The signature and what it covers.
    pub signed: Signed,
    /// `QE` or `TD_QE`.
    pub id: String,
    /// When it was issued, in seconds since 1970.
    pub issue_date: u64,
    /// When the next one comes at the latest, in seconds since 1970.
    pub next_update: u64,
    /// Number of the evaluation; higher is newer.
    pub evaluation_number: u32,
    /// MISCSELECT, where the mask has ones.
    pub misc_select: [u8; 4],
    /// Which bits of MISCSELECT count.
    pub misc_select_mask: [u8; 4],
    /// Attributes, where the mask has ones.
    pub attributes: [u8; 16],
    /// Which bits of the attributes count.
    pub attributes_mask: [u8; 16],
    /// Signer.
    pub mrsigner: [u8; 32],
    /// Product id.
    pub isv_prod_id: u16,
    /// Its levels, the newest first.
    pub levels: Vec<IsvLevel>,
}

impl TcbInfo {
    /// Reads the answer of the service: `{"tcbInfo": {…}, "signature": "…"}`.
    ///
    /// # Errors
    /// Any [`JsonError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let outer: OuterTcbInfo<'_> = document(bytes)?;
        Self::inner(outer.tcb_info.get(), signature(outer.signature)?)
    }

    fn inner(text: &str, signature: [u8; 64]) -> Result<Self, JsonError> {
        let raw: RawTcbInfo = serde_json::from_str(text).map_err(|error| JsonError::Json(error.to_string()))?;
        let id = match (raw.version, raw.id.as_deref()) {
            (2, None) => "SGX",
            (3, Some("SGX")) => "SGX",
            (3, Some("TDX")) => "TDX",
            (2 | 3, _) => return Err(JsonError::Member("id")),
            _ => return Err(JsonError::Member("version")),
        };
        let levels = raw.tcb_levels.into_iter().map(|level| level.read(id == "TDX")).collect::<Result<_, _>>()?;
        let plain = raw.tdx_module.map(|module| module.read(None));
        let named = raw.tdx_module_identities.into_iter().map(RawNamedModule::read);
        Ok(Self {
            signed: Signed { text: text.as_bytes().to_vec(), signature },
            id: id.to_owned(),
            version: raw.version,
            issue_date: seconds(&raw.issue_date, "issueDate")?,
            next_update: seconds(&raw.next_update, "nextUpdate")?,
            fmspc: bytes_of(&raw.fmspc, "fmspc")?,
            pce_id: bytes_of(&raw.pce_id, "pceId")?,
            evaluation_number: raw.tcb_evaluation_data_number,
            modules: plain.into_iter().chain(named).collect::<Result<_, _>>()?,
            levels,
        })
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::parse(data);
    }
}

impl QeIdentity {
    /// Reads the answer of the service: `{"enclaveIdentity": {…}, "signature": "…"}`.
    ///
    /// # Errors
    /// Any [`JsonError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let outer: OuterIdentity<'_> = document(bytes)?;
        let (text, signature) = (outer.enclave_identity.get(), signature(outer.signature)?);
        let raw: RawIdentity = serde_json::from_str(text).map_err(|error| JsonError::Json(error.to_string()))?;
        if !(1..=2).contains(&raw.version) {
            return Err(JsonError::Member("version"));
        }
        Ok(Self {
            signed: Signed { text: text.as_bytes().to_vec(), signature },
            id: raw.id,
            issue_date: seconds(&raw.issue_date, "issueDate")?,
            next_update: seconds(&raw.next_update, "nextUpdate")?,
            evaluation_number: raw.tcb_evaluation_data_number,
            misc_select: bytes_of(&raw.miscselect, "miscselect")?,
            misc_select_mask: bytes_of(&raw.miscselect_mask, "miscselectMask")?,
            attributes: bytes_of(&raw.attributes, "attributes")?,
            attributes_mask: bytes_of(&raw.attributes_mask, "attributesMask")?,
            mrsigner: bytes_of(&raw.mrsigner, "mrsigner")?,
            isv_prod_id: raw.isvprodid,
            levels: raw.tcb_levels.into_iter().map(RawIsvLevel::read).collect::<Result<_, _>>()?,
        })
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        let _ = Self::parse(data);
    }
}

fn document<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, JsonError> {
    if bytes.len() > MAX_JSON {
        return Err(JsonError::Length { found: bytes.len() });
    }
    serde_json::from_slice(bytes).map_err(|error| JsonError::Json(error.to_string()))
}

fn bytes_of<const N: usize>(text: &str, name: &'static str) -> Result<[u8; N], JsonError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| JsonError::Member(name))?;
    Ok(bytes)
}

fn signature(text: &str) -> Result<[u8; 64], JsonError> {
    bytes_of(text, "signature")
}

fn seconds(text: &str, name: &'static str) -> Result<u64, JsonError> {
    DateTime::from_str(text).map(|time| time.unix_duration().as_secs()).map_err(|_| JsonError::Member(name))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OuterTcbInfo<'a> {
    #[serde(rename = "tcbInfo", borrow)]
    tcb_info: &'a RawValue,
    signature: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OuterIdentity<'a> {
    #[serde(rename = "enclaveIdentity", borrow)]
    enclave_identity: &'a RawValue,
    signature: &'a str,
}

// Members that we do not know are left alone: they are signed, and Intel adds some now and then.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTcbInfo {
    id: Option<String>,
    version: u32,
    issue_date: String,
    next_update: String,
    fmspc: String,
    pce_id: String,
    tcb_evaluation_data_number: u32,
    tdx_module: Option<RawModule>,
    #[serde(default)]
    tdx_module_identities: Vec<RawNamedModule>,
    tcb_levels: Vec<RawLevel>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawModule {
    mrsigner: String,
    attributes: String,
    attributes_mask: String,
}

#[derive(Deserialize)]
struct RawNamedModule {
    id: String,
    #[serde(flatten)]
    module: RawModule,
    #[serde(rename = "tcbLevels")]
    tcb_levels: Vec<RawIsvLevel>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLevel {
    tcb: RawTcb,
    tcb_date: String,
    tcb_status: Status,
    #[serde(default, rename = "advisoryIDs")]
    advisories: Vec<String>,
}

#[derive(Deserialize)]
struct RawTcb {
    pcesvn: u16,
    sgxtcbcomponents: Option<Vec<Component>>,
    tdxtcbcomponents: Option<Vec<Component>>,
    // Version 2 numbers its components.
    sgxtcbcomp01svn: Option<u8>,
    sgxtcbcomp02svn: Option<u8>,
    sgxtcbcomp03svn: Option<u8>,
    sgxtcbcomp04svn: Option<u8>,
    sgxtcbcomp05svn: Option<u8>,
    sgxtcbcomp06svn: Option<u8>,
    sgxtcbcomp07svn: Option<u8>,
    sgxtcbcomp08svn: Option<u8>,
    sgxtcbcomp09svn: Option<u8>,
    sgxtcbcomp10svn: Option<u8>,
    sgxtcbcomp11svn: Option<u8>,
    sgxtcbcomp12svn: Option<u8>,
    sgxtcbcomp13svn: Option<u8>,
    sgxtcbcomp14svn: Option<u8>,
    sgxtcbcomp15svn: Option<u8>,
    sgxtcbcomp16svn: Option<u8>,
}

impl RawTcb {
    fn numbered(&self) -> Option<[u8; 16]> {
        Some([
            self.sgxtcbcomp01svn?,
            self.sgxtcbcomp02svn?,
            self.sgxtcbcomp03svn?,
            self.sgxtcbcomp04svn?,
            self.sgxtcbcomp05svn?,
            self.sgxtcbcomp06svn?,
            self.sgxtcbcomp07svn?,
            self.sgxtcbcomp08svn?,
            self.sgxtcbcomp09svn?,
            self.sgxtcbcomp10svn?,
            self.sgxtcbcomp11svn?,
            self.sgxtcbcomp12svn?,
            self.sgxtcbcomp13svn?,
            self.sgxtcbcomp14svn?,
            self.sgxtcbcomp15svn?,
            self.sgxtcbcomp16svn?,
        ])
    }
}

#[derive(Deserialize)]
struct Component {
    svn: u8,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIsvLevel {
    tcb: RawIsvTcb,
    tcb_date: String,
    tcb_status: Status,
    #[serde(default, rename = "advisoryIDs")]
    advisories: Vec<String>,
}

#[derive(Deserialize)]
struct RawIsvTcb {
    isvsvn: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIdentity {
    id: String,
    version: u32,
    issue_date: String,
    next_update: String,
    tcb_evaluation_data_number: u32,
    miscselect: String,
    miscselect_mask: String,
    attributes: String,
    attributes_mask: String,
    mrsigner: String,
    isvprodid: u16,
    tcb_levels: Vec<RawIsvLevel>,
}

impl RawLevel {
    fn read(self, is_tdx: bool) -> Result<Level, JsonError> {
        let sgx = match &self.tcb.sgxtcbcomponents {
            Some(list) => components(list, "sgxtcbcomponents")?,
            None => self.tcb.numbered().ok_or(JsonError::Member("sgxtcbcomponents"))?,
        };
        let tdx = match (self.tcb.tdxtcbcomponents, is_tdx) {
            (Some(list), true) => Some(components(&list, "tdxtcbcomponents")?),
            (None, false) => None,
            _ => return Err(JsonError::Member("tdxtcbcomponents")),
        };
        let rating = Rating { status: self.tcb_status, date: self.tcb_date, advisories: self.advisories };
        Ok(Level { sgx, pce_svn: self.tcb.pcesvn, tdx, rating })
    }
}

fn components(list: &[Component], name: &'static str) -> Result<[u8; 16], JsonError> {
    let svns: Vec<u8> = list.iter().map(|component| component.svn).collect();
    svns.try_into().map_err(|_| JsonError::Member(name))
}

impl RawIsvLevel {
    fn read(self) -> Result<IsvLevel, JsonError> {
        let rating = Rating { status: self.tcb_status, date: self.tcb_date, advisories: self.advisories };
        Ok(IsvLevel { isv_svn: self.tcb.isvsvn, rating })
    }
}

impl RawModule {
    fn read(self, id: Option<String>) -> Result<TdxModule, JsonError> {
        Ok(TdxModule {
            id,
            mrsigner: bytes_of(&self.mrsigner, "mrsigner")?,
            attributes: bytes_of(&self.attributes, "attributes")?,
            attributes_mask: bytes_of(&self.attributes_mask, "attributesMask")?,
            levels: Vec::new(),
        })
    }
}

impl RawNamedModule {
    fn read(self) -> Result<TdxModule, JsonError> {
        let mut module = self.module.read(Some(self.id))?;
        module.levels = self.tcb_levels.into_iter().map(RawIsvLevel::read).collect::<Result<_, _>>()?;
        Ok(module)
    }
}
