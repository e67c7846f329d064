//! The report that the paravisor keeps in the virtual TPM.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::bytes::Bytes;
use crate::tpm::Hash;

/// Longest report that is read, in bytes; the TPM's index has 2600.
const MAX_REPORT: usize = 16 * 1024;
/// Length of the header.
const HEADER_LEN: usize = 0x20;
/// Length of the hardware report's place.
const HARDWARE_LEN: usize = 0x4A0;
/// Length of what stands before the runtime data.
const REQUEST_LEN: usize = 20;

/// Why bytes are not the paravisor's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HclError {
    /// Longer than any report.
    #[error("hcl report has {0} bytes, more than {MAX_REPORT}")]
    Length(usize),
    /// It does not begin with `HCLA`.
    #[error("hcl report does not begin with HCLA: read it from the tpm's index 0x01400001")]
    Magic,
    /// It ends inside of that part.
    #[error("hcl report ends inside its {0}: it was cut")]
    Short(&'static str),
    /// A field with a value that is not known.
    #[error("hcl report has the {name} {found}, known are {known}: refuse it")]
    Field {
        /// Name of the field.
        name: &'static str,
        /// Its value.
        found: u32,
        /// What is known.
        known: &'static str,
    },
    /// Something other than zeros behind the runtime data, or lengths that do not agree.
    #[error("hcl report has {0}: refuse it")]
    Rest(&'static str),
}

/// What made the hardware report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeeType {
    /// AMD SEV-SNP: an attestation report.
    Snp,
    /// Intel TDX: a TDREPORT, which only its own processor can check; a quote vouches for it.
    Tdx,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HclReport {
    /// 1 or 2.
    pub version: u32,
    /// 2: of a VM at run time.
    pub request_type: u32,
    /// What made the hardware report.
    pub tee: TeeType,
    /// Hash of the runtime data in the report data.
    pub hash: Hash,
    /// The hardware report, 1184 bytes.
    pub hardware: Vec<u8>,
    /// The runtime data: JSON.
    pub runtime_data: Vec<u8>,
}

impl HclReport {
    /// Reads a report.
    ///
    /// # Errors
    /// Any [`HclError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, HclError> {
        if bytes.len() > MAX_REPORT {
            return Err(HclError::Length(bytes.len()));
        }
        let mut from = Bytes::new(bytes);
        let mut header = Bytes::new(from.slice(HEADER_LEN).ok_or(HclError::Short("header"))?);
        if header.slice(4) != Some(b"HCLA") {
            return Err(HclError::Magic);
        }
        let word = |from: &mut Bytes<'_>, part| from.u32_le().ok_or(HclError::Short(part));
        let version = word(&mut header, "header")?;
        let report_size = word(&mut header, "header")?;
        let request_type = word(&mut header, "header")?;
        known("version", version, &[1, 2], "1 and 2")?;
        known("request type", request_type, &[2], "2")?;
        let hardware = from.slice(HARDWARE_LEN).ok_or(HclError::Short("hardware report"))?;
        let mut request = Bytes::new(from.slice(REQUEST_LEN).ok_or(HclError::Short("request data"))?);
        let data_size = word(&mut request, "request data")?;
        let request_version = word(&mut request, "request data")?;
        let (tee, hash) = (word(&mut request, "request data")?, word(&mut request, "request data")?);
        let length = word(&mut request, "request data")?;
        known("request version", request_version, &[1], "1")?;
        known("report type", tee, &[2, 4], "2 (snp) and 4 (tdx)")?;
        known("hash type", hash, &[1, 2, 3], "1 (sha256), 2 (sha384) and 3 (sha512)")?;
        let runtime_data = usize::try_from(length)
            .ok()
            .and_then(|length| from.slice(length))
            .ok_or(HclError::Short("runtime data"))?;
        let sizes = [(data_size, REQUEST_LEN), (report_size, HEADER_LEN + HARDWARE_LEN + REQUEST_LEN)];
        let agree = sizes.iter().all(|(size, before)| {
            usize::try_from(*size).is_ok_and(|size| size == before.saturating_add(runtime_data.len()))
        });
        if !agree {
            return Err(HclError::Rest("sizes that do not agree with its runtime data"));
        }
        if from.slice(from.len()).is_some_and(|rest| rest.iter().any(|&byte| byte != 0)) {
            return Err(HclError::Rest("other bytes than zeros behind its runtime data"));
        }
        Ok(Self {
            version,
            request_type,
            tee: if tee == 2 { TeeType::Snp } else { TeeType::Tdx },
            hash: match hash {
                1 => Hash::Sha256,
                2 => Hash::Sha384,
                _ => Hash::Sha512,
            },
            hardware: hardware.to_vec(),
            runtime_data: runtime_data.to_vec(),
        })
    }

    /// Digest of the runtime data.
    pub fn runtime_data_digest(&self) -> Vec<u8> {
        self.hash.digest(&[&self.runtime_data])
    }

    /// Reads arbitrary bytes; for fuzzing.
    pub fn fuzz(data: &[u8]) {
        if let Ok(report) = Self::parse(data) {
            let _ = (super::verify::attestation_key(&report.runtime_data), TdReportStruct::read(&report.hardware));
        }
    }
}

fn known(name: &'static str, found: u32, values: &[u32], known: &'static str) -> Result<(), HclError> {
    if values.contains(&found) { Ok(()) } else { Err(HclError::Field { name, found, known }) }
}

/// A TDREPORT. Its MAC can be checked on its own processor alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReportStruct {
    /// SHA-384 of the TEE TCB information.
    pub tee_tcb_info_hash: [u8; 48],
    /// SHA-384 of the TD information.
    pub tee_info_hash: [u8; 48],
    /// What the guest had included.
    pub report_data: [u8; 64],
    /// Attributes of the TD.
    pub td_attributes: [u8; 8],
    /// Extended features.
    pub xfam: [u8; 8],
    /// Measurement of the TD's first memory.
    pub mrtd: [u8; 48],
    /// What the host set at launch.
    pub mr_config_id: [u8; 48],
    /// What the host set as the owner.
    pub mr_owner: [u8; 48],
    /// What the host set as the owner's configuration.
    pub mr_owner_config: [u8; 48],
    /// Registers that the guest extends.
    pub rtmr: [[u8; 48]; 4],
}

impl TdReportStruct {
    /// Reads the beginning of a TDREPORT: REPORTMACSTRUCT (256 bytes), TEE_TCB_INFO (239) and 17 reserved bytes, and
    /// of TDINFO_STRUCT what is shown.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = Bytes::new(bytes);
        from.slice(32)?;
        let (tee_tcb_info_hash, tee_info_hash, report_data) = (from.array()?, from.array()?, from.array()?);
        from.slice(32 + 32 + 239 + 17)?;
        Some(Self {
            tee_tcb_info_hash,
            tee_info_hash,
            report_data,
            td_attributes: from.array()?,
            xfam: from.array()?,
            mrtd: from.array()?,
            mr_config_id: from.array()?,
            mr_owner: from.array()?,
            mr_owner_config: from.array()?,
            rtmr: [from.array()?, from.array()?, from.array()?, from.array()?],
        })
    }
}

impl Serialize for TdReportStruct {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("report_data", &hex::encode(self.report_data))?;
        map.serialize_entry("tee_tcb_info_hash", &hex::encode(self.tee_tcb_info_hash))?;
        map.serialize_entry("tee_info_hash", &hex::encode(self.tee_info_hash))?;
        map.serialize_entry("td_attributes", &hex::encode(self.td_attributes))?;
        map.serialize_entry("xfam", &hex::encode(self.xfam))?;
        map.serialize_entry("mrtd", &hex::encode(self.mrtd))?;
        map.serialize_entry("mr_config_id", &hex::encode(self.mr_config_id))?;
        map.serialize_entry("mr_owner", &hex::encode(self.mr_owner))?;
        map.serialize_entry("mr_owner_config", &hex::encode(self.mr_owner_config))?;
        for (name, rtmr) in ["rtmr0", "rtmr1", "rtmr2", "rtmr3"].iter().zip(self.rtmr) {
            map.serialize_entry(name, &hex::encode(rtmr))?;
        }
        map.end()
    }
}
